"""One question to the model: how a Signature becomes a prompt, and how a bad reply is asked again.

Every Signature here has one output, and it is plain text: whatever the model replies is the value.
"""

from __future__ import annotations

import asyncio
import logging
import math
import re
import zlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from types import new_class
from typing import Any, TypeVar

import dspy
from dspy.utils.exceptions import (
    ContextWindowExceededError,
    LMConfigurationError,
    LMInvalidRequestError,
)

from scale_dspy.lm.cap import MIN_GRANT, OutOfTokensError, grant, room
from scale_dspy.lm.chat import ChatChoice, read_choices
from scale_dspy.lm.connect import MeteredLM
from scale_dspy.lm.event_loop import run
from scale_dspy.lm.modes import PARTNER, fit_request
from scale_dspy.lm.plain_lm import ask_plain_lm
from scale_dspy.lm.streaming import stream_reply
from scale_dspy.lm.usage import stage, track

logger = logging.getLogger(__name__)

T = TypeVar("T")

_BESIDE = ("reasoning", "cut_off", "logprobs")  # what travels beside a prediction's one output
ATTEMPTS = 3  # a reply that cannot be read is asked for again, with another rollout id


@dataclass(frozen=True)
class Reply:
    """One choice: its text, the model's reasoning if it showed any, and whether it was cut off; the
    log-probabilities of its tokens where they were asked for and the server gives them."""

    text: str
    reasoning: str = ""
    cut_off: bool = False
    logprobs: tuple[float, ...] | None = None


class PlainAdapter(dspy.Adapter):
    r"""One user message: the inputs in order, each under its title, then the instructions.

    Against DSPy's own adapters: no field markers and no description of them (about 700 characters
    a call), no JSON and no lists, where `\frac` turns into a form feed and "rac". And because the
    instructions come last, all stages share the beginning (problem, context, sub-problem), which
    vLLM's prefix cache then holds. What a reply must look like is the output field's description,
    so it stays when an optimizer rewrites the instructions.
    """

    def format(
        self, signature: type[dspy.Signature], demos: list[dict[str, Any]], inputs: dict[str, Any]
    ) -> list[dict[str, Any]]:
        content = self.format_user_message_content(signature, inputs, main_request=True)
        messages = [*self.format_demos(signature, demos), {"role": "user", "content": content}]
        return [{**message, "content": mend(message["content"])} for message in messages]

    def format_user_message_content(
        self,
        signature: type[dspy.Signature],
        inputs: dict[str, Any],
        prefix: str = "",
        suffix: str = "",
        main_request: bool = False,
    ) -> str:
        sections = [
            f"{field.json_schema_extra['desc']}:\n{inputs[name]}"
            for name, field in signature.input_fields.items()
            if inputs.get(name)
        ]
        if main_request:
            (output,) = signature.output_fields.values()
            sections.append(f"{signature.instructions}\n\nReply with {_describe(output)}.")
        return "\n\n".join(part for part in [prefix, *sections, suffix] if part)

    def format_assistant_message_content(
        self,
        signature: type[dspy.Signature],
        outputs: dict[str, Any],
        missing_field_message: str | None = None,
    ) -> str:
        (name,) = signature.output_fields
        return str(outputs.get(name, missing_field_message))

    def parse(self, signature: type[dspy.Signature], completion: str) -> dict[str, Any]:
        (name,) = signature.output_fields
        return {name: completion}

    def __call__(
        self,
        lm: dspy.BaseLM,
        lm_kwargs: dict[str, Any],
        signature: type[dspy.Signature],
        demos: list[dict[str, Any]],
        inputs: dict[str, Any],
    ) -> list[dict[str, Any]]:
        return run(self.acall(lm, lm_kwargs, signature, demos, inputs))

    async def acall(
        self,
        lm: dspy.BaseLM,
        lm_kwargs: dict[str, Any],
        signature: type[dspy.Signature],
        demos: list[dict[str, Any]],
        inputs: dict[str, Any],
    ) -> list[dict[str, Any]]:
        messages = self.format(signature, demos, inputs)
        with _stream(signature, lm_kwargs):
            return self._read(signature, await self._call(lm, lm_kwargs, messages))

    async def _call(
        self, lm: Any, lm_kwargs: dict[str, Any], messages: list[dict[str, Any]]
    ) -> list[ChatChoice]:
        if not isinstance(lm, MeteredLM):
            return await ask_plain_lm(lm, messages, lm_kwargs)
        rollout = {"rollout_id": lm.kwargs.get("rollout_id"), **lm_kwargs}
        lm = lm.find_lm(rollout)
        config = {name: value for name, value in rollout.items() if name != PARTNER}
        return read_choices(await lm.acall(lm.make_request(messages, config)))

    def _read(
        self, signature: type[dspy.Signature], found: list[ChatChoice]
    ) -> list[dict[str, Any]]:
        """Choices as field values; those of _BESIDE travel beside the one output."""
        choices = []
        for choice in found:
            text, reasoning = split_thinking(mend(choice.text))
            choices.append(
                {
                    **self.parse(signature, text),
                    "reasoning": mend(choice.reasoning or reasoning),
                    "cut_off": choice.finish_reason == "length",
                    "logprobs": None if choice.logprobs is None else tuple(choice.logprobs),
                }
            )
        return choices


# Lone surrogates, which UTF-8 cannot hold, and control characters, which could rewrite a terminal.
# A backspace and a form feed stay: they are what JSON makes of \\boxed and \\frac, see answers.py.
_HARMFUL = re.compile("[\x00-\x07\x0b\x0e-\x1f\x7f-\x9f\ud800-\udfff]")


THINKING = (
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("[THINK]", "[/THINK]"),
)
"""Tags that models set around their thinking, opening and closing; a text has those of one kind."""


def make_predictor(signature: type[dspy.Signature], **request: Any) -> dspy.Predict:
    """A Predict with a signature class of its own, as some optimizers (dspy.InferRules) write into
    the class itself, and would rewrite the prompts of every other program of this process.

    Args:
        request: parameters of its calls.
    """
    members = {"__doc__": signature.instructions, "__module__": signature.__module__}
    own = new_class(signature.__name__, (signature,), {}, lambda space: space.update(members))
    return dspy.Predict(own, **request)


def mend(text: str) -> str:
    """A text that can be sent, written to a file as UTF-8 and shown on a terminal."""
    return _HARMFUL.sub("\N{REPLACEMENT CHARACTER}", text)


def split_thinking(text: str) -> tuple[str, str]:
    """Part a reply into (content, thinking) where the server left the tags in the content.

    A block that is never closed is thinking to its end, so nothing in it passes for an answer.

    >>> split_thinking("<thinking>so</thinking>7"), split_thinking("[THINK]so[/THINK]7")
    (('7', 'so'), ('7', 'so'))
    """
    for opening, closing in THINKING:
        if opening in text or closing in text:
            break
    else:
        return text.strip(), ""
    before, opened, rest = text.partition(opening)
    if not opened:  # the opening tag was part of the prompt
        before, rest = "", text
    thinking, _, content = rest.rpartition(closing) if closing in rest else (rest, "", "")
    return (before + content).strip(), thinking.strip()


async def ask(
    predictor: dspy.Module,
    stage_name: str,
    inputs: dict[str, str],
    *,
    attempt: int = 0,
    n: int = 1,
    logprobs: bool = False,
) -> list[Reply]:
    """Ask the model once.

    Args:
        predictor: a Predict whose Signature has one output field.
        stage_name: where the ledger enters the cost.
        inputs: the Signature's inputs; empty ones are left out of the prompt.
        attempt: 0, or the number of this repeat, which then is a rollout of its own.
        n: choices in the one request; a server may send fewer.
        logprobs: ask for the log-probabilities of the tokens too.

    Raises:
        OutOfTokensError: the budget has no room for a request.
        dspy.utils.exceptions.LMError: the server did not answer in the end.
    """
    if not isinstance(predictor, dspy.Predict):
        return await _ask_module(predictor, stage_name, inputs, attempt, n)
    request = read_request(predictor, stage_name)
    config: dict[str, Any] = {"extra_body": None, **request, "n": n if n > 1 else None}
    if logprobs:
        config["logprobs"] = True
    if attempt:
        config["rollout_id"] = _derive_rollout(predictor, attempt)
    with stage(stage_name), grant(request.get("max_tokens"), n) as max_tokens:
        lm = predictor.lm or dspy.settings.lm
        server = lm.find_lm(predictor.config) if isinstance(lm, MeteredLM) else None
        window = server.window if server else None
        fits = window is None or max_tokens is None or max_tokens < window
        config["max_tokens"] = max_tokens if fits else None
        try:
            prediction = await predictor.acall(**inputs, config=config)
        except LMInvalidRequestError as error:
            if not _overflows(error) or config["max_tokens"] is None:
                raise
            if server:
                server.learn_window(str(error))
            # The window has no room for so long a reply: take what there is.
            prediction = await predictor.acall(**inputs, config={**config, "max_tokens": None})
    (field,) = predictor.signature.output_fields
    replies = [
        Reply(text, reasoning, cut_off, logprobs)
        for text, reasoning, cut_off, logprobs in zip(
            *(prediction.completions[key] for key in (field, *_BESIDE)), strict=True
        )
    ]
    # DSPy's trace holds the prediction: demos and reflections on it would carry all the thinking.
    for name in ("reasoning", "logprobs"):
        del prediction[name]
    return replies


def read_request(predictor: dspy.Module, stage_name: str) -> dict[str, Any]:
    """The request parameters of a stage, as the LM that it will ask needs them.

    None of another module that stands in a Predict's place.
    """
    if not isinstance(predictor, dspy.Predict):
        return {}
    lm = predictor.lm or dspy.settings.lm
    return fit_request(predictor.config, stage_name, getattr(lm, "style", None))


async def _ask_module(
    module: dspy.Module, stage_name: str, inputs: dict[str, str], attempt: int, n: int
) -> list[Reply]:
    """Ask through a module that stands where a Predict stood: it sees DSPy's own adapter, and its
    last output is the text. Its choices are `n` calls, each a rollout of its own."""
    lm = dspy.settings.lm
    if lm is None:
        raise LMConfigurationError("no LM is configured: pass dspy.context(lm=connect())")
    calls = []
    for number in range(attempt, attempt + n):
        rollout = {"rollout_id": _derive_rollout(module, number)} if number else {}
        calls.append(_call_module(module, stage_name, inputs, lm.copy(**rollout)))
    return await gather_all(*calls)


async def _call_module(
    module: dspy.Module, stage_name: str, inputs: dict[str, str], lm: Any
) -> Reply:
    (*_, field) = module.predictors()[-1].signature.output_fields
    with stage(stage_name), grant(lm.kwargs.get("max_tokens")) as most:
        if most is not None:
            lm.kwargs["max_tokens"] = most
        with dspy.context(adapter=None, lm=lm):
            prediction = await module.acall(**inputs)
    text = prediction.get(field)
    return Reply(mend(str(text or "")), mend(str(prediction.get("reasoning") or "")))


def read_config(predictor: dspy.Module) -> dict[str, Any]:
    """The request parameters of a predictor; none of another module that stands in its place."""
    return dict(predictor.config) if isinstance(predictor, dspy.Predict) else {}


async def ask_many(
    predictor: dspy.Module,
    stage_name: str,
    inputs: dict[str, str],
    wanted: int,
    *,
    attempt: int = 0,
    logprobs: bool = False,
) -> list[Reply]:
    """Draw `wanted` replies: in one request, or concurrently in requests of the `n` that the
    predictor's config sets. Where a server sends fewer choices, the rest is asked for one by one.
    Under a cap, requests that are sent together share its room equally.
    """
    together = min(wanted, read_request(predictor, stage_name).get("n", wanted))
    replies: list[Reply] = []
    for size in (together, 1):
        count = math.ceil((wanted - len(replies)) / size)
        if count <= 0 or (replies and not any(reply.text or reply.reasoning for reply in replies)):
            break  # a server whose replies are all empty is not asked for more of them
        left = room()
        share = None if left is None else left // count
        if replies and share is not None and share < MIN_GRANT:
            break  # too little room is left: those drawn so far have to do
        requests = [
            _ask_within(
                share,
                predictor,
                stage_name,
                inputs,
                attempt=attempt + len(replies) + number,
                n=size,
                logprobs=logprobs,
            )
            for number in range(count)
        ]
        replies += [reply for choices in await gather_all(*requests) for reply in choices]
    return replies[:wanted]


async def _ask_within(
    cap: int | None,
    predictor: dspy.Module,
    stage_name: str,
    inputs: dict[str, str],
    **how: Any,
) -> list[Reply]:
    """One of several requests at once: without a cap of its own the first takes all the room."""
    with track(cap):
        return await ask(predictor, stage_name, inputs, **how)


async def ask_until_said(
    predictor: dspy.Module,
    stage_name: str,
    inputs: dict[str, str],
    *,
    keep: int = 0,
    logprobs: bool = False,
) -> Reply:
    """Ask until a reply has text, at most ATTEMPTS times; not again after one that was cut off.

    Args:
        keep: response tokens that must be left under every open cap.

    Returns:
        The last reply, empty if there is none or no room for a request.
    """
    reply = Reply("")
    for attempt in range(ATTEMPTS):
        left = room()
        try:
            with track(None if left is None else max(0, left - keep)):
                (reply, *_) = await ask(
                    predictor, stage_name, inputs, attempt=attempt, logprobs=logprobs
                )
        except OutOfTokensError:
            break
        if reply.text or reply.cut_off:
            break
    return reply


async def ask_until_read(
    read: Callable[[str], T | None],
    predictor: dspy.Module,
    stage_name: str,
    inputs: dict[str, str],
) -> tuple[T | None, str]:
    """Ask until `read` makes something of the reply, at most ATTEMPTS times.

    Returns:
        What `read` returned, and "" ; or None and in words what was wrong.
    """
    complaint = ""
    for attempt in range(ATTEMPTS):
        try:
            (reply, *_) = await ask(predictor, stage_name, inputs, attempt=attempt)
        except OutOfTokensError:
            return None, complaint or "no room in the budget"
        value = read(reply.text)
        if value is not None:
            return value, ""
        complaint = f"unreadable reply {_shorten(reply.text)!r}, asked {attempt + 1} times"
        logger.debug("%s: %s", stage_name, complaint)
    return None, complaint


async def gather_all(*tasks: Any) -> list[Any]:
    """asyncio.gather that leaves nothing running behind when one of its tasks fails."""
    running = [asyncio.ensure_future(task) for task in tasks]
    try:
        return list(await asyncio.gather(*running))
    finally:
        for task in running:
            task.cancel()


def _overflows(error: LMInvalidRequestError) -> bool:
    """Whether max_tokens, alone or with the prompt, is more than the model's window holds.

    vLLM words the two cases differently, and LiteLLM knows only the second one.
    """
    return isinstance(error, ContextWindowExceededError) or "max_model_len" in str(error)


def _derive_rollout(predictor: dspy.Module, attempt: int) -> int:
    """A rollout id of its own for each repeat, made from the id that an optimizer or a run chose.

    It lies above 2**31, where it meets none of the small ids that samples are numbered with.
    """
    lm = getattr(predictor, "lm", None) or dspy.settings.lm
    base = lm.kwargs.get("rollout_id") if lm is not None else None
    return zlib.crc32(f"{base}/{attempt}".encode()) | 1 << 31


def _stream(
    signature: type[dspy.Signature], lm_kwargs: dict[str, Any]
) -> AbstractContextManager[None]:
    (name,) = signature.output_fields
    return stream_reply(name, lm_kwargs.get("n") or 1)


def _describe(field: Any) -> str:
    return str(field.json_schema_extra["desc"]).rstrip(".")


def _shorten(text: str, limit: int = 60) -> str:
    return re.sub(r"\s+", " ", text)[:limit]
