"""A stand-in for the Hugging Face hub: one file, over real HTTP, with its faults."""

from __future__ import annotations

import contextlib
import hashlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class FakeHub:
    """The hub and its log.

    Attributes:
        path: of the file, as `OWNER/NAME/resolve/REVISION/FILE`.
        content: what it serves.
        cut: bytes after which the connection breaks, for the first download; then it is down.
        log: (method, Range header, status) of each request.
    """

    path: str
    content: bytes
    cut: int | None = None
    url: str = ""
    log: list[tuple[str, str | None, int]] = field(default_factory=list)

    @property
    def ranges(self) -> list[str | None]:
        """The Range header of each download that was answered."""
        return [asked for method, asked, status in self.log if method == "GET" and status < 300]


@contextlib.contextmanager
def fake_hub(path: str, content: bytes, cut: int | None = None) -> Iterator[FakeHub]:
    hub = FakeHub(path, content, cut)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _make_handler(hub))
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)


def _make_handler(hub: FakeHub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self._answer(body=False)

        def do_GET(self) -> None:
            self._answer(body=True)

        def _answer(self, body: bool) -> None:
            asked = self.headers.get("Range")
            down = body and hub.cut is not None and bool(hub.ranges)
            status = 404 if self.path != f"/{hub.path}" else 503 if down else 206 if asked else 200
            hub.log.append((self.command, asked, status))
            start = int(asked.removeprefix("bytes=").partition("-")[0]) if asked else 0
            part = hub.content[start:] if status < 300 else b""
            self.send_response(status)
            self.send_header("ETag", f'"{hashlib.sha256(hub.content).hexdigest()}"')
            self.send_header("X-Repo-Commit", hub.path.split("/")[3])
            self.send_header("Accept-Ranges", "bytes")
            self.send_header("Content-Length", str(len(part)))
            if status == 206:
                whole = len(hub.content)
                self.send_header("Content-Range", f"bytes {start}-{whole - 1}/{whole}")
            self.end_headers()
            if not body:
                return
            self.wfile.write(part[: hub.cut])
            if hub.cut is not None and status < 300:
                self.close_connection = True

        def log_message(self, format: str, *args: object) -> None:
            pass

    return Handler
