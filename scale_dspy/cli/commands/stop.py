"""`stop`: a run ends as Ctrl-C would end it, from another terminal."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

from scale_dspy.cli.options import DONE, print_json

HELP = "end a run as Ctrl-C would; it can go on later"
EXAMPLES = """
scale-dspy stop runs/scale
"""


def add_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("folder", metavar="DIR", help="its folder")
    command.add_argument("--json", action="store_true", help="one JSON object on standard output")


def run(arguments: argparse.Namespace) -> int:
    """End a run as Ctrl-C would."""
    from rich.console import Console

    from scale_dspy.cli.figures import show_done
    from scale_dspy.evaluation.run_status import stop_run

    ended = stop_run(Path(arguments.folder))
    console = Console(stderr=bool(arguments.json), highlight=False)
    console.print(
        f"stopped: {show_done(ended)} are kept in {ended.folder}; "
        "the same command goes on from there, with other limits if you like",
        markup=False,
    )
    if arguments.json:
        print_json(asdict(ended))
    return DONE
