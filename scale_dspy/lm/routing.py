"""Several servers of one model: which of them a call goes to, and how a dead one is avoided.

An `api_base` may name several replicas. Their state (calls at work, failures) is kept once for the
process, so that all copies of an LM share it. LiteLLM's Router can keep a session on one replica,
but does not take load into account then, and it sends its calls through LiteLLM's client.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

from dspy.utils.exceptions import (
    LMError,
    LMProviderError,
    LMRateLimitError,
    is_retryable_lm_error,
)

SLACK = 8  # how many more choices than the least busy replica a problem's own one may have at work
FIRST_WAIT = 1.0  # seconds without calls after a failure, doubled by each further failure
# Statuses that count as transient besides those that DSPy knows: success with an unreadable body,
# request time-out, conflict, locked, too early.
MAY_PASS = frozenset({200, 408, 409, 423, 425})
LONGEST_WAIT = 60.0  # seconds, however long a server asks to wait

_lock = threading.Lock()


@dataclass
class Replica:
    """One server.

    Attributes:
        busy: choices that it is generating for this process.
        failures: how many in a row; a success resets it to 0.
        until: a time of time.monotonic(); after a failure it gets no calls before then.
    """

    address: str
    busy: int = 0
    failures: int = 0
    until: float = 0.0

    def is_ready(self, now: float) -> bool:
        """Whether calls may go there: it has not failed, or a single call may try it again."""
        return not self.failures or (now >= self.until and not self.busy)


@dataclass
class Turn:
    """One attempt at a call: where it goes, after how many seconds of waiting."""

    replica: Replica
    wait: float
    error: Exception | None = None


def split_addresses(api_base: str | Sequence[str] | None) -> list[str]:
    """The addresses that an api_base names, each once, without a slash at the end.

    >>> split_addresses("http://a:8000/v1/, http://b:8000/v1 http://a:8000/v1")
    ['http://a:8000/v1', 'http://b:8000/v1']
    """
    text = api_base if isinstance(api_base, str) else " ".join(api_base or ())
    found = [address.rstrip("/") for address in re.split(r"[,\s]+", text) if address]
    return list(dict.fromkeys(found))


@lru_cache(maxsize=256)
def find_replicas(api_base: str | None) -> tuple[Replica, ...]:
    """The replicas of an api_base, one or several, the same ones at each call."""
    return tuple(map(Replica, split_addresses(api_base) or [""]))


def choose(replicas: Sequence[Replica], problem: str | None, now: float) -> Replica:
    """The replica for a call.

    Each problem has its own fixed order of the replicas, by rendezvous hashing. A call goes to the
    first of them that is ready and not much busier than the others; a call without a problem goes
    to the least busy one. If none is ready, it is the one that will be ready first.
    """
    ready = [replica for replica in replicas if replica.is_ready(now)]
    if not ready:
        return min(replicas, key=lambda each: each.until)
    least = min(ready, key=lambda each: each.busy)
    if problem is None:
        return least
    near = [each for each in ready if each.busy <= least.busy + max(SLACK, least.busy // 4)]
    return max(near, key=lambda each: _rank(each.address, problem))


def take_turns(
    replicas: Sequence[Replica], retries: int, problem: str | None = None
) -> Iterator[Turn]:
    """The attempts at one call of a problem: one for each replica, and `retries` more.

    For each turn wait `turn.wait` seconds, then call inside `work_on(turn)`. The error of the
    last turn is raised from here; the caller ends the loop when a call succeeds.

    DSPy's own retries are not used: they stay with one server and wait for as long as it asks.
    """
    wait, pauses = 0.0, 0
    for left in reversed(range(len(replicas) + retries)):
        turn = Turn(choose(replicas, problem, time.monotonic()), wait)
        yield turn
        error = turn.error
        if error is None:
            return
        if left == 0 or not is_transient(error):
            raise error
        wait = 0.0
        now = time.monotonic()
        # Not the one that failed, even if a concurrent call has succeeded there since.
        others = any(each.is_ready(now) for each in replicas if each is not turn.replica)
        if isinstance(error, LMRateLimitError) or not others:
            asked = getattr(error, "retry_after", None)
            wait = min(FIRST_WAIT * 2.0**pauses if asked is None else float(asked), LONGEST_WAIT)
            pauses += 1


def is_transient(error: Exception) -> bool:
    """Whether the same request may be answered later. A success with an unreadable body counts as
    transient: it may have been cut short, or be the page of a proxy."""
    passing = isinstance(error, LMProviderError) and error.status in MAY_PASS
    return isinstance(error, LMError) and bool(passing or is_retryable_lm_error(error))


@contextlib.contextmanager
def work_on(turn: Turn, choices: int = 1) -> Iterator[None]:
    """Count a call as work of its replica; an error is kept in the turn, so that `take_turns` can
    try another replica."""
    replica = turn.replica
    with _lock:
        replica.busy += choices
    try:
        yield
        replica.failures = 0
    except Exception as error:
        turn.error = error
        if is_transient(error) and not isinstance(error, LMRateLimitError):
            _cool_down(replica, getattr(error, "retry_after", None))
    finally:
        with _lock:
            replica.busy -= choices


def _cool_down(replica: Replica, asked: float | None = None) -> None:
    """Keep calls away from a replica for a while, or for as long as it asks; calls that fail at the
    same time count as one failure."""
    now = time.monotonic()
    if replica.failures and now < replica.until:
        return
    wait = FIRST_WAIT * 2**replica.failures if asked is None else asked
    replica.until = now + min(wait, LONGEST_WAIT)
    replica.failures += 1


def _rank(address: str, problem: str) -> bytes:
    return hashlib.blake2b(f"{address} {problem}".encode(), digest_size=8).digest()
