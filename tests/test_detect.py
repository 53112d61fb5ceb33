"""find_modes(): each family's switch is found by asking, also on servers that misbehave."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from scale_dspy.lm import detect
from scale_dspy.lm.detect import UndetectableError, find_modes
from scale_dspy.lm.found import Found, flatten
from scale_dspy.lm.switches import FAMILIES, SWITCHES, WORDS, find_family
from tests.command import run
from tests.fake_vllm import FakeVLLM, Fault, fake_vllm
from tests.world import World

ENABLE = {"enable_thinking": False, "thinking": False}
SPOKEN = {"chat_template_kwargs": {"enable_thinking": False}}  # for the parser, beside words
HANDFUL = 13  # requests that finding takes at most


def find(**server: Any) -> tuple[Found, FakeVLLM]:
    with fake_vllm(**{"model": "mine", **server}) as running:
        return find_modes(running.model, running.api_base, keep=False), running


def first_off(found: Found) -> dict[str, Any]:
    """The fields by which System 1 is kept from thinking."""
    return flatten(found.switch.off) if found.switch else {}


@pytest.mark.parametrize(
    ("server", "style", "off"),
    [
        ({}, "hybrid", {"chat_template_kwargs": ENABLE}),
        ({"thinks": False}, "hybrid", {"chat_template_kwargs": ENABLE}),
        ({"switch": "thinking"}, "hybrid", {"chat_template_kwargs": ENABLE}),
        ({"switch": "thinking", "thinks": False}, "hybrid", {"chat_template_kwargs": ENABLE}),
        ({"switch": "reasoning_effort"}, "hybrid", {"reasoning_effort": "none"}),
        ({"switch": "/no_think"}, "system", {WORDS: "/no_think", **SPOKEN}),
        ({"switch": "/no_think", "thinks": False}, "system", {WORDS: "/no_think", **SPOKEN}),
        ({"switch": "detailed thinking off"}, "system", {WORDS: "detailed thinking off", **SPOKEN}),
        ({"thinking": "always"}, "prefill", {"thinking_token_budget": 0}),
        ({"switch": "levels", "closes": False}, "effort", {"reasoning_effort": "low"}),
        ({"thinking": "never"}, "prompt", {}),
        ({"reasoning_field": "reasoning_content"}, "hybrid", {"chat_template_kwargs": ENABLE}),
    ],
)
def test_each_switch_is_found(server: dict[str, Any], style: str, off: dict[str, Any]) -> None:
    found, running = find(**server)
    assert found.style == style
    assert first_off(found) == off
    assert found.parser == ""
    assert found.requests == len(running.chats()) <= HANDFUL
    if style in ("hybrid", "system"):
        assert found.default == ("on" if server.get("thinks", True) else "off")


@pytest.mark.parametrize(
    ("model", "switch", "name"),
    [
        ("Qwen/Qwen3-32B", "enable_thinking", "qwen3"),
        ("zai-org/GLM-4.7-FP8", "enable_thinking", "glm-4.5"),
        ("deepseek-ai/DeepSeek-V3.1", "thinking", "deepseek-v3.1"),
        ("MiniMaxAI/MiniMax-M3", "thinking_mode", "minimax-m3"),
        ("ByteDance-Seed/Seed-OSS-36B-Instruct", "thinking_budget", "seed-oss"),
        ("tencent/Hy3", "reasoning_effort", "hy3"),
        ("HuggingFaceTB/SmolLM3-3B", "/no_think", "smollm3"),
        ("nvidia/Llama-3_3-Nemotron-Super-49B-v1_5", "/no_think", "nemotron-super-v1.5"),
        ("nvidia/Llama-3.1-Nemotron-Nano-8B-v1", "detailed thinking off", "llama-nemotron"),
    ],
)
def test_a_familys_own_switch_is_tried_first(model: str, switch: str, name: str) -> None:
    found, running = find(model=model, switch=switch)
    assert found.switch == SWITCHES[name]
    assert len(running.chats()) == 4


def test_a_familys_switch_that_fails_is_no_end() -> None:
    found, _ = find(model="deepseek-ai/DeepSeek-V3.1", switch="reasoning_effort")
    assert found.switch == SWITCHES["effort-none"]
    found, _ = find(refuses=("chat_template_kwargs",), switch="reasoning_effort")
    assert found.switch == SWITCHES["effort-none"]
    found, _ = find(refuses=("thinking_token_budget",))
    assert found.switch == SWITCHES["template"]


def test_a_parser_that_believes_in_a_switch_proves_nothing() -> None:
    """As vLLM's deepseek_v3 does: told enable_thinking it calls a plain answer reasoning."""
    server = {"model": "qwen3-by-name", "switch": "thinking", "thinks": False}
    found, _ = find(**server, believes="enable_thinking")
    assert found.switch == SWITCHES["template"]


@pytest.mark.parametrize(
    ("server", "style"),
    [({}, "hybrid"), ({"thinks": False}, "hybrid"), ({"thinking": "always"}, "prefill")],
)
def test_a_missing_parser_is_told_by_its_flag(server: dict[str, Any], style: str) -> None:
    found, _ = find(model="Qwen/Qwen3-8B", reasoning_field=None, **server)
    assert (found.style, found.parser) == (style, "qwen3")
    assert "--reasoning-parser qwen3" in found.summarise()


def test_tags_may_come_late() -> None:
    """The opening tag is part of the prompt, and a short reply ends before the closing one."""

    def think(body: dict[str, Any]) -> str:
        on = (body.get("chat_template_kwargs") or {}).get("enable_thinking", True)
        return f"{'so ' * 100}</think> 5" if on else "5"

    found, _ = find(thinking="never", other=think)
    assert (found.style, found.parser) == ("hybrid", "qwen3")


def test_a_model_that_no_setting_keeps_from_thinking_gets_room() -> None:
    found, _ = find(thinking="always", closes=False)
    assert (found.style, found.always) == ("prompt", True)
    assert "--system-1-model" in found.summarise()
    assert found.modes()["assess"]["max_tokens"] >= 1024


def test_replies_that_say_nothing_are_asked_for_again() -> None:
    found, _ = find(faults=[Fault(content="", reasoning="", nth=(1, 3))])
    assert found.switch == SWITCHES["template"]


@pytest.mark.parametrize(
    "fault", [Fault(status=503, nth=1), Fault(reset="before", nth=1), Fault(status=429, nth=2)]
)
def test_a_passing_failure_is_no_finding(fault: Fault) -> None:
    found, running = find(faults=[fault])
    assert found.style == "hybrid"
    assert sum(running.struck.values()) == 1


@pytest.mark.parametrize(
    "fault",
    [
        Fault(content_type="text/html"), Fault(cut_json=True), Fault(empty_choices=True),
        Fault(body='{"error": {"message": "no"}}'), Fault(body="[]"), Fault(status=400),
    ],
)  # fmt: skip
def test_no_chat_reply_at_all(fault: Fault) -> None:
    with pytest.raises(UndetectableError) as raised:
        find(faults=[fault])
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("content", ["null", "5", '["a"]', '[{"type": "text", "text": "x"}]', "{}"])
@pytest.mark.parametrize(
    "usage", ["null", '{"prompt_tokens": "12"}', "[1]", '{"prompt_tokens": null}']
)
def test_any_content_and_usage(content: str, usage: str) -> None:
    body = f'{{"choices": [{{"message": {{"content": {content}}}}}], "usage": {usage}}}'
    assert find(faults=[Fault(body=body)])[0].style == "prompt"


def test_replicas_have_to_agree() -> None:
    with (
        fake_vllm(model="m") as one,
        fake_vllm(model="m") as two,
        fake_vllm(model="m", switch="/no_think") as other,
    ):
        alike = find_modes("m", [one.api_base, two.api_base], keep=False)
        assert alike.style == "hybrid"
        with pytest.raises(ValueError, match=r"servers differ.*hybrid by template.*system by"):
            find_modes("m", [one.api_base, other.api_base], keep=False)
        dead = "http://127.0.0.1:9/v1"
        assert find_modes("m", [dead, one.api_base], keep=False).style == "hybrid"


def test_a_finding_is_kept_and_checked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(detect, "cache_folder", lambda: tmp_path)
    with fake_vllm(model="m") as server:
        first = find_modes("m", server.api_base)
        assert first.requests == 4
        server.clear()
        assert find_modes("m", server.api_base).switch == first.switch
        assert len(server.chats()) == 1
        server.options = type(server.options)(model="m", switch="/no_think")
        assert find_modes("m", server.api_base).style == "system"
        (kept,) = (tmp_path / "modes").iterdir()
        assert "127.0.0.1" not in kept.read_text()
        kept.write_text('{"switch": ["x"]}')
        assert find_modes("m", server.api_base).style == "system"
        monkeypatch.setattr(time, "time", lambda: 4e9)
        server.clear()
        find_modes("m", server.api_base)
        assert len(server.chats()) > 1


def test_every_family_is_found_by_its_own_name() -> None:
    names = {
        "qwen3": "Qwen/Qwen3-0.6B", "qwen3.5": "Qwen/Qwen3.6-35B-A3B", "glm-4.5": "zai-org/GLM-5",
        "glm-5.3": "zai-org/GLM-5.3", "gemma-4": "google/gemma-4-12B-it",
        "deepseek-v3.1": "deepseek-ai/DeepSeek-V3.2", "deepseek-v4": "deepseek-ai/DeepSeek-V4-Pro",
        "kimi-k2.5": "moonshotai/Kimi-K2.6", "granite-3.2": "ibm-granite/granite-3.2-2b-instruct",
        "granite-4.2": "ibm-granite/granite-4.2-h", "holo2": "Hcompany/Holo2-8B",
        "nemotron-3": "nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B", "laguna": "poolside/Laguna-XS.2",
        "mimo": "XiaomiMiMo/MiMo-V2-Flash", "exaone-4": "LGAI-EXAONE/EXAONE-4.0-32B",
        "hunyuan-a13b": "tencent/Hunyuan-A13B-Instruct", "minimax-m3": "MiniMaxAI/MiniMax-M3",
        "command-a-reasoning": "CohereLabs/command-a-reasoning-08-2025",
        "seed-oss": "ByteDance-Seed/Seed-OSS-36B-Instruct", "hy3": "tencent/Hy3",
        "mistral-small-4": "mistralai/Mistral-Small-4-119B-2603", "gpt-oss": "openai/gpt-oss-120b",
        "smollm3": "HuggingFaceTB/SmolLM3-3B",
        "nemotron-nano-v2": "nvidia/NVIDIA-Nemotron-Nano-9B-v2",
        "nemotron-super-v1.5": "nvidia/Llama-3_3-Nemotron-Super-49B-v1_5",
        "llama-nemotron": "nvidia/Llama-3.1-Nemotron-Ultra-253B-v1",
        "minimax-m2": "MiniMaxAI/MiniMax-M2.1", "r1": "deepseek-ai/DeepSeek-R1-Distill-Qwen-14B",
        "magistral": "mistralai/Magistral-Small-2509", "lfm2.5": "LiquidAI/LFM2.5-1.2B-Thinking",
        "step-3.5": "stepfun-ai/Step-3.5-Flash",
    }  # fmt: skip
    assert names.keys() == {family.name for family in FAMILIES}
    for name, model in names.items():
        found = find_family(model)
        assert found is not None, model
        assert found.name == name, model
        assert found.source
    for model in ("Qwen/Qwen3-4B-Instruct-2507", "meta-llama/Llama-3.1-8B", "Qwen/Qwen2.5-7B"):
        assert find_family(model) is None, model


# On the command line


def solve(capsys: pytest.CaptureFixture[str], server: FakeVLLM, *flags: str) -> tuple[int, str]:
    problem = World().problem(5)  # of easy parts and hard ones
    named = ["--model", server.model, "--api-base", server.api_base, "--seed", "0", "--json"]
    code, _, err = run(capsys, "solve", problem.text, *named, *flags)
    return code, err


@pytest.mark.parametrize(
    ("server", "said"),
    [
        ({}, "hybrid: enable_thinking false or true, thinking false or true (4 requests"),
        ({"switch": "thinking", "thinks": False}, "hybrid: enable_thinking false or true"),
        ({"switch": "reasoning_effort"}, "hybrid: reasoning_effort none or high"),
        ({"switch": "/no_think"}, "system: system message /no_think or /think"),
        ({"thinking": "always"}, "prefill: "),
        ({"switch": "levels", "closes": False}, "effort: reasoning_effort low or high"),
        ({"thinking": "never"}, "prompt: nothing makes a difference"),
    ],
)
def test_solve_thinks_where_it_should(
    capsys: pytest.CaptureFixture[str], server: dict[str, Any], said: str
) -> None:
    with fake_vllm(model="mine", **server) as running:
        code, err = solve(capsys, running)
        assert (code, f"modes: {said}" in err) == (0, True), err
        work = [chat for chat in running.chats() if chat.problem]
    if said.startswith(("hybrid", "system", "prefill")):
        thinking = {chat.usage["completion_tokens_details"]["reasoning_tokens"] > 0: chat.stage
                    for chat in work}  # fmt: skip
        assert thinking[True] == "solve_2"
        for chat in work:
            tokens = chat.usage["completion_tokens_details"]["reasoning_tokens"]
            assert (tokens > 0) == (chat.stage == "solve_2"), chat.body


def test_named_modes_ask_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with fake_vllm(model="mine", switch="thinking") as running:
        for name in ("hybrid", "deepseek-v3.1", "prompt"):
            running.clear()
            code, err = solve(capsys, running, "--modes", name)
            assert code == 0
            assert "modes:" not in err
            assert all(chat.problem for chat in running.chats())


def test_a_failing_probe_stops_nobody_who_names_the_style(
    capsys: pytest.CaptureFixture[str],
) -> None:
    asked = Fault(when=lambda body: "crates" in str(body["messages"]), status=500)
    with fake_vllm(model="mine", faults=[asked]) as running:
        assert solve(capsys, running, "--modes", "hybrid")[0] == 0
        code, err = solve(capsys, running)
        assert code == 1
        assert "so its modes are not known" in err


@pytest.mark.usefixtures("own_disk_cache")
def test_run_json_tells_what_was_found(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    data = tmp_path / "set.jsonl"
    problem = World().problem(0)
    data.write_text(json.dumps({"problem": problem.text, "answer": problem.answer}) + "\n")
    out = tmp_path / "run"
    with fake_vllm() as running:  # its name is Qwen3's
        there = ["--model", running.model, "--api-base", running.api_base, "--samples", "1"]
        there += ["--out", str(out)]
        assert run(capsys, "evaluate", str(data), "--modes", "hybrid", *there)[0] == 0
        assert "modes" not in json.loads((out / "run.json").read_text())
        code, _, err = run(capsys, "evaluate", str(data), *there)  # the same requests: it goes on
        assert code == 0, err
    described = json.loads((out / "run.json").read_text())
    assert described["modes"] == {
        "style": "hybrid", "switch": "qwen3", "default": "on", "parser": ""
    }  # fmt: skip
