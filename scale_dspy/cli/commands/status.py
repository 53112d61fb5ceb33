"""`status`: where runs stand, seen from another terminal."""

from __future__ import annotations

import argparse
import time
from dataclasses import asdict
from pathlib import Path

from scale_dspy.cli.options import DONE, print_json

HELP = "how far runs are, and which process is at work"
EXAMPLES = """
scale-dspy status
scale-dspy status runs/scale runs/cot
"""
WATCH = 2.0  # seconds between two looks


def add_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "folders", nargs="*", default=["runs"], metavar="DIR", help="of runs, or around them [runs]"
    )
    command.add_argument("--watch", action="store_true", help="repeat until no run is at work")
    command.add_argument("--json", action="store_true", help="one JSON list on standard output")


def run(arguments: argparse.Namespace) -> int:
    """Say where runs stand; with --watch, again and again until none is at work."""
    from rich.console import Console
    from rich.live import Live

    from scale_dspy.cli.figures import render_statuses
    from scale_dspy.evaluation.run_status import find_runs, read_status

    folders = find_runs([Path(folder) for folder in arguments.folders])
    statuses = [read_status(folder) for folder in folders]
    if arguments.json:
        print_json([asdict(one) for one in statuses])
        return DONE
    console = Console(highlight=False)
    if not arguments.watch:
        console.print(render_statuses(statuses))
        return DONE
    with Live(render_statuses(statuses), console=console, refresh_per_second=4) as live:
        while any(one.state == "running" for one in statuses):
            time.sleep(WATCH)
            statuses = [read_status(folder) for folder in folders]
            live.update(render_statuses(statuses))
    return DONE
