"""The cost limit of a run or a compile: response tokens that may reach a server in all.

Each try of a request reserves the most that it may cost. When it ends, the usage that the server
tells replaces the reservation; where the server tells none, the reservation counts as the cost.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from scale_dspy.lm.usage import Ledger, change_scope, read_scope, track

POLL = 0.05  # seconds between two looks at a limit that requests on their way have used up


class CostLimitError(RuntimeError):
    """A request was not sent because it could cost more than `limit_cost` allows."""


@contextmanager
def limit_cost(tokens: int | None) -> Iterator[Ledger]:
    """Open a ledger for the calls inside; refuse what could cost more than `tokens` in all.

    Unlike a cap it counts what really reaches a server, whatever comes from the cache is free, and
    it never shortens a reply: a request that could overrun the limit waits for those on their way,
    and where that does not help it raises CostLimitError.

    Args:
        tokens: response tokens; None for no limit.
    """
    with track() as ledger:
        limits = read_scope().limits
        with change_scope(limits=limits if tokens is None else (*limits, (ledger, tokens))):
            yield ledger


async def reserve(tokens: int) -> None:
    """Set room for one try of a request aside under every open limit, once there is some.

    Raises:
        CostLimitError: there never will be.
    """
    while not _may_send(tokens):  # noqa: ASYNC110 - requests of other threads end the wait
        await asyncio.sleep(POLL)


def release(tokens: int) -> None:
    """Give back what `reserve` set aside."""
    for ledger, _ in read_scope().limits:
        ledger.count(reserved=-tokens)


def _may_send(tokens: int) -> bool:
    taken: list[Ledger] = []
    for ledger, limit in read_scope().limits:
        if _take(ledger, tokens, limit):
            taken.append(ledger)
            continue
        for other in taken:
            other.count(reserved=-tokens)
        if ledger.reserved:
            return False
        ledger.count(refused=1)
        raise CostLimitError(f"the cost limit has no room for {tokens:,} response tokens more")
    return True


def _take(ledger: Ledger, tokens: int, limit: int) -> bool:
    with ledger.lock:
        sent = sum(usage.completion_tokens for usage in ledger.sent.values())
        if sent + ledger.assumed_sent + ledger.reserved + tokens > limit:
            return False
        ledger.reserved += tokens
        return True
