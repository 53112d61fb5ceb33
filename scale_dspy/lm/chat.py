"""A model call in its three forms: DSPy's canonical request, the body of a chat completion, and the
reply with all its choices.

DSPy's interface has one message per response. A request for several choices therefore carries their
number among its extensions, and the response carries all of them in `provider_data`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import orjson
import pydantic
from dspy import lm15
from dspy.utils.exceptions import LMProviderError

from scale_dspy.lm.tally import Tally

EXTENSION = "scale_dspy"  # the extension that is for the engine; it is not sent to the server
LONGEST = 32_768  # response tokens assumed at most for a request without max_tokens
TEMPLATE = 512  # tokens that a chat template adds to the messages, at most
_CANONICAL = (
    "max_tokens", "temperature", "top_p", "top_k", "stop", "seed",
    "frequency_penalty", "presence_penalty",
)  # fmt: skip
_HALF = re.compile("[\ud800-\udfff]")  # lone surrogates, which UTF-8 cannot encode
_FINISHES = {"stop": "stop", "length": "length", "tool_calls": "tool_call"}


@dataclass(frozen=True)
class Order:
    """Instructions of a request to the engine itself, which are not sent to the server.

    Attributes:
        choices: how many the one request asks for.
        rollout: identifies the sample; another value draws a new reply.
        cache: whether a reply from the cache may be used.
        run: identifies the run that draws; see cache.make_keys.
        messages: as they were given, if they hold more than text.
        retries: how often it is sent again after a failure; None for the engine's default.
    """

    choices: int = 1
    rollout: Any = None
    cache: bool = True
    run: str = ""
    messages: Any = None
    retries: int | None = None


@dataclass(frozen=True)
class ChatChoice:
    """One choice of a reply; `logprobs` are its tokens' log-probabilities, where asked for."""

    text: str
    reasoning: str = ""
    finish_reason: str = "stop"
    logprobs: list[float] | None = None
    tool_calls: list[dict[str, Any]] | None = None


@dataclass(frozen=True)
class Completion:
    """A server's reply to one request.

    Attributes:
        usage: the tokens that the server reported; None where it reported none, or implausible
            numbers.
        seconds: how long the reply took.
        doubt: in words, why the server's usage is not believed.
    """

    choices: tuple[ChatChoice, ...]
    model: str
    usage: Tally | None
    seconds: float = 0.0
    doubt: str = ""


def write_request(
    model: str, messages: Sequence[Mapping[str, Any]], config: Mapping[str, Any], order: Order
) -> lm15.Request:
    """DSPy's request for messages and parameters as OpenAI's API has them.

    `extra_body` is merged into the parameters, and what is None is left out.

    Raises:
        ValueError, TypeError: a parameter has an invalid value, or belongs to the connection.
    """
    given = {name: value for name, value in config.items() if value is not None}
    extra = given.pop("extra_body", {})
    known = {name: given.pop(name) for name in _CANONICAL if name in given}
    # As in LiteLLM: if a parameter that is not OpenAI's is given both inside `extra_body` and
    # beside it, the value beside it is used.
    beside = {*given, *({"top_k"} & known.keys())}
    given |= {name: value for name, value in extra.items() if name not in beside}
    if given.pop("logprobs", None):
        known["logprobs"] = int(given.pop("top_logprobs", 0))
    form = given.get("response_format")
    if isinstance(form, type) and issubclass(form, pydantic.BaseModel):
        schema = {"name": form.__name__, "schema": form.model_json_schema()}
        given["response_format"] = {"type": "json_schema", "json_schema": schema}
    system, rest = _split_system(messages)
    if rest is None:
        whole = lm15.request_from_openai_chat({"model": model, "messages": list(messages)})
        order = replace(order, messages=list(messages))
    else:
        whole = lm15.Request(model=model, messages=rest, system=system)
    told = {key: value for key, value in asdict(order).items() if value != getattr(Order, key)}
    extensions = {**given, EXTENSION: told}
    return replace(whole, config=lm15.Config(**known, extensions=extensions))


def _split_system(
    messages: Sequence[Mapping[str, Any]],
) -> tuple[str | None, tuple[lm15.Message, ...] | None]:
    """(the system message, the others), or (None, None) if a message is not plain text."""
    system: str | None = None
    rest: list[lm15.Message] = []
    for message in messages:
        role, content = message.get("role"), message.get("content")
        if not isinstance(content, str) or not {*message} <= {"role", "content"}:
            return None, None
        if role == "system" and not rest and system is None and content:
            system = content
        elif role == "user":
            rest.append(lm15.Message.user(content))
        elif role == "assistant":
            rest.append(lm15.Message.assistant(content))
        else:
            return None, None
    return system, tuple(rest) or None


def read_order(request: lm15.Request) -> Order:
    """A request's instructions to the engine; the defaults if `write_request` did not make it."""
    return Order(**(request.config.extensions or {}).get(EXTENSION, {}))


def write_body(request: lm15.Request, order: Order) -> dict[str, Any]:
    """The parameters and messages of a chat completion, without the model's name."""
    config = request.config
    body: dict[str, Any] = {"messages": order.messages or _write_messages(request)}
    for name in _CANONICAL:
        value = getattr(config, name)
        if value is not None and value != ():
            body[name] = list(value) if name == "stop" else value
    if config.logprobs is not None:
        body["logprobs"] = True
        if config.logprobs:
            body["top_logprobs"] = config.logprobs
    if order.choices > 1:
        body["n"] = order.choices
    extensions = {k: v for k, v in (config.extensions or {}).items() if k != EXTENSION}
    return {**body, **extensions}


def _write_messages(request: lm15.Request) -> list[dict[str, Any]]:
    if any(message.text is None for message in request.messages) or not isinstance(
        request.system, (str, type(None))
    ):
        dialect = lm15.OpenAIChatLM(api_key="only to write the body")
        whole = orjson.loads(dialect.build_request(request, stream=False).body)
        return list(whole["messages"])
    system = [{"role": "system", "content": request.system}] if request.system else []
    rest = [{"role": message.role, "content": message.text} for message in request.messages]
    return [*system, *rest]


def count_most(body: Mapping[str, Any], window: int | None = None) -> int:
    """Response tokens that a request may cost at most."""
    longest = body.get("max_tokens") or body.get("max_completion_tokens") or LONGEST
    return int(min(longest, window or longest)) * int(body.get("n") or 1)


def count_prompt_most(body: Mapping[str, Any]) -> int:
    """Prompt tokens that a request may have at most: no token is shorter than a byte, and what a
    chat template writes around the messages is taken to be no longer than TEMPLATE."""
    return len(orjson.dumps(body["messages"])) + TEMPLATE


def read_completion(reply: Any, most: int, seconds: float) -> Completion:
    """The reply of a server, from its JSON.

    Of a content that is a list the text parts are joined; a value that is not text is converted.

    Args:
        most: response tokens that the request may have cost.

    Raises:
        LMProviderError: it is no chat completion.
    """
    try:
        choices = tuple(map(_read_choice, list(reply["choices"]))) or (ChatChoice(""),)
    except (KeyError, TypeError, AttributeError, ValueError):
        message = f"the server's reply is no chat completion: {_shorten(reply)}"
        raise LMProviderError(message, status=200) from None
    usage, doubt = read_usage(reply.get("usage"), most)
    return Completion(choices, str(reply.get("model") or ""), usage, seconds, doubt)


def _shorten(reply: Any) -> str:
    """The beginning of a reply, as the server wrote it."""
    return json.dumps(reply, ensure_ascii=False)[:120]


def _read_choice(choice: Mapping[str, Any]) -> ChatChoice:
    message = choice["message"]
    reasoning = message.get("reasoning_content") or message.get("reasoning") or ""
    return ChatChoice(
        _read_text(message.get("content")),
        _read_text(reasoning),
        str(choice.get("finish_reason") or "stop"),
        _read_logprobs(choice.get("logprobs")),
        message.get("tool_calls") or None,
    )


def _read_logprobs(given: Any) -> list[float] | None:
    """The log-probability of each token, whatever else a server says of it; None without them."""
    tokens = given.get("content") if isinstance(given, dict) else None
    values = [token.get("logprob") for token in tokens or () if isinstance(token, dict)]
    return [float(value) for value in values if isinstance(value, (int, float))] or None


def _read_text(content: Any) -> str:
    if isinstance(content, list):
        parts = (part.get("text") if isinstance(part, dict) else part for part in content)
        content = "".join(part for part in parts if isinstance(part, str))
    text = "" if content is None else str(content)
    return text if text.isascii() else _HALF.sub("\N{REPLACEMENT CHARACTER}", text)


def read_usage(told: Any, most: int) -> tuple[Tally | None, str]:
    """(the usage that a server reports, or None; why it is not believed, or "").

    A negative count is not believed, nor one of more than twice what the request allowed: a server
    may stop a little late, but not by that much.
    """
    if not isinstance(told, Mapping) or told.get("completion_tokens") is None:
        return None, ""
    details = told.get("completion_tokens_details")
    thought = details.get("reasoning_tokens") if isinstance(details, Mapping) else None
    numbers = [told.get("prompt_tokens") or 0, told["completion_tokens"], thought or 0]
    if not all(type(number) is int and 0 <= number < 2**40 for number in numbers):
        return None, f"its usage is {numbers}"
    if numbers[1] > 2 * most + 64:
        return None, f"it tells {numbers[1]:,} response tokens where {most:,} were allowed"
    cached = _read_cached(told, numbers[0])
    return Tally(1, numbers[0], numbers[1], numbers[2], cached_tokens=cached), ""


def _read_cached(told: Mapping[str, Any], prompt: int) -> int:
    """Of `prompt` tokens, those that the server says its prefix cache held; 0 where it says
    nothing believable."""
    details = told.get("prompt_tokens_details")
    cached = details.get("cached_tokens") if isinstance(details, Mapping) else None
    return cached if type(cached) is int and 0 <= cached <= prompt else 0


def write_response(request: lm15.Request, completion: Completion, replayed: bool) -> lm15.Response:
    """DSPy's response: the first choice as its message, all of them as `provider_data`. A reply
    from the cache counts as no usage."""
    first, used = completion.choices[0], completion.usage
    parts: list[Any] = [lm15.ThinkingPart(first.reasoning)] if first.reasoning else []
    parts.append(lm15.TextPart(first.text))
    usage = lm15.Usage()
    if used is not None and not replayed:
        usage = lm15.Usage(
            input_tokens=used.prompt_tokens,
            output_tokens=used.completion_tokens,
            reasoning_tokens=used.reasoning_tokens,
        )
    return lm15.Response(
        id=None,
        model=completion.model or request.model,
        message=lm15.Message.assistant(parts),
        finish_reason=_FINISHES.get(first.finish_reason, "stop"),
        usage=usage,
        provider_data={"choices": [asdict(choice) for choice in completion.choices]},
    )


def read_choices(response: lm15.Response) -> list[ChatChoice]:
    """The choices of a response: all of them if our engine made it, else its only one."""
    carried = response.provider_data
    if isinstance(carried, dict) and "choices" in carried:
        try:
            return [ChatChoice(**choice) for choice in carried["choices"]]
        except TypeError:  # another engine keeps the server's own data there
            pass
    texts = [part.text for part in response.message.parts if isinstance(part, lm15.TextPart)]
    thoughts = [part.text for part in response.message.parts if isinstance(part, lm15.ThinkingPart)]
    logprobs = response.logprobs
    return [
        ChatChoice(
            "".join(texts),
            "".join(thoughts),
            response.finish_reason,
            None if logprobs is None else [token.logprob for token in logprobs],
        )
    ]


def write_outputs(choices: Sequence[ChatChoice]) -> list[Any]:
    """Choices as DSPy's adapters read them: texts, or dictionaries if there is more."""
    outputs = []
    for choice in choices:
        more = {
            "reasoning_content": choice.reasoning or None,
            "tool_calls": choice.tool_calls,
            "finish_reason": "length" if choice.finish_reason == "length" else None,
            "logprobs": choice.logprobs,
        }
        told = {name: value for name, value in more.items() if value is not None}
        outputs.append({"text": choice.text, **told} if told else choice.text)
    return outputs


def keep_completion(completion: Completion) -> dict[str, Any]:
    """A completion as JSON, for the cache."""
    return asdict(completion)


def restore_completion(kept: Any) -> Completion | None:
    """A completion from the cache; None where it is damaged."""
    try:
        choices = tuple(ChatChoice(**choice) for choice in kept["choices"])
        usage = None if kept["usage"] is None else Tally(**kept["usage"])
        texts = [text for each in choices for text in (each.text, each.reasoning)]
        numbers = [0] if usage is None else [*asdict(usage).values()]
        sound = (
            choices
            and all(isinstance(text, str) for text in texts)
            and all(type(number) in (int, float) and number >= 0 for number in numbers)
        )
        found = Completion(choices, str(kept["model"]), usage, float(kept["seconds"]))
        return found if sound else None
    except (KeyError, TypeError, ValueError):
        return None
