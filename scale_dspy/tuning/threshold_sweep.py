"""Run a program at every threshold that makes a difference, and at no other (the walk).

A run at tau stays the same for every threshold from the largest of its scores that is at most tau
up to the smallest that is above it. So from tau = 0 each run itself names the next threshold worth
running, and after at most n + 1 runs the outcome of a (problem, sample) pair is known at every tau
in [0, 1]. Runs share their beginnings, and what is shared comes from the cache.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import dspy
from typing_extensions import Unpack

from scale_dspy.evaluation.description import describe_run
from scale_dspy.evaluation.rollout import Rollout, read_pairs, sum_usage
from scale_dspy.evaluation.runner import Effort, finish_pairs, solve_once
from scale_dspy.grading.labels import Label, ScoreReport, make_label, measure_scores
from scale_dspy.lm.connect import MeteredLM
from scale_dspy.lm.tally import Tally
from scale_dspy.lm.usage import track
from scale_dspy.program import SCALE
from scale_dspy.utils.records import Share

WALKS = "walks.jsonl"


class Piece(NamedTuple):
    """A piece of a curve: it holds from `tau` up to the next one's. Tokens are response tokens."""

    tau: Share
    right: bool
    tokens: int


@dataclass(frozen=True, kw_only=True)
class Walk:
    """All outcomes of one sample of a problem, a line of walks.jsonl.

    Attributes:
        difficulty: of the whole problem; None where it was not rated.
        split: the curve of the problem that is not rated, and split; empty where the walk failed.
        rated: of the problem that is rated first, and split.
        whole: of the problem that is rated first, and solved whole.
        labels: what it shows of single sub-problems.
        usage: what was really sent, by stage.
        seconds: wall-clock.
        error: what ended one of its runs; None where nothing did.
    """

    id: str
    sample: int
    gold: str = ""
    difficulty: Share | None
    split: tuple[Piece, ...]
    rated: tuple[Piece, ...]
    whole: tuple[Piece, ...]
    labels: tuple[Label, ...]
    usage: dict[str, Tally]
    seconds: float | None
    error: str | None

    def __post_init__(self) -> None:
        for name in ("split", "rated", "whole"):
            taus = [piece.tau for piece in getattr(self, name)]
            if taus[:1] not in ([], [0.0]) or any(a >= b for a, b in pairwise(taus)):
                raise ValueError(f"the thresholds of the curve {name!r} do not rise from 0")

    @property
    def right(self) -> bool:
        """Whether it is right at tau = 0."""
        return bool(self.split) and self.split[0].right

    @property
    def tokens(self) -> int:
        """Response tokens that were really sent."""
        return sum_usage(self.usage).completion_tokens

    @property
    def pieces(self) -> tuple[Piece, ...]:
        """Those of all three curves: each is a run that was graded."""
        return (*self.split, *self.rated, *self.whole)

    def read_curve(self, split: float) -> tuple[Piece, ...]:
        """The curve over tau at a split."""
        if split == 0:
            return self.split
        whole = self.difficulty is not None and self.difficulty <= split
        return self.whole if whole else self.rated


def walk_all(
    program: SCALE,
    examples: Sequence[dspy.Example],
    lm: MeteredLM,
    out: Path,
    *,
    data: str = "",
    **effort: Unpack[Effort],
) -> list[Walk]:
    """Walk every example `samples` times, each written as it ends; again, do what is missing.

    Args:
        program: its threshold and split do not matter.
        examples: as `load` makes them.
        lm: must cache, or the runs of a walk would not share their beginnings.
        out: the folder of walks.jsonl and run.json.
        data: the name of the examples, for run.json.
        effort: as for `evaluate`, and counted in walks; one sample by default.

    Returns:
        The walks in the order of the examples and samples, whatever order they ended in: sums and
        resamples of them are then the same each time.

    Raises:
        ValueError: the LM does not cache, `out` holds other walks, or a file in it is damaged.
        RuntimeError: the server is gone; what is finished is kept.
    """
    if not lm.cache:
        raise ValueError("the frontier needs an LM that caches: leave cache=True")
    samples = effort.setdefault("samples", 1)

    async def work(example: dspy.Example, sample: int) -> Walk:
        return await walk_pair(program, example, sample, lm)

    described = describe_run(program.at(0, 0), "frontier", data, examples, lm, samples)
    path = out / WALKS
    finish_pairs(Walk, work, examples, path, {**described, "whole": True}, effort)
    places = {str(example.id): place for place, example in enumerate(examples)}
    walks = {(walk.id, walk.sample): walk for walk in read_pairs(Walk, path, examples, samples)}
    return sorted(walks.values(), key=lambda walk: (places[walk.id], walk.sample))


def read_labels(walks: Sequence[Walk]) -> list[Label]:
    """What the walks show of single sub-problems: see `labels.Label`."""
    return [label for walk in walks for label in walk.labels]


def report_scores(walks: Sequence[Walk]) -> ScoreReport | None:
    """How well the difficulty scores tell hard sub-problems; None where no walk tells."""
    labels = read_labels(walks)
    return measure_scores(labels) if labels else None


async def walk_pair(program: SCALE, example: dspy.Example, sample: int, lm: MeteredLM) -> Walk:
    """All outcomes of one (problem, sample) pair.

    Raises:
        LMError: one that every other walk would meet as well.
        CostLimitError: no request may be sent any more.
    """
    started = time.perf_counter()
    with track() as ledger:
        split = await _walk_curve(program.at(0, 0), example, sample, lm)
        whole = await _walk_curve(program.at(0, 1), example, sample, lm)
        difficulty = _read_whole_difficulty(whole)
        rated: list[tuple[float, Rollout]] = []
        if difficulty:  # a problem rated 0 is never split once it is rated
            rated = await _walk_curve(program.at(0, difficulty / 2), example, sample, lm)
    runs = [*split, *whole, *rated]
    error = next((run.error for _, run in runs if run.error), None)
    labels = await asyncio.to_thread(_list_labels, split, whole)  # math-verify may take a while
    return Walk(
        id=str(example.id),
        sample=sample,
        gold=str(example.answer),
        difficulty=difficulty,
        split=() if error else _draw_curve(split),
        rated=() if error else _draw_curve(rated),
        whole=() if error else _draw_curve(whole),
        labels=labels,
        usage=dict(ledger.sent),
        seconds=round(time.perf_counter() - started, 3),
        error=error,
    )


async def _walk_curve(
    program: SCALE, example: dspy.Example, sample: int, lm: MeteredLM
) -> list[tuple[float, Rollout]]:
    """Runs at rising thresholds, each with the threshold from which it holds."""
    runs: list[tuple[float, Rollout]] = []
    tau: float | None = 0.0
    while tau is not None:
        rollout = await solve_once(program.at(tau), example, sample, lm)
        runs.append((tau, rollout))
        scores = [step.difficulty for step in rollout.steps]
        above = [score for score in scores if score is not None and score > tau]
        tau = min(above, default=None)
    return runs


def _draw_curve(runs: list[tuple[float, Rollout]]) -> tuple[Piece, ...]:
    return tuple(Piece(tau, rollout.correct, rollout.tokens or 0) for tau, rollout in runs)


def _read_whole_difficulty(runs: list[tuple[float, Rollout]]) -> float | None:
    steps = runs[0][1].steps
    return steps[0].difficulty if steps else None


def _list_labels(*curves: list[tuple[float, Rollout]]) -> tuple[Label, ...]:
    return tuple(label for curve in curves for label in _find_labels(curve))


def _find_labels(runs: list[tuple[float, Rollout]]) -> Iterator[Label]:
    """Where one run hands a sub-problem to System 1 that the run before left to System 2, both
    solved it in the same context: all steps before it are the same."""
    for (_, slow), (_, quick) in pairwise(runs):
        for ours, theirs in zip(slow.steps, quick.steps, strict=False):
            if ours.system != theirs.system and ours.difficulty is not None:
                yield make_label(
                    slow.problem,
                    ours.subproblem,
                    ours.difficulty,
                    theirs.solution,
                    ours.solution,
                )
                break
