"""`report`: a page on runs, a table of them, or logs for Inspect."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from scale_dspy.cli.options import DONE, print_json

if TYPE_CHECKING:
    from rich.console import Console

    from scale_dspy.report.report import Report

HELP = "a page on one or several runs"
EXAMPLES = """
scale-dspy report runs/scale
scale-dspy report runs/cot runs/scale --out report.html
"""


def add_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "folders", nargs="+", metavar="DIR", help="folders of evaluate --out or frontier --out"
    )
    command.add_argument(
        "--out",
        metavar="FILE.html",
        help="the page [report.html, or none with --table or --inspect]",
    )
    command.add_argument(
        "--table", choices=("latex", "markdown"), help="print the runs as a table for a paper"
    )
    command.add_argument(
        "--inspect", metavar="DIR", help="write the runs as logs that `inspect view` opens"
    )
    command.add_argument(
        "--price",
        metavar="IN,OUT",
        help="dollars for a million prompt and response tokens [as the runs note it]",
    )
    command.add_argument(
        "--gpus", type=int, metavar="N", help="that served, to count GPU-seconds [as noted]"
    )
    command.add_argument("--json", action="store_true", help="one JSON object on standard output")


def run(arguments: argparse.Namespace) -> int:
    """Write a page on one or several runs, with pictures beside it; or a table, or logs."""
    from rich.console import Console

    from scale_dspy.evaluation.costs import Terms
    from scale_dspy.lm.price import read_price
    from scale_dspy.report.report import read_report, write_report

    price = None if arguments.price is None else read_price(arguments.price)
    costs = Terms(price=price, gpus=arguments.gpus)
    folders = [Path(folder) for folder in arguments.folders]
    if arguments.out or not (arguments.table or arguments.inspect):
        report = write_report(folders, Path(arguments.out or "report.html"), costs)
    else:
        report = read_report(folders, costs)
    # A table that is asked for has standard output to itself, as JSON has.
    console = Console(stderr=bool(arguments.json or arguments.table), highlight=False)
    _show(console, report)
    if arguments.inspect:
        from scale_dspy.report.inspect_logs import write_logs

        logs = write_logs(report.runs, Path(arguments.inspect))
        console.print(f"{len(logs)} logs are in {arguments.inspect}", markup=False)
    if arguments.table:
        from scale_dspy.report.tables import write_table

        table = write_table(report.runs, arguments.table)
        if arguments.json:
            console.print(table, markup=False)
        else:
            print(table)
    if arguments.json:
        print_json(report.to_dict())
    return DONE


def _show(console: Console, report: Report) -> None:
    from scale_dspy.report.names import clean_line
    from scale_dspy.report.report import render_comparisons, render_costs, render_table
    from scale_dspy.report.verdict import write_verdicts

    for verdict in write_verdicts(report.runs, report.pairs):
        console.print(clean_line(verdict), style="bold", markup=False)
    if report.runs:
        console.print(render_table(report))
    if any(run.summary["prompt_tokens"] is not None for run in report.runs):
        console.print()
        console.print(render_costs(report))
    if report.pairs:
        console.print()
        console.print(render_comparisons(report))
    for note in report.notes:
        console.print(f"note: {clean_line(note)}", style="yellow", markup=False)
    if report.page:
        console.print(f"{report.page} is written", markup=False)
