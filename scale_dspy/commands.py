"""What each command does: reads its arguments, calls the library, prints.

Heavy packages are imported where a command needs them, so that `--help` waits for none.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from itertools import product
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

    from scale_dspy.backends.connect import MeteredLM, Style
    from scale_dspy.backends.doctor import Finding
    from scale_dspy.evaluation.run import Engine
    from scale_dspy.program import SCALE
    from scale_dspy.solver import Solver

DONE, FAILED = 0, 1


def solve(arguments: argparse.Namespace) -> int:
    """Solve one problem, showing the work; the answer goes to standard output, last."""
    import dspy
    from rich.console import Console

    from scale_dspy.display import Watch, show_usage

    console = Console(stderr=True, highlight=False)
    if not arguments.problem.strip():
        raise ValueError("the problem is empty: give its text in quotes")
    program = _make_program(arguments)
    lm = _connect(arguments, console)
    watch = Watch(console)
    started = time.perf_counter()
    with watch.status, dspy.context(lm=lm, callbacks=[watch]):
        prediction = program(problem=arguments.problem)
    seconds = time.perf_counter() - started
    show_usage(console, prediction.usage, seconds)
    for note in prediction.replaced:
        console.print(f"note: {note}", style="yellow", markup=False)
    if arguments.json:
        _print_json(
            {
                "answer": prediction.answer,
                "steps": [_plain_step(step) for step in prediction.steps],
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
    from pathlib import Path

    from rich.console import Console

    from scale_dspy.display import RunBar, show_summary
    from scale_dspy.evaluation.data import load
    from scale_dspy.evaluation.run import describe_run, name_folder
    from scale_dspy.evaluation.run import evaluate as run

    console = Console(stderr=True, highlight=False)
    _check_counts(arguments, "samples", "threads")
    examples = load(arguments.data, limit=arguments.limit)
    program = _make_program(arguments)
    lm = _connect(arguments, console)
    engine = _make_engine(arguments, program)
    method = arguments.method
    out = Path(arguments.out or f"runs/{name_folder(arguments.data, method)}")
    _open_cache()
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
            threads=_count_threads(arguments),
            retry_errors=arguments.retry_errors,
            engine=engine,
            report=bar.report,
        )
    show_summary(console, method, summary)
    console.print(f"rollouts, run and summary are in {out}", markup=False)
    if arguments.json:
        _print_json(summary)
    return _judge(console, summary["errors"])


def frontier(arguments: argparse.Namespace) -> int:
    """Measure accuracy and tokens at every threshold; again, it does what is missing."""
    from pathlib import Path

    from rich.console import Console

    from scale_dspy.display import RunBar, show_frontier
    from scale_dspy.evaluation.data import load
    from scale_dspy.evaluation.run import name_folder, write_json
    from scale_dspy.tuning.frontier import check_rule, summarise_frontier
    from scale_dspy.tuning.walks import walk_all

    console = Console(stderr=True, highlight=False)
    _check_counts(arguments, "samples", "threads")
    check_rule(arguments.budget, arguments.margin)
    examples = load(arguments.data, limit=arguments.limit)
    program = _make_start(arguments)
    lm = _connect(arguments, console)
    out = Path(arguments.out or f"runs/{name_folder(arguments.data, 'frontier')}")
    _open_cache()
    with RunBar(console, out) as bar:
        walks = walk_all(
            program,
            examples,
            lm,
            out,
            data=arguments.data,
            samples=arguments.samples,
            threads=_count_threads(arguments),
            retry_errors=arguments.retry_errors,
            report=bar.report,
        )
    found = summarise_frontier(walks, budget=arguments.budget, margin=arguments.margin)
    write_json(out / "frontier.json", found)
    show_frontier(console, found)
    console.print(f"walks and frontier are in {out}", markup=False)
    if arguments.json:
        _print_json(found)
    return _judge(console, found["errors"])


def compile(arguments: argparse.Namespace) -> int:
    """Tune thresholds and prompts and write the program; again, it goes on where it stopped."""
    from contextlib import redirect_stdout
    from pathlib import Path

    from rich.console import Console

    from scale_dspy.display import RunBar, show_compiled
    from scale_dspy.evaluation.data import load
    from scale_dspy.program import save_program
    from scale_dspy.tuning.optimizers import compile_program
    from scale_dspy.tuning.prompts import Plan

    console = Console(stderr=True, highlight=False)
    _check_counts(arguments, "threads")
    plan = Plan(
        optimizer=arguments.optimizer,
        budget=arguments.budget,
        margin=arguments.margin,
        samples=arguments.samples,
        rollouts=arguments.rollouts,
        cost_limit=arguments.cost_limit,
        threads=_count_threads(arguments),
        variants=_read_options(arguments)[1:],
        seed=arguments.seed or 0,
    )
    out = Path(arguments.out)
    if out.suffix != ".json" or not out.parent.is_dir():
        raise ValueError(f"--out is a .json file in a folder that exists, not {arguments.out}")
    trainset = load(arguments.data, limit=arguments.limit)
    names = (arguments.data, arguments.valset or f"{arguments.data}, second half")
    if arguments.valset:
        valset = load(arguments.valset, limit=arguments.limit)
    else:
        trainset, valset = _halve(trainset, plan.seed)
    program = _make_start(arguments)
    lm = _connect(arguments, console)
    _open_cache()
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
            names=names,
            report=lambda stage, progress: bar.report(progress, stage),
        )
    save_program(tuned, out)
    show_compiled(console, tuned.record or {})
    console.print(f"the program is in {out}", markup=False)
    if arguments.json:
        _print_json(tuned.record)
    return DONE


def export(arguments: argparse.Namespace) -> int:
    """Write a compiled program's prompts for people or for runtimes without DSPy."""
    from pathlib import Path

    from scale_dspy.program import load_program
    from scale_dspy.tuning.export import write_export

    program = load_program(arguments.program, arguments.modes)
    write_export(program, Path(arguments.out), arguments.format)
    print(f"{arguments.out} is written", file=sys.stderr)
    return DONE


def traces(arguments: argparse.Namespace) -> int:
    """Solve training problems and write the right solutions; again, it does what is missing."""
    from pathlib import Path

    from rich.console import Console

    from scale_dspy.display import RunBar, show_card
    from scale_dspy.evaluation.data import load
    from scale_dspy.traces import METHODS, check_path, make_traces, to_dict

    console = Console(stderr=True, highlight=False)
    _check_counts(arguments, "samples", "threads")
    out = Path(arguments.out)
    check_path(out)
    if arguments.method not in METHODS:
        raise ValueError(
            f"--method is one of {', '.join(METHODS)} for traces, not {arguments.method}: its "
            "steps are no solution when they are joined"
        )
    examples = load(arguments.data, limit=arguments.limit)
    program = _make_program(arguments)
    against, unchecked = _load_against(arguments.against)
    for name in unchecked:
        console.print(f"note: {name} cannot be loaded, so nothing is checked against it")
    lm = _connect(arguments, console)
    engine = _make_engine(arguments, program)
    _open_cache()
    with RunBar(console, out.with_name(f"{out.name}.run")) as bar:
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
            threads=_count_threads(arguments),
            retry_errors=arguments.retry_errors,
            engine=engine,
            report=bar.report,
        )
    show_card(console, card)
    console.print(f"the records are in {out}, how they were made in its .card.md", markup=False)
    if arguments.json:
        _print_json(to_dict(card))
    return _judge(console, card.dropped.get("error", 0))


def report(arguments: argparse.Namespace) -> int:
    """Write a page on one or several runs, with pictures beside it; a table in the terminal."""
    from pathlib import Path

    from rich.console import Console

    from scale_dspy.evaluation.report import render_comparisons, render_table, write_report

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
        _print_json(written.to_dict())
    return DONE


def serve(arguments: argparse.Namespace) -> int:
    """Serve SCALE as a model until interrupted; with --json, say where once it answers."""
    from contextlib import redirect_stdout

    from rich.console import Console

    from scale_dspy.serving import check_extra, check_key, open_socket, read_key

    console = Console(stderr=True, highlight=False)
    _check_counts(arguments, "threads", "waiting")
    if not 0 <= arguments.port <= 65_535:
        raise ValueError(f"--port is a whole number from 0 to 65535, not {arguments.port}")
    key = read_key(arguments.key_file)
    check_key(key, arguments.host)
    check_extra()
    with open_socket(arguments.host, arguments.port) as listener:
        from scale_dspy.catalogue import list_names, read_catalogue
        from scale_dspy.provider import Offer
        from scale_dspy.serving import serve as run

        catalogue = read_catalogue(
            arguments.program,
            arguments.frontier,
            style=_choose_style(arguments),
            candidates=_count_candidates(arguments),
        )
        lm = _connect(arguments, console, cache=False)
        host = f"[{arguments.host}]" if ":" in arguments.host else arguments.host
        url = f"http://{host}:{listener.getsockname()[1]}/v1"
        names = list_names(catalogue)

        def say() -> None:
            console.print(f"serving {', '.join(names)} at {url}", markup=False)
            if arguments.json:
                print(json.dumps({"url": url, "models": names}), file=standard_output, flush=True)

        standard_output = sys.stdout
        offer = Offer(catalogue, lm, _count_threads(arguments), arguments.waiting)
        with redirect_stdout(sys.stderr):  # the proxy prints, and standard output is for --json
            run(offer, listener, key, say)
    return DONE


def doctor(arguments: argparse.Namespace) -> int:
    """Probe the server with real calls and say what holds; fails if SCALE cannot work with it."""
    from dataclasses import asdict

    from rich.console import Console

    from scale_dspy.backends.connect import uses_embedded
    from scale_dspy.backends.doctor import examine
    from scale_dspy.backends.replicas import split_addresses
    from scale_dspy.display import show_finding

    console = Console(stderr=bool(arguments.json), highlight=False)
    model, api_base = arguments.model, arguments.api_base
    if uses_embedded(model, api_base):
        server = _start_embedded(model, console)
        model, api_base = server.model, server.api_base
    findings, rows = [], []
    addresses = split_addresses(api_base)
    with console.status("asking the server"):
        for number, address in enumerate(addresses, 1):
            if len(addresses) > 1:
                console.print(f"server {number}: {address}", markup=False)
            for finding in examine(address, model, arguments.api_key):
                finding = _hide_key(finding, arguments.api_key)
                findings.append(finding)
                server = {"server": number} if len(addresses) > 1 else {}
                rows.append({**server, **asdict(finding)})
                show_finding(console, finding)
    if arguments.json:
        _print_json({"model": model, "findings": rows})
    return FAILED if any(finding.needed and not finding.ok for finding in findings) else DONE


def _hide_key(finding: Finding, key: str | None) -> Finding:
    """The finding without the key, which a server's own words may repeat."""
    from dataclasses import replace

    if not key:
        return finding
    detail, advice = finding.detail.replace(key, "[key]"), finding.advice.replace(key, "[key]")
    return replace(finding, detail=detail, advice=advice)


def _make_program(arguments: argparse.Namespace) -> Solver:
    """The program that the flags describe, before anything is started or asked."""
    from scale_dspy.baselines import make_program
    from scale_dspy.program import load_program
    from scale_dspy.solver import check_budget

    style = _choose_style(arguments)
    if not arguments.program:
        return make_program(
            arguments.method,
            threshold=arguments.threshold,
            candidates=_count_candidates(arguments),
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


def _make_start(arguments: argparse.Namespace) -> SCALE:
    """The SCALE program that is measured or tuned: a compiled one, or one with these options."""
    from scale_dspy.program import SCALE, load_program

    style = _choose_style(arguments)
    first = _read_options(arguments)[0]
    if arguments.program:
        from scale_dspy.tuning.search import change

        return change(load_program(arguments.program, style), first)
    first.setdefault("candidates", _count_candidates(arguments))
    return SCALE(assess=arguments.assess, modes=style, **first)


def _make_engine(arguments: argparse.Namespace, program: Solver) -> Engine | None:
    if arguments.engine == "local":
        return None
    from scale_dspy.evaluation.distribute import Backend, make_engine

    backend = Backend(**_read_backend(arguments))
    return make_engine(program, backend, _count_threads(arguments))


def _load_against(names: str | None) -> tuple[dict[str, list[Any]], list[str]]:
    """(test sets by name, names of the default ones that cannot be loaded)."""
    from scale_dspy.evaluation.data import DataError, load
    from scale_dspy.traces import AGAINST

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


def _is_embedded(arguments: argparse.Namespace) -> bool:
    from scale_dspy.backends.connect import uses_embedded

    return uses_embedded(arguments.model, arguments.api_base)


def _choose_style(arguments: argparse.Namespace) -> Style:
    style: Style = arguments.modes or ("embedded" if _is_embedded(arguments) else "hybrid")
    return style


def _count_threads(arguments: argparse.Namespace) -> int:
    return arguments.threads or (1 if _is_embedded(arguments) else 64)


def _count_candidates(arguments: argparse.Namespace) -> int:
    """Decompositions to choose from, where nothing else is asked for."""
    return 1 if _is_embedded(arguments) else 8


def _read_options(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Options of SCALE: those to start from, then every other combination of the numbers given."""
    flags = {"candidates": arguments.candidates, "system_2_cap": arguments.caps}
    given = {
        name: [int(number) for number in text.split(",")] for name, text in flags.items() if text
    }
    return [dict(zip(given, numbers, strict=True)) for numbers in product(*given.values())]


def _halve(examples: list[Any], seed: int) -> tuple[list[Any], list[Any]]:
    """Problems to tune prompts on and problems to choose on, at random from the seed."""
    import random

    shuffled = random.Random(seed).sample(examples, len(examples))
    return shuffled[: len(shuffled) // 2], shuffled[len(shuffled) // 2 :]


def _check_counts(arguments: argparse.Namespace, *flags: str) -> None:
    for flag in flags:
        value = getattr(arguments, flag)
        if value is not None and value < 1:
            raise ValueError(f"--{flag} is a whole number from 1, not {value}")


def _connect(arguments: argparse.Namespace, console: Console, **options: Any) -> MeteredLM:
    from scale_dspy.backends.connect import connect, uses_embedded

    if uses_embedded(arguments.model, arguments.api_base):
        _start_embedded(arguments.model, console)
    lm = connect(**_read_backend(arguments), **options)
    if arguments.modes == "pair" and lm.partner is None:
        raise ValueError("--modes pair needs --system-1-model or --system-1-api-base")
    return lm


def _read_backend(arguments: argparse.Namespace) -> dict[str, Any]:
    """The arguments of `connect`."""
    from scale_dspy.backends.connect import TIMEOUT

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


def _start_embedded(model: str | None, console: Console) -> Any:
    """Start the embedded model, with a progress bar while its weights are joined."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

    from scale_dspy.backends.embedded import serve

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("loading the embedded model", total=None)
        return serve(
            model, progress=lambda done, total: progress.update(task, completed=done, total=total)
        )


def _open_cache() -> None:
    """The cache on disk is what a resumed run lives on; one in memory would only grow.

    Raises:
        OSError: its folder cannot be written.
    """
    import sqlite3

    import dspy
    from dspy.clients import DISK_CACHE_DIR

    try:
        dspy.configure_cache(enable_memory_cache=False)
    except (OSError, sqlite3.Error) as error:
        raise OSError(
            f"the cache folder {DISK_CACHE_DIR} cannot be used: {error}; "
            "set DSPY_CACHEDIR to a folder that can be written"
        ) from None


def _judge(console: Console, errors: int) -> int:
    """The exit code of a run that came to its end; one with failures in it is no full result."""
    if not errors:
        return DONE
    console.print(
        f"{errors} failed and count as wrong: the same command with --retry-errors runs them again",
        style="yellow",
    )
    return FAILED


def _plain_step(step: Any) -> dict[str, Any]:
    keys = ("subproblem", "difficulty", "system", "solution", "tokens")
    return {key: getattr(step, key) for key in keys}


def _print_json(value: Any) -> None:
    print(json.dumps(value, ensure_ascii=False))
