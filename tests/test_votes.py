"""Votes that count alike, and votes that count by the doubt in each pass."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scale_dspy.stages.votes import (
    SPREAD,
    SUREST,
    find_lead,
    find_winner,
    is_settled,
    measure_lead,
    plan_waves,
    weigh_lead,
)

doubts = st.floats(0, 1)
results = st.sampled_from(["1", "2", "3", None])
passes = st.lists(st.tuples(results, doubts), min_size=1, max_size=8)


def test_a_single_pass_is_as_sure_as_its_estimate() -> None:
    for doubt in (0.1, 0.5, 0.9):
        assert weigh_lead(["7"], [doubt]) == pytest.approx(1 - doubt)
    assert weigh_lead(["7"], [0.0]) == pytest.approx(1 - SUREST)
    assert weigh_lead([None], [0.1]) == 0.0


def test_a_sure_pass_beats_two_doubtful_ones_and_not_two_sure_ones() -> None:
    assert find_winner(["1", "2", "2"], [0.02, 0.97, 0.97]) == 0
    assert find_winner(["1", "2", "2"], [0.1, 0.1, 0.2]) == 1
    assert find_winner(["1", "2", "2"]) == 1


@given(passes)
def test_the_lead_is_bayes_rule_over_all_results_that_there_may_be(
    drawn: list[tuple[str | None, float]],
) -> None:
    told, wrong = [result for result, _ in drawn], [doubt for _, doubt in drawn]
    kept = [min(1 - SUREST, max(SUREST, doubt)) for doubt in wrong]
    unseen = [f"unseen {number}" for number in range(int(SPREAD) + 1 - len({*told} - {None}))]
    chances = {
        truth: math.prod(
            1 - doubt if result == truth else doubt / SPREAD
            for result, doubt in zip(told, kept, strict=True)
            if result is not None
        )
        for truth in [*({*told} - {None}), *unseen]
    }
    lead = weigh_lead(told, wrong)
    if not any(told):
        assert lead == 0
        return
    leader = told[find_winner(told, wrong)]
    assert chances[leader] == pytest.approx(max(chances[result] for result in told if result))
    assert lead == pytest.approx(chances[leader] / sum(chances.values()), abs=2e-6)
    assert lead < 1
    assert not is_settled(told, 1.0, wrong)
    assert lead == pytest.approx(weigh_lead(told[::-1], wrong[::-1]), abs=1e-6)


@given(st.lists(st.sampled_from(["1", "2", "3"]), min_size=1, max_size=8), st.floats(0.05, 0.6))
def test_equal_doubts_leave_the_most_frequent_result_ahead(told: list[str], doubt: float) -> None:
    same = [doubt] * len(told)
    assert find_winner(told, same) == find_winner(told)
    more = [*told, told[find_winner(told)]]
    assert measure_lead(more, [*same, doubt]) >= measure_lead(told, same)


@given(st.integers(1, 8), st.integers(0, 8))
def test_a_plain_lead_grows_with_each_vote_for_the_leader(first: int, second: int) -> None:
    assert find_lead(first + 1, second) > find_lead(first, second)
    assert measure_lead(["1"] * first + ["2"] * min(first, second)) == pytest.approx(
        find_lead(first, min(first, second))
    )


@given(st.integers(1, 40), st.sampled_from([1, 2]), st.floats(0, 1))
def test_waves_double_and_end_at_the_votes(votes: int, first: int, stop: float) -> None:
    waves = list(plan_waves(votes, stop, first))
    assert waves[-1] == votes
    assert all(before < after <= 2 * before for before, after in pairwise(waves))
    assert stop < 1 or waves == [votes]
