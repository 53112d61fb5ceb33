"""Read back what `frontier` wrote: accuracy and tokens at every threshold, and the choices."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scale_dspy.evaluation.folder import RUN, read_description
from scale_dspy.utils.files import read_file
from scale_dspy.utils.records import Share, parse_json, read_record

FRONTIER, WALKS = "frontier.json", "walks.jsonl"  # importing the sweep itself would load DSPy


@dataclass(frozen=True)
class CurvePoint:
    """Outcomes at a threshold: accuracy, and mean response tokens a problem."""

    threshold: Share
    accuracy: Share
    tokens: float
    split: float = 0.0


@dataclass(frozen=True)
class Ends:
    """An estimate and its interval; an end that is not known is None."""

    estimate: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Chosen:
    """A point that `frontier` chose, as its file has it."""

    threshold: Share
    split: float
    accuracy: Ends
    tokens: Ends
    held_out: Share | None = None


@dataclass(frozen=True)
class Signal:
    """How well one signal, measured on drafts, detects those that are wrong."""

    auroc: Share | None
    auroc_interval: tuple[float, ...] | None
    drafts: int
    share_wrong: Share


@dataclass(frozen=True)
class FrontierFile:
    """The part of frontier.json that a report shows."""

    problems: int
    samples: int
    points: tuple[CurvePoint, ...]
    curve: tuple[CurvePoint, ...]
    choices: dict[str, Chosen]
    signals: dict[str, Signal] = field(default_factory=dict)


@dataclass(frozen=True)
class Sweep:
    """A folder that `frontier` wrote.

    Attributes:
        name: of the folder.
        folder: where it lies.
        description: its run.json; empty where there is none.
        found: its frontier.json.
    """

    name: str
    folder: Path
    description: Mapping[str, Any]
    found: FrontierFile

    @property
    def digest(self) -> str | None:
        """What identifies its data, as for a run."""
        digest = self.description.get("digest")
        return None if digest is None else str(digest)


def is_sweep(folder: Path) -> bool:
    """Whether the folder is one of `frontier --out`, finished or not."""
    return (folder / FRONTIER).is_file() or (folder / WALKS).is_file()


def read_sweep(folder: Path) -> Sweep:
    """Read one folder that `frontier` wrote.

    Raises:
        ValueError: the curve is missing or unreadable.
    """
    path = folder / FRONTIER
    if not path.is_file():
        raise ValueError(f"{path} is missing: run `frontier` on the folder again to finish it")
    try:
        found = read_record(FrontierFile, parse_json(read_file(path)))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} is no frontier: {error}") from None
    if not found.curve:
        raise ValueError(f"{path} is no frontier: its curve has no point")
    described = read_description(folder / RUN) if (folder / RUN).is_file() else {}
    return Sweep(folder.resolve().name, folder, described, found)
