"""`frontier`, `compile` and `export`: a program is measured, tuned and handed on."""

from __future__ import annotations

import argparse
import random
import sys
from contextlib import redirect_stdout
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scale_dspy.cli.options import (
    DONE,
    check_counts,
    choose_style,
    connect_backend,
    count_candidates,
    count_threads,
    end_run,
    open_cache,
    print_json,
)

if TYPE_CHECKING:
    from scale_dspy.program import SCALE
    from scale_dspy.tuning.prompt_optimizers import Plan


def frontier(arguments: argparse.Namespace) -> int:
    """Measure accuracy and tokens at every threshold; again, it does what is missing."""
    from rich.console import Console

    from scale_dspy.cli.console import RunBar, show_frontier
    from scale_dspy.data.load import load
    from scale_dspy.evaluation.runner import name_folder, write_json
    from scale_dspy.tuning.frontier import check_rule, summarise_frontier
    from scale_dspy.tuning.threshold_sweep import walk_all

    console = Console(stderr=True, highlight=False)
    check_counts(arguments, "samples", "threads")
    check_rule(arguments.budget, arguments.margin)
    if len(_read_options(arguments)) > 1:
        raise ValueError("frontier measures one program: give --candidates and --caps one number")
    examples = load(arguments.data, limit=arguments.limit)
    _make_start(arguments)  # what is wrong with it is said before anything is started or asked
    lm = connect_backend(arguments, console)
    program = _make_start(arguments)
    out = Path(arguments.out or f"runs/{name_folder(arguments.data, 'frontier')}")
    open_cache()
    with RunBar(console, out) as bar:
        walks = walk_all(
            program,
            examples,
            lm,
            out,
            data=arguments.data,
            samples=arguments.samples,
            threads=count_threads(arguments),
            retry_errors=arguments.retry_errors,
            report=bar.report,
        )
    found = summarise_frontier(walks, budget=arguments.budget, margin=arguments.margin)
    write_json(out / "frontier.json", found)
    show_frontier(console, found)
    console.print(f"walks and frontier are in {out}", markup=False)
    if arguments.json:
        print_json(found)
    return end_run(console, found["errors"])


def compile(arguments: argparse.Namespace) -> int:
    """Tune thresholds and prompts and write the program; again, it goes on where it stopped."""
    from rich.console import Console

    from scale_dspy.cli.console import RunBar, show_compiled
    from scale_dspy.program import save_program
    from scale_dspy.tuning.joint import compile_program

    console = Console(stderr=True, highlight=False)
    check_counts(arguments, "threads")
    plan = _read_plan(arguments)
    out = Path(arguments.out)
    if out.suffix != ".json" or not out.parent.is_dir():
        raise ValueError(f"--out is a .json file in a folder that exists, not {arguments.out}")
    trainset, valset = _load_sets(arguments, plan.seed)
    _make_start(arguments)  # what is wrong with it is said before anything is started or asked
    lm = connect_backend(arguments, console)
    program = _make_start(arguments)
    open_cache()
    folder = out.with_suffix(".compile")
    # DSPy's optimizers print, and standard output is for --json alone.
    with RunBar(console, folder) as bar, redirect_stdout(sys.stderr):
        tuned = compile_program(
            program,
            trainset,
            valset,
            lm,
            folder,
            plan,
            names=(arguments.data, arguments.valset or f"{arguments.data}, second half"),
            report=lambda stage, progress: bar.report(progress, stage),
        )
    save_program(tuned, out)
    show_compiled(console, tuned.record or {})
    console.print(f"the program is in {out}", markup=False)
    if arguments.json:
        print_json(tuned.record)
    return DONE


def export(arguments: argparse.Namespace) -> int:
    """Write a compiled program's prompts for people or for runtimes without DSPy."""
    from scale_dspy.export.write import write_export
    from scale_dspy.program import load_program

    program = load_program(arguments.program, arguments.modes)
    write_export(program, Path(arguments.out), arguments.format)
    print(f"{arguments.out} is written", file=sys.stderr)
    return DONE


def _make_start(arguments: argparse.Namespace) -> SCALE:
    """The SCALE program that is measured or tuned: a compiled one, or one with these options."""
    from scale_dspy.program import SCALE, load_program

    style = choose_style(arguments)
    first = _read_options(arguments)[0]
    if arguments.assess:
        first["assess"] = arguments.assess
    if arguments.program:
        from scale_dspy.tuning.threshold_search import change

        return change(load_program(arguments.program, style), first)
    first.setdefault("candidates", count_candidates(arguments))
    return SCALE(modes=style, **first)


def _read_options(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Options of SCALE: those to start from, then every other combination of the numbers given."""
    flags = {"candidates": arguments.candidates, "system_2_cap": arguments.caps}
    given = {name: numbers for name, numbers in flags.items() if numbers}
    return [dict(zip(given, numbers, strict=True)) for numbers in product(*given.values())]


def _read_plan(arguments: argparse.Namespace) -> Plan:
    from scale_dspy.tuning.prompt_optimizers import Plan

    return Plan(
        optimizer=arguments.optimizer,
        budget=arguments.budget,
        margin=arguments.margin,
        samples=arguments.samples,
        rollouts=arguments.rollouts,
        cost_limit=arguments.cost_limit,
        threads=count_threads(arguments),
        variants=_read_options(arguments)[1:],
        seed=arguments.seed or 0,
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
