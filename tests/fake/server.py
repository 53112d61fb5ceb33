"""The server: its paths, its log, its faults and its book of right answers."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from aiohttp import web

from tests.fake.log import Entry, count_rounds, make_record, measure_utilisation
from tests.fake.model import Choice, cut, make_choices
from tests.fake.orders import CHAT, Fault, Options, RefusedError, Request, Totals
from tests.fake.prompts import OTHER, count_tokens, read_content, read_prompt
from tests.fake.requests import check_key, read_body, read_sampling, read_thinking
from tests.fake.wire import (
    BrokenError,
    add_up,
    break_off,
    damage,
    is_unreadable,
    override,
    play_early,
    send_event,
    tell_usage,
    write_chunks,
    write_envelope,
    write_logprobs,
    write_message,
    write_refusal,
    write_usage,
)
from tests.world import World, read_boxed, read_target

LOG_KEPT = 10_000  # records kept when bodies are not
BLOCK = 16  # tokens of a block of the prefix cache


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
        self._routes: dict[tuple[str, str], Callable[[Entry, web.Request], Any]] = {
            ("POST", CHAT): self._chat,
            ("POST", "/tokenize"): self._tokenize,
            ("GET", "/v1/models"): self._list_models,
            ("GET", "/health"): self._describe_health,
            ("GET", "/version"): self._describe_version,
            ("GET", "/metrics"): self._describe_metrics,
            ("GET", "/fake/log"): self._describe_log,
            ("GET", "/fake/totals"): self._describe_totals,
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
        return measure_utilisation(list(self.occupancy), self.options.max_concurrency)

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
            return await self._answer(request, Entry(-1, request.path, 0.0))
        entry = Entry(self._count, request.path, time.monotonic())
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
        except BrokenError:
            self._enter(entry, 0)
            break_off(request)
            return web.Response()
        except Exception:
            self._enter(entry, 500)
            raise
        finally:
            self._open -= is_chat

    async def _answer(self, request: web.Request, entry: Entry) -> web.StreamResponse:
        try:
            if request.method == "POST":
                entry.body = await read_body(request)
            if entry.path == CHAT:
                self._recognise(entry)
            fault = entry.fault = self._pick_fault(entry)
            if fault:
                self.struck[fault.describe()] += 1
                await play_early(fault)
            check_key(request, self.options)
            route = self._routes.get((request.method, request.path))
            if route is None:
                raise RefusedError(404, "Not Found", "NotFoundError")
            response = await route(entry, request)
        except RefusedError as error:
            response = write_refusal(error)
        if entry.fault and entry.fault.status is None and isinstance(response, web.Response):
            return await damage(request, entry.fault, response)
        return response

    def _recognise(self, entry: Entry) -> None:
        messages = entry.body.get("messages")
        if not isinstance(messages, list):
            raise RefusedError(400, "messages: Field required", "BadRequestError", "messages")
        entry.prompt = read_prompt(messages, self.world)
        thinking = read_thinking(entry.body, self.options)
        aloud = self.options.thinking == "never" and entry.prompt.thorough
        entry.system = 2 if thinking or aloud else 1
        stage = entry.prompt.stage
        entry.stage = f"solve_{entry.system}" if stage == "solve" else stage

    def _pick_fault(self, entry: Entry) -> Fault | None:
        struck = []
        for fault, counter in self._faults:
            if fault.covers(entry.path, entry.stage, entry.body):
                counter["covered"] += 1
                if fault.strikes(counter["covered"]):
                    struck.append(fault)
        return struck[0] if struck else None

    def _enter(self, entry: Entry, status: int) -> None:
        """Enter the request in the log, once."""
        if entry.logged:
            return
        entry.logged = True
        self._log.append(make_record(entry, status, self.options.keep_bodies))
        if status == 200 and entry.path == CHAT and not is_unreadable(entry.fault):
            self._totals[entry.stage] += add_up(entry.usage)
            self._book(entry)

    def _book(self, entry: Entry) -> None:
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

    async def _chat(self, entry: Entry, request: web.Request) -> web.StreamResponse:
        prompt = entry.prompt
        assert prompt is not None
        prompt_tokens = count_tokens(prompt.text)
        sampling = read_sampling(entry.body, self.options, prompt_tokens, self._seen)
        if prompt.stage in (OTHER, "whole") and callable(self.options.other):
            said = self.options.other(entry.body)
            choices = [cut(Choice(said), sampling.room)] * sampling.n if said else []
        else:
            choices = []
        choices = choices or make_choices(prompt, sampling, self.world, self.options)
        if (entry.body.get("chat_template_kwargs") or {}).get(self.options.believes):
            choices = [Choice(None, choice.content or "") for choice in choices]
        if entry.fault:
            choices = override(choices, entry.fault)
        entry.choices = choices
        cached = self._look_up_prefix(prompt.text)
        self._cached += cached
        self._prompted += prompt_tokens
        entry.usage = write_usage(prompt_tokens, cached, choices, self.options)
        if entry.body.get("stream"):
            return await self._stream(request, entry)
        await asyncio.gather(*(self._work(choice.tokens) for choice in choices))
        reply = {
            **write_envelope(entry, "chat.completion"),
            "choices": [
                {
                    "index": index,
                    "message": write_message(choice, self.options),
                    "logprobs": write_logprobs(choice, entry.body, self.options),
                    "finish_reason": choice.finish_reason,
                    "stop_reason": None,
                }
                for index, choice in enumerate(choices)
            ],
        }
        if self.options.usage != "none":
            reply["usage"] = tell_usage(entry)
        return web.json_response(reply)

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

    async def _stream(self, request: web.Request, entry: Entry) -> web.StreamResponse:
        """Server-sent events, a few words each."""
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        chunks = list(write_chunks(entry, self.options))
        async with self._slot():
            await self._take(self.options.delay)
            for place, (delta, tokens) in enumerate(chunks):
                if entry.fault and entry.fault.reset == "middle" and place >= len(chunks) // 2:
                    raise BrokenError
                await self._take(self.options.per_token * tokens)
                await send_event(
                    response, {**write_envelope(entry, "chat.completion.chunk"), **delta}
                )
        self._enter(entry, 200)
        await response.write(b"data: [DONE]\n\n")
        await response.write_eof()
        return response

    # -- the other paths

    async def _list_models(self, entry: Entry, request: web.Request) -> web.Response:
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

    async def _tokenize(self, entry: Entry, request: web.Request) -> web.Response:
        body = entry.body
        texts = [read_content(message) for message in body.get("messages") or []]
        count = count_tokens("\n".join([*texts, body.get("prompt") or ""]))
        reply = {"count": count, "max_model_len": self.options.max_model_len}
        return web.json_response({**reply, "tokens": list(range(count)), "token_strs": None})

    async def _describe_health(self, entry: Entry, request: web.Request) -> web.Response:
        return web.Response()

    async def _describe_version(self, entry: Entry, request: web.Request) -> web.Response:
        return web.json_response({"version": "0.32.0"})

    async def _describe_metrics(self, entry: Entry, request: web.Request) -> web.Response:
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

    async def _describe_log(self, entry: Entry, request: web.Request) -> web.Response:
        return web.json_response([asdict(record) for record in self.requests])

    async def _describe_totals(self, entry: Entry, request: web.Request) -> web.Response:
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
