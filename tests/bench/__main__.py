"""How much the client adds to what the server takes: `python -m tests.bench`.

Every figure is a ratio or a difference within one run, against a server of fixed replies and fixed
latency in a process of its own; see README.md.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

os.environ["NO_PROXY"] = "127.0.0.1,localhost"
os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "true")

import dspy
import httpx

from scale_dspy import SCALE, connect
from scale_dspy.evaluation.runner import evaluate
from scale_dspy.lm.cache import Store, use
from scale_dspy.lm.connect import MeteredLM
from scale_dspy.lm.event_loop import run
from tests.bench.memory import read_memory
from tests.bench.released import solve_as_released
from tests.bench.reply_server import PARTS, Replies, serve_replies

Figures = dict[str, float]
SLOTS = 64


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--part", choices=list(PARTS_OF), action="append", help="default: all")
    parser.add_argument("--small", action="store_true", help="tiny sizes: do the parts run?")
    parser.add_argument("--json", metavar="FILE", help="write the figures of every repeat")
    given = parser.parse_args(arguments)
    found: dict[str, list[Figures]] = {}
    for part in given.part or PARTS_OF:
        measure = PARTS_OF[part]
        if given.small:
            rows = [measure(small=True)]
        else:  # the first run imports, connects and warms up; it does not count
            rows = [measure(small=each == 0) for each in range(given.repeats + 1)][1:]
        found[part] = rows
        print(f"({part}) {(measure.__doc__ or '').splitlines()[0]}")
        for name in rows[0]:
            values = [row[name] for row in rows]
            spread = f"{min(values):.4g} to {max(values):.4g}"
            print(f"    {name:58} {statistics.median(values):9.4g}   ({spread})", flush=True)
    if given.json:
        Path(given.json).write_text(json.dumps(found, indent=1) + "\n")


def measure_one_problem(*, small: bool) -> Figures:
    """One problem: wall time over its critical path."""
    latency = 0.02 if small else 0.25
    figures = {}
    with serve_replies(latency) as server, fresh_cache():
        for timing, rounds in (("upfront", 3 + PARTS), ("in_context", 1 + 2 * PARTS)):
            seconds = solve_ours(server, timing, f"one problem, {timing}")
            figures[f"wall / critical path, {timing}"] = seconds / (rounds * latency)
    return figures


def measure_many_problems(*, small: bool) -> Figures:
    """64 problems at once: the server's slots, the client's CPU and memory."""
    latency, problems, slots = (0.02, 6, 4) if small else (1.0, 2 * SLOTS, SLOTS)
    with serve_replies(latency) as server, fresh_cache() as folder:
        server.take_stats()
        before, cpu = read_memory(os.getpid())[0], time.process_time()
        began = time.monotonic()
        seen: list[float] = []
        evaluate(
            SCALE(),
            make_problems(problems),
            connect(server.model, server.api_base, seed=0),
            Path(folder) / "out",
            samples=1,
            threads=slots,
            report=lambda _: seen.append(read_memory(os.getpid())[0]),
        )
        cpu, seconds = time.process_time() - cpu, time.monotonic() - began
        stats = server.take_stats()
        calls = stats["requests"]["/v1/chat/completions"]
        middle = (began + 0.2 * seconds, began + 0.8 * seconds)
        third = len(seen) // 3
        return {
            "share of the slots at work, middle 60 % of the run": average(stats["busy"], *middle)
            / slots,
            "client CPU ms a call": 1000 * cpu / calls,
            "server CPU ms a call": 1000 * stats["cpu"] / calls,
            "calls a second": calls / seconds,
            "resident MiB: before": before,
            "resident MiB: at a third of the rollouts": seen[third],
            "resident MiB: peak after that": max(seen[third:]),
        }


def measure_against_released(*, small: bool) -> Figures:
    """Against the released code's pattern of requests."""
    latency, problems, slots = (0.02, 4, 4) if small else (0.25, SLOTS, SLOTS)
    with serve_replies(latency) as server, fresh_cache() as folder:
        theirs, solving = solve_as_released(server, "Find x. Reply with the final number.")
        their_requests = sum(server.take_stats()["requests"].values())
        ours = {each: solve_ours(server, each, f"against, {each}") for each in TIMINGS}
        our_requests = sum(server.take_stats()["requests"].values()) / len(ours) / 2
        lm = connect(server.model, server.api_base, seed=0)
        began = time.perf_counter()
        evaluate(
            SCALE(assess="upfront"),
            make_problems(problems),
            lm,
            Path(folder) / "out",
            samples=1,
            threads=slots,
        )
        many = time.perf_counter() - began
    outside = theirs - solving
    return {
        "requests of one problem: released": their_requests,
        "requests of one problem: ours": our_requests,
        "seconds outside the solve calls: released": outside,
        **{
            f"times less outside the solve calls, {each}": outside / (ours[each] - PARTS * latency)
            for each in TIMINGS
        },
        f"times the throughput for {problems} problems": theirs * problems / many,
    }


def measure_calls(*, small: bool) -> Figures:
    """Overhead of one LM call, 32 in flight, no latency: CPU ms."""
    count, width = (8, 4) if small else (640, 32)
    with serve_replies(0.0) as server, fresh_cache():
        lm = connect(server.model, server.api_base, seed=0)
        plain = {"temperature": 0.7, "top_p": 0.8, "max_tokens": 64}
        fresh = itertools.count()
        client = httpx.AsyncClient(timeout=60)

        def write() -> list[dict[str, Any]]:
            text = f"{PROMPT} {next(fresh)}\n\nReply with a number."
            return [{"role": "user", "content": text}]

        async def bare() -> None:
            body = {"model": server.model, "messages": write(), "seed": 1, **plain}
            (await client.post(f"{server.api_base}/chat/completions", json=body)).json()

        async def litellm_alone() -> None:
            import litellm

            await litellm.acompletion(
                model=lm.model, api_base=server.api_base, messages=write(), seed=1, **plain
            )

        async def uncached() -> None:
            await lm.acall(messages=write(), cache=False, **plain)

        async def cached() -> None:
            await lm.acall(messages=write(), **plain)

        named: dict[str, Callable[[], Awaitable[None]]] = {
            "httpx": bare,
            "litellm.acompletion": litellm_alone,
            "our LM without a cache": uncached,
            "our LM": cached,
        }
        with dspy.context(disable_history=True, trace=None):
            costs = {name: run(repeat(call, count, width)) for name, call in named.items()}
        run(client.aclose())
    return {
        **{f"{name}: CPU ms a call": cost for name, cost in costs.items()},
        "our LM / httpx": costs["our LM"] / costs["httpx"],
        "our LM / litellm.acompletion": costs["our LM"] / costs["litellm.acompletion"],
        "our LM - litellm.acompletion, ms": costs["our LM"] - costs["litellm.acompletion"],
    }


PARTS_OF: dict[str, Callable[..., Figures]] = {
    "a": measure_one_problem,
    "b": measure_many_problems,
    "c": measure_against_released,
    "d": measure_calls,
}
TIMINGS = ("upfront", "in_context")
PROMPT = "Find the smallest positive integer that leaves the remainder 3 on division by 7. " * 8


def solve_ours(server: Replies, timing: Any, problem: str) -> float:
    """Seconds of one problem."""
    program = SCALE(assess=timing)
    lm: MeteredLM = connect(server.model, server.api_base, seed=0)
    with dspy.context(lm=lm):
        program(problem=f"connect {problem}")
        began = time.perf_counter()
        prediction = program(problem=problem)
        seconds = time.perf_counter() - began
    assert len(prediction.steps) == PARTS
    return seconds


async def repeat(call: Callable[[], Awaitable[None]], count: int, width: int) -> float:
    """CPU milliseconds a call of this process, all its threads together."""

    async def work(times: int) -> None:
        for _ in range(times):
            await call()

    await work(1)
    began = time.process_time()
    await asyncio.gather(*(work(count // width) for _ in range(width)))
    return 1000 * (time.process_time() - began) / (count // width * width)


def average(changes: list[list[float]], begin: float, end: float) -> float:
    """The mean of a value between two moments, from its changes."""
    total, value, at = 0.0, 0.0, begin
    for moment, later in changes:
        if moment > end:
            break
        if moment > begin:
            total += value * (moment - at)
            at = moment
        value = later
    return (total + value * (end - at)) / (end - begin)


def make_problems(count: int) -> list[dspy.Example]:
    return [
        dspy.Example(id=str(number), problem=f"{PROMPT} Problem {number}.", answer="7").with_inputs(
            "problem"
        )
        for number in range(count)
    ]


@contextlib.contextmanager
def fresh_cache() -> Iterator[str]:
    """An empty cache on disk, as a run of the command line has it; yields a folder."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        use(Store(Path(folder) / "cache" / "replies.sqlite3"))
        yield folder
        use(None)


if __name__ == "__main__":
    main(sys.argv[1:])
