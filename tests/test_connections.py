"""Connections of `serve` that are left half open, and clients that do not read."""

from __future__ import annotations

import json
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress

import httpx
import pytest

from scale_dspy.serve import connections, gateway
from scale_dspy.utils.files import MOST_FILES
from tests.command import backend
from tests.fake_vllm import spawn_fake_vllm
from tests.raw import open_raw, read_all
from tests.test_gateway import make_body
from tests.test_serve import start_serve

FILES = 256  # that the server may have open
# `serve` with short deadlines, and few files.
ENTRY = (
    "-c",
    "import resource, sys; from scale_dspy.serve import connections, gateway;"
    f"resource.setrlimit(resource.RLIMIT_NOFILE, ({FILES}, {FILES}));"
    "connections.HEADER_SECONDS = connections.READ_SECONDS = gateway.BODY_SECONDS = 2.0;"
    "from scale_dspy.cli.main import main; sys.exit(main())",
)
KEY = "the-key-of-this-test"


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with (
        spawn_fake_vllm() as fake,
        start_serve(*backend(fake), entry=ENTRY, SCALE_SERVE_KEY=KEY) as (said, _),
    ):
        yield str(said["url"])


def list_models(url: str) -> float:
    """Seconds that an honest client waits for the models."""
    began = time.monotonic()
    reply = httpx.get(f"{url}/models", headers={"Authorization": f"Bearer {KEY}"}, timeout=20)
    assert reply.status_code == 200
    return time.monotonic() - began


def wait_for_end(connection: socket.socket) -> float:
    """Seconds until the server ends a connection, and at most 20."""
    began = time.monotonic()
    with suppress(ConnectionError):
        read_all(connection)
    return time.monotonic() - began


HALVES = {
    "nothing": b"",
    "a line": b"POST /v1/chat/completions HTTP/1.1\r\n",
    "headers without an end": b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nX: y\r\n",
    "a body without an end": b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
    b"Content-Type: application/json\r\nAuthorization: Bearer " + KEY.encode() + b"\r\n"
    b"Content-Length: 1000\r\n\r\n{",
    "a chunk without an end": b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
    b"Content-Type: application/json\r\nAuthorization: Bearer " + KEY.encode() + b"\r\n"
    b"Transfer-Encoding: chunked\r\n\r\nfff\r\n{",
    "a body nobody wants": b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
    b"Content-Length: 1000\r\n\r\n{",
    "after a good one": b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\nGET /",
}


@pytest.mark.parametrize("half", HALVES.values(), ids=HALVES)
def test_a_request_that_is_not_finished_is_ended(url: str, half: bytes) -> None:
    with open_raw(url) as connection:
        connection.sendall(half)
        assert wait_for_end(connection) < 10


@pytest.mark.parametrize("name", ["a line", "a body nobody wants", "after a good one"])
def test_one_byte_now_and_then_does_not_keep_it_open(url: str, name: str) -> None:
    with open_raw(url) as connection:
        connection.sendall(HALVES[name])
        began = time.monotonic()
        while time.monotonic() - began < 15:
            time.sleep(0.3)
            try:
                connection.sendall(b"x")
            except ConnectionError:
                break
        assert time.monotonic() - began < 10


@pytest.mark.parametrize("half", HALVES.values(), ids=HALVES)
def test_a_crowd_of_them_keeps_nobody_out(url: str, half: bytes) -> None:
    with ExitStack() as stack:
        for _ in range(FILES + 150):
            connection = stack.enter_context(open_raw(url))
            with suppress(ConnectionError):
                connection.sendall(half)
        assert list_models(url) < 5
    assert list_models(url) < 2


def test_a_body_that_comes_too_late_is_told_so(url: str) -> None:
    with open_raw(url) as connection:
        connection.sendall(HALVES["a body without an end"])
        reply = read_all(connection)
    assert reply.startswith(b"HTTP/1.1 408 ")
    assert b'"type": "timeout_error"' in reply


@pytest.mark.slow
def test_a_client_that_does_not_read_is_let_go(url: str) -> None:
    """It asks again and again and takes no reply, until the server can send no more."""
    line = f"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {KEY}\r\n\r\n"
    with open_raw(url, timeout=1) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
        began, gone = time.monotonic(), False
        while not gone and time.monotonic() - began < 150:  # buffers of megabytes come first
            try:
                connection.sendall(line.encode() * 1000)
            except TimeoutError:
                pass
            except ConnectionError:
                gone = True
        assert gone
    assert list_models(url) < 2


def test_good_clients_keep_their_connection(url: str) -> None:
    headers = {"Authorization": f"Bearer {KEY}"}
    with httpx.Client(base_url=url, headers=headers, timeout=60) as client:
        for _ in range(3):
            assert client.post("/chat/completions", json=make_body()).status_code == 200
            assert client.post("/chat/completions", json=make_body(n=5)).status_code == 400
        big = client.post("/chat/completions", content=b"[" * 3_000_000)
        assert big.status_code in (400, 413)


# Clients that ask whether to send their body


def ask_first(content: bytes, *lines: str) -> bytes:
    """The head of a request that announces its body."""
    head = [
        "POST /v1/chat/completions HTTP/1.1",
        f"Content-Length: {len(content)}",
        "Expect: 100-continue",
        *(["Host: localhost"] if not any(line.startswith("Host:") for line in lines) else []),
        *lines,
    ]
    return "\r\n".join([*head, "", ""]).encode()


AUTHORISED = (f"Authorization: Bearer {KEY}", "Content-Type: application/json")


def test_a_client_that_asks_first_is_told_to_go_on(url: str) -> None:
    content = json.dumps(make_body()).encode()
    with open_raw(url) as connection:
        connection.sendall(ask_first(content, *AUTHORISED, "Connection: close"))
        assert connection.recv(1000).startswith(b"HTTP/1.1 100 ")
        connection.sendall(content)
        assert read_all(connection).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("size", [10, 20_000_000])
@pytest.mark.parametrize(
    ("lines", "status"),
    [
        ((AUTHORISED[0], "Content-Type: text/plain"), 415),
        ((AUTHORISED[1],), 401),
        ((*AUTHORISED, "Host: evil.example"), 403),
        ((*AUTHORISED, "Connection: close", "Origin: http://evil.example"), 403),
    ],
)
def test_a_client_that_asks_first_gets_the_refusal_whole_whatever_it_does_then(
    url: str, lines: tuple[str, ...], status: int, size: int
) -> None:
    """It is not told to go on; where it sends its body all the same, it can read the reply."""
    content = b"x" * size
    for goes_on in (False, True):
        with open_raw(url) as connection:
            connection.sendall(ask_first(content, *lines))
            if goes_on:
                connection.sendall(content)
            reply = read_all(connection)
        head, _, body = reply.partition(b"\r\n\r\n")
        assert head.startswith(f"HTTP/1.1 {status} ".encode())
        assert b"connection: close" in head.lower()
        assert json.loads(body)["error"]["message"]


def test_what_is_no_http_can_read_its_reply_too(url: str) -> None:
    with open_raw(url) as connection:
        connection.sendall(b"\x00 nonsense\r\n\r\n" + b"x" * 3_000_000)
        reply = read_all(connection)
    assert reply.startswith(b"HTTP/1.1 400 ")
    assert json.loads(reply.partition(b"\r\n\r\n")[2])["error"]["code"] == "400"


def test_the_limit_of_files_is_raised_as_far_as_it_goes() -> None:
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (100, {hard}));"
        "from scale_dspy.serve.connections import limit_connections; print(limit_connections(),"
        " resource.getrlimit(resource.RLIMIT_NOFILE)[0])"
    )
    most = min(resource.getrlimit(resource.RLIMIT_NOFILE)[1], 20_000)
    for hard in (100, 1024, most):
        command = [sys.executable, "-c", code.format(hard=hard)]
        told = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
        files = min(hard, MOST_FILES)
        assert told == [str(files // 2), str(files)]


def test_the_deadlines_are_not_so_short_in_earnest() -> None:
    assert connections.HEADER_SECONDS >= 5
    assert gateway.BODY_SECONDS >= 10
