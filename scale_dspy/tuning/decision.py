"""Decide which point of a frontier a program is set to, and say why, and what came second.

`frontier` and `compile` decide by this one rule, so on the same problems under the same budget they
take the same point.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from scale_dspy.tuning.choice import Choice, choose, describe_point, name_plain_points, rank, settle
from scale_dspy.tuning.frontier import SLACK, Frontier, draw_frontier, list_curve, list_points
from scale_dspy.tuning.threshold_sweep import Walk, report_scores, report_signals

CAME = "as it came"
CURVE = "the best point of the curve"


@dataclass(frozen=True)
class Decision:
    """The chosen point, the runner-up by the same rule, and what distinguishes them.

    Attributes:
        name: what the point is: CURVE, CAME, or a plain point's name.
        runner_up: the next of those that differ in outcome, with its name; None where none does.
        why: a sentence.
    """

    name: str
    choice: Choice
    runner_up: tuple[str, Choice] | None
    why: str

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON: the choice's own keys, `chosen_as`, `runner_up` and `why`."""
        second = self.runner_up
        return {
            **self.choice.to_dict(),
            "chosen_as": self.name,
            "runner_up": None if second is None else {"name": second[0], **second[1].to_dict()},
            "why": self.why,
        }


def decide(
    frontier: Frontier,
    start: tuple[float, float],
    *,
    budget: float | None = None,
    margin: float = 0.0,
    seed: int = 0,
) -> Decision:
    """The point that is expected to do best on new problems, of equal ones the cheapest.

    The best point of the curve was chosen among many on few problems, so it is judged by what such
    choices reach on held-out problems (`Choice.expected`). A plain point, or the program's original
    setting, is taken instead if that is better.

    Args:
        start: the threshold and the split that the program had before.
        budget, margin: see `choose`.
        seed: of the intervals.

    Raises:
        ValueError: see `choose`.
    """
    curve = choose(frontier, budget=budget, margin=margin, seed=seed)
    settled = settle(frontier, curve, budget=budget, margin=margin)
    points = name_plain_points(frontier)
    plain = {name: describe_point(frontier, *point, budget) for name, point in points.items()}
    came = describe_point(frontier, *start, budget)
    at = settled.threshold, settled.split  # with votes, a plain point may have a stop of its own
    name = CURVE if settled is curve else next(n for n, point in points.items() if point == at)
    return compare_points([(CAME, came), (name, settled)], [(CURVE, curve), *plain.items()], margin)


def summarise_frontier(
    walks: Sequence[Walk],
    start: tuple[float, float] = (0.5, 0.0),
    *,
    budget: float | None = None,
    margin: float = 0.02,
    seed: int = 0,
) -> dict[str, Any]:
    """What frontier.json holds: points, curve, choices, how good scores are; ready for JSON.

    Args:
        walks: of one program.
        start: the threshold and the split that it had before.
        budget: adds the choice that keeps to it.
        margin: accuracy given up for the choice called `cheapest`.
        seed: of the intervals.
    """
    frontier = draw_frontier(walks)
    rules: dict[str, dict[str, Any]] = {"most_accurate": {}, "cheapest": {"margin": margin}}
    if budget is not None:
        rules["within_budget"] = {"budget": budget}
    decisions = {name: decide(frontier, start, **rule, seed=seed) for name, rule in rules.items()}
    return {
        "problems": len(frontier.problems),
        "samples": int(frontier.samples.min()),
        "errors": sum(walk.error is not None for walk in walks),
        "budget": budget,
        "margin": margin,
        "choices": {name: each.to_dict() for name, each in decisions.items()},
        "points": list_points(frontier),
        "curve": list_curve(frontier),
        "difficulty": report_scores(walks),
        "signals": report_signals(walks),
    }


def compare_points(
    points: Sequence[tuple[str, Choice]], others: Sequence[tuple[str, Choice]], margin: float
) -> Decision:
    """The best of `points`, with the next of them and of `others` that has another outcome."""
    name, choice = points[rank([point for _, point in points], margin)]
    rest = [each for each in (*points, *others) if _differs(each[1], choice)]
    second = rest[rank([point for _, point in rest], margin)] if rest else None
    return Decision(name, choice, second, explain_choice(name, choice, second, margin))


def explain_choice(
    name: str, choice: Choice, second: tuple[str, Choice] | None, margin: float = 0.0
) -> str:
    """In words, what distinguishes a choice from the runner-up."""
    ours = _describe_point(name, choice)
    if second is None:
        return f"{ours}; no other point has another outcome"
    theirs = _describe_point(*second)
    other = second[1]
    if choice.within_budget != other.within_budget:
        return f"{ours}; next {theirs}, which does not keep to the budget"
    if not choice.within_budget:
        return f"{ours}; nothing keeps to the budget, and it costs least; next {theirs}"
    if choice.expected > other.expected + SLACK:
        return f"{ours}; next {theirs}: more is to be expected of the first on new problems"
    if choice.expected >= other.expected - margin - SLACK:
        return f"{ours}; next {theirs}: as much is to be expected, and the first costs less"
    return f"{ours}; next {theirs}"


def _differs(one: Choice, other: Choice) -> bool:
    return (
        abs(one.accuracy.estimate - other.accuracy.estimate) > SLACK
        or abs(one.tokens.estimate - other.tokens.estimate) > SLACK
    )


def _describe_point(name: str, point: Choice) -> str:
    told = f"{name} ({point.threshold:g}/{point.split:g}): {point.accuracy.estimate:.1%} right here"
    if point.held_out is not None:
        told += f", {point.held_out:.1%} where the choice did not see the problem"
    return f"{told}, {point.tokens.estimate:,.0f} tokens"
