"""Whole runs of `evaluate` against a server of fixed replies: what a call costs the client beside
other clients, how busy the slots are, how many calls are in flight, and how much memory is held.
"""

from __future__ import annotations

import itertools
import json
import os
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import dspy

from scale_dspy import SCALE, connect
from scale_dspy.baselines import ChainOfThought
from scale_dspy.evaluation.runner import evaluate
from scale_dspy.lm.cache import use
from scale_dspy.lm.event_loop import run
from scale_dspy.method import Solver
from tests.bench.memory import read_memory
from tests.bench.reply_server import Replies, serve_replies
from tests.bench.tools import Figures, average, fresh_cache, make_problems, repeat, write_prompt

PLAIN = {"temperature": 0.7, "top_p": 0.8, "max_tokens": 64}


def measure_cost(*, small: bool) -> Figures:
    """Client CPU of a call: a whole run, bare litellm.acompletion, dspy.Predict on dspy.LM."""
    problems, count, width = (4, 8, 4) if small else (64, 960, 64)
    costs: Figures = {}
    with serve_replies(0.02) as server:
        for name, call in _list_others(server).items():
            with dspy.context(disable_history=True, trace=None):
                costs[name] = run(repeat(call, count, width))
        for name, kept in (("cache on", True), ("cache off", False)):
            with fresh_cache() as folder:
                if not kept:
                    use(None)
                cpu, calls, _ = _run(server, SCALE(), problems, width, Path(folder), cache=kept)
            costs[f"a whole run, {name}"] = 1000 * cpu / calls
    bare = costs["litellm.acompletion"]
    return {
        **{f"client CPU ms a call: {name}": cost for name, cost in costs.items()},
        **{
            f"a whole run / litellm.acompletion, {name}": costs[f"a whole run, {name}"] / bare
            for name in ("cache on", "cache off")
        },
    }


def _list_others(server: Replies) -> dict[str, Callable[[], Awaitable[None]]]:
    """One call of each other client, with a prompt of its own each time."""
    import litellm

    model, number = f"hosted_vllm/{server.model}", itertools.count()
    place = {"api_base": server.api_base, "api_key": "none"}
    lm = dspy.LM(model, cache=False, **place, **PLAIN)
    predict = dspy.Predict("question -> answer")

    async def call_litellm() -> None:
        messages = [{"role": "user", "content": write_prompt(next(number))}]
        await litellm.acompletion(model=model, messages=messages, seed=1, **place, **PLAIN)

    async def call_dspy() -> None:
        with dspy.context(lm=lm):
            found = await predict.acall(question=write_prompt(next(number)))
        assert found.answer == "7"

    return {"litellm.acompletion": call_litellm, "dspy.Predict on dspy.LM": call_dspy}


def measure_slots(*, small: bool, slots: int, latency: float) -> Figures:
    """How busy the server's slots are in the middle of a run of SCALE: with replies of differing
    lengths, as a model's are, and of one length, where all clients wait for each other's turn."""
    figures = _measure_slots(small, slots, latency, spread=0.5)
    lockstep = _measure_slots(small, slots, latency, spread=0.0)
    name = f"share of {slots} slots at work"
    return {**figures, f"{name}, replies of one length": lockstep[name]}


def _measure_slots(small: bool, slots: int, latency: float, spread: float) -> Figures:
    problems, wide, wait = (6, 4, 0.02) if small else (2 * slots, slots, latency)
    with serve_replies(wait, spread) as server, fresh_cache() as folder:
        began = time.monotonic()
        cpu, calls, stats = _run(server, SCALE(), problems, wide, Path(folder))
        seconds = time.monotonic() - began
    middle = (began + 0.2 * seconds, began + 0.8 * seconds)
    return {
        f"share of {slots} slots at work": average(stats["busy"], *middle) / wide,
        f"client CPU ms a call, {slots} slots": 1000 * cpu / calls,
        f"server CPU ms a call, {slots} slots": 1000 * stats["cpu"] / calls,
        f"calls a second, {slots} slots": calls / seconds,
    }


def measure_crowd(*, small: bool) -> Figures:
    """2,048 calls in flight on one process."""
    wide, latency = (16, 0.2) if small else (2048, 10.0)
    with serve_replies(latency) as server, fresh_cache() as folder:
        _, _, stats = _run(server, ChainOfThought(), 2 * wide, wide, Path(folder))
        summary = json.loads((Path(folder) / "out" / "summary.json").read_text())
    most = max(at_work for _, at_work in stats["busy"])
    return {"most calls in flight, of 2,048": most, "rollouts that failed": summary["errors"]}


def measure_memory(*, small: bool) -> Figures:
    """Resident memory of a long run."""
    rollouts, wide = (30, 4) if small else (20_000, 64)
    seen: list[float] = []
    with serve_replies(0.0) as server, fresh_cache() as folder:
        began = time.monotonic()
        evaluate(
            ChainOfThought(),
            make_problems(rollouts // 10),
            connect(server.model, server.api_base, seed=0),
            Path(folder) / "out",
            samples=10,
            threads=wide,
            report=lambda _: seen.append(read_memory(os.getpid())[0]),
        )
        seconds = time.monotonic() - began
    third = len(seen) // 3
    peak = max(seen[third:])
    return {
        "rollouts": rollouts,
        "rollouts a second": rollouts / seconds,
        "resident MiB at a third of the rollouts": seen[third],
        "resident MiB, peak after that": peak,
        "memory: peak after a third / at a third": peak / seen[third],
    }


def _run(
    server: Replies, program: Solver, problems: int, wide: int, folder: Path, *, cache: bool = True
) -> tuple[float, int, dict[str, Any]]:
    """One run: (CPU seconds of this process, calls, what the server tells of itself)."""
    lm = connect(server.model, server.api_base, seed=0, cache=cache)
    server.take_stats()
    cpu = time.process_time()
    evaluate(program, make_problems(problems), lm, folder / "out", samples=1, threads=wide)
    cpu = time.process_time() - cpu
    stats = server.take_stats()
    return cpu, stats["requests"]["/v1/chat/completions"], stats
