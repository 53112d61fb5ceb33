"""Read and grade the answers of a finished run anew, with the current grader; no model is asked.

If the method read its answer from the last step's text, it is read from there again. It is compared
with the gold answers of the set if that can be loaded without a network, else with those stored in
the rollouts. The verdicts of the earlier grader are kept in a file of their own.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from scale_dspy.data.load import DataError, digest, load_local
from scale_dspy.evaluation.costs import add_cost, read_terms
from scale_dspy.evaluation.folder import RUN, read_description, read_graders, write_json
from scale_dspy.evaluation.rollout import ROLLOUTS, Rollout, read_rollouts
from scale_dspy.evaluation.summary import Summary, summarise
from scale_dspy.grading.answers import GRADER, accepts, find_answer, read_integer
from scale_dspy.utils.files import hold_folder, read_file, write_whole

VOTING = frozenset(["majority"])  # their answer comes from several texts, of which one is stored

Record = dict[str, Any]
Golds = tuple[Sequence[str], Literal["integer", "math"]]


@dataclass(frozen=True)
class Change:
    """What became of one rollout: its answer and verdict before and after."""

    id: str
    sample: int
    gold: str
    old: str | None
    was: bool
    new: str | None
    correct: bool


@dataclass(frozen=True)
class Regraded:
    """What regrading changed in a run.

    Attributes:
        before: version of the grader that graded it.
        after: version of the current grader.
        changes: rollouts whose answer or verdict has changed.
        kept: the file with the earlier verdicts; None if nothing changed.
        notes: what a reader should know about how it was done.
    """

    folder: str
    before: str
    after: str
    rollouts: int
    accuracy_before: float
    accuracy: float
    changes: tuple[Change, ...]
    kept: str | None
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return asdict(self)


def warn_of_graders(descriptions: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """A note where runs, by name, were not all graded by one version; none where they were."""
    graders = {name: ", ".join(read_graders(each)) for name, each in descriptions.items()}
    if len(set(graders.values())) < 2 and not any("," in each for each in graders.values()):
        return []
    told = "; ".join(f"{name}: {grader}" for name, grader in graders.items())
    return [f"graded by different versions ({told}): run `scale-dspy regrade` on them first"]


def regrade_run(folder: Path) -> Regraded:
    """Grade a run anew and rewrite its rollouts.jsonl, summary.json and run.json.

    Doing it twice changes nothing: the file of old verdicts is written once a version.

    Raises:
        ValueError: the folder holds no run, or another process works in it.
    """
    path = folder / ROLLOUTS
    if not path.exists():
        raise ValueError(f"{folder} holds no {ROLLOUTS}: give folders of `evaluate --out`")
    with hold_folder(folder):
        description = read_description(folder / RUN)
        old = _summarise(path, description)
        records = _read_records(path)
        golds, notes = _find_golds(description, records)
        graded = [_grade(record, golds[str(record["id"])], description) for record in records]
        changes = tuple(_list_changes(records, graded))
        before, after = ", ".join(read_graders(description)), str(GRADER)
        kept = None
        if changes or before != after:
            kept = folder / f"verdicts.grader{before.replace(', ', '-')}.jsonl"
            if not kept.exists():
                _write_lines(kept, [_keep_verdict(record) for record in records])
            _write_lines(path, graded)
            versions = {**(description.get("versions") or {}), "grader": after}
            write_json(folder / RUN, {**description, "versions": versions})
        summary = _summarise(path, description)
        add_cost(summary, folder, read_terms(description))
        write_json(folder / "summary.json", dict(summary))
        return Regraded(
            folder=str(folder),
            before=before,
            after=after,
            rollouts=summary["rollouts"],
            accuracy_before=old["accuracy"],
            accuracy=summary["accuracy"],
            changes=changes,
            kept=str(kept) if kept else None,
            notes=tuple(notes),
        )


def _grade(record: Record, golds: Golds, description: Mapping[str, Any]) -> Record:
    answer = record["answer"]
    steps = record.get("steps") or ()
    if record["error"] is not None:
        return record
    if steps and description.get("method") not in VOTING:
        last = steps[-1]
        text = last.get("solution") or (
            last.get("reasoning") if description.get("method") == "cot" else ""
        )
        answer = find_answer(text) if text else answer
    accepted, kind = golds
    return {**record, "answer": answer, "correct": accepts(answer, accepted, kind=kind)}


def _find_golds(
    description: Mapping[str, Any], records: Sequence[Record]
) -> tuple[dict[str, Golds], list[str]]:
    """The accepted answers by problem, and a note where only the rollouts' own are known."""
    name = description.get("data")
    try:
        examples = load_local(name) if isinstance(name, str) else None
    except DataError:
        examples = None
    count = description.get("problems")
    chosen = examples[:count] if examples and isinstance(count, int) else examples
    if chosen and digest(chosen) == description.get("digest"):
        return {each.id: (each.answers, each.kind) for each in chosen}, []
    own = {str(record["id"]): str(record.get("gold") or "") for record in records}
    kind: Literal["integer", "math"] = (
        "integer" if all(read_integer(gold) is not None for gold in own.values()) else "math"
    )
    note = (
        f"the set {name!r} cannot be loaded here, so answers are compared with the gold in each "
        "rollout; if several answers are accepted, that is only the first"
    )
    return {id_: ([gold], kind) for id_, gold in own.items()}, [note]


def _list_changes(before: Sequence[Record], after: Sequence[Record]) -> Iterator[Change]:
    for old, new in zip(before, after, strict=True):
        if (old["answer"], bool(old["correct"])) != (new["answer"], bool(new["correct"])):
            yield Change(
                id=str(old["id"]),
                sample=int(old["sample"]),
                gold=str(old.get("gold")),
                old=old["answer"],
                was=bool(old["correct"]),
                new=new["answer"],
                correct=bool(new["correct"]),
            )


def _keep_verdict(record: Record) -> Record:
    return {key: record[key] for key in ("id", "sample", "answer", "correct")}


def _summarise(path: Path, description: Mapping[str, Any]) -> Summary:
    """Summarise the samples that the run was last asked for, as `evaluate` does."""
    samples = description.get("samples")
    most = samples if isinstance(samples, int) else math.inf
    return summarise(_read_whole(path, most))


def _read_whole(path: Path, samples: float) -> Iterator[Rollout]:
    return (rollout for rollout in read_rollouts(path) if rollout.sample < samples)


def _read_records(path: Path) -> list[Record]:
    """All rollouts; a last line that a kill tore off is left out.

    Raises:
        ValueError: there are no rollouts, or a line is not a rollout.
    """
    records = []
    for number, line in enumerate(read_file(path).splitlines(keepends=True), 1):
        try:
            record = json.loads(line)
            if not (isinstance(record["answer"], str | None) and isinstance(record["sample"], int)):
                raise TypeError
            record["id"], record["error"], record["correct"], record["usage"]
            if not all(isinstance(step, dict) for step in record["steps"] or ()):
                raise TypeError
        except (ValueError, KeyError, TypeError, RecursionError):
            if not line.endswith(b"\n"):
                break
            raise ValueError(f"{path}:{number} is no rollout: {line[:60]!r}") from None
        records.append(record)
    if not records:
        raise ValueError(f"{path} holds no rollouts yet: nothing to grade")
    return records


def _write_lines(path: Path, records: Sequence[Record]) -> None:
    with (
        write_whole(path) as draft,
        draft.open("w", encoding="utf-8", errors="backslashreplace") as file,
    ):
        for record in records:
            file.write(json.dumps(record, ensure_ascii=False) + "\n")
