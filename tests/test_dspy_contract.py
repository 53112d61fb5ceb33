"""What DSPy promises of any module holds for SCALE: it is wrapped, run in parallel and tuned."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import dspy
import numpy as np
import pytest
from dspy.teleprompt import KNNFewShot

from scale_dspy import SCALE, connect
from scale_dspy.baselines import METHODS, make_program
from scale_dspy.grading.metrics import is_right, make_metric
from scale_dspy.program import load_program
from scale_dspy.tuning.threshold_search import ThresholdSearch
from tests.fake_vllm import FakeVLLM, fake_vllm
from tests.world import World
from tests.writer import write_prompts

WORLD = World(parts=(1, 3))
EXAMPLES = WORLD.problems(6)
(EXAMPLE,) = WORLD.problems(1, 90)
SCORE = make_metric()


@pytest.fixture(autouse=True)
def _asked() -> Iterator[FakeVLLM]:
    with (
        fake_vllm(WORLD, other=write_prompts("Do it with care.")) as server,
        dspy.context(lm=connect(server.model, server.api_base, seed=0)),
    ):
        yield server


@pytest.fixture
def scale() -> SCALE:
    return SCALE(candidates=2)


@pytest.mark.parametrize("size", [None, 2])
def test_ensemble_with_majority(scale: SCALE, size: int | None) -> None:
    lazy = SCALE(threshold=1.0, assess="none", candidates=1)
    together = dspy.Ensemble(reduce_fn=dspy.majority, size=size).compile(
        [scale, scale.at(0.9), lazy]
    )
    voted = together(problem=EXAMPLE.problem)
    assert voted.answer in {
        scale(problem=EXAMPLE.problem).answer,
        lazy(problem=EXAMPLE.problem).answer,
    }
    assert voted.steps


def test_majority_counts_answers_and_passes_over_those_that_are_none() -> None:
    given = [dspy.Prediction(steps=[], usage={}, answer=answer) for answer in (None, "7", "7", "8")]
    assert partial(dspy.majority, normalize=None)(given).answer == "7"


def test_evaluate_scores_and_writes_its_table(scale: SCALE) -> None:
    evaluate = dspy.Evaluate(
        devset=EXAMPLES, metric=is_right, num_threads=4, display_progress=False, display_table=2
    )
    assert evaluate(scale).score == 100.0


def test_parallel_and_batch_solve_in_order(scale: SCALE) -> None:
    parallel = dspy.Parallel(num_threads=3, disable_progress_bar=True)
    golds = [example.answer for example in EXAMPLES]
    solved = parallel([(scale, example.inputs()) for example in EXAMPLES])
    assert [each.answer for each in solved] == golds
    solved = scale.batch(EXAMPLES, num_threads=3, disable_progress_bar=True)
    assert [each.answer for each in solved] == golds


def test_best_of_n_draws_anew_and_keeps_the_best(scale: SCALE) -> None:
    rewards = iter([0.2, 0.9, 0.4])
    seen: list[dspy.Prediction] = []

    def reward(arguments: dict[str, Any], prediction: dspy.Prediction) -> float:
        seen.append(prediction)
        return next(rewards)

    best = dspy.BestOfN(module=scale, N=3, reward_fn=reward, threshold=1.0)
    assert best(problem=EXAMPLE.problem) is seen[1]
    drawn = {each.steps[-1].solution for each in seen}
    assert len(drawn) == 3


def test_refine_hands_its_advice_to_the_next_try(scale: SCALE) -> None:
    refine = dspy.Refine(module=scale, N=2, reward_fn=lambda *_: 0.5, threshold=1.0)
    assert refine(problem=EXAMPLE.problem).answer == EXAMPLE.answer


def test_asyncify_and_acall_answer_like_a_call(scale: SCALE) -> None:
    expected = scale(problem=EXAMPLE.problem)

    async def ask() -> list[dspy.Prediction]:
        wrapped = dspy.asyncify(scale)
        return list(
            await asyncio.gather(
                wrapped(problem=EXAMPLE.problem), scale.acall(problem=EXAMPLE.problem)
            )
        )

    for each in asyncio.run(ask()):
        assert (each.answer, each.steps) == (expected.answer, expected.steps)


def test_tracked_usage_is_the_ledger_s(scale: SCALE) -> None:
    with dspy.context(track_usage=True):
        prediction = scale(problem=EXAMPLE.problem)
    ((_, tracked),) = prediction.get_lm_usage().items()
    for key in ("prompt_tokens", "completion_tokens"):
        assert tracked[key] == sum(tally[key] for tally in prediction.usage.values())


BOOTSTRAP = {"metric": SCORE, "max_bootstrapped_demos": 1, "max_labeled_demos": 0}
OPTIMIZERS: dict[str, tuple[Callable[[Any], Any], dict[str, Any]]] = {
    "LabeledFewShot": (lambda lm: dspy.LabeledFewShot(k=2), {}),
    "BootstrapFewShot": (lambda lm: dspy.BootstrapFewShot(**BOOTSTRAP), {}),
    "BootstrapFewShotWithRandomSearch": (
        lambda lm: dspy.BootstrapFewShotWithRandomSearch(
            **BOOTSTRAP, num_candidate_programs=1, num_threads=4
        ),
        {"valset": EXAMPLES},
    ),
    "COPRO": (
        lambda lm: dspy.COPRO(prompt_model=lm, metric=SCORE, breadth=2, depth=1),
        {"eval_kwargs": {"num_threads": 4, "display_progress": False}},
    ),
    "MIPROv2": (
        lambda lm: dspy.MIPROv2(
            metric=SCORE,
            prompt_model=lm,
            auto=None,
            num_candidates=2,
            max_bootstrapped_demos=1,
            max_labeled_demos=0,
            num_threads=4,
        ),
        {"valset": EXAMPLES, "num_trials": 2, "minibatch": False},
    ),
    "SIMBA": (
        lambda lm: dspy.SIMBA(
            metric=SCORE, bsize=4, num_candidates=2, max_steps=1, prompt_model=lm, num_threads=4
        ),
        {},
    ),
    "InferRules": (
        lambda lm: dspy.InferRules(
            **BOOTSTRAP, num_candidates=1, num_rules=2, num_threads=4, teacher_settings={"lm": lm}
        ),
        {"valset": EXAMPLES},
    ),
    "GEPA": (
        lambda lm: dspy.GEPA(
            metric=make_metric(feedback=True), max_metric_calls=12, reflection_lm=lm, num_threads=4
        ),
        {"valset": EXAMPLES},
    ),
    "KNNFewShot": (
        lambda lm: KNNFewShot(
            k=2, trainset=EXAMPLES, vectorizer=dspy.Embedder(_embed), **BOOTSTRAP
        ),
        {},
    ),
    "BetterTogether": (
        lambda lm: dspy.BetterTogether(
            metric=SCORE,
            t=ThresholdSearch(threads=4),
            b=dspy.BootstrapFewShot(**BOOTSTRAP),
        ),
        {"valset": EXAMPLES, "strategy": "t -> b"},
    ),
}


def _embed(texts: list[str]) -> Any:
    return np.array([[float(len(text)), 1.0] for text in texts])


def _read_prompts(program: SCALE) -> list[str]:
    return [predictor.signature.instructions for predictor in program.predictors()]


@pytest.mark.parametrize("method", METHODS)
def test_what_is_written_into_a_signature_stays_in_its_program(method: str) -> None:
    """As dspy.InferRules does, which writes into the class."""
    for predictor in make_program(method).predictors():
        predictor.signature.instructions = "Do it with care."
    for predictor in make_program(method).predictors():
        assert predictor.signature.instructions != "Do it with care."


@pytest.mark.slow
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_called_directly(name: str, scale: SCALE, tmp_path: Path) -> None:
    make, arguments = OPTIMIZERS[name]
    untuned = _read_prompts(SCALE())
    given = {} if name == "KNNFewShot" else {"trainset": EXAMPLES}
    if name == "BetterTogether":
        scale.set_lm(dspy.settings.lm)  # it asks for that of any program
    tuned = make(dspy.settings.lm).compile(scale, **given, **arguments)
    assert tuned(problem=EXAMPLE.problem).answer == EXAMPLE.answer
    assert scale.threshold.value == 0.5
    assert _read_prompts(SCALE()) == untuned
    if name != "KNNFewShot":  # it searches at each call, which no file holds
        tuned.save(tmp_path / "tuned.json")
        loaded = load_program(tmp_path / "tuned.json")
        assert loaded.options == scale.options
        assert loaded(problem=EXAMPLE.problem).steps == tuned(problem=EXAMPLE.problem).steps
