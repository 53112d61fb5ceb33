"""`serve` and `doctor`: SCALE as a server, and the server behind it."""

from __future__ import annotations

import argparse
import json
import sys
from contextlib import redirect_stdout
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

from scale_dspy.cli.options import (
    DONE,
    FAILED,
    check_counts,
    choose_style,
    connect_backend,
    count_candidates,
    count_threads,
    print_json,
    start_embedded,
)

if TYPE_CHECKING:
    from scale_dspy.lm.doctor import Finding


def serve(arguments: argparse.Namespace) -> int:
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
        from scale_dspy.serve.models import list_names, read_catalogue
        from scale_dspy.serve.provider import Offer
        from scale_dspy.serve.proxy import serve as run

        catalogue = read_catalogue(
            arguments.program,
            arguments.frontier,
            style=choose_style(arguments),
            candidates=count_candidates(arguments),
        )
        lm = connect_backend(arguments, console, cache=False)
        host = f"[{arguments.host}]" if ":" in arguments.host else arguments.host
        url = f"http://{host}:{listener.getsockname()[1]}/v1"
        names = list_names(catalogue)

        standard_output = sys.stdout

        def say() -> None:
            console.print(f"serving {', '.join(names)} at {url}", markup=False)
            if arguments.json:
                print(json.dumps({"url": url, "models": names}), file=standard_output, flush=True)

        offer = Offer(catalogue, lm, count_threads(arguments), arguments.waiting)
        with redirect_stdout(sys.stderr):  # the proxy prints, and standard output is for --json
            run(offer, listener, callers, say)
    return DONE


def doctor(arguments: argparse.Namespace) -> int:
    """Probe the server with real calls and say what holds; fails if SCALE cannot work with it."""
    from rich.console import Console

    from scale_dspy.cli.console import show_finding
    from scale_dspy.lm.connect import uses_embedded
    from scale_dspy.lm.doctor import examine
    from scale_dspy.lm.routing import split_addresses

    console = Console(stderr=bool(arguments.json), highlight=False)
    model = (arguments.model or "").removeprefix("hosted_vllm/") or None
    api_base, key = arguments.api_base, arguments.api_key
    if uses_embedded(model, api_base):
        server = start_embedded(model, console)
        model, api_base, key = server.model, server.api_base, server.key
    addresses = split_addresses(api_base)
    if not addresses:
        raise ValueError("there is no server to ask: give --api-base, or set SCALE_API_BASE")
    rows = []
    with console.status("asking the server"):
        for number, address in enumerate(addresses, 1):
            if len(addresses) > 1:
                console.print(f"server {number}: {address}", markup=False)
            for finding in examine(address, model, key):
                finding = _hide_key(finding, key)
                place = {"server": number} if len(addresses) > 1 else {}
                rows.append({**place, **asdict(finding)})
                show_finding(console, finding)
    if arguments.json:
        print_json({"model": model, "findings": rows})
    return FAILED if any(row["needed"] and not row["ok"] for row in rows) else DONE


def _hide_key(finding: Finding, key: str | None) -> Finding:
    """The finding without the key, which a server's own words may repeat."""
    if not key:
        return finding
    detail, advice = finding.detail.replace(key, "[key]"), finding.advice.replace(key, "[key]")
    return replace(finding, detail=detail, advice=advice)
