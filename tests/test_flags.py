"""Which rollouts hit the token limit, and which hold the right value that was not read."""

from __future__ import annotations

from typing import Any

import pytest

from scale_dspy.evaluation.rollout import Rollout
from scale_dspy.evaluation.summary import summarise
from scale_dspy.report.run_reader import read_caps
from scale_dspy.step import Step


def make(solution: str, gold: str = "72", **changed: Any) -> Rollout:
    step = Step("s", None, 2, solution, "", changed.pop("tokens", 5))
    given = {"answer": "7", "gold": gold, "correct": False, "seconds": None, "error": None}
    return Rollout(**{"id": "p", "sample": 0, "steps": (step,), "usage": {}, **given, **changed})


@pytest.mark.parametrize(
    ("solution", "gold", "there"),
    [
        ("The sum is 72 clips, as 7 is left.", "72", True),
        (r"So $x = 72$. \boxed{7}", "72", True),
        ("That makes 1,072 in all.", "72", False),
        ("It is 72.5 or 172 or 2^72.", "72", False),
        ("It is 1,234 then.", "1234", True),
        (r"We get $\left( 3, \frac{\pi}{2} \right)$.", r"(3, \frac{\pi}{2})", True),
        (r"We get $\dfrac{1}{2}$.", r"\frac{1}{2}", True),
        ("It is 3} then", "3}", False),
        ("72" + " " * 1300 + "later", "72", False),
        ("no value", "", False),
    ],
)
def test_the_right_value_stands_by_itself(solution: str, gold: str, there: bool) -> None:
    one = make(solution, gold)
    assert one.unread is there
    assert one.drop_texts().unread is there


def test_only_wrong_rollouts_are_unread() -> None:
    assert not make("72", correct=True).unread
    assert not make("72", error="late").unread
    assert not make("72", answer="72").unread
    assert not make("", steps=()).unread


def test_a_reply_that_hit_the_limit_is_noted() -> None:
    assert not make("x", tokens=100).cut_off
    said = ("solve: the solution was cut off after 9 tokens",)
    for one in (make("x", replaced=said), make("x", replaced=said).drop_texts()):
        assert one.cut_off
        assert summarise([one])["cut_off"] == 1


def test_limits_are_read_from_any_description() -> None:
    requests = {"solve.system_1": {"max_tokens": 9}, "solve.system_2": {"max_tokens": 99}}
    assert read_caps({"requests": requests}) == {1: 9, 2: 99}
    for odd in (None, "x", [], {"solve.system_1": 3}, {"solve.system_1": {"max_tokens": "9"}}):
        assert read_caps({"requests": odd}) == {}
