"""Read back what `evaluate` wrote: a run's description, and of its rollouts the numbers.

Texts stay in the file, so that a run of any length fits in memory: a run knows the offset of each
rollout's line, and `read_text` fetches one whole.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from scale_dspy.evaluation.costs import Terms, add_cost, read_terms
from scale_dspy.evaluation.folder import RUN, read_description
from scale_dspy.evaluation.rollout import ROLLOUTS, Rollout
from scale_dspy.evaluation.summary import Summary, summarise
from scale_dspy.utils.files import open_file
from scale_dspy.utils.records import Share, WrongFieldError, parse_record, read_record


@dataclass(frozen=True)
class RunNumbers:
    """The numbers in a run's description; None for a missing or wrong one, as a report can do
    without them."""

    threshold: Share | None = None
    split: Share | None = None
    problems: int | None = None
    samples: int | None = None


@dataclass(frozen=True)
class Run:
    """A run in numbers.

    Attributes:
        name: tells it from the other runs of the report.
        folder: where it lies.
        description: run.json.
        numbers: those in it.
        rollouts: without their texts.
        offsets: where in the file a rollout's line begins, by problem and sample.
        summary: of `rollouts`.
        notes: what a reader should know of how complete it is.
    """

    name: str
    folder: Path
    description: Mapping[str, Any]
    numbers: RunNumbers
    rollouts: Sequence[Rollout]
    offsets: Mapping[tuple[str, int], int]
    summary: Summary
    notes: tuple[str, ...]

    @property
    def digest(self) -> str | None:
        """What identifies its data: runs with equal digests had the same problems."""
        digest = self.description.get("digest")
        return None if digest is None else str(digest)

    @property
    def cap(self) -> int | None:
        """The most response tokens of one System 2 call; None for a method without System 2."""
        return read_caps(self.description).get(2)

    @property
    def threshold(self) -> float | None:
        """Its tau; None for a method that has none."""
        return self.numbers.threshold

    @property
    def split(self) -> float | None:
        """Up to which difficulty its problems were solved whole; None for a method without it."""
        return self.numbers.split


def read_caps(description: Mapping[str, Any]) -> dict[int, int]:
    """The max_tokens of either system's solutions, from a run's description; {} where unknown."""
    requests = description.get("requests")
    caps: dict[int, int] = {}
    for name, request in (requests if isinstance(requests, dict) else {}).items():
        most = request.get("max_tokens") if isinstance(request, dict) else None
        if isinstance(most, int) and not isinstance(most, bool):
            for system in (1, 2):
                if name == f"solve.system_{system}":
                    caps[system] = most
    return caps


def read_run(folder: Path, costs: Terms | None = None) -> Run:
    """Read one folder that `evaluate` wrote.

    Args:
        costs: a price and a number of GPUs that replace those in run.json.

    Raises:
        ValueError: a file is missing or unreadable, or there is no rollout in it.
    """
    description = read_description(folder / RUN)
    numbers = _read_numbers(description)
    path = folder / ROLLOUTS
    try:
        with open_file(path) as file:
            found, torn = _read_rollouts(path, file)
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    rollouts, beyond = _drop_samples([each.rollout for each in found], numbers.samples)
    if not rollouts:
        raise ValueError(f"{folder} holds no rollouts yet: nothing to report")
    try:
        summary = summarise(rollouts)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    add_cost(summary, folder, _settle_costs(costs, description))
    offsets = {(each.rollout.id, each.rollout.sample): each.offset for each in found}
    notes = tuple(_note(numbers, summary, torn, beyond))
    return Run("", folder, description, numbers, rollouts, offsets, summary, notes)


def _settle_costs(costs: Terms | None, description: Mapping[str, Any]) -> Terms:
    noted, given = read_terms(description), costs or Terms()
    return Terms(given.price or noted.price, given.gpus or noted.gpus)


def _read_numbers(description: Mapping[str, Any]) -> RunNumbers:
    numbers = RunNumbers()
    for name in asdict(numbers):
        with suppress(WrongFieldError):
            value = {name: description.get(name)}
            numbers = replace(numbers, **{name: getattr(read_record(RunNumbers, value), name)})
    return numbers


def read_text(run: Run, file: BinaryIO, known: Rollout) -> Rollout:
    """Fetch one rollout of a run whole.

    Args:
        run: whose it is.
        file: the run's rollouts, open.
        known: the rollout without its texts.

    Raises:
        ValueError: the file is not the one that was read before.
    """
    path = run.folder / ROLLOUTS
    file.seek(run.offsets[known.id, known.sample])
    try:
        whole = parse_record(Rollout, file.readline(), str(path), "rollout")
    except ValueError:
        whole = None
    if whole is None or (whole.id, whole.sample) != (known.id, known.sample):
        raise ValueError(f"{path} changed while it was read: try again")
    return whole


class _Found(NamedTuple):
    """A rollout in numbers, and the offset of its line."""

    rollout: Rollout
    offset: int


def _read_rollouts(path: Path, file: BinaryIO) -> tuple[list[_Found], bool]:
    """All rollouts, and whether a last line was left out that a kill tore off."""
    found: list[_Found] = []
    offset = 0
    for number, line in enumerate(file, 1):
        try:
            rollout = parse_record(Rollout, line, f"{path}:{number}", "rollout")
        except ValueError:
            if not line.endswith(b"\n"):
                return found, True
            raise
        found.append(_Found(rollout.drop_texts(), offset))
        offset += len(line)
    return found, False


def _drop_samples(rollouts: list[Rollout], samples: int | None) -> tuple[list[Rollout], int]:
    """Leave out samples beyond those that the run was last asked for, as its summary does."""
    if samples is None:
        return rollouts, 0
    kept = [rollout for rollout in rollouts if rollout.sample < samples]
    return kept, len(rollouts) - len(kept)


def _note(numbers: RunNumbers, summary: Summary, torn: bool, beyond: int) -> Iterator[str]:
    if numbers.problems is not None and numbers.samples is not None:
        wanted = numbers.problems * numbers.samples
        if summary["rollouts"] < wanted:
            yield f"not finished: {summary['rollouts']:,} of {wanted:,} rollouts"
    if torn:
        yield "the last line of rollouts.jsonl is torn and was left out"
    if beyond:
        yield f"{beyond:,} rollouts of samples beyond the {numbers.samples} asked for were left out"
