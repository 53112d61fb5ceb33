"""A folder of `frontier` in a report: its curve is drawn, whether or not there are runs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from scale_dspy.cli import main as cli
from scale_dspy.report.report import read_report, write_report
from scale_dspy.tuning.decision import summarise_frontier
from scale_dspy.tuning.threshold_sweep import Known, Piece, Walk, report_signals
from tests.command import run
from tests.test_report import check_harmless, make_run


def make_walk(number: int, right: bool) -> Walk:
    pieces = (Piece(0.0, True, 900), Piece(0.4, right, 500), Piece(0.8, False, 200))
    return Walk(
        **{"id": f"p-{number}", "sample": 0, "gold": "4", "difficulty": 0.5, "seconds": 1.0},
        **{"split": pieces, "rated": (), "whole": (), "labels": (), "usage": {}, "error": None},
    )


def make_sweep(folder: Path, **told: Any) -> Path:
    folder.mkdir(parents=True)
    found = summarise_frontier([make_walk(number, number % 3 > 0) for number in range(9)])
    described = {"method": "frontier", "data": "mine", "digest": "d" * 16, **told}
    (folder / "run.json").write_text(json.dumps(described))
    (folder / "frontier.json").write_text(json.dumps(found))
    (folder / "walks.jsonl").write_text("")
    return folder


def test_a_frontier_alone_has_a_page(tmp_path: Path) -> None:
    folder = make_sweep(tmp_path / "mine-frontier")
    assert cli.main(["report", str(folder), "--out", str(tmp_path / "page.html")]) == 0
    text = (tmp_path / "page.html").read_text()
    check_harmless(text)
    assert "mine-frontier: the most accurate threshold is τ = 0.2, right 100.0\u00a0%" in text
    assert (tmp_path / "page-accuracy.png").read_bytes().startswith(b"\x89PNG")
    assert 'id="problems"' not in text


def test_a_frontier_stands_beside_runs_of_its_data(tmp_path: Path) -> None:
    folders = [make_run(tmp_path / "a", "1100"), make_sweep(tmp_path / "curve")]
    written = write_report(folders, tmp_path / "page.html")
    assert [len(written.runs), len(written.sweeps)] == [1, 1]
    told = written.to_dict()["frontiers"][0]
    assert [point["tokens"] for point in told["curve"]] == [900, 500, 200]
    text = written.page.read_text() if written.page else ""
    assert "curve: a curve of 3 points" in text


def test_signals_are_compared_on_the_same_drafts(tmp_path: Path) -> None:
    """The difficulty tells, the length misleads, and the mean tells nothing."""
    folder = make_sweep(tmp_path / "drafted")
    walks = []
    for number in range(24):
        wrong = number % 3 == 0
        features = {"length": 0.9 - 0.5 * wrong, "mean": 0.1}
        drafts = (Known(features, wrong, 0.2 + 0.6 * wrong),)
        walks.append(replace(make_walk(number, right=not wrong), drafts=drafts))
    found = summarise_frontier(walks)
    assert {name: told["auroc"] for name, told in found["signals"].items()} == {
        "difficulty": 1.0, "length": 0.0, "mean": 0.5,
    }  # fmt: skip
    (folder / "frontier.json").write_text(json.dumps(found))
    plain = make_sweep(tmp_path / "asked")
    page = tmp_path / "page.html"
    write_report([folder, plain], page)
    text = page.read_text()
    check_harmless(text)
    section = text.partition('id="signals"')[2].partition("</section>")[0]
    assert "drafted: 24 drafts, 33 % wrong" in section
    assert "asked" not in section
    for name, value in (("difficulty", "1.00"), ("length", "0.00"), ("mean", "0.50")):
        assert f"{name}</th><td>{value}" in section
    write_report([plain], page)
    assert 'id="signals"' not in page.read_text()


def test_signals_need_all_drafts_and_may_lack_a_difficulty() -> None:
    """Walks of an earlier version do not tell the difficulty of a draft."""
    told = {"length": 0.5}
    drafts = Known(told, True), Known({**told, "mean": 1}, False)
    walk = replace(make_walk(0, True), drafts=drafts)
    assert set(report_signals([walk])) == {"length"}
    assert report_signals([make_walk(0, True)]) == {}


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("frontier.json", None, "frontier.json is missing: run `frontier`"),
        ("frontier.json", "{}", "field 'problems' must be there"),
        ("frontier.json", "[" * 100_000, "is no frontier"),
        ("run.json", "[]", "is not the description of a run"),
    ],
)
def test_a_broken_frontier_is_one_line(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    content: str | None,
    complaint: str,
) -> None:
    folder = make_sweep(tmp_path / "curve")
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_text(content)
    code, _, said = run(capsys, "report", str(folder), "--out", str(tmp_path / "page.html"))
    assert code == 2
    assert len(said.splitlines()) == 1
    assert complaint in said
    with pytest.raises(ValueError, match=r"frontier|description"):
        read_report([folder])
