"""Scores in a model's replies."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from scale_dspy.stages.assess import read_score


@pytest.mark.parametrize(
    ("reply", "score"),
    [
        ("0.7", 0.7),
        ("0", 0.0),
        ("1", 1.0),
        (".35", 0.35),
        ("**0.4**", 0.4),
        ("0.7/1", 0.7),
        ("0.6 because it needs 3 cases", 0.6),
        ("Difficulty: 0.25", 0.25),
        ("On a scale from 0 to 1 I say 0.8", 0.8),
        ("1.7", None),
        ("-0.3", None),
        ("70%", None),
        ("high", None),
        ("", None),
        ("7", None),
        ("nan", None),
        ("9" * 400, None),
    ],
)
def test_scores(reply: str, score: float | None) -> None:
    assert read_score(reply) == score


@given(st.text() | st.floats().map(str))
@example("1e999")
def test_any_reply_gives_a_score_in_range_or_none(reply: str) -> None:
    score = read_score(reply)
    assert score is None or 0 <= score <= 1


@given(st.floats(0, 1).map(lambda score: round(score, 6)))
def test_a_plain_score_is_read_as_it_is(score: float) -> None:
    assert read_score(f"{score:.6f}") == score
