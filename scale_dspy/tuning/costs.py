"""What the stages of a compile cost, kept in a file that survives a kill."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from scale_dspy.evaluation.folder import write_json
from scale_dspy.lm.cost_limit import limit_cost
from scale_dspy.lm.tally import Tally
from scale_dspy.lm.usage import Ledger
from scale_dspy.utils.files import read_file
from scale_dspy.utils.records import WrongFieldError, parse_json, read_record

NOTED = 1.0  # seconds between two notes of what a stage has cost so far
COSTS = "costs.json"


@contextmanager
def pay(path: Path, stage: str, limit: int | None, keep: int = 0) -> Iterator[Ledger]:
    """Enter what the block really sends under `stage`, on top of what earlier sessions did.

    Args:
        limit: response tokens for all stages together.
        keep: of these, left for later stages.
    """
    costs = read_costs(path)
    left = None if limit is None else max(0, limit - sum_costs(costs).completion_tokens - keep)
    started = time.perf_counter()
    before = costs.get(stage, Tally())
    ended = threading.Event()

    def note() -> None:
        seconds = time.perf_counter() - started if ledger.cost.calls else 0.0
        spent = replace(ledger.cost, seconds=seconds)
        told = {**costs, stage: before + spent}
        write_json(path, {name: asdict(tally) for name, tally in told.items()})

    def note_until_ended() -> None:  # a process that is killed has told all but its last second
        while not ended.wait(NOTED):
            with suppress(OSError):
                note()

    with limit_cost(left) as ledger:
        noter = threading.Thread(target=note_until_ended, name="compile-costs", daemon=True)
        noter.start()
        try:
            yield ledger
        finally:
            ended.set()
            noter.join()
            note()


def read_costs(path: Path) -> dict[str, Tally]:
    """What each stage has cost, by the stage's name; empty where there is no file.

    Raises:
        ValueError: the file cannot be read.
    """
    try:
        stages = parse_json(read_file(path))
        if not isinstance(stages, dict):
            raise ValueError("it holds no object")
        return {name: read_stage(name, tally) for name, tally in stages.items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read ({error}): choose another --out") from None


def read_stage(name: str, value: Any) -> Tally:
    """What one stage has cost; ValueError, naming it, where the value is no Tally."""
    try:
        return read_record(Tally, value)
    except WrongFieldError as error:
        raise error.inside(name) from None


def sum_costs(costs: dict[str, Tally]) -> Tally:
    return sum(costs.values(), Tally())
