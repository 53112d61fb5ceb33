"""A chat server that gives its answers in order and keeps what it was sent; with TLS if asked."""

from __future__ import annotations

import json
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

USAGE = {"prompt_tokens": 3, "completion_tokens": 5}


def reply(content: Any = "7", usage: Any = USAGE) -> dict[str, Any]:
    """The body of a chat completion with one choice."""
    message = {"role": "assistant", "content": content}
    return {"choices": [{"message": message, "finish_reason": "stop"}], "usage": usage}


@dataclass(frozen=True)
class Events:
    """A body of server-sent events; unless it `ends`, they come again and again."""

    lines: list[str]
    ends: bool = True


class Plain(ThreadingHTTPServer):
    """A server that gives its answers in order, the last one for ever: (status, headers, body).

    Attributes:
        seen: the headers of each request.
        bodies: its JSON, with its path as `path`.
    """

    daemon_threads = True
    request_queue_size = 1024
    answers: list[tuple[int, dict[str, str], Any]]
    seen: list[dict[str, str]]
    bodies: list[dict[str, Any]]
    scheme = "http"
    delay = 0.0
    most = at_work = 0

    @property
    def api_base(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.server_address[1]}/v1"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Plain

    def do_GET(self) -> None:
        self._send(200, {}, {"object": "list", "data": [{"id": "m"}]})

    def do_POST(self) -> None:
        server = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        server.seen.append(dict(self.headers))
        server.bodies.append({**body, "path": self.path})
        answers = server.answers
        status, headers, body = answers.pop(0) if len(answers) > 1 else answers[0]
        if body is Ellipsis:  # a blank at a time, for ever
            self.send_response(200)
            self.end_headers()
            for _ in range(100):
                self.wfile.write(b" ")
                self.wfile.flush()
                time.sleep(0.1)
            return
        if server.delay:
            server.at_work += 1
            server.most = max(server.most, server.at_work)
            time.sleep(server.delay)
            server.at_work -= 1
        if isinstance(body, Events):
            self._stream(body)
        else:
            self._send(status, headers, body)

    def _stream(self, events: Events) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        for _ in range(1 if events.ends else 100):
            for line in events.lines:
                written = line if line.startswith(":") else f"data: {line}"
                self.wfile.write(f"{written}\n\n".encode())
            self.wfile.flush()
            if not events.ends:
                time.sleep(0.1)

    def _send(self, status: int, headers: dict[str, str], body: Any) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None: ...


@contextmanager
def serve(*answers: Any, tls: ssl.SSLContext | None = None, delay: float = 0.0) -> Iterator[Plain]:
    """Serve answers; one that is no tuple is the body of a success.

    Args:
        tls: the server's certificate; None for plain HTTP.
        delay: seconds before each reply.
    """
    server = Plain(("127.0.0.1", 0), _Handler)
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
        server.scheme = "https"
    server.answers = [each if isinstance(each, tuple) else (200, {}, each) for each in answers]
    server.seen, server.bodies, server.delay = [], [], delay
    server.handle_error = lambda *_: None  # type: ignore[method-assign] # a client that left
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
