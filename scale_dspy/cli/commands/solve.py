"""`solve`: one problem is solved, with each step shown as it is done."""

from __future__ import annotations

import argparse
import sys
import time
from functools import partial
from pathlib import Path

from scale_dspy.cli.arguments import add_backend, add_method
from scale_dspy.cli.options import (
    DONE,
    FAILED,
    check_counts,
    choose_for_embedded,
    connect_program,
    print_json,
    read_program,
    settle_backend,
)

HELP = "solve one problem and show the work"
EXAMPLES = """
scale-dspy solve "What is the sum of the first 20 odd numbers?"
scale-dspy solve --full --threshold 0.3 --file problem.txt
echo "$PROBLEM" | scale-dspy solve - --method cot --json
"""


def add_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("problem", nargs="?", help="its text, with or without LaTeX; - for stdin")
    command.add_argument("--file", metavar="PATH", help="a file that holds the problem's text")
    command.add_argument("--full", action="store_true", help="show the whole work, thinking too")
    add_method(command)
    add_backend(command)


def run(arguments: argparse.Namespace) -> int:
    """Solve one problem, showing the work; the answer goes to standard output, last."""
    import dspy
    from rich.console import Console

    from scale_dspy.cli.console import Watch
    from scale_dspy.cli.figures import show_usage
    from scale_dspy.lm.usage import track
    from scale_dspy.step import show_step

    console = Console(stderr=True, highlight=False)
    check_counts(arguments, "threads")
    problem = read_problem(arguments.problem, arguments.file)
    settled = settle_backend(arguments)
    choose_for_embedded(arguments, settled, console)
    program, lm = connect_program(settled, partial(read_program, arguments), console)
    started = time.perf_counter()
    with track() as spent, dspy.context(lm=lm):
        watch = Watch(console, spent, full=arguments.full)
        with watch.status, dspy.context(callbacks=[watch]):
            prediction = program(problem=problem)
    seconds = time.perf_counter() - started
    show_usage(console, prediction.usage, seconds)
    for note in prediction.replaced:
        console.print(f"note: {note}", style="yellow", markup=False)
    if arguments.json:
        print_json(
            {
                "answer": prediction.answer,
                "steps": [show_step(step) for step in prediction.steps],
                "usage": prediction.usage,
                "seconds": seconds,
                "model": lm.model,
            }
        )
    elif prediction.answer is None:
        console.print("no answer could be read from the last solution")
    else:
        print(prediction.answer)
    return DONE if prediction.answer is not None else FAILED


def read_problem(text: str | None, path: str | None) -> str:
    """The problem's text: as given, from standard input for "-", or from a file.

    Raises:
        ValueError: none or two are given, it cannot be read, or it is empty.
    """
    if (text is None) == (path is None):
        raise ValueError("give one problem: its text in quotes, - for standard input, or --file")
    try:
        if path is not None:
            text, where = Path(path).read_text(encoding="utf-8"), path
        elif text == "-":
            text, where = sys.stdin.buffer.read().decode("utf-8"), "standard input"
        else:
            where = "the argument"
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(
            f"cannot read a problem from {path or 'standard input'}: {error}"
        ) from None
    if not text or not text.strip():
        raise ValueError(f"the problem is empty: {where} holds no text")
    return text
