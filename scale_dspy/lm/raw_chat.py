"""Send chat requests to a server unchanged, and read its replies, however unusual.

The probes of `detect` and `doctor` use this, because LiteLLM would hide the differences between
servers that they look for. A content of null, a list or a number raises nothing; a body that is no
chat completion, such as a page of HTML, raises NoChatReplyError.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import httpx

from scale_dspy.lm.client import read_retry_after

TRIES = 3  # attempts at a request whose failure may be temporary
WAIT = 1.0  # seconds before the second attempt, doubled for the third
LONGEST_WAIT = 5.0  # seconds, however long the server asks to wait
PASSING = (408, 409, 425, 429, 500, 502, 503, 504)  # statuses of failures that may be temporary
OPENING = ("<think>", "[THINK]", "<|channel>", "<|START_THINKING|>", "<seed:think>", "<mm:think>")
CLOSING = ("</think>", "[/THINK]", "<channel|>", "<|END_THINKING|>", "</seed:think>", "</mm:think>")
"""The tags around thinking, where no reasoning parser takes it out of the content."""


class NoChatReplyError(Exception):
    """The server answered with something other than a chat reply; `status` is its HTTP status."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class LateError(Exception):
    """The time for all requests together is used up."""


@dataclass(frozen=True)
class RawReply:
    """The first choice of a reply.

    Attributes:
        field: where the reasoning was: reasoning, reasoning_content, or empty.
        usage: token counts by name, as far as the server reports them; `reasoning_tokens` and
            `cached_tokens` among them.
        choices: the text of each choice, reasoning and content.
        whole: the decoded body.
    """

    content: str
    reasoning: str
    field: str
    finish: str
    usage: Mapping[str, int]
    choices: tuple[str, ...]
    finishes: tuple[str, ...]
    whole: Mapping[str, Any]

    @property
    def leaks(self) -> bool:
        """Whether thinking was left in the content."""
        closed = any(tag in self.content for tag in CLOSING)
        return closed or self.content.startswith(OPENING)


class Chat:
    """Sends questions to one model on one server, and counts the requests.

    Args:
        seconds: for all requests together; None for no limit.
        tries: attempts at a request whose failure may be temporary.
    """

    def __init__(
        self,
        client: httpx.Client,
        api_base: str,
        model: str,
        seconds: float | None = None,
        tries: int = TRIES,
    ) -> None:
        self.client, self.model, self.tries = client, model, tries
        self.url = f"{api_base.rstrip('/')}/chat/completions"
        self.ends = None if seconds is None else time.monotonic() + seconds
        self.requests = 0
        self.limits_thought = True  # set to False once the server refuses thinking_token_budget

    def ask(self, content: str, *, words: str = "", **body: Any) -> RawReply:
        """One question.

        Args:
            words: of a system message before it.
            body: further fields of the request.

        Raises:
            NoChatReplyError: an error status, or a body that is no chat reply.
            httpx.HTTPError: no answer.
            LateError: there is no time left.
        """
        messages = [{"role": "user", "content": content}]
        if words:
            messages.insert(0, {"role": "system", "content": words})
        request = {"model": self.model, "messages": messages, **body}
        for left in reversed(range(self.tries)):
            wait = WAIT * 2.0 ** (self.tries - 1 - left)
            try:
                answer = self.client.post(self.url, json=request, **self._find_time())
            except httpx.TransportError as error:
                self.requests += 1
                if not left or isinstance(error, (httpx.ConnectError, httpx.TimeoutException)):
                    raise
            else:
                self.requests += 1
                if answer.status_code not in PASSING or not left:
                    return _read(answer)
                asked = read_retry_after(answer.headers.get("Retry-After"))
                wait = wait if asked is None else min(asked, LONGEST_WAIT)
            time.sleep(wait)
        raise AssertionError("the last try returns or raises")

    def _find_time(self) -> dict[str, Any]:
        if self.ends is None:
            return {}
        left = self.ends - time.monotonic()
        if left <= 0:
            raise LateError("no time is left")
        return {"timeout": httpx.Timeout(left, connect=min(5.0, left))}


def open_client(api_key: str | None, timeout: float) -> httpx.Client:
    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    return httpx.Client(headers=headers, timeout=httpx.Timeout(timeout, connect=5))


def read_count(value: Any) -> int | None:
    """A count of tokens, or None if the value is no valid count.

    >>> read_count(12), read_count("12"), read_count(None), read_count(True), read_count([1])
    (12, None, None, None, None)
    """
    whole = isinstance(value, int) and not isinstance(value, bool) and value >= 0
    return value if whole else None


def _read(answer: httpx.Response) -> RawReply:
    if answer.status_code != 200:
        said = f"HTTP {answer.status_code}: {answer.text[:200]}"
        raise NoChatReplyError(said, answer.status_code)
    try:
        decoded = answer.json()
        choices = [choice for choice in decoded["choices"] if isinstance(choice, dict)]
        messages = [choice["message"] for choice in choices]
        if not messages or not all(isinstance(message, dict) for message in messages):
            raise ValueError
    except (ValueError, KeyError, TypeError, RecursionError):
        said = f"no chat completion in {answer.text[:200]!r}"
        raise NoChatReplyError(said, answer.status_code) from None
    message = messages[0]
    fields = ("reasoning", "reasoning_content")
    field = next((name for name in fields if _read_text(message.get(name)).strip()), "")
    return RawReply(
        content=_read_text(message.get("content")).strip(),
        reasoning=_read_text(message.get(field)).strip() if field else "",
        field=field,
        finish=str(choices[0].get("finish_reason")),
        usage=_read_usage(decoded.get("usage")),
        choices=tuple(_read_all(each) for each in messages),
        finishes=tuple(str(each.get("finish_reason")) for each in choices),
        whole=decoded,
    )


def _read_text(value: Any) -> str:
    """A content as text: itself, the text parts of a list, or nothing."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        parts = [part.get("text") if isinstance(part, dict) else part for part in value]
        return "\n".join(part for part in parts if isinstance(part, str))
    return ""


def _read_all(message: Mapping[str, Any]) -> str:
    """Reasoning and content: a model that always thinks may be cut off in its reasoning."""
    keys = ("reasoning", "reasoning_content", "content")
    return "\n".join(_read_text(message.get(key)) for key in keys)


def _read_usage(usage: Any) -> dict[str, int]:
    if not isinstance(usage, dict):
        return {}
    found = dict(usage)
    for name in ("completion_tokens_details", "prompt_tokens_details"):
        details = usage.get(name)
        if isinstance(details, dict):
            found |= {key: details[key] for key in ("reasoning_tokens", "cached_tokens")
                      if key in details}  # fmt: skip
    return {str(name): count for name, value in found.items()
            if (count := read_count(value)) is not None}  # fmt: skip
