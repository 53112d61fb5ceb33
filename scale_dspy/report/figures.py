"""Draw a report's pictures with Matplotlib: PNGs for wide and narrow, bright and dark pages."""

from __future__ import annotations

import io
import math
import textwrap
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from scale_dspy.report.comparisons import Series, count_positions
from scale_dspy.report.names import group_runs, shorten
from scale_dspy.report.paper import TABLE_1, TABLE_2
from scale_dspy.report.run_reader import Run
from scale_dspy.report.sweeps import Sweep

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 180
WIDE, NARROW = 7.4, 3.9  # inches
MARKERS = "osD^vPX*"  # one more than colours, so that pairs of both repeat only after 56


class Look(NamedTuple):
    """The colours of a picture. Most lines' are Okabe and Ito's, which the colour-blind can tell
    apart; the markers differ too. `heat` runs from none to all."""

    ground: str
    ink: str
    soft: str
    faint: str
    heat: tuple[str, str]
    lines: tuple[str, ...]


BRIGHT = Look(
    "#fdfdfb",
    "#1b1c1e",
    "#74777f",
    "#e3e3dd",
    ("#edf2f6", "#0a5c96"),
    ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#7a6a00", "#56b4e9", "#1d1d1f"),
)
DARK = Look(
    "#151618",
    "#e9e8e4",
    "#9a9da4",
    "#2c2f34",
    ("#1f2a33", "#5fb3ee"),
    ("#5fb3ee", "#f5914f", "#3fcaa0", "#e7a3c8", "#cdbb4e", "#9fd4f5", "#e9e8e4"),
)


@dataclass(frozen=True)
class Picture:
    """One picture, as PNGs of two widths, each for a bright and a dark page, and in words."""

    name: str
    alt: str
    wide: bytes
    narrow: bytes
    wide_dark: bytes
    narrow_dark: bytes


def draw_accuracy(runs: Sequence[Run], sweeps: Sequence[Sweep] = ()) -> Picture | None:
    """Accuracy against response tokens, a panel for each set of problems; None where no tokens are
    known.

    Args:
        runs: points, joined where they differ in the threshold alone.
        sweeps: curves over all thresholds, in the panels of their data.
    """
    drawn = [run for run in runs if run.summary["tok"] is not None]
    panels: dict[str, Panel] = {}
    for run in drawn:
        _find_panel(panels, run).runs.append(run)
    for sweep in sweeps:
        _find_panel(panels, sweep).sweeps.append(sweep)
    if not panels:
        return None
    told = [
        f"{run.name}: {100 * run.summary['accuracy']:.1f}% at {run.summary['tok']:,.0f} tokens"
        for run in drawn
    ]
    told += [f"{sweep.name}: a curve of {len(sweep.found.curve)} points" for sweep in sweeps]
    groups = group_runs(runs)
    labels = [*groups, *(f"{sweep.name}, every τ" for sweep in sweeps)]
    labels += [PAPER] if any(panel.set in TABLE_1 for panel in panels.values()) else []

    def draw(figure: Figure, look: Look) -> None:
        all_axes = list(figure.subplots(len(panels), 1, squeeze=False)[:, 0])
        for axes, panel in zip(all_axes, panels.values(), strict=True):
            _plot_panel(axes, panel, groups, look)
            if len(panels) > 1:
                axes.set_title(shorten(panel.data))
        all_axes[-1].set_xlabel("response tokens a rollout")
        _add_legend(figure, all_axes)

    alt = f"Accuracy against response tokens, with error bars. {'; '.join(told)}."
    return _picture("accuracy", alt, draw, 0.7 + 3.5 * len(panels), labels)


PAPER = "the paper’s own rows (Qwen3-32B)"


class Panel(NamedTuple):
    """What is drawn of one set of problems."""

    data: Any
    runs: list[Run]
    sweeps: list[Sweep]

    @property
    def set(self) -> str:
        """The name of its set."""
        return str(self.data)


def _find_panel(panels: dict[str, Panel], each: Run | Sweep) -> Panel:
    """The panel of its data, a new one where it is the first."""
    data = each.description.get("data")
    return panels.setdefault(f"{each.digest} {data}", Panel(data, [], []))


def _plot_panel(axes: Axes, panel: Panel, groups: Mapping[str, Sequence[Run]], look: Look) -> None:
    tokens = [run.summary["tok"] or 0.0 for run in panel.runs]
    tokens += [point.tokens for sweep in panel.sweeps for point in sweep.found.curve]
    tokens += [row.tokens for row in TABLE_1.get(panel.set, ())]
    if min(tokens) > 0 and max(tokens) > 4 * min(tokens):
        axes.set_xscale("log")
    _plot_paper(axes, panel.set, look)
    for place, sweep in enumerate(panel.sweeps, len(groups)):
        _plot_sweep(axes, sweep, look.lines[place % len(look.lines)])
    for index, (name, group) in enumerate(groups.items()):
        there = [run for run in group if any(run is member for member in panel.runs)]
        there.sort(key=lambda run: run.threshold or 0)
        if there:
            _plot_group(axes, name, there, _style(index, look))
    axes.set_ylim(*_find_span(axes))
    axes.set_ylabel("accuracy (%)")
    _format_counts(axes)


def _plot_group(axes: Axes, name: str, runs: Sequence[Run], style: Mapping[str, Any]) -> None:
    x = [run.summary["tok"] or 0 for run in runs]
    y = [100 * run.summary["accuracy"] for run in runs]
    axes.errorbar(
        x,
        y,
        xerr=_arms(x, [run.summary["tok_interval"] for run in runs], 1),
        yerr=_arms(y, [run.summary["accuracy_interval"] for run in runs], 100),
        label=name,
        **style,
    )
    if len(runs) > 1:
        axes.plot(x, y, color=style["color"], linewidth=0.8, alpha=0.6)
        _label_thresholds(axes, runs, x, y)


def _plot_sweep(axes: Axes, sweep: Sweep, colour: str) -> None:
    curve = sorted(sweep.found.curve, key=lambda point: point.threshold)
    x, y = [point.tokens for point in curve], [100 * point.accuracy for point in curve]
    axes.plot(x, y, color=colour, linewidth=1.3, label=f"{sweep.name}, every τ")
    for place, (name, chosen) in enumerate(sweep.found.choices.items()):
        at = (chosen.tokens.estimate, 100 * chosen.accuracy.estimate)
        axes.plot(*at, marker="o", markersize=5, color=colour, linestyle="none")
        axes.annotate(
            f"{name.replace('_', ' ')}, τ {chosen.threshold:.2g}",
            at,
            xytext=(6, (-11, 5, 14)[place % 3]),
            textcoords="offset points",
            fontsize=7,
        )


def _plot_paper(axes: Axes, name: str, look: Look) -> None:
    """The paper's rows for a set that it has, hollow, and its threshold sweep, dotted."""
    rows, sweep = TABLE_1.get(name, ()), TABLE_2.get(name, ())
    soft: dict[str, Any] = {"color": look.soft, "linewidth": 0.9}
    axes.plot([row.tokens for row in sweep], [row.accuracy for row in sweep], ":", **soft)
    for place, row in enumerate(rows):
        axes.plot(
            row.tokens,
            row.accuracy,
            marker="D",
            markersize=5,
            markerfacecolor="none",
            markeredgecolor=look.soft,
            linestyle="none",
            label=PAPER if place == 0 else None,
        )
        axes.annotate(
            f"{row.label} (paper)",
            (row.tokens, row.accuracy),
            xytext=(6, 4),
            textcoords="offset points",
            fontsize=7,
            color=look.soft,
        )


def _find_span(axes: Axes) -> tuple[float, float]:
    """Tens of percent around everything drawn, so that small gaps are seen."""
    low, high = axes.dataLim.ymin, axes.dataLim.ymax
    return max(-2, 10 * math.floor((low - 2) / 10)), min(102, 10 * math.ceil((high + 2) / 10))


def draw_caps(runs: Sequence[Run]) -> Picture | None:
    """Accuracy against the most tokens of one System 2 call, as the paper's Figure 2; None where no
    runs differ in that alone."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        if run.cap is not None:
            method = shorten(run.description.get("method"))
            threshold = "" if run.threshold is None else f" τ={run.threshold:g}"
            name = f"{method}{threshold}, {shorten(run.description.get('data'))}"
            groups.setdefault(name, []).append(run)
    lines = {name: group for name, group in groups.items() if len({run.cap for run in group}) > 1}
    if not lines:
        return None

    def draw(figure: Figure, look: Look) -> None:
        axes = figure.subplots()
        for index, (name, group) in enumerate(lines.items()):
            group = sorted(group, key=lambda run: run.cap or 0)
            x, y = [run.cap or 0 for run in group], [100 * run.summary["accuracy"] for run in group]
            arms = _arms(y, [run.summary["accuracy_interval"] for run in group], 100)
            style = {**_style(index, look), "linestyle": "-", "linewidth": 1}
            axes.errorbar(x, y, yerr=arms, label=name, **style)
        axes.set_ylim(*_find_span(axes))
        axes.set(xlabel="most tokens of one System 2 call", ylabel="accuracy (%)")
        _format_counts(axes)
        _add_legend(figure, [axes])

    told = [
        f"{run.name}: {100 * run.summary['accuracy']:.1f}%" for g in lines.values() for run in g
    ]
    alt = f"Accuracy against System 2's cap on tokens. {'; '.join(told)}."
    return _picture("caps", alt, draw, 3.6, list(lines))


def _label_thresholds(
    axes: Axes, runs: Sequence[Run], x: Sequence[float], y: Sequence[float]
) -> None:
    for place, (run, at, up) in enumerate(zip(runs, x, y, strict=True)):
        axes.annotate(
            f"τ {run.threshold:g}" if run.threshold is not None else "",
            (at, up),
            xytext=(5, 5) if place % 2 == 0 else (5, -11),
            textcoords="offset points",
            fontsize=7,
        )


def draw_calibration(series: Sequence[Series]) -> Picture | None:
    """Wrong answers by the difficulty of what System 1 solved; None where nothing was rated."""
    if not series:
        return None

    def draw(figure: Figure, look: Look) -> None:
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        for index, (name, place, _, bins) in enumerate(series):
            style = _style(place, look)
            shift = (index - (len(series) - 1) / 2) * 0.09 / (len(series) + 1)
            middles = [(each.low + each.high) / 2 + shift for each in bins]
            shares = [100 * each.wrong.estimate for each in bins]
            ends = [[each.wrong.low, each.wrong.high] for each in bins]
            above.errorbar(middles, shares, yerr=_arms(shares, ends, 100), label=name, **style)
            below.bar(
                middles,
                [each.steps for each in bins],
                width=0.09 / (len(series) + 1),
                color=style["color"],
            )
        above.set(ylim=(-2, 102), ylabel="wrong final answers (%)")
        below.set(xlim=(0, 1), xlabel="difficulty", ylabel="sub-problems")
        below.set_xticks([tenth / 10 for tenth in range(11)])
        _add_legend(figure, [above])

    alt = "Share of wrong final answers by the difficulty of sub-problems solved by System 1. "
    alt += "The table below the picture has its numbers."
    return _picture("calibration", alt, draw, 4.2, [each.name for each in series])


def draw_positions(runs: Sequence[Run]) -> Picture | None:
    """The share of System 2 by run and position, as a heat map; None where nothing was solved."""
    columns, counts = count_positions(runs)
    rows = [(run.name, row) for run, row in zip(runs, counts, strict=True) if any(row)]
    if not columns:
        return None

    def draw(figure: Figure, look: Look) -> None:
        axes = figure.subplots()
        for height, (_, row) in enumerate(rows):
            for place, cell in enumerate(row):
                if cell:
                    _fill_cell(axes, place, height, cell[0] / cell[1], look)
        axes.set(xlim=(-0.5, len(columns) - 0.5), ylim=(len(rows) - 0.5, -0.5))
        axes.set_xticks(range(len(columns)), columns)
        width = 30 if figure.get_figwidth() >= WIDE else 13
        axes.set_yticks(range(len(rows)), [_wrap(name, width) for name, _ in rows])
        axes.set_xlabel("position of the sub-problem in its problem")
        axes.tick_params(length=0)
        axes.grid(visible=False)
        axes.spines[:].set_visible(False)

    alt = "Share of sub-problems solved by System 2, by run and position. "
    alt += "The table below the picture has its numbers."
    return _picture("system2", alt, draw, 1.0 + 0.42 * len(rows), [])


def _fill_cell(axes: Axes, column: int, row: int, share: float, look: Look) -> None:
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.patches import Rectangle

    colour = LinearSegmentedColormap.from_list("heat", look.heat)(share)
    axes.add_patch(Rectangle((column - 0.48, row - 0.46), 0.96, 0.92, facecolor=colour))
    ink = look.ground if share > 0.5 else look.ink
    axes.text(column, row, f"{100 * share:.0f}%", ha="center", va="center", color=ink)


# What all pictures share.


DrawFigure = Callable[["Figure", Look], None]


def _picture(
    name: str, alt: str, draw: DrawFigure, height: float, labels: Sequence[str]
) -> Picture:
    """A picture of this height in inches, and what its legend needs besides."""
    drawn = [
        _render(draw, width, height + _measure_legend(labels, width), look)
        for look in (BRIGHT, DARK)
        for width in (WIDE, NARROW)
    ]
    return Picture(name, alt, *drawn)


def _render(draw: DrawFigure, width: float, height: float, look: Look) -> bytes:
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    ink = dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color"), look.ink)
    settings: dict[str, Any] = {
        **ink,
        "axes.edgecolor": look.soft,
        "axes.facecolor": look.ground,
        "figure.facecolor": look.ground,
        "savefig.facecolor": look.ground,
        "axes.grid": True,
        "axes.axisbelow": True,
        "axes.spines.right": False,
        "axes.spines.top": False,
        "figure.constrained_layout.h_pad": 0.08,
        "font.family": "DejaVu Sans",
        "font.size": 8.5,
        "grid.color": look.faint,
        "grid.linewidth": 0.6,
        "legend.frameon": False,
        "text.parse_math": False,  # a run's name may hold a $
    }
    with rc_context(settings), warnings.catch_warnings():  # type: ignore[arg-type]
        warnings.filterwarnings("ignore", "Glyph")  # the font lacks a letter of a run's name
        figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
        FigureCanvasAgg(figure)
        draw(figure, look)
        file = io.BytesIO()
        figure.savefig(file, format="png", metadata={"Software": None})
    return file.getvalue()


def _style(index: int, look: Look) -> dict[str, Any]:
    return {
        "color": look.lines[index % len(look.lines)],
        "marker": MARKERS[index % len(MARKERS)],
        "markersize": 5.5,
        "linestyle": "none",
        "elinewidth": 1.1,
        "capsize": 2,
    }


def _arms(
    values: Sequence[float], ends: Sequence[Sequence[float] | None], scale: float
) -> list[list[float]]:
    """Lengths of error bars to both sides; none where an interval is not known."""
    pairs = [
        (value - scale * end[0], scale * end[1] - value) if end else (0.0, 0.0)
        for value, end in zip(values, ends, strict=True)
    ]
    return [[max(0.0, low) for low, _ in pairs], [max(0.0, high) for _, high in pairs]]


def _format_counts(axes: Axes) -> None:
    """Tokens as 500, 2k or 30k, at few enough ticks to be read."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    def spell(value: float, _: object) -> str:
        return f"{value / 1000:g}k" if value >= 1000 else f"{value:g}"

    if axes.get_xscale() == "log":
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_formatter(FuncFormatter(spell))


def _add_legend(figure: Figure, all_axes: Sequence[Axes]) -> None:
    found = {
        label: handle
        for axes in all_axes
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    columns, letters = _divide_legend(len(found), figure.get_figwidth())
    figure.legend(
        list(found.values()),
        [textwrap.fill(label, letters) for label in found],
        loc="outside lower center",
        ncols=columns,
    )


def _divide_legend(labels: int, width: float) -> tuple[int, int]:
    """(columns, letters that fit beside a marker in one) of a legend on so many inches."""
    columns = max(1, min(3 if width >= WIDE else 1, labels))
    return columns, max(10, int(12 * width / columns) - 8)


def _measure_legend(labels: Sequence[str], width: float) -> float:
    """The height in inches that a legend needs."""
    columns, letters = _divide_legend(len(labels), width)
    lines = [len(textwrap.wrap(label, letters)) or 1 for label in labels]
    return 0.18 * max((sum(lines[place::columns]) for place in range(columns)), default=0)


def _wrap(text: str, width: int) -> str:
    """A label of three lines at most; a longer one ends in three dots."""
    return textwrap.fill(text, width, max_lines=3, placeholder="…")
