"""Every gold answer passes its own metric and no other's; what tokens cost."""

from __future__ import annotations

import os
from typing import Any

import dspy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scale_dspy.data.load import load
from scale_dspy.grading.answers import find_answer
from scale_dspy.grading.metrics import count_tokens, is_right, make_metric, score
from tests.predictions import GOLD, make_prediction

INTEGER_SETS = ("mini", "aime24", "aime25", "aime", "amc23", "gsm8k")


def grade(example: dspy.Example, text: str) -> bool:
    return is_right(example, dspy.Prediction(answer=find_answer(text)))


def load_or_skip(name: str) -> list[dspy.Example]:
    if name != "mini" and not os.environ.get("SCALE_DATA_DIR"):
        pytest.skip("SCALE_DATA_DIR names no folder of local copies")
    return load(name)


@pytest.mark.parametrize("name", [*INTEGER_SETS, "math500"])
def test_every_gold_passes(name: str) -> None:
    for example in load_or_skip(name):
        for gold in example.answers:
            assert grade(example, rf"So the answer is $\boxed{{{gold}}}$."), example.id


def check_pairs(examples: list[dspy.Example], step: int = 1) -> None:
    """Of all gold answers, those accepted for an example are its own; every `step`-th is tried."""
    distinct = {tuple(example.answers): example for example in examples}
    golds = {gold: rf"\boxed{{{gold}}}" for answers in distinct for gold in answers}
    for answers, example in list(distinct.items())[::step]:
        assert {gold for gold, text in golds.items() if grade(example, text)} == {*answers}


@pytest.mark.parametrize("name", INTEGER_SETS)
def test_no_other_gold_passes(name: str) -> None:
    check_pairs(load_or_skip(name))


@pytest.mark.slow
def test_no_other_gold_passes_as_mathematics() -> None:
    check_pairs(load_or_skip("math500"), step=25)  # the worker takes milliseconds a pair


def test_both_answers_of_2022_ii_8_pass() -> None:
    (example,) = (e for e in load_or_skip("aime") if len(e.answers) == 2)
    assert grade(example, r"\boxed{080}")
    assert grade(example, r"\boxed{81}")
    assert not grade(example, r"\boxed{82}")


def test_an_example_needs_no_more_than_an_answer() -> None:
    example = dspy.Example(problem="p", answer=r"\frac{1}{2}").with_inputs("problem")
    assert is_right(example, dspy.Prediction(answer="0.5"))
    assert not is_right(example, dspy.Prediction(answer=None))


# ---- score


@pytest.mark.parametrize(
    ("tokens", "budget", "price", "worth"),
    [
        (500, None, 0.5, 1.0),
        (100, 100, 0.5, 1.0),
        (150, 100, 0.5, 0.75),
        (200, 100, 0.25, 0.75),
        (300, 100, 0.5, 0.0),
        (900, 100, 0.5, 0.0),
        (900, 100, 0.0, 1.0),
    ],
)
def test_tokens_beyond_the_budget_cost(
    tokens: int, budget: int | None, price: float, worth: float
) -> None:
    right, wrong = make_prediction("7", tokens), make_prediction("8", tokens)
    assert score(GOLD, right, budget=budget, price=price) == worth
    assert score(GOLD, wrong, budget=budget, price=price) == 0


@given(tokens=st.integers(0, 10**6), budget=st.integers(1, 10**4), price=st.floats(0, 5))
def test_a_score_lies_in_0_to_1_and_falls_with_tokens(
    tokens: int, budget: int, price: float
) -> None:
    worth, more = (
        score(GOLD, make_prediction("7", spent), budget=budget, price=price)
        for spent in (tokens, tokens + 1)
    )
    assert 0 <= more <= worth <= 1


@pytest.mark.parametrize("terms", [{"budget": 0}, {"budget": -1}, {"price": -0.1}])
def test_impossible_terms_are_refused(terms: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"budget|price"):
        make_metric(**terms)
    with pytest.raises(ValueError, match=r"budget|price"):
        score(GOLD, make_prediction(), **terms)


def test_tokens_of_all_stages_count_and_none_where_there_is_no_usage() -> None:
    usage = {"decompose": {"completion_tokens": 5}, "other": {"completion_tokens": 2}}
    assert count_tokens(dspy.Prediction(usage=usage)) == 7
    for usage in (None, {}, {"decompose": None}, {"decompose": {}}, [1]):
        assert count_tokens(dspy.Prediction(usage=usage)) == 0
    assert count_tokens(dspy.Prediction()) == count_tokens(None) == 0
