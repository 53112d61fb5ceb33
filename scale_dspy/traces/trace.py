"""Trace: the record of a training file, a problem and its solution as a chat."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Message:
    """One message of a chat."""

    role: str
    content: str


@dataclass(frozen=True)
class Part:
    """A solved sub-problem of a trace, as `Step` has it."""

    subproblem: str
    difficulty: float | None
    system: int
    tokens: int


@dataclass(frozen=True)
class Trace:
    """A record of the file: a problem, and its solution as one reply.

    Attributes:
        source: the set the problem is of.
        answer: the gold answer.
        tokens: response tokens of the whole rollout.
        threshold: tau of the program; None for a method that has none.
    """

    messages: tuple[Message, ...]
    id: str
    source: str
    sample: int
    answer: str
    tokens: int
    threshold: float | None
    steps: tuple[Part, ...]
