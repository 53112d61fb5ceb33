"""`regrade`: the answers of finished runs are read and graded anew; no model is asked."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from scale_dspy.cli.options import DONE, print_json

if TYPE_CHECKING:
    from scale_dspy.evaluation.regrade import Regraded

HELP = "grade finished runs anew, asking no model"
EXAMPLES = """
scale-dspy regrade runs/scale
scale-dspy regrade runs/cot runs/scale
"""
SHOWN = 20  # changes of a run that the terminal shows; --json has all


def add_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("folders", nargs="+", metavar="DIR", help="folders of evaluate --out")
    command.add_argument("--json", action="store_true", help="one JSON object on standard output")


def run(arguments: argparse.Namespace) -> int:
    """Grade runs anew and say what changed; the old verdicts stay beside the new ones."""
    from rich.console import Console

    from scale_dspy.evaluation.regrade import regrade_run

    console = Console(stderr=bool(arguments.json), highlight=False)
    done = []
    for folder in arguments.folders:
        done.append(regrade_run(Path(folder)))
        for line in describe(done[-1]):
            console.print(line, markup=False)
    if arguments.json:
        print_json({"runs": [one.to_dict() for one in done]})
    return DONE


def describe(regraded: Regraded) -> list[str]:
    """What changed in a run, in lines for a terminal."""
    right = sum(change.correct for change in regraded.changes if change.was != change.correct)
    wrong = sum(change.was for change in regraded.changes if change.was != change.correct)
    lines = [
        f"{regraded.folder}: grader {regraded.before} -> {regraded.after}, "
        f"{regraded.rollouts:,} rollouts, {right} wrong became right, {wrong} right became wrong; "
        f"accuracy {regraded.accuracy_before:.4f} -> {regraded.accuracy:.4f}"
    ]
    for change in regraded.changes[:SHOWN]:
        verdict = {True: "right", False: "wrong"}
        lines.append(
            f"  {change.id}/{change.sample}: {change.old!r} {verdict[change.was]} -> "
            f"{change.new!r} {verdict[change.correct]}, gold {change.gold!r}"
        )
    if len(regraded.changes) > SHOWN:
        lines.append(f"  and {len(regraded.changes) - SHOWN} more; --json has all of them")
    if regraded.kept:
        lines.append(f"  the old verdicts are in {regraded.kept}")
    return lines + [f"  note: {note}" for note in regraded.notes]
