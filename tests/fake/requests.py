"""Reading a request as vLLM does: its body, its key, and the sampling it asks for."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

from aiohttp import web

from tests.fake.model import Sampling
from tests.fake.orders import Options, RefusedError, refuse_input


async def read_body(request: web.Request) -> dict[str, Any]:
    """The decoded body, which has to be an object."""
    try:
        body = await request.json()
    except ValueError as error:
        raise refuse_input(f"JSON decode error: {error}", "body") from None
    if not isinstance(body, dict):
        raise refuse_input("Input should be a valid dictionary", "body")
    return body


def check_key(request: web.Request, options: Options) -> None:
    """Refuse a request that lacks the key."""
    key = options.api_key
    if key is None or not request.path.startswith("/v1"):
        return
    if request.headers.get("Authorization") != f"Bearer {key}":
        raise RefusedError(401, "Unauthorized", "Unauthorized")


OFF = (False, "disabled", "no_think", "none", 0)  # values of a switch that turn thinking off
LITTLE = 8  # words of reasoning at low effort


def read_thinking(body: Mapping[str, Any], options: Options) -> bool:
    """Whether the reply starts with reasoning."""
    if body.get("thinking_token_budget") == 0 and options.closes:
        return False
    if options.thinking != "switch":
        return options.thinking == "always"
    given = _read_switch(body, options.switch)
    return options.thinks if given is None else given not in OFF


def _read_switch(body: Mapping[str, Any], switch: str) -> Any:
    """What a request says of the switch; None where it says nothing."""
    effort = body.get("reasoning_effort")
    kwargs = body.get("chat_template_kwargs") or {}
    if switch == "levels":
        return "low"
    if switch == "reasoning_effort":
        return kwargs.get("reasoning_effort", effort)
    if " " in switch or "/" in switch:  # words
        on = switch.replace("/no_think", "/think").replace("off", "on")
        said = str(body["messages"][0].get("content"))
        if body["messages"][0].get("role") != "system" or not (switch in said or on in said):
            return None
        return switch not in said
    if switch == "enable_thinking" and effort is not None and switch not in kwargs:
        return effort
    return kwargs.get(switch)


def refuse_fields(body: Mapping[str, Any], options: Options) -> None:
    """Refuse a request with a field that the server does not take."""
    for name in options.refuses:
        if name in body:
            raise refuse_input(f"{name} is not supported by this model", name)


def _limit_thought(body: Mapping[str, Any], options: Options) -> int | None:
    """The most words of reasoning."""
    most: int | None = body.get("thinking_token_budget") if options.closes else None
    if options.switch == "levels" and body.get("reasoning_effort") == "low":
        most = LITTLE if most is None else min(most, LITTLE)
    return most


def read_sampling(
    body: Mapping[str, Any], options: Options, prompt_tokens: int, seen: Counter[bytes]
) -> Sampling:
    """The sampling that a chat request asks for, or the refusal that vLLM would give.

    Args:
        seen: how often each prompt without a seed was sent; this one is counted.
    """
    refuse_fields(body, options)
    name = body.get("model")
    if name != options.model:
        raise RefusedError(404, f"The model `{name}` does not exist.", "NotFoundError", "model")
    n = body.get("n") or 1
    if n > 1 and body.get("temperature") == 0:
        raise refuse_input(f"n must be 1 when using greedy sampling, got {n}.", "n")
    structured = body.get("structured_outputs") or {}
    return Sampling(
        thinking=read_thinking(body, options),
        aloud=options.thinking == "never",
        n=n,
        seed=_read_seed(body, seen),
        room=_find_room(body, options, prompt_tokens),
        think_at_most=_limit_thought(body, options),
        allowed=tuple(structured.get("choice") or ()),
    )


def _read_seed(body: Mapping[str, Any], seen: Counter[bytes]) -> object:
    """The request's seed; without one, how often these messages were sent before."""
    if body.get("seed") is not None:
        return body["seed"]
    if body.get("temperature") == 0:
        return "greedy"
    digest = hashlib.blake2b(json.dumps(body["messages"]).encode(), digest_size=8).digest()
    seen[digest] += 1
    return "arrival", seen[digest]


def _find_room(body: Mapping[str, Any], options: Options, prompt_tokens: int) -> int:
    length = options.max_model_len
    asked = body.get("max_completion_tokens") or body.get("max_tokens")
    if body.get("max_tokens") is not None and body["max_tokens"] < 1:
        raise refuse_input(
            f"max_tokens must be at least 1, got {body['max_tokens']}.", "max_tokens"
        )
    if prompt_tokens + (asked or 1) > length:
        raise refuse_input(
            f"This model's maximum context length is {length} tokens. However, you requested "
            f"{asked or 0} output tokens and your prompt contains at least {prompt_tokens} "
            f"input tokens, for a total of at least {prompt_tokens + (asked or 1)} tokens. "
            "Please reduce the length of the input prompt or the number of requested output "
            "tokens.",
            "input_tokens",
        )
    return asked or length - prompt_tokens
