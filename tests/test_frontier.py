"""Walks and frontiers: exact against brute force, frugal, resumable; choices that keep budgets."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path

import dspy
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scale_dspy import SCALE, connect, modes
from scale_dspy.evaluation.runner import solve_once
from scale_dspy.lm.connect import MeteredLM
from scale_dspy.lm.cost_limit import CostLimitError, limit_cost
from scale_dspy.lm.event_loop import run
from scale_dspy.program import Timing
from scale_dspy.tuning.choice import choose, settle
from scale_dspy.tuning.decision import summarise_frontier
from scale_dspy.tuning.frontier import Frontier, draw_frontier, list_curve, list_points
from scale_dspy.tuning.threshold_search import change
from scale_dspy.tuning.threshold_sweep import read_labels, walk_all
from tests.fake_vllm import FakeVLLM, Fault, fake_vllm
from tests.world import World

TIMINGS: tuple[Timing, ...] = ("in_context", "upfront")


def join(server: FakeVLLM, seed: int = 0) -> MeteredLM:
    return connect(server.model, server.api_base, seed=seed)


def solve(program: SCALE, example: dspy.Example, sample: int, lm: MeteredLM) -> tuple[float, float]:
    rollout = run(solve_once(program, example, sample, lm))
    assert rollout.error is None
    assert rollout.tokens is not None
    return rollout.correct, rollout.tokens


def sweep(
    program: SCALE, examples: list[dspy.Example], lm: MeteredLM, tau: float, split: float
) -> tuple[float, float]:
    """(accuracy, tokens) by running every problem at these thresholds."""
    outcomes = [solve(program.at(tau, split), example, 0, lm) for example in examples]
    right, tokens = np.mean(outcomes, axis=0)
    return float(right), float(tokens)


@pytest.mark.parametrize("timing", TIMINGS)
def test_frontier_equals_brute_force_over_1001_thresholds(timing: Timing, tmp_path: Path) -> None:
    world = World.noisy(3, parts=(2, 2), noise=0.2)
    examples = world.problems(1)
    program = SCALE(candidates=1, assess=timing, final_difficulty=None)
    with fake_vllm(world) as server:
        lm = join(server)
        frontier = draw_frontier(walk_all(program, examples, lm, tmp_path))
        sent = len(server.requests)
        assert len(frontier.taus) > 1
        for tau in (number / 1000 for number in range(1001)):
            assert frontier.read(tau) == pytest.approx(sweep(program, examples, lm, tau, 0))
        assert len(server.requests) == sent  # the walks had asked all there is to ask


@settings(max_examples=6, suppress_health_check=list(HealthCheck))
@given(
    seed=st.integers(0, 10_000),
    timing=st.sampled_from(TIMINGS),
    final=st.sampled_from([None, 0.9]),
    budget=st.sampled_from([None, 900]),
)
def test_frontier_is_exact_in_any_world(
    seed: int,
    timing: Timing,
    final: float | None,
    budget: int | None,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    world = World.noisy(seed, parts=(1, 4), noise=0.3)
    examples = world.problems(2)
    program = SCALE(candidates=2, assess=timing, final_difficulty=final, budget=budget)
    with fake_vllm(world) as server:
        lm = join(server, seed)
        walks = walk_all(program, examples, lm, tmp_path_factory.mktemp("walks"))
        frontier = draw_frontier(walks)
        sent = len(server.requests)
        chance = random.Random(seed)
        edges = [float(tau) for tau in frontier.taus]
        taus = {*edges, *(max(0.0, edge - 1e-6) for edge in edges), 1.0, chance.random()}
        ratings = [walk.difficulty for walk in walks]
        for split in (0.0, 1e-9, *ratings, max(0.0, ratings[0] - 1e-6), 1.0):
            for tau in chance.sample(sorted(taus), min(4, len(taus))):
                expected = sweep(program, examples, lm, tau, split)
                assert frontier.read(tau, split) == pytest.approx(expected), (tau, split)
        assert len(server.requests) == sent


@settings(max_examples=8, suppress_health_check=list(HealthCheck))
@given(
    seed=st.integers(0, 10_000),
    assess=st.sampled_from(["in_context", "draft", "agreement", "review"]),
    votes=st.sampled_from([1, 2, 5, 8]),
    weigh=st.booleans(),
    split_share=st.sampled_from([0.0, 0.5]),
)
def test_frontier_over_split_tau_and_stop_is_exact_in_any_world(
    seed: int,
    assess: Timing,
    votes: int,
    weigh: bool,
    split_share: float,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    world = World.noisy(seed, parts=(1, 3), softness=0.25, tokens_2=40, hard_share=split_share)
    examples = world.problems(2)
    program = SCALE(candidates=1, assess=assess, votes=votes, weigh=weigh, final_difficulty=None)
    with fake_vllm(world) as server:
        lm = join(server, seed)
        frontier = draw_frontier(walk_all(program, examples, lm, tmp_path_factory.mktemp("walks")))
        sent = len(server.requests)
        chance = random.Random(seed)
        cells = [
            (float(split), float(tau), float(stop))
            for split in frontier.splits
            for tau in (*frontier.taus, *np.maximum(0, frontier.taus - 1e-7), 1.0)
            for stop in (*frontier.stops, *np.maximum(0, frontier.stops - 1e-7), 0.999999)
        ]
        for split, tau, stop in chance.sample(cells, min(16, len(cells))):
            outcomes = [solve(program.at(tau, split, stop), each, 0, lm) for each in examples]
            expected = tuple(np.mean(outcomes, axis=0))
            assert frontier.read(tau, split, stop) == pytest.approx(expected), (split, tau, stop)
        assert len(server.requests) == sent  # the walks had asked all there is to ask


@pytest.mark.slow
@settings(max_examples=5, suppress_health_check=list(HealthCheck))
@given(
    seed=st.integers(0, 10_000),
    assess=st.sampled_from(["in_context", "draft", "agreement", "review"]),
    weigh=st.booleans(),
    budget=st.sampled_from([None, None, 900]),
)
def test_every_point_of_a_frontier_is_what_a_run_there_shows(
    seed: int,
    assess: Timing,
    weigh: bool,
    budget: int | None,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Every cell, between its edges too; and of whole problems every smaller vote, from the draws
    of the largest. No cell costs a request, and none is above the budget."""
    world = World.noisy(seed, parts=(1, 2), softness=0.3, tokens_2=40)
    examples = world.problems(1)
    made = SCALE(candidates=1, assess=assess, final_difficulty=None, budget=budget, votes=8)
    made.weigh = weigh
    with fake_vllm(world) as server:
        lm = join(server, seed)
        sent = 0
        for votes in (8, 4, 2):
            program = change(made, {"votes": votes})
            found = walk_all(program, examples, lm, tmp_path_factory.mktemp("walks"))
            if budget is None and votes < 8:
                assert len(server.chats("whole")) == sent
            sent = len(server.chats("whole"))
            frontier = draw_frontier(found)
            asked = len(server.requests)
            for split, tau, stop in list_cells(frontier):
                outcomes = [solve(program.at(tau, split, stop), each, 0, lm) for each in examples]
                expected = tuple(np.mean(outcomes, axis=0))
                assert frontier.read(tau, split, stop) == pytest.approx(expected), (split, tau)
                assert all(tokens <= (budget or tokens) for _, tokens in outcomes)
            assert len(server.requests) == asked


def list_cells(frontier: Frontier) -> list[tuple[float, float, float]]:
    """A point in each cell, and its first one: (split, tau, stop)."""

    def spread(starts: np.ndarray) -> list[float]:
        ends = [*starts[1:], 1.0]
        inner = [(low + high) / 2 for low, high in zip(starts, ends, strict=True)]
        return sorted({*map(float, starts), *map(float, inner)})

    splits, taus, stops = map(spread, (frontier.splits, frontier.taus, frontier.stops))
    return [(split, tau, stop) for split in splits for tau in taus for stop in stops]


def test_a_vote_is_replayed_from_its_own_draws(tmp_path: Path) -> None:
    """On whole problems every stop and every smaller vote costs no new request."""
    world = World(parts=(2, 2), whole_1=0.3, whole_2=0.6, tokens_2=30)
    examples = world.problems(6)
    with fake_vllm(world) as server:
        lm = join(server)
        for example in examples:
            solve(SCALE(0, split=1, votes=8, stop=0.999999), example, 0, lm)
        drawn = len(server.chats("whole"))
        assert drawn == 3 * len(examples)
        frontiers = {}
        for votes in (8, 4, 2):
            walks = walk_all(
                SCALE(candidates=1, votes=votes, final_difficulty=0.0),
                examples,
                lm,
                tmp_path / str(votes),
            )
            frontiers[votes] = draw_frontier(walks)
        assert len(server.chats("whole")) == drawn
    assert len(frontiers[8].stops) > 2
    tokens = [frontiers[8].read(0, 1, stop)[1] for stop in frontiers[8].stops]
    assert tokens == sorted(tokens)
    assert tokens[0] < frontiers[4].read(0, 1)[1] < tokens[-1]


@pytest.mark.slow
@pytest.mark.parametrize(("timing", "share"), [("upfront", 1 / 3), ("in_context", 1 / 2)])
def test_walks_ask_far_less_than_a_sweep_over_eight_thresholds(
    timing: Timing, share: float, tmp_path: Path
) -> None:
    world = World.noisy(5)
    examples = world.problems(12)
    program = SCALE(candidates=8, assess=timing)
    with fake_vllm(world) as server:
        walks = walk_all(program, examples, join(server), tmp_path / "walks")
        walked = len(server.requests)
        uncached = join(server).copy(cache=False)
        for tau in (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9):  # those of the paper's Table 2
            for example in examples:
                run(solve_once(program.at(tau), example, 0, uncached))
        swept = len(server.requests) - walked
    assert len(draw_frontier(walks).taus) > 8
    assert walked <= share * swept, (walked, swept)
    print(f"{timing}: {walked} of {swept} requests")


def test_walks_come_in_order_whatever_order_they_end_in(tmp_path: Path) -> None:
    world = World.noisy(7, parts=(1, 2))
    examples = world.problems(3)
    first = json.dumps(examples[0].problem)[1:-1]
    late = Fault(stage="decompose", stall=0.3, when=lambda body: first in json.dumps(body))
    with fake_vllm(world, faults=[late]) as server:
        walks = walk_all(SCALE(candidates=1), examples, join(server), tmp_path, samples=2)
    lines = (tmp_path / "walks.jsonl").read_text().splitlines()
    ended = [json.loads(line)["id"] for line in lines]
    assert ended[0] != examples[0].id
    assert [(walk.id, walk.sample) for walk in walks] == [
        (str(example.id), sample) for example in examples for sample in range(2)
    ]


def test_each_sample_is_walked_by_itself_and_interrupted_walks_resume(tmp_path: Path) -> None:
    world = World.noisy(7)
    examples = world.problems(3)
    program = SCALE(candidates=2)
    with fake_vllm(world) as server:
        lm = join(server)
        walk_all(program, examples[:2], lm, tmp_path / "a", samples=2)
        first = (tmp_path / "a" / "walks.jsonl").read_text().splitlines()
        sent = len(server.requests)
        torn = (tmp_path / "a" / "walks.jsonl").open("a")
        with torn:
            torn.write(first[0][:40])
        walks = walk_all(program, examples[:2], lm, tmp_path / "a", samples=2)
        assert len(server.requests) == sent
    assert sorted((walk.id, walk.sample) for walk in walks) == [
        (str(example.id), sample) for example in examples[:2] for sample in range(2)
    ]
    by_pair = {(walk.id, walk.sample): walk.split for walk in walks}
    assert by_pair[str(examples[0].id), 0] != by_pair[str(examples[0].id), 1]


def test_walks_of_another_program_are_not_gone_on_with(tmp_path: Path) -> None:
    world = World()
    with fake_vllm(world) as server:
        lm = join(server)
        walk_all(SCALE(candidates=1), world.problems(1), lm, tmp_path)
        walk_all(SCALE(0.9, candidates=1, split=0.4), world.problems(1), lm, tmp_path)
        with pytest.raises(ValueError, match="options"):
            walk_all(SCALE(candidates=2), world.problems(1), lm, tmp_path)
        with pytest.raises(ValueError, match="cache"):
            walk_all(SCALE(candidates=1), world.problems(1), lm.copy(cache=False), tmp_path)


def test_a_failed_walk_is_recorded_and_counts_as_wrong(tmp_path: Path) -> None:
    world = World()
    fault = Fault(status=400, when=lambda body: "problem 1]" in str(body))
    with fake_vllm(world, faults=[fault]) as server:
        lm = join(server)
        walks = walk_all(SCALE(candidates=1), world.problems(2), lm, tmp_path)
        assert {walk.id[-1]: bool(walk.error) for walk in walks} == {"0": False, "1": True}
        assert draw_frontier(walks).read(0.0)[0] == 0.5
        lost = [walk for walk in walks if walk.error]
        assert summarise_frontier([replace(lost[0], labels=())])["difficulty"] is None
    with fake_vllm(world) as server:
        lm = join(server)
        walks = walk_all(SCALE(candidates=1), world.problems(2), lm, tmp_path, retry_errors=True)
        assert not any(walk.error for walk in walks)


def test_labels_tell_what_system_1_and_2_agree_on(tmp_path: Path) -> None:
    world = World(11)  # System 1 solves up to 0.5, System 2 everything, and ratings are exact
    with fake_vllm(world) as server:
        walks = walk_all(
            SCALE(candidates=1, final_difficulty=None),
            world.problems(6),
            join(server),
            tmp_path,
        )
    labels = read_labels(walks)
    assert len(labels) > 10
    assert all(label.alike == (label.difficulty <= 0.5) for label in labels)


@pytest.mark.parametrize("limit", [200, 2_000])
def test_a_cost_limit_is_kept_and_what_was_done_stays(tmp_path: Path, limit: int) -> None:
    world = World.noisy(2, tokens_2=50)
    examples = world.problems(6)
    short = {stage: {"max_tokens": 150} for stage in ("decompose", "solve_1", "solve_2")}
    program = SCALE(candidates=1, modes=modes("hybrid", **short))
    with fake_vllm(world) as server:
        lm = join(server)
        with limit_cost(limit) as ledger, pytest.raises(CostLimitError):
            walk_all(program, examples, lm, tmp_path, threads=4)
        assert ledger.cost.completion_tokens <= limit
        assert ledger.cost.completion_tokens == server.totals().completion_tokens
        with limit_cost(limit) as again, pytest.raises(CostLimitError):
            walk_all(program, examples, lm, tmp_path, threads=4)
        total = ledger.cost.completion_tokens + again.cost.completion_tokens
        assert total == server.totals().completion_tokens
        walks = walk_all(program, examples, lm, tmp_path)
        assert [walk.error for walk in walks] == [None] * 6


def make_frontier(right: list[list[list[float]]], tokens: list[list[list[float]]]) -> Frontier:
    shape = np.array(right)
    return Frontier(
        problems=tuple(map(str, range(shape.shape[1]))),
        samples=np.ones(shape.shape[1]),
        taus=np.linspace(0, 1, shape.shape[2], endpoint=False),
        splits=np.array([0.0, 5e-324, 0.4][: shape.shape[0]]),
        right=shape,
        tokens=np.array(tokens, dtype=float),
    )


def test_choosing_the_best_the_affordable_and_the_cheap() -> None:
    #          tau from    0    0.2  0.4  0.6  0.8
    right = [[[1, 1, 1, 0, 0], [1, 1, 1, 1, 0], [1, 1, 0, 0, 0], [1, 1, 1, 1, 1]]]
    tokens = [[[90, 80, 80, 40, 10]] * 4]
    frontier = make_frontier(right, tokens)
    best = choose(frontier)
    assert (best.threshold, best.threshold_range) == (0.3, (0.2, 0.4))
    assert (best.accuracy.estimate, best.tokens.estimate) == (1.0, 80)
    thrifty = choose(frontier, margin=0.5)
    assert (thrifty.threshold, thrifty.accuracy.estimate) == (0.7, 0.5)
    afforded = choose(frontier, budget=50)
    assert (afforded.threshold, afforded.within_budget) == (0.7, True)
    poor = choose(frontier, budget=5)
    assert (poor.threshold, poor.within_budget) == (0.9, False)
    assert best.held_out is not None
    for bad in ({"budget": 0}, {"margin": 1.5}):
        with pytest.raises(ValueError, match="not"):
            choose(frontier, **bad)  # type: ignore[arg-type]


def test_a_lucky_point_yields_to_a_plain_one() -> None:
    """Every threshold errs on two problems of its own: a choice favours those it did not see."""
    right = np.ones((20, 21))
    right[17:, 0] = 0
    for column in range(1, 21):
        right[[column - 1, column % 20], column] = 0
    right[:, 20] = 0  # System 1 alone
    frontier = make_frontier([right.tolist()], np.full((1, 20, 21), 50.0).tolist())
    choice = choose(frontier)
    assert choice.threshold_range[0] > 0
    assert choice.accuracy.estimate > 0.85 > choice.expected
    settled = settle(frontier, choice)
    assert (settled.threshold, settled.accuracy.estimate) == (0.0, 0.85)
    assert settled.held_out is None


def test_a_point_that_is_better_than_plain_ones_stays() -> None:
    right, tokens = [[[0, 1, 0.5]] * 20, [[0, 1, 0]] * 20], [[[50, 20, 10]] * 20] * 2
    frontier = make_frontier(right, tokens)
    choice = choose(frontier)
    assert settle(frontier, choice) == choice
    assert settle(frontier, choose(frontier, budget=12), budget=12).tokens.estimate == 10


def test_plateaus_reach_over_edges_where_nothing_changes() -> None:
    right, tokens = [[[1, 1, 1, 0, 0]] * 3], [[[50, 50, 50, 40, 10]] * 3]
    choice = choose(make_frontier(right, tokens))
    assert (choice.threshold, choice.threshold_range) == (0.3, pytest.approx((0, 0.6)))


def test_middles_of_all_ranges_together_are_a_chosen_point() -> None:
    """Each of the ranges around a cell may be wide where both of them together are not."""
    frontier = make_frontier([[[0, 0]], [[1, 1]], [[1, 0]]], np.ones((3, 1, 2)).tolist())
    choice = choose(frontier)
    assert choice.accuracy.estimate == 1
    for tau in choice.threshold_range[0], choice.threshold_range[1] - 1e-9:
        for split in choice.split_range[0], choice.split_range[1] - 1e-9:
            assert frontier.read(tau, split) == (1, 1)


@settings(max_examples=40)
@given(st.data())
def test_no_point_is_better_than_the_chosen_and_points_are_undominated(data: st.DataObject) -> None:
    splits, problems, taus = (data.draw(st.integers(1, 3)) for _ in range(3))
    shape = (splits, problems, taus)
    count = splits * problems * taus
    right = data.draw(st.lists(st.integers(0, 1), min_size=count, max_size=count))
    tokens = data.draw(st.lists(st.integers(1, 9), min_size=count, max_size=count))
    frontier = make_frontier(np.reshape(right, shape).tolist(), np.reshape(tokens, shape).tolist())
    accuracy, cost = frontier.right.mean(axis=1), frontier.tokens.mean(axis=1)
    budget = data.draw(st.sampled_from([None, 3, 6]))
    choice = choose(frontier, budget=budget)
    assert frontier.read(choice.threshold, choice.split) == pytest.approx(
        (choice.accuracy.estimate, choice.tokens.estimate)
    )
    allowed = cost <= (budget or np.inf)
    if allowed.any():
        assert choice.accuracy.estimate == pytest.approx(accuracy[allowed].max())
    assert choice.within_budget == bool(allowed.any())
    points = list_points(frontier)
    assert points[-1]["accuracy"] == pytest.approx(accuracy.max())
    for point in points:
        worse = (accuracy >= point["accuracy"] - 1e-9) & (cost < point["tokens"] - 1e-9)
        assert not worse.any()
        assert frontier.read(point["threshold"], point["split"]) == pytest.approx(
            (point["accuracy"], point["tokens"])
        )
    assert [point["threshold"] for point in list_curve(frontier)] == frontier.taus.tolist()
