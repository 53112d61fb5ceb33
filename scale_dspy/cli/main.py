"""The command line: parses the arguments, runs the command, and turns errors into one line."""

from __future__ import annotations

import argparse
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from importlib import import_module
from pkgutil import iter_modules
from textwrap import indent
from typing import NoReturn

from scale_dspy.cli import commands
from scale_dspy.cli.interrupts import INTERRUPTED
from scale_dspy.cli.options import FAILED
from scale_dspy.cli.run_file import describe_settings, expand, find_commands
from scale_dspy.utils.version import __version__

BAD_USAGE = 2
FIRST = """With no --model and no --api-base the embedded model serves, on the CPU.

examples:
  scale-dspy solve "What is the sum of the first 20 odd numbers?"
  scale-dspy evaluate mini --limit 5 --samples 1
  scale-dspy evaluate --help"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code (0 done, 1 it failed, 2 bad usage or input)."""
    argv = list(sys.argv[1:] if argv is None else argv)
    parser = make_parser()
    try:
        typed = expand(argv, find_commands(parser))
    except ValueError as error:
        return _complain(_first_line(error), BAD_USAGE)
    arguments = _parse(parser, typed)
    arguments.argv = argv
    arguments.settings = describe_settings(arguments, find_commands(parser))
    _end_on_sigterm()
    keys = [getattr(arguments, "api_key", None), os.environ.get("SCALE_SYSTEM_1_API_KEY")]

    def complain(message: str, code: int) -> int:
        """Print an error in one line without the keys, which a server's message may repeat."""
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


def _end_on_sigterm() -> None:
    """Let `stop`, a batch system or a container end a command as Ctrl-C does, nothing lost."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    if signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        return  # the program itself handles it already, as it does Ctrl-C
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, interrupt)


class _Parser(argparse.ArgumentParser):
    """argparse's parser with complaints of one line, which the usage of twenty flags would bury."""

    def error(self, message: str) -> NoReturn:
        self.exit(_complain(f"{message} ({self.prog} --help tells more)", BAD_USAGE))


def make_parser() -> argparse.ArgumentParser:
    """The parser of all commands, which are the files in commands/."""
    parser = _Parser(
        prog="scale-dspy",
        description="More right answers from fewer tokens on hard math problems.",
        epilog=FIRST,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"scale-dspy {__version__}")
    parsers = parser.add_subparsers(metavar="COMMAND", required=True, dest="command")
    for found in iter_modules(commands.__path__):
        module = import_module(f"{commands.__name__}.{found.name}")
        command = parsers.add_parser(
            found.name,
            help=module.HELP,
            epilog=f"examples:\n{indent(getattr(module, 'EXAMPLES', '').strip(), '  ')}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    return parser


def _parse(parser: argparse.ArgumentParser, argv: Sequence[str]) -> argparse.Namespace:
    """The arguments. A problem may begin with a minus, and is then not taken for a flag."""
    arguments, rest = parser.parse_known_args(argv)
    if rest and getattr(arguments, "problem", "") is None and not rest[0].startswith("--"):
        arguments.problem = rest.pop(0)
    if rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    return arguments


def _complain(message: str, code: int) -> int:
    shown = "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in message)
    print(f"scale-dspy: {shown}", file=sys.stderr)
    return code


def _first_line(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:  # without the number that Python puts first
        where = f": {error.filename}" if error.filename else ""
        return f"{error.strerror[:1].lower()}{error.strerror[1:]}{where}"[:300]
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


def _is_model_error(error: Exception) -> bool:
    from dspy.utils.exceptions import LMError

    return isinstance(error, LMError)


def _explain(error: Exception, arguments: argparse.Namespace) -> str:
    """A model error as one line that says what to do."""
    from dspy.utils import exceptions as kinds

    from scale_dspy.lm.client import find_proxy
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
        by_proxy = addresses and find_proxy(addresses[0])
        proxy = ", through the proxy that the environment names" if by_proxy else ""
        return f"{where} cannot be reached{proxy}: is the server running?"
    return f"{where} failed: {_first_line(error)}"
