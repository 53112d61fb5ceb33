"""What the flags of several commands stand for: program, backend, counts, exit code."""

from __future__ import annotations

import argparse
import json
import math
from typing import TYPE_CHECKING, Any

from scale_dspy.utils.validation import check_whole

if TYPE_CHECKING:
    from rich.console import Console

    from scale_dspy.evaluation.runner import Engine
    from scale_dspy.lm.connect import MeteredLM
    from scale_dspy.lm.modes import Style
    from scale_dspy.method import Solver

DONE, FAILED = 0, 1


def read_program(arguments: argparse.Namespace) -> Solver:
    """The program that the flags describe, before anything is started or asked."""
    from scale_dspy.baselines import make_program
    from scale_dspy.method import check_budget
    from scale_dspy.program import load_program

    style = choose_style(arguments)
    if not arguments.program:
        return make_program(
            arguments.method,
            threshold=arguments.threshold,
            candidates=count_candidates(arguments),
            budget=arguments.budget,
            modes=style,
        )
    if arguments.method != "scale":
        raise ValueError(f"--program is a SCALE program, and --method is {arguments.method}")
    program = load_program(arguments.program, style)
    if arguments.threshold is not None:
        program.threshold.set(arguments.threshold)
    if arguments.budget is not None:
        program.budget = check_budget(arguments.budget)
    return program


def read_engine(arguments: argparse.Namespace, program: Solver, run: str) -> Engine | None:
    if arguments.engine == "local":
        return None
    from scale_dspy.evaluation.ray_engine import Backend, make_engine

    backend = Backend(**read_backend(arguments), run=run)
    return make_engine(program, backend, count_threads(arguments))


def connect_backend(arguments: argparse.Namespace, console: Console, **options: Any) -> MeteredLM:
    from scale_dspy.lm.connect import connect, uses_embedded

    if uses_embedded(arguments.model, arguments.api_base):
        start_embedded(arguments.model, console)
    lm = connect(**read_backend(arguments), **options)
    if arguments.modes == "pair" and lm.partner is None:
        raise ValueError("--modes pair needs --system-1-model or --system-1-api-base")
    return lm


def read_backend(arguments: argparse.Namespace) -> dict[str, Any]:
    """The arguments of `connect`."""
    from scale_dspy.lm.connect import TIMEOUT

    timeout = TIMEOUT if arguments.timeout is None else arguments.timeout
    if not 0 < timeout < math.inf:
        raise ValueError(f"--timeout is seconds above 0, not {timeout:g}")
    return {
        "model": arguments.model,
        "api_base": arguments.api_base,
        "api_key": arguments.api_key,
        "system_1": arguments.system_1_model,
        "system_1_api_base": arguments.system_1_api_base,
        "seed": arguments.seed,
        "timeout": timeout,
    }


def start_embedded(model: str | None, console: Console) -> Any:
    """Start the embedded model, with a progress bar while its weights are joined."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

    from scale_dspy.lm.embedded.server import serve

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("loading the embedded model", total=None)
        return serve(
            model, progress=lambda done, total: progress.update(task, completed=done, total=total)
        )


def choose_style(arguments: argparse.Namespace) -> Style:
    style: Style = arguments.modes or ("embedded" if _is_embedded(arguments) else "hybrid")
    return style


def count_threads(arguments: argparse.Namespace) -> int:
    return arguments.threads or (1 if _is_embedded(arguments) else 64)


def count_candidates(arguments: argparse.Namespace) -> int:
    """Decompositions to choose from, where nothing else is asked for."""
    return 1 if _is_embedded(arguments) else 8


def _is_embedded(arguments: argparse.Namespace) -> bool:
    from scale_dspy.lm.connect import uses_embedded

    return uses_embedded(arguments.model, arguments.api_base)


def check_counts(arguments: argparse.Namespace, *flags: str) -> None:
    for flag in flags:
        value = getattr(arguments, flag)
        if value is not None:
            check_whole(f"--{flag}", value)


def open_cache() -> None:
    """The cache of replies is what a resumed run lives on.

    Raises:
        OSError: its folder cannot be used.
    """
    from scale_dspy.lm.cache import open_store

    open_store()


def end_run(console: Console, errors: int) -> int:
    """The exit code of a run that came to its end; FAILED, and said, where rollouts failed."""
    if not errors:
        return DONE
    console.print(
        f"{errors} failed and count as wrong: the same command with --retry-errors runs them again",
        style="yellow",
    )
    return FAILED


def print_json(value: Any) -> None:
    print(json.dumps(value, ensure_ascii=False))
