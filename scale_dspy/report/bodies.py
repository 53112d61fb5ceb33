"""Pack rollouts for the page: numbers in an index, texts in compressed blocks read on demand.

One file is kept, not a folder beside it: a page that is sent or moved stays whole, and a browser
does not let a page opened from disk read other files. A block is gzip in base64, which a browser's
DecompressionStream opens; 100,000 rollouts are then a few thousand blocks that nobody unpacks
until a problem is opened.
"""

from __future__ import annotations

import base64
import gzip
import html
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, BinaryIO

from scale_dspy.data.registry import GROUPS
from scale_dspy.evaluation.rollout import ROLLOUTS, Rollout
from scale_dspy.lm.tally import Tally
from scale_dspy.report.mathml import render_answer
from scale_dspy.report.names import order_name
from scale_dspy.report.prose import render_text
from scale_dspy.report.run_reader import Run, read_text
from scale_dspy.step import Step

BLOCK = 48
"""Rollouts of one block, more only where one problem has more."""

RENDERED = 3000
"""Rollouts whose formulas are converted, those of problems on which runs differ first: it takes
milliseconds each. Those after them are shown as they were written."""

LONGEST_TEXT = 8000
LONGEST_REASONING = 6000  # characters; two thirds from its beginning, one from its end
MOST_STEPS = 60  # of a rollout that are shown; a damaged file may hold any number
SNIPPET = 160  # characters of a problem that its row shows and the search looks through

RIGHT, CUT_OFF, UNREAD, FAILED = 1, 2, 4, 8  # a rollout's state is the sum of those that hold


@dataclass(frozen=True)
class Problem:
    """A problem and what each run made of it.

    Attributes:
        id: of the problem; problems of different data are different, even with the same id.
        digest: what identifies its data.
        rollouts: of each run, in the order of the report and of the samples; numbers only.
    """

    id: str
    digest: str | None
    rollouts: tuple[tuple[Rollout, ...], ...]

    @property
    def spread(self) -> float:
        """How far the runs' shares of right rollouts lie apart, in [0, 1]."""
        shares = [sum(one.right for one in each) / len(each) for each in self.rollouts if each]
        return max(shares) - min(shares)

    @property
    def share(self) -> float:
        """The share of right ones among all its rollouts."""
        graded = [one.right for each in self.rollouts for one in each]
        return sum(graded) / len(graded)


def collect_problems(runs: Sequence[Run]) -> list[Problem]:
    """The problems of all runs, those on which they differ most first, then the hardest."""
    found: dict[tuple[str | None, str], list[list[Rollout]]] = {}
    for place, run in enumerate(runs):
        for rollout in run.rollouts:
            empty: list[list[Rollout]] = [[] for _ in runs]
            found.setdefault((run.digest, rollout.id), empty)[place].append(rollout)
    problems = [
        Problem(
            name,
            digest,
            tuple(tuple(sorted(each, key=lambda one: one.sample)) for each in rollouts),
        )
        for (digest, name), rollouts in found.items()
    ]
    return sorted(problems, key=lambda each: (-each.spread, each.share, order_name(each.id)))


def pack(runs: Sequence[Run], problems: Sequence[Problem]) -> Iterator[tuple[str, list[list[Any]]]]:
    """Pack the problems in order, holding the texts of one block at a time.

    Yields:
        A block's text, and the index rows of its problems: id, gold as HTML, the values of
        `GROUPS`, the problem's beginning, its distinct answers, and of each run a letter a sample.
    """
    rendered = itertools.count()
    with ExitStack() as stack:
        texts = [stack.enter_context((run.folder / ROLLOUTS).open("rb")) for run in runs]
        for block in _split(problems):
            bodies, rows = [], []
            for problem in block:
                whole = _read_whole(runs, texts, problem)
                bodies.append(_write_problem(whole, rendered))
                rows.append(_index(problem, whole))
            yield _compress(bodies), rows


def _split(problems: Sequence[Problem]) -> Iterator[list[Problem]]:
    block: list[Problem] = []
    size = 0
    for problem in problems:
        count = sum(map(len, problem.rollouts))
        if block and size + count > BLOCK:
            yield block
            block, size = [], 0
        block.append(problem)
        size += count
    if block:
        yield block


def _read_whole(
    runs: Sequence[Run], texts: Sequence[BinaryIO], problem: Problem
) -> list[list[Rollout]]:
    return [
        [read_text(run, file, known) for known in rollouts]
        for run, file, rollouts in zip(runs, texts, problem.rollouts, strict=True)
    ]


def _compress(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    packed = gzip.compress(text.encode("utf-8", errors="replace"), compresslevel=6, mtime=0)
    return base64.b64encode(packed).decode()


def _index(problem: Problem, whole: list[list[Rollout]]) -> list[Any]:
    first = next(one for each in whole for one in each)
    answers = {one.answer[:40] for each in whole for one in each if one.answer is not None}
    return [
        problem.id[:120],
        render_answer(_cut(first.gold, 200)),
        [first.groups.get(name, "") for name in GROUPS],
        " ".join(first.problem[: 2 * SNIPPET].split())[:SNIPPET],
        sorted(answers)[:8],
        ["".join(map(_write_state, rollouts)) for rollouts in problem.rollouts],
    ]


def _write_state(rollout: Rollout) -> str:
    """A letter from @ on, whose place in the alphabet is the rollout's state."""
    state = RIGHT * rollout.right + CUT_OFF * rollout.cut_off + UNREAD * rollout.unread
    return chr(ord("@") + state + FAILED * (rollout.error is not None))


def _write_problem(whole: list[list[Rollout]], rendered: Iterator[int]) -> dict[str, Any]:
    first = next(one for each in whole for one in each)
    return {
        "problem": _show(first.problem, True),
        "runs": [
            [_write_rollout(one, next(rendered) < RENDERED) for one in each] for each in whole
        ],
    }


def _write_rollout(rollout: Rollout, convert: bool) -> dict[str, Any]:
    notes = [f"Error: {_cut(rollout.error, 2000)}"] if rollout.error is not None else []
    notes += [f"Replaced: {_cut(each, 2000)}" for each in rollout.replaced[:MOST_STEPS]]
    if len(rollout.steps) > MOST_STEPS:
        notes.append(f"{len(rollout.steps) - MOST_STEPS:,} sub-problems more are not shown.")
    return {
        "sample": rollout.sample,
        "answer": None if rollout.answer is None else render_answer(_cut(rollout.answer, 200)),
        "tokens": rollout.tokens,
        "seconds": rollout.seconds,
        "notes": notes,
        "steps": [
            _write_step(each, rollout.problem, convert) for each in rollout.steps[:MOST_STEPS]
        ],
        "usage": _describe_usage(rollout.usage),
    }


def _write_step(step: Step, problem: str, convert: bool) -> dict[str, Any]:
    rated = "" if step.difficulty is None else f"difficulty {step.difficulty:.2f}"
    return {
        "system": step.system,
        "told": ", ".join(each for each in (rated, f"{step.tokens:,} tokens") if each),
        "asked": None if step.subproblem == problem else _show(step.subproblem, convert),
        "reasoning": _cut(step.reasoning, LONGEST_REASONING) if step.reasoning.strip() else "",
        "length": len(step.reasoning),
        "solution": _show(step.solution, convert),
    }


def _show(text: str, convert: bool) -> str:
    cut = _cut(text, LONGEST_TEXT)
    return render_text(cut) if convert else f"<pre>{html.escape(cut)}</pre>"


def _describe_usage(usage: Mapping[str, Tally]) -> str:
    told = [
        f"{stage[:60]} {tally.completion_tokens:,} ({tally.calls:,})"
        for stage, tally in usage.items()
        if tally.calls
    ]
    return f"Response tokens (and calls) by stage: {', '.join(told)}." if told else ""


def _cut(text: str, longest: int) -> str:
    """A text of bounded length, which says how much of its middle was left out."""
    if len(text) <= longest:
        return text
    start, end = longest * 2 // 3, longest // 3
    return f"{text[:start]}\n\n[… {len(text) - longest:,} characters …]\n\n{text[-end:]}"
