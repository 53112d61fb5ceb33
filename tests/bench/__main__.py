"""How much the client adds to what the server takes: `python -m tests.bench`.

Every figure is a ratio or a difference within one run, against a server of fixed replies and fixed
latency in a process of its own; see README.md.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

os.environ["NO_PROXY"] = "127.0.0.1,localhost"
os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "true")

import dspy
import httpx

from scale_dspy import SCALE, connect
from scale_dspy.evaluation.runner import evaluate
from scale_dspy.lm.connect import MeteredLM
from scale_dspy.lm.event_loop import run
from tests.bench.released import solve_as_released
from tests.bench.reply_server import PARTS, Replies, serve_replies
from tests.bench.tools import Figures, fresh_cache, make_problems, repeat, write_prompt
from tests.bench.whole_runs import measure_cost, measure_crowd, measure_memory, measure_slots

SLOTS = 64


# The aims: a figure, and the most or the least that it may be.
AT_MOST = {
    "wall / critical path, upfront": 1.05,
    "wall / critical path, in_context": 1.05,
    "a whole run / litellm.acompletion, cache on": 1.1,
    "a whole run / litellm.acompletion, cache off": 0.9,
    "rollouts that failed": 0,
    "memory: peak after a third / at a third": 1.05,
}
AT_LEAST = {
    "share of 64 slots at work": 0.98,
    "share of 512 slots at work": 0.95,
    "most calls in flight, of 2,048": 2048,
}


def main(arguments: list[str] | None = None) -> int:
    """Print a table of all figures; 1 where one misses its aim."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--part", choices=list(PARTS_OF), action="append", help="default: all")
    parser.add_argument(
        "--small", action="store_true", help="tiny sizes: do the parts run? no aim counts"
    )
    parser.add_argument("--json", metavar="FILE", help="write the figures of every repeat")
    given = parser.parse_args(arguments)
    found: dict[str, list[Figures]] = {}
    for part in given.part or PARTS_OF:
        began = time.monotonic()
        measure = PARTS_OF[part]
        if given.small:
            found[part] = [measure(small=True)]
        else:  # the first run imports, connects and warms up; it does not count
            times = 1 if part in ONCE else given.repeats
            found[part] = [measure(small=each == 0) for each in range(times + 1)][1:]
        print(f"({part}) took {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    print(f"{'':48} {'median':>9}  {'least to most':22} aim")
    missed: list[str] = []
    for part, rows in found.items():
        missed += show_part(part, rows, aims=not given.small)
    if given.json:
        Path(given.json).write_text(json.dumps(found, indent=1) + "\n")
    if not given.small:
        print("missed: " + "; ".join(missed) if missed else "every aim is reached")
    return int(bool(missed))


def show_part(part: str, rows: list[Figures], *, aims: bool) -> list[str]:
    """Print a part's lines of the table, with `aims` if asked; the figures that miss theirs."""
    missed = []
    for name in rows[0]:
        values = [row[name] for row in rows]
        middle, aim = statistics.median(values), ""
        most, least = AT_MOST.get(name, math.inf), AT_LEAST.get(name, -math.inf)
        if aims and name in {**AT_MOST, **AT_LEAST}:
            aim = f"<= {most:g}" if name in AT_MOST else f">= {least:g}"
            if not least <= middle <= most:
                aim += ", missed"
                missed.append(name)
        spread = f"{min(values):.4g} to {max(values):.4g}"
        print(f"{part} {name:46} {middle:9.4g}  {spread:22} {aim}".rstrip(), flush=True)
    return missed


def measure_one_problem(*, small: bool) -> Figures:
    """One problem: wall time over its critical path."""
    latency = 0.02 if small else 0.25
    figures = {}
    with serve_replies(latency) as server, fresh_cache():
        for timing, rounds in (("upfront", 3 + PARTS), ("in_context", 1 + 2 * PARTS)):
            seconds = solve_ours(server, timing, f"one problem, {timing}")
            figures[f"wall / critical path, {timing}"] = seconds / (rounds * latency)
    return figures


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
            return [{"role": "user", "content": write_prompt(next(fresh))}]

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
    "b": partial(measure_slots, slots=64, latency=1.0),
    "c": measure_against_released,
    "d": measure_calls,
    "e": measure_cost,
    "f": partial(measure_slots, slots=512, latency=4.0),
    "g": measure_crowd,
    "h": measure_memory,
}
ONCE = "fgh"  # parts that are too long to repeat
TIMINGS = ("upfront", "in_context")


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


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
