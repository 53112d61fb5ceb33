"""What `dspy.streamify` needs where a program runs on another event loop than its reader.

DSPy's stream belongs to the loop that reads it: to send into it from another loop wakes nobody, and
both sides wait for ever. So work that goes to the shared loop gets a relay in its place. And a
reply that is plain text is marked on its way as DSPy's listeners expect a field to be marked.
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
LOOK = 1.0  # seconds between two looks at whether the reader's loop has ended


class Relay:
    """A stream that is sent to on the loop `work` and hands on to `home`, the loop that reads it.

    Status messages come from threads of DSPy's own, which hold up the loop until they are done, so
    those don't wait until there is room for them.
    """

    def __init__(
        self, stream: Any, work: asyncio.AbstractEventLoop, home: asyncio.AbstractEventLoop
    ) -> None:
        self._stream, self._work, self._home = stream, work, home

    async def send(self, item: Any) -> None:
        """Hand on one item, in order.

        Raises:
            BrokenPipeError: the reader has left, so that the work is for nobody.
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
            if self._home.is_closed():  # it drops without a word what it was handed last
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
    """Let what is started inside the block on the loop `work` stream to a reader on `home`; with
    None, where nobody can read while it runs, it runs without a stream."""
    stream = dspy.settings.send_stream
    if stream is None or isinstance(stream, Relay):
        yield
        return
    with dspy.context(send_stream=Relay(stream, work, home) if home else None):
        yield


def find_home() -> asyncio.AbstractEventLoop | None:
    """The loop that waits for this worker thread, as `dspy.asyncify` starts them; None in any other
    thread, also in that of a loop, which cannot read while it waits."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        try:
            return anyio.from_thread.run_sync(asyncio.get_running_loop)
        except RuntimeError:
            return None
    return None


class _Marked:
    """A stream for one reply, put between the marks by which a listener finds `field`."""

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
        mark = copy.deepcopy(chunk)  # the reply is put together from the chunks themselves
        mark.choices[0].delta.content = f"[[ ## {name} ## ]]\n"
        mark.choices[0].finish_reason = None
        await self._stream.send(mark)


@contextmanager
def stream_reply(field: str, choices: int) -> Iterator[None]:
    """Stream the reply to the one request inside the block, if somebody listens.

    Args:
        field: the output field that the reply's text is the value of.
        choices: how many the request asks for. Several are not streamed: DSPy would put them
            together as one.
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
    # A stream tells its usage only where it is asked for.
    with dspy.context(send_stream=stream, track_usage=True):
        yield
