"""What model calls cost, by stage: tokens, calls, seconds; and the hard cap on response tokens.

Ledgers nest: `with track() as ledger` opens one, and every reply inside it, on whatever thread or
task DSPy runs it, is entered there and in every ledger around it. Two accounts are kept apart.
`spent` is what the program used up, and is the same when every reply comes from the cache;
`sent` is what really reached a server.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import dspy

from scale_dspy.lm.tally import Tally

USUAL = ("decompose", "select", "assess", "solve_1", "solve_2")  # in `usage`, asked or not
OTHER = "other"  # calls made outside a stage, an optimizer's proposals for example

MIN_GRANT = 8  # response tokens; with less than this a request is not worth sending


class OutOfTokensError(Exception):
    """A request was not sent because the budget has no room for it."""


class CostLimitError(RuntimeError):
    """A request was not sent because it could cost more than `limit_cost` allows."""


class Ledger:
    """An account of model calls by stage, with an optional cap on response tokens.

    Args:
        cap: the most response tokens (all choices, reasoning included) that the calls inside
            may use; None for no cap.

    Attributes:
        refused: requests that were not sent because of a cost limit.
        failed: requests that were given up, also after being sent again.
    """

    def __init__(self, cap: int | None = None) -> None:
        self.cap = cap
        self.spent: dict[str, Tally] = {}
        self.sent: dict[str, Tally] = {}
        self._granted = 0
        self._reserved = 0
        self.refused = 0
        self.failed = 0
        self._lock = threading.Lock()

    def add(self, stage: str, tally: Tally, *, from_cache: bool = False) -> None:
        """Enter `tally` under `stage`."""
        with self._lock:
            self.spent[stage] = self.spent.get(stage, Tally()) + tally
            if not from_cache:
                self.sent[stage] = self.sent.get(stage, Tally()) + tally

    @property
    def tokens(self) -> int:
        """Response tokens spent so far, over all stages."""
        return self.total().completion_tokens

    @property
    def room(self) -> int | None:
        """Response tokens that may still be asked for; None without a cap."""
        if self.cap is None:
            return None
        return max(0, self.cap - self.tokens - self._granted)

    def total(self) -> Tally:
        """The sum of `spent` over all stages."""
        with self._lock:
            return sum(self.spent.values(), Tally())

    def usage(self) -> dict[str, dict[str, Any]]:
        """`spent` as plain data: every stage, also the unused ones, so that keys never miss."""
        with self._lock:
            names = [*USUAL, *(name for name in self.spent if name not in USUAL)]
            return {name: asdict(self.spent.get(name, Tally())) for name in names}

    @property
    def cost(self) -> Tally:
        """The sum of `sent` over all stages."""
        with self._lock:
            return sum(self.sent.values(), Tally())

    def reserve(self, tokens: int, limit: int) -> bool:
        """Set `tokens` aside for a request to be sent, if `limit` has room beside all that was
        sent and all that is set aside; a request that costs nothing always may."""
        with self._lock:
            sent = sum(tally.completion_tokens for tally in self.sent.values())
            if tokens and sent + self._reserved + tokens > limit:
                return False
            self._reserved += tokens
            return True

    def release(self, tokens: int) -> None:
        """Give back what `reserve` set aside."""
        with self._lock:
            self._reserved -= tokens

    def count_failure(self) -> None:
        """Enter a request that was given up."""
        with self._lock:
            self.failed += 1

    def count_refusal(self) -> None:
        """Enter a request that a cost limit did not let through."""
        with self._lock:
            self.refused += 1

    @property
    def reserved(self) -> int:
        """Response tokens set aside for requests that are on their way."""
        return self._reserved

    def hold(self, tokens: int) -> None:
        """Set `tokens` of the room aside (negative: give them back)."""
        with self._lock:
            self._granted += tokens


@contextmanager
def track(cap: int | None = None) -> Iterator[Ledger]:
    """Open a ledger for the calls made inside the block.

    Args:
        cap: the most response tokens the block may use; the caps of ledgers around it hold too.

    >>> with dspy.context(lm=lm), track() as ledger:
    ...     reply = lm("Hello")
    >>> ledger.total().calls, ledger.tokens > 0
    (1, True)
    """
    ledger = Ledger(cap)
    with dspy.context(scale_ledgers=(*open_ledgers(), ledger)):
        yield ledger


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
        limits = open_limits() if tokens is None else (*open_limits(), (ledger, tokens))
        with dspy.context(scale_limits=limits):
            yield ledger


def open_limits() -> tuple[tuple[Ledger, int], ...]:
    """The cost limits that a request made here must keep, each with its ledger."""
    return dspy.settings.get("scale_limits", ()) or ()


def reserve_cost(tokens: int) -> bool | None:
    """Set room for one request aside under every open limit.

    Returns:
        True if it is set aside; False if it may be later, when requests on their way have ended;
        None if it never can be.
    """
    taken: list[Ledger] = []
    for ledger, limit in open_limits():
        if ledger.reserve(tokens, limit):
            taken.append(ledger)
            continue
        for other in taken:
            other.release(tokens)
        if ledger.reserved:
            return False
        ledger.count_refusal()
        return None
    return True


def release_cost(tokens: int) -> None:
    """Give back what `reserve_cost` set aside."""
    for ledger, _ in open_limits():
        ledger.release(tokens)


@contextmanager
def stage(name: str) -> Iterator[None]:
    """Enter the calls made inside the block under `name`."""
    with dspy.context(scale_stage=name):
        yield


def open_ledgers() -> tuple[Ledger, ...]:
    """The ledgers that a call made here is entered in, outermost first."""
    return dspy.settings.get("scale_ledgers", ()) or ()


def record(tally: Tally, *, from_cache: bool = False) -> None:
    """Enter `tally` in every open ledger, under the current stage."""
    name = dspy.settings.get("scale_stage", OTHER) or OTHER
    for ledger in open_ledgers():
        ledger.add(name, tally, from_cache=from_cache)


def record_failure() -> None:
    """Enter a request that was given up in every open ledger."""
    for ledger in open_ledgers():
        ledger.count_failure()


def room() -> int | None:
    """Response tokens left under every open cap; None where nothing is capped."""
    rooms = [ledger.room for ledger in open_ledgers() if ledger.cap is not None]
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
        OutOfTokensError: when fewer than MIN_GRANT tokens a choice are left.
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
    ledgers = open_ledgers()
    for ledger in ledgers:
        ledger.hold(held)
    try:
        yield allowed
    finally:
        for ledger in ledgers:
            ledger.hold(-held)
