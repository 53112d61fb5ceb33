"""HTTP as no client would write it."""

from __future__ import annotations

import socket
from urllib.parse import urlsplit


def open_raw(url: str, timeout: float = 20.0) -> socket.socket:
    """A connection to a server."""
    place = urlsplit(url)
    return socket.create_connection((str(place.hostname), place.port or 80), timeout)


def send_raw(
    url: str,
    content: bytes,
    headers: str = "Content-Type: application/json\r\n",
    line: str = "POST /v1/chat/completions HTTP/1.1",
    host: str = "localhost",
) -> bytes:
    """The whole reply to a request whose headers are written as given, ends of lines included."""
    length = f"Content-Length: {len(content)}\r\nConnection: close\r\n"
    head = f"{line}\r\nHost: {host}\r\n{length}{headers}\r\n"
    with open_raw(url) as connection:
        connection.sendall(head.encode("latin-1") + content)
        return read_all(connection)


def read_all(connection: socket.socket) -> bytes:
    """What comes until the server closes."""
    held = b""
    while piece := connection.recv(65_536):
        held += piece
    return held
