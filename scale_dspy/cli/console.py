"""What a terminal shows of a program at work: each sub-problem as it is rated and solved."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import dspy
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

from scale_dspy.cli.interrupts import winding_up
from scale_dspy.lm.doctor import Finding
from scale_dspy.lm.engine import count_in_flight
from scale_dspy.stages.assess import Assess
from scale_dspy.stages.decompose import Decompose
from scale_dspy.stages.registry import find_stage
from scale_dspy.stages.solve import Solve

if TYPE_CHECKING:
    from scale_dspy.evaluation.forecast import Forecast
    from scale_dspy.evaluation.run_status import RunStatus
    from scale_dspy.evaluation.runner import Progress
    from scale_dspy.evaluation.summary import Summary
    from scale_dspy.lm.usage import Ledger
    from scale_dspy.traces.dataset_card import Card

SOLUTION_LINES = 6  # of each solution; the whole of it is shown with --full


class Watch(BaseCallback):
    """A DSPy callback that writes a SCALE program's work to a console as it happens.

    Args:
        spent: the account that the work is entered in, for the tokens told while it waits.
        full: show each solution whole, and the thinking before it.
    """

    def __init__(self, console: Console, spent: Ledger, *, full: bool = False) -> None:
        self.console, self.full = console, full
        self._waiting = _Waiting(spent)
        self.status = console.status(self._waiting)
        self._calls: dict[str, tuple[Any, dict[str, Any]]] = {}
        self._difficulties: dict[str, float] = {}
        self._solved, self._place = 0, ""
        self._total: int | None = None
        self._lock = threading.Lock()

    def on_module_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        arguments = inputs.get("kwargs", inputs)
        if isinstance(instance, dspy.Predict):
            stage = find_stage(dspy.settings.get("scale_stage"))
            if stage is not None:
                self._waiting.doing = f"{self._place}{stage.doing}"
            return
        if isinstance(instance, Solve):
            of = f" of {self._total}" if self._total else ""
            self._place = f"sub-problem {self._solved + 1}{of}: "
        elif not isinstance(instance, (Decompose, Assess)):
            return
        with self._lock:
            self._calls[call_id] = (instance, arguments)

    def on_module_end(
        self, call_id: str, outputs: Any, exception: BaseException | None = None
    ) -> None:
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
            self._place = ""
            self._show_step(arguments, outputs)

    def _show_step(self, arguments: dict[str, Any], solved: Any) -> None:
        subproblem = arguments["subproblem"]
        whole = subproblem == arguments["problem"]
        title = "the question itself" if whole else escape(_fold(subproblem))
        draft = arguments.get("draft")
        difficulty = self._difficulties.get(subproblem, draft and draft.difficulty)
        rated = "" if difficulty is None else f"difficulty {difficulty:.2f}, "
        colour = "magenta" if solved.system == 2 else "cyan"
        self.console.print(f"\n[bold]{self._solved}.[/bold] {title}")
        passes = sum(vote.system == 2 for vote in solved.votes)
        voted = f", {passes} passes" if passes > 1 else ""
        note = f"{rated}System {solved.system}{voted}, {solved.tokens:,} tokens"
        self.console.print(Padding(Text(note, style=colour), (0, 0, 0, 3)))
        if self.full:
            for text in filter(None, (solved.reasoning.strip(), solved.solution.strip())):
                self.console.print(Padding(Text(text, style="dim"), (0, 0, 1, 3)))
            return
        lines = [line for line in solved.solution.splitlines() if line.strip()]
        shown = lines[-SOLUTION_LINES:]
        if len(lines) > len(shown):
            shown = [f"[{len(lines) - len(shown)} lines before this; --full shows all]", *shown]
        self.console.print(Padding(Text("\n".join(shown), style="dim"), (0, 0, 0, 3)))


class _Waiting:
    """What is being done, for how long, and the tokens that came of it; written anew each time."""

    def __init__(self, spent: Ledger) -> None:
        self.doing = "waiting for the model"
        self._spent, self._started = spent, time.monotonic()

    def __rich__(self) -> Text:
        seconds = time.monotonic() - self._started
        tokens = self._spent.tokens
        rate = f", {tokens:,} tokens, {tokens / seconds:,.0f} a second" if tokens else ""
        return Text(f"{self.doing}: {seconds:,.0f} s{rate}")


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
        self._work = ExitStack()

    def __enter__(self) -> RunBar:
        self._work.enter_context(winding_up())
        self.bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._work.close()
        self.bar.stop()
        if kind is not None and self.state is not None:
            kept = f"{self.state.done} of {self.state.total} are kept in {self.out}"
            self.console.print(f"{kept}; the same command goes on from there", markup=False)

    def report(self, state: Progress, stage: str = "") -> None:
        """Show where the run, or this stage of it, stands."""
        self.state = state
        told = f"{stage}: " if stage else ""
        told += f"{state.right / state.done:.1%} right"
        # A walk counts what it sent, and where all of it came from the cache that is nothing.
        told += f", {state.tokens / state.done:,.0f} tokens each" if state.tokens else ""
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
    if "dollars" in summary:
        console.print(f"{'dollars, by LiteLLM':<26} {summary['dollars']:,.4f}")
    if summary["unknown"]:
        note = f"note: the server did not tell the tokens of {summary['unknown']:,} replies"
        console.print(f"{note}: they count as 0 here", style="yellow")


def show_forecast(console: Console, planned: Forecast, out: Path) -> None:
    """What a run would do, on a line each."""
    least, most = planned.requests
    tokens = "unknown: --like DIR names a run to learn it from"
    if planned.tokens is not None:
        tokens = f"about {planned.tokens:,.0f} (the mean of {planned.measured:,} rollouts)"
    for name, value in (
        ("problems x samples", f"{planned.problems} x {planned.samples}"),
        ("there already", f"{planned.done:,}, in {out}"),
        ("to be made", f"{planned.missing:,}"),
        ("requests", f"{least:,} to {most:,}, repeats of unreadable replies aside"),
        ("response tokens", tokens),
    ):
        console.print(f"{name:<26} {value}", markup=False)


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
        console.print(f"{name.replace('_', ' '):<16}{_describe_choice(choice)}")
        console.print(Padding(Text(choice["why"], style="dim"), (0, 0, 0, 16)))
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
            f"{stage['response_tokens']:,}" if stage["response_tokens"] else "-",
            "chosen" if stage["kept"] else "",
        )
    console.print(table)
    for sentence in record["told"]:
        console.print(sentence, markup=False)
    for note in record["notes"]:
        console.print(f"note: {note}", style="yellow", markup=False)


def _describe_choice(choice: dict[str, Any]) -> str:
    accuracy, tokens = choice["accuracy"], choice["tokens"]
    low, high = choice["threshold_interval"]
    drawn = f" (resampled {low:.2g} to {high:.2g})" if low < high else ""
    told = (
        f"threshold {choice['threshold']:g}{drawn}, "
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


def show_modes(console: Console) -> None:
    """What --modes takes: the styles, and how each family's thinking is switched."""
    from scale_dspy.lm.found import explain
    from scale_dspy.lm.modes import Style
    from scale_dspy.lm.switches import CHECKED, SWITCHES

    console.print(f"auto: the server is asked. Styles: {', '.join(get_args(Style))}")
    console.print(f"Families, as their sources had them in {CHECKED}:\n")
    table = Table(box=None, pad_edge=False, header_style="dim")
    for title in ("name", "models", "style", "off or on", "by itself", "parser"):
        table.add_column(title, overflow="fold", no_wrap=title == "name")
    for switch in SWITCHES.values():
        cells = (switch.name, switch.models, switch.style, explain(switch), switch.default)
        table.add_row(*map(escape, (*cells, switch.parser)))
    console.print(table)


def render_statuses(statuses: Sequence[RunStatus]) -> Table:
    """A line a run."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("run", "state", "done", "right", "tokens", "a minute", "left", "errors"):
        table.add_column(name, justify="left" if name in ("run", "state", "errors") else "right")
    colours = {"running": "cyan", "finished": "green", "stopped": "yellow"}
    for one in statuses:
        process = f" ({one.worker.pid})" if one.worker else ""
        table.add_row(
            one.folder,
            f"[{colours[one.state]}]{one.state}[/]{process}",
            show_done(one),
            _show_accuracy(one),
            "" if one.tokens is None else f"{one.tokens:,.0f}",
            "" if one.rate is None else f"{one.rate:,.1f}",
            "" if one.seconds_left is None else _show_time(one.seconds_left),
            ", ".join(f"{count} {name}" for name, count in one.errors.items()) or "none",
        )
    return table


def show_done(one: RunStatus) -> str:
    """How many rollouts are there, and of how many."""
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


def _fold(text: str) -> str:
    return " ".join(text.split())
