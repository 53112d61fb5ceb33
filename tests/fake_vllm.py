"""A fake vLLM server over real HTTP: a model of a synthetic world, with delays and faults.

    late = Fault(stage="assess", nth=1, status=503)
    with fake_vllm(World(), delay=0.05, faults=[late]) as server:
        lm = connect(server.model, server.api_base, seed=0)

It runs in a thread of its own. `spawn_fake_vllm`, or `python -m tests.fake_vllm --port 8000`, runs
it in a process of its own, which can be killed; there GET /fake/log and /fake/totals tell what
happened. A token is a word, see `count_tokens`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import itertools
import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

import dspy
import httpx
from aiohttp import web

from scale_dspy.assess import RateDifficulty
from scale_dspy.decompose import ProposeSubproblems, SelectCandidate
from scale_dspy.lists import read_list
from scale_dspy.solve import SolveDirectly, SolveThoroughly
from tests.world import (
    Problem,
    World,
    babble,
    draw,
    read_boxed,
    read_known,
    read_target,
    write_solution,
)

MODEL = "fake/Qwen3-World"
CHAT = "/v1/chat/completions"
LOG_KEPT = 10_000  # records kept when bodies are not
BLOCK = 16  # tokens of a block of the prefix cache
OTHER = "other"


# ---- what is on record, what can go wrong --------------------------------------------------------


@dataclass(frozen=True)
class Request:
    """One request that the server got.

    Attributes:
        number: in order of arrival, from 0.
        stage: decompose, select, assess, solve_1, solve_2, whole (a problem asked in a prompt of
            another kind), other; empty for another path.
        system: 1 or 2, thinking off or on; 0 for another path.
        problem: the id of the world's problem that it is about, or empty.
        body: the decoded body; empty where bodies are not kept.
        replies: the content of each choice; empty where bodies are not kept.
        start: seconds of time.monotonic(); `end` too.
        status: of the reply; 499 where the client left, 0 where the connection was broken.
        fault: what was wrong with the reply by order, as text; empty where nothing was.
    """

    number: int
    path: str
    stage: str
    system: int
    problem: str
    body: dict[str, Any]
    replies: tuple[str | None, ...]
    start: float
    end: float
    status: int
    usage: dict[str, Any]
    cancelled: bool
    fault: str


@dataclass(frozen=True)
class Totals:
    """Sums over the chat replies that were given."""

    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    reasoning_tokens: int = 0

    def __add__(self, other: Totals) -> Totals:
        mine, theirs = asdict(self), asdict(other)
        return Totals(**{name: mine[name] + theirs[name] for name in mine})


@dataclass(frozen=True)
class Fault:
    """Something that goes wrong by order. The first fault that fits a request is played.

    Which requests: those of `path` and `stage` ("solve" is both systems) for which `when(body)`
    holds; of these, counted from 1, the `nth` (one or several), or those from `first` on, or each
    `every`-th, and of these a share of `probability`, drawn by `seed`.

    What happens, one or several of:
        stall: seconds that it takes longer.
        status: an error status, with `retry_after` seconds in its header and `message`.
        reset: the connection breaks "before" the reply or in the "middle" of its body.
        cut_json: the body ends half way.
        body: the body, as text, instead of a reply in JSON.
        content_type: the body is a page of HTML of this type ("text/html").
        empty_choices: no choice in the reply.
        null_content: content is null.
        content: the content, instead of the world's; a tuple gives choice k its k-th.
        reasoning: the reasoning, instead of the world's.
        finish_reason: for example "length".
    """

    stage: str | None = None
    nth: int | tuple[int, ...] | None = None
    first: int | None = None
    every: int | None = None
    probability: float = 1.0
    seed: int = 0
    when: Callable[[dict[str, Any]], bool] | None = None
    path: str = CHAT
    stall: float = 0.0
    status: int | None = None
    retry_after: float | None = None
    message: str = "an error by order"
    reset: Literal["before", "middle"] | None = None
    cut_json: bool = False
    body: str | None = None
    content_type: str | None = None
    empty_choices: bool = False
    null_content: bool = False
    content: str | tuple[str, ...] | None = None
    reasoning: str | None = None
    finish_reason: str | None = None

    def covers(self, path: str, stage: str, body: dict[str, Any]) -> bool:
        """Whether a request is of the kind that this fault counts."""
        if path != self.path:
            return False
        if self.stage and stage != self.stage and stage.rpartition("_")[0] != self.stage:
            return False
        return self.when is None or self.when(body)

    def strikes(self, count: int) -> bool:
        """Whether it is played for the `count`-th request it covers."""
        if self.nth is not None and count not in _as_tuple(self.nth):
            return False
        if self.first is not None and count < self.first:
            return False
        if self.every is not None and count % self.every:
            return False
        return self.probability >= 1 or draw("fault", self.seed, count).random() < self.probability

    def describe(self) -> str:
        which = {"stage", "nth", "first", "every", "probability", "seed", "when", "path", "message"}
        said = {
            part.name: getattr(self, part.name)
            for part in fields(self)
            if part.name not in which and getattr(self, part.name) != part.default
        }
        return " ".join(f"{name}={value!r}" for name, value in said.items()) or "none"


@dataclass(frozen=True)
class Options:
    """How the server behaves.

    Attributes:
        model: the name it serves.
        api_key: if given, requests without it get 401.
        max_model_len: tokens of prompt and response together.
        delay: seconds that every choice takes.
        per_token: seconds that each response token takes on top.
        max_concurrency: choices that are worked on at the same time; the others wait.
        thinking: "switch" as chat_template_kwargs.enable_thinking says (on if it says nothing),
            "always" or "never".
        reasoning_field: where reasoning goes: "reasoning" (vLLM today), "reasoning_content"
            (before), or None: it is left in the content between think tags, as without a parser.
        ignore_n: one choice, however many are asked for.
        usage: "all" choices are counted, or "one" (as llama.cpp), or "none" (no usage at all).
        cached_tokens: whether usage tells how much of the prompt the prefix cache held.
        keep_bodies: whether the log keeps requests and replies; without, it also forgets all
            but the latest records, so that a long run needs little memory.
        other: what a request gets that is about no problem of the world; None: words that say
            nothing, different for each seed. Or a function of the body, asked for every request
            that is not of a known stage; where it returns None, the former holds.
    """

    model: str = MODEL
    api_key: str | None = None
    max_model_len: int = 40_960
    delay: float = 0.0
    per_token: float = 0.0
    max_concurrency: int | None = None
    thinking: Literal["switch", "always", "never"] = "switch"
    reasoning_field: Literal["reasoning", "reasoning_content"] | None = "reasoning"
    ignore_n: bool = False
    usage: Literal["all", "one", "none"] = "all"
    cached_tokens: bool = False
    keep_bodies: bool = True
    other: str | Callable[[dict[str, Any]], str | None] | None = None


class RefusedError(Exception):
    """A request that is answered with an error status."""

    def __init__(
        self,
        status: int,
        message: str,
        kind: str,
        param: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.kind, self.param = status, kind, param
        self.retry_after = retry_after


# ---- reading a prompt ----------------------------------------------------------------------------


def _ending(signature: type[dspy.Signature]) -> str:
    (output,) = signature.output_fields.values()
    return f"Reply with {str(output.json_schema_extra['desc']).rstrip('.')}."


_STAGES = {
    _ending(ProposeSubproblems): ("decompose", ProposeSubproblems),
    _ending(SelectCandidate): ("select", SelectCandidate),
    _ending(RateDifficulty): ("assess", RateDifficulty),
    _ending(SolveDirectly): ("solve", SolveDirectly),
    _ending(SolveThoroughly): ("solve", SolveThoroughly),
}


@dataclass(frozen=True)
class Prompt:
    """What a chat request asks.

    Attributes:
        stage: decompose, select, assess, solve, whole or other.
        thorough: whether it is asked in the words of System 2 (for a model that cannot think).
        inputs: by the Signature's field name; empty for whole and other.
        text: all messages.
        demos: worked examples among the messages.
    """

    stage: str
    thorough: bool
    problem: Problem | None
    inputs: Mapping[str, str]
    text: str
    demos: int


def read_prompt(messages: Sequence[Mapping[str, Any]], world: World) -> Prompt:
    """Recognise the stage by the last line, which stays when instructions are tuned."""
    texts = [_read_content(message) for message in messages]
    last = texts[-1] if texts else ""
    stage, signature = _STAGES.get(last.rstrip().rpartition("\n")[2].strip(), (OTHER, None))
    inputs = _read_sections(signature, last) if signature else {}
    problem = world.find(inputs.get("problem", last)) or world.find("\n".join(texts))
    if problem is None:
        stage = OTHER
    elif stage == OTHER:
        stage = "whole"
    return Prompt(
        stage=stage,
        thorough=signature is SolveThoroughly or stage == "whole",
        problem=problem,
        inputs=inputs,
        text="\n".join(texts),
        demos=sum(message.get("role") == "assistant" for message in messages),
    )


def count_tokens(text: str | None) -> int:
    """Tokens of a text: its words."""
    return len((text or "").split())


def _read_content(message: Mapping[str, Any]) -> str:
    content = message.get("content") or ""
    if isinstance(content, str):
        return content
    return "\n".join(str(part.get("text", "")) for part in content)


def _read_sections(signature: type[dspy.Signature], text: str) -> dict[str, str]:
    """The inputs as PlainAdapter writes them: each under its title, the instructions after them.

    What ends the last input cannot be seen, so it is taken to have no blank line, except that
    candidates run on as long as they are candidates.
    """
    places = []
    position = 0
    for name, input_field in signature.input_fields.items():
        title = f"{input_field.json_schema_extra['desc']}:\n"
        at = 0 if not places and text.startswith(title) else text.find(f"\n\n{title}", position)
        if at >= 0:
            position = text.index(title, at) + len(title)
            places.append((name, at, position))
    ends = [start for _, start, _ in places[1:]]
    inputs = {
        name: text[begin:end] for (name, _, begin), end in zip(places, [*ends, None], strict=False)
    }
    if places:
        name = places[-1][0]
        blocks = inputs[name].split("\n\n")
        more = "Candidate " if name == "candidates" else None
        kept = 1
        while more and kept < len(blocks) and blocks[kept].startswith(more):
            kept += 1
        inputs[name] = "\n\n".join(blocks[:kept])
    return inputs


# ---- the model -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Choice:
    """One choice of a reply, before and after it is cut to its room."""

    content: str | None
    reasoning: str = ""
    finish_reason: str = "stop"

    @property
    def tokens(self) -> int:
        return count_tokens(self.content) + count_tokens(self.reasoning)


@dataclass(frozen=True)
class Sampling:
    """What decides a reply beside the prompt.

    Attributes:
        thinking: whether this reply starts with reasoning.
        aloud: whether the model has no thinking mode, so that System 2 reasons in its reply.
        room: the most tokens of a choice.
    """

    thinking: bool
    aloud: bool
    n: int
    seed: object
    room: int
    think_at_most: int | None
    allowed: tuple[str, ...]


def make_choices(
    prompt: Prompt, sampling: Sampling, world: World, options: Options
) -> list[Choice]:
    """What the model replies."""
    choices = []
    for number in range(1 if options.ignore_n else sampling.n):
        chance = draw(
            world.seed,
            prompt.problem.id if prompt.problem else prompt.text,
            prompt.inputs.get("subproblem"),
            prompt.stage,
            sampling.thinking,
            sampling.seed,
            number,
        )
        choice = _think_and_reply(prompt, sampling, world, options, chance)
        if sampling.allowed and choice.content not in sampling.allowed:
            choice = replace(choice, content=chance.choice(sampling.allowed))
        choices.append(_cut(choice, sampling.room))
    return choices


def _think_and_reply(
    prompt: Prompt, sampling: Sampling, world: World, options: Options, chance: random.Random
) -> Choice:
    magic = bool(world.magic) and world.magic in prompt.text
    if prompt.problem is None:
        content = babble(40, chance) if not isinstance(options.other, str) else options.other
        wanted = 30
    elif prompt.stage in ("solve", "whole"):
        return _solve(prompt, prompt.problem, sampling, world, chance, magic)
    else:
        content = _plan(prompt, prompt.problem, world, chance, magic)
        wanted = world.tokens_2 // 2
    return Choice(content, _reason(wanted, sampling, chance))


def _plan(
    prompt: Prompt, problem: Problem, world: World, chance: random.Random, magic: bool
) -> str:
    """A reply of the stages that solve nothing."""
    if prompt.stage == "decompose":
        items = world.split(problem, chance, magic=magic)
        return "\n".join(f"{number}. {item}" for number, item in enumerate(items, 1))
    if prompt.stage == "select":
        blocks = re.split(r"(?m)^Candidate \d+\n", prompt.inputs.get("candidates", ""))[1:]
        candidates = [read_list(block) for block in blocks] or [[]]
        return str(world.choose(problem, candidates, chance, magic=magic))
    subproblem = prompt.inputs.get("subproblem", "")
    known = read_known(problem, prompt.inputs.get("context", ""))
    target = read_target(problem, subproblem)
    difficulty = world.measure(problem, target, known) if target else 0.2
    return f"{world.rate(difficulty, chance, magic=magic):g}"


def _solve(
    prompt: Prompt,
    problem: Problem,
    sampling: Sampling,
    world: World,
    chance: random.Random,
    magic: bool,
) -> Choice:
    """A solution of a sub-problem, or of the problem whole."""
    known = read_known(problem, prompt.inputs.get("context", ""))
    target = len(problem.parts)
    if prompt.stage == "solve":
        target = read_target(problem, prompt.inputs.get("subproblem", "")) or 0
    words, thoughts = world.count_words(problem, target, known, chance)
    reasoning = _reason(thoughts, sampling, chance)
    draft = count_tokens(prompt.inputs.get("draft"))
    if sampling.thinking:
        system = 1 + count_tokens(reasoning) / max(1, thoughts)
    elif prompt.thorough and sampling.aloud:
        system, words = 2.0, words + thoughts
    else:
        system = 1 + min(1.0, draft / max(1, thoughts))
    if target == 0:
        return Choice(write_solution("r", chance.randrange(30), words, chance), reasoning)
    gain = world.demo_gain * min(4, prompt.demos)
    value = world.solve(problem, target, known, system, chance, gain=gain, magic=magic)
    return Choice(write_solution(f"q_{{{target}}}", value, words, chance), reasoning)


def _reason(words: int, sampling: Sampling, chance: random.Random) -> str:
    if not sampling.thinking:
        return ""
    most = words if sampling.think_at_most is None else min(words, sampling.think_at_most)
    return babble(most, chance)


def _cut(choice: Choice, room: int) -> Choice:
    """The choice as far as `room` tokens go; cut off while thinking it has no content."""
    if choice.tokens <= room:
        return choice
    left = room - count_tokens(choice.reasoning)
    if left > 0:
        return Choice(_first_words(choice.content or "", left), choice.reasoning, "length")
    return Choice(None, _first_words(choice.reasoning, room), "length")


def _first_words(text: str, count: int) -> str:
    for number, match in enumerate(re.finditer(r"\S+", text), 1):
        if number == count:
            return text[: match.end()]
    return text


# ---- the server ----------------------------------------------------------------------------------


@dataclass
class _Entry:
    """A request on its way to become a record of the log."""

    number: int
    path: str
    start: float
    body: dict[str, Any] = field(default_factory=dict)
    prompt: Prompt | None = None
    stage: str = ""
    system: int = 0
    fault: Fault | None = None
    choices: list[Choice] = field(default_factory=list)
    usage: dict[str, Any] = field(default_factory=dict)
    logged: bool = False


class FakeVLLM:
    """The server, its log and its book of right answers. Made by `fake_vllm`.

    `world` and `options` may be replaced while it runs, and `play` gives it other faults.

    Attributes:
        right: for each problem's id, whether each final answer given for it was right, in order.
        struck: how often each fault was played, by its description.
        in_flight_max: the most chat requests that were open at the same time.
        occupancy: (seconds of time.monotonic(), choices being worked on) at every change, where
            max_concurrency is set.
    """

    def __init__(self, world: World, options: Options, faults: Sequence[Fault] = ()) -> None:
        self.world = world
        self.options = options
        self.port = 0
        self._runner: web.AppRunner | None = None
        self._slots: asyncio.Semaphore | None = None
        self._blocks: set[int] = set()
        self._routes: dict[tuple[str, str], Callable[[_Entry, web.Request], Any]] = {
            ("POST", CHAT): self._chat,
            ("POST", "/tokenize"): self._tokenize,
            ("GET", "/v1/models"): self._list_models,
            ("GET", "/health"): self._tell_health,
            ("GET", "/version"): self._tell_version,
            ("GET", "/metrics"): self._tell_metrics,
            ("GET", "/fake/log"): self._tell_log,
            ("GET", "/fake/totals"): self._tell_totals,
        }
        self.play(*faults)
        self.clear()

    # -- what tests read

    @property
    def model(self) -> str:
        return self.options.model

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def api_base(self) -> str:
        return f"{self.url}/v1"

    @property
    def requests(self) -> list[Request]:
        """Every request that was answered, on any path, in order of arrival."""
        return sorted(self._log, key=lambda request: request.number)

    def chats(self, stage: str | None = None) -> list[Request]:
        """The chat requests, of one stage ("solve" is both systems) or of all."""
        return [
            request
            for request in self.requests
            if request.path == CHAT
            and (stage is None or stage in (request.stage, request.stage.rpartition("_")[0]))
        ]

    def totals(self) -> Totals:
        """Sums over all chat replies that reached the client whole."""
        return sum(self._totals.values(), Totals())

    def totals_by_stage(self) -> dict[str, Totals]:
        return dict(self._totals)

    def rounds(self, problem: str | None = None) -> int:
        """How many chat requests had to wait for one another: the longest row of requests of
        which each began when the one before had ended. For one problem's id, or for all."""
        chats = [chat for chat in self.chats() if problem in (None, chat.problem)]
        return count_rounds(chats)

    def utilisation(self) -> float:
        """Mean share of the max_concurrency slots at work, from the first choice to the last."""
        changes = list(self.occupancy)
        if len(changes) < 2 or not self.options.max_concurrency:
            return 0.0
        work = sum(busy * (later - at) for (at, busy), (later, _) in itertools.pairwise(changes))
        return work / (changes[-1][0] - changes[0][0]) / self.options.max_concurrency

    def play(self, *faults: Fault) -> None:
        """From now on these faults, counted anew, instead of those before."""
        self._faults = [(fault, Counter[str]()) for fault in faults]

    def clear(self) -> None:
        """Forget the log, the totals and the book of right answers."""
        kept = None if self.options.keep_bodies else LOG_KEPT
        self._log: deque[Request] = deque(maxlen=kept)
        self.occupancy: deque[tuple[float, int]] = deque(maxlen=kept)
        self._totals: dict[str, Totals] = defaultdict(Totals)
        self.right: dict[str, list[bool]] = defaultdict(list)
        self._seen: Counter[bytes] = Counter()
        self.struck: Counter[str] = Counter()
        self._count = self._open = self._busy = self.in_flight_max = 0
        self._cached = self._prompted = 0

    # -- running

    async def start(self, port: int = 0) -> None:
        app = web.Application(client_max_size=1 << 30)
        app.router.add_route("*", "/{path:.*}", self._serve)
        if self.options.max_concurrency:
            self._slots = asyncio.Semaphore(self.options.max_concurrency)
        self._runner = web.AppRunner(
            app, access_log=None, handler_cancellation=True, shutdown_timeout=0.05
        )
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", port, backlog=1024).start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        if self._runner:
            await self._runner.cleanup()

    # -- every request

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        """Number it, play its fault, answer it, and enter it in the log before the reply leaves."""
        if request.path.startswith("/fake/"):
            return await self._answer(request, _Entry(-1, request.path, 0.0))
        entry = _Entry(self._count, request.path, time.monotonic())
        self._count += 1
        is_chat = entry.path == CHAT
        self._open += is_chat
        self.in_flight_max = max(self.in_flight_max, self._open)
        try:
            response = await self._answer(request, entry)
            self._enter(entry, response.status)
            return response
        except (asyncio.CancelledError, ConnectionError):
            self._enter(entry, 499)
            raise
        except _BrokenError:
            self._enter(entry, 0)
            _break(request)
            return web.Response()
        except Exception:
            self._enter(entry, 500)
            raise
        finally:
            self._open -= is_chat

    async def _answer(self, request: web.Request, entry: _Entry) -> web.StreamResponse:
        try:
            if request.method == "POST":
                entry.body = await _read_body(request)
            if entry.path == CHAT:
                self._recognise(entry)
            fault = entry.fault = self._pick_fault(entry)
            if fault:
                self.struck[fault.describe()] += 1
                await _play_early(fault)
            self._check_key(request)
            route = self._routes.get((request.method, request.path))
            if route is None:
                raise RefusedError(404, "Not Found", "NotFoundError")
            response = await route(entry, request)
        except RefusedError as error:
            response = _refuse(error)
        if entry.fault and entry.fault.status is None and isinstance(response, web.Response):
            return await self._damage(request, entry, response)
        return response

    async def _damage(
        self, request: web.Request, entry: _Entry, response: web.Response
    ) -> web.StreamResponse:
        """The response as a fault of the body leaves it."""
        fault = entry.fault
        assert fault is not None
        body = bytes(response.body or b"")
        if fault.content_type:
            page = "<html><body>502 Bad Gateway</body></html>"
            return web.Response(text=page, content_type=fault.content_type)
        if fault.body is not None:
            return web.Response(text=fault.body, content_type="application/json")
        if fault.cut_json:
            return web.Response(body=body[: len(body) // 2], content_type="application/json")
        if fault.reset == "middle":
            headers = {"Content-Type": "application/json", "Content-Length": str(len(body))}
            half = web.StreamResponse(headers=headers)
            await half.prepare(request)
            await half.write(body[: len(body) // 2])
            raise _BrokenError
        return response

    def _recognise(self, entry: _Entry) -> None:
        messages = entry.body.get("messages")
        if not isinstance(messages, list):
            raise RefusedError(400, "messages: Field required", "BadRequestError", "messages")
        entry.prompt = read_prompt(messages, self.world)
        thinking = self._read_thinking(entry.body)
        aloud = self.options.thinking == "never" and entry.prompt.thorough
        entry.system = 2 if thinking or aloud else 1
        stage = entry.prompt.stage
        entry.stage = f"solve_{entry.system}" if stage == "solve" else stage

    def _read_thinking(self, body: dict[str, Any]) -> bool:
        if body.get("thinking_token_budget") == 0:
            return False
        if self.options.thinking != "switch":
            return self.options.thinking == "always"
        if body.get("reasoning_effort") == "none":
            return False
        return bool((body.get("chat_template_kwargs") or {}).get("enable_thinking", True))

    def _pick_fault(self, entry: _Entry) -> Fault | None:
        struck = []
        for fault, counter in self._faults:
            if fault.covers(entry.path, entry.stage, entry.body):
                counter["covered"] += 1
                if fault.strikes(counter["covered"]):
                    struck.append(fault)
        return struck[0] if struck else None

    def _check_key(self, request: web.Request) -> None:
        key = self.options.api_key
        if key is None or not request.path.startswith("/v1"):
            return
        if request.headers.get("Authorization") != f"Bearer {key}":
            raise RefusedError(401, "Unauthorized", "Unauthorized")

    def _enter(self, entry: _Entry, status: int) -> None:
        """Enter the request in the log, once."""
        if entry.logged:
            return
        entry.logged = True
        keep = self.options.keep_bodies
        problem = entry.prompt.problem if entry.prompt else None
        request = Request(
            number=entry.number,
            path=entry.path,
            stage=entry.stage,
            system=entry.system,
            problem=problem.id if problem else "",
            body=entry.body if keep else {},
            replies=tuple(choice.content for choice in entry.choices) if keep else (),
            start=entry.start,
            end=time.monotonic(),
            status=status,
            usage=entry.usage,
            cancelled=status == 499,
            fault=entry.fault.describe() if entry.fault else "",
        )
        self._log.append(request)
        if status == 200 and entry.path == CHAT and not _is_unreadable(entry.fault):
            self._totals[entry.stage] += _add_up(entry.usage)
            self._book(entry)

    def _book(self, entry: _Entry) -> None:
        """Note whether final answers are right."""
        prompt = entry.prompt
        if prompt is None or prompt.problem is None or prompt.stage not in ("solve", "whole"):
            return
        problem = prompt.problem
        asked = prompt.inputs.get("subproblem", "")
        if prompt.stage == "solve" and read_target(problem, asked) != len(problem.parts):
            return
        for choice in entry.choices:
            right = read_boxed(choice.content or "") == problem.values[-1]
            self.right[problem.id].append(right)

    # -- chat

    async def _chat(self, entry: _Entry, request: web.Request) -> web.StreamResponse:
        prompt = entry.prompt
        assert prompt is not None
        prompt_tokens = count_tokens(prompt.text)
        sampling = self._read_sampling(entry, prompt_tokens)
        if prompt.stage in (OTHER, "whole") and callable(self.options.other):
            said = self.options.other(entry.body)
            choices = [_cut(Choice(said), sampling.room)] * sampling.n if said else []
        else:
            choices = []
        choices = choices or make_choices(prompt, sampling, self.world, self.options)
        if entry.fault:
            choices = _override(choices, entry.fault)
        entry.choices = choices
        entry.usage = self._count_usage(prompt, prompt_tokens, choices)
        if entry.body.get("stream"):
            return await self._stream(request, entry)
        await asyncio.gather(*(self._work(choice.tokens) for choice in choices))
        reply = {
            **_envelope(entry, "chat.completion"),
            "choices": [
                {
                    "index": index,
                    "message": self._write_message(choice),
                    "logprobs": None,
                    "finish_reason": choice.finish_reason,
                    "stop_reason": None,
                }
                for index, choice in enumerate(choices)
            ],
        }
        if self.options.usage != "none":
            reply["usage"] = entry.usage
        return web.json_response(reply)

    def _read_sampling(self, entry: _Entry, prompt_tokens: int) -> Sampling:
        body = entry.body
        name = body.get("model")
        if name != self.options.model:
            raise RefusedError(404, f"The model `{name}` does not exist.", "NotFoundError", "model")
        n = body.get("n") or 1
        if n > 1 and body.get("temperature") == 0:
            raise _bad(f"n must be 1 when using greedy sampling, got {n}.", "n")
        structured = body.get("structured_outputs") or {}
        return Sampling(
            thinking=self._read_thinking(body),
            aloud=self.options.thinking == "never",
            n=n,
            seed=self._read_seed(body),
            room=self._find_room(body, prompt_tokens),
            think_at_most=body.get("thinking_token_budget"),
            allowed=tuple(structured.get("choice") or ()),
        )

    def _read_seed(self, body: dict[str, Any]) -> object:
        """The request's seed; without one, how often these messages were sent before."""
        if body.get("seed") is not None:
            return body["seed"]
        if body.get("temperature") == 0:
            return "greedy"
        digest = hashlib.blake2b(json.dumps(body["messages"]).encode(), digest_size=8).digest()
        self._seen[digest] += 1
        return "arrival", self._seen[digest]

    def _find_room(self, body: dict[str, Any], prompt_tokens: int) -> int:
        length = self.options.max_model_len
        asked = body.get("max_completion_tokens") or body.get("max_tokens")
        if body.get("max_tokens") is not None and body["max_tokens"] < 1:
            raise _bad(f"max_tokens must be at least 1, got {body['max_tokens']}.", "max_tokens")
        if prompt_tokens + (asked or 1) > length:
            raise _bad(
                f"This model's maximum context length is {length} tokens. However, you requested "
                f"{asked or 0} output tokens and your prompt contains at least {prompt_tokens} "
                f"input tokens, for a total of at least {prompt_tokens + (asked or 1)} tokens. "
                "Please reduce the length of the input prompt or the number of requested output "
                "tokens.",
                "input_tokens",
            )
        return asked or length - prompt_tokens

    def _count_usage(
        self, prompt: Prompt, prompt_tokens: int, choices: Sequence[Choice]
    ) -> dict[str, Any]:
        counted = choices[:1] if self.options.usage == "one" else choices
        completion = sum(choice.tokens for choice in counted)
        cached = self._look_up_prefix(prompt.text)
        self._cached += cached
        self._prompted += prompt_tokens
        thought = sum(count_tokens(choice.reasoning) for choice in counted)
        parsed = self.options.reasoning_field is not None
        return {
            "prompt_tokens": prompt_tokens,
            "total_tokens": prompt_tokens + completion,
            "completion_tokens": completion,
            "prompt_tokens_details": {"cached_tokens": cached}
            if self.options.cached_tokens
            else None,
            "completion_tokens_details": {"reasoning_tokens": thought} if parsed else None,
        }

    def _look_up_prefix(self, text: str) -> int:
        """Tokens at the prompt's beginning that were part of an earlier prompt, in whole blocks."""
        words = text.split()
        whole = len(words) // BLOCK
        chain, cached, hitting = 0, 0, True
        for block in range(whole):
            chain = hash((chain, *words[block * BLOCK : (block + 1) * BLOCK]))
            hitting = hitting and chain in self._blocks
            cached += BLOCK * hitting
            self._blocks.add(chain)
        if len(self._blocks) > 200_000:
            self._blocks.clear()
        return cached

    async def _work(self, tokens: int) -> None:
        """Take the time of one choice, in a slot if they are counted."""
        async with self._slot():
            await self._take(self.options.delay + self.options.per_token * tokens)

    @contextlib.asynccontextmanager
    async def _slot(self) -> Any:
        async with self._slots or contextlib.nullcontext():
            self._change_busy(1)
            try:
                yield
            finally:
                self._change_busy(-1)

    def _change_busy(self, change: int) -> None:
        self._busy += change
        if self._slots:
            self.occupancy.append((time.monotonic(), self._busy))

    async def _take(self, seconds: float) -> None:
        if seconds > 0:
            await asyncio.sleep(seconds)

    def _write_message(self, choice: Choice) -> dict[str, Any]:
        reasoning, content = self._place_reasoning(choice)
        message = {"role": "assistant", "content": content, "tool_calls": []}
        if self.options.reasoning_field:
            message[self.options.reasoning_field] = reasoning or None
        return message

    def _place_reasoning(self, choice: Choice) -> tuple[str, str | None]:
        """(reasoning, content) as the reasoning parser, or its absence, leaves them."""
        if self.options.reasoning_field or not choice.reasoning:
            return choice.reasoning, choice.content
        opened = f"<think>\n{choice.reasoning}"
        return "", opened if choice.content is None else f"{opened}\n</think>\n\n{choice.content}"

    async def _stream(self, request: web.Request, entry: _Entry) -> web.StreamResponse:
        """Server-sent events, a few words each."""
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        chunks = list(self._write_chunks(entry))
        async with self._slot():
            await self._take(self.options.delay)
            for place, (delta, tokens) in enumerate(chunks):
                if entry.fault and entry.fault.reset == "middle" and place >= len(chunks) // 2:
                    raise _BrokenError
                await self._take(self.options.per_token * tokens)
                await _send_event(response, {**_envelope(entry, "chat.completion.chunk"), **delta})
        self._enter(entry, 200)
        await response.write(b"data: [DONE]\n\n")
        await response.write_eof()
        return response

    def _write_chunks(self, entry: _Entry) -> Iterator[tuple[dict[str, Any], int]]:
        """(chunk, its tokens), in order."""
        for index, choice in enumerate(entry.choices):
            reasoning, content = self._place_reasoning(choice)
            yield _write_delta(index, {"role": "assistant", "content": ""}), 0
            for name, text in ((self.options.reasoning_field, reasoning), ("content", content)):
                for piece in re.findall(r"\s*(?:\S+\s*){1,8}", text or ""):
                    yield _write_delta(index, {str(name): piece}), count_tokens(piece)
            yield _write_delta(index, {}, choice.finish_reason), 0
        asked = (entry.body.get("stream_options") or {}).get("include_usage")
        if asked and self.options.usage != "none":
            yield {"choices": [], "usage": entry.usage}, 0

    # -- the other paths

    async def _list_models(self, entry: _Entry, request: web.Request) -> web.Response:
        model = {
            "id": self.model,
            "object": "model",
            "created": 0,
            "owned_by": "vllm",
            "root": self.model,
            "parent": None,
            "max_model_len": self.options.max_model_len,
        }
        return web.json_response({"object": "list", "data": [model]})

    async def _tokenize(self, entry: _Entry, request: web.Request) -> web.Response:
        body = entry.body
        texts = [_read_content(message) for message in body.get("messages") or []]
        count = count_tokens("\n".join([*texts, body.get("prompt") or ""]))
        reply = {"count": count, "max_model_len": self.options.max_model_len}
        return web.json_response({**reply, "tokens": list(range(count)), "token_strs": None})

    async def _tell_health(self, entry: _Entry, request: web.Request) -> web.Response:
        return web.Response()

    async def _tell_version(self, entry: _Entry, request: web.Request) -> web.Response:
        return web.json_response({"version": "0.32.0"})

    async def _tell_metrics(self, entry: _Entry, request: web.Request) -> web.Response:
        totals = self.totals()
        counters = {
            "num_requests_running": self._open,
            "request_success_total": totals.calls,
            "prompt_tokens_total": totals.prompt_tokens,
            "generation_tokens_total": totals.completion_tokens,
            "prefix_cache_queries_total": self._prompted,
            "prefix_cache_hits_total": self._cached,
        }
        lines = [
            f'vllm:{name}{{model_name="{self.model}"}} {float(value)}'
            for name, value in counters.items()
        ]
        return web.Response(text="\n".join(lines) + "\n")

    async def _tell_log(self, entry: _Entry, request: web.Request) -> web.Response:
        return web.json_response([asdict(record) for record in self.requests])

    async def _tell_totals(self, entry: _Entry, request: web.Request) -> web.Response:
        reply = {
            **asdict(self.totals()),
            "by_stage": {stage: asdict(total) for stage, total in self._totals.items()},
            "requests": self._count,
            "struck": self.struck,
            "rounds": self.rounds(),
            "in_flight_max": self.in_flight_max,
            "utilisation": self.utilisation(),
            "right": self.right,
        }
        return web.json_response(reply)


def count_rounds(requests: Sequence[Request]) -> int:
    """The longest row of requests of which each began when the one before had ended."""
    rounds, ended = 0, float("-inf")
    for request in sorted(requests, key=lambda request: request.end):
        if request.start >= ended:
            rounds, ended = rounds + 1, request.end
    return rounds


class _BrokenError(Exception):
    """The connection is to break now."""


def _break(request: web.Request) -> None:
    if request.transport:
        request.transport.abort()


async def _read_body(request: web.Request) -> dict[str, Any]:
    try:
        body = await request.json()
    except ValueError as error:
        raise _bad(f"JSON decode error: {error}", "body") from None
    if not isinstance(body, dict):
        raise _bad("Input should be a valid dictionary", "body")
    return body


async def _play_early(fault: Fault) -> None:
    """What goes wrong before there is a reply."""
    if fault.stall:
        await asyncio.sleep(fault.stall)
    if fault.reset == "before":
        raise _BrokenError
    if fault.status is not None:
        kind = "InternalServerError" if fault.status >= 500 else "BadRequestError"
        raise RefusedError(fault.status, fault.message, kind, retry_after=fault.retry_after)


def _bad(message: str, param: str) -> RefusedError:
    return RefusedError(400, message, "BadRequestError", param)


def _refuse(error: RefusedError) -> web.Response:
    headers = {} if error.retry_after is None else {"Retry-After": f"{error.retry_after:g}"}
    content: Any = {
        "message": str(error),
        "type": error.kind,
        "param": error.param,
        "code": error.status,
    }
    if error.status == 401:
        content = str(error)  # as vLLM's own check of the key says it
    return web.json_response({"error": content}, status=error.status, headers=headers)


def _override(choices: list[Choice], fault: Fault) -> list[Choice]:
    """The choices as a fault has them."""
    if fault.empty_choices:
        return []
    changed = []
    for number, choice in enumerate(choices):
        content = choice.content
        if fault.content is not None:
            contents = _as_tuple(fault.content)
            content = contents[number % len(contents)]
        changed.append(
            Choice(
                None if fault.null_content else content,
                choice.reasoning if fault.reasoning is None else fault.reasoning,
                fault.finish_reason or choice.finish_reason,
            )
        )
    return changed


def _is_unreadable(fault: Fault | None) -> bool:
    if fault is None:
        return False
    cut = fault.cut_json or fault.body is not None
    return bool(cut or fault.content_type or fault.reset)


def _add_up(usage: Mapping[str, Any]) -> Totals:
    details = usage.get("completion_tokens_details") or {}
    return Totals(
        1,
        usage.get("prompt_tokens", 0),
        usage.get("completion_tokens", 0),
        details.get("reasoning_tokens", 0),
    )


def _envelope(entry: _Entry, kind: str) -> dict[str, Any]:
    head = {"id": f"chatcmpl-fake{entry.number}", "object": kind, "created": 0}
    return {**head, "model": entry.body.get("model")}


def _write_delta(
    index: int, delta: dict[str, Any], finish_reason: str | None = None
) -> dict[str, Any]:
    return {"choices": [{"index": index, "delta": delta, "finish_reason": finish_reason}]}


async def _send_event(response: web.StreamResponse, event: dict[str, Any]) -> None:
    await response.write(f"data: {json.dumps(event)}\n\n".encode())


def _as_tuple(value: Any) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, (tuple, list)) else (value,)


# ---- starting it ---------------------------------------------------------------------------------


@contextlib.contextmanager
def fake_vllm(
    world: World | None = None, *, faults: Sequence[Fault] = (), port: int = 0, **options: Any
) -> Iterator[FakeVLLM]:
    """Serve a world in a thread of its own, at any free port unless one is given.

    Args:
        options: those of Options.
    """
    server = FakeVLLM(world or World(), Options(**options), faults)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="fake-vllm", daemon=True)
    thread.start()
    try:
        asyncio.run_coroutine_threadsafe(server.start(port), loop).result(10)
        yield server
    finally:
        asyncio.run_coroutine_threadsafe(server.stop(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


class Spawned:
    """A fake server in a process of its own."""

    def __init__(self, process: subprocess.Popen[str], url: str, model: str) -> None:
        self.process, self.url, self.model = process, url, model
        self.api_base = f"{url}/v1"

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def kill(self) -> None:
        """End it at once, as a crash would."""
        self.process.kill()
        self.process.wait()

    def log(self) -> list[dict[str, Any]]:
        """The log, see Request."""
        return list(httpx.get(f"{self.url}/fake/log").json())

    def totals(self) -> dict[str, Any]:
        """Totals, rounds, in_flight_max, utilisation and the book of right answers."""
        return dict(httpx.get(f"{self.url}/fake/totals").json())


@contextlib.contextmanager
def spawn_fake_vllm(
    world: World | None = None, *, faults: Sequence[Fault] = (), port: int = 0, **options: Any
) -> Iterator[Spawned]:
    """Serve a world in a process of its own; it ends with the block, or with this process.

    As for `fake_vllm`, but functions (`Fault.when`, `other`) cannot be handed over.
    """
    command = [sys.executable, "-m", "tests.fake_vllm", "--tied", "--port", str(port)]
    command += ["--world", json.dumps(asdict(world or World()))]
    command += ["--faults", json.dumps([asdict(fault) for fault in faults])]
    command += ["--options", json.dumps(options)]
    root = Path(__file__).resolve().parents[1]
    process = subprocess.Popen(
        command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout
        url = process.stdout.readline().strip()
        if not url:
            raise RuntimeError(f"the fake server ended with code {process.wait()}")
        yield Spawned(process, url, Options(**options).model)
    finally:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe:
                pipe.close()


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve until interrupted; the first line on standard output is the address."""
    parser = argparse.ArgumentParser(prog="python -m tests.fake_vllm", description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="default: any free one")
    parser.add_argument("--delay", type=float, help="seconds a choice")
    parser.add_argument("--per-token", type=float, help="seconds a response token")
    parser.add_argument("--max-concurrency", type=int, help="choices worked on at a time")
    parser.add_argument("--world", type=json.loads, default={}, help="knobs of World, JSON")
    parser.add_argument("--options", type=json.loads, default={}, help="of Options, JSON")
    parser.add_argument("--faults", type=json.loads, default=[], help="list of Faults, JSON")
    parser.add_argument("--tied", action="store_true", help="end when standard input ends")
    given = parser.parse_args(arguments)
    names = ("delay", "per_token", "max_concurrency")
    flags = {name: value for name in names if (value := getattr(given, name)) is not None}
    server = FakeVLLM(
        World(**_from_json(given.world)),
        Options(**given.options, **flags),
        [Fault(**_from_json(fault)) for fault in given.faults],
    )
    if given.tied:
        threading.Thread(target=_end_with_input, daemon=True).start()
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_serve_until_ended(server, given.port))


async def _serve_until_ended(server: FakeVLLM, port: int) -> None:
    ended = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    await server.start(port)
    print(server.url, flush=True)
    await ended.wait()
    await server.stop()


def _end_with_input() -> None:
    sys.stdin.read()
    os._exit(0)


def _from_json(knobs: dict[str, Any]) -> dict[str, Any]:
    return {
        name: tuple(value) if isinstance(value, list) else value for name, value in knobs.items()
    }


if __name__ == "__main__":
    main()
