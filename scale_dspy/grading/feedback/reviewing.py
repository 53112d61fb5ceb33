"""What GEPA is told about reviews: whether the draft was wrong, and what the doubt in it led to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from scale_dspy.grading.answers import accepts, equal, find_answer
from scale_dspy.grading.feedback.trajectory import (
    Trajectory,
    asks_problem,
    clip,
    describe_cost,
    describe_outcome,
    describe_unread_score,
    describe_worked,
    name_step,
)


def speak_of_review(run: Trajectory, inputs: Mapping[str, Any], outputs: Any) -> list[str]:
    place = run.find_step(inputs.get("subproblem"))
    if place is not None and run.steps[place].difficulty is None:
        place = None
    lines = [] if place is None else _judge_doubt(run, place)
    said = getattr(outputs, "doubt", None)
    return [
        *lines,
        describe_unread_score(said, None if place is None else run.steps[place].difficulty),
        describe_outcome(run),
        describe_cost(run),
        describe_worked(run),
    ]


def _judge_doubt(run: Trajectory, place: int) -> list[str]:
    """One doubt: what the draft had found, whether that was wrong, what the doubt led to."""
    step = run.steps[place]
    drafted = step.draft.get("result")
    found = "no result that can be read" if drafted is None else f"the result {clip(drafted)}"
    way = "System 2 solved it anew" if step.system == 2 else "the draft was kept"
    told = f"{name_step(run, place)}: the draft had {found}, the doubt was {step.difficulty:g}"
    known, why = _find_truth(run, place)
    return [f"{told}, so {way}. {why}", _advise(known, step.system == 2)]


def _find_truth(run: Trajectory, place: int) -> tuple[bool | None, str]:
    """(whether the draft was wrong, or None where nothing shows it; why, in words)."""
    step = run.steps[place]
    drafted = step.draft.get("result")
    if drafted is None:
        return True, "A draft without a result is wrong."
    if asks_problem(run, place):
        wrong = not accepts(drafted, list(run.golds))
        gold = " or ".join(map(clip, run.golds))
        return wrong, f"Right is {gold}." if wrong else "That is right."
    if step.system == 2:
        other = find_answer(step.solution)
        same = other is not None and equal(drafted, other)
        verb = "found the same" if same else f"found {clip(other or 'nothing readable')}"
        return not same, f"System 2 {verb}."
    label = run.find_label(step.subproblem)
    if label is None:
        return None, "Nothing shows whether that was wrong."
    verb = "agree" if label.alike else "do not agree"
    return not label.alike, f"In earlier runs System 1 and System 2 {verb} here."


def _advise(wrong: bool | None, escalated: bool) -> str:
    if wrong is None:
        return ""
    if wrong == escalated:
        return "A high doubt is right." if wrong else "A low doubt is right."
    if wrong:
        return "The doubt should have been near 1, so that System 2 solves it."
    return "The doubt should have been near 0; System 2 was spent for nothing."
