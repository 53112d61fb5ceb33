"""Run a program on many problems, several samples each, and never lose a finished one.

Every (problem, sample) pair ends as one line of `rollouts.jsonl`, written as it ends. Running again
does what is missing. Finished model calls of unfinished pairs come from the cache of replies.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict, cast

import dspy
from dspy.utils.exceptions import (
    LMAuthError,
    LMConfigurationError,
    LMError,
    LMUnsupportedModelError,
)
from typing_extensions import Unpack

from scale_dspy.data.registry import GROUPS
from scale_dspy.evaluation.costs import COSTS, Terms, add_cost
from scale_dspy.evaluation.description import describe_run as describe_run
from scale_dspy.evaluation.description import read_versions
from scale_dspy.evaluation.folder import RUN, match_description, write_json
from scale_dspy.evaluation.folder import name_folder as name_folder
from scale_dspy.evaluation.paying import complete_terms, pay
from scale_dspy.evaluation.rollout import (
    ROLLOUTS,
    F,
    Finished,
    Rollout,
    name_error,
    read_lines,
    read_pairs,
)
from scale_dspy.evaluation.rollout import read_rollouts as read_rollouts
from scale_dspy.evaluation.run_status import announce
from scale_dspy.evaluation.summary import Summary, summarise
from scale_dspy.grading.metrics import is_right
from scale_dspy.lm.connect import MeteredLM
from scale_dspy.lm.cost_limit import CostLimitError
from scale_dspy.lm.event_loop import run
from scale_dspy.lm.redact import hide_server
from scale_dspy.lm.tally import Tally
from scale_dspy.lm.usage import track
from scale_dspy.method import Solver
from scale_dspy.utils.files import (
    append_lines,
    check_in_place,
    hold_folder,
    make_folder,
    open_file,
    read_file,
    write_whole,
)
from scale_dspy.utils.records import parse_json, write_record

logger = logging.getLogger(__name__)

Draw = tuple[dspy.Example, int]
"""An example, and which sample of it."""
RolloutEngine = Callable[[Sequence[Draw], Callable[[Rollout], None]], None]
"""Makes the rollout of every draw, and calls the function with each as it ends, on this thread."""

DRAWS = "draws.txt"  # in a run's folder: the name under which its replies are cached
SAMPLES, THREADS = 8, 64
GIVE_UP = 32  # failures in a row, after which the server is taken to be gone
HOPELESS = (LMAuthError, LMConfigurationError, LMUnsupportedModelError)


@dataclass(frozen=True)
class Progress:
    """How far a run is, counted in rollouts; `tokens` are response tokens."""

    total: int
    done: int = 0
    right: int = 0
    errors: int = 0
    tokens: int = 0

    def after(self, record: Finished) -> Progress:
        """The progress once `record` is done too."""
        return Progress(
            total=self.total,
            done=self.done + 1,
            right=self.right + record.right,
            errors=self.errors + (record.error is not None),
            tokens=self.tokens + (record.tokens or 0),
        )


class Effort(TypedDict, total=False):
    """How a run is done; all of it may change when the run goes on.

    Keys:
        samples: rollouts of each problem.
        threads: rollouts at work at once.
        retry_errors: whether rollouts that ended in an error run again; or the kinds of errors,
            named as by `name_error`, for which they do.
        terms: the price of tokens, the number of GPUs, and cost limits; see costs.py. Without a
            price, that of LiteLLM's table is taken.
        engine: where rollouts are made; None for this process. See ray_engine.py.
        report: called after each rollout.
    """

    samples: int
    threads: int
    retry_errors: bool | Collection[str]
    terms: Terms
    engine: RolloutEngine | None
    report: Callable[[Progress], None] | None


def evaluate(
    program: Solver,
    examples: Sequence[dspy.Example],
    lm: MeteredLM,
    out: Path,
    *,
    description: dict[str, Any] | None = None,
    **effort: Unpack[Effort],
) -> Summary:
    """Run `program` on every example `samples` times and write `out`.

    Args:
        program: from a problem to Prediction(answer, steps, usage, replaced).
        examples: as `load` makes them, their ids all different.
        lm: each sample has a rollout id of its own, so eight samples are eight independent draws.
        out: the folder of rollouts.jsonl, run.json and summary.json, made where it is missing.
        description: what run.json says of this run; to resume a run in `out`, it must be the same.
        effort: see `Effort`; SAMPLES and THREADS by default.

    Returns:
        The summary, as it is written to summary.json.

    Raises:
        ValueError: `out` holds another run, is in use by another process, or a file in it is
            damaged.
        RuntimeError: the server is gone, or a cost limit is reached; what is finished is kept.
    """

    async def solve(example: dspy.Example, sample: int) -> Rollout:
        return await solve_once(program, example, sample, lm)

    path = out / ROLLOUTS
    terms = effort["terms"] = complete_terms(effort.get("terms"), lm, out / RUN)
    finish_pairs(Rollout, solve, examples, path, description or {}, effort)
    samples = effort.get("samples", SAMPLES)
    summary = summarise(read_pairs(Rollout, path, examples, samples))
    add_cost(summary, out, terms)
    write_json(out / "summary.json", dict(summary))
    return summary


def finish_pairs(
    kind: type[F],
    work: Callable[[dspy.Example, int], Awaitable[F]],
    examples: Sequence[dspy.Example],
    path: Path,
    description: dict[str, Any],
    effort: Effort,
) -> None:
    """Do `work` for every (example, sample) that has no line in the file yet.

    Args:
        kind: the class of the records.
        work: makes the record of a pair.
        path: the JSON Lines file; run.json and a lock lie beside it.
        description: what run.json says; to resume earlier work, it must be the same.
        effort: an engine does the work instead of `work`.

    Raises:
        ValueError: the folder holds other work, is in use by another process, or a line of the
            file is no such record.
        RuntimeError: the server is gone, and what is finished is kept; or the file was removed.
    """
    samples, terms = effort.get("samples", SAMPLES), effort.get("terms", Terms())
    draws = {
        (str(example.id), sample): example for example in examples for sample in range(samples)
    }
    total = len(draws)
    enter = count_up(total, effort.get("report"))
    with hold_folder(path.parent):
        told = {**description, **terms.describe(), "versions": read_versions()}
        match_description(path.parent / RUN, told)
        _mend(path, effort.get("retry_errors", False))
        for record in read_lines(kind, path):
            if draws.pop((record.id, record.sample), None) is not None:
                enter(record)
        with announce(path.parent, total - len(draws)), append_lines(path) as file:

            def keep(record: Finished) -> None:
                file.write(write_record(record))
                file.flush()
                check_in_place(path, file)
                enter(record)

            pending = [(example, sample) for (_, sample), example in draws.items()]
            if not pending:
                return
            engine = effort.get("engine")
            with pay(path.parent / COSTS, path.stem, terms, elsewhere=engine is not None):
                if engine:
                    engine(pending, keep)
                else:
                    run(_work(work, iter(pending), effort.get("threads", THREADS), keep))


def count_up(total: int, report: Callable[[Progress], None] | None) -> Callable[[Finished], None]:
    """A function that takes each record as it is done and reports how far `total` is reached."""
    progress = Progress(total=total)

    def enter(record: Finished) -> None:
        nonlocal progress
        progress = progress.after(record)
        if report:
            report(progress)

    return enter


def name_draws(out: Path, *, reuse: bool = False) -> str:
    """The name under which the cache keeps the replies of the run in a folder. A run with a name
    draws its own replies. A folder without one, because it was written by an earlier version or is
    to reuse replies, uses replies that any run has drawn.

    Args:
        out: the run's folder; for a new one a name is made up and written there.
        reuse: whether a new folder shares replies instead.
    """
    path = out / DRAWS
    if not path.exists():
        new = not (out / ROLLOUTS).exists()
        make_folder(out)
        with write_whole(path) as draft:
            draft.write_text("" if reuse or not new else secrets.token_hex(8), encoding="ascii")
    return read_file(path).decode(errors="replace").strip()


async def solve_once(program: Solver, example: dspy.Example, sample: int, lm: MeteredLM) -> Rollout:
    """Make one rollout. An error in it is recorded, and the rollout counts as wrong.

    Raises:
        LMError: one that every other rollout would meet as well (key, model, configuration).
        CostLimitError: no request may be sent any more.
    """
    started = time.perf_counter()
    answer, right, steps, replaced, error = None, False, (), (), None
    rollout_lm = lm.copy(rollout_id=sample)
    # A trace would keep the replies of the last 10,000 calls in memory.
    with dspy.context(lm=rollout_lm, disable_history=True, trace=None), track() as ledger:
        try:
            prediction = await program.acall(problem=example.problem)
            answer = None if prediction.answer is None else str(prediction.answer)
            steps, replaced = tuple(prediction.steps), tuple(prediction.replaced)
            right = await asyncio.to_thread(is_right, example, prediction)
        except (*HOPELESS, CostLimitError):
            raise
        except Exception as failure:
            error = hide_server(f"{type(failure).__name__}: {failure}", lm)[:500]
            if not isinstance(failure, LMError):
                logger.exception("rollout %s/%d failed", example.id, sample)
    return Rollout(
        id=str(example.id),
        sample=sample,
        problem=example.problem,
        answer=answer,
        gold=str(example.answer),
        groups={name: str(example[name]) for name in GROUPS if name in example},
        correct=right,
        steps=steps,
        usage={name: Tally(**tally) for name, tally in ledger.usage().items()},
        seconds=round(time.perf_counter() - started, 3),
        error=error,
        replaced=replaced,
        replayed=ledger.replayed,
        unknown=ledger.unknown,
    )


def watch_failures() -> Callable[[Finished], None]:
    """A function that takes each record as it ends, and raises RuntimeError once GIVE_UP records in
    a row have failed."""
    failures = 0

    def look(record: Finished) -> None:
        nonlocal failures
        failures = failures + 1 if record.error else 0
        if failures >= GIVE_UP:
            raise RuntimeError(f"{failures} rollouts in a row failed, the last with {record.error}")

    return look


async def _work(
    work: Callable[[dspy.Example, int], Awaitable[F]],
    draws: Iterator[Draw],
    threads: int,
    keep: Callable[[F], None],
) -> None:
    """Keep `threads` draws at work until there are no more, or until the cost limit is reached."""
    look = watch_failures()
    stopped: CostLimitError | None = None

    async def take_turns() -> None:
        nonlocal stopped
        for example, sample in draws:
            try:
                record = await work(example, sample)
            except CostLimitError as error:
                stopped = error
                return
            keep(record)
            if stopped:
                return  # records that were under way are kept: they are paid for
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


def _mend(path: Path, retry: bool | Collection[str]) -> None:
    """Cut off a last line that a kill left unfinished; drop failed rollouts to run them again.

    Args:
        retry: whether all failed ones run again; or the kinds of errors for which they do.

    Raises:
        ValueError: what is there cannot be read.
    """
    if not path.exists():
        return
    found: set[str] = set()
    try:
        there = open_file(path)
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    with there as file, write_whole(path) as draft, draft.open("wb") as copy:
        for line in file:
            kind = _read_error(line) if retry else None
            found |= {kind} if kind else set()
            again = kind is not None and (retry is True or kind in cast(Collection[str], retry))
            if line.endswith(b"\n") and not again:
                copy.write(line)
    for kind in sorted(set() if isinstance(retry, bool) else set(retry) - found):
        kinds = ", ".join(sorted(found)) or "none"
        logger.warning("%s has no error of the kind %s; the kinds there: %s", path, kind, kinds)


def _read_error(line: bytes) -> str | None:
    """The kind of a rollout's error; None where it has none. A damaged line has none either, so
    that it stays and `read_lines` reports it."""
    try:
        error = parse_json(line)["error"]
        return name_error(error) if error else None
    except (ValueError, KeyError, TypeError, IndexError, AttributeError):
        return None
