"""The command line: reads arguments, calls the library, prints. Nothing heavy is imported early."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from scale_dspy import __version__
from scale_dspy.tuning import OPTIMIZERS

if TYPE_CHECKING:
    from rich.console import Console

    from scale_dspy.backends.connect import MeteredLM, Style
    from scale_dspy.program import SCALE
    from scale_dspy.solver import Solver

DONE, FAILED, BAD_USAGE, INTERRUPTED = 0, 1, 2, 130
MODES = ("hybrid", "prompt", "embedded")
METHODS = ("scale", "last_step", "cot", "majority", "inftythink", "routing")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code (0 done, 1 it failed, 2 bad usage or input)."""
    arguments = _make_parser().parse_args(argv)
    run: Callable[[argparse.Namespace], int] = arguments.run
    try:
        return run(arguments)
    except KeyboardInterrupt:
        return _complain("interrupted", INTERRUPTED)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except ValueError as error:
        return _complain(_first_line(error), BAD_USAGE)
    except (OSError, RuntimeError) as error:
        return _complain(_first_line(error), FAILED)
    except Exception as error:
        if not _is_model_error(error):
            raise
        return _complain(_explain(error, arguments), FAILED)


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

    import dspy
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
    method = arguments.method
    out = Path(arguments.out or f"runs/{name_folder(arguments.data, method)}")
    # The cache on disk is what a resumed run lives on; one in memory would only grow.
    dspy.configure_cache(enable_memory_cache=False)
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
            report=bar.report,
        )
    show_summary(console, method, summary)
    console.print(f"rollouts, run and summary are in {out}", markup=False)
    if arguments.json:
        _print_json(summary)
    return DONE


def frontier(arguments: argparse.Namespace) -> int:
    """Measure accuracy and tokens at every threshold; again, it does what is missing."""
    from pathlib import Path

    import dspy
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
    dspy.configure_cache(enable_memory_cache=False)
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
    return DONE


def compile(arguments: argparse.Namespace) -> int:
    """Tune thresholds and prompts and write the program; again, it goes on where it stopped."""
    from contextlib import redirect_stdout
    from pathlib import Path

    import dspy
    from rich.console import Console

    from scale_dspy.display import RunBar, show_compiled
    from scale_dspy.evaluation.data import load
    from scale_dspy.program import save_program
    from scale_dspy.tuning.optimizers import Plan, compile_program

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
        variants=_read_variants(arguments),
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
    dspy.configure_cache(enable_memory_cache=False)
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


def doctor(arguments: argparse.Namespace) -> int:
    """Probe the server with real calls and say what holds; fails if SCALE cannot work with it."""
    from dataclasses import asdict

    from rich.console import Console

    from scale_dspy.backends.connect import uses_embedded
    from scale_dspy.backends.doctor import examine
    from scale_dspy.display import show_finding

    console = Console(stderr=bool(arguments.json), highlight=False)
    model, api_base = arguments.model, arguments.api_base
    if uses_embedded(model, api_base):
        server = _start_embedded(model, console)
        model, api_base = server.model, server.api_base
    findings = []
    with console.status("asking the server"):
        for finding in examine(api_base, model, arguments.api_key):
            findings.append(finding)
            show_finding(console, finding)
    if arguments.json:
        _print_json({"model": model, "findings": [asdict(finding) for finding in findings]})
    return FAILED if any(finding.needed and not finding.ok for finding in findings) else DONE


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
    if arguments.program:
        return load_program(arguments.program, style)
    default = _count_candidates(arguments)
    candidates = int(str(arguments.candidates or default).partition(",")[0])
    return SCALE(candidates=candidates, assess=arguments.assess, modes=style)


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


def _read_variants(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """The numbers of candidates to try beside the first one given."""
    _, _, others = (arguments.candidates or "").partition(",")
    return [{"candidates": int(number)} for number in others.split(",") if number]


def _read_numbers(text: str) -> str:
    """An argument such as 8 or 8,1."""
    if not all(part.isascii() and part.isdigit() and int(part) for part in text.split(",")):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1, nor several")
    return text


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


def _connect(arguments: argparse.Namespace, console: Console) -> MeteredLM:
    from scale_dspy.backends.connect import connect, uses_embedded

    if uses_embedded(arguments.model, arguments.api_base):
        _start_embedded(arguments.model, console)
    return connect(arguments.model, arguments.api_base, arguments.api_key, seed=arguments.seed)


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


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scale-dspy",
        description="More right answers from fewer tokens on hard math problems.",
        epilog="With no --model and no --api-base the embedded model serves, on the CPU.",
    )
    parser.add_argument("--version", action="version", version=f"scale-dspy {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    command = commands.add_parser("solve", help="solve one problem and show the work")
    command.add_argument("problem", help="its text; LaTeX welcome")
    command.set_defaults(run=solve)
    _add_method(command)
    _add_backend(command)

    command = commands.add_parser("evaluate", help="accuracy and tokens of a method on a set")
    command.add_argument("data", help="a name (mini, aime24, ...), a hub path or a JSON Lines file")
    command.add_argument("--samples", type=int, default=8, help="rollouts of each problem")
    command.add_argument("--limit", type=int, metavar="N", help="only the first N problems")
    command.add_argument("--out", metavar="DIR", help="where to write; runs/DATA-METHOD by default")
    command.add_argument(
        "--retry-errors", action="store_true", help="run those again that ended in an error"
    )
    command.set_defaults(run=evaluate)
    _add_method(command)
    _add_backend(command)

    command = commands.add_parser("frontier", help="accuracy and tokens at every threshold")
    command.add_argument("data", help="as for evaluate")
    command.add_argument("--samples", type=int, default=1, help="rollouts of each problem")
    command.add_argument("--limit", type=int, metavar="N", help="only the first N problems")
    command.add_argument("--out", metavar="DIR", help="where to write; runs/DATA-frontier")
    command.add_argument(
        "--retry-errors", action="store_true", help="walk those again that ended in an error"
    )
    command.set_defaults(run=frontier)
    _add_choice(command, margin=0.02)
    _add_backend(command)

    command = commands.add_parser("compile", help="tune thresholds and prompts together")
    command.add_argument("data", help="training problems, as for evaluate")
    command.add_argument("--optimizer", required=True, metavar="NAME", help=", ".join(OPTIMIZERS))
    command.add_argument("--out", required=True, metavar="FILE.json", help="the compiled program")
    command.add_argument(
        "--valset", metavar="DATA", help="to choose on; by default half of the training problems"
    )
    command.add_argument("--limit", type=int, metavar="N", help="only the first N of each set")
    command.add_argument("--samples", type=int, default=1, help="walks of a validation problem")
    command.add_argument(
        "--rollouts", type=int, default=200, help="about how often the optimizer may run a program"
    )
    command.add_argument(
        "--cost-limit", type=int, metavar="TOKENS", help="response tokens of the whole compile"
    )
    command.set_defaults(run=compile)
    _add_choice(command, margin=0.0)
    _add_backend(command)

    command = commands.add_parser("export", help="a program's prompts for people or other runtimes")
    command.add_argument("program", metavar="FILE.json", help="a compiled SCALE program")
    command.add_argument("--format", required=True, choices=("markdown", "messages"))
    command.add_argument("--out", required=True, metavar="PATH", help="where to write")
    command.add_argument(
        "--modes", choices=MODES, default="hybrid", help="how requests switch thinking; hybrid"
    )
    command.set_defaults(run=export)

    command = commands.add_parser("report", help="a page on one or several runs")
    command.add_argument("folders", nargs="+", metavar="DIR", help="folders of evaluate --out")
    command.add_argument("--out", default="report.html", help="the page; report.html by default")
    command.add_argument("--json", action="store_true", help="one JSON object on standard output")
    command.set_defaults(run=report)

    command = commands.add_parser("doctor", help="find out what a server really does")
    command.set_defaults(run=doctor)
    _add_backend(command)
    return parser


def _add_method(command: argparse.ArgumentParser) -> None:
    group = command.add_argument_group("method")
    group.add_argument(
        "--method", choices=METHODS, default="scale", help="how to solve; scale by default"
    )
    group.add_argument("--program", metavar="FILE.json", help="a compiled SCALE program")
    group.add_argument(
        "--threshold",
        type=float,
        metavar="T",
        help="0 to 1; above it a sub-problem is thought over",
    )
    group.add_argument(
        "--budget", type=int, metavar="TOKENS", help="the most response tokens for a problem"
    )


def _add_choice(command: argparse.ArgumentParser, margin: float) -> None:
    group = command.add_argument_group("program and choice")
    group.add_argument("--program", metavar="FILE.json", help="a compiled program to start from")
    group.add_argument(
        "--assess",
        choices=("in_context", "upfront"),
        default="in_context",
        help="rate each sub-problem as its turn comes, or all before any is solved",
    )
    group.add_argument(
        "--candidates",
        type=_read_numbers,
        metavar="K[,K...]",
        help="decompositions to choose from [8]; of several numbers, compile keeps the best",
    )
    group.add_argument(
        "--budget", type=int, metavar="TOKENS", help="response tokens a problem, on average"
    )
    group.add_argument(
        "--margin", type=float, default=margin, help="accuracy to give up for fewer tokens"
    )


def _add_backend(command: argparse.ArgumentParser) -> None:
    group = command.add_argument_group("backend (flags win over the environment)")
    for flag, variable, text in (
        ("--model", "SCALE_MODEL", "model name as served, or a GGUF file"),
        ("--api-base", "SCALE_API_BASE", "for example http://127.0.0.1:8000/v1"),
        ("--api-key", "SCALE_API_KEY", "the server's key"),
    ):
        group.add_argument(
            flag, default=os.environ.get(variable) or None, help=f"{text} [{variable}]"
        )
    group.add_argument(
        "--modes",
        choices=MODES,
        help="how System 1 and 2 differ: by thinking off and on, or by the prompt alone",
    )
    group.add_argument("--threads", type=int, metavar="N", help="problems worked on at once [64]")
    group.add_argument("--seed", type=int, help="makes a run repeatable")
    group.add_argument("--json", action="store_true", help="one JSON object on standard output")


def _plain_step(step: Any) -> dict[str, Any]:
    keys = ("subproblem", "difficulty", "system", "solution", "tokens")
    return {key: getattr(step, key) for key in keys}


def _print_json(value: Any) -> None:
    print(json.dumps(value, ensure_ascii=False))


def _complain(message: str, code: int) -> int:
    print(f"scale-dspy: {message}", file=sys.stderr)
    return code


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


def _is_model_error(error: Exception) -> bool:
    from dspy.utils.exceptions import LMError

    return isinstance(error, LMError)


def _explain(error: Exception, arguments: argparse.Namespace) -> str:
    """A model error as one line that says what to do."""
    from dspy.utils import exceptions as kinds

    where = arguments.api_base or "the server"
    if isinstance(error, kinds.LMAuthError):
        return f"{where} refused the key: give --api-key or SCALE_API_KEY"
    if isinstance(error, kinds.LMUnsupportedModelError):
        return f"{where} does not serve {arguments.model}: `scale-dspy doctor` tells what it serves"
    if isinstance(error, kinds.LMTimeoutError):
        return f"{where} did not answer in time: {_first_line(error)}"
    # LiteLLM calls a refused connection an internal server error.
    if isinstance(error, kinds.LMTransportError) or "connect to host" in str(error).lower():
        return f"{where} cannot be reached: is the server running?"
    return f"{where} failed: {_first_line(error)}"


def _exit() -> NoReturn:
    sys.exit(main())


if __name__ == "__main__":
    _exit()
