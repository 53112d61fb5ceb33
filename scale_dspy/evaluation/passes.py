"""Recorded passes: several solutions of each problem, drawn once, then graded and measured as they
are read, so that any way of choosing among them can be replayed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scale_dspy.grading.answers import accepts
from scale_dspy.stages.estimate import measure_draft
from scale_dspy.stages.votes import read_result

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Pass:
    """One solution.

    Attributes:
        result: as text; None where none can be read.
        right: whether the result is right.
        tokens: response tokens.
        features: those that need no other pass, see `estimate.FEATURES`.
    """

    result: str | None
    right: bool
    tokens: int
    features: dict[str, float]


@dataclass(frozen=True)
class ProblemPasses:
    """A problem's passes by chain of thought, and System 1's drafts of it, maybe none.

    Attributes:
        id: of the problem, with its set's name before it.
        group: the name of its set.
    """

    id: str
    group: str
    passes: tuple[Pass, ...]
    drafts: tuple[Pass, ...]


def read_passes(
    paths: Sequence[Path], cap: int | None = None, cap_1: int | None = None
) -> dict[str, list[ProblemPasses]]:
    """Recorded passes by set, in the order of the files; a repeated problem is skipped.

    A line is an object with `id`, `gold` and `passes`, each of these an object with text, tokens,
    finish_reason and maybe logprobs; maybe also with `set`, and with `system_1` like `passes`.

    Args:
        cap: the most tokens a pass could have; by default those of the longest pass of the set.
        cap_1: the same for System 1's drafts.

    Raises:
        ValueError: a line is no such object; there are no lines; or problems of a set have
            different numbers of passes or of drafts.
    """
    sets: dict[str, dict[str, tuple[str, Record]]] = {}
    for place, record in _read_lines(paths):
        try:
            group, name = str(record.get("set", "")), str(record["id"])
            sets.setdefault(group, {}).setdefault(name, (place, record))
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{place} holds no recorded passes: {error!r}") from None
    if not sets:
        raise ValueError(f"{', '.join(map(str, paths))}: there are no recorded passes")
    return {
        group: _read_set(group, list(told.values()), cap, cap_1) for group, told in sets.items()
    }


def _read_lines(paths: Sequence[Path]) -> list[tuple[str, Any]]:
    """(file and line number, the JSON value) of every line that is not empty."""
    told = []
    for path in paths:
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if line.strip():
                try:
                    told.append((f"{path}:{number}", json.loads(line)))
                except ValueError as error:
                    raise ValueError(f"{path}:{number} holds no recorded passes: {error}") from None
    return told


def _read_set(
    group: str, told: Sequence[tuple[str, Record]], cap: int | None, cap_1: int | None
) -> list[ProblemPasses]:
    drawn = []
    try:
        place = told[0][0]
        caps = cap or _find_cap(told, "passes"), cap_1 or _find_cap(told, "system_1")
        for place, record in told:  # noqa: B007 - the message names it
            drawn.append(_read_record(record, group, *caps))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{place} holds no recorded passes: {error!r}") from None
    if len({(len(each.passes), len(each.drafts)) for each in drawn}) != 1:
        raise ValueError(
            f"problems of the set {group!r} have different numbers of passes or of drafts: give "
            "each the same"
        )
    return drawn


def _read_record(record: Record, group: str, cap: int | None, cap_1: int | None) -> ProblemPasses:
    known: dict[str | None, bool] = {None: False}

    def grade(result: str | None) -> bool:
        if result not in known:
            known[result] = accepts(result, [str(record["gold"])])
        return known[result]

    def read(one: Record, most: int | None) -> Pass:
        cut_off, text = one["finish_reason"] == "length", one["text"] or ""
        result = read_result(text, cut_off)
        features = measure_draft(
            int(one["tokens"]),
            most,
            cut_off=cut_off,
            readable=result is not None,
            logprobs=one.get("logprobs"),
        )
        return Pass(result, grade(result), int(one["tokens"]), features)

    passes = tuple(read(one, cap) for one in record["passes"])
    if not passes:
        raise ValueError("it has no passes")
    drafts = tuple(read(one, cap_1) for one in record.get("system_1") or ())
    return ProblemPasses(f"{group}/{record['id']}", group, passes, drafts)


def _find_cap(told: Sequence[tuple[str, Record]], key: str) -> int | None:
    lengths = [int(one["tokens"]) for _, record in told for one in record.get(key) or ()]
    return max(lengths, default=None)
