r"""SCALE as a provider of LiteLLM: a chat model whose answer is solved for, sub-problem by sub-problem.

Two lines mount it in a LiteLLM proxy that is there already:

    litellm_settings: {custom_provider_map: [{provider: scale, custom_handler: scale_dspy.provider.handler}]}
    model_list: [{model_name: scale, litellm_params: {model: scale/scale}}]

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
from dataclasses import asdict, dataclass
from typing import Any

import dspy
import httpx
import litellm
from dspy.utils import exceptions as kinds
from dspy.utils.callback import BaseCallback
from litellm.types.utils import Delta, Message, ModelResponse, ModelResponseStream, Usage

from scale_dspy.assess import Assess
from scale_dspy.backends.connect import MeteredLM, Style, connect, uses_embedded
from scale_dspy.backends.loop import adopt_running_loop, run_on_shared_loop
from scale_dspy.catalogue import Catalogue, UnknownModelError, find_program, read_catalogue
from scale_dspy.decompose import Decompose
from scale_dspy.solve import Solve
from scale_dspy.solver import Solver, check_budget

logger = logging.getLogger(__name__)

PROVIDER = "scale"
AT_WORK, WAITING = 64, 256  # problems
RETRY_AFTER = 5  # seconds, told to a client that is turned away
LONGEST_QUESTION = 100_000  # characters, with all its context
FIELDS = ("subproblem", "difficulty", "system", "solution", "tokens")


class BusyError(Exception):
    """So many problems are waiting that another one is not taken."""


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
    """A request, read."""

    problem: str
    program: Solver
    budget: int | None
    seed: int | None


class ScaleLLM(litellm.CustomLLM):
    """The handler that LiteLLM calls for models `scale/NAME`.

    Args:
        offer: None to make one from the environment when the first request comes: SCALE_MODEL,
            SCALE_API_BASE, SCALE_API_KEY, SCALE_MODES, SCALE_PROGRAM (files, separated as in PATH),
            SCALE_FRONTIER, SCALE_AT_WORK, SCALE_WAITING.
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
            raise translate(error, model) from error
        told += tell_rest(prediction, told)
        fields = list_fields(prediction)
        model_response.choices[0].message = Message(
            content=write_content(prediction),
            role="assistant",
            reasoning_content="".join(told) or None,
            provider_specific_fields=fields,
        )
        model_response.choices[0].finish_reason = name_finish(prediction)
        model_response.model = model
        model_response.usage = add_usage(prediction.usage)
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
            raise translate(error, model) from error
        finally:
            if work is not None:
                work.cancel()
        for piece in tell_rest(prediction, told):
            yield write(Delta(role="assistant", content=None, reasoning_content=piece))
        yield write(
            Delta(
                role="assistant",
                content=write_content(prediction),
                provider_specific_fields=list_fields(prediction),
            ),
            finish_reason=name_finish(prediction),
            usage=add_usage(prediction.usage),
        )

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
                self._offer = offer_from_environment()
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
                lm = copy.copy(offer.lm)
                lm.seed = offer.lm.seed if call.seed is None else call.seed
                told = Narrator(tell)
                with dspy.context(lm=lm, callbacks=[told], disable_history=True, trace=None):
                    return await call.program.acall(problem=call.problem, budget=call.budget)
        finally:
            self._taken -= 1


class Narrator(BaseCallback):
    """A DSPy callback that tells a SCALE program's work as text, step by step."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self.tell = tell
        self._calls: dict[str, tuple[Any, dict[str, Any]]] = {}
        self._solved = 0

    def on_module_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        arguments = inputs.get("kwargs", inputs)
        if isinstance(instance, (Decompose, Assess, Solve)):
            self._calls[call_id] = (instance, arguments)
        if isinstance(instance, Solve):
            whole = arguments["subproblem"] == arguments["problem"]
            title = "The question itself" if whole else arguments["subproblem"]
            self.tell(f"\n{self._solved + 1}. {title}\n(System {arguments['system']})\n")

    def on_module_end(self, call_id: str, outputs: Any, exception: Exception | None = None) -> None:
        instance, arguments = self._calls.pop(call_id, (None, {}))
        if instance is None or exception is not None:
            return
        if isinstance(instance, Decompose):
            count = len(outputs.subproblems)
            listed = "".join(f"- {text}\n" for text in outputs.subproblems)
            self.tell(f"{count} sub-problem{'' if count == 1 else 's'}:\n{listed}")
        elif isinstance(instance, Assess):
            self.tell(f"\nDifficulty {outputs.difficulty:.2f}: {_shorten(arguments)}\n")
        else:
            self._solved += 1
            self.tell(f"{outputs.solution}\n[{outputs.tokens:,} tokens]\n")


def read_call(
    catalogue: Catalogue,
    model: str,
    messages: Sequence[Mapping[str, Any]],
    parameters: Mapping[str, Any],
) -> Call:
    """What a request asks for.

    Args:
        parameters: of the request; `budget` (or max_completion_tokens, or max_tokens) is the most
            response tokens of all stages, `method` another method, `seed` repeats a run. Sampling
            belongs to the stages: temperature and the like are not looked at.

    Raises:
        UnknownModelError: there is no such model.
        ValueError: anything else that cannot be had, in words.
    """
    given = {**parameters, **(parameters.get("extra_body") or {})}
    if given.get("n") not in (None, 1):
        raise ValueError(f"n is 1, not {given['n']!r}: `majority` is the method that draws several")
    if given.get("tools") or given.get("functions"):
        raise ValueError("a SCALE model calls no tools")
    limits = (given.get(key) for key in ("budget", "max_completion_tokens", "max_tokens"))
    seed = given.get("seed")
    if seed is not None and (isinstance(seed, bool) or not isinstance(seed, int)):
        raise ValueError(f"seed is a whole number, not {seed!r}")
    return Call(
        problem=join_messages(messages),
        program=find_program(catalogue, model, given.get("method")),
        budget=check_budget(next((limit for limit in limits if limit is not None), None)),
        seed=seed,
    )


def join_messages(messages: Sequence[Mapping[str, Any]]) -> str:
    """A conversation as one problem: the last message is the question. Before it stand, each after
    a blank line, the system's text as it is, and earlier turns as "User: ..." and "Assistant: ...".

    Raises:
        ValueError: the last message is not the user's, is empty, or something is not text.
    """
    if not messages or messages[-1].get("role") != "user":
        raise ValueError("the last message is the question and has the role 'user'")
    question = _read_text(messages[-1])
    if not question:
        raise ValueError("the question is empty")
    parts = []
    for message in messages[:-1]:
        role, text = message.get("role"), _read_text(message)
        if role not in ("system", "developer", "user", "assistant"):
            raise ValueError(f"a message has the role system, user or assistant, not {role!r}")
        if text:
            spoken = role in ("user", "assistant")
            parts.append(f"{str(role).capitalize()}: {text}" if spoken else text)
    problem = "\n\n".join([*parts, question])
    if len(problem) > LONGEST_QUESTION:
        raise ValueError(
            f"the question has {len(problem):,} characters with its context, and "
            f"{LONGEST_QUESTION:,} are the most"
        )
    return problem


def write_content(prediction: dspy.Prediction) -> str:
    r"""The last step's solution. An answer that it does not box is added in a \boxed{} of its own."""
    solution: str = prediction.steps[-1].solution.strip() if prediction.steps else ""
    answer = prediction.answer
    if answer is None or r"\boxed" in solution:
        return solution
    return f"{solution}\n\n$\\boxed{{{answer}}}$".strip()


def name_finish(prediction: dspy.Prediction) -> str:
    """`stop`, or `length` where tokens ran out before there was an answer."""
    return "stop" if prediction.answer is not None else "length"


def add_usage(usage: Mapping[str, Mapping[str, Any]]) -> Usage:
    """OpenAI's usage: the sums over all stages."""
    prompt, response, reasoning = (
        sum(int(tally[key]) for tally in usage.values())
        for key in ("prompt_tokens", "completion_tokens", "reasoning_tokens")
    )
    return Usage(
        prompt_tokens=prompt,
        completion_tokens=response,
        total_tokens=prompt + response,
        completion_tokens_details={"reasoning_tokens": reasoning},
    )


def list_fields(prediction: dspy.Prediction) -> dict[str, Any]:
    """What a reply carries beside OpenAI's fields."""
    steps = [asdict(step) for step in prediction.steps]
    return {
        "scale_steps": [{key: step[key] for key in FIELDS} for step in steps],
        "scale_usage": prediction.usage,
        "scale_replaced": list(prediction.replaced),
    }


def tell_rest(prediction: dspy.Prediction, told: Sequence[str]) -> list[str]:
    """The reasoning of a method whose work was not told as it happened."""
    if told:
        return []
    return [step.reasoning for step in prediction.steps if step.reasoning]


def translate(error: Exception, model: str) -> Exception:
    """An error as LiteLLM's, which the proxy turns into OpenAI's. A client learns nothing of the
    model server's address; the log does."""
    about: dict[str, Any] = {"model": model, "llm_provider": PROVIDER}
    if isinstance(error, UnknownModelError):
        return litellm.NotFoundError(message=str(error), **about)
    if isinstance(error, BusyError):
        headers = {"Retry-After": str(RETRY_AFTER)}
        request = httpx.Request("POST", "http://scale")
        response = httpx.Response(429, headers=headers, request=request)
        return litellm.RateLimitError(message=str(error), response=response, **about)
    if isinstance(error, kinds.ContextWindowExceededError):
        return litellm.BadRequestError(message="the model's window is too small for it", **about)
    if isinstance(error, (kinds.LMError, OSError)):
        logger.warning("the model server failed: %s", error)
    if isinstance(error, kinds.LMTimeoutError):
        return litellm.Timeout(message="the model server did not answer in time", **about)
    if isinstance(error, (kinds.LMError, OSError)):
        return litellm.ServiceUnavailableError(message="the model server failed", **about)
    if isinstance(error, ValueError):
        return litellm.BadRequestError(message=str(error), **about)
    logger.error("a request failed", exc_info=error)
    return litellm.InternalServerError(message="the request failed", **about)


def offer_from_environment() -> Offer:
    """The offer that the environment describes; see ScaleLLM.

    Raises:
        ValueError: a variable has no good value.
        ConnectionError: the model server does not say what it serves.
    """
    model, api_base = os.environ.get("SCALE_MODEL"), os.environ.get("SCALE_API_BASE")
    embedded = uses_embedded(model, api_base)
    style: Style = os.environ.get("SCALE_MODES", "embedded" if embedded else "hybrid")  # type: ignore[assignment]
    programs = [path for path in os.environ.get("SCALE_PROGRAM", "").split(os.pathsep) if path]
    frontier = os.environ.get("SCALE_FRONTIER") or None
    catalogue = read_catalogue(
        programs, frontier, style=style, candidates=1 if embedded else 8
    )
    at_work = int(os.environ.get("SCALE_AT_WORK", 1 if embedded else AT_WORK))
    waiting = int(os.environ.get("SCALE_WAITING", WAITING))
    return Offer(catalogue, connect_uncached(model, api_base), at_work, waiting)


def connect_uncached(*arguments: Any, **options: Any) -> MeteredLM:
    """`connect()` without DSPy's cache: who asks twice wants two samples, and pays for both."""
    return connect(*arguments, **options, cache=False)


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


def _read_text(message: Mapping[str, Any]) -> str:
    content = message.get("content")
    if content is None:
        return ""
    if isinstance(content, str):
        return content.strip()
    parts = content if isinstance(content, list) else [content]
    if not all(isinstance(part, Mapping) and isinstance(part.get("text"), str) for part in parts):
        raise ValueError("a message's content is text, or parts of text")
    return "\n".join(part["text"] for part in parts).strip()


def _shorten(arguments: Mapping[str, Any], limit: int = 80) -> str:
    text = " ".join(str(arguments.get("subproblem", "")).split())
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


handler = ScaleLLM()
