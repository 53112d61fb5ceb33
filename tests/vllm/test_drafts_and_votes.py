"""Drafts, probes and votes on the real vLLM, with a tiny Qwen3 of random weights that can think."""

from __future__ import annotations

from typing import Any

import dspy
import pytest

from scale_dspy import SCALE, connect, modes
from scale_dspy.lm.modes import Modes
from scale_dspy.step import Step
from tests.vllm.server import RealVLLM
from tests.vllm.shapes import shape

pytestmark = pytest.mark.vllm

PROBLEM = "A rectangle is 3 times as long as it is wide. Its perimeter is 96. What is its area?"
THOUGHTS = 12  # tokens
# A reply that ended while it thinks would have no result, which random weights like.
SHAPED = modes("hybrid", think_at_most=THOUGHTS, **shape(min_tokens=THOUGHTS + 2))
NEVER = 0.999999  # sure enough only if more passes agree than are drawn


def solve(server: RealVLLM, program: SCALE, seed: int = 0) -> dspy.Prediction:
    with dspy.context(lm=connect(server.model, server.api_base, seed=seed, cache=False)):
        return program(problem=PROBLEM)


def solve_whole(server: RealVLLM, seed: int = 0, modes: Modes = SHAPED, **how: Any) -> Step:
    program = SCALE(0, 1, split=1, modes=modes, **how)
    (step,) = solve(server, program, seed).steps
    return step


def results(step: Step) -> list[str | None]:
    return [vote.result for vote in step.votes]


def test_a_draft_does_not_think_and_carries_log_probabilities(hybrid: RealVLLM) -> None:
    prediction = solve(hybrid, SCALE(0.999, 1, split=0.999, assess="draft", modes=SHAPED))
    (step,) = prediction.steps
    assert step.system == 1
    assert step.reasoning == ""
    assert step.draft["result"] == prediction.answer is not None
    assert step.draft["unreadable"] == step.draft["cut_off"] == 0
    assert all(step.draft[name] > 0 for name in ("length", "mean", "window", "last"))
    assert prediction.usage["solve_1"]["calls"] == 1
    assert prediction.usage["solve_1"]["reasoning_tokens"] == 0
    assert prediction.usage["solve_1"]["completion_tokens"] == step.tokens
    assert sum(stage["calls"] for stage in prediction.usage.values()) == 1


def test_probes_are_one_request_and_what_is_escalated_thinks(hybrid: RealVLLM) -> None:
    program = SCALE(0.3, 1, split=0.999, assess="agreement", probes=5, modes=SHAPED)
    prediction = solve(hybrid, program)
    (step,) = prediction.steps
    drafts = [vote.result for vote in step.votes if vote.system == 1]
    assert len(set(drafts)) > 2  # numbers at random
    assert step.difficulty == pytest.approx(1 - max(map(drafts.count, drafts)) / 5)
    assert step.system == 2
    assert step.reasoning
    assert [vote.system for vote in step.votes] == [1] * 5 + [2]
    assert prediction.usage["solve_1"]["calls"] == prediction.usage["solve_2"]["calls"] == 1
    assert sum(vote.tokens for vote in step.votes) == step.tokens


def test_votes_come_in_waves_that_differ_and_a_seed_repeats_them(hybrid: RealVLLM) -> None:
    step = solve_whole(hybrid, votes=8, stop=NEVER)
    assert [vote.wave for vote in step.votes] == [0, 0, 1, 1, 2, 2, 2, 2]
    assert len(set(results(step))) > 5
    assert all(vote.tokens > 0 for vote in step.votes)
    assert sum(vote.tokens for vote in step.votes) == step.tokens
    assert results(solve_whole(hybrid, votes=8, stop=NEVER)) == results(step)
    assert results(solve_whole(hybrid, votes=4, stop=NEVER)) == results(step)[:4]
    assert results(solve_whole(hybrid, seed=1, votes=8, stop=NEVER)) != results(step)


def test_weighed_votes_begin_with_one_pass_and_measure_each(hybrid: RealVLLM) -> None:
    step = solve_whole(hybrid, votes=8, stop=NEVER, weigh=True)
    assert [vote.wave for vote in step.votes] == [0, 1, 2, 2, 3, 3, 3, 3]
    assert all(vote.features["mean"] > 0 for vote in step.votes)  # with log-probabilities
    assert len({vote.doubt for vote in step.votes}) > 4
    assert sum(vote.tokens for vote in step.votes) == step.tokens
    (first,) = solve_whole(hybrid, votes=8, stop=0.0, weigh=True).votes
    assert first == step.votes[0]


def test_votes_that_agree_end_the_drawing(hybrid: RealVLLM) -> None:
    body = {"structured_outputs": {"choice": [r"x = \boxed{7}"]}, "min_tokens": THOUGHTS + 2}
    agreed = modes("hybrid", think_at_most=THOUGHTS, solve_2={"max_tokens": 96, "extra_body": body})
    step = solve_whole(hybrid, modes=agreed, votes=8, stop=0.8)
    assert results(step) == ["7", "7"]


@pytest.mark.parametrize("votes", [1, 4])
def test_a_pass_that_is_cut_off_while_it_thinks_is_concluded(hybrid: RealVLLM, votes: int) -> None:
    forms = shape()
    short = modes(
        "hybrid",
        solve_1=forms["solve_1"],
        solve_2={"max_tokens": 24, "extra_body": {"min_tokens": 24}},
    )
    program = SCALE(0, 1, split=1, votes=votes, stop=1, modes=short)
    prediction = solve(hybrid, program)
    (step,) = prediction.steps
    assert prediction.answer is not None
    assert step.system == 2
    assert step.reasoning
    assert prediction.usage["solve_2"]["calls"] == 1
    assert prediction.usage["solve_2"]["completion_tokens"] == 24 * votes
    assert prediction.usage["solve_1"]["calls"] == votes
    if votes > 1:
        assert None not in results(step)
