"""Streamed replies: put together as sent in one piece, and honest about those that break off."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from dspy.utils.exceptions import LMProviderError, LMTransportError

from scale_dspy.lm.server_events import read_stream

END = b"data: [DONE]\n"


def write(*pieces: Any) -> list[bytes]:
    return [b"data: " + json.dumps(piece).encode() + b"\n" for piece in pieces]


def choose(finish: str | None = None, **delta: Any) -> dict[str, Any]:
    return {"model": "m", "choices": [{"delta": delta, "finish_reason": finish}]}


def read(lines: list[bytes]) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    async def give() -> AsyncIterator[bytes]:
        for line in lines:
            yield line

    heard: list[tuple[str, str]] = []
    return asyncio.run(read_stream(give(), lambda *piece: heard.append(piece))), heard


def test_pieces_become_the_whole_reply() -> None:
    usage = {"prompt_tokens": 1, "completion_tokens": 3}
    lines = write(
        choose(role="assistant"),
        choose(reasoning_content="so"),
        choose(content="4"),
        choose("stop", content="2"),
        {"choices": [], "usage": usage},
    )
    whole, heard = read([b": a comment\n", b"\n", *lines, END])
    assert heard == [("so", ""), ("", "4"), ("", "2")]
    assert whole == {
        "model": "m",
        "usage": usage,
        "choices": [
            {
                "message": {"role": "assistant", "content": "42", "reasoning_content": "so"},
                "finish_reason": "stop",
            }
        ],
    }


def test_a_stream_that_breaks_off_is_no_reply() -> None:
    with pytest.raises(LMTransportError, match="broke off"):
        read(write(choose(content="half")))


@pytest.mark.parametrize(
    "piece", [5, {"error": {"message": "gone"}}, {"choices": 5}, {"choices": [7]}], ids=str
)
def test_what_is_no_piece_of_a_reply_is_said(piece: Any) -> None:
    with pytest.raises(LMProviderError, match="no chat completion"):
        read([*write(piece), END])


def test_a_line_that_is_no_json_is_said() -> None:
    with pytest.raises(LMProviderError, match="no chat completion: <html>"):
        read([b"data: <html>\n"])
