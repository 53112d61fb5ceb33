"""Compare answers in one long-lived process, because SymPy may compute without end.

The process is this file, run as a script: one JSON line a question, one a reply. It starts on
demand, ends itself when a question takes more than `TIME_LIMIT` of its own time on the processor,
so that a busy machine changes no verdict, and ends with the program.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TextIO

TIME_LIMIT = 3.0
"""Seconds of processor time that one comparison may take."""

PATIENCE = 60.0
"""Wall-clock seconds after which a worker that does not reply is killed."""

START_LIMIT = 60.0
"""Seconds that the worker process may take to start; it imports sympy."""

MEMORY_LIMIT = 1 << 31
"""Bytes of address space of the worker process, where the system can limit it."""

_OUT_OF_TIME = (-signal.SIGPROF, -signal.SIGXCPU) if sys.platform != "win32" else ()

logger = logging.getLogger(__name__)


# ---- seen from the program ------------------------------------------------------------------

_lock = threading.Lock()
_worker: subprocess.Popen[str] | None = None


def ask_worker(pred: str, gold: str) -> bool:
    """Whether two answers are equal as mathematics; False where that takes too long.

    Safe to call from any number of threads; they take turns. Where the process cannot be started,
    a warning is logged and the answers count as different.
    """
    with _lock:
        for _ in range(2):  # a worker that was ended from outside is replaced once
            worker = _running_worker()
            if worker is None:
                return False
            reply, overran = _exchange(worker, [pred, gold], PATIENCE)
            if reply is not None:
                return reply is True
            overran = _ended_itself(worker) or overran
            _stop_worker()
            if overran:
                logger.info("not compared within %s s: %.80r and %.80r", TIME_LIMIT, pred, gold)
                return False
        logger.warning("the worker process ended twice on %.80r and %.80r", pred, gold)
        return False


def _ended_itself(worker: subprocess.Popen[str]) -> bool:
    """Wait for the end of a worker; whether its processor time had run out."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        return worker.wait(timeout=5) in _OUT_OF_TIME
    return False


def _running_worker() -> subprocess.Popen[str] | None:
    """The worker process, started if need be; None with a warning where it does not start."""
    global _worker
    if _worker is not None and _worker.poll() is None:
        return _worker
    _stop_worker()
    try:
        _worker = subprocess.Popen(
            [sys.executable, str(Path(__file__).resolve())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            encoding="utf-8",
        )
    except (OSError, TypeError, ValueError) as error:
        logger.warning("the comparing process does not start: %s", error)
        return None
    reply, overran = _exchange(_worker, None, START_LIMIT)
    if reply is True:
        return _worker
    _stop_worker()
    logger.warning("the comparing process does not start: %s", "too slow" if overran else reply)
    return None


def _exchange(
    worker: subprocess.Popen[str], question: list[str] | None, limit: float
) -> tuple[bool | str | None, bool]:
    """Send a question, read the reply, and kill the worker if that takes longer than `limit`.

    Returns the reply, None where the worker ended before it replied, and whether it was killed.
    """
    overran = threading.Event()

    def end() -> None:
        overran.set()
        worker.kill()

    assert worker.stdin is not None
    assert worker.stdout is not None
    timer = threading.Timer(limit, end)
    timer.daemon = True
    timer.start()
    try:
        if question is not None:
            worker.stdin.write(json.dumps(question) + "\n")
            worker.stdin.flush()
        line = worker.stdout.readline()
    except OSError:
        line = ""
    except BaseException:  # interrupted: a reply still to come must not answer the next question
        worker.kill()
        raise
    finally:
        timer.cancel()
    return (json.loads(line) if line.endswith("\n") else None), overran.is_set()


@atexit.register
def _stop_worker() -> None:
    global _worker
    if _worker is None:
        return
    worker, _worker = _worker, None
    worker.kill()
    worker.wait()
    for pipe in (worker.stdin, worker.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()


def _forget_worker() -> None:
    """After a fork: the worker is the parent's, and the lock may be held by a thread of it."""
    global _lock, _worker
    _lock, _worker = threading.Lock(), None


if sys.platform != "win32":
    os.register_at_fork(after_in_child=_forget_worker)


# ---- seen from inside -----------------------------------------------------------------------


def _serve() -> None:
    """Reply `true` when ready, then to each line `[pred, gold]` with whether they are equal."""
    replies, sys.stdout = sys.stdout, sys.stderr  # what is imported must not write into them
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides when this process ends
    _limit("RLIMIT_AS", MEMORY_LIMIT)
    _reply(replies, _rehearse())
    for line in sys.stdin:
        _limit("RLIMIT_CPU", int(time.process_time() + 2 * TIME_LIMIT) + 1)
        _count_down(TIME_LIMIT)
        try:
            verdict = _verify(*json.loads(line))
        except Exception:  # among them MemoryError and RecursionError
            verdict = False
        _count_down(0)
        _reply(replies, verdict)


def _count_down(seconds: float) -> None:
    """End this process after so many seconds on the processor; never with 0."""
    if sys.platform != "win32":
        signal.setitimer(signal.ITIMER_PROF, seconds)


def _reply(replies: TextIO, value: bool | str) -> None:
    replies.write(json.dumps(value) + "\n")
    replies.flush()


def _rehearse() -> bool | str:
    """Import and warm up the comparison; True, or what went wrong."""
    try:
        return _verify("\\frac{1}{2}", "0.5")
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def _verify(pred: str, gold: str) -> bool:
    from scale_dspy.grading.comparison import compare

    return compare(pred, gold)


def _limit(name: str, value: int) -> None:
    """Lower a limit of this process, where the system knows it."""
    if sys.platform == "win32":
        return
    import resource

    kind: int = getattr(resource, name)
    hard = resource.getrlimit(kind)[1]
    soft = value if hard == resource.RLIM_INFINITY else min(value, hard)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(kind, (soft, hard))


if __name__ == "__main__":
    with contextlib.suppress(ValueError):  # the modules beside this file are not top-level ones
        sys.path.remove(str(Path(__file__).parent))
    sys.path.append(str(Path(__file__).parents[2]))
    _serve()
