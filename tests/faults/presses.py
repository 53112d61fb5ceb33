"""Presses Ctrl-C at random moments of real commands, once or twice, and says what was not clean.

python -m tests.faults.presses [--presses 100] [--seed 0] [--only evaluate,serve] [--jobs 2]

A press is a SIGINT to the command's whole process group, as a terminal sends it, anywhere from the
start of the process to the time that the command takes undisturbed. Clean is: it ends within a few
seconds with 130 (0 where it was done), prints no traceback and few lines, and leaves nothing
running and no line that cannot be read. At the end every command is run to its end in the folders
that were left.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tests.command import backend
from tests.fake_vllm import FakeVLLM, fake_vllm
from tests.world import World, write_set
from tests.writer import write_prompts

ROOT = Path(__file__).resolve().parents[2]
WORLD = World.noisy(5, parts=(1, 3))
PATIENCE = 12.0  # seconds from the last press to the end
LINES = 12  # on standard error, at most
COMMANDS = {
    "evaluate": ["evaluate", "set.jsonl", "--samples", "2", "--out", "out"],
    "frontier": ["frontier", "set.jsonl", "--candidates", "2", "--out", "out"],
    "compile": (
        "compile set.jsonl --optimizer gepa --rollouts 30 --candidates 1 --out p.json".split()
    ),
    "compile bootstrap": (
        "compile set.jsonl --optimizer bootstrap --candidates 1 --out p.json".split()
    ),
    "traces": ["traces", "set.jsonl", "--against", "none", "--out", "t.jsonl"],
    "serve": ["serve", "--port", "0", "--json"],
    "solve": ["solve", WORLD.problems(1)[0].problem],
}
SERVED = 4.0  # seconds that `serve` is left to serve
DIRTY = re.compile(
    "Traceback|Exception ignored|Task was destroyed|never retrieved|never awaited|"
    "Error in |ERROR|Fatal|^  File ",
    re.MULTILINE,
)


@dataclass(frozen=True)
class Press:
    """When to press: seconds from the start, and from there to a second press, if any."""

    command: str
    at: float
    again: float | None


@dataclass(frozen=True)
class Ended:
    code: int | None
    seconds: float  # from the last press
    err: str
    left: int


@contextlib.contextmanager
def serve_world() -> Iterator[FakeVLLM]:
    with fake_vllm(WORLD, delay=0.12, other=write_prompts("Do it with care.")) as server:
        yield server


def start(name: str, folder: Path, server: FakeVLLM) -> subprocess.Popen[bytes]:
    """Start a command in its folder, as a shell does; its standard error goes to a file."""
    folder.mkdir(exist_ok=True)
    write_set(folder / "set.jsonl", WORLD.problems(12))
    threads = [] if name == "solve" else ["--threads", "4"]
    with (folder / "err").open("wb") as err, (folder / "stdout").open("wb") as out:
        return subprocess.Popen(
            [sys.executable, "-m", "scale_dspy", *COMMANDS[name], *backend(server), *threads],
            cwd=folder,
            env={
                **os.environ,
                "PYTHONPATH": str(ROOT),
                "NO_PROXY": "127.0.0.1",
                "SCALE_CACHE": str(folder / "cache"),
            },
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            start_new_session=True,
            # A shell may have it ignored, and that is inherited.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )


def measure(name: str, folder: Path, server: FakeVLLM) -> float:
    """Seconds that a command takes undisturbed; for `serve`, until it has served for a while."""
    began = time.monotonic()
    process = start(name, folder, server)
    if name == "serve":
        while not (folder / "stdout").read_bytes():
            time.sleep(0.1)
        time.sleep(SERVED)
        os.killpg(process.pid, signal.SIGINT)
    code = process.wait(120)
    err = (folder / "err").read_text(errors="replace")
    if code != 0:
        raise RuntimeError(f"{name} ends with {code} when it is left alone: {err[-800:]}")
    return time.monotonic() - began


def press(order: Press, folder: Path, server: FakeVLLM) -> Ended:
    """Start a command, press, and wait for its end."""
    process = start(order.command, folder, server)
    for wait in (order.at, order.again):
        if wait is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(wait)
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGINT)
    pressed = time.monotonic()
    code = None
    with contextlib.suppress(subprocess.TimeoutExpired):
        code = process.wait(PATIENCE)
    seconds = time.monotonic() - pressed
    time.sleep(0.2)
    left = count_session(process.pid)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return Ended(code, seconds, (folder / "err").read_text(errors="replace"), left)


def count_session(session: int) -> int:
    """Processes of a session that are still there."""
    found = 0
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            fields = path.read_text().rpartition(")")[2].split()
            found += int(fields[3]) == session and fields[0] != "Z"
    return found


def judge(ended: Ended, folder: Path) -> list[str]:
    """In words, what was not clean."""
    wrong = []
    if ended.code is None:
        wrong.append(f"still there {PATIENCE:g} s after the press")
    elif ended.code not in (0, 130, -signal.SIGINT):
        wrong.append(f"exit code {ended.code}")
    if ended.code in (1, -signal.SIGINT) and "scale_dspy" not in ended.err:
        return []  # Python had not come as far as the package
    if DIRTY.search(ended.err):
        wrong.append("a traceback")
    if ended.code != 0 and ended.err.count("\n") > LINES:  # else it shows its result
        wrong.append(f"{ended.err.count(chr(10))} lines")
    if ended.code is not None and ended.left:
        wrong.append(f"{ended.left} processes left behind")
    for path in [*folder.rglob("*.jsonl"), *folder.rglob("run.json")]:
        lines = path.read_text().splitlines(keepends=True)
        whole = [line for line in lines if line.endswith("\n")] if path.suffix == ".jsonl" else []
        wrong += [
            f"{path.name} has a line that cannot be read" for line in whole if not _reads(line)
        ]
    return wrong


def _reads(line: str) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True


def draw(names: Sequence[str], count: int, seed: int, lengths: dict[str, float]) -> list[Press]:
    """Presses at random: commands in turn, every other one a double press."""
    dice = random.Random(seed)
    return [
        Press(
            name := names[number % len(names)],
            dice.uniform(0, lengths[name]),
            dice.choice([0.05, 0.3, 1.0]) * dice.random() if number // len(names) % 2 else None,
        )
        for number in range(count)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--presses", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default=",".join(COMMANDS))
    parser.add_argument("--jobs", type=int, default=2, help="commands at a time")
    given = parser.parse_args()
    names = given.only.split(",")
    with tempfile.TemporaryDirectory() as where, serve_world() as server:
        sys.exit(bool(play(names, given.presses, given.seed, given.jobs, Path(where), server)))


def play(
    names: Sequence[str], count: int, seed: int, jobs: int, where: Path, server: FakeVLLM
) -> int:
    """Press `count` times, say how each went, and return how many were not clean."""
    lengths = {name: measure(name, where / name.replace(" ", "-"), server) for name in names}
    print({name: round(length, 1) for name, length in lengths.items()}, flush=True)

    def play_one(numbered: tuple[int, Press]) -> bool:
        number, order = numbered
        folder = where / f"press{number}"
        ended = press(order, folder, server)
        wrong = judge(ended, folder)
        again = "" if order.again is None else f" and {order.again:.2f} s later"
        print(
            f"{order.command}, pressed at {order.at:.2f} s{again}: code {ended.code} after "
            f"{ended.seconds:.1f} s, {'; '.join(wrong) or 'clean'}",
            flush=True,
        )
        if wrong:
            print(ended.err[-3000:], flush=True)
        return bool(wrong)

    orders = list(enumerate(draw(names, count, seed, lengths)))
    with ThreadPoolExecutor(jobs) as pool:
        dirty = sum(pool.map(play_one, orders))
    unfinished = finish(orders[-len(names) :], where, server)
    print(f"{count} presses, {dirty} not clean; {unfinished} runs that could not be finished after")
    return dirty + unfinished


def finish(orders: Sequence[tuple[int, Press]], where: Path, server: FakeVLLM) -> int:
    """Run these commands to their end where they were interrupted; how many could not be."""
    failed = 0
    for number, order in orders:
        try:
            measure(order.command, where / f"press{number}", server)
        except (RuntimeError, subprocess.TimeoutExpired) as error:
            print(error, flush=True)
            failed += 1
    return failed


if __name__ == "__main__":
    main()
