"""The card of a file of traces: how the file was made, in numbers and as Markdown."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import dspy

from scale_dspy.data.decontamination import RUN
from scale_dspy.data.load import drop_folder
from scale_dspy.evaluation.rollout import Rollout
from scale_dspy.traces.trace import Trace
from scale_dspy.utils.statistics import bound_accuracy


@dataclass(frozen=True)
class Card:
    """How a file of traces was made, in numbers.

    Attributes:
        problems: of the set, those that overlap included.
        overlapping: problems that were dropped before they were solved, by test set.
        solved: problems that were solved, or tried.
        kept: records in the file.
        kept_share: kept / solved, and `kept_interval` its 95 % interval.
        dropped: rollouts that became no record, by reason: wrong, no answer, error, unfinished,
            longer (than another right one of the problem).
        tokens: response tokens of all rollouts; `tokens_kept` of those in the file.
        steps: sub-problems of the records by the system that solved them.
        against: names of the test sets, each with its digest.
        unchecked: test sets that could not be loaded.
        settings: what run.json says of the rollouts.
        cost: tokens, seconds and dollars of all rollouts, as summary.json names them.
    """

    problems: int
    overlapping: dict[str, int]
    solved: int
    kept: int
    kept_share: float
    kept_interval: list[float]
    rollouts: int
    dropped: dict[str, int]
    tokens: int
    tokens_kept: int
    steps: dict[str, int]
    against: dict[str, str]
    unchecked: list[str]
    settings: dict[str, Any]
    cost: dict[str, float] = field(default_factory=dict)


def count_traces(
    examples: Sequence[dspy.Example],
    clean: Sequence[dspy.Example],
    rollouts: Sequence[Rollout],
    traces: Sequence[Trace],
    dropped: Counter[str],
) -> dict[str, Any]:
    """The numbers of a card."""
    ids = {trace.id for trace in traces}
    share = bound_accuracy({str(example.id): [int(str(example.id) in ids)] for example in clean})
    systems = Counter(f"system_{step.system}" for trace in traces for step in trace.steps)
    return {
        "problems": len(examples),
        "solved": len(clean),
        "kept": len(traces),
        "kept_share": share.estimate,
        "kept_interval": [share.low, share.high],
        "rollouts": len(rollouts),
        "dropped": dict(sorted(dropped.items())),
        "tokens": sum(rollout.tokens or 0 for rollout in rollouts),
        "tokens_kept": sum(trace.tokens for trace in traces),
        "steps": dict(sorted(systems.items())),
    }


def render_card(card: Card, name: str) -> str:
    """The card as Markdown."""
    low, high = card.kept_interval
    settings = {key: value for key, value in card.settings.items() if key != "requests"}
    settings["data"] = drop_folder(settings["data"])
    rows = [
        ("problems in the set", f"{card.problems:,}"),
        ("dropped before solving, overlap", _list_counts(card.overlapping)),
        ("problems solved or tried", f"{card.solved:,}"),
        ("rollouts", f"{card.rollouts:,}"),
        ("rollouts that became no record", _list_counts(card.dropped)),
        ("records kept", f"{card.kept:,}"),
        ("kept share", f"{card.kept_share:.1%} (95 % interval {low:.1%} to {high:.1%})"),
        ("response tokens, all rollouts", f"{card.tokens:,}"),
        ("response tokens, kept rollouts", f"{card.tokens_kept:,}"),
        ("steps in the records", _list_counts(card.steps)),
        *_list_cost(card.cost),
        *((key, _plain(value)) for key, value in settings.items()),
    ]
    table = "\n".join(f"| {key} | {value} |" for key, value in rows)
    sets = [f"- {name}, digest {mark}" for name, mark in card.against.items()]
    sets += [f"- {name}: **not checked**, it could not be loaded" for name in card.unchecked]
    return f"""# Traces: {name}

Chat records for supervised fine-tuning: a problem, and its solution by parts as one response. Only
solutions whose answer equals the gold answer are kept, of each problem the shortest.

| | |
|---|---|
{table}

## Kept apart from

A problem was dropped that shares {RUN} words in a row with a problem of these sets, or all words.

{chr(10).join(sets) or "- nothing"}
"""


def _list_cost(cost: Mapping[str, float]) -> Iterator[tuple[str, str]]:
    """The rows of the card on what the rollouts cost besides their response tokens."""
    for name in ("prompt_tokens", "cached_tokens", "reasoning_tokens"):
        if name in cost:
            yield f"{name.replace('_', ' ')}, all rollouts", f"{cost[name]:,}"
    for name in ("wall_seconds", "gpu_seconds"):
        if name in cost:
            yield name.replace("_", " "), f"{cost[name]:,.0f}"
    if "dollars" in cost:
        yield "dollars", f"{cost['dollars']:,.4f}"


def _list_counts(counts: Mapping[str, int]) -> str:
    listed = ", ".join(f"{name.replace('_', ' ')} {count:,}" for name, count in counts.items())
    return listed or "none"


def _plain(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text.replace("|", "\\|").replace("\n", " ")
