"""The door in front of LiteLLM's proxy: an ASGI application around the proxy's.

It checks the key, lets only the paths of a model through, and refuses bodies that are too large or
malformed. Its errors have the form of OpenAI's.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Scope = MutableMapping[str, Any]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

CREDENTIALS = (
    b"authorization",
    b"api-key",
    b"x-api-key",
    b"x-goog-api-key",
    b"x-litellm-api-key",
    b"ocp-apim-subscription-key",
)

PATHS = {
    "/v1/chat/completions": "POST",
    "/chat/completions": "POST",
    "/v1/models": "GET",
    "/models": "GET",
    "/health/liveliness": "GET",
}
# Of a request. The proxy would take more of them, its own settings for example.
FIELDS = frozenset(
    """model messages stream stream_options seed n max_tokens max_completion_tokens budget method
    temperature top_p presence_penalty frequency_penalty logit_bias logprobs top_logprobs stop user
    metadata store service_tier tools tool_choice parallel_tool_calls functions function_call
    response_format reasoning_effort verbosity modalities safety_identifier prompt_cache_key
    """.split()
)
LARGEST_BODY = 1 << 20  # bytes
DRAINED = 64 << 20  # bytes that are read and dropped so that the client gets to read its answer
RETRY_AFTER = 5  # seconds, told to a client that is turned away


def make_door(
    app: App,
    key: str | None,
    inner_key: str,
    names: Sequence[str],
    ready: Callable[[], None] = lambda: None,
) -> App:
    """`app` behind the door.

    Args:
        key: what clients have to send as a bearer token; None to ask for none.
        inner_key: what `app` is sent instead.
        names: of the models. The proxy lists none where it takes any name.
        ready: called when `app` has started.
    """

    async def door(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await app(scope, receive, _announce(send, ready))
        elif scope["type"] == "http":
            await enter(scope, receive, send)

    async def enter(scope: Scope, receive: Receive, send: Send) -> None:
        headers = {bytes(name).lower(): bytes(value) for name, value in scope["headers"]}
        method = PATHS.get(scope["path"].rstrip("/") or "/")
        if method is None:
            await _refuse(send, 404, f"there is no {scope['path'][:100]!r} here", "not_found_error")
        elif key and not _fits(key, headers.get(b"authorization", b"")):
            await _refuse(send, 401, "the API key is missing or wrong", "invalid_api_key")
        elif scope["method"] != method:
            await _refuse(send, 405, f"{scope['path']} takes {method}", "invalid_request_error")
        elif scope["path"].startswith("/health"):
            await app(_let_in(scope, inner_key), receive, send)
        elif method == "GET":
            await _send_json(send, 200, _describe_models(names))
        else:
            body = await _read_body(receive)
            complaint = None if body is None else _check_body(body)
            if complaint:
                await _refuse(send, *complaint)
            elif body is not None:
                replayed = _replay(body, receive)
                await app(_let_in(scope, inner_key), replayed, _mend_reply(send))

    return door


def _announce(send: Send, ready: Callable[[], None]) -> Send:
    async def send_on(message: Message) -> None:
        await send(message)
        if message["type"] == "lifespan.startup.complete":
            ready()

    return send_on


async def _refuse(send: Send, status: int, message: str, kind: str) -> None:
    """Answer with an error as OpenAI's API words it."""
    code = kind if status in (401, 404) else str(status)
    error = {"message": message, "type": kind, "param": None, "code": code}
    await _send_json(send, status, {"error": error})


def _describe_models(names: Sequence[str]) -> dict[str, Any]:
    models = [
        {"id": name, "object": "model", "created": 0, "owned_by": "scale_dspy"} for name in names
    ]
    return {"object": "list", "data": models}


async def _send_json(send: Send, status: int, value: Any) -> None:
    content = json.dumps(value).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(content)).encode()),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": content})


async def _read_body(receive: Receive) -> bytes | None:
    """The body, cut off behind LARGEST_BODY; None where the client left."""
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


def _check_body(body: bytes) -> tuple[int, str, str] | None:
    """(status, message, type) of what is wrong with it."""
    if len(body) > LARGEST_BODY:
        return 413, f"the body has more than {LARGEST_BODY:,} bytes", "invalid_request_error"
    try:
        request = json.loads(body)
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deep" if isinstance(error, RecursionError) else str(error)
        return 400, f"the body is not JSON: {reason}", "invalid_request_error"
    if not isinstance(request, dict):
        return 400, "the body is no JSON object", "invalid_request_error"
    unknown = sorted(set(request) - FIELDS)
    if unknown:
        return 400, f"unknown field {unknown[0][:100]!r}", "invalid_request_error"
    if not isinstance(request.get("messages"), list) or not all(
        isinstance(message, dict) for message in request["messages"]
    ):
        return 400, "messages is a list of objects", "invalid_request_error"
    if not isinstance(request.get("model"), str):
        return 400, "model is a text: GET /v1/models lists what there is", "invalid_request_error"
    return None


def _replay(body: bytes, receive: Receive) -> Receive:
    """`receive` for an application that has not read the body yet."""
    messages = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive_again() -> Message:
        return messages.pop() if messages else await receive()

    return receive_again


def _mend_reply(send: Send) -> Send:
    """The proxy drops the provider's Retry-After, so add one to every 429. It answers an
    unexpected failure in plain text, so send a JSON error instead."""
    failed = False

    async def send_on(message: Message) -> None:
        nonlocal failed
        if message["type"] == "http.response.start":
            headers = dict(message["headers"])
            if message["status"] == 429:
                headers[b"retry-after"] = str(RETRY_AFTER).encode()
                message = {**message, "headers": list(headers.items())}
            failed = message["status"] >= 500 and b"json" not in headers.get(b"content-type", b"")
        if not failed:
            await send(message)
        elif message["type"] == "http.response.start":
            await _refuse(send, 500, "the request failed", "internal_server_error")

    return send_on


def _fits(key: str, header: bytes) -> bool:
    scheme, _, given = header.partition(b" ")
    return scheme.lower() == b"bearer" and hmac.compare_digest(given.strip(), key.encode())


def _let_in(scope: Scope, inner_key: str) -> Scope:
    """The request with the proxy's key, and with nothing else that could pass for one."""
    kept = [pair for pair in scope["headers"] if pair[0].lower() not in CREDENTIALS]
    return {**scope, "headers": [*kept, (b"authorization", f"Bearer {inner_key}".encode())]}
