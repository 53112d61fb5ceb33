"""Make `dspy.streamify` work where a program runs on another event loop than its reader.

DSPy's stream belongs to the loop that reads it: an item sent from another loop does not wake the
reader, and both sides wait for ever. So work on the shared loop gets a relay instead, which sends
items from the reader's loop. A reply in plain text also gets the marks by which DSPy's stream
listeners recognise an output field.
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import anyio
import anyio.from_thread
import dspy

LEFT = "whoever read the stream has left"
LOOK = 1.0  # seconds between checks whether the reader's loop has ended


class Relay:
    """A stream for work on the loop `work`; items go on to `home`, the loop of the reader.

    Status messages come from threads of DSPy's own, which block the loop until they are done, so
    sending one does not wait until the reader has taken it.
    """

    def __init__(
        self, stream: Any, work: asyncio.AbstractEventLoop, home: asyncio.AbstractEventLoop
    ) -> None:
        self._stream, self._work, self._home = stream, work, home

    async def send(self, item: Any) -> None:
        """Pass on one item, in order.

        Raises:
            BrokenPipeError: the reader has left, so nobody needs the work any more.
        """
        sending = self._hand_on(item)
        try:
            sent = asyncio.run_coroutine_threadsafe(sending, self._home)
        except RuntimeError:  # the reader's loop has ended
            sending.close()
            raise BrokenPipeError(LEFT) from None
        if asyncio.get_running_loop() is not self._work:
            return
        done = asyncio.wrap_future(sent)
        while not (await asyncio.wait([done], timeout=LOOK))[0]:
            if self._home.is_closed():  # a closed loop silently drops its last items
                sending.close()
                raise BrokenPipeError(LEFT)
        if not await done:
            raise BrokenPipeError(LEFT)

    async def _hand_on(self, item: Any) -> bool:
        try:
            await self._stream.send(item)
        except (anyio.BrokenResourceError, anyio.ClosedResourceError):
            return False
        return True


@contextmanager
def relay_stream(
    work: asyncio.AbstractEventLoop, home: asyncio.AbstractEventLoop | None
) -> Iterator[None]:
    """Let work that is started inside the block on the loop `work` stream to a reader on `home`. If
    `home` is None, nobody can read while the work runs, and it runs without a stream."""
    stream = dspy.settings.send_stream
    if stream is None or isinstance(stream, Relay):
        yield
        return
    with dspy.context(send_stream=Relay(stream, work, home) if home else None):
        yield


def find_home() -> asyncio.AbstractEventLoop | None:
    """The loop that waits for this thread, if `dspy.asyncify` started the thread; otherwise None.
    In the thread of a loop it is None too, since that loop cannot read while it waits."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        try:
            return anyio.from_thread.run_sync(asyncio.get_running_loop)
        except RuntimeError:
            return None
    return None


class _Marked:
    """A stream for one reply that adds the marks by which a listener recognises `field`."""

    def __init__(self, stream: Any, field: str) -> None:
        self._stream, self._field = stream, field
        self._begun = False

    async def send(self, chunk: Any) -> None:
        choice = chunk.choices[0] if getattr(chunk, "choices", None) else None
        if choice is not None and choice.delta.content and not self._begun:
            self._begun = True
            await self._mark(chunk, self._field)
        await self._stream.send(chunk)
        if choice is not None and choice.finish_reason and self._begun:
            await self._mark(chunk, "completed")

    async def _mark(self, chunk: Any, name: str) -> None:
        mark = copy.deepcopy(chunk)  # the reply is assembled from the chunks themselves
        mark.choices[0].delta.content = f"[[ ## {name} ## ]]\n"
        mark.choices[0].finish_reason = None
        await self._stream.send(mark)


@contextmanager
def stream_reply(field: str, choices: int) -> Iterator[None]:
    """Stream the reply to the one request inside the block, if somebody listens.

    Args:
        field: the output field that the reply's text is the value of.
        choices: how many the request asks for. Several are not streamed: DSPy would merge them
            into one.
    """
    stream = dspy.settings.send_stream
    if stream is None:
        yield
        return
    if choices > 1:
        with dspy.context(send_stream=None):
            yield
        return
    if dspy.settings.stream_listeners:
        stream = _Marked(stream, field)
    # A streamed reply reports its usage only if that is asked for.
    with dspy.context(send_stream=stream, track_usage=True):
        yield
