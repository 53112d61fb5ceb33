"""connect(): make the dspy.LM of a backend, on an engine that caches, counts and limits its calls.

modes.py has the request parameters of each stage.
"""

from __future__ import annotations

import contextlib
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import dspy
import httpx
import orjson
from dspy import lm15
from dspy.utils.exceptions import LMConfigurationError, LMUnexpectedError

from scale_dspy.lm.chat import EXTENSION, Order, read_choices, write_outputs, write_request
from scale_dspy.lm.client import (
    PREFIXES,
    TRUST,
    Server,
    find_proxy,
    load_litellm,
    prepare_address,
)
from scale_dspy.lm.cost_limit import CostLimitError
from scale_dspy.lm.embedded.server import find_key
from scale_dspy.lm.engine import BlockingEngine, Engine
from scale_dspy.lm.modes import PARTNER, Style, take_words
from scale_dspy.lm.routing import split_addresses

RETRIES = 3  # how often a request is sent again after a transient failure
TIMEOUT = 3600.0  # seconds; a thinking call that times out has to start all over again
# Arguments of dspy.LM that configure the connection, which here belongs to the engine.
CONNECTION = ("headers", "extra_headers", "api_version", "organization", "project")


class MeteredLM(dspy.LM):
    """A dspy.LM on our engine: every reply is entered in the open ledgers, and every rollout has a
    seed.

    Args:
        model: as in LiteLLM, `hosted_vllm/NAME` for a server with OpenAI's API.
        seed: with it, each request carries a seed made from this number, the rollout id and the
            messages: the same call repeats its reply, another rollout id draws another sample.
        partner: the other model of a pair; it answers the calls whose config has PARTNER.
        run: identifies the run that draws; another run does not get its replies from the cache.
        num_retries: how often a request is sent again after a transient failure.
        style: the only style that the model can serve, if there is just one; see `fit_request`.
        api_base, api_key, timeout, identity: see client.Server.
        kwargs: as for dspy.LM.
    """

    def __init__(
        self,
        model: str,
        *,
        seed: int | None = None,
        partner: MeteredLM | None = None,
        run: str = "",
        num_retries: int = RETRIES,
        style: Style | None = None,
        api_base: str = "",
        api_key: str | None = None,
        timeout: float = TIMEOUT,
        identity: str = "",
        **kwargs: Any,
    ) -> None:
        options = {name: kwargs.pop(name) for name in CONNECTION if name in kwargs}
        server = Server(model, api_base, api_key, timeout, identity, options)
        if not (api_base and model.startswith(PREFIXES)):
            load_litellm()
        core = Engine(server, num_retries)
        super().__init__(
            model, engine=BlockingEngine(core), async_engine=core, num_retries=0, **kwargs
        )
        self.server = server
        self.core = core
        self.seed = seed
        self.partner = partner
        self.run = run
        self.retries = num_retries
        self.style = style
        self.found: dict[str, Any] | None = None  # how its modes were found, for run.json

    def __call__(
        self, prompt: Any = None, *, messages: list[dict[str, Any]] | None = None, **kwargs: Any
    ) -> Any:
        """As in dspy.LM: returns outputs for a prompt or messages, a Response for a Request."""
        other = self.find_lm(kwargs)
        if other is not self:
            return other(prompt, messages=messages, **self._hand_over(kwargs))
        request = self._read_call(prompt, messages, kwargs)
        with _own_errors():
            response = super().__call__(request, cache=False)
        return self._answer(response, prompt, kwargs)

    async def acall(
        self, prompt: Any = None, *, messages: list[dict[str, Any]] | None = None, **kwargs: Any
    ) -> Any:
        """As `__call__`."""
        other = self.find_lm(kwargs)
        if other is not self:
            return await other.acall(prompt, messages=messages, **self._hand_over(kwargs))
        request = self._read_call(prompt, messages, kwargs)
        with _own_errors():
            response = await super().acall(request, cache=False)
        return self._answer(response, prompt, kwargs)

    def make_request(
        self, messages: Sequence[Mapping[str, Any]], config: Mapping[str, Any]
    ) -> lm15.Request:
        """A request for this LM, which may be for several choices.

        Args:
            messages: as OpenAI's API has them.
            config: parameters of the call, which override the LM's own; among them n, cache and
                rollout_id.
        """
        messages, given = take_words(list(messages), {**self.kwargs, **config})
        order = Order(
            choices=given.pop("n", None) or given.pop("num_generations", None) or 1,
            rollout=given.pop("rollout_id", None),
            cache=given.pop("cache", self.cache),
            run=self.run,
            retries=None if self.retries == self.core.retries else self.retries,
        )
        if self.seed is not None and given.get("seed") is None:
            sample = orjson.dumps([self.seed, order.rollout, messages])
            given["seed"] = zlib.crc32(sample) & 0x7FFFFFFF
        return write_request(self.model, messages, given, order)

    def _read_call(self, prompt: Any, messages: Any, kwargs: dict[str, Any]) -> lm15.Request:
        request = kwargs.get("request", prompt)
        if not isinstance(request, lm15.Request):
            return self.make_request(messages or [{"role": "user", "content": prompt}], kwargs)
        extensions = request.config.extensions or {}
        if EXTENSION in extensions:
            return request
        told = {"rollout": kwargs.get("rollout_id", self.kwargs.get("rollout_id"))}
        told |= {"cache": kwargs.get("cache", self.cache), "run": self.run}
        extensions = {**extensions, EXTENSION: told}
        return replace(request, config=replace(request.config, extensions=extensions))

    def _answer(self, response: lm15.Response, prompt: Any, kwargs: dict[str, Any]) -> Any:
        if isinstance(prompt, lm15.Request) or "request" in kwargs:
            return response
        return write_outputs(read_choices(response))

    def update_history(self, entry: dict[str, Any]) -> None:
        """Record a call with all its choices: DSPy's own entry has only the first one."""
        if isinstance(entry.get("response"), lm15.Response):
            entry["outputs"] = write_outputs(read_choices(entry["response"]))
        super().update_history(entry)

    def dump_state(self) -> dict[str, Any]:
        """The state from which this LM can be made again, without its server and its key."""
        return dict(dspy.BaseLM.dump_state(self))

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
        """Parameters for the partner: those of the call, and this copy's rollout id."""
        given = {key: value for key, value in kwargs.items() if key != PARTNER}
        rollout = self.kwargs.get("rollout_id")
        return given if rollout is None else {"rollout_id": rollout, **given}

    @property
    def window(self) -> int | None:
        """Tokens of prompt and reply together that the model allows; known once a request was
        refused as too long."""
        return self.core.window

    def learn_window(self, refusal: str) -> None:
        """Remember the context window that a refusal names."""
        self.core.learn_window(refusal)


@contextmanager
def _own_errors() -> Iterator[None]:
    """Raise the engine's own error if DSPy has wrapped it as an unexpected one."""
    try:
        yield
    except LMUnexpectedError as error:
        cause = error.__cause__
        if isinstance(cause, (CostLimitError, ValueError, OSError)):
            raise cause from None
        raise


def connect(
    model: str | None = None,
    api_base: str | Sequence[str] | None = None,
    api_key: str | None = None,
    *,
    system_1: str | None = None,
    system_1_api_base: str | None = None,
    seed: int | None = None,
    timeout: float = TIMEOUT,
    run: str = "",
    **kwargs: Any,
) -> MeteredLM:
    """The LM of a backend.

    What is not given is read from SCALE_MODEL, SCALE_API_BASE and SCALE_API_KEY, for the second
    model of a pair from SCALE_SYSTEM_1_MODEL, SCALE_SYSTEM_1_API_BASE and SCALE_SYSTEM_1_API_KEY.

    With an api_base, the backend is a vLLM server (or any server with its API). With a model alone
    it is the provider that LiteLLM knows by that name. With a GGUF file, or with neither argument,
    it is the embedded model.

    Args:
        model: name as served; may be left out if the server serves one model.
        api_base: for example http://127.0.0.1:8000/v1; or several that serve the same model, with
            commas or blanks between them or as a list: calls are then distributed among them.
        system_1: in the style `pair`, the model that is System 1; may be left out if its own
            server serves one model.
        system_1_api_base: its server, if that is not the one at `api_base`.
        seed: makes runs repeatable; see MeteredLM.
        timeout: seconds for each attempt at a request, until its whole body has arrived.
        run: identifies the run that draws. Calls of another run never get its replies from the
            cache; calls without a run use any cached reply.
        kwargs: passed on to dspy.LM (cache, num_retries, temperature, ...).

    Raises:
        ConnectionError: the server cannot be asked for its model's name.
        ValueError: the address is malformed, or it can only be reached by a SOCKS proxy.
        EmbeddedError: the embedded model is not installed or does not start.

    >>> connect("Qwen/Qwen3-32B", "http://127.0.0.1:8000/v1", seed=0).model
    'hosted_vllm/Qwen/Qwen3-32B'
    """
    model = model or os.environ.get("SCALE_MODEL")
    api_base = ",".join(split_addresses(api_base or os.environ.get("SCALE_API_BASE")))
    # A key read from a file may end in a newline: `$(< key)` removes it, other ways do not.
    api_key = (api_key or os.environ.get("SCALE_API_KEY") or "").strip() or None
    if uses_embedded(model, api_base):
        from scale_dspy.lm.embedded.server import start_embedded

        server = start_embedded(model)
        # Its port differs each time, so its address cannot identify it in the cache.
        kwargs["identity"] = f"embedded {model or server.model}"
        model, api_base = server.model, server.api_base
        kwargs.setdefault("style", "embedded")
    api_key = find_key(api_base) or api_key
    if api_base:
        model = _name_model(model, api_base, api_key)
        kwargs["api_base"] = api_base
    if api_key:
        kwargs["api_key"] = api_key
    shared = {"seed": seed, "timeout": timeout, "run": run, **kwargs}
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
    own = ("api_base", "api_key", "identity", "style")
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
    """The model's name as LiteLLM wants it. The server is asked if no model is named, and also if
    the name has a prefix of LiteLLM's, since a model may be served under just such a name."""
    for address in split_addresses(api_base):
        find_proxy(prepare_address(address, api_key)[0])
    if not model:
        return f"{PREFIXES[0]}{_ask_for_model(api_base, api_key)}"
    if not model.startswith(PREFIXES):
        return f"{PREFIXES[0]}{model}"
    with contextlib.suppress(ConnectionError):
        if model in _list_models(split_addresses(api_base)[0], api_key):
            return f"{PREFIXES[0]}{model}"
    return model


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
    """The name of the one model that a server serves; of several servers the first one that answers
    is asked.

    Raises:
        ConnectionError: no answer, no model, or several of them.
    """
    addresses = split_addresses(api_base)
    for address in addresses[:-1]:
        with contextlib.suppress(ConnectionError):
            return _ask_one(address, api_key)
    return _ask_one(addresses[-1], api_key)


def _ask_one(address: str, api_key: str | None) -> str:
    names = _list_models(address, api_key)
    if len(names) != 1:
        raise ConnectionError(f"the server serves {len(names)} models, choose one: {names}")
    return names[0]


def _list_models(address: str, api_key: str | None) -> list[str]:
    """The names that a server lists.

    Raises:
        ConnectionError: it lists none.
    """
    url, headers = prepare_address(address, api_key)
    try:
        reply = httpx.get(f"{url}/models", headers=headers, timeout=10)
        if reply.status_code == 404 and "/v1" not in url:
            raise ConnectionError(
                f"{url} has no list of models (HTTP 404); an api_base usually ends in /v1"
            )
        reply.raise_for_status()
        return [str(entry["id"]) for entry in reply.json()["data"]]
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, KeyError, TypeError) as error:
        advice = f": {TRUST}" if "CERTIFICATE_VERIFY_FAILED" in str(error) else ""
        raise ConnectionError(
            f"the server does not tell which models it serves: {error}{advice}"
        ) from None
