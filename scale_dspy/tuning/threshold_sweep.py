"""Run a program at every threshold that makes a difference, and at no other (the walk).

A run at tau stays the same for every threshold from the largest of its scores that is at most tau
up to the smallest that is above it. So from tau = 0 each run itself names the next threshold worth
running, and after at most n + 1 runs the outcome of a (problem, sample) pair is known at every tau
in [0, 1]. Runs share their beginnings, and what is shared comes from the cache.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import dspy

from scale_dspy.evaluation.runner import (
    Progress,
    Rollout,
    count_up,
    describe_run,
    finish_pairs,
    solve_once,
)
from scale_dspy.evaluation.summary import sum_tokens
from scale_dspy.grading.labels import Label, ScoreReport, make_label, measure_scores
from scale_dspy.lm.connect import MeteredLM
from scale_dspy.lm.usage import track
from scale_dspy.program import SCALE

Walk = dict[str, Any]
"""A line of walks.jsonl: id, sample, gold, difficulty, split, rated, whole, labels, usage, seconds,
error. The three curves are lists of [tau, right, response tokens], each piece holding from its tau
to the next one's. In `split` the problem is not rated, and split; in `rated` it is rated first, and
split; in `whole` it is rated first, and solved whole. `difficulty` is that of the whole problem.
`usage` is what was really sent, by stage."""

WALKS = "walks.jsonl"


def walk_all(
    program: SCALE,
    examples: Sequence[dspy.Example],
    lm: MeteredLM,
    out: Path,
    *,
    data: str = "",
    samples: int = 1,
    threads: int = 64,
    whole: bool = True,
    retry_errors: bool = False,
    report: Callable[[Progress], None] | None = None,
) -> list[Walk]:
    """Walk every example `samples` times, each written as it ends; again, do what is missing.

    Args:
        program: its threshold and split do not matter.
        examples: as `load` makes them.
        lm: must cache, or the runs of a walk would not share their beginnings.
        out: the folder of walks.jsonl and run.json.
        data: the name of the examples, for run.json.
        samples: walks of each example.
        threads: walks at work at once.
        whole: whether to try each problem unsplit too, which costs a rating and two solutions.
        retry_errors: do those walks again that ended in an error.
        report: called after each walk; `right` counts those that are right at tau = 0.

    Returns:
        The walks in the order of the examples and samples, whatever order they ended in: sums and
        resamples of them are then the same each time.

    Raises:
        ValueError: the LM does not cache, or `out` holds other walks.
        RuntimeError: the server is gone; what is finished is kept.
    """
    if not lm.cache:
        raise ValueError("the frontier needs an LM that caches: leave cache=True")
    walks: list[Walk] = []
    count = count_up(len(examples) * samples, report)

    def enter(walk: Walk) -> None:
        walks.append(walk)
        count({**walk, "correct": walk["split"][0][1] if walk["split"] else False})

    async def work(example: dspy.Example, sample: int) -> Walk:
        return await walk_pair(program, example, sample, lm, whole=whole)

    described = describe_run(program.at(0, 0), "frontier", data, examples, lm, samples)
    finish_pairs(
        work,
        examples,
        out / WALKS,
        description={**described, "whole": whole},
        samples=samples,
        threads=threads,
        retry_errors=retry_errors,
        enter=enter,
    )
    places = {str(example.id): place for place, example in enumerate(examples)}
    return sorted(walks, key=lambda walk: (places[walk["id"]], walk["sample"]))


def read_labels(walks: Sequence[Walk]) -> list[Label]:
    """What the walks show of single sub-problems: see `labels.Label`."""
    return [Label(**label) for walk in walks for label in walk["labels"]]


def report_scores(walks: Sequence[Walk]) -> ScoreReport | None:
    """How well the difficulty scores tell hard sub-problems; None where no walk tells."""
    labels = read_labels(walks)
    return measure_scores(labels) if labels else None


async def walk_pair(
    program: SCALE, example: dspy.Example, sample: int, lm: MeteredLM, *, whole: bool
) -> Walk:
    """All outcomes of one (problem, sample) pair; see `Walk`.

    Raises:
        LMError: one that every other walk would meet as well.
        CostLimitError: no request may be sent any more.
    """
    started = time.perf_counter()
    with track() as ledger:
        split = await _walk_curve(program.at(0, 0), example, sample, lm)
        unsplit = await _walk_curve(program.at(0, 1), example, sample, lm) if whole else []
        difficulty = _read_whole_difficulty(unsplit)
        rated: list[tuple[float, Rollout]] = []
        if difficulty:  # a problem rated 0 is never split once it is rated
            rated = await _walk_curve(program.at(0, difficulty / 2), example, sample, lm)
    runs = [*split, *unsplit, *rated]
    error = next((run["error"] for _, run in runs if run["error"]), None)
    labels = await asyncio.to_thread(_list_labels, split, unsplit)  # math-verify may take a while
    return {
        "id": str(example.id),
        "sample": sample,
        "gold": example.answer,
        "difficulty": difficulty,
        "split": [] if error else _draw_curve(split),
        "rated": [] if error else _draw_curve(rated),
        "whole": [] if error else _draw_curve(unsplit),
        "labels": [asdict(label) for label in labels],
        "usage": {name: asdict(tally) for name, tally in ledger.sent.items()},
        "seconds": round(time.perf_counter() - started, 3),
        "error": error,
    }


async def _walk_curve(
    program: SCALE, example: dspy.Example, sample: int, lm: MeteredLM
) -> list[tuple[float, Rollout]]:
    """Runs at rising thresholds, each with the threshold from which it holds."""
    runs: list[tuple[float, Rollout]] = []
    tau: float | None = 0.0
    while tau is not None:
        rollout = await solve_once(program.at(tau), example, sample, lm)
        runs.append((tau, rollout))
        scores = [step["difficulty"] for step in rollout["steps"]]
        above = [score for score in scores if score is not None and score > tau]
        tau = min(above, default=None)
    return runs


def _draw_curve(runs: list[tuple[float, Rollout]]) -> list[list[Any]]:
    return [
        [
            tau,
            rollout["correct"],
            sum_tokens(rollout["usage"]),
        ]
        for tau, rollout in runs
    ]


def _read_whole_difficulty(runs: list[tuple[float, Rollout]]) -> float | None:
    steps = runs[0][1]["steps"] if runs else []
    return steps[0]["difficulty"] if steps else None


def _list_labels(*curves: list[tuple[float, Rollout]]) -> list[Label]:
    return [label for curve in curves for label in _find_labels(curve)]


def _find_labels(runs: list[tuple[float, Rollout]]) -> Iterator[Label]:
    """Where one run hands a sub-problem to System 1 that the run before left to System 2, both
    solved it in the same context: all steps before it are the same."""
    for (_, slow), (_, quick) in pairwise(runs):
        for ours, theirs in zip(slow["steps"], quick["steps"], strict=False):
            if ours["system"] != theirs["system"]:
                yield make_label(
                    slow["problem"],
                    ours["subproblem"],
                    ours["difficulty"],
                    theirs["solution"],
                    ours["solution"],
                )
                break
