"""The baselines against the fake server: what each sends, answers and costs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import dspy
import pytest

from scale_dspy import connect, modes
from scale_dspy.baselines import (
    ChainOfThought,
    InftyThink,
    MajorityVote,
    ProblemRouting,
    make_program,
)
from scale_dspy.method import Solver
from scale_dspy.methods import METHODS
from tests.fake_vllm import FakeVLLM, Fault, fake_vllm
from tests.world import World

EASY = World(whole_1=1.0, whole_2=1.0)


def solve(server: FakeVLLM, program: Solver, problem: str, **kwargs: Any) -> dspy.Prediction:
    with dspy.context(lm=connect(server.model, server.api_base, seed=0)):
        return program(problem=problem, **kwargs)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_answers_and_counts(method: str) -> None:
    world = replace(EASY, ability_1=1.0)  # where even System 1 solves every part
    (example,) = world.problems(1)
    with fake_vllm(world) as server:
        prediction = solve(server, make_program(method), example.problem)
        assert prediction.answer == example.answer
        spent = sum(stage["completion_tokens"] for stage in prediction.usage.values())
        assert spent == server.totals().completion_tokens > 0
        assert prediction.steps[-1].subproblem == example.problem
        assert prediction.replaced == []


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("budget", [64, 300, 1200])
def test_every_method_keeps_a_budget(method: str, budget: int) -> None:
    world = World(tokens_2=400)
    with fake_vllm(world) as server:
        for example in world.problems(3):
            server.clear()
            solve(server, make_program(method, budget=budget), example.problem)
            assert 0 < server.totals().completion_tokens <= budget


def test_passes_in_requests_of_their_own_share_a_budget() -> None:
    world = World(whole_2=1.0, tokens_2=60)
    (example,) = world.problems(1)
    alone = modes("hybrid", solve_2={"n": 1})
    with fake_vllm(world) as server:
        prediction = solve(server, MajorityVote(budget=4000, modes=alone), example.problem)
        sent = [request.body["max_tokens"] for request in server.chats("whole")]
        assert sent == [4000 // 8] * 8
        assert prediction.answer == example.answer
        assert server.totals().completion_tokens <= 4000


def test_more_passes_than_a_budget_has_room_for() -> None:
    (example,) = EASY.problems(1)
    with fake_vllm(EASY) as server:
        prediction = solve(server, MajorityVote(100, budget=64), example.problem)
        assert len(prediction.answers) == 8
        assert server.totals().completion_tokens <= 64


def test_chain_of_thought_is_one_thinking_call() -> None:
    (example,) = EASY.problems(1)
    with fake_vllm(EASY) as server:
        prediction = solve(server, ChainOfThought(), example.problem)
        (request,) = server.chats()
        assert request.body["chat_template_kwargs"]["enable_thinking"]
        assert prediction.steps[0].system == 2


def test_majority_vote_is_one_request_of_8_samples() -> None:
    world = World(whole_2=0.7)
    (example,) = world.problems(1)
    with fake_vllm(world) as server:
        prediction = solve(server, MajorityVote(), example.problem)
        (request,) = server.chats()
        assert request.body["n"] == 8
        counts = [prediction.answers.count(answer) for answer in prediction.answers]
        assert len(prediction.answers) == 8
        assert prediction.answers.count(prediction.answer) == max(counts)


def test_majority_vote_where_nobody_answers() -> None:
    (example,) = EASY.problems(1)
    with fake_vllm(EASY, faults=[Fault(content="no idea")]) as server:
        prediction = solve(server, MajorityVote(), example.problem)
        assert prediction.answer is None
        assert prediction.steps[0].solution == "no idea"


def test_infty_think_summarises_between_bounded_rounds() -> None:
    world = World(whole_2=1.0, tokens_2=2000)
    (example,) = world.problems(1)
    with fake_vllm(world) as server:
        program = InftyThink(rounds=3, round_tokens=100)
        prediction = solve(server, program, example.problem)
        thought = [request.body for request in server.chats() if request.system == 2]
        assert len(thought) == 3
        assert {body["max_tokens"] for body in thought} == {100}
        assert "Summary of the work so far:" not in thought[0]["messages"][-1]["content"]
        assert "Summary of the work so far:" in thought[1]["messages"][-1]["content"]
        assert len(server.chats()) == 3 + 3 + 1
        assert prediction.usage["solve_1"]["calls"] == 4


def test_a_summary_is_held_to_no_grammar() -> None:
    program = InftyThink(modes="embedded")
    assert "grammar" in program.conclude.config["extra_body"]
    assert "extra_body" not in program.summarise.config
    assert program.summarise.config["max_tokens"] == 256
    switched = InftyThink(modes="hybrid").summarise.config["extra_body"]
    assert switched == {"chat_template_kwargs": {"enable_thinking": False}}


def test_infty_think_stops_at_an_answer() -> None:
    (example,) = EASY.problems(1)
    with fake_vllm(EASY) as server:
        prediction = solve(server, InftyThink(), example.problem)
        assert len(server.chats()) == 1
        assert prediction.answer == example.answer


def test_problem_routing_rates_once_and_solves_whole() -> None:
    world = replace(EASY, parts=(1, 1))
    (example,) = world.problems(1)
    with fake_vllm(world) as server:
        hard = solve(server, ProblemRouting(0.01), example.problem)
        easy = solve(server, ProblemRouting(0.99), example.problem)
        # The score is the same for every threshold, so the second time it comes from the cache.
        stages = [request.stage for request in server.chats()]
        assert stages == ["assess", "whole", "solve_1"]
        assert [step.system for step in (*hard.steps, *easy.steps)] == [2, 1]


def test_methods_of_the_prompt_style_say_nothing_of_thinking() -> None:
    (example,) = EASY.problems(1)
    for method in METHODS:
        with fake_vllm(EASY) as server:
            solve(server, make_program(method, modes="prompt"), example.problem)
            assert not any("chat_template_kwargs" in request.body for request in server.chats())


def test_arguments_outside_their_range() -> None:
    with pytest.raises(ValueError, match="samples is a whole number"):
        MajorityVote(samples=0)
    with pytest.raises(ValueError, match="rounds is a whole number"):
        InftyThink(rounds=0)
    with pytest.raises(ValueError, match="unknown method"):
        make_program("guess")
    with pytest.raises(ValueError, match="cot has no threshold"):
        make_program("cot", threshold=0.5)


def test_one_choice_a_request_where_the_modes_say_so() -> None:
    world = World(whole_2=0.7)
    (example,) = world.problems(1)
    with fake_vllm(world) as server:
        program = MajorityVote(samples=4, modes=modes("hybrid", solve_2={"n": 1}))
        solve(server, program, example.problem)
        assert len(server.chats()) == 4
        assert len({request.body["seed"] for request in server.chats()}) == 4
