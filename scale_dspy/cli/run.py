"""`solve`, `evaluate`, `traces` and `report`: problems are solved and told of."""

from __future__ import annotations

import argparse
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from scale_dspy.cli.options import (
    DONE,
    FAILED,
    check_counts,
    connect_backend,
    count_threads,
    end_run,
    open_cache,
    print_json,
    read_engine,
    read_program,
)


def solve(arguments: argparse.Namespace) -> int:
    """Solve one problem, showing the work; the answer goes to standard output, last."""
    import dspy
    from rich.console import Console

    from scale_dspy.cli.console import Watch, show_usage
    from scale_dspy.step import show_step

    console = Console(stderr=True, highlight=False)
    if not arguments.problem.strip():
        raise ValueError("the problem is empty: give its text in quotes")
    program = read_program(arguments)
    lm = connect_backend(arguments, console)
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


def evaluate(arguments: argparse.Namespace) -> int:
    """Run a method on a set and write rollouts, run and summary; again, it does what is missing."""
    from rich.console import Console

    from scale_dspy.cli.console import RunBar, show_summary
    from scale_dspy.data.load import load
    from scale_dspy.evaluation.runner import describe_run, name_draws, name_folder
    from scale_dspy.evaluation.runner import evaluate as run

    console = Console(stderr=True, highlight=False)
    check_counts(arguments, "samples", "threads")
    examples = load(arguments.data, limit=arguments.limit)
    program = read_program(arguments)
    method = arguments.method
    out = Path(arguments.out or f"runs/{name_folder(arguments.data, method)}")
    open_cache()
    draws = name_draws(out, reuse=arguments.reuse)
    lm = connect_backend(arguments, console, run=draws)
    engine = read_engine(arguments, program, draws)
    with RunBar(console, out) as bar:
        summary = run(
            program,
            examples,
            lm,
            out,
            description=describe_run(
                program, method, arguments.data, examples, lm, arguments.samples
            ),
            samples=arguments.samples,
            threads=count_threads(arguments),
            retry_errors=arguments.retry_errors,
            engine=engine,
            report=bar.report,
        )
    show_summary(console, method, summary)
    console.print(f"rollouts, run and summary are in {out}", markup=False)
    if arguments.json:
        print_json(summary)
    return end_run(console, summary["errors"])


def traces(arguments: argparse.Namespace) -> int:
    """Solve training problems and write the right solutions; again, it does what is missing."""
    from rich.console import Console

    from scale_dspy.cli.console import RunBar, show_card
    from scale_dspy.data.load import load
    from scale_dspy.evaluation.runner import name_draws
    from scale_dspy.traces.traces import JOINABLE, check_path, make_traces

    console = Console(stderr=True, highlight=False)
    check_counts(arguments, "samples", "threads")
    out = Path(arguments.out)
    check_path(out)
    if arguments.method not in JOINABLE:
        raise ValueError(
            f"--method is one of {', '.join(JOINABLE)} for traces, not {arguments.method}: its "
            "steps are no solution when they are joined"
        )
    examples = load(arguments.data, limit=arguments.limit)
    program = read_program(arguments)
    against, unchecked = _load_against(arguments.against)
    for name in unchecked:
        console.print(f"note: {name} cannot be loaded, so nothing is checked against it")
    folder = out.with_name(f"{out.name}.run")
    open_cache()
    draws = name_draws(folder, reuse=arguments.reuse)
    lm = connect_backend(arguments, console, run=draws)
    engine = read_engine(arguments, program, draws)
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
            threads=count_threads(arguments),
            retry_errors=arguments.retry_errors,
            engine=engine,
            report=bar.report,
        )
    show_card(console, card)
    console.print(f"the records are in {out}, how they were made in its .card.md", markup=False)
    if arguments.json:
        print_json(asdict(card))
    return end_run(console, card.dropped.get("error", 0))


def report(arguments: argparse.Namespace) -> int:
    """Write a page on one or several runs, with pictures beside it; a table in the terminal."""
    from rich.console import Console

    from scale_dspy.report.report import render_comparisons, render_table, write_report

    console = Console(stderr=bool(arguments.json), highlight=False)
    written = write_report([Path(folder) for folder in arguments.folders], Path(arguments.out))
    console.print(render_table(written))
    if written.pairs:
        console.print()
        console.print(render_comparisons(written))
    for note in written.notes:
        console.print(f"note: {note}", style="yellow", markup=False)
    console.print(f"{written.page} is written", markup=False)
    if arguments.json:
        print_json(written.to_dict())
    return DONE


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
