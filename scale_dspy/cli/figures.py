"""The tables that commands print: of runs, forecasts, frontiers, compiles, servers and usage."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from scale_dspy.evaluation.forecast import Forecast
    from scale_dspy.evaluation.run_status import RunStatus
    from scale_dspy.evaluation.summary import Summary
    from scale_dspy.lm.doctor import Finding
    from scale_dspy.traces.dataset_card import Card
    from scale_dspy.tuning.forecast import CompileForecast


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
    for name, value in (*rows, *_list_cost(dict(summary))):
        console.print(f"{name:<26} {value}")
    if summary["unknown"]:
        note = f"note: the server did not tell the tokens of {summary['unknown']:,} replies"
        console.print(f"{note}: they count as 0 here", style="yellow")


def _list_cost(cost: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The lines on tokens, time and money, as far as they are known."""
    prompt = cost.get("prompt_tokens")
    if prompt is not None:
        yield "prompt tokens, all", f"{prompt:,}, of these cached {cost.get('cached_tokens', 0):,}"
        thought = cost.get("reasoning_tokens", 0)
        yield "response tokens, all", f"{cost['response_tokens']:,}, of these reasoning {thought:,}"
    if cost.get("gpu_seconds") is not None:
        yield "GPU-seconds", f"{cost['gpu_seconds']:,.0f}"
    if cost.get("dollars") is not None:
        yield "dollars", f"{cost['dollars']:,.4f}"


def show_forecast(console: Console, planned: Forecast | CompileForecast, out: Path) -> None:
    """What a run or a compile would do, on a line each."""
    from scale_dspy.evaluation.forecast import Forecast

    least, most = planned.requests
    lines = (
        list(_list_run(planned, out))
        if isinstance(planned, Forecast)
        else list(_list_compile(planned, out))
    )
    tokens = "unknown: --like DIR names a run to learn it from"
    if planned.tokens is not None:
        tokens = f"about {planned.tokens:,.0f} (by the mean of {planned.measured:,})"
    lines += [
        ("requests", f"{least:,} to {most:,}, repeats of unreadable replies aside"),
        ("response tokens", tokens),
    ]
    if planned.dollars is not None:
        lines.append(("dollars", f"about {planned.dollars:,.2f}"))
    for name, value in lines:
        console.print(f"{name:<26} {value}", markup=False)


def _list_run(planned: Forecast, out: Path) -> Iterator[tuple[str, str]]:
    yield "problems x samples", f"{planned.problems} x {planned.samples}"
    yield "there already", f"{planned.done:,}, in {out}"
    yield "to be made", f"{planned.missing:,}"


def _list_compile(planned: CompileForecast, out: Path) -> Iterator[tuple[str, str]]:
    yield "problems", f"{planned.training} to tune on, {planned.validation} to choose on"
    yield "walks", f"{planned.walks:,}, of which {planned.done:,} are in {out}"
    yield "runs of the optimizer", f"about {planned.rollouts:,}" if planned.rollouts else "none"
    if planned.cost_limit is not None:
        yield "cost limit", f"{planned.cost_limit:,} response tokens"
    if planned.dollar_limit is not None:
        yield "cost limit", f"{planned.dollar_limit:,.2f} dollars"


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
        *_list_cost(card.cost),
    ):
        console.print(f"{name:<26} {value}")


def show_frontier(console: Console, frontier: dict[str, Any]) -> None:
    """The points that no other one beats, cheapest first; then the choices, and what it cost."""
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
    for name, value in _list_cost(frontier["cost"]):
        console.print(f"{name:<26} {value}")


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
    for name, value in _list_cost(record["cost"]):
        console.print(f"{name:<26} {value}")
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
    names = ("run", "state", "done", "right", "tokens", "a minute", "left", "cost", "errors")
    for name in names:
        table.add_column(name, justify="left" if name in ("run", "state", "errors") else "right")
    colours = {"running": "cyan", "finished": "green", "stopped": "yellow"}
    for one in statuses:
        process = f" ({one.worker.pid})" if one.worker else ""
        stage = f": {one.stage}" if one.stage and one.state != "finished" else ""
        table.add_row(
            one.folder,
            f"[{colours[one.state]}]{one.state}[/]{stage}{process}",
            show_done(one),
            _show_accuracy(one),
            "" if one.tokens is None else f"{one.tokens:,.0f}",
            "" if one.rate is None else f"{one.rate:,.1f}",
            "" if one.seconds_left is None else _show_time(one.seconds_left),
            _show_cost(one),
            ", ".join(f"{count} {name}" for name, count in one.errors.items()) or "none",
        )
    return table


def show_done(one: RunStatus) -> str:
    """How many rollouts or walks are there, and of how many."""
    if one.stage == "prompts":  # its runs of the program are the optimizer's own, and not recorded
        return f"{one.calls or 0:,} calls"
    return f"{one.done:,}" if one.total is None else f"{one.done:,} of {one.total:,}"


def _show_accuracy(one: RunStatus) -> str:
    if one.accuracy is None or one.accuracy_interval is None:
        return ""
    low, high = one.accuracy_interval
    return f"{one.accuracy:.1%} ({100 * low:.0f}-{100 * high:.0f})"


def _show_cost(one: RunStatus) -> str:
    """What was sent so far and what a limit leaves: in dollars, or else in response tokens."""
    done = one.state == "finished"
    if one.dollars is not None:
        left = "" if one.dollars_left is None or done else f", ${one.dollars_left:,.2f} left"
        if one.tokens_left is None or left:
            return f"${one.dollars:,.2f}{left}"
    if one.sent_tokens is None:
        return ""
    left = "" if one.tokens_left is None or done else f", {one.tokens_left:,} left"
    return f"{one.sent_tokens:,}{left}"


def _show_time(seconds: float) -> str:
    """Seconds as a person says them: 40 s, 12 min, 3 h 20 min."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02} min"
