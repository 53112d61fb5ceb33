"""Replies in OpenAI's form: the door's own, and LiteLLM's, corrected on their way out.

Of LiteLLM's headers only a short list passes. Its errors lose what LiteLLM adds to the message and
take the form of all errors here; the last chunk of a stream, which has the usage, loses its choice.
"""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from typing import Any

Message = MutableMapping[str, Any]
Send = Callable[[Message], Awaitable[None]]
Headers = Sequence[tuple[bytes, bytes]]

RETRY_AFTER = 5  # seconds after which a client that gets 429 may ask again
LARGEST_ERROR = 1 << 20  # bytes of LiteLLM's errors that are read
PASSED = (b"content-type", b"content-length", b"cache-control", b"x-accel-buffering")

KINDS = {
    401: "invalid_api_key",
    404: "not_found_error",
    408: "timeout_error",
    429: "rate_limit_error",
    504: "timeout_error",
}


async def send_json(
    send: Send, status: int, value: Any, headers: Headers = (), *, ends: bool = True
) -> None:
    """Answer with JSON.

    Args:
        ends: whether this completes the response. If not, the client has the whole reply all the
            same, and the caller completes the response with an empty body.
    """
    content = json.dumps(value).encode()
    written = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(content)).encode()),
        *headers,
    ]
    await send({"type": "http.response.start", "status": status, "headers": written})
    await send({"type": "http.response.body", "body": content, "more_body": not ends})


async def send_error(
    send: Send,
    status: int,
    message: str,
    param: str | None = None,
    headers: Headers = (),
    *,
    ends: bool = True,
) -> None:
    """Answer with an error in the form of OpenAI's; `ends` as for send_json."""
    more = [(b"retry-after", str(RETRY_AFTER).encode())] if status == 429 else []
    error = describe_error(status, message, param)
    await send_json(send, status, {"error": error}, [*more, *headers], ends=ends)


def describe_error(status: int, message: str, param: str | None = None) -> dict[str, Any]:
    """The four fields of an OpenAI error."""
    kind = KINDS.get(status) or (
        "internal_server_error" if status >= 500 else "invalid_request_error"
    )
    code = kind if status in (401, 404) else str(status)
    return {"message": message, "type": kind, "param": param, "code": code}


def mend_reply(send: Send, headers: Headers = ()) -> Send:
    """A `send` for LiteLLM's proxy: whatever it answers goes out in OpenAI's form.

    Args:
        headers: what a successful reply gets beside its own.
    """
    status, streams, held = 200, False, b""

    async def send_on(message: Message) -> None:
        nonlocal status, streams, held
        if message["type"] == "http.response.start":
            status, given = message["status"], dict(message["headers"])
            streams = b"event-stream" in given.get(b"content-type", b"")
            if status < 400:
                passed = [(name, given[name]) for name in PASSED if name in given]
                await send({**message, "headers": [*passed, *headers]})
            return
        held += message.get("body", b"")
        more = bool(message.get("more_body"))
        if status >= 400:
            held = held[:LARGEST_ERROR]
            if not more:
                await send_error(send, status, _read_message(held))
        elif streams:
            *whole, rest = held.split(b"\n\n") if more else [held]
            held = rest if more else b""
            events = whole if more else [rest]
            mended = b"\n\n".join(_mend_event(event) for event in events)
            ending = b"\n\n" if more and whole else b""
            await send({**message, "body": mended + ending})
        else:
            piece, held = held, b""
            await send({**message, "body": piece})

    return send_on


def _mend_event(event: bytes) -> bytes:
    """One event of a stream, without the blank line that ends it."""
    if not event.startswith(b"data: {") or not (b'"usage"' in event or b'"error"' in event):
        return event
    try:
        value = json.loads(event.removeprefix(b"data: "))
    except ValueError:
        return event
    error, choices = value.get("error"), value.get("choices")
    if isinstance(error, Mapping):
        code = str(error.get("code"))
        status = int(code) if re.fullmatch("[45][0-9][0-9]", code) else 500
        value = {"error": describe_error(status, _clean(error.get("message")))}
    elif value.get("usage") and isinstance(choices, list) and not any(map(_says, choices)):
        value["choices"] = []
    else:
        return event
    return b"data: " + json.dumps(value, ensure_ascii=False).encode()


def _says(choice: Mapping[str, Any]) -> bool:
    delta = choice.get("delta") or {}
    return bool(choice.get("finish_reason") or any(each for each in delta.values()))


def _read_message(content: bytes) -> str:
    try:
        return _clean(json.loads(content)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return _clean(None)


def _clean(message: Any) -> str:
    """A provider's message, without the class name before it and the router's notes after it."""
    if not isinstance(message, str):
        return "the request failed"
    said = message.partition("\n\nLiteLLM:")[0].partition(" Received Model Group")[0]
    return re.sub(r"^(?:litellm\.)?(?:[A-Za-z]+Error: |Timeout: |litellm\.)*", "", said)[:2000]
