"""Accuracy and tokens as exact step functions of tau, split and stop.

What walks measured for each (problem, sample) is summed over problems on the grid of all
thresholds at which anything changes. Choosing a threshold is then reading off a table: see
`choice`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from scale_dspy.tuning.threshold_sweep import BOTTOM, CURVES, Piece, Walk
from scale_dspy.utils.statistics import Numbers

SMALLEST = BOTTOM  # the first split at which problems are rated
SLACK = 1e-9  # accuracies closer than this are equal: they are means of floating-point numbers


@dataclass(frozen=True)
class Frontier:
    """Outcomes at every (split, tau, stop), constant between neighbours of each: a piece begins at
    its number and ends before the next one.

    Attributes:
        problems: ids; P of them.
        samples: walks of each problem, shape (P,).
        taus: ascending, the first 0; T of them.
        splits: ascending, the first 0, where nothing is rated; S of them. If the last is 1,
            ratings that would decide nothing are left out there. Of walks of whole problems only
            there is a single one, 1: nothing below it was measured.
        right: share of right samples, shape (S, P, V * T): all taus at the first stop, then all at
            the second, and so on.
        tokens: mean response tokens, of the same shape.
        stops: ascending, the first 0; V of them, all below 1. At a stop of 1 all passes are drawn
            in one request, which gives other samples; expect about the outcome of the last stop.
    """

    problems: tuple[str, ...]
    samples: Numbers
    taus: Numbers
    splits: Numbers
    right: Numbers
    tokens: Numbers
    stops: Numbers = field(default_factory=lambda: np.zeros(1))

    def find(self, tau: float, split: float, stop: float = 1.0) -> tuple[int, int]:
        """The row and column of the cell that holds these thresholds.

        Raises:
            ValueError: the split is below those that were measured.
        """
        if split < self.splits[0]:
            raise ValueError(
                f"a split of {split:g} was not measured: the walks are of whole problems only, "
                "so the split is 1"
            )
        column = _find(self.stops, stop) * len(self.taus) + _find(self.taus, tau)
        return _find(self.splits, split), column

    def read(self, tau: float, split: float = 0.0, stop: float = 1.0) -> tuple[float, float]:
        """(accuracy in [0, 1], mean response tokens a problem) at these thresholds.

        Raises:
            ValueError: see `find`.
        """
        row, column = self.find(tau, split, stop)
        return (
            float(self.right[row, :, column].mean()),
            float(self.tokens[row, :, column].mean()),
        )


def draw_frontier(walks: Sequence[Walk]) -> Frontier:
    """Sum walks up to a frontier; a failed walk counts as wrong with 0 tokens at every threshold.

    Raises:
        ValueError: there are no walks, or only some of them are of whole problems only.
    """
    if not walks:
        raise ValueError("there are no walks to draw a frontier from")
    whole_only = walks[0].whole_only
    if any(walk.whole_only != whole_only for walk in walks):
        raise ValueError("some of the walks are of whole problems only, and some are not")
    names = tuple(dict.fromkeys(walk.id for walk in walks))
    curves = [piece for walk in walks for piece in walk.pieces]
    plain = all(walk.plain or walk.error for walk in walks)
    any_plain = plain and any(walk.plain for walk in walks)
    taus = {0.0, *(piece.tau for piece in curves), *([SMALLEST] if any_plain else [])}
    stops = np.array(sorted({0.0, *(piece.stop for piece in curves)}))
    splits = [1.0] if whole_only else [0.0]
    if not whole_only and any(walk.whole for walk in walks):
        scores = {walk.difficulty for walk in walks if walk.difficulty}
        splits += sorted({SMALLEST, *scores, *([1.0] if any_plain else [])})
    grid = np.array(sorted(taus))
    shape = (len(splits), len(names), len(stops) * len(grid))
    right, tokens, counts = np.zeros(shape), np.zeros(shape), np.zeros(len(names))
    place = {name: number for number, name in enumerate(names)}
    for walk in walks:
        at = place[walk.id]
        counts[at] += 1
        read = {key: _read_curve(getattr(walk, key), grid, stops) for key in CURVES}
        unrated = np.tile((grid == 0) | (grid == 1), len(stops))
        for row, split in enumerate(splits):
            key = "split" if split == 0 else "whole" if _is_whole(walk, split) else "rated"
            ends = unrated if any_plain and split == 1 else np.zeros_like(unrated)
            for total, part in ((right, 0), (tokens, 1)):
                total[row, at] += np.where(ends, read["plain"][part], read[key][part])
    each = counts[None, :, None]
    return Frontier(names, counts, grid, np.array(splits), right / each, tokens / each, stops)


def read_problems(
    frontier: Frontier, tau: float, split: float, stop: float | None = None
) -> dict[str, list[int]]:
    """The samples of each problem at these thresholds, 1 for a right one."""
    row, column = frontier.find(tau, split, 1.0 if stop is None else stop)
    graded = grade(frontier.right[row, :, column], frontier.samples)
    return dict(zip(frontier.problems, graded.values(), strict=True))


def list_points(frontier: Frontier) -> list[dict[str, float]]:
    """The points that no other one beats in both accuracy and tokens, cheapest first.

    Returns:
        For each: threshold and split (middles of their plateaus), accuracy, tokens; and where
        System 2 votes, stop.
    """
    accuracy, cost = frontier.right.mean(axis=1), frontier.tokens.mean(axis=1)
    order = np.lexsort((-accuracy.ravel(), cost.ravel()))
    points: list[dict[str, float]] = []
    best = -1.0
    for cell in order:
        row, column = divmod(int(cell), accuracy.shape[1])
        if accuracy[row, column] <= best + SLACK:
            continue
        best = float(accuracy[row, column])
        stop, tau = divmod(column, len(frontier.taus))
        point = {
            "threshold": take_middle(*find_piece(frontier.taus, tau)),
            "split": take_middle(*find_split(frontier, row)),
            "accuracy": best,
            "tokens": float(cost[row, column]),
        }
        if len(frontier.stops) > 1:
            point["stop"] = take_middle(*find_piece(frontier.stops, stop))
        points.append(point)
    return points


def list_curve(
    frontier: Frontier, split: float | None = None, stop: float = 1.0
) -> list[dict[str, float]]:
    """Accuracy and tokens over tau at one split and stop: a point for each tau of the grid.

    Args:
        split: the smallest that was measured by default, where as many problems are split as can
            be.
    """
    split = float(frontier.splits[0]) if split is None else split
    row, first = frontier.find(0.0, split, stop)
    columns = slice(first, first + len(frontier.taus))
    accuracy = frontier.right[row, :, columns].mean(axis=0)
    cost = frontier.tokens[row, :, columns].mean(axis=0)
    return [
        {
            "threshold": float(tau),
            "split": split,
            "accuracy": float(right),
            "tokens": float(tokens),
        }
        for tau, right, tokens in zip(frontier.taus, accuracy, cost, strict=True)
    ]


def _is_whole(walk: Walk, split: float) -> bool:
    """Whether a problem is solved whole at a split above 0."""
    return walk.difficulty is not None and walk.difficulty <= split


def _read_curve(
    pieces: tuple[Piece, ...], taus: Numbers, stops: Numbers
) -> tuple[Numbers, Numbers]:
    """(right, tokens) at each tau, for one stop after another."""
    if not pieces:
        nothing = np.zeros(len(taus) * len(stops))
        return nothing, nothing
    rows: dict[float, list[tuple[float, bool, int]]] = {}
    for piece in pieces:
        rows.setdefault(piece.stop, []).append(piece[:3])
    starts = np.array(sorted(rows))
    read = []
    for stop in stops:
        row = rows[float(starts[max(0, _find(starts, stop))])]
        begins, right, tokens = np.array(row, dtype=np.float64).T
        at = np.searchsorted(begins, taus, side="right") - 1
        read.append((right[at], tokens[at]))
    rights, costs = zip(*read, strict=True)
    return np.concatenate(rights), np.concatenate(costs)


def _find(starts: Numbers, value: float) -> int:
    return int(np.searchsorted(starts, value, side="right")) - 1


def grade(right: Numbers, samples: Numbers) -> dict[str, list[int]]:
    """Shares of right samples as the samples themselves, 0 or 1."""
    counts = np.rint(right * samples).astype(int)
    return {
        str(number): [1] * one + [0] * (int(total) - one)
        for number, (one, total) in enumerate(zip(counts.tolist(), samples, strict=True))
    }


def find_piece(starts: Numbers, place: int) -> tuple[float, float]:
    """Where the piece at a place begins and ends."""
    return float(starts[place]), float(starts[place + 1]) if place + 1 < len(starts) else 1.0


def find_split(frontier: Frontier, row: int) -> tuple[float, float]:
    """Where the piece of a row's split begins and ends. The one at 0 is 0 alone: any split above it
    has the problem rated."""
    return find_piece(frontier.splits, row) if frontier.splits[row] > 0 else (0.0, 0.0)


def take_middle(low: float, high: float) -> float:
    """The middle of [low, high), rounded to as few decimals as keep it well inside."""
    middle = (low + high) / 2
    for decimals in range(1, 12):
        rounded = round(middle, decimals)
        if abs(rounded - middle) <= (high - low) / 4:
            return rounded
    return middle
