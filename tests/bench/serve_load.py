"""Whether `serve` holds under load: 64 clients that stream, and one that is killed.

python tests/bench/serve_load.py [--seconds 60] [--clients 64]

The fake server, `serve` and the clients have processes of their own. Every client asks one problem
after another and checks that what it gets is about its problem and right. Meanwhile the memory of
`serve` is read from /proc. At the end a client is killed in the middle of its stream, and the fake
server's log shows when the work for it stopped.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import os
import statistics
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import openai

from tests.bench.memory import read_memory
from tests.fake_vllm import Spawned, spawn_fake_vllm
from tests.test_serve import start_serve
from tests.world import World

WORLD = World()
DELAY = 0.2  # seconds of a choice
KILLED = """
import sys, openai
url, problem = sys.argv[1:]
messages = [{"role": "user", "content": problem}]
client = openai.OpenAI(base_url=url, api_key="none")
for chunk in client.chat.completions.create(model="scale", messages=messages, stream=True):
    print("got", flush=True)
"""


@dataclass
class Count:
    """What the clients saw."""

    right: Counter[int] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    first: list[float] = field(default_factory=list)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--clients", type=int, default=64)
    given = parser.parse_args()
    with spawn_fake_vllm(WORLD, delay=DELAY, keep_bodies=False) as fake:
        arguments = ["--model", fake.model, "--api-base", fake.api_base]
        with start_serve(*arguments) as (said, process):
            count, memory = asyncio.run(
                load(said["url"], process.pid, given.clients, given.seconds)
            )
            show(count, memory, given.clients, given.seconds)
            stopped = kill_a_client(said["url"], fake)
    if count.errors or count.wrong or stopped > 2:
        sys.exit("it does not hold")


async def load(url: str, pid: int, clients: int, seconds: float) -> tuple[Count, list[float]]:
    """All clients for so long, and the memory of `serve`, in MiB, twice a second."""
    count, numbers, memory = Count(), itertools.count(), []
    client = openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0, timeout=300)
    ends = time.monotonic() + seconds
    working = asyncio.gather(*(ask_on(client, k, numbers, ends, count) for k in range(clients)))
    while not working.done():
        memory.append(read_memory(pid)[0])
        await asyncio.sleep(0.5)
    await working
    return count, memory


async def ask_on(
    client: openai.AsyncOpenAI, name: int, numbers: Any, ends: float, count: Count
) -> None:
    while time.monotonic() < ends:
        problem = WORLD.problem(next(numbers))
        messages = [{"role": "user", "content": problem.text}]
        began, told, content, steps = time.monotonic(), 0.0, "", []
        try:
            stream = await client.chat.completions.create(
                model="scale",
                messages=messages,  # type: ignore[arg-type]
                stream=True,
            )
            async for chunk in stream:
                told = told or time.monotonic() - began
                for choice in chunk.choices:
                    content += choice.delta.content or ""
                    more = getattr(choice.delta, "provider_specific_fields", None) or {}
                    steps += more.get("scale_steps", [])
        except openai.OpenAIError as error:
            count.errors.append(repr(error))
            continue
        count.seconds.append(time.monotonic() - began)
        count.first.append(told)
        about = bool(steps) and steps[-1]["subproblem"] == problem.text
        if about and f"\\boxed{{{problem.answer}}}" in content:
            count.right[name] += 1
        else:
            count.wrong.append(f"{problem.id}: {content[-80:]!r}")


def show(count: Count, memory: list[float], clients: int, seconds: float) -> None:
    each = [count.right[name] for name in range(clients)]
    print(f"{sum(each)} right answers in {seconds:.0f} s from {clients} clients at once")
    print(f"{len(count.errors)} errors, {len(count.wrong)} wrong or mixed", *count.errors[:3])
    print(f"answers a client: {min(each)} to {max(each)}, median {statistics.median(each):g}")
    for name, times in (("first words", count.first), ("whole answer", count.seconds)):
        low, middle, high = (sorted(times)[int(q * (len(times) - 1))] for q in (0.05, 0.5, 0.95))
        print(f"seconds to {name}: median {middle:.1f}, 90 % in {low:.1f} to {high:.1f}")
    marks = [memory[int(share * (len(memory) - 1))] for share in (0, 0.25, 0.5, 0.75, 1)]
    print("MiB at 0, 25, 50, 75, 100 % of the time:", *(f"{mark:.0f}" for mark in marks))


def kill_a_client(url: str, fake: Spawned) -> float:
    """Seconds from its end to the start of the last request that was made for it."""
    problem = WORLD.problem(999_983)
    environment = {**os.environ, "NO_PROXY": "127.0.0.1"}
    client = subprocess.Popen(
        [sys.executable, "-c", KILLED, url, problem.text], stdout=subprocess.PIPE, env=environment
    )
    assert client.stdout
    client.stdout.readline()
    client.kill()
    client.wait()
    killed = time.monotonic()
    time.sleep(4)
    ours = [entry for entry in fake.log() if entry["problem"] == problem.id]
    late = max([0.0, *(entry["end"] - killed for entry in ours)])
    left = [entry for entry in ours if entry["status"] == 499]
    print(
        f"a client killed: {len(ours)} requests had been sent for it, {len(left)} ended with 499, "
        f"the last one ended {late:.2f} s after the kill"
    )
    return late


if __name__ == "__main__":
    main()
