"""The report page: its figures are the runs' own, and nothing in a run can harm its reader."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from scale_dspy.report import html_rollouts as reader
from scale_dspy.report import report
from scale_dspy.report.comparisons import calibrate, compare_runs, count_positions, name_runs
from scale_dspy.report.mathml import render_answer, render_text
from scale_dspy.report.report import render_comparisons, render_table, write_report
from scale_dspy.report.run_reader import Run, read_run

STAGE = {"calls": 2, "prompt_tokens": 9, "completion_tokens": 100, "reasoning_tokens": 0}
ATTACKS = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    r"$\text{<script>alert(1)</script>}$",
    r"\(\href{javascript:alert(1)}{click}\)",
    "</details></div><iframe src='http://127.0.0.1/'></iframe>",
    r"$\class{x}{y}\style{color:red}{z}$",
)


def make_run(
    folder: Path, right: str = "1101", told: dict[str, Any] | None = None, **changed: Any
) -> Path:
    """A folder as evaluate leaves it, two samples a problem; the digits say which are right."""
    folder.mkdir(parents=True)
    problems = len(right) // 2
    description = {
        "method": "scale",
        "threshold": 0.5,
        "options": {"candidates": 8},
        "program": "0" * 16,
        "model": "hosted_vllm/m",
        "data": "mine",
        "digest": "d" * 16,
        "problems": problems,
        "samples": 2,
        "seed": None,
        **(told or {}),
    }
    lines = [
        make_rollout(f"p-{number // 2}", number % 2, correct=digit == "1", **changed)
        for number, digit in enumerate(right)
    ]
    (folder / "run.json").write_text(json.dumps(description))
    (folder / "rollouts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def make_rollout(name: str, sample: int, *, correct: bool, text: str = "x") -> dict[str, Any]:
    problem = rf"Find ${name[-1]}^2$. {text}"
    steps = [
        {"subproblem": rf"Name it. {text}", "difficulty": 0.3, "system": 1, "solution": text},
        {
            "subproblem": problem,
            "difficulty": 0.9,
            "system": 2,
            "solution": rf"$\boxed{{4}}$ {text}",
        },
    ]
    return {
        "id": name,
        "sample": sample,
        "problem": problem,
        "answer": text,
        "gold": "4",
        "correct": correct,
        "steps": [{**step, "reasoning": text, "tokens": 50} for step in steps],
        "usage": {"solve_1": {**STAGE, "seconds": 1.0}},
        "seconds": 1.5,
        "error": None,
        "replaced": [text],
    }


def change_rollouts(folder: Path, **changed: Any) -> Path:
    path = folder / "rollouts.jsonl"
    rollouts = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps({**each, **changed}) + "\n" for each in rollouts))
    return folder


def read_steps(folder: Path, *steps: tuple[float | None, int], **told: Any) -> Run:
    """A run whose rollouts all have these steps, each a difficulty and a system."""
    texts = {"subproblem": "s", "solution": "x", "reasoning": ""}
    made = [{"difficulty": difficulty, "system": system, **texts} for difficulty, system in steps]
    return read_run(change_rollouts(make_run(folder, told=told), steps=made))


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports without pictures, which take longest."""
    for name in ("draw_accuracy", "draw_calibration", "draw_positions"):
        monkeypatch.setattr(report, name, lambda runs: None)


class Collector(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += [(name, value or "") for name, value in attrs]


def collect(text: str) -> Collector:
    collector = Collector()
    collector.feed(text)
    return collector


def check_harmless(text: str) -> None:
    found = collect(text)
    assert not found.tags & {"script", "iframe", "object", "embed", "link", "base", "form", "svg"}
    assert not [name for name, _ in found.attributes if name.startswith("on")]
    for name, value in found.attributes:
        if name in ("src", "href", "srcset"):
            assert value.startswith(("#", "data:image/png;base64,"))


def test_page_tells_the_figures_of_each_run_and_their_difference(tmp_path: Path) -> None:
    first = make_run(tmp_path / "a", "111111000011")
    second = make_run(tmp_path / "b", "000000000011")
    written = write_report([first, second], tmp_path / "out" / "report.html")
    text = written.page.read_text()
    assert "66.7" in text
    assert "16.7" in text
    assert "50.0" in text  # percentage points between them
    assert {path.name for path in written.pictures} == {
        *("report-accuracy.png", "report-calibration.png", "report-system2.png")
    }
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in written.pictures)
    assert len(written.runs) == 2
    assert json.loads(json.dumps(written.to_dict()))["comparisons"][0]["accuracy"]["problems"] == 6


@pytest.mark.usefixtures("undrawn")
def test_terminal_tables_have_a_row_each(tmp_path: Path) -> None:
    folders = [make_run(tmp_path / name, "1100") for name in "ab"]
    written = write_report(folders, tmp_path / "report.html")
    assert render_table(written).row_count == 2
    assert render_comparisons(written).row_count == 1


@pytest.mark.usefixtures("undrawn")
def test_nothing_from_a_run_becomes_markup(tmp_path: Path) -> None:
    for attack in ATTACKS:
        check_harmless(render_text(attack))
    folder = make_run(tmp_path / "a", text=" ".join(ATTACKS))
    text = write_report([folder], tmp_path / "report.html").page.read_text()
    check_harmless(text)
    assert "default-src 'none'" in text


@given(st.text() | st.text(alphabet=r"\$<>{}&\"'_^abc()[]", max_size=60))
@example(r"$\frac{1}{2$ and \boxed{<b>}")
def test_any_text_is_rendered_harmlessly(text: str) -> None:
    check_harmless(render_text(text))
    check_harmless(render_answer(text))


@pytest.mark.parametrize(
    "text",
    [
        r"so $\frac{a}{b}$ holds",
        r"so \(x^2\) holds",
        r"\[\sum_{k=1}^n k\]",
        r"$$\boxed{70}$$",
        r"\begin{align*} a &= b \\ c &= d \end{align*}",
        r"\boxed{\frac{1}{2}}",
    ],
)
def test_formulas_become_mathml(text: str) -> None:
    rendered = render_text(text)
    assert "<math" in rendered
    assert "\\" not in re.sub(r"<[^>]*>", "", rendered)


def test_money_is_no_formula() -> None:
    assert "<math" not in render_text("It costs $5 and then $7.")


@pytest.mark.usefixtures("undrawn")
def test_a_long_run_shows_the_wrong_rollouts_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "RUN_LIMIT", 2)
    written = write_report([make_run(tmp_path / "a", "1101")], tmp_path / "report.html")
    text = written.page.read_text()
    assert "2 of 4 rollouts, wrong ones first" in text
    assert text.count('class="rollout"') == 2


@pytest.mark.usefixtures("undrawn")
def test_unfinished_and_torn_runs_are_told(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "a", "1101")
    path = folder / "rollouts.jsonl"
    path.write_bytes(path.read_bytes()[:-30])
    written = write_report([folder], tmp_path / "report.html")
    assert any("torn" in note for note in written.notes)
    assert any("3 of 4 rollouts" in note for note in written.notes)


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("run.json", None, "run.json is missing"),
        ("run.json", "{", "run.json cannot be read as JSON"),
        ("run.json", "[]", "is not the description of a run"),
        ("rollouts.jsonl", None, "rollouts.jsonl cannot be read"),
        ("rollouts.jsonl", "", "holds no rollouts yet"),
        ("rollouts.jsonl", "{}\n", "rollouts.jsonl:1 is no rollout"),
    ],
)
def test_folders_of_another_kind(
    tmp_path: Path, name: str, content: str | None, complaint: str
) -> None:
    folder = make_run(tmp_path / "a")
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_text(content)
    with pytest.raises(ValueError, match=complaint):
        write_report([folder], tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


def test_paths_are_checked(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "a")
    with pytest.raises(ValueError, match="at least one folder"):
        write_report([], tmp_path / "report.html")
    with pytest.raises(ValueError, match="given twice"):
        write_report([folder, folder], tmp_path / "report.html")
    with pytest.raises(ValueError, match=r"ends in \.html"):
        write_report([folder], tmp_path / "report.txt")


@pytest.mark.usefixtures("undrawn")
def test_a_loss_is_told_as_plainly_as_a_win(tmp_path: Path) -> None:
    folders = [make_run(tmp_path / "a", "1" * 12), make_run(tmp_path / "b", "0" * 12)]
    for order, word in ((folders, "less accurate"), (folders[::-1], "more accurate")):
        text = write_report(order, tmp_path / "report.html").page.read_text()
        assert [each for each in ("more accurate", "less accurate") if f">{each}<" in text] == [
            word
        ]


@pytest.mark.usefixtures("undrawn")
def test_runs_on_different_data_are_not_compared(tmp_path: Path) -> None:
    folders = [make_run(tmp_path / name, told={"digest": name}) for name in "ab"]
    written = write_report(folders, tmp_path / "report.html")
    assert not written.pairs
    assert any("different data" in note for note in written.notes)


def test_runs_are_compared_on_the_problems_that_both_have(tmp_path: Path) -> None:
    runs = [
        read_run(make_run(tmp_path / name, right)) for name, right in (("a", "11"), ("b", "0011"))
    ]
    [pair], notes = compare_runs(runs)
    assert (pair.accuracy.problems, pair.accuracy.effect.estimate) == (1, -1)
    assert ["1 problems" in note for note in notes] == [True]


@pytest.mark.usefixtures("undrawn")
def test_unknown_ends_of_intervals_are_no_infinity_in_json(tmp_path: Path) -> None:
    folders = [make_run(tmp_path / name) for name in "ab"]
    told = write_report(folders, tmp_path / "report.html").to_dict()
    assert told["comparisons"][0]["tokens"]["effect"]["high"] is None
    assert "Infinity" not in json.dumps(told)


def test_every_run_has_a_name_of_its_own(tmp_path: Path) -> None:
    changes: list[dict[str, Any]] = [
        {"threshold": 0.3},
        {},
        {"model": "openai/small"},
        {"options": {"candidates": 1}},
        {"method": "cot", "threshold": None},
        {"method": "cot", "threshold": None},
        {"split": 1.0},
    ]
    runs = [read_run(make_run(tmp_path / f"r{n}", told=told)) for n, told in enumerate(changes)]
    names = name_runs(runs)
    assert names[0] == "scale τ=0.3"
    assert "small" in names[2]
    assert "candidates 1" in names[3]
    assert names[4:6] == ["cot, r4", "cot, r5"]
    assert names[6].endswith(" split=1")
    assert len(set(names)) == len(names)


def test_calibration_counts_what_system_1_solved_and_was_rated(tmp_path: Path) -> None:
    steps = [(0.3, 1), (0.31, 1), (0.8, 2), (None, 1), (0.9, 1)]
    run = read_steps(tmp_path / "a", *steps, threshold=0.95, options={"final_difficulty": 0.9})
    [series] = calibrate([run])
    assert [(round(each.high, 1), each.steps, each.problems) for each in series.bins] == [
        (0.3, 4, 2),
        (0.4, 4, 2),
    ]
    assert series.bins[0].wrong.estimate == 0.25  # of "1101"
    assert not calibrate([read_steps(tmp_path / "b", (None, 2))])


def test_runs_that_differ_in_the_threshold_are_calibrated_together(tmp_path: Path) -> None:
    runs = [read_steps(tmp_path / f"{t}", (0.1, 1), (0.9, 2), threshold=t) for t in (0.3, 0.5)]
    [series] = calibrate(runs)
    assert (series.name, series.bins[0].steps) == ("scale", 8)


def test_positions_keep_the_last_sub_problem_apart(tmp_path: Path) -> None:
    long = read_steps(tmp_path / "a", *[(0.1, 1)] * 8, (0.9, 2))
    short = read_steps(tmp_path / "b", (None, 2))
    columns, (first, second) = count_positions([long, short])
    assert columns == ["1", "2", "3", "4", "5", "6", "7+", "last"]
    assert first == [*[(0, 4)] * 6, (0, 8), (4, 4)]
    assert second == [None] * 7 + [(4, 4)]


def test_a_record_keeps_no_text(tmp_path: Path) -> None:
    run = read_run(make_run(tmp_path / "a", text="long" * 1000))
    assert "long" not in str([replace(rollout, answer=None) for rollout in run.rollouts])


@pytest.mark.parametrize("value", [10**4000, -1, True, "0.5", [], float("nan")])
def test_a_number_of_a_description_that_is_none_is_left_out(value: Any, tmp_path: Path) -> None:
    names = ("threshold", "split", "problems", "samples")
    run = read_run(make_run(tmp_path / "a", told=dict.fromkeys(names, value)))
    assert (run.threshold, run.split, run.notes) == (None, None, ())
    assert name_runs([run]) == ["scale"]


def test_samples_beyond_those_asked_for_are_left_out(tmp_path: Path) -> None:
    run = read_run(make_run(tmp_path / "a", told={"samples": 1}))
    assert run.summary["rollouts"] == 2
    assert "2 rollouts of samples beyond" in run.notes[0]


@pytest.mark.usefixtures("undrawn")
def test_ids_are_never_paths(tmp_path: Path) -> None:
    folder = change_rollouts(make_run(tmp_path / "in" / "a", "11"), id="../../../evil", sample=0)
    lines = (folder / "rollouts.jsonl").read_text().splitlines()
    (folder / "rollouts.jsonl").write_text(lines[0] + "\n")
    write_report([folder], tmp_path / "out" / "report.html")
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} == {
        *("run.json", "rollouts.jsonl", "report.html")
    }


@pytest.mark.usefixtures("undrawn")
def test_the_reader_tells_errors_replacements_and_what_it_cut(tmp_path: Path) -> None:
    folder = change_rollouts(make_run(tmp_path / "a"), error="Timeout: <late>", answer=None)
    text = write_report([folder], tmp_path / "report.html").page.read_text()
    assert "Error: Timeout: &lt;late&gt;" in text
    assert "no answer" in text
    assert "Replaced: x" in text
    assert "0 of 2 right" in text
    long = make_run(tmp_path / "b", text="word " * 10_000)
    text = write_report([long], tmp_path / "report.html").page.read_text()
    assert "[… 44,000 characters …]" in text  # of the reasoning
    assert "Reasoning, 50,000 characters" in text


def test_problems_are_read_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    run = read_run(make_run(tmp_path / "a", "0" * 24))
    text = "".join(reader.write_reader(run, 1, 1))
    assert re.findall(r"<strong>p-(\d+)<", text) == [str(number) for number in range(12)]


@pytest.mark.usefixtures("undrawn")
def test_text_that_is_no_unicode_is_written(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "a", text="\ud800 \x00", told={"model": "\ud800"})
    assert "Evaluation report" in write_report([folder], tmp_path / "report.html").page.read_text()


def test_odd_names_can_be_drawn(tmp_path: Path) -> None:
    odd = {"method": "$\\frac{$ \ud800 <b>", "data": "$x$", "digest": ["no", "text"]}
    folders = [
        make_run(tmp_path / name, told={**odd, "threshold": t}) for name, t in (("a", 0), ("b", 1))
    ]
    written = write_report(folders, tmp_path / "report.html")
    assert len(written.pictures) == 3
    check_harmless(written.page.read_text())


def test_a_missing_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "find_spec", lambda name: None)
    with pytest.raises(RuntimeError, match=r'pip install "scale-dspy\[report\]"'):
        write_report([make_run(tmp_path / "a")], tmp_path / "report.html")
