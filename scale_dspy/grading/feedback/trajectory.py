"""Describe a run for feedback: what happened in it, and what all predictors are told."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import dspy

from scale_dspy.grading.answers import find_answer, normalise
from scale_dspy.grading.labels import Label
from scale_dspy.step import Step

Labels = Mapping[tuple[str, str], Label]
"""Difficulty labels by (problem, sub-problem)."""
WORKED = 2_000  # characters of the gold worked solution that are quoted
QUOTE = 200  # characters of anything else
LISTED = 6  # sub-problems spoken of beside the one under reflection


def read_golds(example: dspy.Example) -> list[str]:
    """All answers that are accepted."""
    return list(example.get("answers") or [str(example.answer)])


def count_stage(usage: Any, name: str) -> int:
    """Response tokens of one stage; 0 where nothing is known of it."""
    stage = usage.get(name) if isinstance(usage, Mapping) else None
    tokens = stage.get("completion_tokens") if isinstance(stage, Mapping) else None
    return tokens if isinstance(tokens, int) else 0


def find_failure(prediction: Any) -> str:
    """What a run returned in place of an answer; empty if it has one or reports none."""
    if isinstance(prediction, BaseException):
        return clip(f"{type(prediction).__name__}: {prediction}")
    if hasattr(prediction, "answer"):
        answer = prediction.answer
        readable = answer is None or isinstance(answer, str)
        return "" if readable else f"its answer is no text but {clip(repr(answer))}"
    said = getattr(prediction, "completion_text", None) or getattr(prediction, "error", None)
    return clip(said) if said else "what it ended with is not on record"


@dataclass(frozen=True)
class Trajectory:
    """One run of a program on one example.

    Attributes:
        numbers: the place of each of `steps` in the plan, from 1; one that was skipped has none.
        planned: sub-problems of the plan.
        notes: what had to be replaced.
        worked: the gold worked solution; empty where there is none.
    """

    problem: str
    golds: Sequence[str]
    answer: str | None
    right: bool
    tokens: int
    budget: int | None
    usage: Any
    steps: Sequence[Step]
    numbers: Sequence[int]
    planned: int
    notes: Sequence[str]
    worked: str
    labels: Labels

    def find_step(self, subproblem: Any) -> int | None:
        """The place in `steps` of the one that solves a sub-problem."""
        places = [k for k, step in enumerate(self.steps) if step.subproblem == subproblem]
        return places[-1] if places else None

    def find_label(self, subproblem: str) -> Label | None:
        return self.labels.get((self.problem, subproblem.strip()))

    def pick_notes(self, place: int, stage: str) -> list[str]:
        """The notes on one step at one stage."""
        start = f"step {self.numbers[place]}: {stage}"
        return [note for note in self.notes if note.startswith(start)]


SKIPPED = re.compile(r"step (\d{1,4}): skipped")


def read_trajectory(
    example: dspy.Example,
    prediction: Any,
    right: bool,
    tokens: int,
    budget: int | None,
    labels: Labels,
) -> Trajectory:
    steps = [step for step in _read_items(prediction, "steps") if isinstance(step, Step)]
    notes = [note for note in _read_items(prediction, "replaced") if isinstance(note, str)]
    skipped = {int(match[1]) for note in notes if (match := SKIPPED.match(note))}
    planned = len(steps) + len(skipped)
    numbers = [k for k in range(1, planned + 1) if k not in skipped][: len(steps)]
    return Trajectory(
        problem=str(example.get("problem") or "").strip(),
        golds=read_golds(example),
        answer=prediction.answer,
        right=right,
        tokens=tokens,
        budget=budget,
        usage=getattr(prediction, "usage", None),
        steps=steps,
        numbers=numbers,
        planned=planned,
        notes=notes,
        worked=str(example.get("solution") or "").strip(),
        labels=labels,
    )


def _read_items(holder: Any, name: str) -> Sequence[Any]:
    items = getattr(holder, name, None)
    return items if isinstance(items, (list, tuple)) else ()


def describe_outcome(run: Trajectory) -> str:
    gold = " or ".join(map(clip, run.golds))
    if run.right:
        return f"The final answer {clip(run.answer)} is right."
    if run.answer is None:
        return f"No final answer could be read in the last solution; right is {gold}."
    return f"The final answer {clip(run.answer)} is wrong; right is {gold}."


def describe_cost(run: Trajectory) -> str:
    if not run.tokens:
        return ""
    cost = f"The run took {run.tokens:,} response tokens"
    if run.budget is None:
        return f"{cost}."
    if run.tokens <= run.budget:
        return f"{cost}, within the budget of {run.budget:,}."
    stage = max(run.usage, key=lambda name: count_stage(run.usage, name))
    most = f"{count_stage(run.usage, stage):,} of them in the stage {stage}"
    over = f"{run.tokens - run.budget:,} more than the budget of {run.budget:,}"
    return f"{cost}, {over}, which lowers the score of a right answer; {most}: be shorter there."


def describe_notes(notes: Sequence[str]) -> str:
    return f"Had to be replaced: {'; '.join(map(clip, notes[:LISTED]))}." if notes else ""


def name_step(run: Trajectory, place: int) -> str:
    if asks_problem(run, place):
        return "The problem itself" if run.planned > 1 else "The problem, solved whole"
    return (
        f"Sub-problem {run.numbers[place]} of {run.planned}, {quote(run.steps[place].subproblem)}"
    )


def describe_worked(run: Trajectory) -> str:
    """The gold worked solution, given only where the answer is wrong."""
    if run.right or not run.worked:
        return ""
    more = " ..." if len(run.worked) > WORKED else ""
    return f"A worked solution that is right, to compare with:\n{run.worked[:WORKED]}{more}"


def describe_reply(outputs: Any) -> list[str]:
    """What is wrong with the form of a solver's reply."""
    solution = getattr(outputs, "solution", None)
    if not isinstance(solution, str):
        return []
    if getattr(outputs, "cut_off", False) is True:
        return ["This reply was cut off at its token limit: reach the result in fewer words."]
    if find_answer(solution) is None:
        return [r"No result could be read in this reply: it must end with its result in \boxed{}."]
    return []


def describe_unread_score(said: Any, counted: float | None) -> str:
    """Where a reply is not the score that counted for its step."""
    if not isinstance(said, str) or counted is None or (number := _read_number(said)) == counted:
        return ""
    told = f"The reply was {quote(said)}, and the score in use {counted:g}"
    if number is not None and 0 <= number <= 1:
        return f"{told}, which another reply or the program's settings gave."
    return f"{told}: reply with one number from 0 to 1 and nothing else."


def _read_number(text: str) -> float | None:
    try:
        return float(text.strip())
    except ValueError:
        return None


def asks_problem(run: Trajectory, place: int) -> bool:
    return run.steps[place].subproblem.strip() == run.problem


def clip(text: Any) -> str:
    """A text in one line and no longer than QUOTE."""
    flat = flatten(str(text))
    return flat if len(flat) <= QUOTE else f"{flat[: QUOTE - 4]} ..."


def quote(text: Any) -> str:
    return f'"{clip(text)}"'


def flatten(text: str) -> str:
    return " ".join(text.split())


_SPACING = re.compile(r"\s+|\\[,;:! ]|\\(?:left|right)(?![A-Za-z])|[${}]")


def names_result(text: str, result: str) -> bool:
    """Whether a text contains a result, in its own or in its canonical spelling."""
    spellings = {result, normalise(result)} - {""}
    if any(re.search(rf"(?<![\w.]){re.escape(each)}(?!\w)", text) for each in spellings):
        return True
    return not result.isalnum() and _squeeze(result) in _squeeze(text)


def _squeeze(text: str) -> str:
    return re.sub(r"\\[dtc]frac", r"\\frac", _SPACING.sub("", text))
