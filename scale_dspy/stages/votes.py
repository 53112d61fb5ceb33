"""Votes among passes: how results are grouped, when a leader is sure enough, who wins.

Votes count alike, or each by how likely its pass is to be wrong (its doubt).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from scale_dspy.grading.answers import find_answer, normalise
from scale_dspy.step import Vote

FIRST_WAVE = 2  # passes; a single one has none to agree with, but it may have no doubt
SPREAD = 10.0  # wrong results that a wrong pass may find; on replays 3 and 30 do about as well
SUREST = 0.02  # no estimate is surer than this that a pass is right, or that it is wrong


def read_result(text: str, cut_off: bool = False) -> str | None:
    r"""The result of a pass; None for an unfinished text that shows none in a box.

    A number that merely stood last when a text was cut off is no result.

    >>> read_result(r"so \boxed{7}", True), read_result("so 7 + 5", True), read_result("so 7")
    ('7', None, '7')
    """
    return None if cut_off and r"\boxed" not in text else find_answer(text)


def group_results(results: Sequence[str | None]) -> list[list[int]]:
    """Places of equal results, by canonical spelling; the largest group first, of equal ones the
    one begun first. What cannot be read belongs to no group.

    >>> group_results(["1", "2", None, "2.0", "2"])
    [[1, 3, 4], [0]]
    """
    groups: dict[str, list[int]] = {}
    for place, result in enumerate(results):
        spelling = normalise(result) if result else ""
        if spelling:
            groups.setdefault(spelling, []).append(place)
    return sorted(groups.values(), key=len, reverse=True)


def find_winner(results: Sequence[str | None], doubts: Sequence[float] | None = None) -> int:
    """The place of the first pass of the winning group; 0 where no result can be read.

    Args:
        doubts: how likely each pass is to be wrong, in [0, 1]; without them votes count alike.
    """
    groups = group_results(results)
    if not groups:
        return 0
    if doubts is None:
        return groups[0][0]
    return max(groups, key=lambda group: _weigh(group, doubts))[0]


def measure_disagreement(results: Sequence[str | None]) -> float:
    """1 - the largest group's share of all passes, in [0, 1]; what cannot be read agrees with
    nothing, so with no result at all it is 1."""
    groups = group_results(results)
    return 1 - len(groups[0]) / len(results) if groups else 1.0


def find_lead(first: int, second: int) -> float:
    r"""The probability that the leading result is the one that most passes would find.

    The Beta rule of Adaptive-Consistency (arXiv 2305.11860): with v1 and v2 the sizes of the two
    largest groups, P = 1 - I_{1/2}(v1 + 1, v2 + 1) for the regularised incomplete beta function I.
    For whole numbers it is a sum, I_{1/2}(a, b) = 2^{-n} \sum_{j=a}^{n} C(n, j), n = a + b - 1.

    >>> find_lead(2, 0), find_lead(1, 1)
    (0.875, 0.5)
    """
    n = first + second + 1
    behind = sum(math.comb(n, j) for j in range(first + 1, n + 1))
    return float(1 - behind / 2**n)


def weigh_lead(results: Sequence[str | None], doubts: Sequence[float]) -> float:
    r"""The probability that the winning result is right, by Bayes' rule; 0 where none can be read.

    A pass i is wrong with probability w_i, and then finds one of SPREAD wrong results. So a result
    that the passes of a group g found is right with a probability proportional to
    \prod_{i \in g} SPREAD (1 - w_i) / w_i, and one that no pass has found with one proportional to
    1; there are SPREAD + 1 results in all. For a single pass this is 1 - w.

    >>> weigh_lead(["7"], [0.25]), weigh_lead(["7", "7", "8"], [0.25, 0.25, 0.5]) > 0.9
    (0.75, True)
    """
    odds = [_weigh(group, doubts) for group in group_results(results)]
    if not odds:
        return 0.0
    highest = max(odds)
    unseen = max(0.0, SPREAD + 1 - len(odds)) * math.exp(-highest)
    lead = 1 / (math.fsum(math.exp(value - highest) for value in odds) + unseen)
    # So many decimals are the same on every machine; and at a stop of 1 all votes are drawn.
    return min(round(lead, 6), 1 - 1e-6)


def _weigh(group: Sequence[int], doubts: Sequence[float]) -> float:
    """The logarithm of the odds of a group's result against one that no pass has found."""
    known = (min(1 - SUREST, max(SUREST, doubts[place])) for place in group)
    return math.fsum(math.log(SPREAD * (1 - doubt) / doubt) for doubt in known)


def read_doubts(votes: Sequence[Vote]) -> list[float] | None:
    """The doubt in each vote; None where votes count alike."""
    doubts = [vote.doubt for vote in votes if vote.doubt is not None]
    return doubts if doubts and len(doubts) == len(votes) else None


def is_settled(
    results: Sequence[str | None], stop: float, doubts: Sequence[float] | None = None
) -> bool:
    """Whether the leader among these results is ahead with a probability above `stop`. At 1 never,
    as no number of passes makes it sure."""
    return measure_lead(results, doubts) > stop


def measure_lead(results: Sequence[str | None], doubts: Sequence[float] | None = None) -> float:
    """How sure the leader among these results is: by `weigh_lead` where doubts are given, else by
    `find_lead`; 0 where none can be read."""
    if doubts is not None:
        return weigh_lead(results, doubts)
    first, second, *_ = [*(len(group) for group in group_results(results)), 0, 0]
    return find_lead(first, second) if first else 0.0


def plan_waves(votes: int, stop: float = 0.0, first: int = FIRST_WAVE) -> Iterator[int]:
    """The number of passes after each wave: 2, 4, 8 and so on up to `votes`, as each wave is as
    large as all before it together. At a `stop` of 1 all are drawn at once.

    Args:
        first: passes of the first wave.

    >>> list(plan_waves(7)), list(plan_waves(7, first=1)), list(plan_waves(7, stop=1))
    ([2, 4, 7], [1, 2, 4, 7], [7])
    """
    drawn = first
    while drawn < votes and stop < 1:
        yield drawn
        drawn *= 2
    yield votes


def count_passes(results: Sequence[str | None], votes: int, stop: float) -> int:
    """How many of these passes a vote would have drawn.

    Args:
        results: at least `votes` of them, in the order in which they were drawn.
    """
    for drawn in plan_waves(votes, stop):
        if drawn >= votes or is_settled(results[:drawn], stop):
            return drawn
    return votes
