"""Hosted models: LiteLLM's own mapping is the switch, its own table has the prices."""

from __future__ import annotations

from dataclasses import replace

import dspy
import litellm
import pytest

from scale_dspy import SCALE, connect
from scale_dspy.lm.hosted import find_hosted, find_price
from scale_dspy.lm.tally import Tally
from tests.command import run
from tests.fake_vllm import fake_vllm
from tests.world import World


@pytest.mark.parametrize(
    ("model", "style", "least"),
    [
        ("deepseek/deepseek-chat", "hybrid", "none"),
        ("openai/gpt-5.1", "hybrid", "none"),
        ("openai/gpt-5", "effort", "minimal"),
        ("openai/o3", "effort", "low"),
        ("gemini/gemini-2.5-flash", "hybrid", "none"),
        ("gemini/gemini-2.5-pro", "effort", "minimal"),
        ("groq/openai/gpt-oss-20b", "effort", "low"),
        ("anthropic/claude-sonnet-4-5", "hybrid", "none"),
        ("openai/gpt-4o", "prompt", None),
        ("no-such-model", "prompt", None),
    ],
)
def test_the_switch_of_a_hosted_model(model: str, style: str, least: str | None) -> None:
    found = find_hosted(model)
    assert found.style == style
    assert found.requests == 0
    assert (found.switch.off["reasoning_effort"] if found.switch else None) == least
    requests = found.modes()
    if least:
        assert requests["solve_2"]["reasoning_effort"] == "high"
        assert requests["assess"]["reasoning_effort"] == least


def test_sampling_that_a_provider_refuses_is_left_out() -> None:
    assert "temperature" not in find_hosted("openai/gpt-5").modes()["solve_2"]
    assert "temperature" not in find_hosted("anthropic/claude-sonnet-4-5").modes()["solve_2"]
    deepseek = find_hosted("deepseek/deepseek-chat").modes()["solve_2"]
    assert (deepseek["temperature"], "top_k" in deepseek) == (0.6, False)


def test_what_reaches_the_provider(monkeypatch: pytest.MonkeyPatch) -> None:
    """DeepSeek's own parameter, which LiteLLM makes of the effort; only the address is not its."""
    problem = World().problem(5)  # of easy parts and hard ones
    with fake_vllm(model="deepseek-chat") as running:
        monkeypatch.setenv("DEEPSEEK_API_BASE", running.api_base)
        monkeypatch.setenv("DEEPSEEK_API_KEY", "none")
        with dspy.context(lm=connect("deepseek/deepseek-chat", cache=False)):
            SCALE(candidates=1, modes=find_hosted("deepseek/deepseek-chat").modes())(
                problem=problem.text
            )
        kinds = {(chat.body["max_tokens"] == 32768, chat.body["thinking"]["type"])
                 for chat in running.chats()}  # fmt: skip
        assert kinds == {(True, "enabled"), (False, "disabled")}
        running.clear()


def test_the_command_line_says_it_and_asks_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with fake_vllm(model="deepseek-chat") as running:
        monkeypatch.setenv("DEEPSEEK_API_BASE", running.api_base)
        monkeypatch.setenv("DEEPSEEK_API_KEY", "none")
        problem = World().problem(0)
        code, _, err = run(capsys, "solve", problem.text, "--model", "deepseek/deepseek-chat")
        assert code == 0, err
        assert "modes: hybrid: reasoning_effort none or high\n" in err
        assert all(chat.problem for chat in running.chats())


def test_prices() -> None:
    million = Tally(prompt_tokens=1_000_000, completion_tokens=1_000_000)
    price = find_price("deepseek/deepseek-chat")
    assert price is not None
    assert 0.1 < price.charge(million) < 10
    assert price.charge(million) == pytest.approx(price.prompt + price.response)
    assert price.charge(Tally()) == 0
    told = litellm.cost_per_token("openai/gpt-4o-mini", prompt_tokens=7000, completion_tokens=300)
    mini = find_price("openai/gpt-4o-mini")
    assert mini is not None
    seven = Tally(prompt_tokens=7000, completion_tokens=300)
    assert mini.charge(seven) == pytest.approx(sum(told))
    assert mini.cached is not None
    assert 0 < mini.cached < mini.prompt
    saved = mini.charge(seven) - mini.charge(replace(seven, cached_tokens=7000))
    assert saved == pytest.approx(0.007 * (mini.prompt - mini.cached))
    assert find_price("hosted_vllm/mine") is None
    assert find_price("no-such-model") is None
