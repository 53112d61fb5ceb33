"""Finished runs are graded anew without a model, and nothing of the old verdicts is lost."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from scale_dspy.evaluation.folder import read_graders
from scale_dspy.evaluation.regrade import regrade_run, warn_of_graders
from scale_dspy.grading.answers import GRADER
from scale_dspy.grading.flags import hit_limit, stands_unread


def write_run(folder: Path) -> Path:
    """A run of two problems as an older grader left it: the first was refused for its noun."""
    lines = []
    for name, text, answer, correct in (
        ("a", r"So it is \boxed{21 \text{ pens}}.", r"21 \text{ pens}", False),
        ("b", r"So it is \boxed{8}.", "8", True),
    ):
        step = {"subproblem": "P", "difficulty": None, "system": 2, "solution": text}
        lines.append(
            {
                "id": name,
                "sample": 0,
                "problem": "P",
                "answer": answer,
                "gold": "21" if name == "a" else "8",
                "correct": correct,
                "steps": [{**step, "reasoning": "", "tokens": 5}],
                "usage": {},
                "seconds": 1.0,
                "error": None,
                "replaced": [],
            }
        )
    folder.mkdir()
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "rollouts.jsonl").write_text(text)
    described = {"method": "cot", "data": "gone", "digest": "0", "problems": 2, "samples": 1}
    (folder / "run.json").write_text(json.dumps(described))
    return folder


def read_files(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.glob("*.json*")}


def test_a_run_is_graded_anew_and_the_old_verdicts_stay(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    done = regrade_run(folder)
    assert [(change.id, change.was, change.correct) for change in done.changes] == [
        ("a", False, True)
    ]
    assert (done.accuracy_before, done.accuracy) == (0.5, 1.0)
    assert json.loads((folder / "summary.json").read_text())["accuracy"] == 1
    kept = (folder / "verdicts.grader1.jsonl").read_text().splitlines()
    assert [json.loads(line)["correct"] for line in kept] == [False, True]
    assert read_graders(json.loads((folder / "run.json").read_text())) == [str(GRADER)]


def test_twice_changes_nothing(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    regrade_run(folder)
    before = read_files(folder)
    assert not regrade_run(folder).changes
    assert read_files(folder) == before


def test_the_command_tells_what_changed_and_refuses_what_is_no_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from scale_dspy.cli.main import main

    folder = write_run(tmp_path / "run")
    assert main(["regrade", str(folder)]) == 0
    assert "1 wrong became right" in capsys.readouterr().out.replace("\n", " ")
    assert main(["regrade", str(tmp_path)]) == 2


def test_runs_of_different_graders_are_told_of() -> None:
    new = {"versions": {"grader": str(GRADER)}}
    assert warn_of_graders({"a": new, "b": new}) == []
    assert "regrade" in warn_of_graders({"a": new, "b": {}})[0]
    assert warn_of_graders({"a": {"versions": {"grader": "1, 2"}}})


def test_flags() -> None:
    assert stands_unread("So 2 + 3 = 5, which I write as $5$.", ["5"], right=False)
    assert not stands_unread("So 2 + 3 = 6.", ["5"], right=False)
    assert not stands_unread("It is $15$.", ["5"], right=False)
    assert not stands_unread("It is 5.", ["5"], right=True)
    assert hit_limit(["step 1: solve: the solution was cut off after 9 tokens"])
    assert not hit_limit(["step 1: rated by default"])
