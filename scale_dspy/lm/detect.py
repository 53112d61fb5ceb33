"""find_modes(): how thinking is switched on a server, found out by asking it a few short questions.

A setting switches thinking where it leaves no reasoning at all and its opposite brings some. Both
are sent in every request afterwards, so a server's own default does not matter.
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

TIMEOUT = 120.0  # seconds a request; a first thinking reply on a CPU takes its time
QUESTIONS = (
    "A farmer has 17 crates of 23 eggs. Every ninth egg is broken. How many are whole?",
    "A train of 14 cars with 31 seats each is two thirds full. How many more people can sit?",
)
SHORT = "What is 2 + 3? Reply with the number."
ROOM = 32  # response tokens that show whether a reply begins with reasoning
LONG = 1024  # response tokens in which the thinking about SHORT comes to its end
LEVEL = 1024  # response tokens in which low and high effort differ
THOUGHT = 12  # reasoning tokens after which a server that can ends the thinking of a probe
RATIO = 1.5  # high effort thinks so much longer than low
REPEATS = 3  # times that a reply is asked for which says nothing
FRESH = 24 * 3600.0  # seconds that a finding is kept for
DEFAULT_PARSER = "qwen3"  # reads <think>; the name that is told where the family is not known


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
    """How thinking is switched at one server, or at several that are to do the same.

    A finding is kept for a day, by a digest of address and model; before it is used again one
    request checks that it still holds.

    Args:
        model: the name as served.
        api_base: one address or several; one that cannot be reached is passed over if another can.
        keep: whether findings are kept in the cache folder.

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
    """How thinking is switched in a llama.cpp server: its template's text tells, nothing is asked.

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
    """How thinking is switched, found with requests of `chat`.

    Raises:
        UndetectableError: no reply to a plain question, or none any more.
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
    """Try the switches that the model's name tells of, then the usual ones."""
    plain = _ask(chat, {}, QUESTIONS[0])
    thinks = _thinks(plain)
    family = find_family(chat.model)
    candidates = [family] if family else []
    candidates += [switch for switch in GENERIC if not family or switch.off != family.off]
    read: list[Switch] = []  # templates that render differently, though no reasoning is told
    surplus: list[Switch] = []  # only the parser reads them
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
    """None where the switch makes no difference; else whether thinking was left in the content.

    The setting that should change what the server does by itself is tried first.
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
    """Whether the model really does not think with the switch off, a second question included: it
    may not think about every one.

    A parser may believe in a switch that the template does not read, and leave the thinking in the
    content. Then a closing tag follows, soon where the server limits thinking, else late.
    """
    replies = [_ask(chat, switch.off, QUESTIONS[1], thought=THOUGHT)]
    if not chat.limits_thought and not _render_apart(off, on):
        replies.append(_ask(chat, switch.off, SHORT, room=LONG))
    return all(reply.content and not _thinks(reply) for reply in replies)


def _render_apart(off: RawReply, on: RawReply) -> bool:
    """Whether the template makes prompts of different lengths of the two settings."""
    sizes = [reply.usage.get("prompt_tokens") for reply in (off, on)]
    return None not in sizes and sizes[0] != sizes[1]


def _is_proven(chat: Chat, switch: Switch, off: RawReply, on: RawReply) -> bool:
    """Whether the reasoning in `on` is the model's own.

    A parser may believe in a switch that the template does not read, and take a plain answer for
    reasoning. Then no content ever follows it, and both prompts are of one length.
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
    """Remember a template that reads the switch, though no reasoning is told."""
    if _render_apart(off, on) and off.content and on.content:
        read.append(switch)


def _search_always(chat: Chat, family: Switch | None, plain: RawReply) -> Found:
    """Of a model that thinks whatever it is told: a closed block, levels of effort, or nothing."""
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
    """Whether it answers at once when its block is closed at once."""
    replies = [_ask(chat, switch.off, question) for question in QUESTIONS]
    return all(reply.content and not _thinks(reply) for reply in replies)


def _test_levels(chat: Chat, switch: Switch) -> bool:
    """Whether high effort thinks longer than low, on each of two questions against both."""
    lengths = {
        level: [_measure(_ask(chat, settings, question, room=LEVEL)) for question in QUESTIONS]
        for level, settings in (("low", switch.off), ("high", switch.on))
    }
    return min(lengths["high"]) > RATIO * max(lengths["low"])


def _measure(reply: RawReply) -> int:
    return reply.usage.get("reasoning_tokens") or len(reply.reasoning or reply.content) // 4


def _search_hidden(chat: Chat, family: Switch | None, read: list[Switch]) -> Found:
    """Of a server that tells of no reasoning: perhaps it is in the content, its opening tag in the
    prompt and its closing tag too far off for a short reply."""
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
    """One reply with these settings; asked for again where it says nothing at all."""
    body = flatten(settings)
    words = body.pop(WORDS, "")
    for number in range(REPEATS):
        request = {**body, "words": words, "max_tokens": room, "seed": seed + number}
        if thought is not None and chat.limits_thought:
            try:
                reply = chat.ask(question, **request, thinking_token_budget=thought)
            except NoChatReplyError:  # it knows no such limit, or has no parser
                chat.limits_thought = False
        if thought is None or not chat.limits_thought:
            reply = chat.ask(question, **request)
        if reply.content or reply.reasoning:
            break
    return reply


# What is kept


def _remember(chat: Chat, found: Found) -> None:
    """Keep a finding; a cache that cannot be written is no reason to stop."""
    path = _find_file(chat)
    kept = {**found.describe(), "always": found.always, "time": time.time()}
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with write_whole(path) as draft:
            draft.write_text(json.dumps(kept), encoding="utf-8")


def _recall(chat: Chat) -> Found | None:
    """What was found before and still holds, by one request: System 1 must not think."""
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
    """The name is a digest: where a server is belongs in no file."""
    digest = hashlib.sha256(f"{chat.url} {chat.model}".encode()).hexdigest()[:24]
    return cache_folder() / "modes" / f"{digest}.json"
