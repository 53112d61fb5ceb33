"""`dspy.streamify` over SCALE, in all its forms: it ends, streams what it says, counts the same."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from typing import Any

import dspy
import pytest
from dspy.streaming import StatusMessage, StatusMessageProvider, StreamListener, StreamResponse

from scale_dspy import SCALE, connect
from scale_dspy.lm.connect import MeteredLM
from scale_dspy.methods import make_program
from tests.fake_vllm import FakeVLLM, fake_vllm
from tests.world import World

EXAMPLES = World().problems(3)
LIMIT = 60  # seconds; what hung did so for ever


class Told(StatusMessageProvider):
    def module_start_status_message(self, instance: Any, inputs: dict[str, Any]) -> str:
        return f"{type(instance).__name__} begins"

    def lm_end_status_message(self, outputs: Any) -> str:
        return "a reply"


@pytest.fixture
def uncached(server: FakeVLLM) -> Iterator[MeteredLM]:
    with dspy.context(lm=connect(server.model, server.api_base, seed=0, cache=False)):
        yield dspy.settings.lm


def read(program: Any, problem: str = EXAMPLES[0].problem, **options: Any) -> list[Any]:
    """All that streamify yields."""
    stream = dspy.streamify(program, **options)
    if options.get("async_streaming") is False:
        return list(stream(problem=problem))

    async def gather() -> list[Any]:
        return [item async for item in stream(problem=problem)]

    return asyncio.run(asyncio.wait_for(gather(), LIMIT))


def count(usage: dict[str, Any], key: str) -> int:
    return sum(tally[key] for tally in usage.values())


@pytest.mark.parametrize(
    "options", [{}, {"is_async_program": True}, {"async_streaming": False}], ids=str
)
@pytest.mark.parametrize("method", ["scale", "cot", "last_step", "routing"])
def test_it_streams_and_ends_with_the_same_prediction(
    server: FakeVLLM, uncached: MeteredLM, method: str, options: dict[str, Any]
) -> None:
    program = make_program(method, candidates=2)
    plain = program(problem=EXAMPLES[0].problem)
    server.clear()
    *chunks, prediction = read(program, **options)
    assert len(chunks) > 5
    assert (prediction.answer, prediction.steps) == (plain.answer, plain.steps)
    totals = server.totals()
    for key in ("calls", "prompt_tokens", "completion_tokens", "reasoning_tokens"):
        assert count(prediction.usage, key) == getattr(totals, key) == count(plain.usage, key)


@pytest.mark.parametrize("options", [{}, {"is_async_program": True}], ids=str)
def test_a_listener_hears_a_stage_s_field(uncached: MeteredLM, options: dict[str, Any]) -> None:
    program = SCALE(candidates=2)
    listener = StreamListener(
        "solution",
        predict=program.solve.system_2,
        predict_name="solve.system_2",
        allow_reuse=True,
    )
    *said, prediction = read(
        program, stream_listeners=[listener], status_message_provider=Told(), **options
    )
    heard = "".join(item.chunk for item in said if isinstance(item, StreamResponse))
    solutions = [step.solution for step in prediction.steps if step.system == 2]
    assert "".join(heard.split()) == "".join("".join(solutions).split())
    told = [item.message for item in said if isinstance(item, StatusMessage)]
    assert {"Decompose begins", "Solve begins", "a reply"} <= set(told)


def test_replies_from_the_cache_need_no_stream(lm: MeteredLM) -> None:
    with dspy.context(lm=lm):
        plain = SCALE(candidates=2)(problem=EXAMPLES[0].problem)
        *_, prediction = read(SCALE(candidates=2))
    assert prediction.usage["solve_2"]["completion_tokens"] > 0
    assert (prediction.answer, prediction.steps) == (plain.answer, plain.steps)


def test_many_readers_at_once_each_get_their_own(uncached: MeteredLM) -> None:
    async def follow(problem: str) -> dspy.Prediction:
        async for item in dspy.streamify(SCALE(candidates=2))(problem=problem):
            last = item
        return last

    async def follow_all() -> list[dspy.Prediction]:
        return list(await asyncio.gather(*(follow(each.problem) for each in EXAMPLES)))

    ended = asyncio.run(asyncio.wait_for(follow_all(), LIMIT))
    assert [each.answer for each in ended] == [each.answer for each in EXAMPLES]


class Around(dspy.Module):
    """A module that calls SCALE as modules do, from a thread of its own or on the reader's loop."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = SCALE(candidates=1)

    def forward(self, problem: str) -> dspy.Prediction:
        (inner,) = dspy.Parallel(num_threads=1, disable_progress_bar=True)(
            [(self.scale, {"problem": problem})]
        )
        return dspy.Prediction(answer=inner.answer)

    async def aforward(self, problem: str) -> dspy.Prediction:
        return dspy.Prediction(answer=self.scale(problem=problem).answer)  # blocks the loop


@pytest.mark.parametrize("options", [{}, {"is_async_program": True}], ids=str)
def test_where_nobody_can_read_it_runs_without_a_stream(
    uncached: MeteredLM, options: dict[str, Any]
) -> None:
    *_, prediction = read(Around(), status_message_provider=Told(), **options)
    assert prediction.answer == EXAMPLES[0].answer


class Explain(dspy.Module):
    """The shape of DSPy's streaming tutorial: two predictors in a row, SCALE the first of them."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = SCALE(candidates=2)
        self.explain = dspy.Predict("answer -> sentence")

    def forward(self, problem: str) -> dspy.Prediction:
        solved = self.scale(problem=problem)
        told = self.explain(answer=solved.answer)
        return dspy.Prediction(answer=solved.answer, sentence=told.sentence)


@pytest.mark.parametrize("options", [{}, {"async_streaming": False}], ids=str)
def test_the_program_of_dspy_s_tutorial_tells_its_state_and_streams_both_parts(
    options: dict[str, Any],
) -> None:
    words = "It is found by going through the parts one after another."
    said = f"[[ ## sentence ## ]]\n{words}\n\n[[ ## completed ## ]]"
    program = Explain()
    listeners = [
        StreamListener("sentence", predict=program.explain, predict_name="explain"),
        StreamListener(
            "solution", predict=program.scale.solve.system_1, predict_name="scale.solve.system_1",
            allow_reuse=True,
        ),
    ]  # fmt: skip
    with fake_vllm(World(), other=said) as server:
        lm = connect(server.model, server.api_base, seed=0, cache=False)
        with dspy.context(lm=lm):
            *heard, prediction = read(
                program, stream_listeners=listeners, status_message_provider=Told(), **options
            )
    assert (prediction.answer, prediction.sentence) == (EXAMPLES[0].answer, words)
    chunks = [item for item in heard if isinstance(item, StreamResponse)]
    told = [item.message for item in heard if isinstance(item, StatusMessage)]
    sentence = "".join(item.chunk for item in chunks if item.signature_field_name == "sentence")
    assert sentence.strip() == words
    assert any(item.signature_field_name == "solution" for item in chunks)
    assert [message for message in told if message in ("SCALE begins", "Predict begins")]
    assert told.index("SCALE begins") < told.index("a reply")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_reader_who_leaves_leaves_no_thread_behind() -> None:
    async def leave(after: int) -> None:
        async for _ in dspy.streamify(SCALE(candidates=2))(problem=EXAMPLES[2].problem):
            after -= 1
            if not after:
                break

    with (
        fake_vllm(delay=0.001) as server,
        dspy.context(lm=connect(server.model, server.api_base, seed=0, cache=False)),
    ):
        for number in range(20):
            asyncio.run(leave(1 + number))
        deadline = time.monotonic() + 15
        while _workers() and time.monotonic() < deadline:
            time.sleep(0.1)
        assert not _workers()


def _workers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if "AnyIO" in thread.name]
