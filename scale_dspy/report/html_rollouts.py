"""Write the part of a report's page in which single rollouts are read, folded until opened.

A long run would make a page that no browser opens, so rollouts, texts and reasoning have limits;
the page says what was left out. Reasoning, the longest of the texts, is shown as it was written.
"""

from __future__ import annotations

import html
import itertools
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from scale_dspy.evaluation.rollout import Rollout
from scale_dspy.lm.tally import Tally
from scale_dspy.report.mathml import render_answer, render_text
from scale_dspy.report.run_reader import Run, read_texts
from scale_dspy.step import Step

RUN_LIMIT = 200
"""Rollouts of a run that can be read on the page; wrong ones are taken first."""

PAGE_LIMIT = 800
"""Rollouts of all runs together, shared out equally."""

LONGEST_TEXT = 8000
LONGEST_REASONING = 6000  # characters; two thirds from its beginning, one from its end


def write_reader(run: Run, number: int, runs: int) -> Iterator[str]:
    """Write one run's rollouts by problem, holding one of them at a time.

    Args:
        run: whose rollouts to show.
        number: its place on the page, from 1.
        runs: how many runs share the page.
    """
    limit = min(RUN_LIMIT, max(1, PAGE_LIMIT // runs))
    shown = _choose(run.rollouts, limit)
    right = Counter(rollout.id for rollout in run.rollouts if rollout.right)
    samples = Counter(rollout.id for rollout in run.rollouts)
    yield f'<section id="run-{number}"><h3>{html.escape(run.name)}</h3>{_tell_choice(run, shown)}'
    by_problem = itertools.groupby(read_texts(run, shown), key=lambda rollout: rollout.id)
    for name, rollouts in by_problem:
        score = f"{right[name]} of {samples[name]} right"
        for place, rollout in enumerate(rollouts):
            if place == 0:
                yield _open_problem(rollout, score)
            yield from _write_rollout(rollout)
        yield "</details>"
    yield "</section>"


def _choose(rollouts: Sequence[Rollout], limit: int) -> list[Rollout]:
    """Wrong ones first, spread over the problems; then in the order of problems and samples."""
    by_worth = sorted(rollouts, key=lambda rollout: (rollout.right, rollout.sample))
    return sorted(by_worth[:limit], key=lambda rollout: (_order(rollout.id), rollout.sample))


def _order(name: str) -> list[str | tuple[int, str]]:
    """Sort p-9 before p-10."""
    parts = re.split("([0-9]+)", name)
    numbers = [(len(digits.lstrip("0")), digits.lstrip("0")) for digits in parts[1::2]]
    return [part for pair in zip(parts[::2], [*numbers, (0, "")], strict=True) for part in pair]


def _tell_choice(run: Run, shown: Sequence[Rollout]) -> str:
    if len(shown) == len(run.rollouts):
        return f'<p class="soft">All {len(shown):,} rollouts.</p>'
    wrong = sum(not rollout.right for rollout in run.rollouts)
    whole = "all" if wrong <= len(shown) else f"{len(shown):,} of"
    return (
        f'<p class="soft">{len(shown):,} of {len(run.rollouts):,} rollouts, wrong ones first '
        f"({whole} {wrong:,}); the others are in rollouts.jsonl.</p>"
    )


def _open_problem(rollout: Rollout, score: str) -> str:
    gold = render_answer(_cut(rollout.gold, 200))
    return (
        f'<details class="problem"><summary><strong>{html.escape(rollout.id)}</strong>'
        f'<span class="dim">{score}</span></summary>'
        f'<div class="text">{render_text(_cut(rollout.problem, LONGEST_TEXT))}</div>'
        f"<p>Gold answer: {gold}</p>"
    )


def _write_rollout(rollout: Rollout) -> Iterator[str]:
    answer = "no answer"
    if rollout.answer is not None:
        answer = f"answer {render_answer(_cut(rollout.answer, 200))}"
    yield (
        f'<details class="rollout"><summary>Sample {rollout.sample}: {_judge(rollout)}, {answer}'
        f'<span class="dim">{_tell_size(rollout)}</span></summary>'
    )
    if rollout.error is not None:
        yield f'<p class="note">Error: {html.escape(_cut(rollout.error, 2000))}</p>'
    for replaced in rollout.replaced:
        yield f'<p class="note">Replaced: {html.escape(_cut(replaced, 2000))}</p>'
    for place, step in enumerate(rollout.steps, 1):
        yield _write_step(place, step, rollout.problem)
    yield f"{_tell_usage(rollout.usage)}</details>"


def _judge(rollout: Rollout) -> str:
    if rollout.error is not None:
        return '<span class="bad">! error</span>'
    if rollout.right:
        return '<span class="good">✓ right</span>'
    return '<span class="bad">✗ wrong</span>'


def _tell_size(rollout: Rollout) -> str:
    steps = len(rollout.steps)
    plural = "" if steps == 1 else "s"
    return (
        f"{rollout.tokens or 0:,} tokens, {steps} sub-problem{plural}, {rollout.hard} by System 2"
    )


def _write_step(place: int, step: Step, problem: str) -> str:
    rated = "" if step.difficulty is None else f"difficulty {step.difficulty:.2f}, "
    asked = step.subproblem
    told = "The question itself." if asked == problem else render_text(_cut(asked, LONGEST_TEXT))
    hard = " hard" if step.system == 2 else ""
    return (
        f'<div class="step{hard}"><h4>{place}. {rated}System {step.system}'
        f", {step.tokens:,} tokens</h4>"
        f'<div class="text asked">{told}</div>{_fold_reasoning(step.reasoning)}'
        f'<div class="text">{render_text(_cut(step.solution, LONGEST_TEXT))}</div></div>'
    )


def _fold_reasoning(reasoning: str) -> str:
    if not reasoning.strip():
        return ""
    shown = html.escape(_cut(reasoning, LONGEST_REASONING))
    return (
        f"<details><summary>Reasoning, {len(reasoning):,} characters</summary>"
        f'<div class="text raw">{shown}</div></details>'
    )


def _tell_usage(usage: Mapping[str, Tally]) -> str:
    told = [
        f"{html.escape(stage)} {tally.completion_tokens:,} ({tally.calls:,})"
        for stage, tally in usage.items()
        if tally.calls
    ]
    return (
        f'<p class="soft">Response tokens (and calls) by stage: {", ".join(told)}.</p>'
        if told
        else ""
    )


def _cut(text: str, longest: int) -> str:
    """A text of bounded length, which says how much of its middle was left out."""
    if len(text) <= longest:
        return text
    start, end = longest * 2 // 3, longest // 3
    return f"{text[:start]}\n\n[… {len(text) - longest:,} characters …]\n\n{text[-end:]}"
