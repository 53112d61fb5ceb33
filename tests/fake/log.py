"""A request on its way through the server, its record, and what records tell of time."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.fake.model import Choice
from tests.fake.orders import Fault, Request
from tests.fake.prompts import Prompt


@dataclass
class Entry:
    """A request on its way to become a record of the log."""

    number: int
    path: str
    start: float
    body: dict[str, Any] = field(default_factory=dict)
    prompt: Prompt | None = None
    stage: str = ""
    system: int = 0
    fault: Fault | None = None
    choices: list[Choice] = field(default_factory=list)
    usage: dict[str, Any] = field(default_factory=dict)
    logged: bool = False


def make_record(entry: Entry, status: int, keep_bodies: bool) -> Request:
    """What the log keeps of a request that ends now."""
    problem = entry.prompt.problem if entry.prompt else None
    return Request(
        number=entry.number,
        path=entry.path,
        stage=entry.stage,
        system=entry.system,
        problem=problem.id if problem else "",
        body=entry.body if keep_bodies else {},
        replies=tuple(choice.content for choice in entry.choices) if keep_bodies else (),
        start=entry.start,
        end=time.monotonic(),
        status=status,
        usage=entry.usage,
        cancelled=status == 499,
        fault=entry.fault.describe() if entry.fault else "",
    )


def count_rounds(requests: Sequence[Request]) -> int:
    """The longest row of requests of which each began when the one before had ended."""
    rounds, ended = 0, float("-inf")
    for request in sorted(requests, key=lambda request: request.end):
        if request.start >= ended:
            rounds, ended = rounds + 1, request.end
    return rounds


def measure_utilisation(changes: Sequence[tuple[float, int]], slots: int | None) -> float:
    """Mean share of the slots at work, from the first choice to the last.

    Args:
        changes: (seconds, choices being worked on) at every change.
    """
    if len(changes) < 2 or not slots:
        return 0.0
    work = sum(busy * (later - at) for (at, busy), (later, _) in itertools.pairwise(changes))
    return work / (changes[-1][0] - changes[0][0]) / slots
