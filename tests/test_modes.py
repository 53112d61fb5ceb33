"""Styles: what they send, that every copy of a program keeps them, and a pair's two servers."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import dspy
import pytest
from dspy.utils.exceptions import LMConfigurationError

from scale_dspy import SCALE, connect, modes, track
from scale_dspy.cli.arguments import MODES
from scale_dspy.cli.main import main
from scale_dspy.lm.cost_limit import CostLimitError, limit_cost
from scale_dspy.lm.modes import Style
from scale_dspy.program import load_program
from scale_dspy.tuning.threshold_search import change
from tests.fake_vllm import FakeVLLM, fake_vllm
from tests.world import World, write_set

STYLES: tuple[Style, ...] = get_args(Style)


@pytest.fixture
def thinker() -> Iterator[FakeVLLM]:
    """A model that always thinks."""
    with fake_vllm(model="fake/QwQ-World", thinking="always") as running:
        yield running


def test_the_command_line_knows_every_style() -> None:
    assert MODES == STYLES


@pytest.mark.parametrize("style", STYLES)
def test_every_copy_keeps_the_style(style: Style, tmp_path: Path) -> None:
    requests = modes(style, think_at_most=500, assess={"extra_body": {"min_p": 0.1}})
    program = SCALE(modes=requests)
    program.save(tmp_path / "program.json")
    others = [
        copy.deepcopy(program),
        program.deepcopy(),
        program.reset_copy(),
        program.at(0.3),
        change(program, {"candidates": 2}),
        load_program(tmp_path / "program.json", requests),
    ]
    wanted = {name: predictor.config for name, predictor in program.named_predictors()}
    assert wanted["assess.rate"]["extra_body"]["min_p"] == 0.1
    assert wanted["solve.system_2"]["extra_body"]["thinking_token_budget"] == 500
    for other in others:
        assert {name: each.config for name, each in other.named_predictors()} == wanted


def test_more_in_the_body_leaves_the_switch_where_it_is() -> None:
    form = {"structured_outputs": {"choice": ["0.1", "0.9"]}}
    body = modes("hybrid", assess={"extra_body": form})["assess"]["extra_body"]
    assert body == {"chat_template_kwargs": {"enable_thinking": False}, **form}
    assert "structured_outputs" not in modes("hybrid")["assess"]["extra_body"]


def test_prefill_makes_both_systems_of_a_model_that_always_thinks(thinker: FakeVLLM) -> None:
    problem = World().problem(5)  # of easy parts and hard ones
    with dspy.context(lm=connect(thinker.model, thinker.api_base)):
        prediction = SCALE(modes="prefill")(problem=problem.text)
    assert prediction.answer == problem.answer
    for chat in thinker.chats():
        closed = chat.body.get("thinking_token_budget") == 0
        assert closed is (chat.stage != "solve_2")
    assert {step.reasoning == "" for step in prediction.steps if step.system == 1} == {True}


def test_a_pair_asks_two_servers(server: FakeVLLM, thinker: FakeVLLM) -> None:
    problem = World().problem(5)  # of easy parts and hard ones
    lm = connect(
        thinker.model,
        thinker.api_base,
        "key-of-the-first",
        system_1=server.model,
        system_1_api_base=server.api_base,
        seed=0,
    )
    program = SCALE(modes="pair")
    with dspy.context(lm=lm.copy(rollout_id=7)), track() as first:
        prediction = program(problem=problem.text)
    assert prediction.answer == problem.answer
    assert {chat.stage for chat in thinker.chats()} == {"solve_2"}
    assert {chat.stage for chat in server.chats()} >= {"decompose", "assess", "solve_1"}
    assert "solve_2" not in {chat.stage for chat in server.chats()}
    tokens = [each.totals().completion_tokens for each in (server, thinker)]
    assert sum(tokens) == first.cost.completion_tokens == first.total().completion_tokens
    assert not any("partner" in chat.body for chat in server.chats())
    seeds = {chat.body["seed"] for chat in server.chats("decompose")}
    with dspy.context(lm=lm.copy(rollout_id=7)), track() as again:
        program(problem=problem.text)
    assert again.cost.calls == 0  # all of it from the cache
    with dspy.context(lm=lm.copy(rollout_id=8)), track() as other:
        program(problem=problem.text)
    assert other.cost.calls > 0
    assert len(seeds | {chat.body["seed"] for chat in server.chats("decompose")}) == 2


def test_a_limit_holds_for_both_models_of_a_pair(server: FakeVLLM, thinker: FakeVLLM) -> None:
    problem = World().problem(5)  # of easy parts and hard ones
    lm = connect(
        thinker.model,
        thinker.api_base,
        system_1=server.model,
        system_1_api_base=server.api_base,
    )
    with dspy.context(lm=lm):
        capped = SCALE(modes="pair", budget=300)(problem=problem.text)
        with limit_cost(20_000), pytest.raises(CostLimitError):
            SCALE(modes="pair")(problem=problem.text + " ")
    assert sum(stage["completion_tokens"] for stage in capped.usage.values()) <= 300


def test_a_partner_may_be_on_the_same_server() -> None:
    lm = connect("slow", "http://127.0.0.1:1/v1", "key", system_1="fast")
    assert lm.partner is not None
    assert lm.partner.model == "hosted_vllm/fast"
    assert lm.partner.server.api_base == "http://127.0.0.1:1/v1"
    assert lm.partner.server.api_key == "key"


def test_another_server_does_not_get_the_key() -> None:
    lm = connect(
        "slow",
        "http://127.0.0.1:1/v1",
        "key",
        system_1="fast",
        system_1_api_base="http://127.0.0.1:2/v1",
    )
    assert lm.partner is not None
    assert lm.partner.server.api_key is None


def test_a_pair_of_one_is_refused(
    server: FakeVLLM, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        dspy.context(lm=connect(server.model, server.api_base)),
        pytest.raises(LMConfigurationError, match="--system-1-model"),
    ):
        SCALE(modes="pair")(problem="What is 1 + 1?")
    command = ["solve", "What is 1 + 1?", "--modes", "pair", "--api-base", server.api_base]
    assert main(command) == 2
    assert "--system-1-model" in capsys.readouterr().err
    assert not server.chats()


@pytest.mark.usefixtures("own_disk_cache")
def test_a_pair_on_the_command_line(
    server: FakeVLLM, thinker: FakeVLLM, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_set(tmp_path / "set.jsonl", World().problems(3))
    command = ["evaluate", data, "--modes", "pair", "--samples", "1"]
    command += ["--api-base", thinker.api_base, "--system-1-api-base", server.api_base]
    command += ["--out", str(tmp_path / "run")]
    assert main([*command, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["accuracy"] == 1.0
    described = json.loads((tmp_path / "run" / "run.json").read_text())
    assert described["system_1"] == f"hosted_vllm/{server.model}"
    assert "127.0.0.1" not in (tmp_path / "run" / "run.json").read_text()
    assert {chat.stage for chat in thinker.chats()} == {"solve_2"}


def test_a_switch_by_its_name_has_its_publishers_sampling() -> None:
    found = modes("hybrid", switch="deepseek-v4")
    assert found["solve_1"]["extra_body"] == {"chat_template_kwargs": {"thinking": False}}
    assert found["solve_2"]["extra_body"] == {"chat_template_kwargs": {"thinking": True}}
    assert found["solve_2"]["temperature"] == 1.0
    assert "top_k" not in found["solve_2"]
    plain = modes("hybrid", switch="qwen3.5")["assess"]
    assert (plain["presence_penalty"], plain["top_p"]) == (1.5, 0.8)
    assert modes("hybrid") == modes("hybrid", switch="qwen3")


def test_a_change_of_modes_leaves_the_table_alone() -> None:
    found = modes("hybrid", switch="gemma-4")
    found["solve_1"]["extra_body"]["chat_template_kwargs"]["enable_thinking"] = True
    assert modes("hybrid", switch="gemma-4") != found


@pytest.mark.parametrize(
    ("style", "switch", "message"),
    [
        ("hybrid", "no-such", "unknown switch 'no-such'"),
        ("hybrid", "smollm3", "has no use for smollm3"),
        ("prompt", "qwen3", "has no use for qwen3"),
        ("effort", "qwen3", "has no use for qwen3"),
    ],
)
def test_a_switch_has_to_fit(style: Style, switch: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        modes(style, switch=switch)


def test_words_stand_in_the_system_message() -> None:
    with fake_vllm(switch="/no_think") as running:
        lm = connect(running.model, running.api_base)
        with dspy.context(lm=lm):
            SCALE(modes="smollm3")(problem=World().problem(5).text)
        for chat in running.chats():
            head = chat.body["messages"][0]
            assert head["role"] == "system"
            assert head["content"] == ("/think" if chat.stage == "solve_2" else "/no_think")
            assert "system_words" not in chat.body
        lm(
            messages=[{"role": "system", "content": "Be kind."}, {"role": "user", "content": "?"}],
            **modes("system")["assess"],
        )
        first = running.chats()[-1].body["messages"]
        assert [message["content"] for message in first] == ["/no_think\n\nBe kind.", "?"]


def test_a_pair_with_another_switch_of_system_1() -> None:
    found = modes("pair", switch="granite-3.2")
    assert found["solve_1"]["extra_body"] == {"chat_template_kwargs": {"thinking": False}}
    assert "extra_body" not in found["solve_2"]


def test_levels_of_effort() -> None:
    with fake_vllm(model="openai/gpt-oss-20b", switch="levels", closes=False) as running:
        problem = World().problem(5)
        with dspy.context(lm=connect(running.model, running.api_base)):
            prediction = SCALE(modes="gpt-oss")(problem=problem.text)
        assert prediction.answer == problem.answer
        for chat in running.chats():
            thorough = chat.body["max_tokens"] == 32768
            assert chat.body["reasoning_effort"] == ("high" if thorough else "low")
            assert chat.body["temperature"] == 1.0


def test_the_list_of_modes(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["solve", "--modes", "list"])
    assert ended.value.code == 0
    listed = capsys.readouterr().out
    assert "deepseek-v3.1" in listed
    assert "hybrid, effort, system" in listed
