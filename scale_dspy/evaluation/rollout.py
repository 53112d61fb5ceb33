"""Rollout: the record of one sample of a program on one problem, a line of rollouts.jsonl."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

from scale_dspy.grading.flags import CUT_OFF, END, hit_limit, stands_unread
from scale_dspy.lm.tally import Tally
from scale_dspy.step import Step
from scale_dspy.utils.files import open_file
from scale_dspy.utils.records import parse_record

if TYPE_CHECKING:
    import dspy

ROLLOUTS = "rollouts.jsonl"  # in a run's folder, one rollout per line


class Finished(Protocol):
    """The record of a finished (problem, sample) pair: a rollout, or a walk of a sweep."""

    @property
    def id(self) -> str:
        """The id of the problem."""

    @property
    def sample(self) -> int:
        """Which sample of the problem, from 0."""

    @property
    def error(self) -> str | None:
        """The error that ended it early, or None."""

    @property
    def right(self) -> bool:
        """Whether it counts as right; one that an error ended never does."""

    @property
    def tokens(self) -> int | None:
        """Response tokens; None where unknown."""


F = TypeVar("F", bound=Finished)


@dataclass(frozen=True, kw_only=True)
class Rollout:
    """One sample of a program on one problem.

    Attributes:
        id: of the problem.
        sample: which sample of the problem, from 0.
        answer: as the program gave it; None where there is none.
        correct: whether the answer is right.
        steps: the solved sub-problems in order.
        usage: the cost by stage; empty where it is unknown.
        seconds: wall-clock; None where unknown.
        error: what ended it early; None where nothing did.
        replaced: in words, every model output that had to be replaced.
        groups: properties of the problem that the set gives, by the names of `GROUPS`.
        replayed: calls that the cache answered.
        unknown: replies whose tokens the server did not report.
    """

    id: str
    sample: int
    problem: str = ""
    answer: str | None
    gold: str = ""
    correct: bool
    steps: tuple[Step, ...]
    usage: dict[str, Tally]
    seconds: float | None
    error: str | None
    replaced: tuple[str, ...] = ()
    groups: dict[str, str] = field(default_factory=dict)
    replayed: int = 0
    unknown: int = 0

    @property
    def right(self) -> bool:
        """Whether it counts as right; one that an error ended never does."""
        return self.correct and self.error is None

    @property
    def cost(self) -> Tally | None:
        """The cost of all stages; None where it is unknown."""
        return sum_usage(self.usage) if self.usage else None

    @property
    def tokens(self) -> int | None:
        """Response tokens over all stages; None where the cost is unknown."""
        return self.cost.completion_tokens if self.cost else None

    @property
    def calls(self) -> int | None:
        """Model calls; None where the cost is unknown."""
        return self.cost.calls if self.cost else None

    @property
    def hard(self) -> int:
        """Sub-problems that System 2 solved."""
        return sum(step.system == 2 for step in self.steps)

    @property
    def cut_off(self) -> bool:
        """Whether the token limit ended one of its replies."""
        return hit_limit(self.replaced)

    @property
    def unread(self) -> bool:
        """Whether it counts as wrong although the gold occurs at the end of its last step, where it
        was not read as the answer."""
        if self.correct or self.error is not None or not self.steps or not self.gold:
            return False
        if self.answer == self.gold:
            return False
        return stands_unread(self.steps[-1].solution, [self.gold], right=self.right)

    def drop_texts(self) -> Rollout:
        """The rollout without its texts, so that the rollouts of a long run fit in memory.

        Only what `unread` and `cut_off` need of the texts stays.
        """
        unread = self.unread
        return replace(
            self,
            problem="",
            gold=self.gold if unread else "",
            error=None if self.error is None else "error",
            usage={"all": sum_usage(self.usage)} if self.usage else {},
            steps=tuple(
                replace(
                    step,
                    subproblem="",
                    solution=step.solution[-END:] if unread else "",
                    reasoning="",
                )
                for step in self.steps
            ),
            replaced=(CUT_OFF,) if self.cut_off else (),
        )


def sum_usage(usage: dict[str, Tally]) -> Tally:
    """The cost of all stages together."""
    return sum(usage.values(), Tally())


@dataclass(frozen=True)
class Glance:
    """The part of a rollout or a walk that `status` reads, also while a run is writing others.

    Attributes:
        correct: of a rollout; None for a walk.
        usage: the cost by stage; empty where it is unknown.
        error: what ended it early; None where nothing did.
    """

    id: str
    sample: int
    correct: bool | None = None
    usage: dict[str, Tally] = field(default_factory=dict)
    error: str | None = None

    @property
    def right(self) -> bool:
        """Whether it counts as right; one that an error ended never does."""
        return bool(self.correct) and self.error is None

    @property
    def tokens(self) -> int | None:
        """Response tokens over all stages; None where unknown."""
        return sum_usage(self.usage).completion_tokens if self.usage else None


def name_error(error: str) -> str:
    """The kind of an error, by which errors are counted and run again.

    >>> name_error("LMTimeoutError: no whole reply within 3600 seconds")
    'LMTimeoutError'
    """
    return error.partition(":")[0]


def read_lines(kind: type[F], path: Path, *, lenient: bool = False) -> Iterator[F]:
    """The records of a JSON Lines file, one at a time; none where there is no file.

    Args:
        lenient: skip lines that are no such record: the last one may be only half written.

    Raises:
        ValueError: the file cannot be read, or a line is no such record; the message says which
            and why.
    """
    if lenient and not path.is_file():
        return
    try:
        file = open_file(path)
    except FileNotFoundError:
        return
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    with file:
        for number, line in enumerate(file, 1):
            try:
                yield parse_record(kind, line, f"{path}:{number}", kind.__name__.lower())
            except ValueError:
                if not lenient:
                    raise


def read_rollouts(path: Path) -> Iterator[Rollout]:
    """The rollouts of a file; see `read_lines`."""
    return read_lines(Rollout, path)


def read_pairs(
    kind: type[F], path: Path, examples: Sequence[dspy.Example], samples: int
) -> Iterator[F]:
    """The records of a file that belong to these examples, of each example the first `samples`."""
    wanted = {str(example.id) for example in examples}
    for record in read_lines(kind, path):
        if record.id in wanted and record.sample < samples:
            yield record
