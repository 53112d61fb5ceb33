"""`doctor`: the server behind SCALE is examined."""

from __future__ import annotations

import argparse
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

from scale_dspy.cli.arguments import add_backend
from scale_dspy.cli.options import DONE, FAILED, check_counts, print_json, start_with_progress
from scale_dspy.utils.validation import check_seed

if TYPE_CHECKING:
    from scale_dspy.lm.doctor import Finding

HELP = "what the server at --api-base really does"
EXAMPLES = """
scale-dspy doctor
scale-dspy doctor --api-base http://127.0.0.1:8000/v1
"""


def add_arguments(command: argparse.ArgumentParser) -> None:
    add_backend(command)


def run(arguments: argparse.Namespace) -> int:
    """Probe the server with real calls and say what holds; fails if SCALE cannot work with it."""
    from rich.console import Console

    from scale_dspy.cli.figures import show_finding
    from scale_dspy.lm.client import prepare_address
    from scale_dspy.lm.connect import uses_embedded
    from scale_dspy.lm.doctor import examine, write_command_line
    from scale_dspy.lm.routing import split_addresses

    console = Console(stderr=bool(arguments.json), highlight=False)
    check_counts(arguments, "threads")
    check_seed(arguments.seed)
    model = (arguments.model or "").removeprefix("hosted_vllm/") or None
    api_base, key = arguments.api_base, arguments.api_key
    embedded = uses_embedded(model, api_base)
    if embedded:
        server = start_with_progress(model, console)
        model, api_base, key = server.model, server.api_base, server.key
    addresses = split_addresses(api_base)
    if not addresses:
        raise ValueError("there is no server to ask: give --api-base, or set SCALE_API_BASE")
    rows, lines = [], []
    with console.status("asking the server"):
        for number, address in enumerate(addresses, 1):
            if len(addresses) > 1:
                plain, _ = prepare_address(address, None)  # without a password
                console.print(f"server {number}: {plain}", markup=False)
            findings = []
            for finding in examine(address, model, key, embedded=embedded):
                finding = _hide_key(finding, key)
                place = {"server": number} if len(addresses) > 1 else {}
                rows.append({**place, **asdict(finding)})
                show_finding(console, finding)
                findings.append(finding)
            if line := write_command_line(findings):
                lines.append(line)
                console.print(f"beside your own flags: {line}", markup=False, soft_wrap=True)
    if arguments.json:
        print_json({"model": model, "findings": rows, "command_lines": lines})
    return FAILED if any(row["needed"] and not row["ok"] for row in rows) else DONE


def _hide_key(finding: Finding, key: str | None) -> Finding:
    """The finding without the key, which a server's own words may repeat."""
    if not key:
        return finding
    detail, advice = finding.detail.replace(key, "[key]"), finding.advice.replace(key, "[key]")
    return replace(finding, detail=detail, advice=advice)
