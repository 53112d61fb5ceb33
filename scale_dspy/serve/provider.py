r"""SCALE as a provider of LiteLLM: a chat model that solves a question step by step.

Two entries mount it in the configuration of a LiteLLM proxy:

    litellm_settings:
      custom_provider_map: [{provider: scale, custom_handler: scale_dspy.serve.provider.handler}]
    model_list:
      - {model_name: scale, litellm_params: {model: scale/scale}}

A reply's content is the solution of the question itself and ends with its answer in \boxed{}. The
work before it is reasoning content, told while it happens. `scale_steps`, `scale_usage` and
`scale_replaced` are in the message's `provider_specific_fields`. `usage` counts all stages.
"""

from __future__ import annotations

import asyncio
import copy
import logging
import os
import threading
import time
import uuid
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import dspy
import httpx
import litellm
from dspy.utils import exceptions as kinds
from litellm.types.utils import Delta, Message, ModelResponse, ModelResponseStream, Usage

from scale_dspy.lm.connect import MeteredLM, connect, uses_embedded
from scale_dspy.lm.event_loop import adopt_running_loop, run_on_shared_loop
from scale_dspy.lm.modes import Style
from scale_dspy.lm.redact import hide_server
from scale_dspy.method import Solver
from scale_dspy.serve.chat_format import (
    Narrator,
    add_usage,
    join_messages,
    list_fields,
    name_finish,
    write_content,
    write_rest,
)
from scale_dspy.serve.models import (
    PROVIDER,
    Catalogue,
    UnknownModelError,
    find_program,
    read_catalogue,
)
from scale_dspy.serve.replies import RETRY_AFTER
from scale_dspy.serve.requests import read_limit
from scale_dspy.utils.validation import check_seed

logger = logging.getLogger(__name__)

AT_WORK, WAITING = 64, 256  # problems


class BusyError(Exception):
    """The queue is full: another problem is not accepted."""


@dataclass(frozen=True)
class Offer:
    """What is served, and with what.

    Attributes:
        at_work: problems that are solved at the same time.
        waiting: problems that may wait for that; a client beyond them gets 429.
    """

    catalogue: Catalogue
    lm: MeteredLM
    at_work: int = AT_WORK
    waiting: int = WAITING


@dataclass(frozen=True)
class Call:
    """A request, parsed."""

    problem: str
    program: Solver
    budget: int | None
    seed: int | None


class ScaleLLM(litellm.CustomLLM):
    """The handler that LiteLLM calls for models `scale/NAME`.

    Args:
        offer: None to make one from the environment when the first request comes: SCALE_MODEL,
            SCALE_API_BASE, SCALE_API_KEY (the same with SYSTEM_1_ for a pair), SCALE_MODES,
            SCALE_PROGRAM (files, separated as in PATH), SCALE_FRONTIER, SCALE_AT_WORK,
            SCALE_WAITING.
    """

    def __init__(self, offer: Offer | None = None) -> None:
        super().__init__()
        self._offer = offer
        self._lock = threading.Lock()
        self._places: asyncio.Semaphore | None = None  # of the shared loop
        self._taken = 0

    @property
    def taken(self) -> int:
        """Problems at work or waiting."""
        return self._taken

    def set_offer(self, offer: Offer) -> None:
        """Serve this from the next request on."""
        self._offer, self._places = offer, None

    async def acompletion(
        self,
        model: str,
        messages: list[dict[str, Any]],
        *_: Any,
        model_response: ModelResponse,
        optional_params: dict[str, Any],
        **__: Any,
    ) -> ModelResponse:
        """Solve the question of a request.

        Raises:
            litellm.BadRequestError, litellm.NotFoundError: what is asked cannot be done.
            litellm.RateLimitError: too many problems wait already.
            litellm.ServiceUnavailableError, litellm.Timeout: the model server failed.
        """
        told: list[str] = []
        try:
            offer, call = await self._read(model, messages, optional_params)
            prediction = await run_on_shared_loop(self._solve(offer, call, told.append))
        except Exception as error:
            raise self._translate(error, model) from None  # the error itself tells an address
        told += write_rest(prediction, told)
        fields = list_fields(prediction)
        model_response.choices[0].message = Message(
            content=write_content(prediction),
            role="assistant",
            reasoning_content="".join(told) or None,
            provider_specific_fields=fields,
        )
        model_response.choices[0].finish_reason = name_finish(prediction)
        model_response.model = model
        model_response.usage = Usage(**add_usage(prediction.usage))
        return model_response

    async def astreaming(
        self,
        model: str,
        messages: list[dict[str, Any]],
        *_: Any,
        optional_params: dict[str, Any],
        **__: Any,
    ) -> AsyncIterator[ModelResponseStream]:
        """The same in pieces: reasoning while the work goes on, then the content, whole, with all
        fields and the usage. Work that nobody waits for any more is cancelled."""
        loop = asyncio.get_running_loop()
        pieces: asyncio.Queue[str | None] = asyncio.Queue()
        told: list[str] = []

        def tell(text: str) -> None:
            told.append(text)
            loop.call_soon_threadsafe(pieces.put_nowait, text)

        write = _Writer(model)
        work: asyncio.Future[dspy.Prediction] | None = None
        try:
            offer, call = await self._read(model, messages, optional_params)
            work = asyncio.ensure_future(run_on_shared_loop(self._solve(offer, call, tell)))
            work.add_done_callback(lambda _: pieces.put_nowait(None))
            while (piece := await pieces.get()) is not None:
                yield write(Delta(role="assistant", content=None, reasoning_content=piece))
            prediction = work.result()
        except Exception as error:
            raise self._translate(error, model) from None  # the error itself tells an address
        finally:
            if work is not None:
                work.cancel()
        for piece in write_rest(prediction, told):
            yield write(Delta(role="assistant", content=None, reasoning_content=piece))
        yield write(
            Delta(
                role="assistant",
                content=write_content(prediction),
                provider_specific_fields=list_fields(prediction),
            ),
            finish_reason=name_finish(prediction),
            usage=Usage(**add_usage(prediction.usage)),
        )

    def _translate(self, error: Exception, model: str) -> Exception:
        return translate(error, model, self._offer.lm if self._offer else None)

    async def _read(
        self, model: str, messages: list[dict[str, Any]], parameters: Mapping[str, Any]
    ) -> tuple[Offer, Call]:
        adopt_running_loop()
        offer = self._offer
        if offer is None:
            offer = await asyncio.to_thread(self._open_offer)
        return offer, read_call(offer.catalogue, model, messages, parameters)

    def _open_offer(self) -> Offer:
        with self._lock:
            if self._offer is None:
                try:
                    self._offer = offer_from_environment()
                except ValueError as error:  # a fault of the owner's, not of the client's request
                    raise RuntimeError(f"the environment describes no offer: {error}") from error
            return self._offer

    async def _solve(
        self, offer: Offer, call: Call, tell: Callable[[str], None]
    ) -> dspy.Prediction:
        """Wait for a place, then solve; on the shared loop, in order of arrival."""
        if self._places is None:
            self._places = asyncio.Semaphore(offer.at_work)
        if self._taken >= offer.at_work + offer.waiting:
            raise BusyError(f"{self._taken} problems are at work or waiting; try again later")
        self._taken += 1
        try:
            async with self._places:
                lm = offer.lm if call.seed is None else seed_anew(offer.lm, call.seed)
                told = Narrator(tell)
                with dspy.context(lm=lm, callbacks=[told], disable_history=True, trace=None):
                    return await call.program.acall(problem=call.problem, budget=call.budget)
        finally:
            self._taken -= 1


def read_call(
    catalogue: Catalogue,
    model: str,
    messages: Sequence[Mapping[str, Any]],
    parameters: Mapping[str, Any],
) -> Call:
    """What a request asks for.

    Args:
        parameters: of the request, as LiteLLM passes them on; see requests.py. Sampling is set
            for each stage: temperature and the like are ignored.

    Raises:
        UnknownModelError: there is no such model.
        ValueError: something else that is asked for is not available; the message says what.
    """
    given = {**parameters, **(parameters.get("extra_body") or {})}
    if given.get("n") not in (None, 1):
        raise ValueError(
            f"n is 1, not {given['n']!r:.100}: `majority` is the method that draws several"
        )
    if given.get("tools") or given.get("functions"):
        raise ValueError("a SCALE model calls no tools")
    return Call(
        problem=join_messages(messages),
        program=find_program(catalogue, model, given.get("method")),
        budget=read_limit(given),
        seed=check_seed(given.get("seed")),
    )


def translate(error: Exception, model: str, lm: MeteredLM | None) -> Exception:
    """An error as LiteLLM's, which the proxy turns into OpenAI's. The client is not told what the
    model server said; the log is, without the keys and addresses of `lm`."""
    kind, message = _classify(error)
    if kind in (litellm.Timeout, litellm.ServiceUnavailableError):
        said = hide_server(str(error), lm) if lm else type(error).__name__
        logger.warning("the model server failed: %s", said)
    more = {}
    if kind is litellm.RateLimitError:
        headers = {"Retry-After": str(RETRY_AFTER)}
        request = httpx.Request("POST", "http://scale")
        more["response"] = httpx.Response(429, headers=headers, request=request)
    translated: Exception = kind(message=message, model=model, llm_provider=PROVIDER, **more)
    return translated


def _classify(error: Exception) -> tuple[Any, str]:
    """(LiteLLM's class, what a client is told)."""
    if isinstance(error, UnknownModelError):
        return litellm.NotFoundError, str(error)
    if isinstance(error, BusyError):
        return litellm.RateLimitError, str(error)
    if isinstance(error, kinds.ContextWindowExceededError):
        return litellm.BadRequestError, "the question is too long for the model's window"
    if isinstance(error, (kinds.LMError, OSError)):
        if isinstance(error, kinds.LMTimeoutError):
            return litellm.Timeout, "the model server did not answer in time"
        return litellm.ServiceUnavailableError, "the model server failed"
    if isinstance(error, ValueError):
        return litellm.BadRequestError, str(error)
    logger.error("a request failed", exc_info=error)
    return litellm.InternalServerError, "the request failed"


def offer_from_environment() -> Offer:
    """The offer that the environment describes; see ScaleLLM.

    Raises:
        ValueError: a variable has an invalid value.
        ConnectionError: the model server does not say what it serves.
    """
    model, api_base = os.environ.get("SCALE_MODEL"), os.environ.get("SCALE_API_BASE")
    embedded = uses_embedded(model, api_base)
    style: Style = os.environ.get("SCALE_MODES", "embedded" if embedded else "hybrid")  # type: ignore[assignment]
    programs = [path for path in os.environ.get("SCALE_PROGRAM", "").split(os.pathsep) if path]
    frontier = os.environ.get("SCALE_FRONTIER") or None
    catalogue = read_catalogue(programs, frontier, style=style, candidates=1 if embedded else 8)
    at_work = int(os.environ.get("SCALE_AT_WORK", 1 if embedded else AT_WORK))
    waiting = int(os.environ.get("SCALE_WAITING", WAITING))
    lm = connect(model, api_base, cache=False)  # a client that asks twice wants two samples
    return Offer(catalogue, lm, at_work, waiting)


def seed_anew(lm: MeteredLM, seed: int) -> MeteredLM:
    """This LM with another seed, and its partner too; all else is shared."""
    other = copy.copy(lm)
    other.seed = seed
    other.partner = None if lm.partner is None else seed_anew(lm.partner, seed)
    return other


class _Writer:
    """Writes the chunks of one stream."""

    def __init__(self, model: str) -> None:
        self.head = {
            "id": f"chatcmpl-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": model,
        }

    def __call__(
        self, delta: Delta, finish_reason: str | None = None, usage: Usage | None = None
    ) -> ModelResponseStream:
        choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
        more = {} if usage is None else {"usage": usage}
        return ModelResponseStream(choices=[choice], **self.head, **more)


handler = ScaleLLM()
