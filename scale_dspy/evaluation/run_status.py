"""The state of a run or a compile, read from its folder by another process, which can also stop it.

The runner writes `process.json` and deletes it at its end. Whether it is still alive shows in the
lock that it holds, so that a file left behind by kill -9 does not mislead.
"""

from __future__ import annotations

import os
import signal
import socket
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from scale_dspy.evaluation.costs import COSTS, read_costs, read_terms, sum_costs
from scale_dspy.evaluation.folder import COMPILE, RECORD, RUN, read_description, write_json
from scale_dspy.evaluation.rollout import Glance, name_error, read_lines
from scale_dspy.lm.tally import Tally
from scale_dspy.utils.files import is_held
from scale_dspy.utils.records import read_record
from scale_dspy.utils.statistics import bound_accuracy

PROCESS = "process.json"
RECORDS = ("rollouts.jsonl", "walks.jsonl")
MARKS = (RUN, COMPILE)
SEARCHES = ("threshold", "joint")  # the stages of a compile that search for thresholds, by folder
STOP_WAIT = 60.0  # seconds that a run has to end; its requests are cancelled at once

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
    """How far a run is.

    Attributes:
        folder: its path, as it was given.
        done, total: records written and wanted; total is None where it is not known.
        accuracy: share of rollouts that are right so far, with its 95 % interval; None for walks.
        tokens: response tokens of a record, on average.
        errors: failed records by the name of their error.
        rate: records a minute since its process began; None where none is at work.
        seconds_left: at this rate; None where it is not known.
        worker: the process at work; None where there is none.
        stage: the stage of a compile that `done` and `total` refer to; None for a run.
        calls: requests that reached a server, in a compile only its stage's; None where unknown.
        sent_tokens: response tokens that reached a server, over all sessions; None where unknown.
        dollars: what these and their prompts cost; None without a price.
        tokens_left, dollars_left: what is left of the cost limits; None without a limit.
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
    stage: str | None = None
    calls: int | None = None
    sent_tokens: int | None = None
    dollars: float | None = None
    tokens_left: int | None = None
    dollars_left: float | None = None


@contextmanager
def announce(folder: Path, done: int) -> Iterator[None]:
    """Note in the folder that this process works there, until the block ends."""
    path = folder / PROCESS
    write_json(path, asdict(Worker(os.getpid(), socket.gethostname(), time.time(), done)))
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def find_runs(folders: list[Path]) -> list[Path]:
    """The folders of runs and compiles among these and directly inside them, in the order given.

    A compile counts as one, although the searches in its folder are runs too.

    Raises:
        ValueError: a folder is missing, or there is no run in it.
    """
    found: list[Path] = []
    for folder in folders:
        if not folder.is_dir():
            raise ValueError(f"{folder} is no folder")
        if (folder / COMPILE).is_file():
            runs = [folder]
        else:
            inside = [folder, *sorted(path for path in folder.iterdir() if path.is_dir())]
            runs = [path for path in inside if any((path / name).is_file() for name in MARKS)]
        if not runs:
            raise ValueError(f"{folder} holds no run: there is no run.json in it")
        found += [path for path in runs if path not in found]
    return found


def read_status(folder: Path) -> RunStatus:
    """How far the run or the compile in `folder` is at this moment, also while it works.

    Raises:
        ValueError: its description cannot be read.
    """
    if (folder / COMPILE).is_file():
        return _read_compile(folder)
    described = read_description(folder / RUN)
    worker = find_worker(folder)
    seen = _look_at(folder)
    total = _multiply(described.get("problems"), described.get("samples"))
    rate = _measure_rate(worker, seen.done)
    complete = total is not None and seen.done >= total
    return RunStatus(
        folder=str(folder),
        state="running" if worker else "finished" if complete else "stopped",
        **_describe_progress(seen, total, rate),
        worker=worker,
        **_describe_spending(folder, described),
    )


def _read_compile(folder: Path) -> RunStatus:
    """As `read_status`. The progress is of the stage at work, or else of the one begun last; the
    cost is of the whole compile."""
    described = read_description(folder / COMPILE)
    worker = find_worker(folder)
    stage = _find_stage(folder)
    seen, total, rate = Seen(), None, None
    if stage in SEARCHES:
        parts = {path.parent: _look_at(path.parent) for path in (folder / stage).rglob(RUN)}
        seen = sum(parts.values(), Seen())
        total = _count_walks(described, len(parts))
        rates = [_measure_rate(find_worker(part), each.done) for part, each in parts.items()]
        rate = next(filter(None, rates), None)
    complete = (folder / RECORD).is_file()
    return RunStatus(
        folder=str(folder),
        state="running" if worker else "finished" if complete else "stopped",
        **_describe_progress(seen, total, rate),
        worker=worker,
        stage=stage,
        **_describe_spending(folder, described, stage),
    )


def _find_stage(folder: Path) -> str:
    """The stage of a compile that is at work, or was begun last."""
    first, last = SEARCHES
    for stage in SEARCHES:
        if any(is_held(path.parent) for path in (folder / stage).rglob(RUN)):
            return stage
    if (folder / last).is_dir():
        return last
    with suppress(ValueError):
        if "prompts" in read_costs(folder / COSTS):
            return "prompts"
    return first


def _count_walks(described: Mapping[str, Any], parts: int) -> int | None:
    """How many walks a search makes over all variants, of which `parts` have begun."""
    data, plan = described.get("data"), described.get("plan")
    if not isinstance(data, dict) or not isinstance(plan, dict):
        return None
    val, variants = data.get("val"), plan.get("variants")
    samples = described.get("samples", plan.get("samples"))
    each = _multiply(val.get("problems") if isinstance(val, dict) else None, samples)
    count = 1 + len(variants) if isinstance(variants, list) else 1
    return each * max(count, parts) if each else None


@dataclass(frozen=True)
class Seen:
    """What the records in a folder add up to at this moment.

    Attributes:
        right: by problem, whether each rollout is right; empty for walks.
        errors: by kind.
    """

    done: int = 0
    tokens: int = 0
    right: Mapping[str, list[int]] = field(default_factory=dict)
    errors: Counter[str] = field(default_factory=Counter)

    def __add__(self, other: Seen) -> Seen:
        """The sum over two folders of walks; folders of rollouts are never added up."""
        errors = self.errors + other.errors
        return Seen(self.done + other.done, self.tokens + other.tokens, {}, errors)


def read_finished(folder: Path) -> Iterator[Glance]:
    """The records in a folder that a run may be writing to; damaged ones are skipped."""
    for name in RECORDS:
        yield from read_lines(Glance, folder / name, lenient=True)


def _look_at(folder: Path) -> Seen:
    right: dict[str, list[int]] = {}
    errors: Counter[str] = Counter()
    done = tokens = 0
    for record in read_finished(folder):
        done += 1
        tokens += record.tokens or 0
        if record.error:
            errors[name_error(record.error)] += 1
        if record.correct is not None:
            right.setdefault(record.id, []).append(int(record.right))
    return Seen(done, tokens, right, errors)


def _describe_progress(seen: Seen, total: int | None, rate: float | None) -> dict[str, Any]:
    interval = bound_accuracy(seen.right) if seen.right else None
    return {
        "done": seen.done,
        "total": total,
        "accuracy": interval.estimate if interval else None,
        "accuracy_interval": (interval.low, interval.high) if interval else None,
        "tokens": seen.tokens / seen.done if seen.done else None,
        "errors": dict(seen.errors.most_common()),
        "rate": rate,
        "seconds_left": 60 * (total - seen.done) / rate if rate and total is not None else None,
    }


def _describe_spending(
    folder: Path, described: Mapping[str, Any], stage: str | None = None
) -> dict[str, Any]:
    """What was sent and what the limits leave, from a folder's costs.json and its description."""
    if not (folder / COSTS).is_file():  # a run of an earlier version, or one that has not begun
        return {}
    terms = read_terms(described)
    try:
        costs = read_costs(folder / COSTS)
    except ValueError:
        return {}
    spent = sum_costs(costs)
    left: tuple[int | None, float | None] = (None, None)
    with suppress(ValueError):
        left = terms.leave(spent)
    return {
        "calls": costs.get(stage, Tally()).calls if stage else spent.calls,
        "sent_tokens": spent.completion_tokens,
        "dollars": terms.price.charge(spent) if terms.price else None,
        "tokens_left": left[0],
        "dollars_left": left[1],
    }


def find_worker(folder: Path) -> Worker | None:
    """The process that works in `folder` now; None where nothing holds its lock."""
    if not is_held(folder):
        return None
    try:
        worker = read_record(Worker, read_description(folder / PROCESS))
    except ValueError:
        return None  # it holds the lock but has not written process.json yet
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


def _multiply(problems: Any, samples: Any) -> int | None:
    both = isinstance(problems, int) and isinstance(samples, int)
    return problems * samples or None if both else None


def _measure_rate(worker: Worker | None, done: int) -> float | None:
    if worker is None or done <= worker.done:
        return None
    return 60 * (done - worker.done) / max(time.time() - worker.started, 1e-3)
