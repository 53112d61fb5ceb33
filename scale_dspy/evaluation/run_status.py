"""A run's folder seen from outside: how far it is, which process works in it, and ending that one.

The runner announces itself in `process.json`, which goes when it ends; whether it is still alive is
told by the lock it holds, so that a file left by a kill -9 deceives nobody.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from scale_dspy.utils.files import is_held, open_file, read_file, write_whole
from scale_dspy.utils.statistics import bound_accuracy

PROCESS = "process.json"
RECORDS = ("rollouts.jsonl", "walks.jsonl")
STOP_WAIT = 60.0  # seconds that a run gets to end; its requests are cancelled at once

State = Literal["running", "finished", "stopped"]


@dataclass(frozen=True)
class Worker:
    """The process at work in a folder.

    Attributes:
        started: when it began, in seconds since 1970.
        done: records that were there when it began.
    """

    pid: int
    host: str
    started: float
    done: int


@dataclass(frozen=True)
class RunStatus:
    """Where a run stands.

    Attributes:
        folder: its name, as a person would call the run.
        done, total: records written and wanted; total is None where run.json does not tell.
        accuracy: share of rollouts that are right so far, with its 95 % interval; None for walks.
        tokens: response tokens of a record, on average.
        errors: failed records by the name of their error.
        rate: records a minute since its process began; None where none is at work.
        seconds_left: at this rate; None where it is not known.
        worker: the process at work; None where there is none.
    """

    folder: str
    state: State
    done: int
    total: int | None
    accuracy: float | None
    accuracy_interval: tuple[float, float] | None
    tokens: float | None
    errors: dict[str, int]
    rate: float | None
    seconds_left: float | None
    worker: Worker | None


@contextmanager
def announce(folder: Path, done: int) -> Iterator[None]:
    """Say in the folder that this process is at work there, until the block ends."""
    path = folder / PROCESS
    worker = {"pid": os.getpid(), "host": socket.gethostname(), "started": time.time()}
    with write_whole(path) as draft:
        draft.write_text(json.dumps({**worker, "done": done}) + "\n", encoding="utf-8")
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def find_runs(folders: list[Path]) -> list[Path]:
    """The folders of runs among these and directly inside them, in the order given.

    Raises:
        ValueError: a folder is missing, or there is no run in it.
    """
    found: list[Path] = []
    for folder in folders:
        if not folder.is_dir():
            raise ValueError(f"{folder} is no folder")
        inside = [folder, *sorted(path for path in folder.iterdir() if path.is_dir())]
        runs = [path for path in inside if (path / "run.json").is_file()]
        if not runs:
            raise ValueError(f"{folder} holds no run: there is no run.json in it")
        found += [path for path in runs if path not in found]
    return found


def read_status(folder: Path) -> RunStatus:
    """Where the run in `folder` stands at this moment, also while it is being written.

    Raises:
        ValueError: its run.json cannot be read.
    """
    described = _read_object(folder / "run.json")
    worker = find_worker(folder)
    right: dict[str, list[int]] = {}
    errors: Counter[str] = Counter()
    done = tokens = 0
    for record in read_finished(folder):
        done += 1
        tokens += count_tokens(record)
        error = record.get("error")
        if error:
            errors[str(error).partition(":")[0]] += 1
        if "correct" in record:
            right.setdefault(str(record.get("id")), []).append(int(bool(record["correct"])))
    total = _multiply(described.get("problems"), described.get("samples"))
    interval = bound_accuracy(right) if right else None
    rate = _measure_rate(worker, done)
    complete = total is not None and done >= total
    return RunStatus(
        folder=str(folder),
        state="running" if worker else "finished" if complete else "stopped",
        done=done,
        total=total,
        accuracy=interval.estimate if interval else None,
        accuracy_interval=(interval.low, interval.high) if interval else None,
        tokens=tokens / done if done else None,
        errors=dict(errors.most_common()),
        rate=rate,
        seconds_left=60 * (total - done) / rate if rate and total is not None else None,
        worker=worker,
    )


def find_worker(folder: Path) -> Worker | None:
    """The process that works in `folder` now; None where nothing holds its lock."""
    if not is_held(folder):
        return None
    told: dict[str, Any] = {}
    with suppress(ValueError):
        told = _read_object(folder / PROCESS)
    try:
        worker = Worker(
            int(told["pid"]), str(told["host"]), float(told["started"]), int(told["done"])
        )
    except (KeyError, TypeError, ValueError, OverflowError):
        return None  # it holds the lock and has not announced itself yet
    # A signal to a number below 1 goes to a whole group of processes, or to all of a user's.
    return worker if worker.pid > 1 else None


def stop_run(folder: Path, wait: float = STOP_WAIT) -> RunStatus:
    """End the run in `folder` as Ctrl-C would: what is finished is kept, the rest can go on later.

    Args:
        wait: seconds that it gets to end.

    Raises:
        ValueError: nothing runs there, or it runs on another machine.
        RuntimeError: it did not end in time.
    """
    worker = find_worker(folder)
    if worker is None:
        raise ValueError(f"nothing runs in {folder}")
    if worker.host != socket.gethostname():
        raise ValueError(f"the run in {folder} is on {worker.host}: stop it there")
    with suppress(ProcessLookupError):
        os.kill(worker.pid, signal.SIGTERM)
    deadline = time.monotonic() + wait
    while is_held(folder):
        if time.monotonic() > deadline:
            raise RuntimeError(f"process {worker.pid} has not ended within {wait:g} seconds")
        time.sleep(0.1)
    return read_status(folder)


def _read_object(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(read_file(path)))
    except (OSError, ValueError, TypeError, RecursionError):
        raise ValueError(f"{path} cannot be read") from None


def read_finished(folder: Path) -> Iterator[dict[str, Any]]:
    """The records in a folder that may be written to at this moment; damaged ones are left out."""
    for path in (folder / name for name in RECORDS if (folder / name).is_file()):
        with open_file(path) as file:
            for line in file:
                with suppress(ValueError, RecursionError):
                    record = json.loads(line) if line.endswith(b"\n") else None
                    if isinstance(record, dict):
                        yield record


def count_tokens(record: Mapping[str, Any]) -> int:
    """Response tokens of a record, over all stages; 0 where they are not known."""
    usage = record.get("usage")
    stages = usage.values() if isinstance(usage, dict) else ()
    counts = [stage.get("completion_tokens") for stage in stages if isinstance(stage, dict)]
    return sum(count for count in counts if isinstance(count, int))


def _multiply(problems: Any, samples: Any) -> int | None:
    both = isinstance(problems, int) and isinstance(samples, int)
    return problems * samples or None if both else None


def _measure_rate(worker: Worker | None, done: int) -> float | None:
    if worker is None or done <= worker.done:
        return None
    return 60 * (done - worker.done) / max(time.time() - worker.started, 1e-3)
