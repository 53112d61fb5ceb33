"""`frontier`: a program is measured at every threshold."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

from scale_dspy.cli.arguments import (
    add_backend,
    add_choice,
    add_costs,
    add_rollouts,
    add_steering,
)
from scale_dspy.cli.options import (
    check_counts,
    connect_program,
    end_run,
    forecast_run,
    open_cache,
    print_json,
    read_option_grid,
    read_retry,
    read_start,
    read_terms,
    settle_backend,
)

HELP = "accuracy and tokens at every threshold"
EXAMPLES = """
scale-dspy frontier aime25 --candidates 2
scale-dspy frontier set.jsonl --budget 4000 --out runs/frontier
"""


def add_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("data", help="as for evaluate")
    command.add_argument("--out", metavar="DIR", help="where to write [runs/DATA-frontier]")
    add_rollouts(command, 1, "walks of each problem")
    add_choice(command, margin=0.02)
    add_costs(command)
    add_steering(command)
    add_backend(command)


def run(arguments: argparse.Namespace) -> int:
    """Measure accuracy and tokens at every threshold; again, it does what is missing."""
    from rich.console import Console

    from scale_dspy.cli.console import RunBar
    from scale_dspy.cli.detach import detach
    from scale_dspy.cli.figures import show_frontier
    from scale_dspy.data.load import load
    from scale_dspy.evaluation.costs import read_spending
    from scale_dspy.evaluation.folder import name_folder, write_json
    from scale_dspy.tuning.choice import check_rule
    from scale_dspy.tuning.decision import summarise_frontier
    from scale_dspy.tuning.forecast import bound_walk
    from scale_dspy.tuning.threshold_sweep import walk_all

    console = Console(stderr=True, highlight=False)
    check_counts(arguments, "samples", "limit", "budget", "threads")
    terms = read_terms(arguments)
    check_rule(arguments.budget, arguments.margin)
    if len(read_option_grid(arguments)) > 1:
        raise ValueError("frontier measures one program: give --candidates and --caps one number")
    examples = load(arguments.data, limit=arguments.limit)
    settled = settle_backend(arguments)
    out = Path(arguments.out or f"runs/{name_folder(arguments.data, 'frontier')}")
    if arguments.dry_run:
        bounds = bound_walk(read_start(arguments, settled), arguments.whole)
        return forecast_run(bounds, examples, out, settled, console, arguments)
    if arguments.detach:
        return detach(arguments.argv, out)
    program, lm = connect_program(settled, partial(read_start, arguments), console)
    open_cache()
    with RunBar(console, out) as bar:
        walks = walk_all(
            program,
            examples,
            lm,
            out,
            data=arguments.data,
            samples=arguments.samples,
            threads=settled.threads,
            settings=arguments.settings,
            whole_only=arguments.whole,
            retry_errors=read_retry(arguments),
            terms=terms,
            report=bar.report,
        )
    found = summarise_frontier(
        walks,
        (program.threshold.value, program.split.value),
        budget=arguments.budget,
        margin=arguments.margin,
        seed=arguments.seed or 0,
    )
    found["cost"] = read_spending(out)
    write_json(out / "frontier.json", found)
    show_frontier(console, found)
    console.print(f"walks and frontier are in {out}", markup=False)
    if arguments.json:
        print_json(found)
    return end_run(console, found["errors"])
