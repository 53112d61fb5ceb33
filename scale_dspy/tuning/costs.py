"""What the stages of a compile cost, kept in a file that survives a kill."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path

from scale_dspy.evaluation.runner import write_json
from scale_dspy.lm.cost_limit import limit_cost
from scale_dspy.lm.usage import Ledger, Usage

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
    before = costs.get(stage, Usage())
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


def read_costs(path: Path) -> dict[str, Usage]:
    try:
        stages = json.loads(path.read_text(encoding="utf-8"))
        return {name: Usage(**tally) for name, tally in stages.items()}
    except FileNotFoundError:
        return {}
    except (ValueError, TypeError, AttributeError):
        raise ValueError(f"{path} cannot be read: choose another --out") from None


def sum_costs(costs: dict[str, Usage]) -> Usage:
    return sum(costs.values(), Usage())
