"""What a terminal shows of a program at work: each sub-problem as it is rated and solved."""

from __future__ import annotations

import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
from rich.text import Text

from scale_dspy.cli.interrupts import winding_up
from scale_dspy.lm.engine import count_in_flight
from scale_dspy.stages.assess import Assess
from scale_dspy.stages.decompose import Decompose
from scale_dspy.stages.registry import find_stage
from scale_dspy.stages.solve import Solve

if TYPE_CHECKING:
    from scale_dspy.evaluation.runner import Progress
    from scale_dspy.lm.usage import Ledger

SOLUTION_LINES = 6  # of each solution; the whole of it is shown with --full


class Watch(BaseCallback):
    """A DSPy callback that writes a SCALE program's work to a console as it happens.

    Args:
        spent: the ledger of the work, whose tokens are shown while it waits.
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
    """The line shown while waiting: what is done, for how long, how many tokens so far."""

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
        """Show how far the run, or this stage of it, is."""
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


def _fold(text: str) -> str:
    return " ".join(text.split())
