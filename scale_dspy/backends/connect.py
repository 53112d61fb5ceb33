"""connect(): the dspy.LM of a backend; modes(): how each stage asks it (System 1, System 2).

The mode of a call, thinking on or off, lives in the Predict config of its stage and not in a second
LM: optimizers copy, reset and swap a program's LM, but they keep a predictor's config.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

# Without it both libraries try to fetch a price list from the internet when they are imported.
os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "true")

import dspy
import httpx
import orjson
from dspy.clients.execution import IGNORED_CACHE_KEYS, prepare

from scale_dspy.backends.ledger import (
    CostLimitError,
    Tally,
    open_limits,
    record,
    release_cost,
    reserve_cost,
)
from scale_dspy.backends.loop import run_on_shared_loop

logger = logging.getLogger(__name__)

Style = Literal["hybrid", "prompt", "embedded"]
Modes = dict[str, dict[str, Any]]
"""Request parameters by stage: decompose, select, assess, solve_1, solve_2."""

LONGEST = 32_768  # response tokens that a request without max_tokens is taken to cost at most
POLL = 0.05  # seconds between two looks at a cost limit that requests on their way have used up
TIMEOUT = 3600.0  # seconds; a thinking call that times out starts again from nothing
# GBNF for the embedded model: small models leave a form, or explain until they are cut off.
TWO_LINES = r'''root ::= "1. " line "2. " line
line ::= [^\n]{8,200} "\n"'''
BOXED_LINE = (
    r'''root ::= [-+*/^=() 0-9abcknmxyz]{0,60} "\\boxed{" "-"? [0-9] [-+*/^0-9a-z.() ]{0,20} "}"'''
)


class MeteredLM(dspy.LM):
    """A dspy.LM that enters every reply in the open ledgers and seeds every rollout.

    Args:
        model: as in LiteLLM, `hosted_vllm/NAME` for a vLLM server.
        seed: with it, each request carries a seed made from this number, the rollout id and the
            messages: the same call repeats its reply, another rollout id draws another sample.
        kwargs: as for dspy.LM.
    """

    def __init__(self, model: str, *, seed: int | None = None, **kwargs: Any) -> None:
        # DSPy's own client sends n choices as n requests and drops top_k without a word.
        kwargs.setdefault("engine", "litellm")
        super().__init__(model, **kwargs)
        self.seed = seed

    def __call__(
        self, prompt: Any = None, *, messages: list[dict[str, Any]] | None = None, **kwargs: Any
    ) -> Any:
        kwargs = self._seeded(prompt, messages, kwargs)
        need = self._price(prompt, messages, kwargs, asynchronous=False)
        while not _may_send(need):
            time.sleep(POLL)
        try:
            with _timed():
                return super().__call__(prompt, messages=messages, **kwargs)
        finally:
            release_cost(need)

    async def acall(
        self, prompt: Any = None, *, messages: list[dict[str, Any]] | None = None, **kwargs: Any
    ) -> Any:
        kwargs = self._seeded(prompt, messages, kwargs)
        need = self._price(prompt, messages, kwargs, asynchronous=True)
        while not _may_send(need):  # noqa: ASYNC110 - requests of other threads end the wait
            await asyncio.sleep(POLL)
        try:
            with _timed():
                return await run_on_shared_loop(super().acall(prompt, messages=messages, **kwargs))
        finally:
            release_cost(need)

    def _seeded(self, prompt: Any, messages: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
        if self.seed is None or "seed" in kwargs:
            return kwargs
        rollout = kwargs.get("rollout_id", self.kwargs.get("rollout_id"))
        sample = orjson.dumps([self.seed, rollout, messages or str(prompt)])
        return {**kwargs, "seed": zlib.crc32(sample) & 0x7FFFFFFF}

    def _price(
        self, prompt: Any, messages: Any, kwargs: dict[str, Any], *, asynchronous: bool
    ) -> int:
        """Response tokens it may cost at most; 0 where there is no limit, and from the cache."""
        if not open_limits() or self._is_cached(prompt, messages, kwargs, asynchronous):
            return 0
        asked = {**self.kwargs, **kwargs}
        longest = asked.get("max_tokens") or asked.get("max_completion_tokens") or LONGEST
        return int(longest) * int(asked.get("n") or 1)

    def _is_cached(
        self, prompt: Any, messages: Any, kwargs: dict[str, Any], asynchronous: bool
    ) -> bool:
        call = prepare(self, prompt, messages, kwargs, asynchronous=asynchronous)
        key = call.key(self, asynchronous)
        return call.cache and dspy.cache.get(key, IGNORED_CACHE_KEYS) is not None

    def _process_completion(self, response: Any, merged_kwargs: dict[str, Any]) -> list[Any]:
        """Enter the reply in the ledgers; called once for each reply, cached ones included."""
        hit = bool(getattr(response, "cache_hit", False))
        record(_read_usage(response, hit), from_cache=hit)
        outputs = super()._process_completion(response, merged_kwargs)
        reasons = [getattr(choice, "finish_reason", None) for choice in response.choices or []]
        if "length" not in reasons:
            return list(outputs)
        return [
            {**(output if isinstance(output, dict) else {"text": output}), "finish_reason": reason}
            for output, reason in zip(outputs, reasons, strict=True)
        ]

    def _check_truncation(self, results: Any) -> None:
        """Say nothing: a reply that was cut off is recorded by the stage that asked."""


def connect(
    model: str | None = None,
    api_base: str | None = None,
    api_key: str | None = None,
    *,
    seed: int | None = None,
    timeout: float = TIMEOUT,
    **kwargs: Any,
) -> MeteredLM:
    """The LM of a backend.

    What is not given is read from SCALE_MODEL, SCALE_API_BASE and SCALE_API_KEY.

    With an api_base it is a vLLM server (or any server with its API), with a model alone whatever
    LiteLLM knows by that name, and a GGUF file or nothing at all means the embedded model.

    Args:
        model: name as served; may be left out where a server serves one model.
        api_base: for example http://127.0.0.1:8000/v1
        seed: makes runs repeatable; see MeteredLM.
        timeout: seconds for one request.
        kwargs: handed on to dspy.LM (cache, num_retries, temperature, ...).

    Raises:
        ConnectionError: the server cannot be asked for its model's name.
        EmbeddedError: the embedded model is not installed or does not start.

    >>> connect("Qwen/Qwen3-32B", "http://127.0.0.1:8000/v1", seed=0).model
    'hosted_vllm/Qwen/Qwen3-32B'
    """
    model = model or os.environ.get("SCALE_MODEL")
    api_base = api_base or os.environ.get("SCALE_API_BASE")
    api_key = api_key or os.environ.get("SCALE_API_KEY")
    if uses_embedded(model, api_base):
        from scale_dspy.backends.embedded import serve

        server = serve(model)
        model, api_base = server.model, server.api_base
    if api_base:
        model = model or ask_for_model(api_base, api_key)
        known = model.startswith(("hosted_vllm/", "litellm_proxy/"))
        model = model if known else f"hosted_vllm/{model}"
        kwargs["api_base"] = api_base.rstrip("/")
    if api_key:
        kwargs["api_key"] = api_key
    return MeteredLM(str(model), seed=seed, timeout=timeout, **kwargs)


def uses_embedded(model: str | None, api_base: str | None) -> bool:
    """Whether connect() would serve this model itself, on the CPU."""
    if api_base:
        return False
    if model is None or Path(model).suffix == ".gguf":
        return True
    from scale_dspy.backends.embedded import MODELS

    return model in MODELS


def ask_for_model(api_base: str, api_key: str | None = None) -> str:
    """The name of the one model that a server serves.

    Raises:
        ConnectionError: no answer, no model, or several of them.
    """
    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    try:
        reply = httpx.get(f"{api_base.rstrip('/')}/models", headers=headers, timeout=10)
        reply.raise_for_status()
        names = [entry["id"] for entry in reply.json()["data"]]
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, KeyError, TypeError) as error:
        raise ConnectionError(f"the server does not tell which models it serves: {error}") from None
    if len(names) != 1:
        raise ConnectionError(f"the server serves {len(names)} models, choose one: {names}")
    return str(names[0])


def modes(
    style: Style = "hybrid", *, think_at_most: int | None = None, **stages: Mapping[str, Any]
) -> Modes:
    """Request parameters for each stage.

    Styles: `hybrid` switches thinking off and on by the chat template (Qwen3 and its like);
    `prompt` is for models without a thinking mode, where System 1 answers at once within a small
    limit and System 2 reasons step by step in its reply; `embedded` is `prompt` for the small model
    on the CPU: shorter still, and held in form by grammars.

    Args:
        think_at_most: reasoning tokens of one System 2 call, kept by a vLLM server that was
            started with a reasoning parser (its `thinking_token_budget`).
        stages: parameters by stage that replace the style's own, for example
            `solve_2={"max_tokens": 8192}`.

    Raises:
        ValueError: an unknown style or stage.

    >>> modes("prompt", solve_2={"max_tokens": 4096})["solve_2"]["max_tokens"]
    4096
    """
    if style not in _STYLES:
        raise ValueError(f"unknown style {style!r}: choose one of {', '.join(_STYLES)}")
    chosen = {stage: dict(config) for stage, config in _STYLES[style].items()}
    if think_at_most is not None:
        body = dict(chosen["solve_2"].get("extra_body", {}))
        chosen["solve_2"]["extra_body"] = {**body, "thinking_token_budget": think_at_most}
    for stage, config in stages.items():
        if stage not in chosen:
            raise ValueError(f"unknown stage {stage!r}: choose from {', '.join(chosen)}")
        chosen[stage].update(config)
    return chosen


_calls: set[object] = set()


def count_in_flight() -> int:
    """Model calls of this process that wait for a reply at this moment."""
    return len(_calls)


def choose_modes(modes_or_style: Modes | Style) -> Modes:
    """The modes themselves, or those of the style so named."""
    return modes(modes_or_style) if isinstance(modes_or_style, str) else modes_or_style


# Sampling as in the released code of SCALE: 0.7 / 0.8 for System 1, 0.6 / 0.95 for System 2.
_SYSTEM_1 = {"temperature": 0.7, "top_p": 0.8, "top_k": 20}
_SYSTEM_2 = {"temperature": 0.6, "top_p": 0.95, "top_k": 20}
# No top_p: for it vLLM on a CPU sorts the whole vocabulary at every token, and for the top 20 it
# need not (48 rows of 152,000 on 2 busy cores: 5.9 seconds against 0.2).
_PLAIN = {"temperature": 0.6, "top_p": 1.0, "top_k": 20}
_NO_THINKING = {"extra_body": {"chat_template_kwargs": {"enable_thinking": False}}}
_THINKING = {"extra_body": {"chat_template_kwargs": {"enable_thinking": True}}}
_NUMBER = 16  # response tokens for a score or a choice

_STYLES: dict[str, Modes] = {
    "hybrid": {
        "decompose": {**_SYSTEM_1, **_NO_THINKING, "max_tokens": 2048},
        "select": {**_SYSTEM_1, **_NO_THINKING, "max_tokens": _NUMBER},
        "assess": {**_SYSTEM_1, **_NO_THINKING, "max_tokens": _NUMBER},
        "solve_1": {**_SYSTEM_1, **_NO_THINKING, "max_tokens": 8192},
        "solve_2": {**_SYSTEM_2, **_THINKING, "max_tokens": 32768},
    },
    "prompt": {
        "decompose": {**_PLAIN, "max_tokens": 512},
        "select": {**_PLAIN, "max_tokens": _NUMBER},
        "assess": {**_PLAIN, "max_tokens": _NUMBER},
        "solve_1": {**_PLAIN, "max_tokens": 256},
        "solve_2": {**_PLAIN, "max_tokens": 2048},
    },
    # One choice a request: llama.cpp gains nothing from n and reports the usage of one choice.
    "embedded": {
        "decompose": {
            **_SYSTEM_1,
            "n": 1,
            "max_tokens": 160,
            "extra_body": {"grammar": TWO_LINES},
        },
        "select": {**_SYSTEM_1, "max_tokens": _NUMBER, "extra_body": {"grammar": "root ::= [1-9]"}},
        "assess": {
            **_SYSTEM_1,
            "max_tokens": _NUMBER,
            "extra_body": {"grammar": 'root ::= "0." [0-9]'},
        },
        "solve_1": {**_SYSTEM_1, "max_tokens": 96, "extra_body": {"grammar": BOXED_LINE}},
        "solve_2": {**_SYSTEM_2, "max_tokens": 448},
    },
}


def _may_send(tokens: int) -> bool:
    """Whether the cost limit lets a request go now.

    Raises:
        CostLimitError: it never will.
    """
    allowed = reserve_cost(tokens)
    if allowed is None:
        raise CostLimitError(f"the cost limit has no room for {tokens:,} response tokens more")
    return allowed


@contextmanager
def _timed() -> Iterator[None]:
    started = time.perf_counter()
    call = object()
    _calls.add(call)
    try:
        yield
    finally:
        _calls.discard(call)
        record(Tally(seconds=time.perf_counter() - started))


def _read_usage(response: Any, hit: bool) -> Tally:
    """The server's own count. DSPy clears `usage` on a cache hit, so the reply carries a copy."""
    carried = response._hidden_params
    if not hit:
        carried["scale_usage"] = _plain_usage(response)
        # The reply goes into DSPy's cache on disk, which shall not tell where the server is.
        for private in ("api_base", "headers", "additional_headers"):
            carried.pop(private, None)
        response._response_headers = None
    return Tally(calls=1, **carried.get("scale_usage", {}))


def _plain_usage(response: Any) -> dict[str, int]:
    usage = getattr(response, "usage", None)
    details = getattr(usage, "completion_tokens_details", None)
    return {
        "prompt_tokens": getattr(usage, "prompt_tokens", 0) or 0,
        "completion_tokens": getattr(usage, "completion_tokens", 0) or 0,
        "reasoning_tokens": getattr(details, "reasoning_tokens", 0) or 0,
    }
