"""Draw a report's pictures with Matplotlib, each as a PNG for a wide and for a narrow page."""

from __future__ import annotations

import io
import textwrap
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from scale_dspy.report.comparisons import Series, count_positions, group_runs, shorten
from scale_dspy.report.run_reader import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 180
WIDE, NARROW = 7.4, 3.9  # inches
MARKERS = "osD^vPX*"  # one more than colours, so that pairs of both repeat only after 56
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#7a6a00", "#56b4e9", "#1d1d1f")
"""Most are Okabe and Ito's, which the colour-blind can tell apart; the markers differ too."""

INK, FAINT = "#1d1d1f", "#d9dade"
HEAT = ("#eef4f9", "#0b5a8c")


@dataclass(frozen=True)
class Picture:
    """One picture, as PNGs of two widths, and in words."""

    name: str
    alt: str
    wide: bytes
    narrow: bytes


def draw_accuracy(runs: Sequence[Run]) -> Picture | None:
    """Accuracy against response tokens, a panel for each data; None where no tokens are known."""
    drawn = [run for run in runs if run.summary["tok"] is not None]
    panels: dict[tuple[str | None, str], list[Run]] = {}
    for run in drawn:
        panels.setdefault((run.digest, str(run.description.get("data"))), []).append(run)
    if not panels:
        return None
    told = [
        f"{run.name}: {100 * run.summary['accuracy']:.1f}% at {run.summary['tok']:,.0f} tokens"
        for run in drawn
    ]

    def draw(figure: Figure) -> None:
        groups = group_runs(runs)
        all_axes = list(figure.subplots(len(panels), 1, squeeze=False)[:, 0])
        for axes, ((_, data), members) in zip(all_axes, panels.items(), strict=True):
            _plot_accuracy(axes, groups, members)
            if len(panels) > 1:
                axes.set_title(shorten(data))
        all_axes[-1].set_xlabel("response tokens a rollout")
        _add_legend(figure, all_axes)

    alt = f"Accuracy against response tokens, with error bars. {'; '.join(told)}."
    return _picture("accuracy", alt, draw, 1.1 + 3.3 * len(panels))


def _plot_accuracy(axes: Axes, groups: dict[str, list[Run]], members: Sequence[Run]) -> None:
    tokens = [run.summary["tok"] or 0 for run in members]
    if min(tokens) > 0 and max(tokens) > 4 * min(tokens):
        axes.set_xscale("log")
    for index, (name, group) in enumerate(groups.items()):
        there = [run for run in group if any(run is member for member in members)]
        there.sort(key=lambda run: run.threshold or 0)
        if not there:
            continue
        x = [run.summary["tok"] or 0 for run in there]
        y = [100 * run.summary["accuracy"] for run in there]
        axes.errorbar(
            x,
            y,
            xerr=_arms(x, [run.summary["tok_interval"] for run in there], 1),
            yerr=_arms(y, [run.summary["accuracy_interval"] for run in there], 100),
            label=name,
            **_style(index),
        )
        if len(there) > 1:
            axes.plot(x, y, color=_style(index)["color"], linewidth=0.8, alpha=0.6)
            _label_thresholds(axes, there, x, y)
    axes.set_ylim(-2, 102)
    axes.set_ylabel("accuracy (%)")
    _format_counts(axes)


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

    def draw(figure: Figure) -> None:
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        for index, (name, place, _, bins) in enumerate(series):
            style = _style(place)
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
    return _picture("calibration", alt, draw, 4.6)


def draw_positions(runs: Sequence[Run]) -> Picture | None:
    """The share of System 2 by run and position, as a heat map; None where nothing was solved."""
    columns, counts = count_positions(runs)
    rows = [(run.name, row) for run, row in zip(runs, counts, strict=True) if any(row)]
    if not columns:
        return None

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for height, (_, row) in enumerate(rows):
            for place, cell in enumerate(row):
                if cell:
                    _fill_cell(axes, place, height, cell[0] / cell[1])
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
    return _picture("system2", alt, draw, 1.0 + 0.42 * len(rows))


def _fill_cell(axes: Axes, column: int, row: int, share: float) -> None:
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.patches import Rectangle

    colour = LinearSegmentedColormap.from_list("heat", HEAT)(share)
    axes.add_patch(Rectangle((column - 0.48, row - 0.46), 0.96, 0.92, facecolor=colour))
    ink = "white" if share > 0.5 else INK
    axes.text(column, row, f"{100 * share:.0f}%", ha="center", va="center", color=ink)


# What all pictures share.


def _picture(name: str, alt: str, draw: Callable[[Figure], None], height: float) -> Picture:
    return Picture(name, alt, _render(draw, WIDE, height), _render(draw, NARROW, height))


def _render(draw: Callable[[Figure], None], width: float, height: float) -> bytes:
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    ink = dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color"), INK)
    settings: dict[str, Any] = {
        **ink,
        "axes.edgecolor": INK,
        "axes.grid": True,
        "axes.axisbelow": True,
        "axes.spines.right": False,
        "axes.spines.top": False,
        "figure.constrained_layout.h_pad": 0.08,
        "font.family": "DejaVu Sans",
        "font.size": 8.5,
        "grid.color": FAINT,
        "grid.linewidth": 0.6,
        "legend.frameon": False,
        "text.parse_math": False,  # a run's name may hold a $
    }
    with rc_context(settings), warnings.catch_warnings():  # type: ignore[arg-type]
        warnings.filterwarnings("ignore", "Glyph")  # the font lacks a letter of a run's name
        figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
        FigureCanvasAgg(figure)
        draw(figure)
        file = io.BytesIO()
        figure.savefig(file, format="png", metadata={"Software": None})
    return file.getvalue()


def _style(index: int) -> dict[str, Any]:
    return {
        "color": COLOURS[index % len(COLOURS)],
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
    columns = min(3 if figure.get_figwidth() >= WIDE else 1, len(found))
    letters = int(13 * figure.get_figwidth() / max(columns, 1)) - 8  # that fit beside a marker
    figure.legend(
        list(found.values()),
        [textwrap.fill(label, letters) for label in found],
        loc="outside lower center",
        ncols=columns,
    )


def _wrap(text: str, width: int) -> str:
    """A label of three lines at most; a longer one ends in three dots."""
    return textwrap.fill(text, width, max_lines=3, placeholder="…")
