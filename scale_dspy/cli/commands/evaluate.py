"""`evaluate`: a method is measured on a set."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

from scale_dspy.cli.arguments import (
    add_backend,
    add_costs,
    add_engine,
    add_method,
    add_reuse,
    add_rollouts,
    add_steering,
)
from scale_dspy.cli.options import (
    check_counts,
    connect_run,
    end_run,
    forecast_run,
    print_json,
    read_engine,
    read_program,
    read_retry,
    read_terms,
    settle_backend,
)

HELP = "accuracy and tokens of a method on a set"
EXAMPLES = """
scale-dspy evaluate mini --limit 5 --samples 1
scale-dspy evaluate aime24 --method cot --samples 8 --out runs/cot
scale-dspy evaluate set.jsonl --program tuned.json --split 0.4
"""


def add_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "data",
        help="a name (mini, aime24, ...), a hub path, a JSON Lines file; or a .toml file of flags",
    )
    command.add_argument("--out", metavar="DIR", help="where to write [runs/DATA-METHOD]")
    add_rollouts(command, 8, "rollouts of each problem")
    add_reuse(command)
    add_engine(command)
    add_method(command)
    add_costs(command)
    add_steering(command)
    add_backend(command)


def run(arguments: argparse.Namespace) -> int:
    """Run a method on a set and write rollouts, run and summary; again, it does what is missing."""
    from rich.console import Console

    from scale_dspy.cli.console import RunBar
    from scale_dspy.cli.detach import detach
    from scale_dspy.cli.figures import show_summary
    from scale_dspy.data.load import load
    from scale_dspy.evaluation.description import describe_run
    from scale_dspy.evaluation.folder import name_folder
    from scale_dspy.evaluation.runner import evaluate

    console = Console(stderr=True, highlight=False)
    check_counts(arguments, "samples", "limit", "threads")
    terms = read_terms(arguments)
    examples = load(arguments.data, limit=arguments.limit)
    settled = settle_backend(arguments)
    method = arguments.method
    out = Path(arguments.out or f"runs/{name_folder(arguments.data, method)}")
    if arguments.dry_run:
        bounds = read_program(arguments, settled).bound_requests()
        return forecast_run(bounds, examples, out, settled, console, arguments)
    if arguments.detach:
        return detach(arguments.argv, out)
    settled, program, lm = connect_run(
        settled, partial(read_program, arguments), console, out, arguments
    )
    with RunBar(console, out) as bar:
        summary = evaluate(
            program,
            examples,
            lm,
            out,
            description=describe_run(
                program,
                method,
                arguments.data,
                examples,
                lm,
                arguments.samples,
                arguments.settings,
            ),
            samples=arguments.samples,
            threads=settled.threads,
            retry_errors=read_retry(arguments),
            terms=terms,
            engine=read_engine(arguments, settled, program),
            report=bar.report,
        )
    show_summary(console, method, summary)
    console.print(f"rollouts, run and summary are in {out}", markup=False)
    if arguments.json:
        print_json(summary)
    return end_run(console, summary["errors"])
