"""What clients do to `serve` by mistake or on purpose, each on a connection of its own.

The door answers every probe with an error of a client's, as OpenAI words it, or ends the
connection; it asks the model server nothing, and lists its models to the next honest client.
"""

from __future__ import annotations

import contextlib
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path

import httpx

from tests.command import backend
from tests.fake_vllm import FakeVLLM, fake_vllm
from tests.faults import served
from tests.faults.lives import Lives
from tests.faults.table import COMMANDS, WORLD
from tests.raw import open_raw

PATIENCE = 90.0  # seconds; the door gives headers 10 and a body 30
PROMPT = WORLD.problems(1)[0].problem


def make_body(model: object = "scale", **more: object) -> bytes:
    messages = [{"role": "user", "content": PROMPT}]
    return json.dumps({"model": model, "messages": messages, **more}).encode()


def post(
    body: bytes, *headers: str, kind: str = "application/json", length: int | None = None
) -> bytes:
    """A whole POST to the chat route."""
    told = [
        "POST /v1/chat/completions HTTP/1.1",
        "Host: 127.0.0.1",
        *([f"Content-Type: {kind}"] if kind else []),
        f"Content-Length: {len(body) if length is None else length}",
        *headers,
    ]
    return "\r\n".join([*told, "", ""]).encode("utf-8", "surrogateescape") + body


def _list_kinds() -> Iterator[tuple[str, bytes]]:
    for kind in (
        "application/x-www-form-urlencoded", "text/plain", "multipart/form-data; boundary=x", "",
        "application/json; charset=utf-16", "application/jsonx", "text/json", "*/*", "json",
    ):  # fmt: skip
        yield f"content type {kind or 'none'}", post(make_body(), kind=kind)
    yield "two content types", post(make_body(), "Content-Type: text/plain")
    yield "a form", post(b"model=scale&api_key=x", kind="application/x-www-form-urlencoded")


def _list_names() -> Iterator[tuple[str, bytes]]:
    names = (
        ",", "scale,scale", "scale," * 400, "," * 100_000, "scale@tau=0,5", "scale@tau=٠",
        "scale@tau=nan", "scale@tau=-1", "scale@tau=1e999", "scale@", "@tau=0.5", "scale\r\nX: y",
        "scale ", " scale", "", "../../etc/passwd", "scale/../scale", "*", "scale*", "\u202escale",
        "x" * 1_000_000, "scale\x00", None, 5, ["scale"], {"a": 1}, True, "gpt-4o", "openai/gpt-4o",
    )  # fmt: skip
    for name in names:
        yield f"model {str(name)[:24]!r}", post(make_body(name))


def _list_bodies() -> Iterator[tuple[str, bytes]]:
    bodies = {
        "no body": b"",
        "no JSON": b"model: scale",
        "JSON cut short": make_body()[:-9],
        "a list": b"[]",
        "null": b"null",
        "nested deep": b'{"model":' + b"[" * 200_000,
        "NaN": make_body(seed=float("nan")),
        "no UTF-8": b'{"model": "scale\xff"}',
        "UTF-16": make_body().decode().encode("utf-16"),
        "a seed of 400 digits": make_body().replace(
            b'"model"', b'"seed":' + b"9" * 400 + b',"model"'
        ),
        "20 MB": make_body(user="x" * 20_000_000),
        "no messages": b'{"model": "scale", "messages": []}',
        "messages are text": b'{"model": "scale", "messages": "hi"}',
        "content is a number": b'{"model": "scale", "messages": [{"role": "user", "content": 5}]}',
        "an unknown field": make_body(api_base="http://127.0.0.1:9"),
        "metadata with an address": make_body(metadata={"api_base": "http://127.0.0.1:9"}),
        "n of a million": make_body(n=1_000_000),
        "a budget below 0": make_body(max_tokens=-5),
    }
    for name, body in bodies.items():
        yield f"body: {name}", post(body)
    yield "a body shorter than it says", post(b"{}", length=400)
    yield "a length below 0", post(b"{}", length=-1)
    yield "two lengths", post(b"{}", "Content-Length: 9")
    yield "length and chunks", post(b"2\r\n{}\r\n0\r\n\r\n", "Transfer-Encoding: chunked")
    yield "gzip", post(make_body(), "Content-Encoding: gzip")


def _list_requests() -> Iterator[tuple[str, bytes]]:
    good = post(make_body())
    yield "a foreign origin", post(make_body(), "Origin: https://example.com")
    yield "a foreign host", good.replace(b"Host: 127.0.0.1", b"Host: example.com")
    yield "no host", good.replace(b"Host: 127.0.0.1\r\n", b"")
    yield "a header of 200 kB", post(make_body(), "X-Long: " + "y" * 200_000)
    yield "5,000 headers", post(make_body(), *(f"X-{n}: y" for n in range(5_000)))
    yield "bytes that are no header", post(make_body(), "X\x00: \x01")
    yield "TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200)
    yield "nothing but blanks", b" " * 5_000 + b"\r\n\r\n"
    yield "a line without an end", b"POST /v1/chat/comp"
    yield "headers without an end", good.partition(b"\r\n\r\n")[0]
    yield "another method", good.replace(b"POST", b"DELETE")
    yield "TRACE", good.replace(b"POST", b"TRACE")
    yield "another path", good.replace(b"/v1/chat/completions", b"/v1/../config")
    yield "an encoded path", good.replace(b"/v1/chat/completions", b"/v1/%2e%2e/key/generate")
    yield "a whole address", good.replace(b"/v1/chat", b"http://example.com/v1/chat")
    yield "a query", good.replace(b"completions", b"completionsx?api_base=http://127.0.0.1:9")
    yield "websocket", b"GET /v1/realtime HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\n\r\n"


# What is read as if nothing were wrong: a field that is ignored, a header without effect.
HARMLESS = ("body: metadata with an address", "gzip", "5,000 headers")
PROBES = dict([*_list_kinds(), *_list_names(), *_list_bodies(), *_list_requests()])


def play_all(lives: Lives, folder: Path, only: str = "") -> Iterator[tuple[str, list[str]]]:
    """(probe, in words what was wrong) of each, all against one `serve`; its end is the last."""
    chosen = {
        name: content for name, content in PROBES.items() if re.search(only, f"{name} x serve")
    }
    if not chosen:
        return
    with fake_vllm(WORLD) as server:
        url = _start(lives, folder, server)
        asked = len(server.chats())
        for name, content in chosen.items():
            harmless = name in HARMLESS
            wrong = judge(url, content, harmless)
            if len(server.chats()) != asked and not harmless:
                wrong.append("the model server was asked")
            asked = len(server.chats())
            yield f"{name} x serve", wrong
        honest = served.ask(url)
        ended = served.end(lives, folder, "door")
        wrong = [
            *honest.wrong,
            *([] if honest.status == 200 else ["an honest client has no reply"]),
        ]
        wrong += [] if ended.code == 0 else [f"SIGTERM ends it with {ended.code}"]
        wrong += ["a traceback"] if "Traceback" in ended.err else []
        yield "an honest client, and the end", wrong


def _start(lives: Lives, folder: Path, server: FakeVLLM) -> str:
    arguments = [*COMMANDS["serve"].arguments, *backend(server)]
    lives.start(arguments, folder, "door", cache=str(folder / "cache"), limit=3600.0)
    url = served.read_url(folder, "door")
    if url is None:
        raise RuntimeError((folder / "door" / "err").read_text()[-400:])
    return url


def judge(url: str, content: bytes, harmless: bool) -> list[str]:
    """Send a probe and say what was wrong with what came of it.

    Args:
        harmless: whether it may be answered like any other request.
    """
    wrong = []
    began = time.monotonic()
    reply = send(url, content)
    if reply is None:
        wrong.append(f"no end within {PATIENCE:g} s")
    elif reply:
        head, _, body = reply.partition(b"\r\n\r\n")
        status = int(head.split(b" ", 2)[1]) if head.startswith(b"HTTP/") else 0
        if harmless and status == 200:
            body = b""
        elif not 400 <= status < 500:
            wrong.append(f"status {status}")
        with contextlib.suppress(ValueError, KeyError, TypeError):
            if json.loads(body)["error"]["message"]:
                body = b""
        if body and b"text/plain" not in head:  # uvicorn's own word for what is no HTTP
            wrong.append(f"no error of OpenAI's kind: {body[:80]!r}")
        if b"Traceback" in reply:
            wrong.append("a traceback in a reply")
    took = time.monotonic() - began
    if took > PATIENCE / 2:
        wrong.append(f"it took {took:.0f} s")
    try:
        models = httpx.get(f"{url}/models", timeout=30).json()["data"]
        wrong += [] if any(each["id"] == "scale" for each in models) else ["it lists no model"]
    except (httpx.HTTPError, ValueError, KeyError) as error:
        wrong.append(f"then an honest client gets {type(error).__name__}")
    return wrong


def send(url: str, content: bytes) -> bytes | None:
    """All that comes back until the server ends the connection or one reply is there; None where
    neither comes about within PATIENCE."""
    received = b""
    with open_raw(url, PATIENCE) as peer:
        with contextlib.suppress(ConnectionError):
            peer.sendall(content)
        try:
            while not is_whole(received) and (more := peer.recv(65536)):
                received += more
        except TimeoutError:
            return None
        except ConnectionError:
            pass
    return received


def is_whole(received: bytes) -> bool:
    head, ended, body = received.partition(b"\r\n\r\n")
    length = re.search(rb"(?i)content-length: *(\d+)", head)
    return bool(ended and length and len(body) >= int(length[1]))
