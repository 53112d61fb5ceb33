"""The provider through LiteLLM itself, without a proxy: replies, streams, names, errors."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any

import litellm
import pytest
from litellm.utils import custom_llm_setup

from scale_dspy import SCALE
from scale_dspy.cli import main as cli
from scale_dspy.lm.connect import connect
from scale_dspy.lm.event_loop import shared_loop
from scale_dspy.methods import METHODS
from scale_dspy.serve.chat_format import LONGEST_QUESTION, join_messages
from scale_dspy.serve.models import UnknownModelError, find_program, list_names, read_catalogue
from scale_dspy.serve.provider import Offer, ScaleLLM
from tests.fake_vllm import FakeVLLM, Fault, fake_vllm
from tests.world import World

EXAMPLES = World().problems(8)
POINTS = [
    {"threshold": 0.9, "split": 0.0, "accuracy": 0.5, "tokens": 900.0},
    {"threshold": 0.4, "split": 0.2, "accuracy": 0.8, "tokens": 4000.5},
]


@pytest.fixture(autouse=True)
def _unmounted() -> Iterator[None]:
    yield
    litellm.custom_provider_map = []


def mount(server: FakeVLLM, at_work: int = 64, waiting: int = 64) -> ScaleLLM:
    lm = connect(server.model, server.api_base, seed=0, cache=False)
    handler = ScaleLLM(Offer(read_catalogue(), lm, at_work, waiting))
    litellm.custom_provider_map = [{"provider": "scale", "custom_handler": handler}]
    custom_llm_setup()
    return handler


@pytest.fixture
def handler(server: FakeVLLM) -> ScaleLLM:
    """SCALE on the default world, mounted in LiteLLM."""
    return mount(server)


def on_loop(work: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run_coroutine_threadsafe(work, shared_loop()).result(60)


async def ask(number: int = 0, model: str = "scale", **options: Any) -> Any:
    messages = [{"role": "user", "content": EXAMPLES[number].problem}]
    return await litellm.acompletion(model=f"scale/{model}", messages=messages, **options)


async def collect(**options: Any) -> list[Any]:
    stream = await ask(stream=True, stream_options={"include_usage": True}, **options)
    return [chunk async for chunk in stream]


def check_usage(usage: Any, server: FakeVLLM) -> None:
    totals = server.totals()
    assert usage.prompt_tokens == totals.prompt_tokens
    assert usage.completion_tokens == totals.completion_tokens > 0
    assert usage.total_tokens == totals.prompt_tokens + totals.completion_tokens
    assert usage.completion_tokens_details.reasoning_tokens == totals.reasoning_tokens > 0


def test_a_reply_has_answer_reasoning_steps_and_true_usage(
    handler: ScaleLLM, server: FakeVLLM
) -> None:
    reply = on_loop(ask())
    (choice,) = reply.choices
    assert choice.finish_reason == "stop"
    assert choice.message.content.endswith(f"\\boxed{{{EXAMPLES[0].answer}}}$.")
    fields = choice.message.provider_specific_fields
    steps = fields["scale_steps"]
    assert steps[-1]["solution"] == choice.message.content
    for step in steps:
        assert step["solution"] in choice.message.reasoning_content
    assert fields["scale_usage"]["decompose"]["calls"] == 1
    assert fields["scale_replaced"] == []
    check_usage(reply.usage, server)


def test_a_stream_tells_each_step_before_the_answer(handler: ScaleLLM, server: FakeVLLM) -> None:
    *chunks, last = on_loop(collect())
    check_usage(last.usage, server)
    deltas = [chunk.choices[0].delta for chunk in chunks]
    (place,) = [place for place, delta in enumerate(deltas) if delta.content]
    told = [getattr(delta, "reasoning_content", None) for delta in deltas]
    steps = deltas[place].provider_specific_fields["scale_steps"]
    assert len([text for text in told[:place] if text]) > len(steps)
    assert not any(told[place:])
    assert deltas[place].content == steps[-1]["solution"]
    assert [c.choices[0].finish_reason for c in chunks if c.choices[0].finish_reason] == ["stop"]
    assert len({chunk.id for chunk in chunks}) == 1


def test_budget_method_and_seed_belong_to_the_request(handler: ScaleLLM, server: FakeVLLM) -> None:
    reply = on_loop(ask(budget=1000, seed=5))
    assert reply.usage.completion_tokens <= 1000
    first = server.chats("decompose")[0].body["seed"]
    server.clear()
    on_loop(ask(max_completion_tokens=1000, seed=5))
    assert server.totals().completion_tokens <= 1000
    assert server.chats("decompose")[0].body["seed"] == first
    server.clear()
    reply = on_loop(ask(method="cot"))
    assert [request.stage for request in server.chats()] == ["whole"]
    assert reply.choices[0].message.reasoning_content


def test_a_name_sets_the_threshold(handler: ScaleLLM, server: FakeVLLM) -> None:
    on_loop(ask(model="scale@tau=1"))
    assert not server.chats("solve_2")
    server.clear()
    on_loop(ask(model="scale@tau=0"))
    assert not server.chats("solve_1")


@pytest.mark.parametrize(
    ("options", "kind", "words"),
    [
        ({"model": "gpt"}, litellm.NotFoundError, "there is no model 'gpt'"),
        ({"model": "scale@tau=2"}, litellm.BadRequestError, "from 0 to 1, not 2"),
        ({"model": "scale@tau=x"}, litellm.BadRequestError, "followed by a number"),
        ({"model": "scale@tokens=9"}, litellm.BadRequestError, "no frontier is known"),
        ({"model": "scale@mode=9"}, litellm.BadRequestError, "@tau=NUMBER"),
        ({"budget": -1}, litellm.BadRequestError, "not -1"),
        ({"budget": "many"}, litellm.BadRequestError, "not 'many'"),
        ({"budget": 3}, litellm.BadRequestError, "from 64, not 3"),
        ({"max_tokens": 0}, litellm.BadRequestError, "from 1, not 0"),
        ({"method": "magic"}, litellm.BadRequestError, "not 'magic'"),
        ({"method": "cot", "model": "scale@tau=0.5"}, litellm.BadRequestError, "no threshold"),
        ({"n": 2}, litellm.BadRequestError, "n is 1"),
    ],
)
def test_what_cannot_be_had_is_said(
    handler: ScaleLLM, server: FakeVLLM, options: dict[str, Any], kind: Any, words: str
) -> None:
    with pytest.raises(kind, match=words):
        on_loop(ask(**options))
    assert not server.chats()


def test_a_fault_of_the_owner_is_not_the_clients(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCALE_PROGRAM", "/srv/private/x.json")
    litellm.custom_provider_map = [{"provider": "scale", "custom_handler": ScaleLLM()}]
    custom_llm_setup()
    with pytest.raises(litellm.InternalServerError, match="the request failed") as told:
        on_loop(ask())
    assert "private" not in str(told.value)


def test_a_failing_server_is_no_secret_but_its_address_is(server: FakeVLLM) -> None:
    with fake_vllm(faults=[Fault(status=400)]) as broken:
        mount(broken)
        with pytest.raises(
            litellm.ServiceUnavailableError, match="the model server failed"
        ) as told:
            on_loop(ask())
    assert "127.0.0.1" not in str(told.value)


def test_too_many_are_turned_away_and_the_others_answered() -> None:
    async def crowd() -> list[Any]:
        return await asyncio.gather(*(ask(k) for k in range(5)), return_exceptions=True)

    with fake_vllm(delay=0.05) as server:
        handler = mount(server, at_work=1, waiting=2)
        replies = on_loop(crowd())
        assert handler.taken == 0
        assert server.in_flight_max == 1
    *served, fourth, fifth = replies
    for number, reply in enumerate(served):
        assert f"\\boxed{{{EXAMPLES[number].answer}}}" in reply.choices[0].message.content
    assert isinstance(fourth, litellm.RateLimitError)
    assert isinstance(fifth, litellm.RateLimitError)


def test_a_stream_that_is_closed_stops_its_calls() -> None:
    async def leave() -> None:
        stream = await ask(stream=True)
        async for _ in stream:
            break
        await stream.aclose()

    with fake_vllm(delay=0.5) as server:
        handler = mount(server)
        on_loop(leave())
        time.sleep(0.3)
        assert handler.taken == 0
        statuses = [request.status for request in server.chats()]
        assert statuses.count(499) <= 1  # the one that was on its way
        time.sleep(0.8)
        assert len(server.chats()) == len(statuses)


def test_a_conversation_becomes_one_problem() -> None:
    conversation = [
        {"role": "system", "content": "All numbers are integers."},
        {"role": "user", "content": [{"type": "text", "text": "Let x = 3."}]},
        {"role": "assistant", "content": "Noted."},
        {"role": "user", "content": " What is x + 1? "},
    ]
    assert join_messages(conversation) == (
        "All numbers are integers.\n\nUser: Let x = 3.\n\nAssistant: Noted.\n\nWhat is x + 1?"
    )
    assert join_messages(conversation[-1:]) == "What is x + 1?"


@pytest.mark.parametrize(
    "messages",
    [
        [],
        [{"role": "assistant", "content": "4"}],
        [{"role": "user", "content": " "}],
        [{"role": "user", "content": None}],
        [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}],
        [{"role": "user", "content": 5}],
        [{"role": "tool", "content": "4"}, {"role": "user", "content": "And?"}],
        [{"role": "user", "content": "x" * (LONGEST_QUESTION + 1)}],
    ],
)
def test_what_is_no_question_is_refused(messages: list[dict[str, Any]]) -> None:
    with pytest.raises(ValueError, match=r"question|message"):
        join_messages(messages)


def test_programs_and_points_go_by_name(tmp_path: Path) -> None:
    for name, threshold in (("tuned", 0.25), ("other", 0.75)):
        SCALE(threshold).save(tmp_path / f"{name}.json")
    frontier = tmp_path / "frontier.json"
    frontier.write_text(json.dumps({"points": POINTS}))
    paths = [tmp_path / "tuned.json", tmp_path / "other.json"]
    catalogue = read_catalogue(paths, frontier)
    names = list_names(catalogue)
    points = ["@tokens=900", "@tokens=4001"]
    expected = [name + point for name in ("scale", "tuned") for point in ("", *points)]
    assert names == [*expected, "other"]

    def ends(name: str) -> tuple[float, float]:
        program = find_program(catalogue, name)
        assert isinstance(program, SCALE)
        return program.threshold.value, program.split.value

    assert [ends(name)[0] for name in ("scale", "tuned", "other")] == [0.25, 0.25, 0.75]
    assert ends("tuned@tau=0.5") == (0.5, 0.0)
    assert ends("scale@tokens=3999") == ends("scale@tokens=900") == (0.9, 0.0)
    assert ends("scale@tokens=8000") == ends("tuned@tokens=4001") == (0.4, 0.2)
    with pytest.raises(ValueError, match="the cheapest point of scale costs 900"):
        find_program(catalogue, "scale@tokens=899")
    with pytest.raises(ValueError, match="no frontier is known of other"):
        find_program(catalogue, "other@tokens=8000")
    with pytest.raises(UnknownModelError):
        find_program(catalogue, "missing@tau=0.5")


def test_the_record_of_a_compile_may_hold_the_points(tmp_path: Path) -> None:
    program = SCALE()
    program.record = {"points": POINTS}
    program.save(tmp_path / "tuned.json")
    catalogue = read_catalogue([tmp_path / "tuned.json"])
    chosen = find_program(catalogue, "tuned@tokens=1000")
    assert isinstance(chosen, SCALE)
    assert chosen.threshold.value == 0.9


def test_methods_on_the_command_line_are_those_of_a_request() -> None:
    parser = cli.make_parser()
    for method in METHODS:
        assert parser.parse_args(["solve", "1 + 1", "--method", method]).method == method
    with pytest.raises(SystemExit):
        parser.parse_args(["solve", "1 + 1", "--method", "guess"])


@pytest.mark.parametrize("name", ["a b.json", "scale@x.json", "scale.json"])
def test_a_name_that_cannot_be_used_is_refused(tmp_path: Path, name: str) -> None:
    paths = [tmp_path / "first.json", tmp_path / name]
    for path in paths:
        SCALE().save(path)
    with pytest.raises(ValueError, match="name"):
        read_catalogue(paths)


def test_proxy_files_that_name_the_old_address_find_the_handler() -> None:
    from scale_dspy import provider
    from scale_dspy.serve.provider import handler

    assert provider.handler is handler


BAD_VALUES = (True, 10**30, 10**400, float("nan"), float("inf"), -1, "x", [], [1], {"a": 1})


def list_places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to every value in a JSON document."""
    yield path
    items: Any = value.items() if isinstance(value, dict) else ()
    for key, each in enumerate(value) if isinstance(value, list) else items:
        yield from list_places(each, (*path, key))


@pytest.mark.parametrize("kind", ["record", "frontier"])
def test_a_value_of_another_kind_in_a_file_is_one_line(kind: str, tmp_path: Path) -> None:
    """Of a frontier, and of the part of a program's file that says what its points are."""
    program = SCALE()
    program.record = {"points": POINTS}
    whole: Any = {"points": POINTS}
    if kind == "record":
        program.save(tmp_path / "p.json")
        whole = json.loads((tmp_path / "p.json").read_text())
    refused, path = 0, tmp_path / "damaged.json"
    start = ("scale_dspy", "record") if kind == "record" else ()
    places = [each for each in list_places(whole) if each[: len(start)] == start]
    for place in places:
        for value in BAD_VALUES:
            damaged = json.loads(json.dumps(whole))
            if place:
                spot = damaged
                for key in place[:-1]:
                    spot = spot[key]
                spot[place[-1]] = value
            path.write_text(json.dumps(damaged if place else value))
            given: tuple[Any, ...] = ([path],) if kind == "record" else ([], path)
            said = complain(*given)
            refused += bool(said)
            assert "\n" not in said
            assert not said or "damaged.json" in said
    assert refused > 2 * len(places)


def complain(*given: Any) -> str:
    """What is wrong with files, in words; empty where nothing is."""
    try:
        list_names(read_catalogue(*given))
    except ValueError as error:
        return str(error)
    return ""
