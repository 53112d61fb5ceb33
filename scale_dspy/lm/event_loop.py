"""The process's one event loop.

LiteLLM's clients belong to the loop that made them, so a loop per thread (or per `asyncio.run`)
breaks them. Everything asynchronous here therefore runs on a single loop in a daemon thread.
"""

from __future__ import annotations

import asyncio
import inspect
import threading
import time
from collections.abc import Coroutine
from typing import Any, TypeVar

from scale_dspy.lm.streaming import find_home, relay_stream

T = TypeVar("T")

GRACE = 5.0  # seconds that cancelled work may take to end

_lock = threading.Lock()
_loop: asyncio.AbstractEventLoop | None = None
_second: asyncio.AbstractEventLoop | None = None


def shared_loop() -> asyncio.AbstractEventLoop:
    """The loop, started on first use."""
    global _loop
    with _lock:
        if _loop is None or _loop.is_closed():  # an adopted one may have ended
            _loop = _start_loop("scale-dspy-loop")
        return _loop


def _start_loop(name: str) -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name=name, daemon=True).start()
    return loop


def adopt_running_loop() -> None:
    """Make the running loop the shared one, unless there is one already. In a server, LiteLLM then
    uses the same loop for incoming and for outgoing requests."""
    global _loop
    with _lock:
        if _loop is None or _loop.is_closed():
            _loop = asyncio.get_running_loop()


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run `coroutine` on the shared loop and wait for its result, from any other thread.

    The caller's context variables (so `dspy.settings` and the trace) travel with it. An
    interrupt of the waiting thread cancels the work.

    Raises:
        RuntimeError: when called on the shared loop itself, which would wait for itself.
    """
    loop = shared_loop()
    if _running_loop() is loop:
        coroutine.close()
        raise RuntimeError("this code runs on scale_dspy's event loop: await .acall(...) instead")
    with relay_stream(loop, find_home()):
        return _wait_for(coroutine, loop)


def run_call(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run one model call and wait for it, from any thread. In the thread of the shared loop, which
    a plain dspy.Predict inside asynchronous code would block, a second loop runs the call."""
    global _second
    loop = shared_loop()
    if _running_loop() is loop:
        with _lock:
            _second = loop = _second or _start_loop("scale-dspy-second-loop")
    with relay_stream(loop, find_home()):
        return _wait_for(coroutine, loop)


def _wait_for(coroutine: Coroutine[Any, Any, T], loop: asyncio.AbstractEventLoop) -> T:
    future = None
    try:  # an interrupt may come as soon as the work has begun
        future = asyncio.run_coroutine_threadsafe(coroutine, loop)
        return future.result()
    except BaseException:
        if future is not None and future.cancel():
            _wait_for_the_end(coroutine)
        raise


def _wait_for_the_end(coroutine: Coroutine[Any, Any, Any]) -> None:
    """Wait until cancelled work has ended, a few seconds at most: work that is still going on while
    Python shuts down prints long errors."""
    deadline = time.monotonic() + GRACE
    while inspect.getcoroutinestate(coroutine) != inspect.CORO_CLOSED:
        if time.monotonic() > deadline:
            return
        time.sleep(0.01)


async def run_on_shared_loop(coroutine: Coroutine[Any, Any, T]) -> T:
    """Await `coroutine` on the shared loop, from whatever loop the caller runs on."""
    loop, home = shared_loop(), asyncio.get_running_loop()
    if home is loop:
        return await coroutine
    with relay_stream(loop, home):
        future = asyncio.run_coroutine_threadsafe(coroutine, loop)
    return await asyncio.wrap_future(future)


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
