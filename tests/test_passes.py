"""Recorded passes: what is read of a line, several files, sets apart, lines of another kind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from scale_dspy.evaluation.passes import read_passes


def make_pass(text: str, tokens: int, finish_reason: str = "stop", **more: Any) -> dict[str, Any]:
    return {"text": text, "tokens": tokens, "finish_reason": finish_reason, **more}


def make_record(name: str, group: str = "a", passes: Any = None, **more: Any) -> dict[str, Any]:
    given = [make_pass(r"so \boxed{7}", 9), make_pass("so 7 + 5", 40, "length")]
    return {"set": group, "id": name, "gold": "7", "passes": passes or given, **more}


def write(path: Path, *records: Any) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def test_a_pass_is_graded_and_measured(tmp_path: Path) -> None:
    passes = [
        make_pass(r"so \boxed{7.0}", 9, logprobs=[-0.5, -1.5]),
        make_pass("the answer is 8", 20),
        make_pass("so far 7", 40, "length"),
        make_pass(None, 3),  # type: ignore[arg-type]
    ]
    record = make_record("1", passes=passes, system_1=[make_pass("7", 2)])
    ((drawn,),) = read_passes([write(tmp_path / "x", record)], cap=64, cap_1=8).values()
    assert drawn.id == "a/1"
    assert [one.result for one in drawn.passes] == ["7.0", "8", None, None]
    assert [one.right for one in drawn.passes] == [True, False, False, False]
    assert drawn.passes[0].features["mean"] == 1.0
    assert [one.features["cut_off"] for one in drawn.passes] == [0, 0, 1, 0]
    assert drawn.drafts[0].right
    assert drawn.drafts[0].features["length"] == pytest.approx(0.5)  # log 3 / log 9


def test_files_are_joined_sets_kept_apart_and_what_comes_again_skipped(tmp_path: Path) -> None:
    one = write(tmp_path / "1", make_record("1"), make_record("2"), make_record("1", "b"))
    again = {**make_record("2"), "gold": "8"}
    other = write(tmp_path / "2", again, make_record("3"))
    empty = write(tmp_path / "3")
    sets = read_passes([one, empty, other])
    assert {name: [each.id for each in drawn] for name, drawn in sets.items()} == {
        "a": ["a/1", "a/2", "a/3"],
        "b": ["b/1"],
    }
    assert sets["a"][1].passes[0].right  # as it came first


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("{", r"x:2 holds no recorded passes"),
        ("[]", r"x:2 holds no"),
        ('{"set": "a"}', r"x:2 holds no .*'id'"),
        ('{"set": "a", "id": 1, "gold": 7, "passes": [{"text": "7"}]}', r"holds no recorded"),
        ('{"set": "a", "id": 1, "gold": 7, "passes": []}', r"x:2 holds no .*no passes"),
        (json.dumps(make_record("9", passes=[make_pass("7", 1)])), "different numbers of passes"),
    ],
)
def test_a_line_of_another_kind_is_named(line: str, told: str, tmp_path: Path) -> None:
    path = write(tmp_path / "x", make_record("0"))
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(ValueError, match=told):
        read_passes([path])
    with pytest.raises(ValueError, match="no recorded passes"):
        read_passes([write(tmp_path / "empty")])
