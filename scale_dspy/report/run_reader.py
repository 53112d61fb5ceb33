"""Read back what `evaluate` wrote: a run's description, and of its rollouts the numbers.

Texts stay in the file, so that a run of any length fits in memory: a record keeps the `offset` of
its line, and `read_texts` fetches one rollout whole.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from scale_dspy.evaluation.summary import ROLLOUTS, Summary, summarise
from scale_dspy.grading.flags import flag_rollout

Record = dict[str, Any]
"""A rollout without texts: id, sample, answer, correct, error, seconds, usage, steps, offset."""


@dataclass(frozen=True)
class Run:
    """A run in numbers.

    Attributes:
        name: tells it from the other runs of the report.
        folder: where it lies.
        description: run.json.
        records: its rollouts.
        summary: of `records`.
        notes: what a reader should know of how complete it is.
    """

    name: str
    folder: Path
    description: Mapping[str, Any]
    records: Sequence[Record]
    summary: Summary
    notes: tuple[str, ...]

    @property
    def digest(self) -> str | None:
        """What identifies its data: runs with equal digests had the same problems."""
        digest = self.description.get("digest")
        return None if digest is None else str(digest)

    @property
    def threshold(self) -> float | None:
        """Its tau; None for a method that has none."""
        return self._read_number("threshold")

    @property
    def split(self) -> float | None:
        """Up to which difficulty its problems were solved whole; None for a method without it."""
        return self._read_number("split")

    def _read_number(self, key: str) -> float | None:
        value = self.description.get(key)
        return value if isinstance(value, (int, float)) else None


def read_run(folder: Path) -> Run:
    """Read one folder that `evaluate` wrote.

    Raises:
        ValueError: a file is missing or unreadable, or there is no rollout in it.
    """
    description = _read_description(folder / "run.json")
    path = folder / ROLLOUTS
    try:
        with path.open("rb") as file:
            records, torn = _read_records(path, file)
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    records, beyond = _drop_samples(records, description.get("samples"))
    if not records:
        raise ValueError(f"{folder} holds no rollouts yet: nothing to report")
    try:
        summary = summarise(records)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    notes = tuple(_note(description, summary, torn, beyond))
    return Run("", folder, description, records, summary, notes)


def read_texts(run: Run, records: Iterable[Record]) -> Iterator[tuple[Record, dict[str, Any]]]:
    """Fetch rollouts whole, one at a time, each with its record.

    Raises:
        ValueError: the file is not the one that was read before.
    """
    path = run.folder / ROLLOUTS
    with path.open("rb") as file:
        for record in records:
            file.seek(record["offset"])
            try:
                rollout = json.loads(file.readline())
                same = (str(rollout["id"]), rollout["sample"]) == (record["id"], record["sample"])
            except (ValueError, KeyError, TypeError, RecursionError):
                same = False
            if not same:
                raise ValueError(f"{path} changed while it was read: try again")
            yield record, rollout


def _read_description(path: Path) -> dict[str, Any]:
    try:
        read = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{path} is missing: give folders of `evaluate --out`") from None
    except (OSError, ValueError, RecursionError):
        raise ValueError(f"{path} cannot be read as JSON") from None
    if not isinstance(read, dict):
        raise ValueError(f"{path} is not the description of a run")
    return read


def _read_records(path: Path, file: BinaryIO) -> tuple[list[Record], bool]:
    """All records, and whether a last line was left out that a kill tore off."""
    records, offset = [], 0
    for number, line in enumerate(file, 1):
        try:
            records.append(_trim(json.loads(line), offset))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            if not line.endswith(b"\n"):
                return records, True
            raise ValueError(f"{path}:{number} is no rollout: {line[:60]!r}") from None
        offset += len(line)
    return records, False


def _trim(rollout: dict[str, Any], offset: int) -> Record:
    stages = (rollout["usage"] or {}).values()
    spent = {
        key: sum(int(stage[key]) for stage in stages) for key in ("completion_tokens", "calls")
    }
    seconds, answer = rollout["seconds"], rollout["answer"]
    return {
        "id": str(rollout["id"]),
        "sample": int(rollout["sample"]),
        "answer": None if answer is None else str(answer),
        "correct": bool(rollout["correct"]) and rollout["error"] is None,
        "error": None if rollout["error"] is None else "error",
        "seconds": None if seconds is None else float(seconds),
        "usage": {"all": spent} if stages else {},
        "steps": [
            {"difficulty": _read_difficulty(step["difficulty"]), "system": int(step["system"])}
            for step in rollout["steps"] or ()
        ],
        "flags": flag_rollout(rollout),
        "offset": offset,
    }


def _read_difficulty(value: Any) -> float | None:
    return None if value is None or not 0 <= float(value) <= 1 else float(value)


def _drop_samples(records: list[Record], samples: Any) -> tuple[list[Record], int]:
    """Leave out samples beyond those that the run was last asked for, as its summary does."""
    if not isinstance(samples, int):
        return records, 0
    kept = [record for record in records if record["sample"] < samples]
    return kept, len(records) - len(kept)


def _note(
    description: Mapping[str, Any], summary: Summary, torn: bool, beyond: int
) -> Iterator[str]:
    problems, samples = description.get("problems"), description.get("samples")
    if isinstance(problems, int) and isinstance(samples, int):
        wanted = problems * samples
        if summary["rollouts"] < wanted:
            yield f"not finished: {summary['rollouts']:,} of {wanted:,} rollouts"
    if torn:
        yield "the last line of rollouts.jsonl is torn and was left out"
    if beyond:
        yield f"{beyond:,} rollouts of samples beyond the {samples} asked for were left out"
