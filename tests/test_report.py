"""The report page: its figures are the runs' own, and nothing in a run can harm its reader."""

from __future__ import annotations

import base64
import gzip
import json
import os
import re
import time
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from scale_dspy.report import bodies, report
from scale_dspy.report.comparisons import calibrate, compare_groups, compare_runs, count_positions
from scale_dspy.report.figures import Panel, draw_accuracy, draw_caps
from scale_dspy.report.html_page import POLICY, SCRIPT
from scale_dspy.report.mathml import render_answer
from scale_dspy.report.names import name_runs
from scale_dspy.report.paper import TABLE_1
from scale_dspy.report.prose import render_text
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
    for name in ("draw_accuracy", "draw_caps", "draw_calibration", "draw_positions"):
        monkeypatch.setattr(report, name, lambda *runs: None)


class Collector(HTMLParser):
    """Tags, attributes, and each script's type and text."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str]] = []
        self.scripts: list[tuple[str | None, str]] = []

    def handle_data(self, data: str) -> None:
        if self.lasttag == "script" and self.cdata_elem:
            kind, text = self.scripts.pop()
            self.scripts.append((kind, text + data))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag == "script":
            self.scripts.append((dict(attrs).get("type"), ""))
        self.attributes += [(name, value or "") for name, value in attrs]


def collect(text: str) -> Collector:
    collector = Collector()
    collector.feed(text)
    return collector


def check_harmless(text: str) -> None:
    found = collect(text)
    assert not found.tags & {"iframe", "object", "embed", "link", "base", "form", "svg"}
    # The page's own script, and data that no browser runs.
    assert {text for kind, text in found.scripts if kind is None} <= {SCRIPT}
    assert {kind for kind, _ in found.scripts} <= {None, "application/json", "text/plain"}
    assert not [name for name, _ in found.attributes if name.startswith("on")]
    for name, value in found.attributes:
        if name in ("src", "href", "srcset"):
            assert value.startswith(("#", "data:image/png;base64,"))


def unpack(text: str) -> list[dict[str, Any]]:
    """The problems' bodies in a page, in the order of its index."""
    blocks = [
        base64.b64decode(block) for kind, block in collect(text).scripts if kind == "text/plain"
    ]
    return [body for block in blocks for body in json.loads(gzip.decompress(block))]


def list_html(body: dict[str, Any]) -> Iterator[str]:
    """What of a problem's body the page reads as HTML; all else it puts in as text."""
    yield body["problem"]
    for rollout in (each for rollouts in body["runs"] for each in rollouts):
        yield rollout["answer"] or ""
        for step in rollout["steps"]:
            yield from (step["asked"] or "", step["solution"])


def read_index(text: str) -> dict[str, Any]:
    (index,) = [told for kind, told in collect(text).scripts if kind == "application/json"]
    return dict(json.loads(index))


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
    for body in unpack(text):
        for html in list_html(body):
            check_harmless(html)
    assert f'content="{POLICY}"' in text


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
    (first, _) = unpack(text)
    (rollout, _) = first["runs"][0]
    assert rollout["notes"] == ["Error: Timeout: <late>", "Replaced: x"]
    assert rollout["answer"] is None
    assert read_index(text)["problems"][0][5] == ["HH"]  # 8 places after @: failed
    long = make_run(tmp_path / "b", text="word " * 10_000)
    (first, _) = unpack(write_report([long], tmp_path / "report.html").page.read_text())
    step = first["runs"][0][0]["steps"][0]
    assert "[… 44,000 characters …]" in step["reasoning"]
    assert step["length"] == 50_000


def test_problems_on_which_runs_differ_come_first(tmp_path: Path) -> None:
    runs = [
        read_run(make_run(tmp_path / name, f"{right}0000"))
        for name, right in (("a", "1111"), ("b", "1100"))
    ]
    found = bodies.collect_problems(runs)
    assert [each.id for each in found] == ["p-1", "p-2", "p-3", "p-0"]
    assert [each.spread for each in found] == [1, 0, 0, 0]


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
    with pytest.raises(RuntimeError, match=r'pip install "[^"]*\[report\]"'):
        write_report([make_run(tmp_path / "a")], tmp_path / "report.html")


def test_a_pipe_for_rollouts_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "a")
    (folder / "rollouts.jsonl").unlink()
    os.mkfifo(folder / "rollouts.jsonl")
    with pytest.raises(ValueError, match=r"rollouts\.jsonl cannot be read: it is no regular file"):
        read_run(folder)


@pytest.mark.parametrize(
    "piece",
    [
        r"\[",
        r"\(",
        "$",
        "$a ",
        r"\boxed{",
        "_a",
        "[",
        r"\begin{align}",
        "> ",
        "- ",
        "|a",
        "$\n",
        "\\[\n",
    ],
)
def test_what_is_never_closed_costs_little(piece: str) -> None:
    text = (piece * 8000)[:8000]
    started = time.process_time()
    render_text.__wrapped__(text)
    assert time.process_time() - started < 1.5


@pytest.mark.usefixtures("undrawn")
def test_a_rollout_of_any_number_of_steps_is_bounded(tmp_path: Path) -> None:
    step = {"subproblem": "s", "difficulty": 0.1, "system": 1, "solution": "x", "reasoning": ""}
    folder = change_rollouts(make_run(tmp_path / "a"), steps=[{**step, "tokens": 1}] * 500)
    first, _ = unpack(write_report([folder], tmp_path / "report.html").page.read_text())
    rollout = first["runs"][0][0]
    assert len(rollout["steps"]) == bodies.MOST_STEPS
    assert rollout["notes"][-1] == "440 sub-problems more are not shown."


@pytest.mark.usefixtures("undrawn")
def test_formulas_of_a_long_run_are_converted_for_the_first_problems(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bodies, "RENDERED", 2)
    written = write_report([make_run(tmp_path / "a", "0011")], tmp_path / "report.html")
    first, second = unpack(written.page.read_text())
    assert "<math" in first["runs"][0][1]["steps"][1]["solution"]
    assert second["runs"][0][0]["steps"][1]["solution"] == r"<pre>$\boxed{4}$ x</pre>"


@pytest.mark.usefixtures("undrawn")
def test_runs_of_different_graders_are_warned_of(tmp_path: Path) -> None:
    folders = [
        make_run(tmp_path / name, told={"versions": {"grader": name}}) for name in ("2", "3")
    ]
    notes = write_report(folders, tmp_path / "report.html").notes
    assert ["graded by different versions" in note for note in notes] == [True]
    folders = [make_run(tmp_path / name, told={"versions": {"grader": "2"}}) for name in "ab"]
    assert not write_report(folders, tmp_path / "report.html").notes


def test_groups_have_accuracies_of_their_own(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "a", "110100")
    lines = [json.loads(line) for line in (folder / "rollouts.jsonl").read_text().splitlines()]
    for line in lines:
        line["groups"] = {
            "level": "1" if line["id"] == "p-0" else "2",
            "subject": "one",
            "odd": "x",
        }
    (folder / "rollouts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = compare_groups([read_run(folder)])
    assert list(found) == ["level"]  # a subject alone is no group, `odd` is none at all
    told = [(row.value, row.problems, row.accuracies[0]) for row in found["level"]]
    assert [(value, count, each.estimate) for value, count, each in told if each] == [
        ("1", 1, 1.0),
        ("2", 2, 0.25),
    ]


@pytest.mark.usefixtures("undrawn")
def test_settings_are_told_without_digests_or_python(tmp_path: Path) -> None:
    request = {"max_tokens": 9, "extra_body": {"thinking": True}}
    told = {"requests": {"solve.system_2": request}, "program": "ff519ea6"}
    folders = [
        make_run(tmp_path / "a", told=told),
        make_run(tmp_path / "b", told={"program": "00"}),
    ]
    text = write_report(folders, tmp_path / "report.html").page.read_text()
    assert "solve.system_2.extra_body.thinking" in text
    assert "ff519ea6" not in text
    assert "{&#39;" not in text
    assert 'class="word">scale τ=0.5, a<' in text


def test_rollouts_load_as_a_dataset(tmp_path: Path) -> None:
    from datasets import load_dataset

    folder = make_run(tmp_path / "a", "110100")
    path = folder / "rollouts.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    lines[0]["usage"], lines[0]["steps"], lines[0]["error"] = {}, [], "Timeout"
    lines[-1]["groups"] = {"level": "3"}
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    cache = str(tmp_path / "cache")
    found = load_dataset("json", data_files=str(path), split="train", cache_dir=cache)
    assert len(found) == 6
    assert found[1]["steps"][1]["system"] == 2
    assert found[5]["groups"] == {"level": "3"}


def test_the_paper_stands_beside_runs_on_its_sets_alone(tmp_path: Path) -> None:
    pictures = {
        name: draw_accuracy([read_run(make_run(tmp_path / name, told={"data": name}))])
        for name in ("aime24", "mine")
    }
    assert all(pictures.values())
    assert len({picture.wide for picture in pictures.values() if picture}) == 2
    panels = [Panel(name, [], []) for name in pictures]
    assert [len(TABLE_1.get(panel.set, ())) for panel in panels] == [4, 0]


def test_runs_that_differ_in_system_2s_limit_have_a_picture(tmp_path: Path) -> None:
    runs = [
        read_run(
            make_run(
                tmp_path / f"{cap}", told={"requests": {"solve.system_2": {"max_tokens": cap}}}
            )
        )
        for cap in (4096, 32768)
    ]
    assert draw_caps(runs) is not None
    assert draw_caps(runs[:1]) is None
