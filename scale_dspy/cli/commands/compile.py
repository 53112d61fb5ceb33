"""`compile`: a program's thresholds and prompts are tuned."""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scale_dspy.cli.arguments import add_backend, add_choice, add_costs, add_steering
from scale_dspy.cli.options import (
    DONE,
    add_price,
    check_counts,
    connect_program,
    open_cache,
    print_json,
    read_option_grid,
    read_start,
    read_terms,
    settle_backend,
    show_plan,
)
from scale_dspy.tuning import OPTIMIZERS
from scale_dspy.utils.files import append_lines

if TYPE_CHECKING:
    from scale_dspy.tuning.prompt_optimizers import Plan

HELP = "tune thresholds and prompts together"
EXAMPLES = """
scale-dspy compile train.jsonl --optimizer none --out tuned.json
scale-dspy compile train.jsonl --valset val.jsonl --optimizer gepa --budget 4000 --out tuned.json
"""


def add_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("data", help="training problems, as for evaluate")
    command.add_argument("--optimizer", required=True, metavar="NAME", help=", ".join(OPTIMIZERS))
    command.add_argument("--out", required=True, metavar="FILE.json", help="the compiled program")
    command.add_argument(
        "--valset", metavar="DATA", help="to choose on; by default half of the training problems"
    )
    command.add_argument("--limit", type=int, metavar="N", help="only the first N of each set")
    command.add_argument("--samples", type=int, default=1, help="walks of a validation problem [1]")
    command.add_argument(
        "--rollouts",
        type=int,
        default=200,
        help="about how often the optimizer may run a program [200]",
    )
    add_choice(command, margin=0.0)
    add_costs(command)
    add_steering(command)
    add_backend(command)


def run(arguments: argparse.Namespace) -> int:
    """Tune thresholds and prompts and write the program; again, it goes on where it stopped."""
    from rich.console import Console

    from scale_dspy.cli.console import RunBar
    from scale_dspy.cli.detach import detach
    from scale_dspy.cli.figures import show_compiled
    from scale_dspy.program import save_program
    from scale_dspy.tuning.forecast import forecast_compile
    from scale_dspy.tuning.joint import compile_program

    console = Console(file=sys.stderr, highlight=False)  # the real one, even if diverted later
    check_counts(arguments, "threads", "limit", "budget")
    settled = settle_backend(arguments)
    plan = _read_plan(arguments, settled.threads)
    out = Path(arguments.out)
    if out.suffix != ".json" or not out.parent.is_dir():
        raise ValueError(f"--out is a .json file in a folder that exists, not {arguments.out}")
    trainset, valset = _load_sets(arguments, plan.seed)
    folder = out.with_suffix(".compile")
    if arguments.dry_run:
        like = Path(arguments.like) if arguments.like else None
        start = read_start(arguments, settled)
        plan = replace(plan, token_price=add_price(plan.terms, settled).price)
        planned = forecast_compile(start, trainset, valset, folder, plan, like)
        return show_plan(planned, console, folder, arguments)
    if arguments.detach:
        return detach(arguments.argv, folder)
    program, lm = connect_program(settled, partial(read_start, arguments), console)
    open_cache()
    log = folder / "optimizer.log"
    with RunBar(console, folder) as bar, divert_output(log):
        tuned = compile_program(
            program,
            trainset,
            valset,
            lm,
            folder,
            plan,
            names=(arguments.data, arguments.valset or f"{arguments.data}, second half"),
            settings=arguments.settings,
            report=lambda stage, progress: bar.report(progress, stage),
        )
    save_program(tuned, out)
    show_compiled(console, tuned.record or {})
    if log.exists():
        console.print(f"what the optimizer said is in {log}", markup=False)
    console.print(f"the program is in {out}", markup=False)
    if arguments.json:
        print_json(tuned.record)
    return DONE


@contextmanager
def divert_output(log: Path) -> Iterator[None]:
    """Send all that is printed inside the block to a file, which is deleted if it stays empty.

    DSPy's optimizers show bars, log every step and print the stack of every failed run. That is
    for a file: the terminal has one bar, and standard output is for --json.
    """
    log.parent.mkdir(exist_ok=True)
    with append_lines(log) as file:
        try:
            with redirect_stdout(file), redirect_stderr(file):
                yield
        finally:
            if not file.tell():
                log.unlink(missing_ok=True)  # another compile, which was kept out, shares the log


def _read_plan(arguments: argparse.Namespace, threads: int) -> Plan:
    from scale_dspy.tuning.prompt_optimizers import Plan

    terms = read_terms(arguments)
    return Plan(
        optimizer=arguments.optimizer,
        budget=arguments.budget,
        margin=arguments.margin,
        samples=arguments.samples,
        rollouts=arguments.rollouts,
        cost_limit=terms.cost_limit,
        dollar_limit=terms.dollar_limit,
        token_price=terms.price,
        gpus=terms.gpus,
        threads=threads,
        variants=read_option_grid(arguments)[1:],
        seed=arguments.seed or 0,
        whole_only=arguments.whole,
    )


def _load_sets(arguments: argparse.Namespace, seed: int) -> tuple[list[Any], list[Any]]:
    """Problems to tune prompts on and problems to choose on: without --valset, the other half of
    the training problems, at random from the seed."""
    from scale_dspy.data.load import load

    examples = load(arguments.data, limit=arguments.limit)
    if arguments.valset:
        return examples, load(arguments.valset, limit=arguments.limit)
    shuffled = random.Random(seed).sample(examples, len(examples))
    return shuffled[: len(shuffled) // 2], shuffled[len(shuffled) // 2 :]
