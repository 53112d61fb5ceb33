"""find_modes(): find out how thinking is turned on and off at a server, with a few short questions.

A setting works as a switch if replies have no reasoning when it is off, and some when it is on.
Every later request sends it one way or the other, so the server's own default does not matter.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx

from scale_dspy.lm.embedded.server import find_key
from scale_dspy.lm.embedded.weights import cache_folder
from scale_dspy.lm.found import Found, flatten
from scale_dspy.lm.raw_chat import Chat, LateError, NoChatReplyError, RawReply, open_client
from scale_dspy.lm.routing import split_addresses
from scale_dspy.lm.switches import CLOSED, GENERIC, LEVELS, SWITCHES, WORDS, Switch, find_family
from scale_dspy.utils.files import write_whole

TIMEOUT = 120.0  # seconds a request; the first reply of a thinking model on a CPU is slow
QUESTIONS = (
    "A farmer has 17 crates of 23 eggs. Every ninth egg is broken. How many are whole?",
    "A train of 14 cars with 31 seats each is two thirds full. How many more people can sit?",
)
SHORT = "What is 2 + 3? Reply with the number."
ROOM = 32  # response tokens that show whether a reply begins with reasoning
LONG = 1024  # response tokens within which thinking about SHORT ends
LEVEL = 1024  # response tokens that are enough to tell low from high effort
THOUGHT = 12  # reasoning tokens after which a probe's thinking is ended, where the server can
RATIO = 1.5  # high effort must think longer than low by at least this factor
REPEATS = 3  # attempts where a reply is empty
FRESH = 24 * 3600.0  # seconds for which a result is kept
DEFAULT_PARSER = "qwen3"  # reads <think>; recommended where the model's family is not known


class UndetectableError(ConnectionError):
    """The server gave no chat reply to a plain question. The message is one line."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


def find_modes(
    model: str,
    api_base: str | Sequence[str],
    api_key: str | None = None,
    *,
    keep: bool = True,
) -> Found:
    """How thinking is turned on and off at one server, or at several that must all do the same.

    A result is kept for a day, under a digest of address and model; before it is used again, one
    request checks that it still holds.

    Args:
        model: the name as served.
        api_base: one address or several; one that cannot be reached is passed over if another can.
        keep: whether results are kept in the cache folder.

    Raises:
        UndetectableError: no server gave a chat reply.
        ValueError: the servers differ.

    >>> find_modes(model, api_base).style
    'hybrid'
    """
    addresses = split_addresses(api_base)
    model = model.removeprefix("hosted_vllm/").removeprefix("litellm_proxy/")
    with ThreadPoolExecutor(max(1, len(addresses))) as pool:
        results = list(pool.map(lambda each: _try_server(model, each, api_key, keep), addresses))
    found = [result for result in results if isinstance(result, Found)]
    if not found:
        raise next(result for result in results if not isinstance(result, Found))
    first = found[0]
    for number, other in enumerate(results, 1):
        if isinstance(other, Found) and _key(other) != _key(first):
            raise ValueError(
                f"the servers differ: {addresses[results.index(first)]} is {_name(first)}, "
                f"{addresses[number - 1]} is {_name(other)}; serve both alike, or name the style "
                "with --modes"
            )
    return replace(first, requests=sum(each.requests for each in found))


def find_embedded(api_base: str) -> Found:
    """How thinking is turned on and off in a llama.cpp server, read from the text of its chat
    template without asking the model.

    The style is `embedded` in any case.
    """
    template = ""
    with contextlib.suppress(httpx.HTTPError, ValueError, KeyError, TypeError):
        address = api_base.rstrip("/").removesuffix("/v1")
        headers = {"Authorization": f"Bearer {find_key(api_base)}"}
        with httpx.Client(timeout=10, trust_env=False, headers=headers) as client:
            template = str(client.get(f"{address}/props").json()["chat_template"])
    reads = "enable_thinking" in template
    return Found("embedded", SWITCHES["qwen3"] if reads else None)


def _key(found: Found) -> tuple[Any, ...]:
    return found.style, found.switch, found.parser, found.always, found.surplus


def _name(found: Found) -> str:
    switch = f" by {found.switch.name}" if found.switch else ""
    return f"{found.style}{switch}" + (" with the parser missing" if found.parser else "")


def _try_server(
    model: str, address: str, api_key: str | None, keep: bool
) -> Found | UndetectableError:
    with open_client(api_key, TIMEOUT) as client:
        try:
            return find_on_server(Chat(client, address, model), keep=keep)
        except UndetectableError as error:
            return error


def find_on_server(chat: Chat, *, keep: bool = False) -> Found:
    """How thinking is turned on and off, found with requests of `chat`.

    Raises:
        UndetectableError: the server does not reply to a plain question, or has stopped replying.
    """
    began, before = time.monotonic(), chat.requests
    try:
        found = (_recall(chat) if keep else None) or _search(chat)
    except NoChatReplyError as error:
        raise UndetectableError(str(error), error.status) from None
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise UndetectableError(f"{type(error).__name__}: {error}") from None
    except LateError:
        raise UndetectableError("it answers too slowly to be asked") from None
    found = replace(found, requests=chat.requests - before, seconds=time.monotonic() - began)
    if keep:
        _remember(chat, found)
    return found


# The search


def _search(chat: Chat) -> Found:
    """Try the switch that is known for the model's family, then the generic ones."""
    plain = _ask(chat, {}, QUESTIONS[0])
    thinks = _thinks(plain)
    family = find_family(chat.model)
    candidates = [family] if family else []
    candidates += [switch for switch in GENERIC if not family or switch.off != family.off]
    read: list[Switch] = []  # those that change the prompt, though replies show no reasoning
    surplus: list[Switch] = []  # those that only the reasoning parser reads
    for switch in candidates:
        if switch.style in ("prefill", "effort"):
            continue
        with contextlib.suppress(NoChatReplyError):
            leaked = _try_switch(chat, switch, thinks, read, surplus)
            if leaked is not None:
                parser = _name_parser(family) if leaked else ""
                return Found(switch.style, switch, "on" if thinks else "off", parser)
    if thinks and surplus:
        return Found("prompt", surplus[0], "off", surplus=True)
    if thinks:
        return _search_always(chat, family, plain)
    return _search_hidden(chat, family, read)


def _name_parser(family: Switch | None) -> str:
    return (family.parser if family else "") or DEFAULT_PARSER


def _try_switch(
    chat: Chat, switch: Switch, thinks: bool, read: list[Switch], surplus: list[Switch]
) -> bool | None:
    """None if the switch makes no difference; else whether thinking was left in the content.

    The setting that should differ from the server's default is tried first.
    """
    if thinks:
        off = _ask(chat, switch.off, QUESTIONS[0], thought=THOUGHT)
        if _thinks(off) or not off.content:
            return None
        on = _ask(chat, switch.on, QUESTIONS[0], thought=THOUGHT)
    else:
        on = _ask(chat, switch.on, QUESTIONS[0], thought=THOUGHT)
        if not _thinks(on) and switch.style == "system":
            return None
        off = _ask(chat, switch.off, QUESTIONS[0], thought=THOUGHT)
    if not _thinks(on):
        _note_rendering(switch, off, on, read)
        return None
    if not off.content or _thinks(off):
        return None
    if not _is_proven(chat, switch, off, on):
        surplus.append(switch)
        return None
    return on.leaks if _is_quiet(chat, switch, off, on) else None


def _is_quiet(chat: Chat, switch: Switch, off: RawReply, on: RawReply) -> bool:
    """Whether the model really does not think with the switch off. A second question is asked too,
    since a model may not think about every question.

    A parser may act on a switch that the template does not read, and leave the thinking in the
    content. A closing tag then follows: soon if the server limits thinking, otherwise late.
    """
    replies = [_ask(chat, switch.off, QUESTIONS[1], thought=THOUGHT)]
    if not chat.limits_thought and not _render_apart(off, on):
        replies.append(_ask(chat, switch.off, SHORT, room=LONG))
    return all(reply.content and not _thinks(reply) for reply in replies)


def _render_apart(off: RawReply, on: RawReply) -> bool:
    """Whether the template renders prompts of different lengths for the two settings."""
    sizes = [reply.usage.get("prompt_tokens") for reply in (off, on)]
    return None not in sizes and sizes[0] != sizes[1]


def _is_proven(chat: Chat, switch: Switch, off: RawReply, on: RawReply) -> bool:
    """Whether the reasoning in `on` is the model's own.

    A parser may act on a switch that the template does not read, and take a plain answer for
    reasoning. Then no content ever follows, and both prompts have the same length.
    """
    for number in range(1, REPEATS):
        if on.content:
            return True
        if on.finish == "length":
            break
        on = _ask(chat, switch.on, QUESTIONS[0], thought=THOUGHT, seed=number)
    if on.finish != "length":
        return bool(on.content)
    if switch.style != "system" and _render_apart(off, on):
        return True
    long = _ask(chat, switch.on, SHORT, room=LONG)
    return bool(long.content) or long.finish == "length"


def _note_rendering(switch: Switch, off: RawReply, on: RawReply, read: list[Switch]) -> None:
    """Note a switch that changes the prompt, though the replies show no reasoning."""
    if _render_apart(off, on) and off.content and on.content:
        read.append(switch)


def _search_always(chat: Chat, family: Switch | None, plain: RawReply) -> Found:
    """For a model that no switch keeps from thinking: levels of effort, a thinking block that is
    closed at once, or neither."""
    by_name = family if family and family.style in ("prefill", "effort") else None
    closed = by_name if by_name and by_name.style == "prefill" else CLOSED
    levels = by_name if by_name and by_name.style == "effort" else LEVELS
    parser = _name_parser(family) if plain.leaks else ""
    tests = ((levels, _test_levels), (closed, _test_closed))
    for switch, test in tests if by_name is levels else reversed(tests):
        with contextlib.suppress(NoChatReplyError):
            if test(chat, switch):
                return Found(switch.style, switch, "on", parser)
    return Found("prompt", None, "on", parser, always=True)


def _test_closed(chat: Chat, switch: Switch) -> bool:
    """Whether the model answers directly if its thinking block is closed at once."""
    replies = [_ask(chat, switch.off, question) for question in QUESTIONS]
    return all(reply.content and not _thinks(reply) for reply in replies)


def _test_levels(chat: Chat, switch: Switch) -> bool:
    """Whether high effort thinks longer than low: its shorter reply of two against low's longer."""
    lengths = {
        level: [_measure(_ask(chat, settings, question, room=LEVEL)) for question in QUESTIONS]
        for level, settings in (("low", switch.off), ("high", switch.on))
    }
    return min(lengths["high"]) > RATIO * max(lengths["low"])


def _measure(reply: RawReply) -> int:
    return reply.usage.get("reasoning_tokens") or len(reply.reasoning or reply.content) // 4


def _search_hidden(chat: Chat, family: Switch | None, read: list[Switch]) -> Found:
    """For a server whose replies show no reasoning: it may be in the content all the same, with the
    opening tag in the prompt and the closing tag beyond the end of a short reply."""
    for switch in (*read, GENERIC[0]):
        with contextlib.suppress(NoChatReplyError):
            on = _ask(chat, switch.on, SHORT, room=LONG)
            if not _thinks(on) and switch not in read:
                continue
            off = _ask(chat, switch.off, SHORT, room=LONG)
            if off.content and not _thinks(off):
                return Found("hybrid", switch, "unknown", _name_parser(family))
            if _thinks(on) and _thinks(off):
                return Found("prompt", None, "on", _name_parser(family), always=True)
    return Found("prompt")


def _thinks(reply: RawReply) -> bool:
    return bool(reply.reasoning or reply.leaks)


def _ask(
    chat: Chat,
    settings: Any,
    question: str,
    *,
    room: int = ROOM,
    thought: int | None = None,
    seed: int = 0,
) -> RawReply:
    """One reply with these settings; the question is asked again while the reply is empty."""
    body = flatten(settings)
    words = body.pop(WORDS, "")
    for number in range(REPEATS):
        request = {**body, "words": words, "max_tokens": room, "seed": seed + number}
        if thought is not None and chat.limits_thought:
            try:
                reply = chat.ask(question, **request, thinking_token_budget=thought)
            except NoChatReplyError:  # it has no such limit, or no reasoning parser
                chat.limits_thought = False
        if thought is None or not chat.limits_thought:
            reply = chat.ask(question, **request)
        if reply.content or reply.reasoning:
            break
    return reply


# The kept results


def _remember(chat: Chat, found: Found) -> None:
    """Keep a result; failing to write it is no reason to stop."""
    path = _find_file(chat)
    kept = {**found.describe(), "always": found.always, "time": time.time()}
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with write_whole(path) as draft:
            draft.write_text(json.dumps(kept), encoding="utf-8")


def _recall(chat: Chat) -> Found | None:
    """The kept result, if one request confirms that it still holds: System 1 must not think."""
    try:
        kept = json.loads(_find_file(chat).read_text(encoding="utf-8"))
        switch = SWITCHES[kept["switch"]]
        found = Found(kept["style"], switch, kept["default"], kept["parser"], kept["always"])
        found.modes()
        fresh = 0 <= time.time() - kept["time"] < FRESH
        if not fresh or found.parser or switch.style == "effort":
            return None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    reply = _ask(chat, switch.off, QUESTIONS[0])
    return found if reply.content and not _thinks(reply) else None


def _find_file(chat: Chat) -> Path:
    """The name is a digest, because no file may contain a server's address."""
    digest = hashlib.sha256(f"{chat.url} {chat.model}".encode()).hexdigest()[:24]
    return cache_folder() / "modes" / f"{digest}.json"
