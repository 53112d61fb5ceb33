"""What several commands derive from their flags: program, backend, limits, exit code."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from scale_dspy.utils.validation import check_seed, check_whole

if TYPE_CHECKING:
    import dspy
    from rich.console import Console

    from scale_dspy.evaluation.costs import Terms
    from scale_dspy.evaluation.forecast import Forecast
    from scale_dspy.evaluation.runner import RolloutEngine
    from scale_dspy.lm.backend import Resolved
    from scale_dspy.lm.connect import MeteredLM
    from scale_dspy.lm.detect import UndetectableError
    from scale_dspy.method import Solver
    from scale_dspy.program import SCALE
    from scale_dspy.tuning.forecast import CompileForecast

DONE, FAILED = 0, 1
_NUMBERS = ("threshold", "split", "stop")  # a program's own, from 0 to 1
_VOTING = ("assess", "votes", "weigh", "probes")
_OPTIONS = (*_VOTING, "candidates")
# What won for the embedded model where it was measured, see optimize/RESULTS.md.
FOR_EMBEDDED = {"threshold": 0.0, "split": 1.0, "votes": 4, "stop": 0.8}

P = TypeVar("P")


def read_terms(arguments: argparse.Namespace) -> Terms:
    """The price, the number of GPUs and the limits that the flags give; LiteLLM's price is looked
    up later, when the model is known."""
    from scale_dspy.evaluation.costs import Terms
    from scale_dspy.lm.price import read_price

    return Terms(
        price=None if arguments.price is None else read_price(arguments.price),
        gpus=arguments.gpus,
        cost_limit=arguments.cost_limit,
        dollar_limit=arguments.dollar_limit,
    )


def add_price(terms: Terms, settled: Resolved) -> Terms:
    """Terms for a forecast: with LiteLLM's price, where none is given and it knows the model."""
    backend = settled.backend
    local = settled.embedded or backend.api_base or not backend.model or backend.system_1
    if local or terms.price is not None:
        return terms
    from scale_dspy.lm.hosted import find_price

    return replace(terms, price=find_price(str(backend.model)))


def read_retry(arguments: argparse.Namespace) -> bool | list[str]:
    """Which failed records are made again: none, all, or those with errors of some kinds."""
    if arguments.retry is None:
        return bool(arguments.retry_errors)
    return [kind for kind in arguments.retry.split(",") if kind]


def settle_backend(arguments: argparse.Namespace) -> Resolved:
    """The backend that the flags name, and the defaults that depend on it; nothing is asked yet.

    Raises:
        ValueError: a flag's value cannot be used.
    """
    from scale_dspy.lm.backend import Backend
    from scale_dspy.lm.connect import TIMEOUT

    timeout = TIMEOUT if arguments.timeout is None else arguments.timeout
    if not 0 < timeout < math.inf:
        raise ValueError(f"--timeout is seconds above 0, not {timeout:g}")
    backend = Backend(
        model=arguments.model,
        api_base=arguments.api_base,
        api_key=arguments.api_key,
        seed=check_seed(arguments.seed),
        system_1=arguments.system_1_model,
        system_1_api_base=arguments.system_1_api_base,
        timeout=timeout,
    )
    return backend.resolve(arguments.modes, arguments.threads)


def connect_program(
    settled: Resolved, make: Callable[[Resolved], P], console: Console, **options: Any
) -> tuple[P, MeteredLM]:
    """Make what runs on a backend, and connect the backend's LM, in the same order in every
    command.

    Args:
        make: makes the program, or whatever takes its modes from the backend. It is called first:
            errors in its flags are reported before anything is started or asked.
        options: those of dspy.LM.
    """
    program = make(settled)
    if settled.embedded:
        start_with_progress(settled.backend.model, console)
    lm = settled.backend.connect(**options)
    if settled.style == "pair" and lm.partner is None:
        raise ValueError("--modes pair needs --system-1-model or --system-1-api-base")
    if not settled.named:
        program = make(find_style(settled, lm, console))
    return program, lm


def connect_run(
    settled: Resolved,
    make: Callable[[Resolved], P],
    console: Console,
    out: Path,
    arguments: argparse.Namespace,
) -> tuple[Resolved, P, MeteredLM]:
    """As `connect_program`, for a run in a folder, whose replies are its own; also its backend.

    Raises:
        OSError: the folder of the run or of the cache cannot be used.
    """
    from scale_dspy.evaluation.runner import name_draws

    make(settled)  # errors in its flags are reported before anything is written
    open_cache()
    draws = name_draws(out, reuse=arguments.reuse)
    settled = replace(settled, backend=replace(settled.backend, run=draws))
    return settled, *connect_program(settled, make, console)


def find_style(settled: Resolved, lm: MeteredLM, console: Console) -> Resolved:
    """The backend with its modes found out; they are printed in one line and noted for run.json.

    Raises:
        ValueError: servers of one model differ.
        ConnectionError: no reply shows the modes.
    """
    from scale_dspy.lm.detect import UndetectableError, find_embedded, find_modes
    from scale_dspy.lm.hosted import find_hosted

    address = lm.server.api_base
    if lm.partner is not None:
        console.print("modes: pair, as System 1 is a model of its own", markup=False)
        return replace(settled, style="pair")
    if settled.embedded:
        found = find_embedded(str(address))
    elif address:
        try:
            found = find_modes(lm.model, address, lm.server.api_key)
        except UndetectableError as error:
            raise ConnectionError(_explain_silence(error, address, lm.model)) from None
    else:
        found = find_hosted(lm.model)
    lm.found = found.describe()
    asked = f" ({found.requests} requests, {found.seconds:.1f} s)" if found.requests else ""
    console.print(f"modes: {found.summarise()}{asked}", markup=False, soft_wrap=True)
    return replace(settled, style=found.modes())


def _explain_silence(error: UndetectableError, api_base: str, model: str) -> str:
    """Why a server could not be asked for its modes, and what to do, in one line."""
    from scale_dspy.lm.routing import split_addresses

    addresses = split_addresses(api_base)
    where = addresses[0] if len(addresses) == 1 else f"each of {', '.join(addresses)}"
    if error.status in (401, 403):
        return f"{where} refused the key: give --api-key or SCALE_API_KEY"
    if error.status == 404:
        name = model.removeprefix("hosted_vllm/")
        return f"{where} does not serve {name}: `scale-dspy doctor` tells what it serves"
    if error.status == 0 and len(addresses) > 1:
        return f"none of {', '.join(addresses)} can be reached: are the servers running?"
    if error.status == 0:
        return f"{where} cannot be reached: is the server running? ({error})"
    return f"{where} gave no reply to go by, so its modes are not known: {error}"


def read_program(arguments: argparse.Namespace, settled: Resolved) -> Solver:
    """The program that --method, --program and the flags beside them describe."""
    from scale_dspy.method import check_budget
    from scale_dspy.methods import METHODS, make_program
    from scale_dspy.program import load_program

    if not arguments.program:
        if arguments.candidates is not None and "candidates" not in METHODS[arguments.method].takes:
            raise ValueError(f"method {arguments.method} has no candidates")
        return make_program(
            arguments.method,
            candidates=settled.candidates if arguments.candidates is None else arguments.candidates,
            budget=arguments.budget,
            modes=settled.style,
            **{name: getattr(arguments, name) for name in (*_VOTING, *_NUMBERS)},
        )
    if arguments.method != "scale":
        raise ValueError(f"--program is a SCALE program, and --method is {arguments.method}")
    program = load_program(arguments.program, settled.style)
    flags = {name: getattr(arguments, name) for name in _OPTIONS}
    given = {name: value for name, value in flags.items() if value is not None}
    if given:
        from scale_dspy.tuning.threshold_search import change

        program = change(program, given)
    for name in _NUMBERS:
        if getattr(arguments, name) is not None:
            setattr(program, name, getattr(arguments, name))
    if arguments.budget is not None:
        program.budget = check_budget(arguments.budget)
    return program


def choose_for_embedded(arguments: argparse.Namespace, settled: Resolved, console: Console) -> None:
    """Set what won for the embedded model, and say so, where the flags choose nothing of SCALE."""
    chosen = [name for name in (*_NUMBERS, *_OPTIONS) if getattr(arguments, name) is not None]
    if not settled.embedded or chosen or arguments.program or arguments.method != "scale":
        return
    for name, value in FOR_EMBEDDED.items():
        setattr(arguments, name, value)
    console.print(
        f"the embedded model does best on whole problems with up to {arguments.votes} votes; "
        "--split 0 splits them",
        markup=False,
    )


def read_start(arguments: argparse.Namespace, settled: Resolved) -> SCALE:
    """The SCALE program that is measured or tuned: a compiled one, or one with these options; with
    --whole, one that never splits a problem."""
    from scale_dspy.program import SCALE, load_program

    first = read_option_grid(arguments)[0]
    if arguments.program:
        from scale_dspy.tuning.threshold_search import change

        program = change(load_program(arguments.program, settled.style), first)
    else:
        first.setdefault("candidates", settled.candidates)
        program = SCALE(modes=settled.style, **first)
    if arguments.whole:
        program.split.set(1.0)
    return program


def read_option_grid(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Options of SCALE: those to start from, then every other combination of the numbers given."""
    flags = {
        "assess": arguments.assess,
        "probes": arguments.probes,
        "votes": arguments.votes,
        "weigh": arguments.weigh,
        "candidates": arguments.candidates,
        "system_2_cap": arguments.caps,
    }
    given = {name: numbers for name, numbers in flags.items() if numbers}
    return [dict(zip(given, numbers, strict=True)) for numbers in product(*given.values())]


def read_engine(
    arguments: argparse.Namespace, settled: Resolved, program: Solver
) -> RolloutEngine | None:
    if arguments.engine == "local":
        return None
    from scale_dspy.evaluation.ray_engine import make_engine

    return make_engine(program, settled.backend, settled.threads)


def start_with_progress(model: str | None, console: Console) -> Any:
    """Start the embedded model, with a progress bar while its weights are joined."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

    from scale_dspy.lm.embedded.server import start_embedded

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("loading the embedded model", total=None)
        return start_embedded(
            model, progress=lambda done, total: progress.update(task, completed=done, total=total)
        )


def check_counts(arguments: argparse.Namespace, *flags: str) -> None:
    for flag in flags:
        value = getattr(arguments, flag)
        if value is not None:
            check_whole(f"--{flag}", value)


def open_cache() -> None:
    """Open the cache of replies, from which a run that is continued takes finished calls.

    Raises:
        OSError: its folder cannot be used.
    """
    from scale_dspy.lm.cache import open_store

    open_store()


def end_run(console: Console, errors: int) -> int:
    """The exit code of a run that has ended; FAILED, with a message, if rollouts failed."""
    if not errors:
        return DONE
    console.print(
        f"{errors} failed and count as wrong: the same command with --retry-errors runs them again",
        style="yellow",
    )
    return FAILED


def forecast_run(
    bounds: tuple[int, int],
    examples: Sequence[dspy.Example],
    out: Path,
    settled: Resolved,
    console: Console,
    arguments: argparse.Namespace,
) -> int:
    """Do what --dry-run asks of a command that makes rollouts or walks.

    Args:
        bounds: requests of one of them, at least and at most.
        out: the folder that the command would work in.
    """
    from scale_dspy.evaluation.forecast import forecast

    terms = add_price(read_terms(arguments), settled)
    like = Path(arguments.like) if arguments.like else None
    planned = forecast(bounds, examples, arguments.samples, out, like, terms)
    return show_plan(planned, console, out, arguments)


def show_plan(
    planned: Forecast | CompileForecast,
    console: Console,
    out: Path,
    arguments: argparse.Namespace,
) -> int:
    """Print the forecast of --dry-run, with --json also as JSON."""
    from scale_dspy.cli.figures import show_forecast

    show_forecast(console, planned, out)
    if arguments.json:
        print_json(asdict(planned))
    return DONE


def print_json(value: Any) -> None:
    print(json.dumps(value, ensure_ascii=False))
