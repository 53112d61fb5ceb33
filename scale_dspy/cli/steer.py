"""`status` and `stop`, and `--detach`: a long run is looked at, ended and left alone."""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from scale_dspy.cli.options import DONE, print_json

if TYPE_CHECKING:
    from rich.table import Table

    from scale_dspy.evaluation.run_folder import RunStatus

WATCH = 2.0  # seconds between two looks
LOG = "log.txt"
BEGIN = 120.0  # seconds that a detached run gets to begin its work


def status(arguments: argparse.Namespace) -> int:
    """Say where runs stand; with --watch, again and again until none is at work."""
    from rich.console import Console
    from rich.live import Live

    from scale_dspy.evaluation.run_folder import find_runs, read_status

    folders = find_runs([Path(folder) for folder in arguments.folders])
    statuses = [read_status(folder) for folder in folders]
    if arguments.json:
        print_json([asdict(one) for one in statuses])
        return DONE
    console = Console(highlight=False)
    if not arguments.watch:
        console.print(render_statuses(statuses))
        return DONE
    with Live(render_statuses(statuses), console=console, refresh_per_second=4) as live:
        while any(one.state == "running" for one in statuses):
            time.sleep(WATCH)
            statuses = [read_status(folder) for folder in folders]
            live.update(render_statuses(statuses))
    return DONE


def stop(arguments: argparse.Namespace) -> int:
    """End a run as Ctrl-C would."""
    from rich.console import Console

    from scale_dspy.evaluation.run_folder import stop_run

    ended = stop_run(Path(arguments.folder))
    console = Console(stderr=bool(arguments.json), highlight=False)
    console.print(
        f"stopped: {_show_done(ended)} are kept in {ended.folder}; "
        "the same command goes on from there",
        markup=False,
    )
    if arguments.json:
        print_json(asdict(ended))
    return DONE


def detach(argv: Sequence[str], out: Path) -> int:
    """Run a command on in the background, its words in a log in `out`; back once it is at work.

    Args:
        argv: the command's own arguments.
        out: the folder it will work in.
    """
    from scale_dspy.evaluation.run_folder import find_worker

    if find_worker(out):
        raise ValueError(f"{out} is in use by another run")
    out.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "scale_dspy", *(each for each in argv if each != "--detach")]
    with (out / LOG).open("ab") as log:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
    deadline = time.monotonic() + BEGIN
    while process.poll() is None and not find_worker(out) and time.monotonic() < deadline:
        time.sleep(0.1)
    code = process.poll()
    if code:
        lines = (out / LOG).read_text(encoding="utf-8", errors="replace").splitlines()
        raise RuntimeError(f"it ended at once: {(lines or ['no word'])[-1]}")
    how = f"runs as process {process.pid}" if code is None else "is done already"
    print(
        f"{out}: {how}, its words are in {out / LOG}; `scale-dspy status {out}` tells how far it "
        f"is, `scale-dspy stop {out}` ends it",
        file=sys.stderr,
    )
    return DONE


def render_statuses(statuses: Sequence[RunStatus]) -> Table:
    """A line a run."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("run", "state", "done", "right", "tokens", "a minute", "left", "errors"):
        table.add_column(name, justify="left" if name in ("run", "state", "errors") else "right")
    colours = {"running": "cyan", "finished": "green", "stopped": "yellow"}
    for one in statuses:
        process = f" ({one.worker.pid})" if one.worker else ""
        table.add_row(
            one.folder,
            f"[{colours[one.state]}]{one.state}[/]{process}",
            _show_done(one),
            _show_accuracy(one),
            "" if one.tokens is None else f"{one.tokens:,.0f}",
            "" if one.rate is None else f"{one.rate:,.1f}",
            "" if one.seconds_left is None else _show_time(one.seconds_left),
            ", ".join(f"{count} {name}" for name, count in one.errors.items()) or "none",
        )
    return table


def _show_done(one: RunStatus) -> str:
    return f"{one.done:,}" if one.total is None else f"{one.done:,} of {one.total:,}"


def _show_accuracy(one: RunStatus) -> str:
    if one.accuracy is None or one.accuracy_interval is None:
        return ""
    low, high = one.accuracy_interval
    return f"{one.accuracy:.1%} ({100 * low:.0f}-{100 * high:.0f})"


def _show_time(seconds: float) -> str:
    """Seconds as a person says them: 40 s, 12 min, 3 h 20 min."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02} min"
