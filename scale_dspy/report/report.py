"""Report on runs that `evaluate` wrote: an HTML page, its pictures, tables for the terminal.

The page is one file that needs no network and runs no script. Reading a run, comparing runs,
drawing and writing HTML each have a module of their own; this one puts them together.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scale_dspy.evaluation.regrade import warn_of_graders
from scale_dspy.report.comparisons import Pair, calibrate, compare_runs, name_runs
from scale_dspy.report.figures import draw_accuracy, draw_calibration, draw_positions
from scale_dspy.report.html_page import write_page
from scale_dspy.report.run_reader import Run, read_run
from scale_dspy.utils.files import write_whole
from scale_dspy.utils.statistics import Interval

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True)
class Report:
    """What was reported.

    Attributes:
        page: the HTML file.
        pictures: the PNG files beside it.
        runs: in the order given.
        pairs: runs on the same data, compared.
        notes: what a reader should know of what is missing or was left out.
    """

    page: Path
    pictures: tuple[Path, ...]
    runs: tuple[Run, ...]
    pairs: tuple[Pair, ...]
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """The report as plain data, ready for JSON."""
        runs = [
            {"name": run.name, **run.description, "summary": dict(run.summary)} for run in self.runs
        ]
        comparisons = [
            {
                "run": pair.run.name,
                "other": pair.other.name,
                "accuracy": asdict(pair.accuracy),
                "tokens": asdict(pair.tokens) if pair.tokens else None,
            }
            for pair in self.pairs
        ]
        told = {
            "page": str(self.page),
            "pictures": [str(picture) for picture in self.pictures],
            "runs": runs,
            "comparisons": comparisons,
            "notes": list(self.notes),
        }
        return {key: _drop_infinities(value) for key, value in told.items()}


def write_report(folders: Sequence[Path], out: Path) -> Report:
    """Write a page on the runs in `folders`, and its pictures beside it.

    Args:
        folders: each as `evaluate` leaves it, with run.json and rollouts.jsonl. The runs are
            compared with the first one and with the most accurate one, where they share the data.
        out: the page, *.html. The pictures get its name and -accuracy.png, -calibration.png or
            -system2.png; one that would be empty is left out.

    Raises:
        ValueError: there is no folder, or one twice, or one is no run or holds no rollout; or `out`
            is not a place for a page.
        RuntimeError: the extra `report` is not installed.
    """
    _check_extra()
    _check_paths(folders, out)
    runs = [read_run(folder) for folder in folders]
    runs = [replace(run, name=name) for run, name in zip(runs, name_runs(runs), strict=True)]
    pairs, left_out = compare_runs(runs)
    notes = [f"{run.name}: {note}" for run in runs for note in run.notes] + left_out
    notes += warn_of_graders({run.name: run.description for run in runs})
    series = calibrate(runs)
    drawn = [draw_accuracy(runs), draw_calibration(series), draw_positions(runs)]
    pictures = [picture for picture in drawn if picture]
    out.parent.mkdir(parents=True, exist_ok=True)
    with (
        write_whole(out) as draft,
        draft.open("w", encoding="utf-8", errors="xmlcharrefreplace") as file,
    ):
        write_page(file, runs, pairs, series, pictures, notes)
    files = [out.with_name(f"{out.stem}-{picture.name}.png") for picture in pictures]
    for file_, picture in zip(files, pictures, strict=True):
        file_.write_bytes(picture.wide)
    return Report(out, tuple(files), tuple(runs), tuple(pairs), tuple(notes))


def render_table(report: Report) -> Table:
    """The runs as a table for the terminal; percentages, and means a rollout."""
    table = _start_table("run", "acc", "95%", "pass@k", "maj@k", "Tok", "Tpi", "hard", "errors")
    for run in report.runs:
        it = run.summary
        low, high = it["accuracy_interval"]
        table.add_row(
            _text(run.name),
            _spell(it["accuracy"], 100, ".1f"),
            f"{100 * low:.0f}-{100 * high:.0f}",
            _spell(it["pass_at_k"], 100, ".1f"),
            _spell(it["maj_at_k"], 100, ".1f"),
            _spell(it["tok"]),
            _spell(it["tpi"]),
            _spell(it["hard_percent"]),
            f"{it['errors']}",
        )
    return table


def render_comparisons(report: Report) -> Table:
    """The differences between runs as a table for the terminal; no rows where nothing compares."""
    table = _start_table("run", "against", "acc", "95%", "p", "tokens", "95%", "p")
    for pair in report.pairs:
        accuracy, tokens = pair.accuracy, pair.tokens
        cells = [f"{100 * accuracy.effect.estimate:+.1f}", _span(accuracy.effect, 100, "+.1f")]
        cells.append(_chance(accuracy.p_value))
        if tokens:
            cells.append(f"×{tokens.effect.estimate:.2f}")
            cells += [_span(tokens.effect, 1, ".2f"), _chance(tokens.p_value)]
        table.add_row(_text(pair.run.name), _text(pair.other.name), *cells)
    return table


def _start_table(*names: str) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, collapse_padding=True, header_style="dim")
    for name in names:
        words = name in ("run", "against")
        table.add_column(name, justify="left" if words else "right", no_wrap=not words)
    return table


def _text(value: str) -> Any:
    """A text that Rich takes as it is, whatever brackets it holds; no terminal acts on it."""
    from rich.text import Text

    return Text("".join(each if each.isprintable() else " " for each in value))


def _spell(value: float | None, scale: float = 1, how: str = ",.0f") -> str:
    return "-" if value is None else f"{value * scale:{how}}"


def _chance(p_value: float) -> str:
    return "<0.001" if p_value < 0.001 else f"{p_value:.3f}"


def _span(interval: Interval, scale: float, how: str) -> str:
    if math.isinf(interval.high):
        return "unknown"
    return f"{interval.low * scale:{how}} to {interval.high * scale:{how}}"


def _drop_infinities(value: Any) -> Any:
    """The ends of an interval that is not known become None, as JSON has no infinity."""
    if isinstance(value, dict):
        return {key: _drop_infinities(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_drop_infinities(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _check_extra() -> None:
    if not (find_spec("matplotlib") and find_spec("latex2mathml")):
        raise RuntimeError('a report needs an extra: pip install "scale-dspy[report]"')


def _check_paths(folders: Sequence[Path], out: Path) -> None:
    if not folders:
        raise ValueError("a report needs at least one folder of `evaluate --out`")
    seen = set()
    for folder in folders:
        if (real := folder.resolve()) in seen:
            raise ValueError(f"{folder} is given twice")
        seen.add(real)
    if out.suffix.lower() not in (".html", ".htm") or out.is_dir():
        raise ValueError(f"{out} is no name for a page: give one that ends in .html")
