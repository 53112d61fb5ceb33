"""Read a streamed chat completion: pass its pieces on, and assemble the whole reply."""

from __future__ import annotations

import json
from collections.abc import AsyncIterable, Callable
from typing import Any

from dspy.utils.exceptions import LMProviderError, LMTransportError

Hear = Callable[[str, str], None]
"""Called with each piece of a reply as it comes: (reasoning, text), one of which may be empty."""


async def read_stream(lines: AsyncIterable[bytes], hear: Hear) -> dict[str, Any]:
    """The reply of one choice, as the server would have sent it in one piece.

    Raises:
        LMTransportError: the stream ended before the reply did.
        LMProviderError: an event is no piece of a chat completion.
    """
    text, thought, finish, done = "", "", None, False
    tokens: list[Any] = []
    whole: dict[str, Any] = {}
    async for line in lines:
        if not line.startswith(b"data:"):
            continue
        data = line[5:].strip()
        if data == b"[DONE]":
            done = True
            break
        piece = _decode(data)
        whole |= {name: piece[name] for name in ("model", "usage") if piece.get(name)}
        for choice in _list_choices(piece):
            said, reasoned = _read_delta(choice)
            text, thought = text + said, thought + reasoned
            if said or reasoned:
                hear(reasoned, said)
            tokens += (choice.get("logprobs") or {}).get("content") or ()
            finish = choice.get("finish_reason") or finish
    if not done and finish is None:
        raise LMTransportError("the stream of the reply broke off")
    message = {"role": "assistant", "content": text, "reasoning_content": thought or None}
    logprobs = {"logprobs": {"content": tokens}} if tokens else {}
    return {**whole, "choices": [{"message": message, "finish_reason": finish, **logprobs}]}


def _decode(data: bytes) -> dict[str, Any]:
    try:
        piece = json.loads(data)
        if isinstance(piece, dict) and "error" not in piece:
            return piece
    except (ValueError, RecursionError):
        pass
    raise _complain(data.decode("utf-8", "replace"))


def _list_choices(piece: dict[str, Any]) -> list[dict[str, Any]]:
    """The choices of a piece; the last piece, which reports the usage, has none."""
    choices = piece.get("choices") or []
    if not isinstance(choices, list) or not all(isinstance(each, dict) for each in choices):
        raise _complain(str(choices))
    return choices


def _read_delta(choice: dict[str, Any]) -> tuple[str, str]:
    """(text, reasoning) of one choice's piece."""
    delta = choice.get("delta")
    if not isinstance(delta, dict):
        return "", ""
    parts = delta.get("content"), delta.get("reasoning_content") or delta.get("reasoning")
    text, reasoning = (part if isinstance(part, str) else "" for part in parts)
    return text, reasoning


def _complain(said: str) -> LMProviderError:
    return LMProviderError(f"the server's reply is no chat completion: {said[:120]}", status=200)
