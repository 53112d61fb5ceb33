"""The engine under dspy.LM: DSPy's interface `complete(Request) -> Response`, and the steps of each
call: cache, cost limit, choice of a replica, retries, ledgers.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import time
from collections.abc import AsyncGenerator, Iterator
from functools import lru_cache
from typing import Any

from dspy import lm15
from dspy.utils.exceptions import LMError, LMTransportError

from scale_dspy.lm import cache, cost_limit
from scale_dspy.lm.chat import (
    Completion,
    count_most,
    count_prompt_most,
    keep_completion,
    read_completion,
    read_order,
    restore_completion,
    write_body,
    write_response,
)
from scale_dspy.lm.client import Server, complete, cost_nothing
from scale_dspy.lm.embedded.server import explain_end
from scale_dspy.lm.event_loop import run_call, run_on_shared_loop
from scale_dspy.lm.routing import find_replicas, take_turns, work_on
from scale_dspy.lm.server_events import Hear
from scale_dspy.lm.tally import Tally
from scale_dspy.lm.usage import count, read_scope, record

logger = logging.getLogger(__name__)


class Engine:
    """DSPy's asynchronous engine on a server.

    Args:
        server: where the model is.
        retries: how often a request is sent again after a transient failure.

    Attributes:
        window: tokens of prompt and reply together that the model allows; known once a request was
            refused as too long.
    """

    def __init__(self, server: Server, retries: int) -> None:
        self.server = server
        self.retries = retries
        self.window: int | None = None
        self.warned: set[str] = set()

    async def complete(self, request: lm15.Request) -> lm15.Response:
        """The response to a request, from the cache or from the server.

        Raises:
            LMError: the server did not answer, even after retries.
            CostLimitError: the request may not be sent.
        """
        return await run_on_shared_loop(self.complete_here(request))

    async def stream(self, request: lm15.Request) -> AsyncGenerator[Any, None]:
        """The response as events: its pieces as they come, where a server sends any."""
        pieces: asyncio.Queue[tuple[str, str] | None] = asyncio.Queue()
        work = asyncio.create_task(
            self.complete_here(request, lambda *piece: pieces.put_nowait(piece))
        )
        work.add_done_callback(lambda _: pieces.put_nowait(None))
        heard = thought = 0
        try:
            while (piece := await pieces.get()) is not None:
                reasoning, text = piece
                if not heard:
                    yield lm15.StreamStartEvent(model=self.server.model)
                heard, thought = 1, thought or bool(reasoning)
                delta = lm15.TextDelta(text, part_index=int(thought))
                yield lm15.StreamDeltaEvent(
                    lm15.ThinkingDelta(reasoning, part_index=0) if reasoning else delta
                )
            for event in lm15.response_to_events(await work):
                if not heard or event.type == "end":
                    yield event
        finally:
            work.cancel()

    async def aclose(self) -> None:
        """Do nothing: the connections belong to the process."""

    def learn_window(self, refusal: str) -> None:
        """Remember the context window that a refusal names."""
        said = re.search(r"(?:context length|max_model_len)\D{0,24}(\d+)", refusal)
        if said:
            self.window = int(said[1])

    async def complete_here(self, request: lm15.Request, hear: Hear | None = None) -> lm15.Response:
        """As `complete`, on the loop that it is awaited on. `hear` is called with each piece of a
        reply of one choice that comes from a server."""
        order = read_order(request)
        hear = hear if order.choices == 1 else None
        body = write_body(request, order)
        store = _open_store() if order.cache else None
        if store is None:
            found, _ = await self._ask(body, order.retries, hear)
            return write_response(request, found, replayed=False)

        # A reply is cached under its server's name; replicas that share a name share their replies.
        places = {
            each.address: f"{self.server.model} at {self.server.identity or each.address}"
            for each in find_replicas(self.server.api_base)
        }
        keys = {
            place: cache.make_keys(place, order.run, order.rollout, body)
            for place in dict.fromkeys(places.values())
        }
        for each in keys.values():
            kept = _look_up(store, each)
            if kept is not None:
                _enter(kept, count_most(body, self.window), from_cache=True)
                return write_response(request, kept, replayed=True)
        found, address = await self._ask(body, order.retries, hear)
        store.put(keys[places[address]], keep_completion(found))
        return write_response(request, found, replayed=False)

    async def _ask(
        self, body: dict[str, Any], retries: int | None, hear: Hear | None
    ) -> tuple[Completion, str]:
        """(a reply, the address it is from). The request is sent again after transient failures;
        `hear` is called only by the first attempt that produces output."""
        heard = False

        def hear_once(reasoning: str, text: str) -> None:
            nonlocal heard
            heard = True
            assert hear is not None
            hear(reasoning, text)

        try:
            replicas = find_replicas(self.server.api_base)
            most = self.retries if retries is None else retries
            for turn in take_turns(replicas, most, read_scope().problem):
                await asyncio.sleep(turn.wait)
                self._check_own_server()
                with work_on(turn, body.get("n") or 1):
                    address = turn.replica.address
                    listen = hear_once if hear and not heard else None
                    return await self._try(address, body, listen), address
        except LMError:
            count(failed=1)
            raise
        raise AssertionError("take_turns gives at least one turn, and raises the last one's error")

    async def _try(self, address: str, body: dict[str, Any], hear: Hear | None) -> Completion:
        most = count_most(body, self.window)
        asked = count_prompt_most(body) if read_scope().limits else 0
        wanted = Tally(prompt_tokens=asked, completion_tokens=most)
        await cost_limit.reserve(wanted)
        began = time.perf_counter()
        try:
            with _in_flight():
                reply = await complete(self.server, address, body, hear)
            self._check_own_server()
            found = read_completion(reply, most, time.perf_counter() - began)
            self._warn(found)
            _enter(found, most, asked)
            return found
        except BaseException as error:
            record(Tally(seconds=time.perf_counter() - began))
            if not cost_nothing(error):
                count(assumed=most, assumed_sent=most, assumed_prompt=asked)
            raise
        finally:
            cost_limit.release(wanted)

    def _check_own_server(self) -> None:
        """Raise LMTransportError if the server is the embedded one and its process has ended."""
        ended = explain_end(self.server.api_base)
        if ended:
            raise LMTransportError(ended)

    def _warn(self, found: Completion) -> None:
        """Warn once for each server that its usage is missing or not believed."""
        if found.usage is not None:
            return
        what = found.doubt or "it reports no usage"
        kind = "doubt" if found.doubt else "none"
        if kind not in self.warned:
            self.warned.add(kind)
            logger.warning(
                "the tokens of %s are not known (%s): each reply counts as the most that it was "
                "allowed",
                self.server.model,
                what,
            )


class BlockingEngine:
    """DSPy's synchronous engine: it calls the asynchronous one and waits."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def complete(self, request: lm15.Request) -> lm15.Response:
        """See Engine.complete."""
        return run_call(self.engine.complete_here(request))

    def stream(self, request: lm15.Request) -> Iterator[Any]:
        """As Engine.stream, event by event, so that a plain dspy.Predict streams too."""
        events = self.engine.stream(request)

        async def step() -> Any:
            return await anext(events, None)

        async def leave() -> None:
            await events.aclose()

        try:
            while (event := run_call(step())) is not None:
                yield event
        finally:
            run_call(leave())

    def close(self) -> None:
        """Do nothing: the connections belong to the process."""


def _open_store() -> cache.Store | None:
    """The cache, or None with a warning if its folder cannot be used. Commands that need the cache
    to resume a run have opened it before their first call."""
    try:
        return cache.open_store()
    except OSError as error:
        _warn_once(str(error))
        return None


@lru_cache
def _warn_once(message: str) -> None:
    logger.warning("%s; until then no reply is cached", message)


def _look_up(store: cache.Store, keys: cache.Keys) -> Completion | None:
    kept = store.get(keys)
    if kept is None:
        return None
    found = restore_completion(kept)
    if found is None:
        store.drop(keys)
    return found


def _enter(found: Completion, most: int, asked: int = 0, *, from_cache: bool = False) -> None:
    """Enter a reply in the open ledgers; without usage, the most that it may have cost."""
    if found.usage is None:
        count(unknown=1, assumed=most, assumed_sent=0 if from_cache else most, assumed_prompt=asked)
    used = found.usage or Tally(calls=1)
    record(used + Tally(seconds=found.seconds), from_cache=from_cache)


_calls: set[object] = set()


def count_in_flight() -> int:
    """Model calls of this process that wait for a reply at this moment."""
    return len(_calls)


@contextlib.contextmanager
def _in_flight() -> Iterator[None]:
    call = object()
    _calls.add(call)
    try:
        yield
    finally:
        _calls.discard(call)
