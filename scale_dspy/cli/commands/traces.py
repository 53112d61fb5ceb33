"""`traces`: training data from problems that are solved right."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
    FAILED,
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
from scale_dspy.methods import METHODS

if TYPE_CHECKING:
    from rich.console import Console

HELP = "training data from problems that it solves right"
EXAMPLES = """
scale-dspy traces limo --out traces.jsonl
scale-dspy traces train.jsonl --samples 4 --against aime24,aime25 --out traces.parquet
"""


def add_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("data", help="training problems with answers, as for evaluate")
    command.add_argument(
        "--out", required=True, metavar="FILE", help="chat records: a .jsonl or .parquet file"
    )
    command.add_argument(
        "--against",
        metavar="SET[,SET...]",
        help="test sets that no problem may overlap with, or none; by default aime24, aime25, "
        "amc23 and math500; it fails at its end if one cannot be loaded",
    )
    add_rollouts(command, 1, "rollouts of each problem; the shortest right one is kept")
    add_reuse(command)
    add_engine(command)
    add_method(command)
    add_costs(command)
    add_steering(command)
    add_backend(command)


def run(arguments: argparse.Namespace) -> int:
    """Solve training problems and write the right solutions; again, it does what is missing."""
    from rich.console import Console

    from scale_dspy.cli.console import RunBar
    from scale_dspy.cli.detach import detach
    from scale_dspy.cli.figures import show_card
    from scale_dspy.data.load import load
    from scale_dspy.traces.traces import check_path, drop_overlapping, make_traces

    console = Console(stderr=True, highlight=False)
    check_counts(arguments, "samples", "limit", "threads")
    terms = read_terms(arguments)
    out = Path(arguments.out)
    check_path(out)
    _check_joinable(arguments.method)
    examples = load(arguments.data, limit=arguments.limit)
    against, unchecked = _load_against(arguments.against)
    folder = out.with_name(f"{out.name}.run")
    settled = settle_backend(arguments)
    if arguments.dry_run:
        clean, _ = drop_overlapping(examples, against)
        bounds = read_program(arguments, settled).bound_requests()
        return forecast_run(bounds, clean, folder, settled, console, arguments)
    if arguments.detach:
        return detach(arguments.argv, folder)
    settled, program, lm = connect_run(
        settled, partial(read_program, arguments), console, folder, arguments
    )
    with RunBar(console, folder) as bar:
        card = make_traces(
            program,
            examples,
            lm,
            out,
            method=arguments.method,
            data=arguments.data,
            against=against,
            unchecked=unchecked,
            samples=arguments.samples,
            threads=settled.threads,
            settings=arguments.settings,
            retry_errors=read_retry(arguments),
            terms=terms,
            engine=read_engine(arguments, settled, program),
            report=bar.report,
        )
    show_card(console, card)
    console.print(f"the records are in {out}, how they were made in its .card.md", markup=False)
    if arguments.json:
        print_json(asdict(card))
    code = end_run(console, card.dropped.get("error", 0))
    if not unchecked:
        return code
    _say_unchecked(console, unchecked)
    return FAILED


def _check_joinable(method: str) -> None:
    if not METHODS[method].joinable:
        joinable = ", ".join(name for name, each in METHODS.items() if each.joinable)
        raise ValueError(
            f"--method is one of {joinable} for traces, not {method}: its "
            "steps are no solution when they are joined"
        )


def _say_unchecked(console: Console, unchecked: Sequence[str]) -> None:
    console.print(
        f"no overlap was looked for with {', '.join(unchecked)}: they cannot be loaded. "
        "Put copies into a folder, set SCALE_DATA_DIR to it and run this again, or give --against "
        "without them",
        style="yellow",
    )


def _load_against(names: str | None) -> tuple[dict[str, list[Any]], list[str]]:
    """(test sets by name, names of the default ones that cannot be loaded)."""
    from scale_dspy.data.load import DataError, load
    from scale_dspy.traces.traces import AGAINST

    if names is not None:
        listed = [name for name in names.split(",") if name not in ("", "none")]
        return {name: load(name) for name in listed}, []
    found: dict[str, list[Any]] = {}
    for name in AGAINST:
        try:
            found[name] = load(name)
        except DataError:
            continue
    return found, [name for name in AGAINST if name not in found]
