"""What GEPA is told of a run in words: for each predictor, what went wrong and what to change."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import dspy

from scale_dspy.answers import find_answer, normalise
from scale_dspy.evaluation.labels import Label
from scale_dspy.step import Step

Labels = Mapping[tuple[str, str], Label]
"""What is known of sub-problems' difficulty, by (problem, sub-problem)."""

WORKED = 2_000  # characters of the gold worked solution that are quoted
QUOTE = 200  # characters of anything else
LISTED = 6  # sub-problems spoken of beside the one under reflection


def tell(
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
    """What to tell about a predictor.

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
    run = _read_run(example, prediction, right, tokens, budget, labels)
    return _speak(run, name, pred_trace)


def read_golds(example: dspy.Example) -> list[str]:
    """All answers that are accepted."""
    return list(example.get("answers") or [str(example.answer)])


def count_stage(usage: Any, name: str) -> int:
    """Response tokens of one stage; 0 where nothing is known of it."""
    stage = usage.get(name) if isinstance(usage, Mapping) else None
    tokens = stage.get("completion_tokens") if isinstance(stage, Mapping) else None
    return tokens if isinstance(tokens, int) else 0


def find_failure(prediction: Any) -> str:
    """What a run ended with instead of an answer; empty where it has one, or says it has none."""
    if isinstance(prediction, BaseException):
        return _clip(f"{type(prediction).__name__}: {prediction}")
    if hasattr(prediction, "answer"):
        answer = prediction.answer
        readable = answer is None or isinstance(answer, str)
        return "" if readable else f"its answer is no text but {_clip(repr(answer))}"
    said = getattr(prediction, "completion_text", None) or getattr(prediction, "error", None)
    return _clip(said) if said else "what it ended with is not on record"


# ---- what the words are about


@dataclass(frozen=True)
class _Run:
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


_SKIPPED = re.compile(r"step (\d{1,4}): skipped")


def _read_run(
    example: dspy.Example,
    prediction: Any,
    right: bool,
    tokens: int,
    budget: int | None,
    labels: Labels,
) -> _Run:
    steps = [step for step in _read_items(prediction, "steps") if isinstance(step, Step)]
    notes = [note for note in _read_items(prediction, "replaced") if isinstance(note, str)]
    skipped = {int(match[1]) for note in notes if (match := _SKIPPED.match(note))}
    planned = len(steps) + len(skipped)
    numbers = [k for k in range(1, planned + len(skipped) + 1) if k not in skipped][: len(steps)]
    return _Run(
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


def _read_call(pred_trace: Any) -> tuple[Mapping[str, Any], Any]:
    """Inputs and outputs of the one call under reflection; empty inputs where there is none."""
    entries = pred_trace if isinstance(pred_trace, (list, tuple)) else ()
    for entry in entries:
        if isinstance(entry, (list, tuple)) and len(entry) == 3 and isinstance(entry[1], Mapping):
            return entry[1], entry[2]
    return {}, None


# ---- the words


def _speak(run: _Run, name: str | None, pred_trace: Any) -> str:
    """What to tell about the predictor of this name."""
    inputs, outputs = _read_call(pred_trace)
    if name and name.endswith("assess.rate"):
        lines = _speak_of_rating(run, inputs, outputs)
    elif name and name.endswith("decompose.propose"):
        lines = _speak_of_list(run, outputs)
    elif name and name.endswith("decompose.select"):
        lines = _speak_of_choice(run, inputs, outputs)
    elif name and name.endswith(("solve.system_1", "solve.system_2")):
        lines = _speak_of_solving(run, inputs, outputs)
    else:
        lines = _speak_of_run(run, outputs)
    return "\n".join(line for line in lines if line)


def _speak_of_run(run: _Run, outputs: Any) -> list[str]:
    """For the predictors of baselines, and where none is named."""
    hard = sum(step.system == 2 for step in run.steps)
    solved = f"{len(run.steps)} sub-problems were solved, {hard} of them by System 2."
    return [
        *_tell_reply(outputs),
        _tell_outcome(run),
        _tell_cost(run),
        solved if len(run.steps) > 1 else "",
        _tell_notes(run.notes),
        _tell_worked(run),
    ]


def _tell_outcome(run: _Run) -> str:
    gold = " or ".join(map(_clip, run.golds))
    if run.right:
        return f"The final answer {_clip(run.answer)} is right."
    if run.answer is None:
        return f"No final answer could be read in the last solution; right is {gold}."
    return f"The final answer {_clip(run.answer)} is wrong; right is {gold}."


def _tell_cost(run: _Run) -> str:
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


def _tell_notes(notes: Sequence[str]) -> str:
    return f"Had to be replaced: {'; '.join(map(_clip, notes[:LISTED]))}." if notes else ""


def _name_step(run: _Run, place: int) -> str:
    if _asks_problem(run, place):
        return "The problem itself" if run.planned > 1 else "The problem, solved whole"
    return (
        f"Sub-problem {run.numbers[place]} of {run.planned}, {_quote(run.steps[place].subproblem)}"
    )


def _tell_worked(run: _Run) -> str:
    """The gold worked solution, where the answer is wrong; to a right one it adds nothing."""
    if run.right or not run.worked:
        return ""
    more = " ..." if len(run.worked) > WORKED else ""
    return f"A worked solution that is right, to compare with:\n{run.worked[:WORKED]}{more}"


def _tell_reply(outputs: Any) -> list[str]:
    """What is wrong with the form of a solver's reply."""
    solution = getattr(outputs, "solution", None)
    if not isinstance(solution, str):
        return []
    if getattr(outputs, "cut_off", False) is True:
        return ["This reply was cut off at its token limit: reach the result in fewer words."]
    if find_answer(solution) is None:
        return [r"No result could be read in this reply: it must end with its result in \boxed{}."]
    return []


# ---- about assess.rate


def _speak_of_rating(run: _Run, inputs: Mapping[str, Any], outputs: Any) -> list[str]:
    place = _find_rated(run, inputs)
    lines = [_tell_whole_rating(run, inputs, outputs) if place is None else ""]
    if place is not None:
        lines = [_judge_score(run, place), _tell_unread(run, place, outputs)]
    others = [k for k in _list_rated(run) if k != place and _is_telling(run, k)]
    return [
        *lines,
        _tell_outcome(run),
        _tell_cost(run),
        "Other scores of this run:" if others else "",
        *(_judge_score(run, k) for k in others[:LISTED]),
        f"and {len(others) - LISTED} more like these." if len(others) > LISTED else "",
    ]


def _find_rated(run: _Run, inputs: Mapping[str, Any]) -> int | None:
    """The step whose score the call gave; None where it rated the whole problem of several."""
    place = run.find_step(inputs.get("subproblem"))
    if place is None or run.steps[place].difficulty is None:
        return None
    whole = _asks_problem(run, place) and not inputs.get("context")
    return None if whole and run.planned > 1 else place


def _asks_problem(run: _Run, place: int) -> bool:
    return run.steps[place].subproblem.strip() == run.problem


def _list_rated(run: _Run) -> list[int]:
    """Steps with a score; not the last one's, which as a rule is set and not rated."""
    return [
        place
        for place, step in enumerate(run.steps)
        if step.difficulty is not None and not _asks_problem(run, place)
    ]


def _is_telling(run: _Run, place: int) -> bool:
    """Whether a score may be the cause of a wrong answer or of needless cost, or is known wrong."""
    step = run.steps[place]
    label = run.find_label(step.subproblem)
    needless = label.alike if label else run.right  # then System 2 would be what to speak of
    return step.system == (2 if needless else 1)


def _judge_score(run: _Run, place: int) -> str:
    """One score: what came of it, and whether it should have been another one."""
    step = run.steps[place]
    label = run.find_label(step.subproblem)
    how = "with thinking" if step.system == 2 else "without thinking"
    told = (
        f"{_name_step(run, place)}: "
        f"score {step.difficulty:g}, solved {how} (System {step.system}) in {step.tokens:,} tokens."
    )
    if any("left for System 2" in note for note in run.pick_notes(place, "solve")):
        return f"{told} The budget, not the score, kept System 2 from it."
    return f"{told} {_judge_known(label, step) if label else _judge_unknown(run, step)}"


def _judge_known(label: Label, step: Step) -> str:
    one, two = (_clip(found or "nothing readable") for found in (label.result_1, label.result_2))
    if label.alike:
        known = f"Known to be easy: System 1 and System 2 both find {one}."
        if step.system == 1:
            return f"{known} A low score is right."
        return f"{known} The score should have been near 0; thinking was spent for nothing."
    known = f"Known to be hard: System 1 finds {one}, System 2 finds {two}."
    if step.system == 2:
        return f"{known} A high score is right."
    return f"{known} The score should have been near 1, so that System 2 solves it."


def _judge_unknown(run: _Run, step: Step) -> str:
    if run.right and step.system == 1:
        return "Nothing shows that this score was too low."
    if run.right:
        return "If it can be solved right without thinking, a lower score saves these tokens."
    if step.system == 1:
        return "If the answer went wrong here, this score was too low."
    return "It was thought over, so a higher score would have changed nothing."


def _tell_unread(run: _Run, place: int, outputs: Any) -> str:
    """Where the reply is not the number that counted."""
    said, counted = getattr(outputs, "difficulty", None), run.steps[place].difficulty
    if not isinstance(said, str) or (number := _read_number(said)) == counted:
        return ""
    told = f"The reply was {_quote(said)}, and the score in use {counted:g}"
    if number is not None and 0 <= number <= 1:
        return f"{told}, which another reply or the program's settings gave."
    return f"{told}: reply with one number from 0 to 1 and nothing else."


def _tell_whole_rating(run: _Run, inputs: Mapping[str, Any], outputs: Any) -> str:
    """A rating that no step goes back to: of the whole problem, or of one that was skipped."""
    subproblem, said = inputs.get("subproblem"), getattr(outputs, "difficulty", None)
    if not isinstance(subproblem, str) or not isinstance(said, str):
        return ""
    what = "the whole problem" if subproblem.strip() == run.problem else _quote(subproblem)
    label = run.find_label(subproblem)
    systems = (
        "System 1 and System 2 both find" if label and label.alike else "System 1 alone misses"
    )
    known = f" {systems} what System 2 finds, {_clip(label.result_2 or '')}." if label else ""
    return f"This score, {_quote(said)}, is of {what}.{known}"


def _read_number(text: str) -> float | None:
    try:
        return float(text.strip())
    except ValueError:
        return None


# ---- about decompose.propose and decompose.select


def _speak_of_list(run: _Run, outputs: Any) -> list[str]:
    reply = getattr(outputs, "subproblems", None)
    lines = _judge_list(run, reply) if isinstance(reply, str) else [_tell_used_list(run)]
    return [*lines, *_judge_plan(run, "decompose")]


def _speak_of_choice(run: _Run, inputs: Mapping[str, Any], outputs: Any) -> list[str]:
    lengths = [len(_split_list(text)) for text in _split_candidates(inputs.get("candidates"))]
    choice = getattr(outputs, "choice", None)
    told = ""
    if lengths and isinstance(choice, str):
        told = (
            f"The reply was {_quote(choice)}, of {len(lengths)} candidates with "
            f"{min(lengths)} to {max(lengths)} sub-problems."
        )
        if not choice.strip().isdigit():
            told += " Reply with the number of one candidate and nothing else."
    return [told, _tell_used_list(run), *_judge_plan(run, "select")]


def _judge_list(run: _Run, reply: str) -> list[str]:
    """One list: its length, its repeats, its end, and whether it is the one that was used."""
    items = _split_list(reply)
    if not items:
        return ["No numbered list could be read in this reply: one sub-problem a line, numbered."]
    used = [_flatten(step.subproblem) for step in run.steps[:-1]]
    shared = [item for item in map(_flatten, items[:-1]) if item in used]
    unused = len(items) != run.planned or used != shared
    return [
        f"This list has {len(items)} sub-problems.",
        "It was not the one in use." if unused else "",
        _tell_repeats(dict(enumerate(items, 1))),
        _tell_end(run, items[-1]),
    ]


def _tell_used_list(run: _Run) -> str:
    """The list in use; its last sub-problem always is the problem itself."""
    if not run.steps:
        return ""
    told = f"The list in use had {run.planned} sub-problems, the last of them the problem itself."
    texts = (step.subproblem for step in run.steps)
    return f"{told} {_tell_repeats(dict(zip(run.numbers, texts, strict=True)))}".strip()


def _tell_repeats(items: Mapping[int, str]) -> str:
    """Sub-problems that differ in no more than blanks and their first word, which is a verb."""
    alike: dict[str, list[int]] = defaultdict(list)
    for number, item in items.items():
        alike[re.sub(r"[\s$]+|\.\Z", "", item.partition(" ")[2] or item)].append(number)
    repeats = [" and ".join(map(str, numbers)) for numbers in alike.values() if len(numbers) > 1]
    return f"Sub-problems {'; '.join(repeats)} ask the same: ask once." if repeats else ""


_SENTENCE_END = re.compile(r"(?<=[.?!])\s+")
_WORD = re.compile(r"[^\W_]+")
_COMMON = frozenset("a an and be find for how if in is it of that the there to what which".split())


def _tell_end(run: _Run, last: str) -> str:
    """Whether the list ends in what the problem asks: its last sentence, as a rule."""
    question = _SENTENCE_END.split(run.problem)[-1]
    asked = _list_words(question)
    # A paraphrase keeps names and numbers. One that keeps less is shown, not judged.
    if asked and len(asked & _list_words(last)) / len(asked) >= 2 / 3:
        return "Its last sub-problem seems to ask what the problem asks."
    return (
        f"Its last sub-problem is {_quote(last)}, and the problem ends in {_quote(question)}: "
        "the last one has to ask exactly what the problem asks."
    )


def _list_words(text: str) -> set[str]:
    return set(_WORD.findall(text.casefold())) - _COMMON


def _judge_plan(run: _Run, stage: str) -> list[str]:
    """What came of the list in use."""
    planning = count_stage(run.usage, "decompose") + count_stage(run.usage, "select")
    cost = f"Planning took {planning:,} of the {run.tokens:,} response tokens." if planning else ""
    return [
        _tell_outcome(run),
        _tell_unused(run),
        _tell_unreadable(run),
        cost,
        _tell_cost(run) if run.budget is not None else "",
        _tell_notes([note for note in run.notes if note.startswith(stage) or _SKIPPED.match(note)]),
        _tell_worked(run),
    ]


def _tell_unused(run: _Run) -> str:
    """Steps whose result no later solution names."""
    unused = []
    for place, step in enumerate(run.steps[:-1]):
        result = find_answer(step.solution)
        later = "\n".join(f"{each.reasoning}\n{each.solution}" for each in run.steps[place + 1 :])
        if result is not None and not _names(later, result):
            unused.append(f"{run.numbers[place]} ({_clip(result)})")
    if not unused:
        return ""
    many = ", ".join(unused)
    return f"No later solution names the result of sub-problem {many}: ask only what is needed."


def _tell_unreadable(run: _Run) -> str:
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
_ITEM = re.compile(r"^[ \t]{0,3}(\d{1,3})[.):][ \t]+", re.MULTILINE)


def _split_candidates(candidates: Any) -> list[str]:
    return _CANDIDATE.split(candidates)[1:] if isinstance(candidates, str) else []


def _split_list(text: str) -> list[str]:
    """The items of a numbered list as `step.render_list` writes it; numbers have to count up."""
    ends: list[int] = []
    items: list[re.Match[str]] = []
    for match in _ITEM.finditer(text):
        if int(match[1]) == len(items) + 1:
            items.append(match)
            ends.append(match.start())
    return [
        text[item.end() : end].strip()
        for item, end in zip(items, [*ends[1:], len(text)], strict=False)
    ]


# ---- about solve.system_1 and solve.system_2


def _speak_of_solving(run: _Run, inputs: Mapping[str, Any], outputs: Any) -> list[str]:
    place = run.find_step(inputs.get("subproblem"))
    lines = [] if place is None else _judge_step(run, place)
    draft = "It went on from a draft that System 2 had to leave unfinished."
    return [
        *lines,
        draft if inputs.get("draft") else "",
        *_tell_reply(outputs),
        _tell_outcome(run),
        _tell_departure(run),
        _tell_cost(run),
        _tell_worked(run),
    ]


def _judge_step(run: _Run, place: int) -> list[str]:
    """The sub-problem of the call: its result, its cost, and what is known of it."""
    step = run.steps[place]
    found = find_answer(step.solution)
    result = "no result that can be read" if found is None else f"the result {_clip(found)}"
    last = "; the final answer is read from it" if place == len(run.steps) - 1 else ""
    return [
        f"{_name_step(run, place)}: System {step.system} gave {result} after {step.tokens:,} "
        f"tokens{last}.",
        _tell_known(run.find_label(step.subproblem), found),
        _tell_notes(run.pick_notes(place, "solve")),
    ]


def _tell_known(label: Label | None, found: str | None) -> str:
    if label is None or label.result_1 is None or label.result_2 is None:
        return ""
    if label.alike:
        return f"In earlier runs System 1 and System 2 both found {_clip(label.result_2)} here."
    return (
        f"In earlier runs System 1 found {_clip(label.result_1)} here and System 2 "
        f"{_clip(label.result_2)}."
    )


def _tell_departure(run: _Run) -> str:
    """The first result that the worked solution does not name: where to look for the error."""
    if run.right or not run.worked:
        return ""
    for place, step in enumerate(run.steps):
        result = find_answer(step.solution)
        if result is not None and not _names(run.worked, result):
            return (
                f"The first result that the worked solution does not name is that of sub-problem "
                f"{run.numbers[place]}, {_clip(result)}: look for the error there first."
            )
    return ""


# ---- texts


def _clip(text: Any) -> str:
    """A text in one line and no longer than QUOTE."""
    flat = _flatten(str(text))
    return flat if len(flat) <= QUOTE else f"{flat[: QUOTE - 4]} ..."


def _quote(text: Any) -> str:
    return f'"{_clip(text)}"'


def _flatten(text: str) -> str:
    return " ".join(text.split())


_SPACING = re.compile(r"\s+|\\[,;:! ]|\\(?:left|right)(?![A-Za-z])|[${}]")


def _names(text: str, result: str) -> bool:
    """Whether a text contains a result, in its own or in its canonical spelling."""
    spellings = {result, normalise(result)} - {""}
    if any(re.search(rf"(?<![\w.]){re.escape(each)}(?!\w)", text) for each in spellings):
        return True
    return not result.isalnum() and _squeeze(result) in _squeeze(text)


def _squeeze(text: str) -> str:
    return re.sub(r"\\[dtc]frac", r"\\frac", _SPACING.sub("", text))
