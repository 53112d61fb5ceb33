"""The connections of `serve`: uvicorn's own, with a deadline for headers, a deadline for clients
that do not read, and a cap on their number. The deadline for bodies is in gateway.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from scale_dspy.serve.replies import describe_error
from scale_dspy.utils.files import allow_files

HEADER_SECONDS = 10.0  # within which a request's headers have to arrive
READ_SECONDS = 60.0  # within which a client has to read what is sent to it
LINGER_SECONDS = 1.0  # how long a client may go on sending after its last reply


class Connection(H11Protocol):
    """One client's connection.

    If there are more than `most`, the one that has waited longest for its client to finish a
    request is closed, so that nobody can keep others out with unfinished requests.
    """

    most = 512
    _leaving = False  # the last reply is sent; what still arrives is dropped

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._clock: asyncio.TimerHandle | None = None
        self._stall: asyncio.TimerHandle | None = None
        self._await_request()
        if len(self.connections) > self.most:
            idle = [each for each in self.connections if each.is_unfinished()]
            if idle:
                min(idle, key=lambda each: each.since).transport.abort()

    def is_unfinished(self) -> bool:
        """Whether the connection is open and its client has yet to finish a request."""
        waits = self.cycle is None or self.cycle.response_complete or self.cycle.more_body
        return bool(waits and not self.transport.is_closing())

    def data_received(self, data: bytes) -> None:
        if self._leaving:
            return
        before = self.cycle
        super().data_received(data)
        if self.cycle is not before and not self.cycle.response_complete:
            self._cancel()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.cycle.response_complete:  # else the next request was there already
            self._await_request()

    def connection_lost(self, exc: Exception | None) -> None:
        self._cancel()
        self.resume_writing()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stall = self.loop.call_later(READ_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP with an error in OpenAI's form. What the client still sends is
        read and dropped for a moment: if the connection were closed at once, the client would lose
        the reply."""
        content = json.dumps({"error": describe_error(400, "this is no HTTP request")}).encode()
        headers = [
            ("content-type", "application/json"),
            ("content-length", str(len(content))),
            ("connection", "close"),
        ]
        try:
            for event in (
                h11.Response(status_code=400, headers=headers),
                h11.Data(data=content),
                h11.EndOfMessage(),
            ):
                self.transport.write(self.conn.send(event))
        except h11.LocalProtocolError:  # another reply is on its way already
            self.transport.close()
            return
        self._cancel()
        self._leaving = True
        self.flow.resume_reading()
        with contextlib.suppress(OSError, RuntimeError):
            self.transport.write_eof()
        self._clock = self.loop.call_later(LINGER_SECONDS, self.transport.close)

    def _should_upgrade(self) -> bool:
        return False

    def _await_request(self) -> None:
        self._cancel()
        self.since = self.loop.time()
        self._clock = self.loop.call_later(HEADER_SECONDS, self.transport.abort)

    def _cancel(self) -> None:
        if self._clock is not None:
            self._clock.cancel()
            self._clock = None


def limit_connections() -> int:
    """How many connections there may be: half of the files that may be open. The other half is for
    the model server, and for connections that are just being accepted."""
    return allow_files() // 2
