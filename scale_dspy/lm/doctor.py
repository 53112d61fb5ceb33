"""Find out what a server really does by asking it, without trusting any version number.

`doctor --json` prints {"model", "findings", "command_lines"}. A finding is {"name", "ok", "detail",
"advice", "needed", "flags"}; with several servers also "server", counted from 1. `ok` is true,
false or null (it could not be found out); `needed` says that SCALE cannot work unless `ok` is true;
`flags` is what to add to the server's command line. The finding "style" says which --modes fits.
"command_lines" has a vLLM command line for each server that lacks flags.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import httpx

from scale_dspy.lm.detect import UndetectableError, find_embedded, find_on_server
from scale_dspy.lm.found import Found, explain, flatten
from scale_dspy.lm.raw_chat import (
    Chat,
    LateError,
    NoChatReplyError,
    RawReply,
    open_client,
    read_count,
)
from scale_dspy.lm.switches import WORDS

SECONDS = 105.0  # for all requests to one server
TIMEOUT = 60.0  # seconds for the listing, and for a request where there is time
QUESTION = "What is 17 * 23? Think it over, then give the number."
TEN = "Write ten random English words, one a line."
LONGEST_TOKEN = 12  # characters; the length of a capped reply counts if its tokens are not told
LONG, SHORTER = (
    700,
    100,
)  # numbers in the prompt that is sent twice; llama.cpp on a CPU reads slowly
CONTEXT, CONTEXT_ON_CPU = 40_960, 4_096  # tokens that a style's longest request takes


@dataclass(frozen=True)
class Finding:
    """One thing that holds (ok), does not hold, or could not be found out (ok is None).

    Attributes:
        detail: what was seen.
        advice: what to change on the server where it does not hold.
        needed: whether SCALE cannot work without it.
        flags: what to add to the server's command line to mend it.
    """

    name: str
    ok: bool | None
    detail: str
    advice: str = ""
    needed: bool = False
    flags: str = ""


@dataclass(frozen=True)
class _Patient:
    """The server under examination.

    Attributes:
        engine: vLLM, llama.cpp or another.
        embedded: whether it is this package's own model on the CPU.
        quiet: fields of a request that keep it from thinking.
    """

    chat: Chat
    engine: str
    embedded: bool
    quiet: Mapping[str, Any]


def examine(
    api_base: str,
    model: str | None = None,
    api_key: str | None = None,
    *,
    embedded: bool = False,
    seconds: float = SECONDS,
) -> Iterator[Finding]:
    """Probe a server; yields findings as they come. No reply of the server raises an exception.

    Args:
        api_base: for example http://127.0.0.1:8000/v1
        model: the name to ask for; by default the first that the server lists.
        embedded: whether it is this package's own model on the CPU.
        seconds: after which no further request is sent.
    """
    began = time.monotonic()
    with open_client(api_key, TIMEOUT) as client:
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
        engine = _name_engine(client, api_base, served[name])
        yield Finding("engine", True, engine)
        left = max(1.0, seconds - (time.monotonic() - began))
        chat = Chat(client, api_base, name, left, tries=1)
        patient = _Patient(chat, engine, embedded, {})
        yield _judge_context(served[name], patient)
        yield from _probe_all(patient)


def write_command_line(findings: Sequence[Finding]) -> str:
    """vLLM's command line with the flags that the findings ask for; empty if they ask for none."""
    flags = dict.fromkeys(each.flags for each in findings if each.flags and not each.ok)
    name = next((each.detail for each in findings if each.name == "model" and each.ok), "MODEL")
    return f"vllm serve {name} {' '.join(flags)}" if flags else ""


def _probe_all(patient: _Patient) -> Iterator[Finding]:
    found = None
    try:
        first = patient.chat.ask(QUESTION, max_tokens=64)
    except (NoChatReplyError, httpx.HTTPError, LateError) as error:
        yield Finding(
            "chat", False, f"a plain question gets no reply: {_describe(error)}",
            "SCALE cannot work with it: look at the server's log, and at any proxy before it",
            needed=True,
        )  # fmt: skip
    else:
        said = bool(first.content or first.reasoning)
        yield Finding(
            "chat", said, "a plain question is answered" if said else "the reply says nothing",
            "SCALE cannot work with a model that says nothing: look at its chat template",
            needed=True,
        )  # fmt: skip
        found = _find(patient)
    if isinstance(found, Found):
        yield from _judge_style(found, patient)
        if found.switch and found.switch.style == "hybrid":
            patient = replace(patient, quiet=flatten(found.switch.off))
        if found.switch and not patient.embedded:
            yield from _guard("reasoning", lambda: _probe_reasoning(patient, found))
    elif found:
        yield Finding("thinking", False, f"could not be found out: {found}")
    for probe in _PROBES:
        name = probe.__name__.removeprefix("_probe_")
        yield from _guard(name, lambda probe=probe: probe(patient))


def _find(patient: _Patient) -> Found | str:
    """How thinking is turned on and off, or in words why that could not be found out."""
    if patient.embedded:
        return find_embedded(patient.chat.url.removesuffix("/chat/completions"))
    try:
        return find_on_server(patient.chat)
    except UndetectableError as error:
        return str(error)


def _guard(name: str, probe: Any) -> Iterator[Finding]:
    """A probe's findings, or a single one that says why there are none."""
    try:
        yield from probe()
    except NoChatReplyError as error:
        yield Finding(name, False, f"refused: {error}", _ADVICE.get(name, ""))
    except httpx.HTTPError as error:
        yield Finding(name, False, _describe(error), "look at the server's log")
    except LateError:
        yield Finding(name, None, "not asked: the server is slow, and the time was used up")


def _describe(error: Exception) -> str:
    return str(error) if isinstance(error, NoChatReplyError) else f"{type(error).__name__}: {error}"


_ADVICE = {
    "n": "upgrade the server; until then candidates are drawn by concurrent requests",
    "seed": "upgrade the server; without seeds runs cannot be repeated",
    "logprobs": "with --assess draft, drafts are measured by their length and result alone",
    "structure": "upgrade vLLM, or start it with --structured-outputs-config "
    '\'{"backend":"xgrammar","disable_any_whitespace":true}\'',
}


def _judge_style(found: Found, patient: _Patient) -> Iterator[Finding]:
    """How thinking is turned on and off, and which --modes fits: the one that auto would choose."""
    if found.parser:
        flag = f"--reasoning-parser {found.parser}"  # only vLLM needs a flag for it
        yield Finding(
            "thinking", False, "<think> is left in the content",
            f"start vLLM with the model's reasoning parser: {flag}", flags=flag,
        )  # fmt: skip
    elif found.always or found.style in ("prefill", "effort"):
        yield Finding("thinking", True, "always, also when it is told not to")
    elif found.switch:
        yield Finding("thinking", True, f"on and off, by {explain(found.switch)}; by default it is "
                      f"{found.default}")  # fmt: skip
    else:
        advice = "if this model can think, start vLLM with its --reasoning-parser"
        if patient.engine.startswith("llama.cpp"):
            advice = "if this model can think, look at its chat template"
        yield Finding("thinking", None, "no reasoning in either mode", advice)
    if found.always:
        yield Finding(
            "style", False, "pair: it can only be System 2 (--modes pair --system-1-model NAME)",
            "for --modes prefill serve it with a vLLM that supports thinking_token_budget (with "
            "--reasoning-parser)",
        )  # fmt: skip
        return
    more = "found without this flag" if found.style in ("hybrid", "system", "effort") else ""
    if found.style == "prefill":
        more = "or pair, with another model as System 1 (--modes pair --system-1-model NAME)"
    name = found.switch.name if found.switch and found.style != "embedded" else found.style
    tell = found.summarise().partition("; start vLLM")[0]
    yield Finding("style", True, f"{tell} (--modes {name}{'; ' + more if more else ''})")


def _probe_reasoning(patient: _Patient, found: Found) -> Iterator[Finding]:
    """The field of reasoning, whether it can be capped, and whether its tokens are counted."""
    on = flatten(found.switch.on if found.switch else {})
    words = on.pop(WORDS, "")
    thought = patient.chat.ask(QUESTION, words=words, max_tokens=512, temperature=0, **on)
    if not thought.field:
        return
    yield Finding("reasoning field", True, f"message.{thought.field}")
    capped = patient.chat.ask(
        QUESTION, words=words, max_tokens=512, temperature=0, thinking_token_budget=16, **on
    )
    counted = [reply.usage.get("reasoning_tokens", 0) for reply in (thought, capped)]
    length = len(capped.reasoning)
    # Some parsers count nothing if the opening tag is part of the prompt.
    held = counted[1] <= 20 if counted[1] else length <= 16 * LONGEST_TOKEN
    yield Finding(
        "thinking cap", held,
        f"{counted[1] or f'{length} characters, about {length // 4}'} reasoning tokens with "
        "thinking_token_budget 16",
        "thinking_token_budget needs a recent vLLM started with --reasoning-parser",
    )  # fmt: skip
    if not counted[0]:
        yield Finding(
            "reasoning tokens", False, "usage reports none, although the reply has reasoning",
            "they are counted as response tokens all the same; to see them apart, try "
            "--reasoning-parser qwen3, which counts them where <think> is in the prompt",
        )  # fmt: skip


def _probe_n(patient: _Patient) -> Iterator[Finding]:
    reply = _ask_quietly(patient, TEN, n=3, max_tokens=24, temperature=1.0)
    texts = reply.choices
    if len(texts) == 1:
        yield Finding("n", False, "n=3 gave one choice", _ADVICE["n"])
        return
    yield Finding(
        "n", len(set(texts)) > 1, f"n=3 gave {len(texts)} choices, {len(set(texts))} different"
    )
    if all(finish == "length" for finish in reply.finishes):
        counted = reply.usage.get("completion_tokens")
        advice = "this server counts one choice only: use modes(..., decompose={'n': 1})"
        right: bool | None = counted == 24 * len(texts)
        if patient.embedded and not right:
            right, advice = None, "the style embedded asks for one choice at a time"
        yield Finding(
            "usage of n", right,
            f"{counted} response tokens counted for {len(texts)} choices of 24", advice,
        )  # fmt: skip


def _probe_seed(patient: _Patient) -> Iterator[Finding]:
    texts = [
        _ask_quietly(patient, TEN, seed=seed, max_tokens=24, temperature=1.0).choices[0]
        for seed in (1, 1, 2)
    ]
    repeats, varies = texts[0] == texts[1], texts[0] != texts[2]
    seen = "the same seed repeats" if repeats else "the same seed gave two replies"
    seen += ", another differs" if varies else ", another seed changes nothing"
    yield Finding("seed", repeats and varies, seen, _ADVICE["seed"])


def _probe_structure(patient: _Patient) -> Iterator[Finding]:
    form: dict[str, Any] = {"structured_outputs": {"choice": ["alpha", "omega"]}}
    if patient.engine.startswith("llama.cpp"):
        form = {"grammar": 'root ::= "alpha" | "omega"'}
    reply = _ask_quietly(patient, "Say hello.", max_tokens=16, **form)
    if not reply.content:
        yield Finding("structure", None, "the reply ended in its reasoning")
        return
    held = reply.content in ("alpha", "omega")
    seen = "a choice is kept" if held else f"ignored: {reply.content[:40]!r}"
    advice = _ADVICE["structure"] if patient.engine.startswith("vLLM") else ""
    yield Finding("structure", held, f"{next(iter(form))}: {seen}", advice)


def _probe_usage(patient: _Patient) -> Iterator[Finding]:
    reply = _ask_quietly(patient, TEN, max_tokens=8, temperature=1.0)
    prompt, completion = (reply.usage.get(f"{part}_tokens") for part in ("prompt", "completion"))
    right = bool(prompt) and completion == 8
    yield Finding(
        "usage", right if reply.finish == "length" else None,
        f"{prompt} + {completion} tokens for a reply of 8",
        "this server does not count tokens: budgets and costs will be wrong",
    )  # fmt: skip


def _probe_logprobs(patient: _Patient) -> Iterator[Finding]:
    reply = _ask_quietly(patient, TEN, max_tokens=8, temperature=1.0, logprobs=True)
    count = _count_logprobs(reply.whole)
    seen = f"a log-probability for {count} tokens of a reply" if count else "there are none"
    yield Finding("logprobs", bool(count), seen, _ADVICE["logprobs"])


def _count_logprobs(whole: Mapping[str, Any]) -> int:
    """How many tokens of the first choice have a log-probability."""
    with suppress(KeyError, IndexError, TypeError):
        content = whole["choices"][0]["logprobs"]["content"]
        return sum(isinstance(token["logprob"], (int, float)) for token in content)
    return 0


def _probe_prefix(patient: _Patient) -> Iterator[Finding]:
    slow = patient.engine.startswith("llama.cpp")
    numbers = " ".join(str(7 * number) for number in range(SHORTER if slow else LONG))
    text = f"Remember these numbers. {numbers}\nSay OK."
    replies = [_ask_quietly(patient, text, max_tokens=4, temperature=0) for _ in range(2)]
    cached = replies[1].usage.get("cached_tokens")
    prompt = replies[1].usage.get("prompt_tokens")
    if cached is None:
        flag = "" if slow else "--enable-prompt-tokens-details"
        advice = f"vLLM reports it with {flag}" if flag else ""
        yield Finding("prefix cache", None, "usage does not report it", advice, flags=flag)
        return
    flag = "" if slow else "--enable-prefix-caching"
    yield Finding(
        "prefix cache", cached > 0, f"{cached} of {prompt} prompt tokens cached on a repeat",
        f"start vLLM with {flag}" if flag else "", flags=flag,
    )  # fmt: skip


def _ask_quietly(patient: _Patient, content: str, **body: Any) -> RawReply:
    """Ask one question with thinking turned off, where that is possible."""
    return patient.chat.ask(content, **{**patient.quiet, **body})


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
        return {str(entry["id"]): dict(entry) for entry in listing.json()["data"]}
    except (ValueError, KeyError, TypeError, RecursionError):
        return {}


def _judge_model(name: str, served: dict[str, dict[str, Any]]) -> Finding:
    if name in served:
        return Finding("model", True, name, needed=True)
    listed = ", ".join(served) or "none"
    return Finding(
        "model", False, f"{name or 'none'} is not served; served: {listed}",
        "correct --model, or start vLLM with --served-model-name", needed=True,
    )  # fmt: skip


def _name_engine(client: httpx.Client, api_base: str, entry: Mapping[str, Any]) -> str:
    """The serving engine and its version, from its list of models and its path /version."""
    owner = str(entry.get("owned_by"))
    if owner == "llamacpp":
        return "llama.cpp"
    try:
        address = api_base.rstrip("/").removesuffix("/v1")
        version = client.get(f"{address}/version", timeout=5).json()["version"]
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, KeyError, TypeError, RecursionError):
        version = ""
    return f"vLLM {str(version)[:40]}".strip() if owner == "vllm" else f"not known ({owner[:40]})"


def _judge_context(entry: Mapping[str, Any], patient: _Patient) -> Finding:
    meta = entry.get("meta")
    length = read_count(entry.get("max_model_len"))
    if not length and isinstance(meta, Mapping):
        length = read_count(meta.get("n_ctx"))
    if not length:
        return Finding("context", None, "the server does not tell")
    wanted = CONTEXT_ON_CPU if patient.embedded else CONTEXT
    flag = f"--max-model-len {wanted}" if patient.engine.startswith("vLLM") else ""
    start = f"start vLLM with {flag}" if flag else f"give the server a context of {wanted} tokens"
    return Finding(
        "context", length >= wanted, f"{length} tokens",
        f"below {wanted:,}, lower solve_2's max_tokens, or {start}", flags=flag,
    )  # fmt: skip


_PROBES = (
    *(_probe_n, _probe_seed, _probe_structure, _probe_usage, _probe_logprobs),
    _probe_prefix,  # the slowest, last
)
