"""Run a program on many problems, several samples each; lose nothing that is finished.

Every (problem, sample) pair ends as one line of `rollouts.jsonl`, written as it ends. Running again
does what is missing. Finished model calls of unfinished pairs come from the cache of replies.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import re
import secrets
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import dspy
from dspy.utils.exceptions import (
    LMAuthError,
    LMConfigurationError,
    LMError,
    LMUnsupportedModelError,
)

from scale_dspy.data.load import digest
from scale_dspy.evaluation.summary import ROLLOUTS, Summary, sum_tokens, summarise
from scale_dspy.grading.metrics import is_right
from scale_dspy.lm.connect import MeteredLM
from scale_dspy.lm.cost_limit import CostLimitError
from scale_dspy.lm.event_loop import run
from scale_dspy.lm.redact import hide_server
from scale_dspy.lm.usage import track
from scale_dspy.method import Solver
from scale_dspy.program import SCALE
from scale_dspy.utils.files import hold_folder, write_whole

logger = logging.getLogger(__name__)

Rollout = dict[str, Any]
Pair = tuple[dspy.Example, int]
Engine = Callable[[Sequence[Pair], Callable[[Rollout], None]], None]
"""Makes the rollout of every pair and hands each on, on this thread, as soon as it is done."""

DRAWS = "draws.txt"  # of a run's folder, what its replies are kept under
GIVE_UP = 32  # failures in a row, after which the server is taken to be gone
HOPELESS = (LMAuthError, LMConfigurationError, LMUnsupportedModelError)


@dataclass(frozen=True)
class Progress:
    """Where a run stands, counted in rollouts; `tokens` are response tokens."""

    total: int
    done: int = 0
    right: int = 0
    errors: int = 0
    tokens: int = 0

    def after(self, rollout: Rollout) -> Progress:
        """The progress once `rollout` is done too."""
        return Progress(
            total=self.total,
            done=self.done + 1,
            right=self.right + bool(rollout["correct"]),
            errors=self.errors + bool(rollout["error"]),
            tokens=self.tokens + sum_tokens(rollout["usage"]),
        )


def evaluate(
    program: Solver,
    examples: Sequence[dspy.Example],
    lm: MeteredLM,
    out: Path,
    *,
    description: dict[str, Any] | None = None,
    samples: int = 8,
    threads: int = 64,
    retry_errors: bool = False,
    engine: Engine | None = None,
    report: Callable[[Progress], None] | None = None,
) -> Summary:
    """Run `program` on every example `samples` times and write `out`.

    Args:
        program: from a problem to Prediction(answer, steps, usage, replaced).
        examples: as `load` makes them, their ids all different.
        lm: each sample is a rollout id of its own on it, so eight samples are eight draws.
        out: the folder of rollouts.jsonl, run.json and summary.json, made where it is missing.
        description: what run.json says of this run; a run that goes on in `out` must match it.
        samples: rollouts of each problem.
        threads: rollouts at work at once.
        retry_errors: run those again that ended in an error.
        engine: where rollouts are made; None for this process. See ray_engine.py.
        report: called after each rollout.

    Returns:
        The summary, as it is written to summary.json.

    Raises:
        ValueError: `out` holds another run, or is in use by another process.
        RuntimeError: the server is gone; what is finished is kept.
    """

    async def solve(example: dspy.Example, sample: int) -> Rollout:
        return await solve_once(program, example, sample, lm)

    path = out / ROLLOUTS
    finish_pairs(
        solve,
        examples,
        path,
        description=description,
        samples=samples,
        threads=threads,
        retry_errors=retry_errors,
        engine=engine,
        enter=count_up(len(examples) * samples, report),
    )
    summary = summarise(read_pairs(path, examples, samples))
    write_json(out / "summary.json", dict(summary))
    return summary


def count_up(total: int, report: Callable[[Progress], None] | None) -> Callable[[Rollout], None]:
    """A function that takes each record as it is done and reports how far `total` is reached."""
    progress = Progress(total=total)

    def enter(record: Rollout) -> None:
        nonlocal progress
        progress = progress.after(record)
        if report:
            report(progress)

    return enter


def finish_pairs(
    work: Callable[[dspy.Example, int], Awaitable[Rollout]],
    examples: Sequence[dspy.Example],
    path: Path,
    *,
    description: dict[str, Any] | None,
    samples: int,
    threads: int,
    retry_errors: bool = False,
    engine: Engine | None = None,
    enter: Callable[[Rollout], None],
) -> None:
    """Do `work` for every (example, sample) that has no line in the file yet.

    Args:
        work: makes the record of a pair, with at least its id, sample, error and usage.
        path: the JSON Lines file; run.json and a lock lie beside it.
        description: what run.json says; work that goes on must match it.
        samples: records of each example.
        threads: pairs at work at once.
        retry_errors: do those again that ended in an error.
        engine: does the work instead of `work` and `threads`.
        enter: called for each record that belongs here, earlier ones first.

    Raises:
        ValueError: the folder holds other work, or is in use by another process.
        RuntimeError: the server is gone; what is finished is kept.
    """
    pairs = {
        (str(example.id), sample): example for example in examples for sample in range(samples)
    }
    with hold_folder(path.parent):
        description = {**(description or {}), "versions": _read_versions()}
        match_description(path.parent / "run.json", description)
        _mend(path, drop_errors=retry_errors)
        for record in read_rollouts(path):
            if pairs.pop((record["id"], record["sample"]), None) is not None:
                enter(record)
        # Half a character, which UTF-8 has no bytes for, then stands there as JSON's escape of it.
        with path.open("a", encoding="utf-8", errors="backslashreplace") as file:

            def keep(record: Rollout) -> None:
                file.write(json.dumps(record, ensure_ascii=False) + "\n")
                file.flush()
                enter(record)

            pending = [(example, sample) for (_, sample), example in pairs.items()]
            if engine:
                engine(pending, keep)
            else:
                run(_work(work, iter(pending), threads, keep))


def describe_run(
    program: Solver,
    method: str,
    data: str,
    examples: Sequence[dspy.Example],
    lm: MeteredLM,
    samples: int,
) -> dict[str, Any]:
    """What run.json says of a run, enough to repeat it; no key and no URL among it."""
    return {
        "method": method,
        "threshold": program.threshold.value if isinstance(program, SCALE) else None,
        "split": program.split.value if isinstance(program, SCALE) else None,
        "options": program.options,
        "program": _digest_instructions(program),
        "requests": {name: predict.config for name, predict in program.named_predictors()},
        "model": lm.model,
        "system_1": lm.partner.model if lm.partner else None,
        "data": data,
        "digest": digest(examples),
        "problems": len(examples),
        "samples": samples,
        "seed": lm.seed,
    }


def name_draws(out: Path, *, reuse: bool = False) -> str:
    """What the replies of the run in a folder are kept under: with another name they are drawn
    anew. A folder that has no name for them, from an earlier version or because it is to reuse
    them, shares what any run has drawn.

    Args:
        out: the run's folder; where it is new the name is made, and written there.
        reuse: a new folder shares what any run has drawn.
    """
    path = out / DRAWS
    if not path.exists():
        new = not (out / ROLLOUTS).exists()
        out.mkdir(parents=True, exist_ok=True)
        path.write_text("" if reuse or not new else secrets.token_hex(8), encoding="ascii")
    return path.read_text(encoding="utf-8").strip()


def name_folder(data: str, name: str) -> str:
    """A folder's name for a run on `data`, which may be a path or a hub path.

    >>> name_folder("sets/mine.jsonl", "cot"), name_folder("owner/set:test", "cot")
    ('mine-cot', 'owner-set-test-cot')
    """
    stem = Path(data).stem if data.endswith((".json", ".jsonl")) else data
    return re.sub(r"[^\w.-]+", "-", f"{stem}-{name}")


def read_rollouts(path: Path) -> Iterator[Rollout]:
    """The rollouts of a file, one at a time; none where there is no file.

    Raises:
        ValueError: a line is no rollout.
    """
    if not path.exists():
        return
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            try:
                rollout = json.loads(line)
                rollout["id"], rollout["sample"], rollout["error"], rollout["usage"]
            except (ValueError, KeyError, TypeError, RecursionError):
                raise ValueError(f"{path}:{number} is no rollout: {line[:60]!r}") from None
            yield rollout


def read_pairs(path: Path, examples: Sequence[dspy.Example], samples: int) -> Iterator[Rollout]:
    """Of a file's rollouts, those of these examples, and of each the first `samples`."""
    wanted = {str(example.id) for example in examples}
    for rollout in read_rollouts(path):
        if rollout["id"] in wanted and rollout["sample"] < samples:
            yield rollout


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write a JSON file whole or not at all."""
    text = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
    with write_whole(path) as draft:
        draft.write_text(text, encoding="utf-8", errors="backslashreplace")


async def solve_once(program: Solver, example: dspy.Example, sample: int, lm: MeteredLM) -> Rollout:
    """One rollout as its record. What goes wrong in it is recorded too, and counts as wrong.

    Raises:
        LMError: one that every other rollout would meet as well (key, model, configuration).
        CostLimitError: no request may be sent any more.
    """
    started = time.perf_counter()
    answer, right, steps, replaced, error = None, False, [], [], None
    rollout_lm = lm.copy(rollout_id=sample)
    # A trace would keep the replies of the last 10,000 calls in memory.
    with dspy.context(lm=rollout_lm, disable_history=True, trace=None), track() as ledger:
        try:
            prediction = await program.acall(problem=example.problem)
            answer, replaced = prediction.answer, prediction.replaced
            steps = [asdict(step) for step in prediction.steps]
            right = await asyncio.to_thread(is_right, example, prediction)
        except (*HOPELESS, CostLimitError):
            raise
        except Exception as failure:
            error = hide_server(f"{type(failure).__name__}: {failure}", lm)[:500]
            if not isinstance(failure, LMError):
                logger.exception("rollout %s/%d failed", example.id, sample)
    return {
        "id": str(example.id),
        "sample": sample,
        "problem": example.problem,
        "answer": answer,
        "gold": example.answer,
        "correct": right,
        "steps": steps,
        "usage": ledger.usage(),
        "seconds": round(time.perf_counter() - started, 3),
        "error": error,
        "replaced": replaced,
        "replayed": ledger.replayed,
        "unknown": ledger.unknown,
    }


def watch_failures() -> Callable[[Rollout], None]:
    """A function that takes each record as it ends; RuntimeError once GIVE_UP in a row failed."""
    failures = 0

    def look(record: Rollout) -> None:
        nonlocal failures
        failures = failures + 1 if record["error"] else 0
        if failures >= GIVE_UP:
            raise RuntimeError(
                f"{failures} rollouts in a row failed, the last with {record['error']}"
            )

    return look


async def _work(
    work: Callable[[dspy.Example, int], Awaitable[Rollout]],
    pairs: Iterator[tuple[dspy.Example, int]],
    threads: int,
    keep: Callable[[Rollout], None],
) -> None:
    """Keep `threads` pairs at work until there are no more, or until the cost limit is reached."""
    look = watch_failures()
    stopped: CostLimitError | None = None

    async def take_turns() -> None:
        nonlocal stopped
        for example, sample in pairs:
            try:
                record = await work(example, sample)
            except CostLimitError as error:
                stopped = error
                return
            keep(record)
            if stopped:
                return  # but what was on its way, and paid for, has ended and is kept
            look(record)

    workers = [asyncio.ensure_future(take_turns()) for _ in range(threads)]
    try:
        await asyncio.gather(*workers)
        if stopped:
            raise stopped
    finally:
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)


def _mend(path: Path, *, drop_errors: bool) -> None:
    """Cut off a last line that a kill left unfinished; drop failed rollouts to run them again."""
    if not path.exists():
        return
    with write_whole(path) as draft, path.open("rb") as file, draft.open("wb") as copy:
        for line in file:
            if line.endswith(b"\n") and not (drop_errors and _tells_error(line)):
                copy.write(line)


def _tells_error(line: bytes) -> bool:
    """Whether a rollout failed. What is no rollout stays, for `read_rollouts` to name."""
    try:
        return bool(json.loads(line)["error"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return False


def match_description(path: Path, description: dict[str, Any]) -> None:
    """Write the description of some work, or make sure that what the file tells of is the same.

    More samples may be added to a run; other versions of the software are logged.

    Raises:
        ValueError: the file cannot be read, or tells of other work.
    """
    if path.exists():
        try:
            there = dict(json.loads(path.read_text(encoding="utf-8")))
            differing = {
                key for key in {*there, *description} if there.get(key) != description.get(key)
            }
        except (ValueError, TypeError, RecursionError):
            raise ValueError(f"{path} cannot be read: choose another --out") from None
        for key in sorted(differing - {"versions", "samples"})[:1]:
            raise ValueError(
                f"{path.parent} holds another run: its {key} is {there.get(key)!r}, "
                f"not {description.get(key)!r}; choose another --out"
            )
        if "versions" in differing:
            logger.warning("%s was begun with other versions: %s", path.parent, there["versions"])
    write_json(path, description)


def _digest_instructions(program: Solver) -> str:
    """A digest of all that an optimizer may change in the prompts."""
    prompts = {
        name: [predict.signature.dump_state(), [dict(demo) for demo in predict.demos]]
        for name, predict in program.named_predictors()
    }
    text = json.dumps(prompts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _read_versions() -> dict[str, str]:
    return {name: version(name) for name in ("scale-dspy", "dspy", "litellm")}
