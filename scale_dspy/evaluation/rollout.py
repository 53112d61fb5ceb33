"""Rollout: the record of one sample of a program on one problem, a line of rollouts.jsonl."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

from scale_dspy.grading.flags import CUT_OFF, hit_limit, stands_unread
from scale_dspy.lm.tally import Tally
from scale_dspy.step import Step
from scale_dspy.utils.files import open_file
from scale_dspy.utils.records import parse_record

if TYPE_CHECKING:
    import dspy

ROLLOUTS = "rollouts.jsonl"  # of a run's folder, a rollout a line


class Finished(Protocol):
    """A (problem, sample) pair that is done: a rollout, or a walk of a threshold sweep."""

    @property
    def id(self) -> str:
        """The problem's."""

    @property
    def sample(self) -> int:
        """Which sample of the problem, from 0."""

    @property
    def error(self) -> str | None:
        """What ended it early; None where nothing did."""

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
        id: the problem's.
        sample: which sample of the problem, from 0.
        answer: as the program gave it; None where there is none.
        correct: whether the answer is right.
        steps: the solved sub-problems in order.
        usage: the cost by stage; empty where it is unknown.
        seconds: wall-clock; None where unknown.
        error: what ended it early; None where nothing did.
        replaced: in words, every model output that had to be replaced.
        groups: what the set tells of the problem, by the names of `GROUPS`.
        replayed: calls that the cache answered.
        unknown: replies whose tokens the server did not tell.
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
    def tokens(self) -> int | None:
        """Response tokens over all stages; None where the cost is unknown."""
        return sum_usage(self.usage).completion_tokens if self.usage else None

    @property
    def calls(self) -> int | None:
        """Model calls; None where the cost is unknown."""
        return sum_usage(self.usage).calls if self.usage else None

    @property
    def hard(self) -> int:
        """Sub-problems that System 2 solved."""
        return sum(step.system == 2 for step in self.steps)

    @property
    def unread(self) -> bool:
        """Whether it is wrong though its gold stands at the end of its last step."""
        if self.correct or self.error is not None or not self.steps or not self.gold:
            return False
        return stands_unread(self.steps[-1].solution, [self.gold], right=self.right)

    def drop_texts(self) -> Rollout:
        """The same in numbers: what a run of any length may keep in memory.

        Of the texts as much stays as `unread` and `flags.hit_limit` are told by.
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
                    solution=f"\\boxed{{{self.gold}}}" if unread else "",
                    reasoning="",
                )
                for step in self.steps
            ),
            replaced=(CUT_OFF,) if hit_limit(self.replaced) else (),
        )


def sum_usage(usage: dict[str, Tally]) -> Tally:
    """The cost of all stages together."""
    return sum(usage.values(), Tally())


def read_lines(kind: type[F], path: Path) -> Iterator[F]:
    """The records of a JSON Lines file, one at a time; none where there is no file.

    Raises:
        ValueError: the file cannot be read, or a line is no such record; the message says which
            and why.
    """
    try:
        file = open_file(path)
    except FileNotFoundError:
        return
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    with file:
        for number, line in enumerate(file, 1):
            yield parse_record(kind, line, f"{path}:{number}", kind.__name__.lower())


def read_rollouts(path: Path) -> Iterator[Rollout]:
    """The rollouts of a file; see `read_lines`."""
    return read_lines(Rollout, path)


def read_pairs(
    kind: type[F], path: Path, examples: Sequence[dspy.Example], samples: int
) -> Iterator[F]:
    """Of a file's records, those of these examples, and of each the first `samples`."""
    wanted = {str(example.id) for example in examples}
    for record in read_lines(kind, path):
        if record.id in wanted and record.sample < samples:
            yield record
