"""`report`: a page on runs."""

from __future__ import annotations

import argparse
from pathlib import Path

from scale_dspy.cli.options import DONE, print_json

HELP = "a page on one or several runs"


def add_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("folders", nargs="+", metavar="DIR", help="folders of evaluate --out")
    command.add_argument("--out", default="report.html", help="the page [report.html]")
    command.add_argument("--json", action="store_true", help="one JSON object on standard output")


def run(arguments: argparse.Namespace) -> int:
    """Write a page on one or several runs, with pictures beside it; a table in the terminal."""
    from rich.console import Console

    from scale_dspy.report.report import render_comparisons, render_table, write_report

    console = Console(stderr=bool(arguments.json), highlight=False)
    written = write_report([Path(folder) for folder in arguments.folders], Path(arguments.out))
    console.print(render_table(written))
    if written.pairs:
        console.print()
        console.print(render_comparisons(written))
    for note in written.notes:
        console.print(f"note: {note}", style="yellow", markup=False)
    console.print(f"{written.page} is written", markup=False)
    if arguments.json:
        print_json(written.to_dict())
    return DONE
