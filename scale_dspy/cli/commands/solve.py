"""`solve`: one problem is solved before one's eyes."""

from __future__ import annotations

import argparse
import time
from functools import partial

from scale_dspy.cli.arguments import add_backend, add_method
from scale_dspy.cli.options import (
    DONE,
    FAILED,
    connect_program,
    print_json,
    read_program,
    settle_backend,
)

HELP = "solve one problem and show the work"


def add_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("problem", help="its text; LaTeX welcome")
    add_method(command)
    add_backend(command)


def run(arguments: argparse.Namespace) -> int:
    """Solve one problem, showing the work; the answer goes to standard output, last."""
    import dspy
    from rich.console import Console

    from scale_dspy.cli.console import Watch, show_usage
    from scale_dspy.step import show_step

    console = Console(stderr=True, highlight=False)
    if not arguments.problem.strip():
        raise ValueError("the problem is empty: give its text in quotes")
    make = partial(read_program, arguments)
    program, lm = connect_program(settle_backend(arguments), make, console)
    watch = Watch(console)
    started = time.perf_counter()
    with watch.status, dspy.context(lm=lm, callbacks=[watch]):
        prediction = program(problem=arguments.problem)
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
