"""The whole program on the real vLLM, with a tiny Qwen3 of random weights that can think or not."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dspy
import httpx
import pytest
from dspy.utils.exceptions import ContextWindowExceededError

from scale_dspy import SCALE, connect, modes, track
from scale_dspy.cli.main import main
from scale_dspy.lm.adapter import PlainAdapter
from scale_dspy.lm.connect import MeteredLM
from scale_dspy.lm.event_loop import run
from scale_dspy.stages.ask import ask
from tests.vllm.server import RealVLLM
from tests.vllm.shapes import shape

pytestmark = pytest.mark.vllm

PROBLEM = "A rectangle is 3 times as long as it is wide. Its perimeter is 96. What is its area?"
QUESTION = [{"role": "user", "content": PROBLEM}]


@pytest.fixture
def real_lm(hybrid: RealVLLM) -> MeteredLM:
    return connect(hybrid.model, hybrid.api_base, seed=0, cache=False)


def count(server: RealVLLM, work: Callable[[], Any]) -> dict[str, float]:
    """How much vLLM's own counters grew while `work` was done."""
    before = server.metrics()
    work()
    # They are written after the reply.
    deadline = time.monotonic() + 20
    after = server.metrics()
    while after["num_requests_running"] and time.monotonic() < deadline:
        time.sleep(0.1)
        after = server.metrics()
    time.sleep(0.3)
    after = server.metrics()
    return {name: value - before.get(name, 0.0) for name, value in after.items()}


def test_the_modes_really_differ(real_lm: MeteredLM) -> None:
    configs = modes("hybrid", think_at_most=12, solve_1={"max_tokens": 64})
    config = {**configs["solve_2"], "max_tokens": 96, "n": 8}
    with track() as off:
        plain = real_lm(messages=QUESTION, **configs["solve_1"], n=8)
    with track() as on:
        thought = real_lm(messages=QUESTION, **config)
    assert not any(isinstance(output, dict) and output.get("reasoning_content") for output in plain)
    assert any(isinstance(output, dict) and output.get("reasoning_content") for output in thought)
    assert off.total().reasoning_tokens == 0
    assert 0 < on.total().reasoning_tokens < on.total().completion_tokens
    # The closed block is in the prompt of System 1.
    assert off.total().prompt_tokens > on.total().prompt_tokens


def test_reasoning_is_in_its_field(hybrid: RealVLLM) -> None:
    body = {"model": hybrid.model, "messages": QUESTION, "max_tokens": 32, "top_k": 20}
    body |= {"thinking_token_budget": 8, "min_tokens": 24}
    reply = httpx.post(f"{hybrid.api_base}/chat/completions", json=body, timeout=60).json()
    message = reply["choices"][0]["message"]
    assert message["reasoning"]
    assert message["content"]
    assert "reasoning_content" not in message


@pytest.mark.parametrize("most", [0, 8, 24])
def test_a_thinking_budget_is_kept(real_lm: MeteredLM, most: int) -> None:
    config = modes("hybrid", think_at_most=most)["solve_2"]
    config["extra_body"]["min_tokens"] = 40  # so that no reply ends while it thinks
    with track() as ledger:
        real_lm(messages=QUESTION, **{**config, "max_tokens": 64, "n": 4})
    reasoned = ledger.total().reasoning_tokens
    assert 4 * most - 8 <= reasoned <= 4 * most


def test_choices_come_from_one_request_and_differ(hybrid: RealVLLM, real_lm: MeteredLM) -> None:
    replies: list[Any] = []
    config = {**modes()["solve_1"], "max_tokens": 48, "n": 8}
    with track() as ledger:
        count(hybrid, lambda: replies.extend(real_lm(messages=QUESTION, **config)))
    assert ledger.total().calls == 1
    assert len(replies) == 8
    assert len({str(reply) for reply in replies}) > 4


def test_a_seed_repeats_and_a_rollout_draws_anew(hybrid: RealVLLM) -> None:
    config = {**modes()["solve_1"], "max_tokens": 48, "temperature": 1.0}

    def draw(seed: int, rollout: int) -> str:
        lm = connect(hybrid.model, hybrid.api_base, seed=seed, cache=False)
        return str(lm.copy(rollout_id=rollout)(messages=QUESTION, **config))

    first = draw(0, 0)
    assert draw(0, 0) == first
    assert len({first, draw(0, 1), draw(0, 2), draw(1, 0)}) >= 3


def test_a_whole_problem_and_its_tokens(hybrid: RealVLLM, real_lm: MeteredLM) -> None:
    """Also structured output: every list, score and box comes from a regex or a choice."""
    scale = SCALE(candidates=4, modes=modes("hybrid", think_at_most=12, **shape()))
    solved: list[dspy.Prediction] = []

    def solve() -> None:
        with dspy.context(lm=real_lm):
            solved.append(scale(problem=PROBLEM))

    with track() as ledger:
        grown = count(hybrid, solve)
    (prediction,) = solved
    assert len(prediction.steps) == 3
    assert {step.difficulty for step in prediction.steps} <= {0.2, 0.8, 0.9}
    assert prediction.answer is not None
    assert 1 <= int(prediction.answer) <= 999
    assert not [note for note in prediction.replaced if not note.startswith("step")]
    total = ledger.total()
    assert total.completion_tokens == grown["generation_tokens_total"]
    assert total.completion_tokens == sum(
        stage["completion_tokens"] for stage in prediction.usage.values()
    )
    # vLLM counts the prompt of a request with n choices n times, its usage counts it once.
    extra = 3 * prediction.usage["decompose"]["prompt_tokens"]
    assert grown["prompt_tokens_total"] in (total.prompt_tokens, total.prompt_tokens + extra)
    assert 0 < total.reasoning_tokens < prediction.usage["solve_2"]["completion_tokens"]
    assert prediction.usage["solve_1"]["reasoning_tokens"] == 0


def test_a_budget_holds(real_lm: MeteredLM) -> None:
    scale = SCALE(candidates=2, budget=400)
    with dspy.context(lm=real_lm):
        prediction = scale(problem=PROBLEM)
    spent = sum(stage["completion_tokens"] for stage in prediction.usage.values())
    assert 0 < spent <= 400


def test_a_cancelled_call_stops_on_the_server(hybrid: RealVLLM, real_lm: MeteredLM) -> None:
    config = {**modes()["solve_1"], "max_tokens": 3500}
    config["extra_body"] = {**config["extra_body"], "ignore_eos": True}

    async def ask_and_leave() -> float:
        before = hybrid.metrics()["generation_tokens_total"]
        call = asyncio.ensure_future(real_lm.acall(messages=QUESTION, **config))
        await asyncio.sleep(0.7)  # of about seven seconds
        assert not call.done()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await wait_for(lambda: hybrid.metrics()["num_requests_running"] == 0)
        return hybrid.metrics()["generation_tokens_total"] - before

    # On two cores the engine's spinning worker can starve vLLM's front end, and this process, for
    # as long as it generates: a cancelled call then reaches it too late. Never every time.
    made = [3500.0]
    while made[-1] >= 3000 and len(made) <= 6:
        made.append(run(ask_and_leave()))
    assert made[-1] < 3000, made


async def wait_for(holds: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not await asyncio.to_thread(holds):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


def test_solve_on_the_command_line(hybrid: RealVLLM, capsys: pytest.CaptureFixture[str]) -> None:
    code = main(
        [
            "solve",
            PROBLEM,
            "--api-base",
            hybrid.api_base,
            "--budget",
            "600",
            "--seed",
            "1",
            "--json",
        ]
    )
    told = json.loads(capsys.readouterr().out)
    assert told["model"] == f"hosted_vllm/{hybrid.model}"
    assert code == (0 if told["answer"] is not None else 1)
    assert 0 < sum(stage["completion_tokens"] for stage in told["usage"].values()) <= 600
    assert told["steps"][-1]["subproblem"] == PROBLEM


def test_doctor_on_the_command_line(hybrid: RealVLLM, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--api-base", hybrid.api_base, "--json"]) == 0
    told = {each["name"]: each for each in json.loads(capsys.readouterr().out)["findings"]}
    faults = {name for name, finding in told.items() if not finding["ok"]}
    assert faults == {"context"}  # 4,096 tokens are too few, and it says so
    assert told["style"]["detail"].startswith("hybrid")


@pytest.mark.usefixtures("own_disk_cache")
def test_evaluate_on_the_command_line(hybrid: RealVLLM, tmp_path: Path) -> None:
    data = tmp_path / "set.jsonl"
    rows = [{"problem": f"What is {k} + {k}?", "answer": str(2 * k)} for k in range(4)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = ["evaluate", str(data), "--api-base", hybrid.api_base, "--budget", "500"]
    command += ["--samples", "2", "--modes", "hybrid", "--out", str(tmp_path / "run")]
    grown = count(hybrid, lambda: main(command))
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    rollouts = [json.loads(line) for line in (tmp_path / "run" / "rollouts.jsonl").open()]
    assert len(rollouts) == 8
    assert [rollout["error"] for rollout in rollouts] == [None] * 8
    tokens = [
        sum(stage["completion_tokens"] for stage in rollout["usage"].values())
        for rollout in rollouts
    ]
    assert 0 < max(tokens) <= 500
    assert sum(tokens) == grown["generation_tokens_total"]
    assert summary["tok"] == pytest.approx(sum(tokens) / 8)
    assert count(hybrid, lambda: main(command))["generation_tokens_total"] == 0


def test_more_than_the_window_holds(hybrid: RealVLLM, real_lm: MeteredLM) -> None:
    """32,768 response tokens do not fit into 4,096: the request is sent again without a limit."""
    predictor = SCALE(modes=modes("hybrid")).solve.system_2
    inputs = {"problem": PROBLEM, "context": "", "subproblem": PROBLEM}
    scale = SCALE(candidates=1, assess="none", modes=modes("hybrid", **shape()))
    with dspy.context(lm=real_lm, adapter=PlainAdapter()), track() as ledger:
        run(ask(predictor, "solve_2", inputs))
        assert ledger.total().calls == 1
        assert ledger.total().completion_tokens > 0
        with pytest.raises(ContextWindowExceededError):
            scale(problem="What is 1 + 1? " * 2000)
