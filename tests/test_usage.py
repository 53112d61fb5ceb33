"""The ledger agrees with the server's own count, to the token, however the calls are made."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import dspy
import pytest

from scale_dspy import SCALE, connect, modes, track
from scale_dspy.lm.cache import Store, use
from scale_dspy.lm.cap import OutOfTokensError, grant, room
from scale_dspy.lm.connect import MeteredLM
from scale_dspy.lm.tally import Tally
from scale_dspy.lm.usage import Ledger, record, stage
from tests.fake.orders import Totals
from tests.fake_vllm import FakeVLLM, Fault, fake_vllm
from tests.world import World

WORLD = World.noisy()


@pytest.fixture
def server() -> Any:
    with fake_vllm(WORLD) as running:
        yield running


def sent(ledger: Ledger) -> Totals:
    return _totals(sum(ledger.sent.values(), Tally()))


def spent(ledger: Ledger) -> Totals:
    return _totals(ledger.total())


def _totals(tally: Tally) -> Totals:
    return Totals(tally.calls, tally.prompt_tokens, tally.completion_tokens, tally.reasoning_tokens)


def add_up(predictions: list[dspy.Prediction]) -> Totals:
    return sum(
        (
            Totals(
                stage["calls"],
                stage["prompt_tokens"],
                stage["completion_tokens"],
                stage["reasoning_tokens"],
            )
            for prediction in predictions
            for stage in prediction.usage.values()
        ),
        Totals(),
    )


def test_cold_then_from_the_cache(server: FakeVLLM, lm: MeteredLM) -> None:
    (example,) = WORLD.problems(1)
    with dspy.context(lm=lm):
        with track() as cold:
            first = SCALE()(problem=example.problem)
        with track() as warm:
            second = SCALE()(problem=example.problem)
    assert spent(cold) == sent(cold) == server.totals() == add_up([first])
    assert spent(warm) == spent(cold) == add_up([second])
    assert sent(warm) == Totals()


def test_by_stage(server: FakeVLLM, lm: MeteredLM) -> None:
    (example,) = WORLD.problems(1)
    with dspy.context(lm=lm):
        prediction = SCALE()(problem=example.problem)
    by_stage = server.totals_by_stage()
    for name, tally in prediction.usage.items():
        theirs = by_stage.get(name, Totals())
        assert tally["calls"] == theirs.calls
        assert tally["completion_tokens"] == theirs.completion_tokens
    assert list(prediction.usage) == ["decompose", "select", "assess", "solve_1", "solve_2"]
    assert all(tally["seconds"] > 0 for tally in prediction.usage.values() if tally["calls"])


def test_candidates_and_repeats_are_counted() -> None:
    with fake_vllm(WORLD, faults=[Fault(stage="assess", every=2, content="high")]) as server:
        lm = connect(server.model, server.api_base, seed=0)
        (example,) = WORLD.problems(1)
        with dspy.context(lm=lm), track() as ledger:
            prediction = SCALE()(problem=example.problem)
        assert prediction.usage["assess"]["calls"] > len(prediction.steps) - 1
        assert spent(ledger) == server.totals() == add_up([prediction])


def test_32_threads(server: FakeVLLM, lm: MeteredLM) -> None:
    program = SCALE(assess="upfront")
    examples = WORLD.problems(32)

    def call(example: dspy.Example) -> dspy.Prediction:
        with dspy.context(lm=lm):
            return program(problem=example.problem)

    with ThreadPoolExecutor(32) as pool:
        predictions = list(pool.map(call, examples))
    assert add_up(predictions) == server.totals()


def test_async_tasks(server: FakeVLLM, lm: MeteredLM) -> None:
    program = SCALE()

    async def call_all() -> list[dspy.Prediction]:
        with dspy.context(lm=lm):
            return await asyncio.gather(
                *(program.acall(problem=example.problem) for example in WORLD.problems(16))
            )

    assert add_up(asyncio.run(call_all())) == server.totals()


def test_nested_parallel(server: FakeVLLM, lm: MeteredLM) -> None:
    class Outer(dspy.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.program = SCALE(candidates=2)

        def forward(self, start: int) -> dspy.Prediction:
            pairs = [(self.program, {"problem": e.problem}) for e in WORLD.problems(3, start=start)]
            return dspy.Prediction(inner=dspy.Parallel(num_threads=3)(pairs))

    outer = Outer()
    with dspy.context(lm=lm), track() as ledger:
        pairs = [(outer, {"start": 3 * number}) for number in range(4)]
        results = dspy.Parallel(num_threads=4)(pairs)
    predictions = [prediction for result in results for prediction in result.inner]
    assert add_up(predictions) == spent(ledger) == server.totals()


def test_evaluate_with_threads(server: FakeVLLM, lm: MeteredLM) -> None:
    examples = WORLD.problems(8)
    evaluate = dspy.Evaluate(
        devset=examples,
        metric=lambda example, prediction, trace=None: prediction.answer == example.answer,
        num_threads=8,
        display_progress=False,
    )
    with dspy.context(lm=lm), track() as ledger:
        result = evaluate(SCALE(candidates=1))
    predictions = [prediction for _, prediction, _ in result.results]
    assert add_up(predictions) == spent(ledger) == server.totals()


def test_calls_outside_a_stage(server: FakeVLLM, lm: MeteredLM) -> None:
    with track() as ledger:
        lm("hello")
    assert ledger.usage()["other"]["calls"] == 1
    assert spent(ledger) == server.totals()


def test_no_history_still_counts(server: FakeVLLM, lm: MeteredLM) -> None:
    with dspy.context(lm=lm, disable_history=True), track() as ledger:
        SCALE()(problem=WORLD.problems(1)[0].problem)
    assert spent(ledger) == server.totals()


def test_disk_cache_keeps_the_count(server: FakeVLLM, lm: MeteredLM, tmp_path: Any) -> None:
    def call() -> dspy.Prediction:
        use(Store(tmp_path / "replies.sqlite3"))
        with dspy.context(lm=lm):
            return SCALE()(problem=WORLD.problems(1)[0].problem)

    assert add_up([call()]) == add_up([call()]) == server.totals()


def test_grants_never_overrun_a_cap_together() -> None:
    with track(cap=100) as ledger:
        with grant(60) as first, grant(60) as second:
            assert (first, second) == (60, 40)
            assert room() == 0
            with pytest.raises(OutOfTokensError), grant(8):
                pass
        assert room() == 100
        with stage("assess"):
            record(Tally(completion_tokens=30))
        assert (room(), ledger.tokens) == (70, 30)


def test_the_tightest_cap_rules() -> None:
    with track(cap=100), track(), track(cap=30):
        assert room() == 30
        with grant(None, choices=3) as each:
            assert each == 10
    assert room() is None


def test_without_a_cap_all_that_is_wanted_is_granted() -> None:
    with track(), grant(None) as everything, grant(5) as five:
        assert (everything, five) == (None, 5)


def test_modes_refuse_an_unknown_stage() -> None:
    with pytest.raises(ValueError, match="unknown stage 'solve_3'"):
        modes("hybrid", solve_3={})
