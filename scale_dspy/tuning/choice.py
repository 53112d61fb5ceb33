"""The best point of a frontier, and how sure that is.

Choosing again on resampled problems shows how far chance alone moves the choice; choosing without a
tenth of the problems, again and again, shows what it reaches on problems that it did not see.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scale_dspy.tuning.frontier import (
    SLACK,
    Frontier,
    find_piece,
    find_split,
    grade,
    take_middle,
)
from scale_dspy.utils.statistics import TAIL, Interval, Numbers, bound_accuracy, bound_tokens

RESAMPLES = 500
FOLDS, SHUFFLES = 10, 10


@dataclass(frozen=True)
class Choice:
    """A point of a frontier and how sure it is.

    Attributes:
        threshold: the middle of `threshold_range`, all of which gives the same outcomes.
        split: the same for `split_range`.
        accuracy: on the problems it was chosen on, with the interval over problems.
        tokens: response tokens a problem, with the interval.
        threshold_interval: contains 95 of 100 choices on resampled problems, and the range above.
        split_interval: the same for the split.
        held_out: mean accuracy of choices made without a tenth of the problems, on that tenth. The
            excess of `accuracy` over it is due to fitting the choice to these problems. None for
            a point that was named beforehand, and if there is only one problem.
        within_budget: whether the tokens keep to the budget; otherwise this is the cheapest point.
        problems: how many it was measured on.
        stop: the middle of `stop_range`; None where System 2 does not vote.
        stop_range: all of which gives the same outcomes.
    """

    threshold: float
    split: float
    threshold_range: tuple[float, float]
    split_range: tuple[float, float]
    accuracy: Interval
    tokens: Interval
    threshold_interval: tuple[float, float]
    split_interval: tuple[float, float]
    held_out: float | None
    within_budget: bool
    problems: int
    stop: float | None = None
    stop_range: tuple[float, float] = (0.0, 1.0)

    @property
    def expected(self) -> float:
        """Accuracy to expect on new problems: `held_out`, or `accuracy` where that is None."""
        return self.accuracy.estimate if self.held_out is None else self.held_out

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; an infinite end of an interval is None."""
        plain: dict[str, Any] = {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in asdict(self).items()
        }
        for key in ("accuracy", "tokens"):
            ends = plain[key]
            plain[key] = {k: v if math.isfinite(v) else None for k, v in ends.items()}
        return plain


def choose(
    frontier: Frontier,
    *,
    budget: float | None = None,
    margin: float = 0.0,
    seed: int = 0,
) -> Choice:
    """The cheapest point whose accuracy is within `margin` of the best that the budget allows.

    Args:
        budget: response tokens a problem, on average; None for no limit.
        margin: accuracy that may be given up for fewer tokens, in [0, 1]; at 0 the point is the
            most accurate one, and the cheapest of several.
        seed: of the resamples, on which the choice is made RESAMPLES times again.

    Raises:
        ValueError: the margin is not in [0, 1], or the budget is not above 0.
    """
    check_rule(budget, margin)
    accuracy, cost = frontier.right.mean(axis=1), frontier.tokens.mean(axis=1)
    row, column = _pick(accuracy, cost, budget, margin)
    same = (np.abs(accuracy - accuracy[row, column]) < SLACK) & (
        np.abs(cost - cost[row, column]) < SLACK
    )
    count = len(frontier.taus)
    box = same.reshape(len(same), -1, count)
    stop_place, tau_place = divmod(column, count)
    # The ranges are the sides of one box of equal pieces. With ranges found separately, the point
    # of their middles could lie outside of all these pieces.
    run = _find_run(box[row, stop_place], tau_place)
    stop_run = _find_run(box[row, :, run].all(axis=1), stop_place)
    split_run = _find_run(box[:, stop_run, run].all(axis=(1, 2)), row, first=1)
    taus, stops = _bound_run(frontier.taus, run), _bound_run(frontier.stops, stop_run)
    rated = frontier.splits[row] > 0
    splits = _bound_run(frontier.splits, split_run) if rated else (0.0, 0.0)
    chosen = _choose_again(frontier, budget, margin, seed)
    return replace(
        describe_point(
            frontier,
            take_middle(*taus),
            take_middle(*splits),
            budget,
            take_middle(*stops),
        ),
        threshold_range=taus,
        split_range=splits,
        stop_range=stops,
        threshold_interval=_take_interval(frontier.taus, chosen[:, 1] % count, taus),
        split_interval=_take_interval(frontier.splits, chosen[:, 0], splits),
        held_out=_hold_out(frontier, budget, margin, seed),
    )


def settle(
    frontier: Frontier, choice: Choice, *, budget: float | None = None, margin: float = 0.0
) -> Choice:
    """The choice, or a plain point that is expected to do better.

    Plain points are the four that can be named without looking at the problems: always or never
    split, all by System 1 or all by System 2 (two where splitting was not measured). A choice among
    hundreds of points on twenty problems is often worse on new problems than they are, which shows
    in its accuracy on held-out problems.

    Args:
        budget, margin: those with which the choice was made.
    """
    named = name_plain_points(frontier).values()
    ends = [None] if choice.stop is None else sorted({choice.stop, float(frontier.stops[0])})
    plain = [
        describe_point(frontier, tau, split, budget, stop) for stop in ends for tau, split in named
    ]
    best = plain[rank(plain, margin)]
    beaten = best.within_budget and best.expected > choice.expected + margin + SLACK
    return best if beaten else choice


def name_plain_points(frontier: Frontier) -> dict[str, tuple[float, float]]:
    """(tau, split) of the points that can be named without looking at the problems."""
    ways = {"split": 0.0} if frontier.splits[0] == 0 else {}
    if frontier.splits[-1] > 0:
        ways["whole"] = 1.0
    return {
        f"always {way}, System {2 - round(tau)}": (tau, split)
        for way, split in ways.items()
        for tau in (0.0, 1.0)
    }


def check_rule(budget: float | None, margin: float) -> None:
    """Raise ValueError unless `choose` takes these."""
    if not 0 <= margin <= 1:
        raise ValueError(f"a margin is a number from 0 to 1, not {margin!r}")
    if budget is not None and not budget > 0:
        raise ValueError(f"a budget is a number of tokens above 0, not {budget!r}")


def rank(points: Sequence[Choice], margin: float = 0.0) -> int:
    """The place of the best of several choices, by the rule of `choose`; the first of equal ones.

    They are compared by the accuracy to expect on new problems. One that keeps to the budget comes
    before one that does not.
    """
    allowed = [place for place, point in enumerate(points) if point.within_budget]
    if not allowed:
        return min(range(len(points)), key=lambda place: points[place].tokens.estimate)
    best = max(points[place].expected for place in allowed)
    good = [place for place in allowed if points[place].expected >= best - margin - SLACK]
    return min(good, key=lambda place: points[place].tokens.estimate)


def describe_point(
    frontier: Frontier,
    tau: float,
    split: float,
    budget: float | None = None,
    stop: float | None = None,
) -> Choice:
    """The outcome at given thresholds, in the form of a Choice."""
    row, column = frontier.find(tau, split, 1.0 if stop is None else stop)
    votes = len(frontier.stops) > 1
    place = column // len(frontier.taus)
    right, tokens = frontier.right[row, :, column], frontier.tokens[row, :, column]
    return Choice(
        threshold=tau,
        split=split,
        threshold_range=find_piece(frontier.taus, column % len(frontier.taus)),
        split_range=find_split(frontier, row),
        accuracy=bound_accuracy(grade(right, frontier.samples)),
        tokens=bound_tokens({str(n): [v] for n, v in enumerate(tokens)}),
        threshold_interval=(tau, tau),
        split_interval=(split, split),
        held_out=None,
        within_budget=budget is None or bool(tokens.mean() <= budget),
        problems=len(frontier.problems),
        stop=(1.0 if stop is None else stop) if votes else None,
        stop_range=find_piece(frontier.stops, place) if votes else (0.0, 1.0),
    )


def _pick(accuracy: Numbers, cost: Numbers, budget: float | None, margin: float) -> tuple[int, int]:
    """The chosen cell of two (S, T) tables; the first of equal ones."""
    allowed = cost <= (math.inf if budget is None else budget)
    if not allowed.any():
        allowed = cost <= cost.min()
        margin = 0.0
    best = accuracy[allowed].max()
    good = allowed & (accuracy >= best - margin - SLACK)
    cell = int(np.argmin(np.where(good, cost, np.inf)))
    row, column = divmod(cell, accuracy.shape[1])
    return row, column


def _choose_again(
    frontier: Frontier, budget: float | None, margin: float, seed: int
) -> NDArray[np.int64]:
    """Cells chosen on resampled problems, shape (RESAMPLES, 2)."""
    rng = np.random.default_rng(seed)
    count = len(frontier.problems)
    cells = np.zeros((RESAMPLES, 2), dtype=np.int64)
    for number in range(RESAMPLES):
        drawn = np.bincount(rng.integers(0, count, count), minlength=count) / count
        accuracy = np.tensordot(drawn, frontier.right, (0, 1))
        cost = np.tensordot(drawn, frontier.tokens, (0, 1))
        cells[number] = _pick(accuracy, cost, budget, margin)
    return cells


def _hold_out(frontier: Frontier, budget: float | None, margin: float, seed: int) -> float | None:
    """Mean accuracy on each fold of the cell that is chosen on the others, over many shuffles."""
    count = len(frontier.problems)
    if count < 2:
        return None
    rng = np.random.default_rng(seed)
    right, tokens = frontier.right.sum(axis=1), frontier.tokens.sum(axis=1)
    unseen = 0.0
    for _ in range(SHUFFLES):
        for fold in np.array_split(rng.permutation(count), min(FOLDS, count)):
            rest = count - len(fold)
            accuracy = (right - frontier.right[:, fold].sum(axis=1)) / rest
            cost = (tokens - frontier.tokens[:, fold].sum(axis=1)) / rest
            row, column = _pick(accuracy, cost, budget, margin)
            unseen += float(frontier.right[row, fold, column].sum())
    return unseen / (SHUFFLES * count)


def _take_interval(
    starts: Numbers, chosen: NDArray[np.int64], own: tuple[float, float]
) -> tuple[float, float]:
    """An interval that contains 95 of 100 of the pieces chosen again, and the choice's range
    `own`."""
    ends = np.append(starts[1:], 1.0)
    low = min(own[0], float(np.quantile(starts[chosen], TAIL)))
    return low, max(own[1], float(np.quantile(ends[chosen], 1 - TAIL)))


def _find_run(same: NDArray[np.bool_], place: int, first: int = 0) -> slice:
    """The run of equal pieces around `place`, none of them before `first`."""
    low = high = place
    while low > first and same[low - 1]:
        low -= 1
    while high + 1 < len(same) and same[high + 1]:
        high += 1
    return slice(low, high + 1)


def _bound_run(starts: Numbers, run: slice) -> tuple[float, float]:
    """The ends of a run of pieces."""
    return float(starts[run.start]), find_piece(starts, run.stop - 1)[1]
