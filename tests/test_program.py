"""SCALE against the fake server: what it sends, what it answers, what it does with bad replies."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import dspy
import pytest
from dspy.utils.exceptions import LMError
from hypothesis import given, settings
from hypothesis import strategies as st

from scale_dspy import SCALE, connect, modes
from scale_dspy.lm.adapter import PlainAdapter
from scale_dspy.lm.cache import Store, use
from scale_dspy.lm.connect import MeteredLM
from scale_dspy.lm.event_loop import run
from scale_dspy.program import load_program
from scale_dspy.stages.ask import ATTEMPTS
from scale_dspy.utils.lists import read_list
from tests.fake_vllm import FakeVLLM, Fault, fake_vllm
from tests.world import World

SEVEN = World(parts=(7, 7), noise=0.05, slip=0.1)


def solve(program: SCALE, lm: MeteredLM, problem: str, **kwargs: Any) -> dspy.Prediction:
    with dspy.context(lm=lm):
        return program(problem=problem, **kwargs)


def thinking(body: dict[str, Any]) -> bool:
    return bool(body["chat_template_kwargs"]["enable_thinking"])


def test_answers_with_every_step_on_record(server: FakeVLLM, lm: MeteredLM) -> None:
    for example in World().problems(5):
        prediction = solve(SCALE(), lm, example.problem)
        assert prediction.answer == example.answer
        assert prediction.replaced == []
        assert prediction.steps[-1].subproblem == example.problem
        assert all(step.solution and step.tokens > 0 for step in prediction.steps)
        assert all((step.system == 2) == bool(step.reasoning) for step in prediction.steps)
        assert all((step.system == 2) == (step.difficulty > 0.5) for step in prediction.steps)


@pytest.mark.parametrize(("assess", "rounds"), [("upfront", 10), ("in_context", 15)])
def test_few_requests_in_few_rounds(assess: Any, rounds: int) -> None:
    with fake_vllm(SEVEN, delay=0.05) as server:
        lm = connect(server.model, server.api_base, seed=0)
        (example,) = SEVEN.problems(1)
        prediction = solve(SCALE(assess=assess), lm, example.problem)
        assert len(prediction.steps) == 7
        assert len(server.requests) <= 15
        assert {request.path for request in server.requests} == {"/v1/chat/completions"}
        assert server.rounds() <= rounds


@pytest.mark.parametrize("assess", ["in_context", "upfront"])
def test_threshold_ends_switch_thinking_on_and_off(
    server: FakeVLLM, lm: MeteredLM, assess: Any
) -> None:
    (example,) = World().problems(1)
    solve(SCALE(threshold=0, assess=assess), lm, example.problem)
    assert all(thinking(request.body) for request in server.chats("solve"))
    server.clear()
    prediction = solve(SCALE(threshold=1, assess=assess), lm, example.problem)
    assert server.chats("solve")
    assert not any(thinking(request.body) for request in server.chats())
    assert prediction.usage["solve_2"]["calls"] == 0
    assert all(step.system == 1 for step in prediction.steps)


def test_a_score_of_zero_is_system_1_at_threshold_zero() -> None:
    with fake_vllm(faults=[Fault(stage="assess", content="0")]) as server:
        lm = connect(server.model, server.api_base)
        (example,) = World().problems(1)
        prediction = solve(SCALE(threshold=0), lm, example.problem)
        assert [step.system for step in prediction.steps[:-1]] == [1] * (len(prediction.steps) - 1)


@pytest.mark.parametrize(
    ("options", "threshold", "last"),
    [
        ({}, 0.5, 2),
        ({}, 0.9, 1),
        ({"assess": "none"}, 0.5, 2),
        ({"assess": "none"}, 0.9, 1),
        ({"final_difficulty": 0.2}, 0.5, 1),
    ],
)
def test_the_last_step(
    server: FakeVLLM, lm: MeteredLM, options: dict[str, Any], threshold: float, last: int
) -> None:
    (example,) = World().problems(1)
    prediction = solve(SCALE(threshold=threshold, **options), lm, example.problem)
    assert prediction.steps[-1].system == last
    if options.get("assess") == "none":
        assert not server.chats("assess")
        assert [step.system for step in prediction.steps[:-1]] == [1] * (len(prediction.steps) - 1)


@pytest.mark.parametrize("assess", ["in_context", "upfront"])
def test_the_last_step_is_rated_without_a_final_difficulty(
    server: FakeVLLM, lm: MeteredLM, assess: Any
) -> None:
    (example,) = World().problems(1)
    program = SCALE(final_difficulty=None, assess=assess)
    prediction = solve(program, lm, example.problem)
    assert len(server.chats("assess")) == len(prediction.steps)
    assert prediction.steps[-1].difficulty is not None


def test_split_solves_easy_problems_whole(server: FakeVLLM, lm: MeteredLM) -> None:
    (example,) = World().problems(1)
    prediction = solve(SCALE(split=1.0), lm, example.problem)
    assert [step.subproblem for step in prediction.steps] == [example.problem]
    assert [request.stage for request in server.chats()] == ["assess", "whole"]
    server.clear()
    solve(SCALE(split=0.0), lm, example.problem)
    assert server.chats()[0].stage == "decompose"


def test_same_seed_same_prediction() -> None:
    world = World.noisy()
    (example,) = world.problems(1)
    with fake_vllm(world) as server:
        predictions = []
        for _ in range(2):
            use(Store(None))
            lm = connect(server.model, server.api_base, seed=7)
            predictions.append(solve(SCALE(assess="upfront"), lm, example.problem))
        first, second = predictions
        assert first.steps == second.steps
        assert first.answer == second.answer
        other = connect(server.model, server.api_base, seed=8)
        assert solve(SCALE(assess="upfront"), other, example.problem).steps != first.steps


def test_rollout_ids_draw_new_samples_and_new_seeds() -> None:
    world = World.noisy()
    (example,) = world.problems(1)
    with fake_vllm(world) as server:
        lm = connect(server.model, server.api_base, seed=7)
        for sample in range(4):
            solve(SCALE(candidates=1), lm.copy(rollout_id=sample), example.problem)
        seeds = [request.body["seed"] for request in server.chats("decompose")]
        assert len(set(seeds)) == 4
        assert "rollout_id" not in server.chats()[0].body


def test_sync_async_and_another_loop_agree(server: FakeVLLM, lm: MeteredLM) -> None:
    (example,) = World().problems(1)
    program = SCALE()

    async def call() -> dspy.Prediction:
        with dspy.context(lm=lm):
            return await program.acall(problem=example.problem)

    assert asyncio.run(call()).steps == asyncio.run(call()).steps
    assert solve(program, lm, example.problem).steps == asyncio.run(call()).steps


def test_sampling_is_the_modes_and_overridable(server: FakeVLLM, lm: MeteredLM) -> None:
    (example,) = World().problems(1)
    program = SCALE(
        candidates=3, modes=modes("hybrid", think_at_most=2000, solve_2={"max_tokens": 4000})
    )
    solve(program, lm, example.problem)
    decompose = server.chats("decompose")[0].body
    assert decompose["n"] == 3
    assert (decompose["temperature"], decompose["top_p"], decompose["top_k"]) == (0.7, 0.8, 20)
    system_2 = server.chats("solve_2")[0].body
    assert (system_2["temperature"], system_2["top_p"], system_2["max_tokens"]) == (0.6, 0.95, 4000)
    assert system_2["thinking_token_budget"] == 2000


def test_prompt_style_never_speaks_of_thinking(server: FakeVLLM, lm: MeteredLM) -> None:
    (example,) = World().problems(1)
    solve(SCALE(modes="prompt"), lm, example.problem)
    assert not any("chat_template_kwargs" in request.body for request in server.chats())


def test_a_server_that_ignores_n_is_asked_concurrently() -> None:
    world = World.noisy()
    (example,) = world.problems(1)
    with fake_vllm(world, delay=0.05, ignore_n=True) as server:
        lm = connect(server.model, server.api_base, seed=0)
        with dspy.context(lm=lm, adapter=PlainAdapter()):
            run(SCALE().decompose.acall(problem=example.problem))
        asked = server.chats("decompose")
        assert len(asked) == 8
        assert len({request.body["seed"] for request in asked}) == 8
        assert server.rounds() <= 3


def test_a_budget_leaves_room_for_candidates_that_are_asked_for_one_by_one() -> None:
    world = World()
    (example,) = world.problems(1)
    with fake_vllm(world, ignore_n=True) as server:
        lm = connect(server.model, server.api_base, seed=0)
        prediction = solve(SCALE(budget=8000), lm, example.problem)
        assert len(server.chats("decompose")) == 8
        assert len(prediction.steps) > 1
        assert prediction.replaced == []
        assert server.totals().completion_tokens <= 8000


LATEX = [r"\frac{a}{b}", r"\theta", r"\boxed{}", "{", "}}", r"\nu \rho \to \beta", "α ≤ ∞", r"\\"]


@settings(max_examples=25)
@given(st.lists(st.sampled_from(LATEX), min_size=1, max_size=4), st.sampled_from(LATEX))
def test_latex_goes_from_decompose_to_solve_unharmed(parts: list[str], ending: str) -> None:
    item = f"Find $x$ from {' '.join(parts)} now."
    solution = f"So {ending} and {' '.join(parts)} holds."
    with fake_vllm() as server:
        server.play(
            Fault(stage="decompose", content=f"1. {item}\n2. Answer."),
            Fault(stage="assess", content="0.1"),
            Fault(stage="solve", content=solution),
        )
        problem = f"{World().problem(0).text} Given {ending}."
        lm = connect(server.model, server.api_base, cache=False)
        prediction = solve(SCALE(), lm, problem)
        first, second = (chat.body["messages"][-1]["content"] for chat in server.chats()[-2:])
        (rating,) = server.chats("assess")
        assert [step.subproblem for step in prediction.steps] == [item, problem]
        assert [step.solution for step in prediction.steps] == [solution, solution]
        assert f"Sub-problem:\n{item}\n" in rating.body["messages"][-1]["content"]
        assert f"Sub-problem:\n{item}\n" in first
        assert f"1. {item}\n{solution}\n" in second


BAD_REPLIES = [
    (Fault(stage="decompose", content="I would rather not."), "decompose: no list"),
    (Fault(stage="select", content="all of them"), "select: unreadable reply"),
    (Fault(stage="assess", content="high"), "assess: unreadable reply 'high'"),
    (Fault(stage="assess", content="1.7"), "assess: unreadable reply '1.7'"),
    (Fault(stage="assess", content="<think>0.3"), "assess: unreadable reply ''"),
    (Fault(stage="solve", null_content=True), "no solution"),
    (Fault(stage="solve", empty_choices=True), "no solution"),
]


@pytest.mark.parametrize(("fault", "complaint"), BAD_REPLIES)
def test_bad_replies_are_asked_again_then_replaced(fault: Fault, complaint: str) -> None:
    world = World.noisy()
    (example,) = world.problems(1)
    with fake_vllm(world, faults=[fault]) as server:
        lm = connect(server.model, server.api_base, seed=0)
        prediction = solve(SCALE(), lm, example.problem)
        assert any(complaint in note for note in prediction.replaced), prediction.replaced
        asked = server.chats(fault.stage)
        assert len(asked) <= ATTEMPTS * 12
        assert len({request.body["seed"] for request in asked}) == len(asked)


def test_one_bad_reply_is_asked_again_and_forgotten() -> None:
    with fake_vllm(faults=[Fault(stage="assess", nth=1, content="high")]) as server:
        lm = connect(server.model, server.api_base)
        (example,) = World().problems(1)
        prediction = solve(SCALE(), lm, example.problem)
        assert prediction.replaced == []
        assert prediction.answer == example.answer


def test_leaked_thinking_is_not_read_as_the_answer() -> None:
    leak = Fault(stage="solve", content=r"<think>perhaps \boxed{1}</think>so it is \boxed{2}")
    with fake_vllm(faults=[leak]) as server:
        lm = connect(server.model, server.api_base)
        (example,) = World().problems(1)
        prediction = solve(SCALE(threshold=1), lm, example.problem)
        assert prediction.answer == "2"
        assert prediction.steps[-1].reasoning == r"perhaps \boxed{1}"


def test_thinking_that_runs_out_of_room_is_concluded_not_repeated() -> None:
    world = World(tokens_2=400)
    (example,) = world.problems(1)
    with fake_vllm(world) as server:
        lm = connect(server.model, server.api_base)
        program = SCALE(threshold=0, modes=modes("hybrid", solve_2={"max_tokens": 100}))
        prediction = solve(program, lm, example.problem)
        steps = len(prediction.steps)
        assert len(server.chats("solve_2")) == steps
        assert len(server.chats("solve_1")) == steps
        (first, *_) = server.chats("solve_1")
        draft = server.chats("solve_2")[0]
        assert "Unfinished work on the sub-problem:" in first.body["messages"][-1]["content"]
        assert draft.usage["completion_tokens"] == 100
        assert all(step.system == 2 and step.solution for step in prediction.steps)


def test_context_overflow_takes_the_room_there_is() -> None:
    with fake_vllm(max_model_len=4000) as server:
        lm = connect(server.model, server.api_base)
        (example,) = World().problems(1)
        prediction = solve(SCALE(), lm, example.problem)
        assert prediction.answer == example.answer


def test_a_limit_above_the_whole_window_takes_the_room_there_is() -> None:
    """As vLLM 0.32 words it, which LiteLLM does not take for an overflow."""
    refusal = "max_tokens=32768 cannot be greater than max_model_len=8192. Please request fewer"
    refuse = Fault(
        status=400, message=refusal, when=lambda body: (body.get("max_tokens") or 0) > 8192
    )
    with fake_vllm(faults=[refuse]) as server:
        (example,) = World().problems(1)
        lm = connect(server.model, server.api_base)
        assert solve(SCALE(), lm, example.problem).answer == example.answer


@pytest.mark.parametrize("budget", [64, 100, 200, 400, 800, 1600, 3200])
@pytest.mark.parametrize("assess", ["in_context", "upfront"])
def test_budget_is_kept_and_an_answer_given(budget: int, assess: Any) -> None:
    world = World(parts=(6, 6), tokens_1=12, tokens_2=300)
    with fake_vllm(world) as server:
        lm = connect(server.model, server.api_base, seed=0)
        for example in world.problems(4):
            server.clear()
            prediction = solve(SCALE(assess=assess), lm, example.problem, budget=budget)
            spent = sum(stage["completion_tokens"] for stage in prediction.usage.values())
            assert spent == server.totals().completion_tokens <= budget
            cut = any("cut off" in note for note in prediction.replaced)
            if budget > 64 or not cut:  # the last number of a text that breaks off is no answer
                assert prediction.answer is not None
            else:
                assert prediction.answer is None or r"\boxed" in prediction.steps[-1].solution


def test_a_tight_budget_turns_system_2_into_system_1() -> None:
    world = World(parts=(5, 5), hard_share=1.0)
    (example,) = world.problems(1)
    with fake_vllm(world) as server:
        lm = connect(server.model, server.api_base, seed=0)
        free = solve(SCALE(candidates=1), lm, example.problem)
        tight = solve(SCALE(candidates=1, budget=900), lm, example.problem)
        assert {step.system for step in free.steps} == {2}
        assert 1 in {step.system for step in tight.steps}
        assert any("budget" in note for note in tight.replaced)


@pytest.mark.parametrize("problem", ["", "   \n", None, 7, ["a"]])
def test_no_problem_no_call(server: FakeVLLM, lm: MeteredLM, problem: Any) -> None:
    with pytest.raises(ValueError, match="a problem is a text"):
        solve(SCALE(), lm, problem)
    assert not server.requests


@pytest.mark.parametrize("budget", [0, -5, 63, 1.5, True, "many"])
def test_budgets_outside_the_range(budget: Any) -> None:
    with pytest.raises(ValueError, match="a budget is a whole number"):
        SCALE(budget=budget)


def test_options_outside_their_range() -> None:
    with pytest.raises(ValueError, match="assess is one of"):
        SCALE(assess="later")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="candidates is a whole number"):
        SCALE(candidates=0)
    with pytest.raises(ValueError, match="final_difficulty must be a number"):
        SCALE(assess="none", final_difficulty=None)
    with pytest.raises(ValueError, match="unknown style"):
        SCALE(modes="telepathy")  # type: ignore[arg-type]


def test_a_budget_needs_an_lm_that_counts() -> None:
    with (
        dspy.context(lm=dspy.utils.DummyLM([{"answer": "1"}])),
        pytest.raises(ValueError, match="connect"),
    ):
        SCALE()(problem="1+1", budget=1000)


def test_a_dead_server_ends_in_one_error() -> None:
    lm = connect("gone", "http://127.0.0.1:9/v1", num_retries=0)
    with pytest.raises(LMError):
        solve(SCALE(), lm, "1+1")


def test_the_trace_shows_the_chosen_list() -> None:
    world = World(parts=(5, 5), lacking=0.5, superfluous=0.3)
    differing = 0
    with fake_vllm(world) as server:
        lm = connect(server.model, server.api_base, seed=0)
        for example in world.problems(5):
            program = SCALE(threshold=1.0)
            with dspy.context(lm=lm, trace=[]):
                prediction = program(problem=example.problem)
                trace = list(dspy.settings.trace)
            (listed,) = (out for who, _, out in trace if who is program.decompose.propose)
            chosen = [step.subproblem for step in prediction.steps[:-1]]
            assert read_list(listed.subproblems)[:-1] == chosen
            first = read_list(server.chats("decompose")[-1].replies[0] or "")
            differing += first[:-1] != chosen
    assert differing > 0


def test_nothing_is_written_on_the_program(server: FakeVLLM, lm: MeteredLM) -> None:
    program = SCALE()
    before = program.dump_state()
    attributes = set(vars(program))
    (example,) = World().problems(1)
    solve(program, lm, example.problem)
    assert program.dump_state() == before
    assert set(vars(program)) == attributes


def test_files_of_earlier_versions_have_no_cap(tmp_path: Path) -> None:
    SCALE().save(tmp_path / "new.json")
    state = json.loads((tmp_path / "new.json").read_text())
    del state["scale_dspy"]["options"]["system_2_cap"]
    (tmp_path / "old.json").write_text(json.dumps(state))
    assert load_program(tmp_path / "old.json").system_2_cap is None
