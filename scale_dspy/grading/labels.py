"""Label sub-problems as easy or hard without gold answers, and measure difficulty scores.

A sub-problem that System 1 and System 2 solve alike in the same context needs no thinking; where
their results differ, thinking made a difference. So two runs that share a context label it, and
the scores that were given to sub-problems can be measured: whether they rank hard above easy
(AUROC), and whether a score of 0.7 means that 7 in 10 are hard (calibration).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from scale_dspy.grading.answers import equal, find_answer, read_integer
from scale_dspy.utils.records import Share
from scale_dspy.utils.statistics import TAIL, Numbers, split_rows

BINS = 10  # of the score, each open below and closed above, as a threshold divides; 0 in the first
RESAMPLES = 2_000


@dataclass(frozen=True)
class Label:
    """What both systems made of one sub-problem in the same context.

    Attributes:
        difficulty: the score in [0, 1] that it was given.
        alike: whether both results could be read and are equal; then it is easy, otherwise hard.
        result_1: of System 1, as written; None where none could be read.
        result_2: of System 2.
    """

    problem: str
    subproblem: str
    difficulty: Share
    alike: bool
    result_1: str | None
    result_2: str | None


class ScoreBin(TypedDict):
    """Sub-problems with a score in (low, high]: how many, their mean score, how many are hard."""

    low: float
    high: float
    count: int
    mean_score: float
    share_hard: float


class ScoreReport(TypedDict):
    """How well scores tell hard sub-problems from easy ones; ready for JSON.

    Attributes:
        count: labels.
        problems: different problems among them.
        share_hard: in [0, 1].
        auroc: the chance that a hard one has a higher score than an easy one; None where there is
            none of either kind.
        auroc_interval: [low, high] at level 0.95; None where AUROC is, or with a single problem.
        bins: those that are not empty, from low to high.
        calibration_error: in [0, 1], 0 is best.
        brier: in [0, 1], 0 is best; a score that is always 0.5 has 0.25.
    """

    count: int
    problems: int
    share_hard: float
    auroc: float | None
    auroc_interval: list[float] | None
    bins: list[ScoreBin]
    calibration_error: float
    brier: float


def make_label(
    problem: str, subproblem: str, difficulty: float, solution_1: str, solution_2: str
) -> Label:
    """Label a sub-problem by its two solutions.

    Where the results are not integers and spelled differently this blocks its thread; see
    `answers.equal`.

    Args:
        difficulty: the score that it was given, in [0, 1].
        solution_1: the text of System 1.
        solution_2: the text of System 2, written in the same context.
    """
    result_1, result_2 = find_answer(solution_1), find_answer(solution_2)
    alike = _agree(result_1, result_2)
    return Label(problem, subproblem, difficulty, alike, result_1, result_2)


def _agree(result_1: str | None, result_2: str | None) -> bool:
    """Whether two results are equal; False if either could not be read."""
    if result_1 is None or result_2 is None:
        return False
    integers = read_integer(result_1), read_integer(result_2)
    if None not in integers:
        return integers[0] == integers[1]
    return equal(result_1, result_2)


def measure_scores(
    labels: Sequence[Label], *, resamples: int = RESAMPLES, seed: int = 0
) -> ScoreReport:
    """Measure how well scores foretell which sub-problems are hard.

    The interval is the percentile bootstrap's (Efron 1979) over problems, since sub-problems of a
    problem are alike; resamples with hard ones only or easy ones only are left out. It is too
    narrow where problems are few, and has no width where scores part the two kinds perfectly.

    Calibration error is the mean of |mean score - share hard| over the bins, weighted by their
    counts (Naeini et al. 2015; Guo et al. 2017, arXiv 1706.04599). The Brier score is the mean of
    (score - hard)^2 with hard 0 or 1 (Brier 1950).

    Args:
        resamples: how many there are.
        seed: what they are drawn with.

    Raises:
        ValueError: there are no labels, or a score is no number in [0, 1].
    """
    if not labels:
        raise ValueError("there are no labels")
    for label in labels:
        if not 0 <= label.difficulty <= 1:
            raise ValueError(f"a score is a number from 0 to 1, not {label.difficulty!r}")
    scores = np.array([label.difficulty for label in labels], dtype=np.float64)
    hard = np.array([not label.alike for label in labels])
    names, groups = np.unique([label.problem for label in labels], return_inverse=True)
    bins = list(_bin_scores(scores, hard))
    gaps = (each["count"] * abs(each["mean_score"] - each["share_hard"]) for each in bins)
    return ScoreReport(
        count=len(labels),
        problems=len(names),
        share_hard=float(hard.mean()),
        auroc=measure_auroc(scores, hard),
        auroc_interval=bound_auroc(scores, hard, groups, resamples, seed),
        bins=bins,
        calibration_error=math.fsum(gaps) / len(labels),
        brier=float(np.mean((scores - hard) ** 2)),
    )


def measure_auroc(scores: Sequence[float] | Numbers, hard: Sequence[bool] | Any) -> float | None:
    """The area under the ROC curve: how often a hard one scores higher than an easy one.

    U / (hard * easy) for the U of Mann and Whitney (1947; Hanley and McNeil 1982), which counts the
    pairs of a hard and an easy one where the hard one scores higher, a tie as one half.

    Args:
        scores: any finite numbers; only their order counts.
        hard: for each of them whether it belongs to a hard one.

    Returns:
        A number in [0, 1], or None where all or none are hard.
    """
    order = np.argsort(np.asarray(scores, dtype=np.float64), kind="stable")
    values = np.asarray(scores, dtype=np.float64)[order]
    classes = np.asarray(hard, dtype=bool)[order]
    (area,) = _rank(values, classes, np.ones((1, len(values))))
    return None if np.isnan(area) else float(area)


def _rank(values: Numbers, hard: NDArray[np.bool_], weights: Numbers) -> Numbers:
    """AUROC of sorted values for each row of weights; NaN where a class has no weight."""
    if not len(values):
        return np.full(len(weights), np.nan)
    starts = np.flatnonzero(np.r_[True, values[1:] != values[:-1]])
    hards = np.add.reduceat(weights * hard, starts, axis=1)
    easies = np.add.reduceat(weights * ~hard, starts, axis=1)
    below = np.cumsum(easies, axis=1) - easies / 2  # of equal scores, half are below
    with np.errstate(invalid="ignore"):
        areas: Numbers = (hards * below).sum(axis=1) / (hards.sum(axis=1) * easies.sum(axis=1))
    return areas


def bound_auroc(
    scores: Sequence[float] | Numbers,
    hard: Sequence[bool] | Any,
    groups: Sequence[Any] | NDArray[Any],
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> list[float] | None:
    """Ends of the 95% bootstrap interval of the AUROC over groups, such as problems.

    Args:
        scores, hard: see `measure_auroc`.
        groups: for each score what it belongs to; a group is drawn as a whole.

    Returns:
        [low, high]; None where there is no AUROC or only one group.
    """
    scores, hard = np.asarray(scores, dtype=np.float64), np.asarray(hard, dtype=bool)
    names, places = np.unique(np.asarray(groups), return_inverse=True)
    estimate, count = measure_auroc(scores, hard), len(names)
    if estimate is None or count < 2:
        return None
    rng = np.random.default_rng(seed)
    order = np.argsort(scores, kind="stable")
    drawn = []
    for rows in split_rows(resamples, len(scores)):
        times = rng.multinomial(count, np.full(count, 1 / count), rows)  # each problem is taken
        weights = times[:, places[order]].astype(np.float64)
        drawn.append(_rank(scores[order], hard[order], weights))
    areas = np.concatenate([*drawn, [estimate]])
    low, high = np.quantile(areas[~np.isnan(areas)], (TAIL, 1 - TAIL))
    return [min(float(low), estimate), max(float(high), estimate)]


def find_bins(scores: Numbers) -> NDArray[np.int64]:
    """The place of each score's bin, from 0."""
    # Scores have few decimals, and 0.3 * 10 is a little more than 3.
    return np.clip(np.ceil(scores * BINS - 1e-9).astype(np.int64) - 1, 0, BINS - 1)


def _bin_scores(scores: Numbers, hard: NDArray[np.bool_]) -> Iterator[ScoreBin]:
    places = find_bins(scores)
    for place in np.unique(places):
        inside = places == place
        yield ScoreBin(
            low=float(place) / BINS,
            high=float(place + 1) / BINS,
            count=int(inside.sum()),
            mean_score=float(scores[inside].mean()),
            share_hard=float(hard[inside].mean()),
        )
