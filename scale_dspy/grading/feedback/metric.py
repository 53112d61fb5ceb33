"""What GEPA is told of a run in words: for each predictor, what went wrong and what to change."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import dspy

from scale_dspy.grading.feedback.plan import speak_of_choice, speak_of_list
from scale_dspy.grading.feedback.rating import speak_of_rating
from scale_dspy.grading.feedback.reviewing import speak_of_review
from scale_dspy.grading.feedback.solving import speak_of_solving
from scale_dspy.grading.feedback.trajectory import (
    Labels,
    Trajectory,
    describe_cost,
    describe_notes,
    describe_outcome,
    describe_reply,
    describe_worked,
    read_trajectory,
)
from scale_dspy.stages.registry import find_asker


def write_feedback(
    example: dspy.Example,
    prediction: Any,
    name: str | None,
    pred_trace: Any,
    *,
    right: bool,
    tokens: int,
    budget: int | None,
    labels: Labels,
) -> str:
    """The feedback for a predictor, in words.

    Args:
        example: with its gold answer, and a worked `solution` where the set has one.
        prediction: what the run ended with; it has an answer (see `find_failure`).
        name: of the predictor; None for words about the whole run.
        pred_trace: the one call that is reflected on, as DSPy gives it.
        right: whether the answer is.
        tokens: response tokens of the run.
        budget: for a run; None where there is none.
        labels: see `Labels`.
    """
    run = read_trajectory(example, prediction, right, tokens, budget, labels)
    return _speak(run, name, pred_trace)


def _read_call(pred_trace: Any) -> tuple[Mapping[str, Any], Any]:
    """Inputs and outputs of the one call under reflection; empty inputs where there is none."""
    entries = pred_trace if isinstance(pred_trace, (list, tuple)) else ()
    for entry in entries:
        if isinstance(entry, (list, tuple)) and len(entry) == 3 and isinstance(entry[1], Mapping):
            return entry[1], entry[2]
    return {}, None


def _speak(run: Trajectory, name: str | None, pred_trace: Any) -> str:
    """Return the feedback for the predictor of this name."""
    inputs, outputs = _read_call(pred_trace)
    stage = find_asker(name)
    if stage is None:
        lines = _speak_of_run(run, outputs)
    elif stage.name in _SPEAKERS:
        lines = _SPEAKERS[stage.name](run, inputs, outputs)
    else:
        lines = [stage.hint, *_speak_of_run(run, outputs)]
    return "\n".join(line for line in lines if line)


_SPEAKERS: dict[str, Callable[[Trajectory, Mapping[str, Any], Any], list[str]]] = {
    "decompose": lambda run, _, outputs: speak_of_list(run, outputs),
    "select": speak_of_choice,
    "assess": speak_of_rating,
    "solve_1": speak_of_solving,
    "solve_2": speak_of_solving,
    "whole": speak_of_solving,
    "review": speak_of_review,
}


def _speak_of_run(run: Trajectory, outputs: Any) -> list[str]:
    """Return the feedback for predictors of baselines, and where no predictor is named."""
    hard = sum(step.system == 2 for step in run.steps)
    solved = f"{len(run.steps)} sub-problems were solved, {hard} of them by System 2."
    return [
        *describe_reply(outputs),
        describe_outcome(run),
        describe_cost(run),
        solved if len(run.steps) > 1 else "",
        describe_notes(run.notes),
        describe_worked(run),
    ]
