"""The cost limit of a run or a compile, over all its requests, in response tokens or US dollars.

Each attempt at a request reserves the most that it may cost. When it ends, the usage that the
server reports replaces the reservation; if the server reports none, the reservation counts as the
cost.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from scale_dspy.lm.price import Limit, Price
from scale_dspy.lm.tally import Tally
from scale_dspy.lm.usage import Ledger, change_scope, read_scope, track

POLL = 0.05  # seconds between checks of a limit that requests under way have used up


class CostLimitError(RuntimeError):
    """A request was not sent because it could cost more than `limit_cost` allows."""


@contextmanager
def limit_cost(
    tokens: int | None, dollars: float | None = None, price: Price | None = None
) -> Iterator[Ledger]:
    """Open a ledger for the calls inside, and refuse a request that could exceed the limit.

    Unlike a cap, the limit counts only what really reaches a server, so replies from the cache are
    free, and it never shortens a reply. A request that could exceed the limit waits for those under
    way, whose reservations may turn out too high; if that does not help, CostLimitError is raised.

    Args:
        tokens: response tokens; None for no limit.
        dollars: US dollars; None for no limit.
        price: of the tokens; needed where there is a limit in dollars.

    Raises:
        ValueError: there is a limit in dollars and no price.
    """
    if dollars is not None and price is None:
        raise ValueError("a limit in dollars needs a price")
    with track() as ledger:
        own = [Limit(tokens)] if tokens is not None else []
        own += [Limit(dollars, price)] if dollars is not None else []
        around = read_scope().limits
        with change_scope(limits=(*around, (ledger, tuple(own))) if own else around):
            yield ledger


async def reserve(wanted: Tally) -> None:
    """Wait until every open limit has room for one attempt at a request, and set that room aside.

    Args:
        wanted: the most prompt and response tokens that it may cost.

    Raises:
        CostLimitError: there will never be room.
    """
    while not _may_send(wanted):  # noqa: ASYNC110 - requests of other threads end the wait
        await asyncio.sleep(POLL)


def release(wanted: Tally) -> None:
    """Give back what `reserve` set aside."""
    for ledger, _ in read_scope().limits:
        _give_back(ledger, wanted)


def _give_back(ledger: Ledger, wanted: Tally) -> None:
    ledger.count(reserved=-wanted.completion_tokens, reserved_prompt=-wanted.prompt_tokens)


def _may_send(wanted: Tally) -> bool:
    taken: list[Ledger] = []
    for ledger, limits in read_scope().limits:
        broken = _take(ledger, wanted, limits)
        if broken is None:
            taken.append(ledger)
            continue
        for other in taken:
            _give_back(other, wanted)
        if ledger.reserved:
            return False
        ledger.count(refused=1)
        raise CostLimitError(broken.refuse(wanted))
    return True


def _take(ledger: Ledger, wanted: Tally, limits: tuple[Limit, ...]) -> Limit | None:
    """Set room aside in a ledger, unless that would break a limit, which is then returned."""
    with ledger.lock:
        pending = Tally(
            prompt_tokens=ledger.assumed_prompt + ledger.reserved_prompt,
            completion_tokens=ledger.assumed_sent + ledger.reserved,
        )
        sent = sum(ledger.sent.values(), Tally())
        for limit in limits:
            if limit.measure(sent + pending + wanted) > limit.most:
                return limit
        ledger.reserved += wanted.completion_tokens
        ledger.reserved_prompt += wanted.prompt_tokens
        return None
