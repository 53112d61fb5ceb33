"""What model calls used, by stage: requests, tokens, seconds.

Ledgers nest: `with track() as ledger` opens one, and every reply inside it, on whatever thread or
task DSPy runs it, is entered there and in every ledger around it. A ledger keeps two accounts:
`spent` is what the program used, and is the same if every reply comes from the cache; `sent` is
what really reached a server.

cap.py uses ledgers to keep a problem within its budget, cost_limit.py to limit a whole run.
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

USUAL = ("decompose", "select", "assess", "solve_1", "solve_2")  # always listed in `usage`
OTHER = "other"  # calls made outside a stage, an optimizer's proposals for example


class Ledger:
    """An account of model calls by stage.

    Args:
        cap: the most response tokens (all choices, reasoning included) that the calls inside
            may use; None for no cap.

    Attributes:
        spent: by stage, what the program used.
        sent: by stage, what reached a server.
        unknown: replies for which the server reported no usage, or none that can be believed.
        assumed: the most response tokens that those replies, and attempts that failed after they
            were sent, may have cost; caps count them as used.
        assumed_sent: the same without replies from the cache; cost limits count them as sent.
        assumed_prompt: the most prompt tokens that those attempts and replies may have had.
        replayed: replies from the cache.
        refused: requests that were not sent because of a cost limit.
        failed: requests that were given up, after all retries.
        reserved: response tokens set aside for requests under way, because of a cost limit.
        reserved_prompt: prompt tokens set aside for them.
        granted: response tokens set aside for requests under way, because of a cap.
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
        """Response tokens spent so far, over all stages, as far as servers reported them."""
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
        """`spent` as plain data: every stage, also unused ones, so that no key is missing."""
        with self.lock:
            names = [*USUAL, *(name for name in self.spent if name not in USUAL)]
            return {name: asdict(self.spent.get(name, Tally())) for name in names}


@dataclass(frozen=True)
class CallScope:
    """What the code around a call has set for it.

    Attributes:
        ledgers: those in which the call is entered, outermost first.
        limits: the ledgers among them that have a cost limit.
        stage: the name under which it is entered.
        problem: a text that identifies the problem, so that its calls go to the replica whose
            prefix cache holds their beginning.
    """

    ledgers: tuple[Ledger, ...] = ()
    limits: tuple[tuple[Ledger, tuple[Limit, ...]], ...] = ()
    stage: str = OTHER
    problem: str | None = None


def read_scope() -> CallScope:
    """The scope of a call made here. It is kept in DSPy's settings, since only these reach every
    thread that DSPy starts."""
    scope: CallScope = dspy.settings.get("scale_scope", None) or CallScope()
    return scope


@contextmanager
def change_scope(**changes: Any) -> Iterator[CallScope]:
    """Change some attributes of the scope for calls inside the block."""
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
