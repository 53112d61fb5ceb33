"""connect(): the dspy.LM of a backend, which counts, limits and seeds its calls.

How each stage asks it is told in modes.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# Without it both libraries try to fetch a price list from the internet when they are imported.
os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "true")

import dspy
import httpx
import orjson
from dspy.clients.execution import IGNORED_CACHE_KEYS, prepare
from dspy.utils.exceptions import LMConfigurationError, LMError, LMTransportError

from scale_dspy.lm.embedded.server import explain_end, find_key
from scale_dspy.lm.event_loop import run_on_shared_loop
from scale_dspy.lm.modes import PARTNER, Style, take_words
from scale_dspy.lm.routing import (
    Replica,
    find_replicas,
    split_addresses,
    take_turns,
    work_on,
)
from scale_dspy.lm.tally import Tally
from scale_dspy.lm.usage import (
    CostLimitError,
    open_limits,
    record,
    record_failure,
    release_cost,
    reserve_cost,
)

logger = logging.getLogger(__name__)

LONGEST = 32_768  # response tokens that a request without max_tokens is taken to cost at most
RETRIES = 3  # times that a request is sent again after a failure that may pass
POLL = 0.05  # seconds between two looks at a cost limit that requests on their way have used up
PRICES = (
    "input_cost_per_token",
    "output_cost_per_token",
    "cache_creation_input_token_cost",
    "cache_read_input_token_cost",
)
TIMEOUT = 3600.0  # seconds; a thinking call that times out starts again from nothing


class MeteredLM(dspy.LM):
    """A dspy.LM that enters every reply in the open ledgers and seeds every rollout.

    Args:
        model: as in LiteLLM, `hosted_vllm/NAME` for a vLLM server.
        seed: with it, each request carries a seed made from this number, the rollout id and the
            messages: the same call repeats its reply, another rollout id draws another sample.
        partner: the other model of a pair; it answers the calls whose config has PARTNER.
        num_retries: times that a request is sent again after a failure that may pass.
        style: the one that the model needs, where it cannot serve another; see `fit_request`.
        kwargs: as for dspy.LM.
    """

    def __init__(
        self,
        model: str,
        *,
        seed: int | None = None,
        partner: MeteredLM | None = None,
        num_retries: int = RETRIES,
        style: Style | None = None,
        **kwargs: Any,
    ) -> None:
        _load_litellm(model)
        # DSPy's own client sends n choices as n requests and drops top_k without a word.
        kwargs.setdefault("engine", "litellm")
        super().__init__(model, num_retries=0, **kwargs)  # `take_turns` is the loop here
        self.seed = seed
        self.partner = partner
        self.retries = num_retries
        self.style = style
        self.found: dict[str, Any] | None = None  # how its modes were found, for run.json
        self._learned: dict[str, int] = {}  # shared with the LM's copies

    def __call__(
        self, prompt: Any = None, *, messages: list[dict[str, Any]] | None = None, **kwargs: Any
    ) -> Any:
        other = self.find_lm(kwargs)
        if other is not self:
            return other(prompt, messages=messages, **self._hand_over(kwargs))
        messages, kwargs = take_words(messages, kwargs)
        kwargs = self._seeded(prompt, messages, kwargs)
        need = self._price(prompt, messages, kwargs, asynchronous=False)
        while not _may_send(need):
            time.sleep(POLL)
        try:
            return self._call(prompt, messages, kwargs)
        except LMError:
            record_failure()
            raise
        finally:
            release_cost(need)

    async def acall(
        self, prompt: Any = None, *, messages: list[dict[str, Any]] | None = None, **kwargs: Any
    ) -> Any:
        other = self.find_lm(kwargs)
        if other is not self:
            return await other.acall(prompt, messages=messages, **self._hand_over(kwargs))
        messages, kwargs = take_words(messages, kwargs)
        kwargs = self._seeded(prompt, messages, kwargs)
        need = self._price(prompt, messages, kwargs, asynchronous=True)
        while not _may_send(need):  # noqa: ASYNC110 - requests of other threads end the wait
            await asyncio.sleep(POLL)
        try:
            return await run_on_shared_loop(self._acall(prompt, messages, kwargs))
        except LMError:
            record_failure()
            raise
        finally:
            release_cost(need)

    def _call(self, prompt: Any, messages: Any, kwargs: dict[str, Any]) -> Any:
        """One call, sent again after failures that may pass, each time to the replica of choice."""
        for turn in take_turns(self._find_replicas(), self.retries):
            time.sleep(turn.wait)
            with work_on(turn, kwargs.get("n") or 1), _timed():
                return super().__call__(prompt, messages=messages, **kwargs, **turn.address)
        raise AssertionError("a call has one turn at least, and the last one's error is raised")

    async def _acall(self, prompt: Any, messages: Any, kwargs: dict[str, Any]) -> Any:
        for turn in take_turns(self._find_replicas(), self.retries):
            await asyncio.sleep(turn.wait)
            with work_on(turn, kwargs.get("n") or 1), _timed():
                return await super().acall(prompt, messages=messages, **kwargs, **turn.address)
        raise AssertionError("a call has one turn at least, and the last one's error is raised")

    def _find_replicas(self) -> Sequence[Replica]:
        self._check_own_server()
        return find_replicas(self.kwargs.get("api_base"))

    def _check_own_server(self) -> None:
        """LMTransportError where the embedded server that this LM asks is one no more."""
        ended = explain_end(self.kwargs.get("api_base"))
        if ended:
            raise LMTransportError(ended)

    def find_lm(self, config: Mapping[str, Any]) -> MeteredLM:
        """The LM that answers calls with this config: itself, or its partner.

        Raises:
            LMConfigurationError: the config asks for the partner, and there is none.
        """
        if not config.get(PARTNER):
            return self
        if self.partner is None:
            raise LMConfigurationError(
                "the modes of a pair need a second model for System 1: connect(system_1=...) or "
                "--system-1-model names it"
            )
        return self.partner

    def _hand_over(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        """Parameters for the partner: the call's, and the rollout that this copy stands for."""
        given = {key: value for key, value in kwargs.items() if key != PARTNER}
        rollout = self.kwargs.get("rollout_id")
        return given if rollout is None else {"rollout_id": rollout, **given}

    @property
    def window(self) -> int | None:
        """Tokens of prompt and reply together, known once a request was refused as too long."""
        return self._learned.get("window")

    def learn_window(self, refusal: str) -> None:
        """Remember the window that a refusal names."""
        said = re.search(r"(?:context length|max_model_len)\D{0,24}(\d+)", refusal)
        if said:
            self._learned["window"] = int(said[1])

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
        longest = min(longest, self.window or longest)
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
        if not hit:
            self._check_own_server()
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
    api_base: str | Sequence[str] | None = None,
    api_key: str | None = None,
    *,
    system_1: str | None = None,
    system_1_api_base: str | None = None,
    seed: int | None = None,
    timeout: float = TIMEOUT,
    **kwargs: Any,
) -> MeteredLM:
    """The LM of a backend.

    What is not given is read from SCALE_MODEL, SCALE_API_BASE and SCALE_API_KEY, for the second
    model of a pair from SCALE_SYSTEM_1_MODEL, SCALE_SYSTEM_1_API_BASE and SCALE_SYSTEM_1_API_KEY.

    With an api_base it is a vLLM server (or any server with its API), with a model alone whatever
    LiteLLM knows by that name, and a GGUF file or nothing at all means the embedded model.

    Args:
        model: name as served; may be left out where a server serves one model.
        api_base: for example http://127.0.0.1:8000/v1; or several that serve the same model, with
            commas or blanks between them or as a list: calls are then shared out among them.
        system_1: in the style `pair`, the model that is System 1; may be left out where its own
            server serves one model.
        system_1_api_base: its server, if that is not the one at `api_base`.
        seed: makes runs repeatable; see MeteredLM.
        timeout: seconds for one request, each time that it is sent.
        kwargs: handed on to dspy.LM (cache, num_retries, temperature, ...).

    Raises:
        ConnectionError: the server cannot be asked for its model's name.
        EmbeddedError: the embedded model is not installed or does not start.

    >>> connect("Qwen/Qwen3-32B", "http://127.0.0.1:8000/v1", seed=0).model
    'hosted_vllm/Qwen/Qwen3-32B'
    """
    model = model or os.environ.get("SCALE_MODEL")
    api_base = ",".join(split_addresses(api_base or os.environ.get("SCALE_API_BASE")))
    api_key = api_key or os.environ.get("SCALE_API_KEY")
    if uses_embedded(model, api_base):
        from scale_dspy.lm.embedded.server import serve

        server = serve(model)
        model, api_base = server.model, server.api_base
        kwargs.setdefault("style", "embedded")
    api_key = find_key(api_base) or api_key
    if api_base:
        model = _name_model(model, api_base, api_key)
        kwargs["api_base"] = api_base
    if api_key:
        kwargs["api_key"] = api_key
    shared = {"seed": seed, "timeout": timeout, **kwargs}
    partner = _connect_partner(system_1, system_1_api_base, shared)
    return MeteredLM(str(model), partner=partner, **shared)


def _connect_partner(
    model: str | None, api_base: str | None, shared: dict[str, Any]
) -> MeteredLM | None:
    """The other model of a pair, if any. A server of its own never sees the first one's key."""
    model = model or os.environ.get("SCALE_SYSTEM_1_MODEL")
    api_base = ",".join(split_addresses(api_base or os.environ.get("SCALE_SYSTEM_1_API_BASE")))
    if not model and not api_base:
        return None
    own = ("api_base", "api_key", "style")
    given = {name: value for name, value in shared.items() if name not in own}
    key = os.environ.get("SCALE_SYSTEM_1_API_KEY")
    if not api_base:
        api_base, key = shared.get("api_base"), key or shared.get("api_key")
    if api_base:
        model = _name_model(model, api_base, key)
        given["api_base"] = api_base
    if key:
        given["api_key"] = key
    return MeteredLM(str(model), **given)


def _name_model(model: str | None, api_base: str, api_key: str | None) -> str:
    """The model's name as LiteLLM wants it; a server that serves one model is asked for it."""
    name = model or _ask_for_model(api_base, api_key)
    known = name.startswith(("hosted_vllm/", "litellm_proxy/"))
    return name if known else f"hosted_vllm/{name}"


def uses_embedded(model: str | None, api_base: str | None) -> bool:
    """Whether connect() would serve this model itself, on the CPU."""
    if api_base:
        return False
    if not model or Path(model).suffix == ".gguf":
        return True
    from scale_dspy.lm.embedded.hub import HUB
    from scale_dspy.lm.embedded.weights import MODELS

    return model in MODELS or model in HUB


def _ask_for_model(api_base: str, api_key: str | None = None) -> str:
    """The name of the one model that a server serves; of several servers the first to answer tells.

    Raises:
        ConnectionError: no answer, no model, or several of them.
    """
    addresses = split_addresses(api_base)
    for address in addresses[:-1]:
        with contextlib.suppress(ConnectionError):
            return _ask_one(address, api_key)
    return _ask_one(addresses[-1], api_key)


def _ask_one(address: str, api_key: str | None) -> str:
    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    try:
        reply = httpx.get(f"{address}/models", headers=headers, timeout=10)
        reply.raise_for_status()
        names = [entry["id"] for entry in reply.json()["data"]]
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, KeyError, TypeError) as error:
        raise ConnectionError(f"the server does not tell which models it serves: {error}") from None
    if len(names) != 1:
        raise ConnectionError(f"the server serves {len(names)} models, choose one: {names}")
    return str(names[0])


_calls: set[object] = set()


def count_in_flight() -> int:
    """Model calls of this process that wait for a reply at this moment."""
    return len(_calls)


def _may_send(tokens: int) -> bool:
    """Whether the cost limit lets a request go now.

    Raises:
        CostLimitError: it never will.
    """
    allowed = reserve_cost(tokens)
    if allowed is None:
        raise CostLimitError(f"the cost limit has no room for {tokens:,} response tokens more")
    return allowed


def _load_litellm(model: str) -> None:
    """Import LiteLLM now: DSPy does on the first call, and calls that start together would see it
    half loaded. Also give a vLLM model the price 0 if it has none: for one without a price LiteLLM
    searches all its rules several times a reply, a tenth of a call's time here."""
    import litellm

    litellm.acompletion  # noqa: B018 - that is what imports it
    if model.startswith("hosted_vllm/") and model not in litellm.model_cost:
        free = dict.fromkeys(PRICES, 0.0)
        entry = {"litellm_provider": "hosted_vllm", "mode": "chat", **free}
        litellm.register_model({model: entry})


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
