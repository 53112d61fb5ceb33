"""The search for thresholds: whether to split, options beside them, and as an optimizer of DSPy."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import dspy
import pytest

from scale_dspy import SCALE, connect
from scale_dspy.grading.metrics import make_metric
from scale_dspy.threshold import Threshold
from scale_dspy.tuning.choice import choose
from scale_dspy.tuning.frontier import Frontier, draw_frontier
from scale_dspy.tuning.threshold_search import ThresholdSearch, change
from scale_dspy.tuning.threshold_sweep import walk_all
from tests.fake_vllm import fake_vllm
from tests.world import World

pytestmark = pytest.mark.usefixtures("cache_on_disk")


@pytest.mark.parametrize(
    ("name", "knobs", "splits"),
    [
        ("hurts", {"merge": -0.05, "slip": 0.12, "whole_1": 0.05, "whole_2": 0.95}, "never"),
        ("helps", {"merge": 0.3, "whole_1": 0.0, "whole_2": 0.05}, "always"),
    ],
)
def test_whether_to_split_is_learned(
    name: str, knobs: dict[str, Any], splits: str, tmp_path: Path
) -> None:
    world = World(6, parts=(3, 5), **knobs)
    with fake_vllm(world) as server:
        lm = connect(server.model, server.api_base, seed=0)
        found = ThresholdSearch(threads=16, out=tmp_path).find(
            SCALE(candidates=1), world.problems(24), lm
        )
        with dspy.context(lm=lm):
            predictions = [found.program(problem=each.problem) for each in world.problems(6, 500)]
    whole = [len(prediction.steps) == 1 for prediction in predictions]
    assert all(whole) if splits == "never" else not any(whole)


@pytest.mark.slow
def test_a_mixed_world_needs_both_and_shows_it_on_other_problems(tmp_path: Path) -> None:
    """Short problems are best solved whole, since every step may slip; long ones only in parts."""
    world = World(3, parts=(1, 6), merge=0.15, slip=0.1)
    program = SCALE(candidates=1, assess="upfront")
    with fake_vllm(world) as server:
        lm = connect(server.model, server.api_base, seed=0)
        found = ThresholdSearch(threads=16, out=tmp_path / "val").find(
            program, world.problems(60), lm
        )
        walks = walk_all(program, world.problems(40, 500), lm, tmp_path / "test")
    test, choice = draw_frontier(walks), found.choice
    both, _ = test.read(choice.threshold, choice.split)
    split_only = replace(found.frontier, splits=found.frontier.splits[:1])
    always = choose(replace(split_only, **_rows(found.frontier, slice(0, 1))))
    never = choose(replace(split_only, **_rows(found.frontier, slice(-1, None))))
    assert 0 < choice.split < 1
    assert both > test.read(always.threshold, 0.0)[0]
    assert both > test.read(never.threshold, 1.0)[0]


def _rows(frontier: Frontier, rows: slice) -> dict[str, Any]:
    return {"right": frontier.right[rows], "tokens": frontier.tokens[rows]}


def test_variants_are_tried_and_the_best_is_kept(tmp_path: Path) -> None:
    world = World(9, parts=(2, 4), lacking=0.6, merge=0.6)  # one list in two lacks a part
    with fake_vllm(world) as server:
        search = ThresholdSearch(threads=16, variants=[{"candidates": 8}], out=tmp_path)
        found = search.find(
            SCALE(candidates=1), world.problems(16), connect(server.model, server.api_base, seed=0)
        )
    assert found.program.options["candidates"] == 8
    with pytest.raises(ValueError, match="no options"):
        change(SCALE(), {"colour": 1})


def test_threshold_search_alone_and_inside_better_together(tmp_path: Path) -> None:
    world = World(2, parts=(1, 3), ability_1=0.3)
    metric = make_metric()
    with fake_vllm(world) as server:
        lm = connect(server.model, server.api_base, seed=0)
        student = SCALE(0.9, candidates=1)
        with dspy.context(lm=lm):
            alone = ThresholdSearch(threads=8).compile(student, trainset=world.problems(8))
            assert alone.threshold.value < 0.5
            student.set_lm(lm)
            together = dspy.BetterTogether(
                metric,
                t=ThresholdSearch(threads=8),
                b=dspy.BootstrapFewShot(metric=metric, max_labeled_demos=0),
            )
            both = together.compile(
                student,
                trainset=world.problems(8),
                valset=world.problems(6, 50),
                strategy="t -> b -> t",
            )
    assert not both.flag_compilation_error_occurred
    assert both.threshold.value < 0.5


class Guess(dspy.Module):
    """A program that is no SCALE but has a threshold: right from 0.6 to 0.8."""

    def __init__(self) -> None:
        super().__init__()
        self.cut = Threshold(0.1)

    def forward(self, problem: str) -> dspy.Prediction:
        return dspy.Prediction(answer="1" if 0.6 <= self.cut.value <= 0.8 else "0")


def test_other_programs_are_tuned_with_optuna() -> None:
    examples = [dspy.Example(problem="p", answer="1").with_inputs("problem")] * 2
    search = ThresholdSearch(lambda gold, pred: gold.answer == pred.answer, threads=1)
    tuned = search.compile(Guess(), trainset=examples)
    assert 0.6 <= tuned.cut.value <= 0.8
    with pytest.raises(ValueError, match="no Threshold"):
        search.compile(dspy.Predict("problem -> answer"), trainset=examples)
    with pytest.raises(ValueError, match="metric"):
        ThresholdSearch().compile(Guess(), trainset=examples)
