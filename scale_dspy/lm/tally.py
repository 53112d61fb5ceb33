"""Tally: what model calls cost, in numbers that add up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Tally:
    """Calls (requests answered), tokens as the server counts them, seconds of waiting."""

    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    reasoning_tokens: int = 0
    seconds: float = 0.0

    def __add__(self, other: Tally) -> Tally:
        return Tally(*(a + b for a, b in zip(_values(self), _values(other), strict=True)))


def _values(tally: Tally) -> tuple[Any, ...]:
    return (
        tally.calls,
        tally.prompt_tokens,
        tally.completion_tokens,
        tally.reasoning_tokens,
        tally.seconds,
    )
