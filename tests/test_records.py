"""Records: every value is checked against its field, old lines read, and what is written reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scale_dspy.evaluation.rollout import Rollout, read_rollouts
from scale_dspy.lm.tally import Tally
from scale_dspy.step import Step
from scale_dspy.utils.records import LARGEST, parse_record, read_record, write_record

OLD_STEP = {"subproblem": "s", "difficulty": None, "system": 1, "solution": "", "reasoning": ""}
OLD = {
    "id": "a",
    "sample": 0,
    "answer": "7",
    "correct": True,
    "steps": [
        {"subproblem": "s", "difficulty": None, "system": 1, "solution": "", "reasoning": ""}
    ],
    "usage": {"solve_1": {"calls": 1, "completion_tokens": 5}},
    "seconds": 1,
    "error": None,
    "unknown to this version": [1, 2],
}


def test_a_line_from_before_newer_fields_reads() -> None:
    rollout = read_record(Rollout, OLD)
    assert rollout.steps == (Step("s", None, 1, "", ""),)
    assert (rollout.problem, rollout.gold, rollout.replaced) == ("", "", ())
    assert (rollout.tokens, rollout.calls, rollout.seconds) == (5, 1, 1.0)
    assert read_record(Rollout, {**OLD, "usage": None, "steps": None}).tokens is None


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"sample": "0"}, "field 'sample' must be a whole number from 0 to .*, and is '0'"),
        ({"sample": True}, "field 'sample' must be a whole number"),
        ({"correct": 1}, "field 'correct' must be true or false, and is 1"),
        ({"seconds": float("nan")}, "field 'seconds' must be a number from 0 to .*, and is NaN"),
        ({"steps": {}}, "field 'steps' must be a list, and is an object"),
        ({"steps": [{**OLD_STEP, "system": 3}]}, r"'steps\[0\].system' must be .* 1 to 2"),
        ({"usage": {"x": {"calls": -1}}}, "field 'usage.x.calls' must be a whole number from 0"),
        ({"usage": {"x": 7}}, "field 'usage.x' must be an object, and is 7"),
    ],
)
def test_the_message_names_file_line_field_and_value(
    changed: dict[str, Any], told: str, tmp_path: Path
) -> None:
    path = tmp_path / "rollouts.jsonl"
    path.write_text(json.dumps(OLD) + "\n" + json.dumps({**OLD, **changed}) + "\n")
    with pytest.raises(ValueError, match=rf"rollouts.jsonl:2 is no rollout: .*{told}"):
        list(read_rollouts(path))


def test_a_missing_field_is_named() -> None:
    with pytest.raises(ValueError, match="field 'usage' must be there, and is missing"):
        read_record(Rollout, {key: value for key, value in OLD.items() if key != "usage"})


COUNTS = st.integers(0, LARGEST)
TALLIES = st.builds(Tally, COUNTS, COUNTS, COUNTS, COUNTS, st.floats(0, 1e9))
TEXTS = st.text(st.characters(), max_size=9)
STEPS = st.builds(
    Step, TEXTS, st.none() | st.floats(0, 1), st.sampled_from([1, 2]), TEXTS, TEXTS, COUNTS
)


@given(
    st.builds(
        Rollout,
        id=TEXTS,
        sample=COUNTS,
        problem=TEXTS,
        answer=st.none() | TEXTS,
        gold=TEXTS,
        correct=st.booleans(),
        steps=st.lists(STEPS, max_size=3).map(tuple),
        usage=st.dictionaries(TEXTS, TALLIES, max_size=3),
        seconds=st.none() | st.floats(0, 1e9),
        error=st.none() | TEXTS,
        replaced=st.lists(TEXTS, max_size=2).map(tuple),
    )
)
def test_what_is_written_reads_as_it_was(rollout: Rollout) -> None:
    assert parse_record(Rollout, write_record(rollout), "here", "rollout") == rollout
