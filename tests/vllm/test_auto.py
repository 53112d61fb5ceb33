"""`--modes auto` on the real vLLM: each family's switch is found, and the program runs on it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import dspy
import pytest

from scale_dspy import SCALE, connect
from scale_dspy.cli.main import main
from scale_dspy.lm.detect import find_modes
from scale_dspy.lm.found import flatten
from scale_dspy.lm.modes import Modes
from scale_dspy.lm.switches import WORDS
from tests.vllm.families import TEMPLATES, TRUST, serve_family
from tests.vllm.server import RealVLLM, make_model, need_vllm, serve
from tests.vllm.shapes import shape

pytestmark = pytest.mark.vllm

PROBLEM = "A rectangle is 3 times as long as it is wide. Its perimeter is 96. What is its area?"
SPOKEN = {"chat_template_kwargs": {"enable_thinking": False}}  # for the parser, beside words
BOTH = {"enable_thinking": False, "thinking": False}


@pytest.fixture(scope="module")
def turned_round(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealVLLM]:
    """A server that thinks only when told to, and has no parser."""
    need_vllm()
    model = make_model(tmp_path_factory.mktemp("turned") / "model", "hybrid")
    flags = [TRUST, "--reasoning-parser", "", "--default-chat-template-kwargs"]
    with serve(model, *flags, '{"enable_thinking": false}', name="tiny-turned") as server:
        yield server


def reshape(found: Modes) -> Modes:
    """The modes, in a form that a model of random weights can reply in; its switch stays."""
    shaped = {}
    for stage, config in found.items():
        form = shape()[stage]
        body = {**config.get("extra_body", {}), **form["extra_body"]}
        if stage == "solve_2":
            body["thinking_token_budget"] = 8
        shaped[stage] = {**config, "max_tokens": form["max_tokens"], "extra_body": body}
    return shaped


@pytest.mark.parametrize(
    ("family", "style", "off"),
    [
        ("enable_thinking, on by itself", "hybrid", {"chat_template_kwargs": BOTH}),
        ("enable_thinking, off by itself", "hybrid", {"chat_template_kwargs": BOTH}),
        ("thinking, on by itself", "hybrid", {"chat_template_kwargs": BOTH}),
        ("thinking, off by itself", "hybrid", {"chat_template_kwargs": BOTH}),
        ("effort", "hybrid", {"reasoning_effort": "none"}),
        ("no_think", "system", {WORDS: "/no_think", **SPOKEN}),
        ("detailed thinking", "system", {WORDS: "detailed thinking off", **SPOKEN}),
        ("always", "prefill", {"thinking_token_budget": 0}),
        ("never", "prompt", {"chat_template_kwargs": BOTH}),  # a parser that does not fit
    ],
)
def test_each_family_is_found_and_solved_on(
    hybrid: RealVLLM, family: str, style: str, off: dict[str, Any]
) -> None:
    with serve_family(hybrid.api_base, TEMPLATES[family]) as server:
        found = find_modes(hybrid.model, server.api_base, keep=False)
        print(f"\n{family}: {found.summarise()}; {found.requests} requests, {found.seconds:.1f} s")
        assert found.style == style
        assert (flatten(found.switch.off) if found.switch else {}) == off
        assert found.parser == ""
        server.bodies.clear()
        lm = connect(hybrid.model, server.api_base, seed=0, cache=False)
        program = SCALE(candidates=2, assess="none", modes=reshape(found.modes()))
        with dspy.context(lm=lm):
            prediction = program(problem=PROBLEM)
    assert [step.system for step in prediction.steps] == [1, 1, 2]
    assert [step.reasoning for step in prediction.steps[:2]] == ["", ""]
    if style == "prompt":
        assert found.surplus
        assert all(r"\boxed" in step.solution for step in prediction.steps)
    elif found.switch:
        assert prediction.steps[2].reasoning
        check_bodies(server.bodies, off, flatten(found.switch.on))


def check_bodies(bodies: list[dict[str, Any]], off: dict[str, Any], on: dict[str, Any]) -> None:
    """Every request but System 2's carries the setting without thinking, System 2's the other."""
    for body in bodies:
        thinks = "structured_outputs" in body and body.get("thinking_token_budget") == 8
        for name, value in (on if thinks else off).items():
            sent = body["messages"][0]["content"] if name == WORDS else body.get(name)
            assert sent == value, body
    assert sum(body.get("thinking_token_budget") == 8 for body in bodies) >= 1


def test_turned_round_and_without_a_parser(
    turned_round: RealVLLM, capsys: pytest.CaptureFixture[str]
) -> None:
    found = find_modes(turned_round.model, turned_round.api_base, keep=False)
    assert found.style == "hybrid"
    assert found.parser == "qwen3"
    assert "--reasoning-parser qwen3" in found.summarise()
    main(["doctor", "--api-base", turned_round.api_base, "--json"])
    (line,) = json.loads(capsys.readouterr().out)["command_lines"]
    assert "--reasoning-parser qwen3" in line


def test_a_model_that_cannot_think(turned_round: RealVLLM) -> None:
    with serve_family(turned_round.api_base, TEMPLATES["never"]) as server:
        found = find_modes(turned_round.model, server.api_base, keep=False)
    assert (found.style, found.switch, found.parser) == ("prompt", None, "")


def test_servers_that_differ_are_refused(
    hybrid: RealVLLM, capsys: pytest.CaptureFixture[str]
) -> None:
    words = TEMPLATES["no_think"]
    with serve_family(hybrid.api_base, words) as one:
        addresses = f"{hybrid.api_base},{one.api_base}"
        command = ["solve", PROBLEM, "--model", hybrid.model, "--api-base", addresses]
        assert main(command) == 2
    assert "the servers differ" in capsys.readouterr().err


def test_solve_finds_it_by_itself(hybrid: RealVLLM, capsys: pytest.CaptureFixture[str]) -> None:
    with serve_family(hybrid.api_base, TEMPLATES["thinking, off by itself"]) as server:
        command = ["solve", PROBLEM, "--model", hybrid.model, "--api-base", server.api_base]
        main([*command, "--budget", "600", "--json"])
    printed = capsys.readouterr()
    assert "modes: hybrid: enable_thinking false or true, thinking false or true" in printed.err
    usage = json.loads(printed.out)["usage"]
    assert usage["solve_1"]["reasoning_tokens"] == usage["decompose"]["reasoning_tokens"] == 0
