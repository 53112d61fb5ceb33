"""What model calls used, by stage: requests, tokens, seconds.

Ledgers nest: `with track() as ledger` opens one, and every reply inside it, on whatever thread or
task DSPy runs it, is entered there and in every ledger around it. Two accounts are kept apart.
`spent` is what the program used up, and is the same when every reply comes from the cache;
`sent` is what really reached a server.

How they keep a problem's budget stands in cap.py, how they keep a limit of a whole run in
cost_limit.py.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

import dspy

from scale_dspy.lm.price import Limit
from scale_dspy.lm.tally import Tally

USUAL = ("decompose", "select", "assess", "solve_1", "solve_2")  # in `usage`, asked or not
OTHER = "other"  # calls made outside a stage, an optimizer's proposals for example


class Ledger:
    """An account of model calls by stage.

    Args:
        cap: the most response tokens (all choices, reasoning included) that the calls inside
            may use; None for no cap.

    Attributes:
        spent: by stage, what the program used up.
        sent: by stage, what reached a server.
        unknown: replies whose tokens the server did not tell, or not believably.
        assumed: response tokens that those replies, and tries that failed on their way, may have
            cost at most; caps count them as used.
        assumed_sent: the same without what came from the cache; cost limits count them as sent.
        assumed_prompt: prompt tokens that those tries and replies may have had at most.
        replayed: replies from the cache.
        refused: requests that were not sent because of a cost limit.
        failed: requests that were given up, also after being sent again.
        reserved: response tokens set aside for requests on their way, under a cost limit.
        reserved_prompt: prompt tokens set aside for them.
        granted: the same under a cap.
    """

    def __init__(self, cap: int | None = None) -> None:
        self.cap = cap
        self.spent: dict[str, Tally] = {}
        self.sent: dict[str, Tally] = {}
        self.unknown = self.assumed = self.assumed_sent = self.assumed_prompt = self.replayed = 0
        self.refused = self.failed = self.reserved = self.reserved_prompt = self.granted = 0
        self.lock = threading.Lock()

    def add(self, stage: str, usage: Tally, *, from_cache: bool = False) -> None:
        """Enter `usage` under `stage`."""
        with self.lock:
            self.spent[stage] = self.spent.get(stage, Tally()) + usage
            if from_cache:
                self.replayed += usage.calls
            else:
                self.sent[stage] = self.sent.get(stage, Tally()) + usage

    def count(self, **changes: int) -> None:
        """Add to the counts that are named, for example count(failed=1)."""
        with self.lock:
            for name, change in changes.items():
                setattr(self, name, getattr(self, name) + change)

    @property
    def tokens(self) -> int:
        """Response tokens spent so far, over all stages, as far as servers told."""
        return self.total().completion_tokens

    @property
    def room(self) -> int | None:
        """Response tokens that may still be asked for; None without a cap."""
        if self.cap is None:
            return None
        return max(0, self.cap - self.tokens - self.assumed - self.granted)

    def total(self) -> Tally:
        """The sum of `spent` over all stages."""
        with self.lock:
            return sum(self.spent.values(), Tally())

    @property
    def cost(self) -> Tally:
        """The sum of `sent` over all stages."""
        with self.lock:
            return sum(self.sent.values(), Tally())

    def usage(self) -> dict[str, dict[str, Any]]:
        """`spent` as plain data: every stage, also the unused ones, so that keys never miss."""
        with self.lock:
            names = [*USUAL, *(name for name in self.spent if name not in USUAL)]
            return {name: asdict(self.spent.get(name, Tally())) for name in names}


@dataclass(frozen=True)
class CallScope:
    """What the code around a call has settled for it.

    Attributes:
        ledgers: where the call is entered, outermost first.
        limits: the ledgers among them that a cost limit holds for.
        stage: the name it is entered under.
        problem: the text by which its calls find the replica that has its beginning in the cache.
    """

    ledgers: tuple[Ledger, ...] = ()
    limits: tuple[tuple[Ledger, tuple[Limit, ...]], ...] = ()
    stage: str = OTHER
    problem: str | None = None


def read_scope() -> CallScope:
    """The scope of a call made here. It lives in DSPy's settings, which alone reach every thread
    that DSPy starts."""
    scope: CallScope = dspy.settings.get("scale_scope", None) or CallScope()
    return scope


@contextmanager
def change_scope(**changes: Any) -> Iterator[CallScope]:
    """Make calls inside the block in this scope with some attributes changed."""
    scope = replace(read_scope(), **changes)
    with dspy.context(scale_scope=scope):
        yield scope


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
    with change_scope(ledgers=(*read_scope().ledgers, ledger)):
        yield ledger


@contextmanager
def stage(name: str) -> Iterator[None]:
    """Enter the calls made inside the block under `name`."""
    with change_scope(stage=name):
        yield


def record(usage: Tally, *, from_cache: bool = False) -> None:
    """Enter `usage` in every open ledger, under the current stage."""
    scope = read_scope()
    for ledger in scope.ledgers:
        ledger.add(scope.stage, usage, from_cache=from_cache)


def count(**changes: int) -> None:
    """Add to counts of every open ledger; see Ledger.count."""
    for ledger in read_scope().ledgers:
        ledger.count(**changes)
