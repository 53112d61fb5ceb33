"""What GEPA is told about solutions: their form, their cost, and where the answer departed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from scale_dspy.grading.answers import find_answer, normalise
from scale_dspy.grading.feedback.trajectory import (
    LISTED,
    Trajectory,
    clip,
    describe_cost,
    describe_notes,
    describe_outcome,
    describe_reply,
    describe_worked,
    name_step,
    names_result,
)
from scale_dspy.grading.labels import Label
from scale_dspy.step import Step


def speak_of_solving(run: Trajectory, inputs: Mapping[str, Any], outputs: Any) -> list[str]:
    # A problem that is not split is asked for without a sub-problem.
    place = run.find_step(inputs.get("subproblem") or inputs.get("problem"))
    lines = [] if place is None else _judge_step(run, place)
    draft = "It went on from a draft that System 2 had to leave unfinished."
    return [
        *lines,
        draft if inputs.get("draft") else "",
        *describe_reply(outputs),
        describe_outcome(run),
        _describe_departure(run),
        describe_cost(run),
        describe_worked(run),
    ]


def _judge_step(run: Trajectory, place: int) -> list[str]:
    """The sub-problem of the call: its result, its cost, and what is known of it."""
    step = run.steps[place]
    found = find_answer(step.solution)
    result = "no result that can be read" if found is None else f"the result {clip(found)}"
    last = "; the final answer is read from it" if place == len(run.steps) - 1 else ""
    return [
        f"{name_step(run, place)}: System {step.system} gave {result} after {step.tokens:,} "
        f"tokens{last}.",
        _describe_votes(step),
        _describe_known(run.find_label(step.subproblem), found),
        describe_notes(run.pick_notes(place, "solve")),
    ]


def _describe_votes(step: Step) -> str:
    """What the passes of a vote found, the most frequent result first."""
    results = [vote.result for vote in step.votes if vote.system == 2]
    if len(results) < 2:
        return ""
    counts = Counter(normalise(result or "") for result in results)
    unread = counts.pop("", 0)
    found = [f"{clip(result)} ({count} of them)" for result, count in counts.most_common(LISTED)]
    found += [f"nothing that can be read ({unread} of them)"] if unread else []
    advice = " Where they differ, the step at which they part is at fault."
    return f"Its {len(results)} passes found {', '.join(found)}.{advice if len(counts) > 1 else ''}"


def _describe_known(label: Label | None, found: str | None) -> str:
    if label is None or label.result_1 is None or label.result_2 is None:
        return ""
    if label.alike:
        return f"In earlier runs System 1 and System 2 both found {clip(label.result_2)} here."
    return (
        f"In earlier runs System 1 found {clip(label.result_1)} here and System 2 "
        f"{clip(label.result_2)}."
    )


def _describe_departure(run: Trajectory) -> str:
    """The first result that the worked solution does not name: where to look for the error."""
    if run.right or not run.worked:
        return ""
    for place, step in enumerate(run.steps):
        result = find_answer(step.solution)
        if result is not None and not names_result(run.worked, result):
            return (
                f"The first result that the worked solution does not name is that of sub-problem "
                f"{run.numbers[place]}, {clip(result)}: look for the error there first."
            )
    return ""
