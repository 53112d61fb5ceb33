"""`export`: a program's prompts are handed on."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from scale_dspy.cli.arguments import NAMES
from scale_dspy.cli.options import DONE

HELP = "a program's prompts for people or other runtimes"
EXAMPLES = """
scale-dspy export tuned.json --format markdown --out tuned.md
scale-dspy export tuned.json --format messages --out tuned.messages.json
"""


def add_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("program", metavar="FILE.json", help="a compiled SCALE program")
    command.add_argument("--format", required=True, choices=("markdown", "messages"))
    command.add_argument("--out", required=True, metavar="PATH", help="where to write")
    command.add_argument(
        "--modes",
        choices=NAMES,
        default="hybrid",
        metavar="NAME",
        help="how requests switch thinking [hybrid]; `solve --modes list` has the names",
    )


def run(arguments: argparse.Namespace) -> int:
    """Write a compiled program's prompts for people or for runtimes without DSPy."""
    from scale_dspy.export.write import write_export
    from scale_dspy.program import load_program

    program = load_program(arguments.program, arguments.modes)
    write_export(program, Path(arguments.out), arguments.format)
    print(f"{arguments.out} is written", file=sys.stderr)
    return DONE
