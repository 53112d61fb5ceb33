"""The command line: its arguments, and what becomes of an error; its neighbours do the work."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, get_args

from scale_dspy import __version__
from scale_dspy.cli import cache, run, serve, tune
from scale_dspy.cli.options import FAILED
from scale_dspy.lm.modes import Style
from scale_dspy.tuning import OPTIMIZERS

if TYPE_CHECKING:
    _Parsers = argparse._SubParsersAction[argparse.ArgumentParser]

BAD_USAGE, INTERRUPTED = 2, 130
MODES = get_args(Style)
METHODS = ("scale", "last_step", "cot", "majority", "inftythink", "routing")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code (0 done, 1 it failed, 2 bad usage or input)."""
    arguments = _make_parser().parse_args(argv)
    keys = [getattr(arguments, "api_key", None), os.environ.get("SCALE_SYSTEM_1_API_KEY")]

    def complain(message: str, code: int) -> int:
        """One line without the keys, which a server's own words may repeat."""
        message = re.sub(r"(https?://)[^/\s@]+@", r"\1", message)
        for key in filter(None, keys):
            message = message.replace(key, "[key]")
        return _complain(message, code)

    do: Callable[[argparse.Namespace], int] = arguments.run
    try:
        return do(arguments)
    except KeyboardInterrupt:
        return complain("interrupted", INTERRUPTED)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except ValueError as error:
        return complain(_first_line(error), BAD_USAGE)
    except (OSError, RuntimeError) as error:
        return complain(_first_line(error), FAILED)
    except Exception as error:
        if not _is_model_error(error):
            raise
        return complain(_explain(error, arguments), FAILED)


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scale-dspy",
        description="More right answers from fewer tokens on hard math problems.",
        epilog="With no --model and no --api-base the embedded model serves, on the CPU.",
    )
    parser.add_argument("--version", action="version", version=f"scale-dspy {__version__}")
    parsers = parser.add_subparsers(metavar="COMMAND", required=True)
    for add in (
        _add_solve_command,
        _add_evaluate_command,
        _add_frontier_command,
        _add_compile_command,
        _add_export_command,
        _add_traces_command,
        _add_report_command,
        _add_serve_command,
        _add_doctor_command,
        _add_cache_command,
        _add_completion_command,
    ):
        add(parsers)
    return parser


def _add_solve_command(parsers: _Parsers) -> None:
    command = parsers.add_parser("solve", help="solve one problem and show the work")
    command.add_argument("problem", help="its text; LaTeX welcome")
    command.set_defaults(run=run.solve)
    _add_method(command)
    _add_backend(command)


def _add_evaluate_command(parsers: _Parsers) -> None:
    command = parsers.add_parser("evaluate", help="accuracy and tokens of a method on a set")
    command.add_argument("data", help="a name (mini, aime24, ...), a hub path or a JSON Lines file")
    command.add_argument("--out", metavar="DIR", help="where to write [runs/DATA-METHOD]")
    _add_rollouts(command, 8, "rollouts of each problem")
    command.set_defaults(run=run.evaluate)
    _add_reuse(command)
    _add_engine(command)
    _add_method(command)
    _add_backend(command)


def _add_frontier_command(parsers: _Parsers) -> None:
    command = parsers.add_parser("frontier", help="accuracy and tokens at every threshold")
    command.add_argument("data", help="as for evaluate")
    command.add_argument("--out", metavar="DIR", help="where to write [runs/DATA-frontier]")
    _add_rollouts(command, 1, "walks of each problem")
    command.set_defaults(run=tune.frontier)
    _add_choice(command, margin=0.02)
    _add_backend(command)


def _add_compile_command(parsers: _Parsers) -> None:
    command = parsers.add_parser("compile", help="tune thresholds and prompts together")
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
    command.add_argument(
        "--cost-limit", type=int, metavar="TOKENS", help="response tokens of the whole compile"
    )
    command.set_defaults(run=tune.compile)
    _add_choice(command, margin=0.0)
    _add_backend(command)


def _add_export_command(parsers: _Parsers) -> None:
    command = parsers.add_parser("export", help="a program's prompts for people or other runtimes")
    command.add_argument("program", metavar="FILE.json", help="a compiled SCALE program")
    command.add_argument("--format", required=True, choices=("markdown", "messages"))
    command.add_argument("--out", required=True, metavar="PATH", help="where to write")
    command.add_argument(
        "--modes", choices=MODES, default="hybrid", help="how requests switch thinking; hybrid"
    )
    command.set_defaults(run=tune.export)


def _add_traces_command(parsers: _Parsers) -> None:
    command = parsers.add_parser("traces", help="training data from problems that it solves right")
    command.add_argument("data", help="training problems with answers, as for evaluate")
    command.add_argument(
        "--out", required=True, metavar="FILE", help="chat records: a .jsonl or .parquet file"
    )
    command.add_argument(
        "--against",
        metavar="SET[,SET...]",
        help="test sets that no problem may overlap with, or none; by default aime24, aime25, "
        "amc23 and math500, as far as they can be loaded",
    )
    command.set_defaults(run=run.traces)
    _add_rollouts(command, 1, "tries a problem; the shortest right one is kept")
    _add_reuse(command)
    _add_engine(command)
    _add_method(command)
    _add_backend(command)


def _add_report_command(parsers: _Parsers) -> None:
    command = parsers.add_parser("report", help="a page on one or several runs")
    command.add_argument("folders", nargs="+", metavar="DIR", help="folders of evaluate --out")
    command.add_argument("--out", default="report.html", help="the page [report.html]")
    command.add_argument("--json", action="store_true", help="one JSON object on standard output")
    command.set_defaults(run=run.report)


def _add_serve_command(parsers: _Parsers) -> None:
    command = parsers.add_parser("serve", help="serve SCALE as a model, to any OpenAI client")
    command.add_argument(
        "--program",
        nargs="+",
        default=[],
        metavar="FILE.json",
        help="compiled programs; each is a model named after its file, the first is also `scale`",
    )
    command.add_argument(
        "--frontier", metavar="FILE.json", help="of `scale`, for names such as scale@tokens=8000"
    )
    command.add_argument("--host", default="127.0.0.1", help="address to listen on [127.0.0.1]")
    command.add_argument("--port", type=int, default=4000, help="0 for any free one [4000]")
    command.add_argument(
        "--key-file", metavar="FILE", help="holds the key that clients send [SCALE_SERVE_KEY]"
    )
    command.add_argument(
        "--waiting",
        type=int,
        default=256,
        metavar="N",
        help="problems that may wait, any further one gets 429 [256]",
    )
    command.set_defaults(run=serve.serve)
    _add_backend(command)


def _add_doctor_command(parsers: _Parsers) -> None:
    command = parsers.add_parser("doctor", help="what the server at --api-base really does")
    command.set_defaults(run=serve.doctor)
    _add_backend(command)


def _add_cache_command(parsers: _Parsers) -> None:
    command = parsers.add_parser("cache", help="the replies that are kept: how many, how large")
    command.add_argument("--clear", action="store_true", help="forget them all")
    command.add_argument("--json", action="store_true", help="one JSON object on standard output")
    command.set_defaults(run=cache.cache)


def _add_reuse(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--reuse",
        action="store_true",
        help="in a new folder, take replies that earlier runs drew from this server",
    )


def _add_rollouts(command: argparse.ArgumentParser, samples: int, text: str) -> None:
    command.add_argument("--samples", type=int, default=samples, help=f"{text} [{samples}]")
    command.add_argument("--limit", type=int, metavar="N", help="only the first N problems")
    command.add_argument(
        "--retry-errors", action="store_true", help="run those again that ended in an error"
    )


def _add_engine(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--engine",
        choices=("local", "ray"),
        default="local",
        help="ray: on all machines of a Ray cluster (RAY_ADDRESS)",
    )


def _add_completion_command(parsers: _Parsers) -> None:
    command = parsers.add_parser("completion", help="a shell's completion script, to be sourced")
    command.add_argument("shell", choices=("bash", "zsh", "fish"))
    command.set_defaults(run=_complete)


def _complete(arguments: argparse.Namespace) -> int:
    try:
        import shtab
    except ImportError:
        raise RuntimeError('this needs an extra: pip install "scale-dspy[completion]"') from None
    print(shtab.complete(_make_parser(), shell=arguments.shell))
    return 0


def _add_method(command: argparse.ArgumentParser) -> None:
    group = command.add_argument_group("method")
    group.add_argument("--method", choices=METHODS, default="scale", help="how to solve [scale]")
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
        help="rate each sub-problem as its turn comes [in_context], or all before any is solved",
    )
    group.add_argument(
        "--candidates",
        type=_read_numbers,
        metavar="K[,K...]",
        help="decompositions to choose from [8; 1 if embedded]; of several compile keeps the best",
    )
    group.add_argument(
        "--caps",
        type=_read_numbers,
        metavar="N[,N...]",
        help="most response tokens of a System 2 call; of several, compile keeps the best",
    )
    group.add_argument(
        "--budget", type=int, metavar="TOKENS", help="response tokens a problem, on average"
    )
    group.add_argument(
        "--margin",
        type=float,
        default=margin,
        help=f"accuracy to give up for fewer tokens [{margin}]",
    )


def _add_backend(command: argparse.ArgumentParser) -> None:
    group = command.add_argument_group("backend (flags win over the environment)")
    for flag, variable, text in (
        ("--model", "SCALE_MODEL", "model name as served, or a GGUF file"),
        (
            "--api-base",
            "SCALE_API_BASE",
            "for example http://127.0.0.1:8000/v1; of several replicas, with commas between",
        ),
        ("--api-key", "SCALE_API_KEY", "the server's key"),
        ("--system-1-model", "SCALE_SYSTEM_1_MODEL", "with --modes pair: System 1's model"),
        ("--system-1-api-base", "SCALE_SYSTEM_1_API_BASE", "its server, if it has its own"),
    ):
        group.add_argument(
            flag, default=os.environ.get(variable) or None, help=f"{text} [{variable}]"
        )
    group.add_argument(
        "--modes",
        choices=MODES,
        help="how System 1 and 2 differ: `scale-dspy doctor` tells which one fits the server",
    )
    group.add_argument(
        "--threads",
        type=int,
        metavar="N",
        help="problems at work at once [64; 1 if embedded]",
    )
    group.add_argument("--seed", type=int, help="makes a run repeatable")
    group.add_argument(
        "--timeout", type=float, metavar="SECONDS", help="for one request, each try [3600]"
    )
    group.add_argument("--json", action="store_true", help="one JSON object on standard output")


def _read_numbers(text: str) -> list[int]:
    """The numbers of an argument such as 8 or 8,1."""
    parts = text.split(",")
    if not all(part.isascii() and part.isdigit() and int(part) for part in parts):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1, nor several")
    return [int(part) for part in parts]


def _complain(message: str, code: int) -> int:
    shown = "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in message)
    print(f"scale-dspy: {shown}", file=sys.stderr)
    return code


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


def _is_model_error(error: Exception) -> bool:
    from dspy.utils.exceptions import LMError

    return isinstance(error, LMError)


def _explain(error: Exception, arguments: argparse.Namespace) -> str:
    """A model error as one line that says what to do."""
    from dspy.utils import exceptions as kinds

    from scale_dspy.lm.routing import split_addresses

    addresses = split_addresses(arguments.api_base)
    where = addresses[0] if len(addresses) == 1 else "the server"
    if len(addresses) > 1:
        where = f"each of {', '.join(addresses)}"
    if isinstance(error, kinds.LMAuthError):
        return f"{where} refused the key: give --api-key or SCALE_API_KEY"
    if isinstance(error, kinds.LMUnsupportedModelError):
        return f"{where} does not serve {arguments.model}: `scale-dspy doctor` tells what it serves"
    if isinstance(error, kinds.LMTimeoutError):
        return f"{where} did not answer in time: {_first_line(error)}"
    # LiteLLM calls a refused connection an internal server error.
    if isinstance(error, kinds.LMTransportError) or "connect to host" in str(error).lower():
        if len(addresses) > 1:
            return f"none of {', '.join(addresses)} can be reached: are the servers running?"
        return f"{where} cannot be reached: is the server running?"
    return f"{where} failed: {_first_line(error)}"
