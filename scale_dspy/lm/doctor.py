"""What a server really does, found out by asking it. Nothing here trusts a version number.

The probes speak to the server directly, because LiteLLM would even out what they look for.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx

TIMEOUT = 300.0  # seconds a request; a first thinking reply on a CPU takes its time
QUESTION = "What is 17 * 23? Think it over, then give the number."
WORDS = "Write ten random English words, one a line."
LONGEST_TOKEN = 12  # characters; a capped reply is judged by its text where tokens are not told
LONG = "Remember these numbers. " + " ".join(str(7 * k) for k in range(700)) + "\nSay OK."


@dataclass(frozen=True)
class Finding:
    """One thing that holds (ok), does not hold, or could not be found out (ok is None).

    Attributes:
        detail: what was seen.
        advice: what to change on the server where it does not hold.
        needed: whether SCALE cannot work without it.
    """

    name: str
    ok: bool | None
    detail: str
    advice: str = ""
    needed: bool = False


class _RefusedError(Exception):
    """The server answered with an error status."""


def examine(
    api_base: str, model: str | None = None, api_key: str | None = None
) -> Iterator[Finding]:
    """Probe a server; yields findings as they come.

    Args:
        api_base: for example http://127.0.0.1:8000/v1
        model: the name to ask for; the first one listed where it is left out.
    """
    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    with httpx.Client(headers=headers, timeout=httpx.Timeout(TIMEOUT, connect=5)) as client:
        try:
            listing = client.get(f"{api_base.rstrip('/')}/models")
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            yield Finding(
                "reachable", False, f"{type(error).__name__}: {error}",
                "start the server, or correct --api-base; it ends in /v1", needed=True,
            )  # fmt: skip
            return
        yield _judge_listing(listing)
        if listing.status_code != 200:
            return
        served = _read_served(listing)
        name = model or next(iter(served), "")
        yield _judge_model(name, served)
        if name not in served:
            return
        yield _judge_context(served[name])
        yield from _probe_chat(_Chat(client, api_base, name))


class _Chat:
    """Asks one server's one model."""

    def __init__(self, client: httpx.Client, api_base: str, model: str) -> None:
        self.client, self.url, self.model = (
            client,
            f"{api_base.rstrip('/')}/chat/completions",
            model,
        )

    def ask(self, content: str, **body: Any) -> dict[str, Any]:
        """The reply's JSON; _RefusedError on an error status or a body that is no chat reply."""
        message = {"role": "user", "content": content}
        reply = self.client.post(
            self.url, json={"model": self.model, "messages": [message], **body}
        )
        if reply.status_code != 200:
            raise _RefusedError(f"HTTP {reply.status_code}: {reply.text[:200]}")
        try:
            decoded = reply.json()
            decoded["choices"][0]["message"]
        except (ValueError, KeyError, IndexError, TypeError):
            raise _RefusedError(f"no chat completion in {reply.text[:200]!r}") from None
        return dict(decoded)


def _probe_chat(chat: _Chat) -> Iterator[Finding]:
    probes = (_probe_thinking, _probe_n, _probe_seed, _probe_structure, _probe_usage, _probe_prefix)
    for probe in probes:
        name = probe.__name__.removeprefix("_probe_")
        try:
            yield from probe(chat)
        except _RefusedError as error:
            yield Finding(name, False, f"refused: {error}", _ADVICE.get(name, ""))
        except httpx.HTTPError as error:
            yield Finding(
                name, False, f"{type(error).__name__}: {error}", "look at the server's log"
            )


_ADVICE = {
    "thinking": "the chat template refuses enable_thinking: serve with a template that knows it",
    "n": "upgrade vLLM; until then candidates are drawn by concurrent requests",
    "seed": "upgrade vLLM; without seeds runs cannot be repeated",
    "structure": "upgrade vLLM, or start it with --structured-outputs-config "
    '\'{"backend":"xgrammar","disable_any_whitespace":true}\'',
}


def _probe_thinking(chat: _Chat) -> Iterator[Finding]:
    """Both modes on the same question, and which style of `modes()` that makes; then the rest."""
    replies = {
        on: chat.ask(
            QUESTION, max_tokens=512, temperature=0, chat_template_kwargs={"enable_thinking": on}
        )
        for on in (True, False)
    }
    fields = {on: _reasoning_field(reply) for on, reply in replies.items()}
    leaked = any("think>" in (_message(reply).get("content") or "") for reply in replies.values())
    if leaked:
        yield Finding(
            "thinking", False, "<think> is left in the content",
            "start vLLM with the model's reasoning parser, for example --reasoning-parser qwen3",
        )  # fmt: skip
    elif fields[True] and not fields[False]:
        yield Finding("thinking", True, "on and off, by chat template")
        yield Finding("style", True, "hybrid: nothing needs to be said (--modes hybrid)")
        yield from _probe_reasoning(chat, replies[True])
    elif fields[False]:
        yield Finding("thinking", True, "always, also when it is told not to")
        yield _probe_closed(chat)
        yield from _probe_reasoning(chat, replies[False])
    else:
        yield Finding(
            "thinking", None, "no reasoning in either mode",
            "if this model can think, start vLLM with its --reasoning-parser",
        )  # fmt: skip
        yield Finding("style", True, "prompt: systems differ by prompt alone (--modes prompt)")


def _probe_closed(chat: _Chat) -> Finding:
    """Whether a model that always thinks answers at once when its block is closed at once."""
    reply = chat.ask(WORDS, max_tokens=64, temperature=0, thinking_token_budget=0)
    message, field = _message(reply), _reasoning_field(reply)
    if field is None and message.get("content"):
        return Finding(
            "style", True,
            "prefill: its thinking block can be closed at once (--modes prefill); or pair, with "
            "another model as System 1 (--modes pair --system-1-model NAME)",
        )  # fmt: skip
    return Finding(
        "style", False, "pair: it can only be System 2 (--modes pair --system-1-model NAME)",
        "for --modes prefill serve it with a vLLM that keeps thinking_token_budget (it needs "
        "--reasoning-parser)",
    )  # fmt: skip


def _probe_reasoning(chat: _Chat, thought: dict[str, Any]) -> Iterator[Finding]:
    """The field, the cap and the count of reasoning, as a reply that thought shows them."""
    yield Finding("reasoning field", True, f"message.{_reasoning_field(thought)}")
    capped = chat.ask(
        QUESTION, max_tokens=512, temperature=0, thinking_token_budget=16,
        chat_template_kwargs={"enable_thinking": True},
    )  # fmt: skip
    counted = [_count_reasoning(reply) for reply in (thought, capped)]
    length = len(_message(capped).get(_reasoning_field(capped) or "") or "")
    # Some parsers count nothing where the opening tag is part of the prompt.
    held = counted[1] <= 20 if counted[1] else length <= 16 * LONGEST_TOKEN
    yield Finding(
        "thinking cap", held,
        f"{counted[1] or f'{length} characters, about {length // 4}'} reasoning tokens with "
        "thinking_token_budget 16",
        "thinking_token_budget needs a recent vLLM started with --reasoning-parser",
    )  # fmt: skip
    if not counted[0]:
        yield Finding(
            "reasoning tokens", False, "usage tells of none, although the reply has reasoning",
            "they are counted as response tokens all the same; to see them apart, try "
            "--reasoning-parser qwen3, which counts them where <think> is in the prompt",
        )  # fmt: skip


def _count_reasoning(reply: dict[str, Any]) -> int:
    details = (reply.get("usage") or {}).get("completion_tokens_details") or {}
    return int(details.get("reasoning_tokens") or 0)


def _probe_n(chat: _Chat) -> Iterator[Finding]:
    reply = chat.ask(WORDS, n=3, max_tokens=24, temperature=1.0, **_QUIET)
    texts = [_read_all(choice["message"]) for choice in reply["choices"]]
    if len(texts) == 1:
        yield Finding("n", False, "n=3 gave one choice", _ADVICE["n"])
        return
    yield Finding(
        "n", len(set(texts)) > 1, f"n=3 gave {len(texts)} choices, {len(set(texts))} different"
    )
    if all(choice.get("finish_reason") == "length" for choice in reply["choices"]):
        counted = (reply.get("usage") or {}).get("completion_tokens")
        yield Finding(
            "usage of n", counted == 24 * len(texts),
            f"{counted} response tokens counted for {len(texts)} choices of 24",
            "this server counts one choice only: use modes(..., decompose={'n': 1})",
        )  # fmt: skip


def _probe_seed(chat: _Chat) -> Iterator[Finding]:
    texts = [
        _read_all(_message(chat.ask(WORDS, seed=seed, max_tokens=24, temperature=1.0, **_QUIET)))
        for seed in (1, 1, 2)
    ]
    repeats, varies = texts[0] == texts[1], texts[0] != texts[2]
    seen = "the same seed repeats" if repeats else "the same seed gave two replies"
    seen += ", another differs" if varies else ", another seed changes nothing"
    yield Finding("seed", repeats and varies, seen, _ADVICE["seed"])


def _probe_structure(chat: _Chat) -> Iterator[Finding]:
    reply = chat.ask(
        "Say hello.", max_tokens=16, structured_outputs={"choice": ["alpha", "omega"]}, **_QUIET
    )
    content = _message(reply).get("content")
    if content is None:
        yield Finding("structure", None, "the reply ended in its reasoning")
        return
    held = content in ("alpha", "omega")
    seen = "a choice is kept" if held else f"ignored: {str(content)[:40]!r}"
    yield Finding("structure", held, f"structured_outputs: {seen}", _ADVICE["structure"])


def _probe_usage(chat: _Chat) -> Iterator[Finding]:
    reply = chat.ask(WORDS, max_tokens=8, temperature=1.0, **_QUIET)
    usage = reply.get("usage") or {}
    cut = reply["choices"][0].get("finish_reason") == "length"
    right = usage.get("prompt_tokens", 0) > 0 and usage.get("completion_tokens") == 8
    yield Finding(
        "usage", right if cut else None,
        f"{usage.get('prompt_tokens')} + {usage.get('completion_tokens')} tokens for a reply of 8",
        "this server does not count tokens: budgets and costs will be wrong",
    )  # fmt: skip


def _probe_prefix(chat: _Chat) -> Iterator[Finding]:
    replies = [chat.ask(LONG, max_tokens=4, temperature=0, **_QUIET) for _ in range(2)]
    details = (replies[1].get("usage") or {}).get("prompt_tokens_details") or {}
    cached = details.get("cached_tokens")
    if cached is None:
        seen = "usage does not tell"
        yield Finding("prefix cache", None, seen, "vLLM tells with --enable-prompt-tokens-details")
        return
    prompt = replies[1]["usage"].get("prompt_tokens")
    yield Finding(
        "prefix cache", cached > 0, f"{cached} of {prompt} prompt tokens cached on a repeat",
        "start vLLM with --enable-prefix-caching",
    )  # fmt: skip


_QUIET: dict[str, Any] = {"chat_template_kwargs": {"enable_thinking": False}}


def _judge_listing(listing: httpx.Response) -> Finding:
    if listing.status_code == 200:
        return Finding("reachable", True, "GET /models answers", needed=True)
    advice = "correct --api-base; it ends in /v1"
    if listing.status_code in (401, 403):
        advice = "give the server's key: --api-key or SCALE_API_KEY"
    return Finding(
        "reachable", False, f"GET /models: HTTP {listing.status_code}", advice, needed=True
    )


def _read_served(listing: httpx.Response) -> dict[str, dict[str, Any]]:
    try:
        return {str(entry["id"]): entry for entry in listing.json()["data"]}
    except (ValueError, KeyError, TypeError):
        return {}


def _judge_model(name: str, served: dict[str, dict[str, Any]]) -> Finding:
    if name in served:
        return Finding("model", True, name, needed=True)
    listed = ", ".join(served) or "none"
    return Finding(
        "model", False, f"{name or 'none'} is not served; served: {listed}",
        "correct --model, or start vLLM with --served-model-name", needed=True,
    )  # fmt: skip


def _judge_context(entry: dict[str, Any]) -> Finding:
    length = entry.get("max_model_len") or (entry.get("meta") or {}).get("n_ctx")
    if not length:
        return Finding("context", None, "the server does not tell")
    return Finding(
        "context", length >= 40960, f"{length} tokens",
        "below 40,960 lower solve_2's max_tokens, or start vLLM with --max-model-len 40960",
    )  # fmt: skip


def _message(reply: dict[str, Any]) -> dict[str, Any]:
    return dict(reply["choices"][0]["message"])


def _read_all(message: dict[str, Any]) -> str:
    """All that a message says: a model that always thinks may not get beyond its reasoning."""
    keys = ("reasoning", "reasoning_content", "content")
    return "\n".join(str(message.get(key) or "") for key in keys)


def _reasoning_field(reply: dict[str, Any]) -> str | None:
    message = _message(reply)
    return next((key for key in ("reasoning", "reasoning_content") if message.get(key)), None)
