"""Say in plain words who wins, by how much, and whether that is sure."""

from __future__ import annotations

import math
from collections.abc import Sequence

from scale_dspy.report.comparisons import Pair
from scale_dspy.report.names import shorten
from scale_dspy.report.run_reader import Run

SURE = 0.05  # below this p-value, chance is no longer taken for the cause


def write_verdicts(runs: Sequence[Run], pairs: Sequence[Pair]) -> list[str]:
    """One sentence for each set of problems: the most accurate run against the first one, or
    against the next best where it is the first; what it costs; and whether the gap is sure.

    Args:
        runs: in the order of the report.
        pairs: as `compare_runs` makes them.
    """
    sets: dict[str | None, list[Run]] = {}
    for run in runs:
        sets.setdefault(run.digest if run.digest is not None else run.name, []).append(run)
    return [_compare_set(members, pairs, len(sets) > 1) for members in sets.values()]


def _compare_set(members: Sequence[Run], pairs: Sequence[Pair], several: bool) -> str:
    ranked = sorted(members, key=lambda run: -run.summary["accuracy"])
    best, first = ranked[0], members[0]
    other = first if best is not first else next(iter(ranked[1:]), None)
    where = f"On {shorten(first.description.get('data'))}, " if several else ""
    pair = next((p for p in pairs if {id(p.run), id(p.other)} == {id(best), id(other)}), None)
    if other is None or pair is None:
        return where + _describe_alone(best)
    sign = 1 if pair.run is best else -1
    points = 100 * sign * pair.accuracy.effect.estimate
    ends = sorted(100 * sign * end for end in (pair.accuracy.effect.low, pair.accuracy.effect.high))
    if round(points, 1) == 0:
        equal = f"{where}{best.name} and {other.name} are right equally often"
        return f"{equal}{_describe_tokens(pair, sign)}."
    told = (
        f"{where}{best.name} is right {points:.1f} percentage points more often than {other.name}"
        f"{_describe_tokens(pair, sign)}"
    )
    span = f"95 % interval {ends[0]:+.1f} to {ends[1]:+.1f} points".replace("-", "−")
    if pair.accuracy.p_value < SURE:
        return f"{told}. That is more than chance explains ({span})."
    return f"{told}. That is not sure: chance alone could do it ({span})."


def _describe_alone(run: Run) -> str:
    low, high = run.summary["accuracy_interval"]
    return (
        f"{run.name} is right {100 * run.summary['accuracy']:.1f} % of the time "
        f"(95 % interval {100 * low:.0f} to {100 * high:.0f} %)."
    )


def _describe_tokens(pair: Pair, sign: int) -> str:
    if pair.tokens is None or not pair.tokens.effect.estimate:  # a run that failed has no tokens
        return ""
    ratio = pair.tokens.effect.estimate**sign
    if not math.isfinite(ratio) or ratio <= 0 or 0.95 < ratio < 1.05:
        return ", at the same number of tokens" if 0.95 < ratio < 1.05 else ""
    return (
        f", at {ratio:.1f} times the tokens"
        if ratio > 1
        else f", at {100 * ratio:.0f} % of the tokens"
    )
