"""A chat request, parsed once and checked: what is handed on is built here, from known fields only.

A field is acted on, or ignored and named in the reply's header `x-scale-ignored`, or refused. None
is dropped silently.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from scale_dspy.lm.adapter import mend
from scale_dspy.method import MIN_BUDGET, check_budget
from scale_dspy.serve.chat_format import join_messages
from scale_dspy.serve.models import Catalogue, UnknownModelError, find_program
from scale_dspy.utils.validation import check_seed, check_whole

LARGEST_BODY = 1 << 20  # bytes

TAKEN = frozenset(
    """model messages stream stream_options seed n budget method
    max_tokens max_completion_tokens""".split()
)
# Each stage sets its own sampling and thinking; the rest is for a provider's accounting.
IGNORED = frozenset(
    """temperature top_p top_k min_p presence_penalty frequency_penalty repetition_penalty
    logit_bias reasoning_effort chat_template_kwargs verbosity user metadata store service_tier
    safety_identifier prompt_cache_key parallel_tool_calls""".split()
)
# These would change the form of a reply. The values listed ask for nothing and are accepted.
REFUSED: Mapping[str, tuple[Any, ...]] = {
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "stop": ([], ""),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "modalities": ([], ["text"]),
}


class RefusedError(ValueError):
    """A request that is not accepted.

    Attributes:
        status: of the reply.
        param: the field that is at fault, if it is one.
    """

    def __init__(self, message: str, status: int = 400, param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.param = param


@dataclass(frozen=True)
class Checked:
    """A request that is accepted.

    Attributes:
        body: what is passed on: model, messages, and those of stream, stream_options, seed, budget
            and method that were given.
        ignored: the fields that have no effect.
    """

    body: dict[str, Any]
    ignored: list[str]


def parse_body(content: bytes) -> dict[str, Any]:
    """The JSON object in a body.

    Raises:
        RefusedError: there is none, or the body is too large.
    """
    if len(content) > LARGEST_BODY:
        raise RefusedError(f"the body has more than {LARGEST_BODY:,} bytes", 413)
    try:
        value = json.loads(content.decode("utf-8"), parse_constant=_refuse_constant)
    except RecursionError:
        raise RefusedError("the body is not JSON: it is nested too deep") from None
    except ValueError as error:
        raise RefusedError(f"the body is not JSON: {str(error)[:200]}") from None
    if not isinstance(value, dict):
        raise RefusedError("the body is no JSON object")
    return value


def check_request(value: Mapping[str, Any], catalogue: Catalogue) -> Checked:
    """The request that a body stands for.

    Args:
        value: the body, parsed. `budget` (or max_completion_tokens, or max_tokens) is the most
            response tokens of all stages; if one of the latter two is below the least
            budget, that is used, as OpenAI's clients send small ones to try a model. `method` is
            another method, `seed` repeats a run.

    Raises:
        RefusedError: something in it cannot be served; the message says what.
    """
    given = {name: each for name, each in value.items() if each is not None}
    unknown = sorted(set(value) - TAKEN - IGNORED - set(REFUSED))
    if unknown:
        raise RefusedError(f"unknown field {unknown[0][:100]!r}", param=unknown[0][:100])
    for name, harmless in REFUSED.items():
        if name in given and not any(_same(given[name], each) for each in harmless):
            raise RefusedError(f"a SCALE model has no {name}: leave it out", param=name)
    model = given.get("model")
    if not isinstance(model, str):
        raise RefusedError("model is a text: GET /v1/models lists what there is", param="model")
    method = given.get("method")
    try:
        find_program(catalogue, model, method)
    except UnknownModelError as error:
        raise RefusedError(str(error), 404, "model") from None
    except ValueError as error:
        raise RefusedError(str(error)) from None
    body = {"model": model, "messages": _read_messages(given.get("messages"))}
    body |= _read_stream(given) | _read_numbers(given)
    if method is not None:
        body["method"] = method
    return Checked(body, sorted(IGNORED & set(given)))


def read_limit(given: Mapping[str, Any]) -> int | None:
    """The most response tokens that a request allows, of `budget`, max_completion_tokens and
    max_tokens the first that is there; ValueError where one of them is none."""
    limits = [check_budget(given.get("budget"))]
    for name in ("max_completion_tokens", "max_tokens"):
        if given.get(name) is not None:
            limits.append(check_budget(max(check_whole(name, given[name]), MIN_BUDGET)))
    return next((limit for limit in limits if limit is not None), None)


def _read_messages(messages: Any) -> list[dict[str, str]]:
    """One message that holds the whole conversation, as text that can be sent on."""
    if not isinstance(messages, list) or not all(isinstance(each, dict) for each in messages):
        raise RefusedError("messages is a list of objects", param="messages")
    try:
        return [{"role": "user", "content": mend(join_messages(messages))}]
    except ValueError as error:
        raise RefusedError(str(error), param="messages") from None


def _read_stream(given: Mapping[str, Any]) -> dict[str, Any]:
    stream, options = given.get("stream", False), given.get("stream_options", {})
    if not isinstance(stream, bool):
        raise RefusedError("stream is true or false", param="stream")
    if not isinstance(options, dict) or set(options) - {"include_usage", "include_obfuscation"}:
        raise RefusedError("stream_options is {'include_usage': true}", param="stream_options")
    usage = options.get("include_usage") or False
    if not isinstance(usage, bool):
        raise RefusedError("include_usage is true or false", param="stream_options")
    told = {"stream_options": {"include_usage": True}} if usage else {}
    return {"stream": True, **told} if stream else {}


def _read_numbers(given: Mapping[str, Any]) -> dict[str, int]:
    if not _same(given.get("n", 1), 1):
        raise RefusedError(
            f"n is 1, not {given['n']!r:.100}: `majority` is the method that draws several",
            param="n",
        )
    try:
        read = {"budget": read_limit(given), "seed": check_seed(given.get("seed"))}
    except ValueError as error:
        raise RefusedError(str(error)) from None
    return {name: number for name, number in read.items() if number is not None}


def _same(value: Any, other: Any) -> bool:
    """Equal, and of one type: True is not 1."""
    return type(value) is type(other) and bool(value == other)


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON value")
