"""`serve`: SCALE as a server."""

from __future__ import annotations

import argparse
import json
import sys
from contextlib import redirect_stdout
from typing import TYPE_CHECKING

from scale_dspy.cli.arguments import add_backend
from scale_dspy.cli.options import DONE, check_counts, connect_program, settle_backend

if TYPE_CHECKING:
    from scale_dspy.lm.backend import Resolved

HELP = "serve SCALE as a model, to any OpenAI client"
EXAMPLES = """
scale-dspy serve
scale-dspy serve --program tuned.json --port 8080
"""


def add_arguments(command: argparse.ArgumentParser) -> None:
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
        "--allow-host",
        nargs="+",
        default=[],
        metavar="NAME",
        help="other names that clients reach it by, such as scale.example.org",
    )
    command.add_argument(
        "--allow-origin",
        nargs="+",
        default=[],
        metavar="ORIGIN",
        help="web pages that may use it, such as http://localhost:3000 [none]",
    )
    command.add_argument(
        "--waiting",
        type=int,
        default=256,
        metavar="N",
        help="problems that may wait, any further one gets 429 [256]",
    )
    add_backend(command)


def run(arguments: argparse.Namespace) -> int:
    """Serve SCALE as a model until interrupted; with --json, say where once it answers."""
    from rich.console import Console

    from scale_dspy.serve.callers import describe_callers
    from scale_dspy.serve.proxy import check_extra, check_key, open_socket, read_key

    console = Console(stderr=True, highlight=False)
    check_counts(arguments, "threads", "waiting")
    if not 0 <= arguments.port <= 65_535:
        raise ValueError(f"--port is a whole number from 0 to 65535, not {arguments.port}")
    key = read_key(arguments.key_file)
    check_key(key, arguments.host)
    callers = describe_callers(key, arguments.host, arguments.allow_host, arguments.allow_origin)
    check_extra()
    with open_socket(arguments.host, arguments.port) as listener:
        from scale_dspy.serve.models import Catalogue, list_names, read_catalogue
        from scale_dspy.serve.provider import Offer
        from scale_dspy.serve.proxy import serve

        def read(settled: Resolved) -> Catalogue:
            style, candidates = settled.style, settled.candidates
            return read_catalogue(
                arguments.program, arguments.frontier, style=style, candidates=candidates
            )

        settled = settle_backend(arguments)
        catalogue, lm = connect_program(settled, read, console, cache=False)
        host = f"[{arguments.host}]" if ":" in arguments.host else arguments.host
        url = f"http://{host}:{listener.getsockname()[1]}/v1"
        names = list_names(catalogue)

        standard_output = sys.stdout

        def say() -> None:
            console.print(f"serving {', '.join(names)} at {url}", markup=False)
            if arguments.json:
                print(json.dumps({"url": url, "models": names}), file=standard_output, flush=True)

        offer = Offer(catalogue, lm, settled.threads, arguments.waiting)
        with redirect_stdout(sys.stderr):  # the proxy prints, and standard output is for --json
            serve(offer, listener, callers, say)
    return DONE
