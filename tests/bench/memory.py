"""How much memory a long `evaluate` needs, and how fast it is.

python tests/bench/memory.py [--rollouts 10000] [--method cot]

The run has a process of its own, and so has the fake server that it asks. While it runs, the
process's resident memory is read from /proc. A run that holds on to what it finished shows as
memory that grows with the count of rollouts.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.fake_vllm import Spawned, spawn_fake_vllm
from tests.world import World

ROOT = Path(__file__).resolve().parents[2]
WORLD = World.noisy()
SAMPLES = 8
THREADS = 64
MARKS = (1_000, 2_000, 5_000, 10_000)

RUN = """
import sys
from pathlib import Path
import dspy
from scale_dspy import connect
from scale_dspy.baselines import make_program
from scale_dspy.evaluation.runner import evaluate
from tests.bench.memory import SAMPLES, THREADS, WORLD
model, url, method, rollouts, out = sys.argv[1:]
examples = WORLD.problems(int(rollouts) // SAMPLES)
lm = connect(model, url + "/v1", seed=0)
evaluate(make_program(method), examples, lm, Path(out), samples=SAMPLES, threads=THREADS)
"""


@dataclass(frozen=True)
class Reading:
    """The state of a run at one moment.

    Attributes:
        seconds: since it began.
        rollouts: done by now.
        memory: resident, in MiB.
        files: how much of it are pages of files, which the kernel may drop at any time. The disk
            cache maps its files, up to 64 MiB of each of 16.
    """

    seconds: float
    rollouts: int
    memory: float
    files: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rollouts", type=int, default=10_000, help=f"a multiple of {SAMPLES}")
    parser.add_argument("--method", default="cot", help="as on the command line of scale-dspy")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, spawn_fake_vllm(WORLD, keep_bodies=False) as fake:
        run = start_run(fake, given.method, given.rollouts, Path(folder))
        readings = show(watch(run, Path(folder) / "out" / "rollouts.jsonl"), given.rollouts)
    if run.returncode or readings[-1].rollouts != given.rollouts:
        sys.exit(f"the run ended with {run.returncode} after {readings[-1].rollouts} rollouts")
    first = next(reading for reading in readings if reading.rollouts)
    speed = (given.rollouts - first.rollouts) / (readings[-1].seconds - first.seconds)
    print(f"{speed:.0f} rollouts a second")


def start_run(fake: Spawned, method: str, rollouts: int, folder: Path) -> subprocess.Popen[bytes]:
    """Begin a run in a process of its own, with a cache of its own, in `folder`/out."""
    return subprocess.Popen(
        [sys.executable, "-c", RUN, fake.model, fake.url, method, str(rollouts), folder / "out"],
        env={**os.environ, "SCALE_CACHE": str(folder / "cache"), "NO_PROXY": "127.0.0.1"},
        cwd=ROOT,
    )


def watch(run: subprocess.Popen[bytes], path: Path) -> Iterator[Reading]:
    """Readings of a run, twenty a second, the last one after its end."""
    began, read, lines, ended = time.monotonic(), 0, 0, False
    while not ended:
        ended = run.poll() is not None
        memory, files = (0.0, 0.0) if ended else read_memory(run.pid)
        if path.exists():
            with path.open("rb") as file:
                file.seek(read)
                fresh = file.read()
            read, lines = read + len(fresh), lines + fresh.count(b"\n")
        yield Reading(time.monotonic() - began, lines, memory, files)
        time.sleep(0.05)


def show(readings: Iterator[Reading], rollouts: int) -> list[Reading]:
    """Print a line at each mark, and hand on all the readings."""
    seen: list[Reading] = []
    marks = [mark for mark in MARKS if mark < rollouts] + [rollouts]
    print("rollouts  peak MiB  of files  now MiB  of files  seconds", flush=True)
    for reading in readings:
        seen.append(reading)
        while marks and reading.rollouts >= marks[0]:
            peak = max(seen, key=lambda each: each.memory)
            print(
                f"{marks.pop(0):8}  {peak.memory:8.0f}  {peak.files:8.0f}  {reading.memory:7.0f}"
                f"  {reading.files:8.0f}  {reading.seconds:7.0f}",
                flush=True,
            )
    return seen


def read_memory(pid: int) -> tuple[float, float]:
    """Resident memory of a process, and how much of it are pages of files, in MiB."""
    status = Path(f"/proc/{pid}/status").read_text()
    sizes = dict(re.findall(r"(VmRSS|RssFile):\s+(\d+) kB", status))
    return int(sizes.get("VmRSS", 0)) / 1024, int(sizes.get("RssFile", 0)) / 1024


if __name__ == "__main__":
    main()
