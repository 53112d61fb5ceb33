"""Compare runs: differences, groups of problems, calibration, shares of System 2."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from scale_dspy.data.registry import GROUPS
from scale_dspy.evaluation.rollout import Rollout
from scale_dspy.evaluation.summary import collect, take_correct, take_tokens
from scale_dspy.grading.labels import BINS, find_bins
from scale_dspy.report.names import group_runs, order_name, read_run_options
from scale_dspy.report.run_reader import Run
from scale_dspy.utils.statistics import (
    Comparison,
    Interval,
    bound_accuracy,
    compare,
    compare_tokens,
)

COLUMNS = ("1", "2", "3", "4", "5", "6", "7+", "last")
"""Positions of a sub-problem in its problem; the last one is kept apart, however many there are."""


@dataclass(frozen=True)
class Pair:
    """Two runs on the same data; `tokens` is None where either's are unknown."""

    run: Run
    other: Run
    accuracy: Comparison
    tokens: Comparison | None


class Bin(NamedTuple):
    """Sub-problems rated in (low, high] that System 1 solved, and how many answers were wrong."""

    low: float
    high: float
    steps: int
    problems: int
    wrong: Interval


class Series(NamedTuple):
    """The bins of runs that differ in nothing but the threshold.

    Attributes:
        name: of these runs.
        place: their index in `group_runs`, so that they look the same in every picture.
        runs: these runs.
        bins: those that are not empty.
    """

    name: str
    place: int
    runs: Sequence[Run]
    bins: list[Bin]


def compare_runs(runs: Sequence[Run]) -> tuple[list[Pair], list[str]]:
    """Compare runs on the same data with the first of them and with the most accurate one.

    Returns:
        The pairs, and notes on what they leave out.
    """
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(run.name if run.digest is None else run.digest, []).append(run)
    pairs, notes = [], []
    for group in groups.values():
        best = max(group, key=lambda run: run.summary["accuracy"])
        references = [group[0]] if best is group[0] else [group[0], best]
        for number, reference in enumerate(references):
            for run in group:
                if run is not reference and run not in references[:number]:
                    pair, note = _compare_pair(run, reference)
                    pairs += [pair] if pair else []
                    notes += [note] if note else []
    if len(groups) > 1:
        notes.append("runs on different data are not compared with each other")
    return pairs, notes


def _compare_pair(run: Run, other: Run) -> tuple[Pair | None, str | None]:
    first, second = collect(run.rollouts), collect(other.rollouts)
    right = _share(take_correct(first), take_correct(second))
    if right is None:
        return None, f"{run.name} and {other.name} have no problem in common yet"
    spent = _share(take_tokens(first), take_tokens(second))
    known = spent and any(any(values) for values in spent[1].values())
    tokens = compare_tokens(*spent) if spent and known else None
    left_out = len(first.keys() ^ second.keys())
    note = f"{run.name} and {other.name}: {left_out} problems that only one has were left out"
    return Pair(run, other, compare(*right), tokens), note if left_out else None


def _share(
    a: Mapping[str, Sequence[float]], b: Mapping[str, Sequence[float]]
) -> tuple[dict[str, Sequence[float]], dict[str, Sequence[float]]] | None:
    """The problems that both have, with what each has of them."""
    shared = [name for name in a if name in b]
    return ({n: a[n] for n in shared}, {n: b[n] for n in shared}) if shared else None


def calibrate(runs: Sequence[Run]) -> list[Series]:
    """Set the difficulty of what System 1 solved against how often the final answer was wrong."""
    groups = enumerate(group_runs(runs).items())
    found = [Series(name, place, group, _bin_steps(group)) for place, (name, group) in groups]
    return [series for series in found if series.bins]


def _bin_steps(runs: Iterable[Run]) -> list[Bin]:
    wrong: dict[int, dict[str, list[int]]] = {}
    for run in runs:
        for rollout in run.rollouts:
            for difficulty in _take_rated(run, rollout):
                (index,) = find_bins(np.array([difficulty])).tolist()
                values = wrong.setdefault(index, {}).setdefault(rollout.id, [])
                values.append(int(not rollout.right))
    return [_bin(index, wrong[index]) for index in sorted(wrong)]


def _take_rated(run: Run, rollout: Rollout) -> Iterator[float]:
    """Difficulties of what System 1 solved; not of a last sub-problem whose difficulty was set."""
    fixed = read_run_options(run).get("final_difficulty")
    last = len(rollout.steps) - 1
    for place, step in enumerate(rollout.steps):
        difficulty = step.difficulty
        was_set = place == last and difficulty == fixed
        if step.system == 1 and difficulty is not None and not was_set:
            yield difficulty


def _bin(index: int, wrong: Mapping[str, Sequence[int]]) -> Bin:
    steps = sum(map(len, wrong.values()))
    return Bin(index / BINS, (index + 1) / BINS, steps, len(wrong), bound_accuracy(wrong))


def count_positions(
    runs: Sequence[Run],
) -> tuple[list[str], list[list[tuple[int, int] | None]]]:
    """Count sub-problems by their position in the problem.

    Returns:
        Those of `COLUMNS` in which any run has a sub-problem; and for each run and each of these,
        how many System 2 solved and how many there are, or None if there are none.
    """
    tallies = [_count_by_column(run) for run in runs]
    used = [name for name in COLUMNS if any(tally[name][1] for tally in tallies)]
    cells = [[(tally[name][0], tally[name][1]) for name in used] for tally in tallies]
    return used, [[cell if cell[1] else None for cell in row] for row in cells]


def _count_by_column(run: Run) -> dict[str, list[int]]:
    tally = {name: [0, 0] for name in COLUMNS}
    for rollout in run.rollouts:
        steps = rollout.steps
        for position, step in enumerate(steps, 1):
            column = -1 if position == len(steps) else min(position, len(COLUMNS) - 1) - 1
            tally[COLUMNS[column]][0] += step.system == 2
            tally[COLUMNS[column]][1] += 1
    return tally


# Groups.


class GroupRow(NamedTuple):
    """The problems of one value of a group, and the accuracy of each run on them, or None."""

    value: str
    problems: int
    accuracies: tuple[Interval | None, ...]


MOST_VALUES = 30  # of a group; with more, its values are taken for names of problems


def compare_groups(runs: Sequence[Run]) -> dict[str, list[GroupRow]]:
    """Accuracies by level, subject and whatever else a set tells of its problems.

    Returns:
        By the name of the group its values, those that are numbers in their order. A group of
        which a set has only one value is left out.
    """
    found: dict[str, dict[str, list[dict[str, list[int]]]]] = {name: {} for name in GROUPS}
    for place, run in enumerate(runs):
        for rollout in run.rollouts:
            for name, value in rollout.groups.items():
                if value and name in found:
                    columns = found[name].setdefault(value, [{} for _ in runs])
                    key = f"{run.digest} {rollout.id}"
                    columns[place].setdefault(key, []).append(int(rollout.right))
    return {
        name: [_compare_group(value, values[value]) for value in sorted(values, key=order_name)]
        for name, values in found.items()
        if 2 <= len(values) <= MOST_VALUES
    }


def _compare_group(value: str, columns: Sequence[Mapping[str, Sequence[int]]]) -> GroupRow:
    problems = len({name for column in columns for name in column})
    accuracies = (bound_accuracy(column) if column else None for column in columns)
    return GroupRow(value, problems, tuple(accuracies))
