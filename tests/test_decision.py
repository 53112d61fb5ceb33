"""The one rule by which `frontier` and `compile` set a program to a point, and what they say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scale_dspy import SCALE
from scale_dspy.tuning.choice import choose, describe_point
from scale_dspy.tuning.decision import CAME, CURVE, compare_points, decide, summarise_frontier
from scale_dspy.tuning.frontier import Frontier
from scale_dspy.tuning.joint import compile_program
from scale_dspy.tuning.prompt_optimizers import Plan
from scale_dspy.tuning.threshold_sweep import walk_all
from tests.fake_vllm import fake_vllm
from tests.test_frontier import join, make_frontier
from tests.world import World


@st.composite
def frontiers(draw: st.DrawFn) -> Frontier:
    shape = tuple(draw(st.integers(1, most)) for most in (3, 4, 4))
    count = int(np.prod(shape))
    right = draw(st.lists(st.integers(0, 1), min_size=count, max_size=count))
    tokens = draw(st.lists(st.integers(1, 9), min_size=count, max_size=count))
    return make_frontier(np.reshape(right, shape).tolist(), np.reshape(tokens, shape).tolist())


@settings(max_examples=60)
@given(frontiers(), st.sampled_from([None, 3, 6]), st.sampled_from([0.0, 0.1]))
def test_every_interval_contains_its_estimate(
    frontier: Frontier, budget: int | None, margin: float
) -> None:
    choice = choose(frontier, budget=budget, margin=margin)
    for value, (low, high) in (
        (choice.threshold, choice.threshold_range),
        (choice.threshold, choice.threshold_interval),
        (choice.split, choice.split_range),
        (choice.split, choice.split_interval),
        *((each.estimate, (each.low, each.high)) for each in (choice.accuracy, choice.tokens)),
    ):
        assert low <= value <= high


@settings(max_examples=60)
@given(frontiers(), st.sampled_from([None, 3, 6]), st.sampled_from([0.0, 0.1]))
def test_the_runner_up_has_another_outcome_and_is_no_better(
    frontier: Frontier, budget: int | None, margin: float
) -> None:
    decision = decide(frontier, (0.5, 0.0), budget=budget, margin=margin)
    assert decision.name in decision.why
    if decision.runner_up is None:
        assert "no other point" in decision.why
        return
    name, second = decision.runner_up
    assert name in decision.why
    outcome = decision.choice.accuracy.estimate, decision.choice.tokens.estimate
    assert outcome != pytest.approx((second.accuracy.estimate, second.tokens.estimate))
    assert decision.choice.within_budget >= (second.within_budget and name != CURVE)


@settings(max_examples=60)
@given(st.data())
def test_with_votes_a_point_is_decided_on_at_any_stop(data: st.DataObject) -> None:
    count = 2 * 4 * 6
    right = data.draw(st.lists(st.integers(0, 1), min_size=count, max_size=count))
    tokens = data.draw(st.lists(st.integers(1, 99), min_size=count, max_size=count))
    frontier = Frontier(
        problems=("a", "b", "c", "d"),
        samples=np.ones(4),
        taus=np.array([0.0, 0.3, 0.9]),
        splits=np.array([0.0, 5e-324]),
        right=np.reshape(np.array(right, dtype=float), (2, 4, 6)),
        tokens=np.reshape(np.array(tokens, dtype=float), (2, 4, 6)),
        stops=np.array([0.0, 0.5]),
    )
    decision = decide(frontier, (0.5, 0.0))
    read = frontier.read(decision.choice.threshold, decision.choice.split, decision.choice.stop)
    assert decision.choice.accuracy.estimate == pytest.approx(read[0])
    assert decision.name == CAME or decision.name == CURVE or "always" in decision.name


def test_why_says_what_tells_them_apart() -> None:
    frontier = make_frontier([[[0, 1]] * 4], [[[50, 20]] * 4])
    dear, cheap = (describe_point(frontier, tau, 0.0) for tau in (0.0, 1.0))
    better = compare_points([("a", dear), ("b", cheap)], [], 0.0)
    assert (better.name, better.runner_up and better.runner_up[0]) == ("b", "a")
    assert "more is to be expected" in better.why
    equal = replace(dear, accuracy=cheap.accuracy)
    assert "the first costs less" in compare_points([("a", equal), ("b", cheap)], [], 0.0).why
    over = replace(cheap, within_budget=False)
    assert "does not keep to the budget" in compare_points([("a", dear), ("b", over)], [], 0.0).why
    broke = replace(dear, within_budget=False)
    assert "nothing keeps" in compare_points([("a", broke), ("b", over)], [], 0.0).why


@pytest.mark.usefixtures("cache_on_disk")
@pytest.mark.parametrize("budget", [None, 900])
def test_frontier_and_compile_take_the_same_point(tmp_path: Path, budget: int | None) -> None:
    world = World.noisy(3, parts=(1, 4))
    val, train = world.problems(12), world.problems(1, 100)
    program = SCALE(candidates=1)
    with fake_vllm(world) as server:
        lm = join(server)
        walks = walk_all(program, val, lm, tmp_path / "walks")
        found = summarise_frontier(walks, (0.5, 0.0), budget=budget)
        plan = Plan("none", budget=budget)
        tuned = compile_program(program, train, val, lm, tmp_path / "work", plan)
    choice = found["choices"]["most_accurate" if budget is None else "within_budget"]
    record = tuned.record or {}
    assert (tuned.threshold.value, tuned.split.value) == (choice["threshold"], choice["split"])
    assert record["after"]["accuracy"] == choice["accuracy"]["estimate"]
    assert record["held_out"] == choice["held_out"]
    assert (record["runner_up"] or {}).get("tokens") == (choice["runner_up"] or {}).get("tokens")
    assert choice["chosen_as"] in {CAME, CURVE} or choice["chosen_as"].startswith("always")
    assert record["told"][0].startswith("Chosen: ")
