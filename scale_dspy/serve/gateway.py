"""The door in front of LiteLLM's proxy: an ASGI application around the proxy's.

It checks the Host and the Origin of a request, its key and its path, then reads its body once and
checks that. The proxy receives the checked object, serialised anew, with headers made here; nothing
else of the client's reaches it. Errors have OpenAI's form.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import json
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from scale_dspy.serve.callers import Callers, Scope, check_caller, read_header, say_allowed
from scale_dspy.serve.models import Catalogue, UnknownModelError, find_program, list_names
from scale_dspy.serve.replies import Headers, Message, Send, mend_reply, send_error, send_json
from scale_dspy.serve.requests import LARGEST_BODY, Checked, RefusedError, check_request, parse_body

Receive = Callable[[], Awaitable[Message]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

CHAT, MODELS, HEALTH = "/v1/chat/completions", "/v1/models", "/health"
ALIASES = {
    "/chat/completions": CHAT,
    "/models": MODELS,
    "/health/liveliness": HEALTH,
    "/health/readiness": HEALTH,
}
BODY_SECONDS = 30.0  # within which the whole body has to arrive
# How many bytes of an unwanted body are read and dropped, and for how long, so that its client can
# still read the reply.
DRAINED, DRAIN_SECONDS = 64 << 20, 1.0

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Inside:
    """What is behind the door.

    Attributes:
        app: LiteLLM's proxy.
        key: what `app` is sent as its key.
        catalogue: what is served; `app` is asked for no other model.
        callers: who may ask.
    """

    app: App
    key: str = field(repr=False)
    catalogue: Catalogue
    callers: Callers


def make_door(inside: Inside, ready: Callable[[], None] = lambda: None) -> App:
    """The ASGI application that lets in what has been checked.

    Args:
        ready: called when the application inside has started.
    """

    async def door(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await inside.app(scope, receive, _announce(send, ready))
        elif scope["type"] == "http":
            await _answer(inside, scope, receive, send)

    return door


async def _answer(inside: Inside, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer a request; an error that is raised becomes the reply if none has begun."""
    started, unread = False, True

    async def send_on(message: Message) -> None:
        nonlocal started
        started = True
        await send(message)

    async def receive_on() -> Message:
        nonlocal unread
        message = await receive()
        unread = bool(message.get("more_body"))
        return message

    try:
        await _enter(inside, scope, receive_on, send_on)
    except RefusedError as error:
        await _refuse(error, say_allowed(scope, inside.callers), unread, scope, receive, send)
    except Exception:
        if started:
            raise  # the connection is then cut, so that the reply does not look whole
        logger.exception("a request failed")
        await send_error(send, 500, "the request failed")


async def _enter(inside: Inside, scope: Scope, receive: Receive, send: Send) -> None:
    """Check who asks, and for what; pass on a chat request, and answer any other here.

    Raises:
        RefusedError: the request is refused.
    """
    callers = inside.callers
    check_caller(scope, callers)
    more = say_allowed(scope, callers)
    path = scope["path"].rstrip("/")
    path = ALIASES.get(path, path)
    if scope["method"] == "OPTIONS" and more:  # the preflight of a page that may ask
        await send({"type": "http.response.start", "status": 204, "headers": more})
        await send({"type": "http.response.body", "body": b""})
    elif path == HEALTH:
        _check_method(scope, "GET")
        await send_json(send, 200, {"status": "ok"}, more)
    elif path == CHAT:
        _check_key(scope, callers.key)
        _check_method(scope, "POST")
        _check_kind(scope)
        await _hand_on(inside, scope, receive, send, more)
    elif path == MODELS or path.startswith(f"{MODELS}/") or path.startswith("/models/"):
        _check_key(scope, callers.key)
        _check_method(scope, "GET")
        name = path.removeprefix("/v1").removeprefix("/models").removeprefix("/")
        await send_json(send, 200, _describe_models(inside.catalogue, name), more)
    else:
        raise RefusedError(f"there is no {scope['path'][:100]!r} here", 404)


async def _hand_on(
    inside: Inside, scope: Scope, receive: Receive, send: Send, more: Headers
) -> None:
    """Read a chat request, check it, and have LiteLLM's proxy answer what was checked."""
    content = await _read_body(receive)
    if content is None:
        return
    checked = check_request(parse_body(content), inside.catalogue)
    content = json.dumps(checked.body).encode()
    outward = mend_reply(send, [*more, *_name_ignored(checked)])
    await inside.app(_write_scope(scope, content, inside.key), _replay(content, receive), outward)


async def _refuse(
    error: RefusedError,
    more: Headers,
    unread: bool,
    scope: Scope,
    receive: Receive,
    send: Send,
) -> None:
    """Answer with the error. The rest of the body is read and dropped before the connection is
    closed: closing it with unread bytes would make the client lose the reply.

    A client that asked whether to send its body (`Expect: 100-continue`) has its answer by this
    reply; whether it sends the body all the same cannot be known, so the connection is closed.
    """
    asks = unread and any(name == b"expect" for name, _ in scope["headers"])
    closing = [(b"connection", b"close")] if asks or error.status == 408 else []
    headers = [*more, *closing]
    await send_error(send, error.status, str(error), error.param, headers, ends=not unread)
    if unread:
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(_receive_all(receive), DRAIN_SECONDS)
        await send({"type": "http.response.body", "body": b""})


def _announce(send: Send, ready: Callable[[], None]) -> Send:
    async def send_on(message: Message) -> None:
        await send(message)
        if message["type"] == "lifespan.startup.complete":
            ready()

    return send_on


def _check_key(scope: Scope, key: str | None) -> None:
    if key is None:
        return
    scheme, _, given = read_header(scope, b"authorization").partition(b" ")
    if scheme.lower() != b"bearer" or not hmac.compare_digest(given.strip(), key.encode()):
        raise RefusedError("the API key is missing or wrong", 401)


def _check_method(scope: Scope, method: str) -> None:
    if scope["method"] != method:
        raise RefusedError(f"{scope['path'][:100]} takes {method}", 405)


def _check_kind(scope: Scope) -> None:
    """Browsers let any site send plain text without a preflight request, but not JSON."""
    given = read_header(scope, b"content-type").decode("latin-1")
    kind, *parameters = (each.strip().lower() for each in given.split(";"))
    charsets = [each for each in parameters if each.startswith("charset=")]
    if not kind:
        raise RefusedError("a request has the header Content-Type: application/json")
    if kind != "application/json" or set(charsets) - {"charset=utf-8", 'charset="utf-8"'}:
        raise RefusedError(f"the content type is application/json, not {given[:100]!r}", 415)


async def _read_body(receive: Receive) -> bytes | None:
    """The body, truncated just beyond LARGEST_BODY; None if the client disconnected.

    Raises:
        RefusedError: it takes longer than BODY_SECONDS.
    """
    try:
        return await asyncio.wait_for(_receive_all(receive), BODY_SECONDS)
    except asyncio.TimeoutError:
        raise RefusedError(f"the body was not there after {BODY_SECONDS:g} s", 408) from None


async def _receive_all(receive: Receive) -> bytes | None:
    kept, seen = bytearray(), 0
    while seen <= DRAINED:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        piece = message.get("body", b"")
        seen += len(piece)
        if len(kept) <= LARGEST_BODY:
            kept += piece
        if not message.get("more_body"):
            break
    return bytes(kept)


def _write_scope(scope: Scope, content: bytes, inner_key: str) -> Scope:
    """The scope that the proxy gets: only the connection is the client's."""
    headers = [
        (b"host", b"localhost"),
        (b"content-type", b"application/json"),
        (b"content-length", str(len(content)).encode()),
        (b"authorization", f"Bearer {inner_key}".encode()),
    ]
    kept = ("type", "asgi", "http_version", "server", "client", "scheme", "state")
    return {
        **{name: scope[name] for name in kept if name in scope},
        "method": "POST",
        "root_path": "",
        "path": CHAT,
        "raw_path": CHAT.encode(),
        "query_string": b"",
        "headers": headers,
    }


def _replay(content: bytes, receive: Receive) -> Receive:
    """A `receive` that gives the body first, for an application that has not read it yet."""
    messages = [{"type": "http.request", "body": content, "more_body": False}]

    async def receive_again() -> Message:
        return messages.pop() if messages else await receive()

    return receive_again


def _name_ignored(checked: Checked) -> list[tuple[bytes, bytes]]:
    return [(b"x-scale-ignored", ", ".join(checked.ignored).encode())] if checked.ignored else []


def _describe_models(catalogue: Catalogue, name: str) -> dict[str, Any]:
    """The list of the models, or the one of this name."""
    if not name:
        return {"object": "list", "data": [_describe(each) for each in list_names(catalogue)]}
    try:
        find_program(catalogue, name)
    except UnknownModelError as error:
        raise RefusedError(str(error), 404, "model") from None
    except ValueError as error:
        raise RefusedError(str(error), 400, "model") from None
    return _describe(name)


def _describe(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "scale_dspy"}
