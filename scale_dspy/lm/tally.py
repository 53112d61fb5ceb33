"""Tally: what model calls cost, in numbers that add up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Tally:
    """Calls (requests answered), tokens as the server counts them, seconds of waiting.

    Attributes:
        reasoning_tokens: those of `completion_tokens` that are reasoning.
        cached_tokens: those of `prompt_tokens` that the server's prefix cache held; 0 where the
            server does not tell.
    """

    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    reasoning_tokens: int = 0
    seconds: float = 0.0
    cached_tokens: int = 0

    def __add__(self, other: Tally) -> Tally:
        return Tally(*(a + b for a, b in zip(_values(self), _values(other), strict=True)))


def _values(tally: Tally) -> tuple[Any, ...]:
    return (
        tally.calls,
        tally.prompt_tokens,
        tally.completion_tokens,
        tally.reasoning_tokens,
        tally.seconds,
        tally.cached_tokens,
    )
