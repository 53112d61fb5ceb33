"""The styles of `modes()` for the paper's other families, on real vLLM servers."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import dspy
import httpx
import pytest

from scale_dspy import SCALE, connect, modes
from scale_dspy.cli.main import main
from scale_dspy.program import load_program
from scale_dspy.tuning.threshold_search import change
from tests.vllm.server import RealVLLM
from tests.vllm.shapes import shape

pytestmark = pytest.mark.vllm

PROBLEM = "A rectangle is 3 times as long as it is wide. Its perimeter is 96. What is its area?"


def solve(program: SCALE, lm: dspy.LM) -> dspy.Prediction:
    with dspy.context(lm=lm):
        return program(problem=PROBLEM)


def copies(program: SCALE, requests: dict[str, Any], folder: Path) -> list[SCALE]:
    """The program after each way in which an optimizer, or a file, copies it."""
    program.save(folder / "program.json")
    return [
        copy.deepcopy(program),
        program.reset_copy(),
        change(program, {"candidates": 2}),
        load_program(folder / "program.json", requests),
    ]


def test_prefill_closes_the_thinking_block_of_a_model_that_always_thinks(
    reasoning: RealVLLM, tmp_path: Path
) -> None:
    lm = connect(reasoning.model, reasoning.api_base, seed=0, cache=False)
    requests = modes("prefill", think_at_most=8, **shape())
    program = SCALE(candidates=2, assess="none", modes=requests)
    for each in (program, *copies(program, requests, tmp_path)):
        prediction = solve(each, lm)
        assert [step.system for step in prediction.steps] == [1, 1, 2]
        assert [step.reasoning for step in prediction.steps[:2]] == ["", ""]
        assert all(r"\boxed" in step.solution for step in prediction.steps[:2])
    config = {**modes("prefill")["solve_1"], "max_tokens": 64, "n": 8}
    outputs = lm(messages=[{"role": "user", "content": PROBLEM}], **config)
    assert any(output for output in outputs)
    assert not any(
        isinstance(output, dict) and output.get("reasoning_content") for output in outputs
    )


def test_the_template_takes_no_prefilled_empty_block(reasoning: RealVLLM) -> None:
    """Why the style is made with a budget of 0: should this change, look at it again."""
    messages = [
        {"role": "user", "content": PROBLEM},
        {"role": "assistant", "content": "<think>\n\n</think>\n\n"},
    ]
    body = {"model": reasoning.model, "messages": messages, "max_tokens": 8}
    body |= {"add_generation_prompt": False, "continue_final_message": True}
    reply = httpx.post(f"{reasoning.api_base}/chat/completions", json=body, timeout=60)
    assert reply.status_code == 400
    assert "continue_final_message" in reply.text


def test_a_pair_of_models_on_two_servers(
    hybrid: RealVLLM, reasoning: RealVLLM, tmp_path: Path
) -> None:
    lm = connect(
        reasoning.model,
        reasoning.api_base,
        system_1=hybrid.model,
        system_1_api_base=hybrid.api_base,
        seed=0,
        cache=False,
    )
    requests = modes("pair", think_at_most=8, **shape())
    program = SCALE(candidates=2, modes=requests)
    for each in (program, *copies(program, requests, tmp_path)):
        before = (hybrid.metrics(), reasoning.metrics())
        usage = solve(each, lm.copy(rollout_id=3)).usage
        after = (hybrid.metrics(), reasoning.metrics())
        fast, slow = (
            late["generation_tokens_total"] - early["generation_tokens_total"]
            for late, early in zip(after, before, strict=True)
        )
        tokens = {name: stage["completion_tokens"] for name, stage in usage.items()}
        assert slow == tokens.pop("solve_2") > 0
        assert fast == sum(tokens.values()) > 0


def test_prompt_needs_no_thinking_mode(hybrid: RealVLLM, tmp_path: Path) -> None:
    lm = connect(hybrid.model, hybrid.api_base, seed=0, cache=False)
    off = {"chat_template_kwargs": {"enable_thinking": False}}
    quiet = {
        stage: {**config, "extra_body": {**config["extra_body"], **off}}
        for stage, config in shape().items()
    }
    requests = modes("prompt", **quiet)
    program = SCALE(candidates=2, modes=requests)
    for each in (program, *copies(program, requests, tmp_path)):
        prediction = solve(each, lm)
        assert prediction.answer
        assert prediction.steps[-1].system == 2
        assert sum(stage["reasoning_tokens"] for stage in prediction.usage.values()) == 0


def test_doctor_knows_a_model_that_always_thinks(
    reasoning: RealVLLM, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["doctor", "--api-base", reasoning.api_base, "--json"]) == 0
    told = {each["name"]: each for each in json.loads(capsys.readouterr().out)["findings"]}
    assert told["style"]["detail"].startswith("prefill")
    assert "pair" in told["style"]["detail"]
    assert told["thinking cap"]["ok"]
    assert told["reasoning tokens"]["ok"] is False  # this parser counts none


def test_the_pair_on_the_command_line(
    hybrid: RealVLLM, reasoning: RealVLLM, capsys: pytest.CaptureFixture[str]
) -> None:
    before = hybrid.metrics()["generation_tokens_total"]
    command = ["solve", PROBLEM, "--modes", "pair", "--budget", "600", "--json"]
    command += ["--api-base", reasoning.api_base, "--system-1-api-base", hybrid.api_base]
    main(command)
    told = json.loads(capsys.readouterr().out)
    tokens = {name: stage["completion_tokens"] for name, stage in told["usage"].items()}
    grown = hybrid.metrics()["generation_tokens_total"] - before
    assert grown == sum(tokens.values()) - tokens["solve_2"]
