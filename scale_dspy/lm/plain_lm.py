"""Calls to a dspy.LM that connect() did not make, without budgets and cost limits."""

from __future__ import annotations

import asyncio
import warnings
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from dspy import lm15

from scale_dspy.lm.chat import EXTENSION, ChatChoice, Order, read_choices, write_request
from scale_dspy.lm.client import PREFIXES
from scale_dspy.lm.modes import PARTNER
from scale_dspy.lm.tally import Tally
from scale_dspy.lm.usage import record

OWN = ("temperature", "max_tokens")  # if set on the LM, they override the modes
# Parameters of dspy.LM that belong to its connection and not to a request.
CONNECTION = frozenset(
    "api_key api_base base_url headers extra_headers timeout api_version azure_ad_token_provider "
    "organization project extra_query custom_llm_provider prompt_cache".split()
)
_warned: set[type] = set()


async def ask_plain_lm(
    lm: Any, messages: Sequence[Mapping[str, Any]], config: Mapping[str, Any]
) -> list[ChatChoice]:
    """The choices of a call, one request for each, through DSPy's own interface.

    The caller's own temperature and max_tokens hold for every stage. The usage that the response
    reports is entered in the open ledgers; a reply from DSPy's cache reports none.
    """
    if type(lm) not in _warned:
        _warned.add(type(lm))
        warnings.warn(
            f"this {type(lm).__name__} is not from scale_dspy.connect(): it keeps no budget and no "
            "cost limit, it has no seeds, its replies from DSPy's cache count as 0 tokens, and "
            "each choice is a request of its own",
            stacklevel=2,
        )
    own = {name: lm.kwargs[name] for name in OWN if lm.kwargs.get(name) is not None}
    given = {**lm.kwargs, **config, **own}
    given = {name: value for name, value in given.items() if name not in {*CONNECTION, PARTNER}}
    cache = {"cache": given.pop("cache")} if "cache" in given else {}
    choices, rollout = given.pop("n", None) or 1, given.pop("rollout_id", None)
    if lm.model.startswith(PREFIXES) and given.get("top_k"):
        # DSPy's own client drops top_k, unless it is in extra_body.
        given["extra_body"] = {**(given.get("extra_body") or {}), "top_k": given.pop("top_k")}
    request = _drop_own(write_request(lm.model, messages, given, Order()))

    async def ask_once(number: int) -> ChatChoice:
        rollouts = {} if rollout is None else {"rollout_id": rollout}
        if number:
            rollouts = {"rollout_id": zlib.crc32(f"{rollout}/{number}".encode()) | 1 << 31}
        response = await lm.acall(request, **cache, **rollouts)
        used = response.usage
        record(
            Tally(1, used.input_tokens or 0, used.output_tokens or 0, used.reasoning_tokens or 0)
        )
        return read_choices(response)[0]

    return list(await asyncio.gather(*map(ask_once, range(choices))))


def _drop_own(request: lm15.Request) -> lm15.Request:
    """The request without the extension that only our engine reads."""
    extensions = {k: v for k, v in (request.config.extensions or {}).items() if k != EXTENSION}
    return replace(request, config=replace(request.config, extensions=extensions or None))
