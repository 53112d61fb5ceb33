"""What a terminal shows of a program at work: each sub-problem as it is rated and solved."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dspy.utils.callback import BaseCallback
from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as RichProgress
from rich.table import Table
from rich.text import Text

from scale_dspy.lm.doctor import Finding
from scale_dspy.lm.engine import count_in_flight
from scale_dspy.stages.assess import Assess
from scale_dspy.stages.decompose import Decompose
from scale_dspy.stages.solve import Solve

if TYPE_CHECKING:
    from scale_dspy.evaluation.runner import Progress
    from scale_dspy.evaluation.summary import Summary
    from scale_dspy.traces.dataset_card import Card

SOLUTION_LINES = 6  # of each solution; the whole of it is in --json


class Watch(BaseCallback):
    """A DSPy callback that writes a SCALE program's work to a console as it happens."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.status = console.status("waiting for the model")
        self._calls: dict[str, tuple[Any, dict[str, Any]]] = {}
        self._difficulties: dict[str, float] = {}
        self._solved = 0
        self._total: int | None = None
        self._lock = threading.Lock()

    def on_module_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        arguments = inputs.get("kwargs", inputs)
        if isinstance(instance, Decompose):
            self.status.update("splitting the problem")
        elif isinstance(instance, Assess):
            self.status.update("rating a sub-problem")
        elif isinstance(instance, Solve):
            of = f" of {self._total}" if self._total else ""
            thinking = "thinking" if arguments["system"] == 2 else "without thinking"
            self.status.update(f"solving sub-problem {self._solved + 1}{of}, {thinking}")
        else:
            return
        with self._lock:
            self._calls[call_id] = (instance, arguments)

    def on_module_end(self, call_id: str, outputs: Any, exception: Exception | None = None) -> None:
        with self._lock:
            instance, arguments = self._calls.pop(call_id, (None, {}))
        if instance is None or exception is not None:
            return
        if isinstance(instance, Decompose):
            self._total = len(outputs.subproblems)
            self._difficulties.clear()  # a rating of the whole problem, by which it was split
            plural = "" if self._total == 1 else "s"
            self.console.print(f"[bold]{self._total} sub-problem{plural}[/bold]")
        elif isinstance(instance, Assess):
            self._difficulties[arguments["subproblem"]] = outputs.difficulty
        else:
            self._solved += 1
            self._show_step(arguments, outputs)

    def _show_step(self, arguments: dict[str, Any], solved: Any) -> None:
        subproblem = arguments["subproblem"]
        whole = subproblem == arguments["problem"]
        title = "the question itself" if whole else escape(_fold(subproblem))
        difficulty = self._difficulties.get(subproblem)
        rated = "" if difficulty is None else f"difficulty {difficulty:.2f}, "
        colour = "magenta" if solved.system == 2 else "cyan"
        self.console.print(f"\n[bold]{self._solved}.[/bold] {title}")
        note = f"{rated}System {solved.system}, {solved.tokens:,} tokens"
        self.console.print(Padding(Text(note, style=colour), (0, 0, 0, 3)))
        lines = [line for line in solved.solution.splitlines() if line.strip()]
        shown = lines[-SOLUTION_LINES:]
        if len(lines) > len(shown):
            shown = [f"[{len(lines) - len(shown)} lines before this]", *shown]
        self.console.print(Padding(Text("\n".join(shown), style="dim"), (0, 0, 0, 3)))


class RunBar:
    """The progress of a run: rollouts, accuracy, tokens, calls in flight, time left.

    As a context manager it says, when the run is interrupted, what is kept.
    """

    def __init__(self, console: Console, out: Path) -> None:
        self.console, self.out = console, out
        self.state: Progress | None = None
        self.bar = RichProgress(
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.description}"),
            _InFlight(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
        )
        self.task = self.bar.add_task("", total=None)

    def __enter__(self) -> RunBar:
        self.bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.bar.stop()
        if kind is not None and self.state is not None:
            kept = f"{self.state.done} of {self.state.total} are kept in {self.out}"
            self.console.print(f"{kept}; the same command goes on from there", markup=False)

    def report(self, state: Progress, stage: str = "") -> None:
        """Show where the run, or this stage of it, stands."""
        self.state = state
        told = f"{stage}: " if stage else ""
        told += (
            f"{state.right / state.done:.1%} right, {state.tokens / state.done:,.0f} tokens each"
        )
        told += f", {state.errors} errors" if state.errors else ""
        self.bar.update(self.task, total=state.total, completed=state.done, description=told)


class _InFlight(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{count_in_flight()} calls in flight")


def show_summary(console: Console, method: str, summary: Summary) -> None:
    """The figures of a run, on a line each."""
    low, high = summary["accuracy_interval"]
    rows = [
        ("method", method),
        ("problems x samples", f"{summary['problems']} x {summary['samples']}"),
        ("accuracy", f"{summary['accuracy']:.1%}  (95 % interval {low:.1%} to {high:.1%})"),
        ("response tokens a problem", _number(summary["tok"], 0)),
        ("  per sub-problem", _number(summary["tpi"], 0)),
        ("sub-problems by System 2", f"{_number(summary['hard_percent'], 1)} %"),
        ("calls a problem", _number(summary["calls"], 1)),
        ("calls drawn, replayed", f"{_number(summary['drawn'], 0)}, {summary['replayed']:,}"),
        ("seconds a problem", _number(summary["seconds"], 1)),
        ("errors", str(summary["errors"])),
    ]
    for name, value in rows:
        console.print(f"{name:<26} {value}")
    if summary["unknown"]:
        note = f"note: the server did not tell the tokens of {summary['unknown']:,} replies"
        console.print(f"{note}: they count as 0 here", style="yellow")


def show_card(console: Console, card: Card) -> None:
    """The figures of a file of traces, on a line each."""
    low, high = card.kept_interval
    share = f"{card.kept_share:.1%} ({low:.1%} to {high:.1%})"
    for name, value in (
        ("problems", f"{card.problems:,}"),
        ("dropped for overlap", f"{sum(card.overlapping.values()):,}"),
        ("kept", f"{card.kept:,} of {card.solved:,}: {share}"),
        ("other rollouts", ", ".join(f"{n} {why}" for why, n in card.dropped.items()) or "none"),
        ("response tokens", f"{card.tokens:,}, in the records {card.tokens_kept:,}"),
    ):
        console.print(f"{name:<26} {value}")


def show_frontier(console: Console, frontier: dict[str, Any]) -> None:
    """The points that no other one beats, cheapest first, then the choices: all of frontier.json
    that is for reading."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("threshold", "split", "accuracy", "tokens"):
        table.add_column(name, justify="right")
    for point in frontier["points"]:
        table.add_row(
            f"{point['threshold']:g}",
            f"{point['split']:g}",
            f"{point['accuracy']:.1%}",
            f"{point['tokens']:,.0f}",
        )
    console.print(table)
    console.print()
    for name, choice in frontier["choices"].items():
        console.print(f"{name.replace('_', ' '):<16}{_tell_choice(choice)}")
    scores = frontier["difficulty"]
    if scores is not None and scores["auroc"] is not None:
        console.print(
            f"{'scores':<16}tell hard from easy sub-problems with AUROC {scores['auroc']:.2f} "
            f"({scores['count']} of them, {scores['share_hard']:.0%} hard)"
        )


def show_compiled(console: Console, record: dict[str, Any]) -> None:
    """What a compile did: each stage, the scores before and after, the cost."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("stage", "threshold", "split", "accuracy", "tokens", "cost in tokens", ""):
        table.add_column(name, justify="left" if name in ("stage", "") else "right")
    for stage in record["stages"]:
        table.add_row(
            stage["name"],
            f"{stage['threshold']:g}",
            f"{stage['split']:g}",
            f"{stage['accuracy']:.1%}",
            f"{stage['tok']:,.0f}",
            f"{stage['response_tokens']:,}",
            "chosen" if stage["kept"] else "",
        )
    console.print(table)
    for sentence in record["told"]:
        console.print(sentence, markup=False)
    for note in record["notes"]:
        console.print(f"note: {note}", style="yellow", markup=False)


def _tell_choice(choice: dict[str, Any]) -> str:
    accuracy, tokens = choice["accuracy"], choice["tokens"]
    low, high = choice["threshold_interval"]
    told = (
        f"threshold {choice['threshold']:g} (resampled {low:.2g} to {high:.2g}), "
        f"split {choice['split']:g}: {accuracy['estimate']:.1%} "
        f"({accuracy['low']:.1%} to {accuracy['high']:.1%}), {tokens['estimate']:,.0f} tokens"
    )
    return told if choice["within_budget"] else f"{told}, and nothing keeps to the budget"


def _number(value: float | None, digits: int) -> str:
    return "unknown" if value is None else f"{value:,.{digits}f}"


def show_usage(console: Console, usage: dict[str, dict[str, Any]], seconds: float) -> None:
    """A table of the cost by stage."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("stage", "calls", "prompt", "response", "reasoning", "seconds"):
        table.add_column(name, justify="left" if name == "stage" else "right")
    keys = ("calls", "prompt_tokens", "completion_tokens", "reasoning_tokens", "seconds")
    rows = [(name, tally) for name, tally in usage.items() if tally["calls"]]
    total = {key: sum(tally[key] for _, tally in rows) for key in keys}
    for name, tally in [*rows, ("all", {**total, "seconds": seconds})]:
        cells = [f"{tally[key]:,.1f}" if key == "seconds" else f"{tally[key]:,}" for key in keys]
        table.add_row(name, *cells, style="bold" if name == "all" else None)
    console.print()
    console.print(table)


def show_finding(console: Console, finding: Finding) -> None:
    """One line of the doctor's report, and what to do about it."""
    sign = {True: "[green]yes[/green]", False: "[red]no [/red]", None: "[yellow]?  [/yellow]"}
    console.print(f"{sign[finding.ok]}  [bold]{finding.name:<16}[/bold] {escape(finding.detail)}")
    if finding.advice and not finding.ok:
        console.print(Padding(Text(finding.advice, style="yellow"), (0, 0, 0, 22)))


def _fold(text: str) -> str:
    return " ".join(text.split())
