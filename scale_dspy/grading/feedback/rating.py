"""What GEPA is told about ratings: which were too low or too high, and what that cost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from scale_dspy.grading.feedback.trajectory import (
    LISTED,
    Trajectory,
    asks_problem,
    clip,
    describe_cost,
    describe_outcome,
    describe_unread_score,
    name_step,
    quote,
)
from scale_dspy.grading.labels import Label
from scale_dspy.step import Step


def speak_of_rating(run: Trajectory, inputs: Mapping[str, Any], outputs: Any) -> list[str]:
    place = _find_rated(run, inputs)
    lines = [_describe_whole_rating(run, inputs, outputs) if place is None else ""]
    if place is not None:
        said = getattr(outputs, "difficulty", None)
        lines = [
            _judge_score(run, place),
            describe_unread_score(said, run.steps[place].difficulty),
        ]
    others = [k for k in _list_rated(run) if k != place and _is_telling(run, k)]
    return [
        *lines,
        describe_outcome(run),
        describe_cost(run),
        "Other scores of this run:" if others else "",
        *(_judge_score(run, k) for k in others[:LISTED]),
        f"and {len(others) - LISTED} more like these." if len(others) > LISTED else "",
    ]


def _find_rated(run: Trajectory, inputs: Mapping[str, Any]) -> int | None:
    """The step whose score the call gave; None where it rated the whole problem of several."""
    place = run.find_step(inputs.get("subproblem"))
    if place is None or run.steps[place].difficulty is None:
        return None
    whole = asks_problem(run, place) and not inputs.get("context")
    return None if whole and run.planned > 1 else place


def _list_rated(run: Trajectory) -> list[int]:
    """Steps with a score; not the last one's, which as a rule is set and not rated."""
    return [
        place
        for place, step in enumerate(run.steps)
        if step.difficulty is not None and not asks_problem(run, place)
    ]


def _is_telling(run: Trajectory, place: int) -> bool:
    """Whether a score may be the cause of a wrong answer or of needless cost, or is known wrong."""
    step = run.steps[place]
    label = run.find_label(step.subproblem)
    needless = label.alike if label else run.right  # then System 2 would be what to speak of
    return step.system == (2 if needless else 1)


def _judge_score(run: Trajectory, place: int) -> str:
    """Describe the outcome of one score, and whether it was too high or too low."""
    step = run.steps[place]
    label = run.find_label(step.subproblem)
    how = "with thinking" if step.system == 2 else "without thinking"
    told = (
        f"{name_step(run, place)}: "
        f"score {step.difficulty:g}, solved {how} (System {step.system}) in {step.tokens:,} tokens."
    )
    if any("left for System 2" in note for note in run.pick_notes(place, "solve")):
        return f"{told} The budget, not the score, kept System 2 from it."
    return f"{told} {_judge_known(label, step) if label else _judge_unknown(run, step)}"


def _judge_known(label: Label, step: Step) -> str:
    known = _describe_label(label)
    if label.alike and step.system == 1:
        return f"{known} A low score is right."
    if label.alike:
        return f"{known} The score should have been near 0; thinking was spent for nothing."
    if step.system == 2:
        return f"{known} A high score is right."
    return f"{known} The score should have been near 1, so that System 2 solves it."


def _judge_unknown(run: Trajectory, step: Step) -> str:
    if run.right and step.system == 1:
        return "Nothing shows that this score was too low."
    if run.right:
        return "If it can be solved right without thinking, a lower score saves these tokens."
    if step.system == 1:
        return "If the answer went wrong here, this score was too low."
    return "It was thought over, so a higher score would have changed nothing."


def _describe_whole_rating(run: Trajectory, inputs: Mapping[str, Any], outputs: Any) -> str:
    """Describe a rating without a step: of the whole problem, or of a skipped sub-problem."""
    subproblem, said = inputs.get("subproblem"), getattr(outputs, "difficulty", None)
    if not isinstance(subproblem, str) or not isinstance(said, str):
        return ""
    what = "the whole problem" if subproblem.strip() == run.problem else quote(subproblem)
    label = run.find_label(subproblem)
    known = f" {_describe_label(label)}" if label else ""
    return f"This score, {quote(said)}, is of {what}.{known}"


def _describe_label(label: Label) -> str:
    one, two = (clip(found or "nothing readable") for found in (label.result_1, label.result_2))
    if label.alike:
        return f"Known to be easy: System 1 and System 2 both find {one}."
    return f"Known to be hard: System 1 finds {one}, System 2 finds {two}."
