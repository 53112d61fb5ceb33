"""What GEPA is told about lists of sub-problems, and about the choice of one."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from scale_dspy.grading.answers import find_answer
from scale_dspy.grading.feedback.trajectory import (
    SKIPPED,
    Trajectory,
    clip,
    count_stage,
    describe_cost,
    describe_notes,
    describe_outcome,
    describe_worked,
    flatten,
    names_result,
    quote,
)
from scale_dspy.utils.lists import read_list


def speak_of_list(run: Trajectory, outputs: Any) -> list[str]:
    reply = getattr(outputs, "subproblems", None)
    lines = _judge_list(run, reply) if isinstance(reply, str) else [_describe_used_list(run)]
    return [*lines, *_judge_plan(run, "decompose")]


def speak_of_choice(run: Trajectory, inputs: Mapping[str, Any], outputs: Any) -> list[str]:
    lengths = [len(read_list(text)) for text in _split_candidates(inputs.get("candidates"))]
    choice = getattr(outputs, "choice", None)
    told = ""
    if lengths and isinstance(choice, str):
        told = (
            f"The reply was {quote(choice)}, of {len(lengths)} candidates with "
            f"{min(lengths)} to {max(lengths)} sub-problems."
        )
        if not choice.strip().isdigit():
            told += " Reply with the number of one candidate and nothing else."
    return [told, _describe_used_list(run), *_judge_plan(run, "select")]


def _judge_list(run: Trajectory, reply: str) -> list[str]:
    """One list: its length, its repeats, its end, and whether it is the one that was used."""
    items = read_list(reply)
    if not items:
        return ["No numbered list could be read in this reply: one sub-problem a line, numbered."]
    used = [flatten(step.subproblem) for step in run.steps[:-1]]
    shared = [item for item in map(flatten, items[:-1]) if item in used]
    unused = len(items) != run.planned or used != shared
    return [
        f"This list has {len(items)} sub-problems.",
        "It was not the one in use." if unused else "",
        _describe_repeats(dict(enumerate(items, 1))),
        _describe_end(run, items[-1]),
    ]


def _describe_used_list(run: Trajectory) -> str:
    """The list in use; its last sub-problem always is the problem itself."""
    if not run.steps:
        return ""
    told = f"The list in use had {run.planned} sub-problems, the last of them the problem itself."
    texts = (step.subproblem for step in run.steps)
    return f"{told} {_describe_repeats(dict(zip(run.numbers, texts, strict=True)))}".strip()


def _describe_repeats(items: Mapping[int, str]) -> str:
    """Sub-problems that differ only in blanks and in their first word, which is a verb."""
    alike: dict[str, list[int]] = defaultdict(list)
    for number, item in items.items():
        alike[re.sub(r"[\s$]+|\.\Z", "", item.partition(" ")[2] or item)].append(number)
    repeats = [" and ".join(map(str, numbers)) for numbers in alike.values() if len(numbers) > 1]
    return f"Sub-problems {'; '.join(repeats)} ask the same: ask once." if repeats else ""


_SENTENCE_END = re.compile(r"(?<=[.?!])\s+")
_WORD = re.compile(r"[^\W_]+")
_COMMON = frozenset("a an and be find for how if in is it of that the there to what which".split())


def _describe_end(run: Trajectory, last: str) -> str:
    """Whether the list ends in what the problem asks: its last sentence, as a rule."""
    question = _SENTENCE_END.split(run.problem)[-1]
    asked = _list_words(question)
    # A paraphrase keeps names and numbers. One that keeps less is shown, not judged.
    if asked and len(asked & _list_words(last)) / len(asked) >= 2 / 3:
        return "Its last sub-problem seems to ask what the problem asks."
    return (
        f"Its last sub-problem is {quote(last)}, and the problem ends in {quote(question)}: "
        "the last one has to ask exactly what the problem asks."
    )


def _list_words(text: str) -> set[str]:
    return set(_WORD.findall(text.casefold())) - _COMMON


def _judge_plan(run: Trajectory, stage: str) -> list[str]:
    """Describe the outcome of the list that was used."""
    planning = count_stage(run.usage, "decompose") + count_stage(run.usage, "select")
    cost = f"Planning took {planning:,} of the {run.tokens:,} response tokens." if planning else ""
    return [
        describe_outcome(run),
        _describe_unused(run),
        _describe_unreadable(run),
        cost,
        describe_cost(run) if run.budget is not None else "",
        describe_notes(
            [note for note in run.notes if note.startswith(stage) or SKIPPED.match(note)]
        ),
        describe_worked(run),
    ]


def _describe_unused(run: Trajectory) -> str:
    """Steps whose result no later solution names."""
    unused = []
    for place, step in enumerate(run.steps[:-1]):
        result = find_answer(step.solution)
        later = "\n".join(f"{each.reasoning}\n{each.solution}" for each in run.steps[place + 1 :])
        if result is not None and not names_result(later, result):
            unused.append(f"{run.numbers[place]} ({clip(result)})")
    if not unused:
        return ""
    many = ", ".join(unused)
    return f"No later solution names the result of sub-problem {many}: ask only what is needed."


def _describe_unreadable(run: Trajectory) -> str:
    """Steps without a result, which may have had no clear target."""
    lost = [
        str(run.numbers[place])
        for place, step in enumerate(run.steps[:-1])
        if find_answer(step.solution) is None
    ]
    if not lost:
        return ""
    return f"No result could be read for sub-problem {', '.join(lost)}: give each one clear target."


_CANDIDATE = re.compile(r"^Candidate \d{1,4}[ \t]*$", re.MULTILINE)


def _split_candidates(candidates: Any) -> list[str]:
    return _CANDIDATE.split(candidates)[1:] if isinstance(candidates, str) else []
