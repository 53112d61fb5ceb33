"""Writing replies as vLLM does, whole and in pieces, and breaking them by order."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from aiohttp import web

from tests.fake.log import Entry
from tests.fake.model import Choice
from tests.fake.orders import Fault, Options, RefusedError, Totals, as_tuple
from tests.fake.prompts import count_tokens


class BrokenError(Exception):
    """The connection is to break now."""


def write_message(choice: Choice, options: Options) -> dict[str, Any]:
    """The message of a choice."""
    reasoning, content = _place_reasoning(choice, options)
    message = {"role": "assistant", "content": content, "tool_calls": []}
    if options.reasoning_field:
        message[options.reasoning_field] = reasoning or None
    return message


def _place_reasoning(choice: Choice, options: Options) -> tuple[str, str | None]:
    """(reasoning, content) as the reasoning parser, or its absence, leaves them."""
    if options.reasoning_field or not choice.reasoning:
        return choice.reasoning, choice.content
    opened = f"<think>\n{choice.reasoning}"
    return "", opened if choice.content is None else f"{opened}\n</think>\n\n{choice.content}"


def write_logprobs(choice: Choice, body: Mapping[str, Any], options: Options) -> Any:
    """The log-probabilities of a choice's tokens, its words; None where they are not asked for."""
    if not body.get("logprobs") or not options.logprobs:
        return None
    words = (choice.content or "").split()
    tokens = [{"token": word, "logprob": -choice.surprise, "bytes": None} for word in words]
    return {"content": [{**token, "top_logprobs": []} for token in tokens]}


def write_usage(
    prompt_tokens: int, cached: int, choices: Sequence[Choice], options: Options
) -> dict[str, Any]:
    """The usage of a reply, of whose prompt the prefix cache held `cached` tokens."""
    counted = choices[:1] if options.usage == "one" else choices
    completion = sum(choice.tokens for choice in counted)
    thought = sum(count_tokens(choice.reasoning) for choice in counted)
    parsed = options.reasoning_field is not None
    return {
        "prompt_tokens": prompt_tokens,
        "total_tokens": prompt_tokens + completion,
        "completion_tokens": completion,
        "prompt_tokens_details": {"cached_tokens": cached} if options.cached_tokens else None,
        "completion_tokens_details": {"reasoning_tokens": thought} if parsed else None,
    }


def add_up(usage: Mapping[str, Any]) -> Totals:
    """The totals of one reply."""
    details = usage.get("completion_tokens_details") or {}
    return Totals(
        1,
        usage.get("prompt_tokens", 0),
        usage.get("completion_tokens", 0),
        details.get("reasoning_tokens", 0),
    )


def write_envelope(entry: Entry, kind: str) -> dict[str, Any]:
    """What every object of a reply begins with."""
    head = {"id": f"chatcmpl-fake{entry.number}", "object": kind, "created": 0}
    return {**head, "model": entry.body.get("model")}


def tell_usage(entry: Entry) -> Any:
    """The usage that a reply tells of, which by order is another than what it was."""
    ordered = entry.fault.usage if entry.fault else None
    return entry.usage if ordered is None else ordered


def write_chunks(entry: Entry, options: Options) -> Iterator[tuple[dict[str, Any], int]]:
    """(chunk, its tokens) of a streamed reply, in order."""
    for index, choice in enumerate(entry.choices):
        reasoning, content = _place_reasoning(choice, options)
        yield _write_delta(index, {"role": "assistant", "content": ""}), 0
        for name, text in ((options.reasoning_field, reasoning), ("content", content)):
            for piece in re.findall(r"\s*(?:\S+\s*){1,8}", text or ""):
                yield _write_delta(index, {str(name): piece}), count_tokens(piece)
        yield _write_delta(index, {}, choice.finish_reason), 0
    asked = (entry.body.get("stream_options") or {}).get("include_usage")
    if asked and options.usage != "none":
        yield {"choices": [], "usage": tell_usage(entry)}, 0


def _write_delta(
    index: int, delta: dict[str, Any], finish_reason: str | None = None
) -> dict[str, Any]:
    return {"choices": [{"index": index, "delta": delta, "finish_reason": finish_reason}]}


async def send_event(response: web.StreamResponse, event: dict[str, Any]) -> None:
    await response.write(f"data: {json.dumps(event)}\n\n".encode())


def write_refusal(error: RefusedError) -> web.Response:
    """The reply to a request that is refused."""
    after = error.retry_after
    told = after if isinstance(after, str) else f"{after:g}" if after is not None else ""
    headers = {"Retry-After": told} if told else {}
    content: Any = {
        "message": str(error),
        "type": error.kind,
        "param": error.param,
        "code": error.status,
    }
    if error.status == 401:
        content = str(error)  # as vLLM's own check of the key says it
    return web.json_response({"error": content}, status=error.status, headers=headers)


def override(choices: list[Choice], fault: Fault) -> list[Choice]:
    """The choices as a fault has them."""
    if fault.empty_choices:
        return []
    changed = []
    for number, choice in enumerate(choices):
        content = choice.content
        if fault.content is not None:
            contents = as_tuple(fault.content)
            content = contents[number % len(contents)]
        changed.append(
            Choice(
                None if fault.null_content else content,
                choice.reasoning if fault.reasoning is None else fault.reasoning,
                fault.finish_reason or choice.finish_reason,
            )
        )
    return changed


def is_unreadable(fault: Fault | None) -> bool:
    """Whether a fault leaves no reply that a client can read."""
    if fault is None:
        return False
    cut = fault.cut_json or fault.body is not None
    return bool(cut or fault.content_type or fault.reset)


async def play_early(fault: Fault) -> None:
    """What goes wrong before there is a reply."""
    if fault.stall:
        await asyncio.sleep(fault.stall)
    if fault.reset == "before":
        raise BrokenError
    if fault.status is not None:
        kind = "InternalServerError" if fault.status >= 500 else "BadRequestError"
        raise RefusedError(fault.status, fault.message, kind, retry_after=fault.retry_after)


async def damage(request: web.Request, fault: Fault, response: web.Response) -> web.StreamResponse:
    """The response as a fault of the body leaves it."""
    body = bytes(response.body or b"")
    if fault.content_type:
        page = "<html><body>502 Bad Gateway</body></html>"
        return web.Response(text=page, content_type=fault.content_type)
    if fault.body is not None:
        return web.Response(text=fault.body, content_type="application/json")
    if fault.cut_json:
        return web.Response(body=body[: len(body) // 2], content_type="application/json")
    if fault.reset == "middle":
        headers = {"Content-Type": "application/json", "Content-Length": str(len(body))}
        half = web.StreamResponse(headers=headers)
        await half.prepare(request)
        await half.write(body[: len(body) // 2])
        raise BrokenError
    return response


def break_off(request: web.Request) -> None:
    """Break the connection."""
    if request.transport:
        request.transport.abort()
