"""Keep a problem within its budget: no request asks for more response tokens than are left."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from scale_dspy.lm.usage import read_scope

MIN_GRANT = 8  # response tokens; with less than this a request is not worth sending


class OutOfTokensError(Exception):
    """A request was not sent because the budget has no room for it."""


def room() -> int | None:
    """Response tokens left under every open cap; None where nothing is capped."""
    rooms = (ledger.room for ledger in read_scope().ledgers)
    return min((left for left in rooms if left is not None), default=None)


def has_room(tokens: int) -> bool:
    """Whether `tokens` response tokens are left under every open cap."""
    left = room()
    return left is None or left >= tokens


@contextmanager
def grant(wanted: int | None, choices: int = 1) -> Iterator[int | None]:
    """Set room aside for one request, so that concurrent requests cannot overrun the cap together.

    Args:
        wanted: the request's max_tokens, or None for as much as the server allows.
        choices: how many choices the request asks for; each may use max_tokens.

    Yields:
        The max_tokens to send, at most `wanted`; None only if `wanted` is None and nothing is
        capped.

    Raises:
        OutOfTokensError: fewer than MIN_GRANT tokens for each choice are left.
    """
    left = room()
    if left is None:
        yield wanted
        return
    share = left // choices
    allowed = share if wanted is None else min(wanted, share)
    if allowed < min(MIN_GRANT, wanted or MIN_GRANT):
        raise OutOfTokensError(f"{left} response tokens are left for {choices} choices")
    held = allowed * choices
    ledgers = read_scope().ledgers
    for ledger in ledgers:
        ledger.count(granted=held)
    try:
        yield allowed
    finally:
        for ledger in ledgers:
            ledger.count(granted=-held)
