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
        ("70%", 0.7),
        ("65 percent", 0.65),
        ("~65%", 0.65),
        ("150%", None),
        ("3/0", None),
        ("7/10", 0.7),
        ("0.3/1", 0.3),
        ("**0.7**/1.0", 0.7),
        ("**Difficulty:** 0.3", 0.3),
        ("Difficulty: **7/10**", 0.7),
        ("Difficulty: 7 (out of 10)", 0.7),
        ("Difficulty: 4 on a scale of 1 to 10", 0.4),
        ("Difficulty = 0,7", 0.7),
        ("Difficulty: High (0.8)", 0.8),
        ("Difficulty: 0.3\nReason: it needs 2 steps.", 0.3),
        ("Difficulty: 0.8 (0 = easy, 1 = hard)", 0.8),
        ("Difficulty: 0.8 (0: easy, 1: hard)", 0.8),
        ("Difficulty (0 to 1): 0.8", 0.8),
        ("Score: 0.25 [0, 1]", 0.25),
        ("Rating – 0.4", 0.4),
        ("1. Difficulty: 0.7", 0.7),
        ("I would rate this 0.35 on a 0-1 scale.", 0.35),
        ("I would give it a difficulty of 0.7, since it has 3 cases.", 0.7),
        ("The difficulty of sub-problem 1 is 0.7.", 0.7),
        ("0.8 (on a scale from 0 to 1)", 0.8),
        ("0.7 ± 0.1", 0.7),
        ("0.2. The chance of 1 error is small.", 0.2),
        ('{"difficulty": 0.3, "steps": 4}', 0.3),
        ("<difficulty>0.3</difficulty>", 0.3),
        (r"\boxed{0.3}", 0.3),
        ("1e-1", 0.1),
        ("0.25-0.5", 0.375),
        ("0.25–0.5", 0.375),
        ("0.25 to 0.5", 0.375),
        ("between 0.25 and 0.5", 0.375),
        ("Between 25% and 50%", 0.375),
        ("7-8/10", 0.75),
        ("0 to 1", None),
        ("0-1", None),
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
