"""Report on what `evaluate` and `frontier` wrote: an HTML page, its pictures, terminal tables.

The page is one file that needs no network. Reading a run, comparing runs, drawing and writing HTML
each have a module of their own; this one puts them together.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scale_dspy.evaluation.costs import Terms
from scale_dspy.report.comparisons import Pair, calibrate, compare_runs
from scale_dspy.report.figures import draw_accuracy, draw_calibration, draw_caps, draw_positions
from scale_dspy.report.html_page import Content, write_page
from scale_dspy.report.names import clean_line, name_runs
from scale_dspy.report.run_reader import Run, read_run
from scale_dspy.report.spending import COST_HEADER, list_cost
from scale_dspy.report.sweeps import Sweep, is_sweep, read_sweep
from scale_dspy.report.verdict import write_verdicts
from scale_dspy.utils.extras import advise_install
from scale_dspy.utils.files import write_whole
from scale_dspy.utils.statistics import Interval

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True)
class Report:
    """What was reported.

    Attributes:
        page: the HTML file; None where none was written.
        pictures: the PNG files beside it.
        runs: in the order given.
        sweeps: of thresholds, in the order given.
        pairs: runs on the same data, compared.
        notes: what a reader should know of what is missing or was left out.
    """

    page: Path | None
    pictures: tuple[Path, ...]
    runs: tuple[Run, ...]
    sweeps: tuple[Sweep, ...]
    pairs: tuple[Pair, ...]
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """The report as plain data, ready for JSON."""
        runs = [
            {
                "name": run.name,
                **run.description,
                "summary": dict(run.summary),
                "token_limit": run.summary["cut_off"],
                "not_read": run.summary["unread"],
            }
            for run in self.runs
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
            "page": None if self.page is None else str(self.page),
            "verdicts": write_verdicts(self.runs, self.pairs),
            "frontiers": [{"name": s.name, **asdict(s.found)} for s in self.sweeps],
            "pictures": [str(picture) for picture in self.pictures],
            "runs": runs,
            "comparisons": comparisons,
            "notes": list(self.notes),
        }
        return {key: _drop_infinities(value) for key, value in told.items()}


def read_report(folders: Sequence[Path], costs: Terms | None = None) -> Report:
    """Read and compare the runs and sweeps in `folders`, without writing anything.

    Args:
        costs: a price and a number of GPUs that replace those noted in the runs.

    Raises:
        ValueError: there is no folder, or one twice, or one is neither a run nor a frontier, or
            holds nothing yet.
    """
    from scale_dspy.evaluation.regrade import warn_of_graders  # loads DSPy

    _check_folders(folders)
    sweeps = [read_sweep(folder) for folder in folders if is_sweep(folder)]
    runs = [read_run(folder, costs) for folder in folders if not is_sweep(folder)]
    runs = [replace(run, name=name) for run, name in zip(runs, name_runs(runs), strict=True)]
    pairs, left_out = compare_runs(runs)
    notes = [f"{run.name}: {note}" for run in runs for note in run.notes] + left_out
    notes += warn_of_graders({run.name: run.description for run in runs})
    return Report(None, (), tuple(runs), tuple(sweeps), tuple(pairs), tuple(notes))


def write_report(folders: Sequence[Path], out: Path, costs: Terms | None = None) -> Report:
    """Write a page on the runs in `folders`, and its pictures beside it.

    Args:
        folders: each as `evaluate` leaves it, with run.json and rollouts.jsonl, or as `frontier`
            does, with frontier.json. Runs are compared with the first one and with the most
            accurate one, where they share the data.
        out: the page, *.html. The pictures get its name and -accuracy.png, -caps.png,
            -calibration.png or -system2.png; one that would be empty is left out.
        costs: as for `read_report`.

    Raises:
        ValueError: as for `read_report`; or `out` is not a place for a page.
        RuntimeError: the extra `report` is not installed.
    """
    _check_extra()
    if out.suffix.lower() not in (".html", ".htm") or out.is_dir():
        raise ValueError(f"{out} is no name for a page: give one that ends in .html")
    report = read_report(folders, costs)
    runs = report.runs
    series = calibrate(runs)
    drawn = (
        draw_accuracy(runs, report.sweeps),
        draw_caps(runs),
        draw_calibration(series),
        draw_positions(runs),
    )
    pictures = [picture for picture in drawn if picture]
    content = Content(runs, report.sweeps, report.pairs, series, pictures, report.notes)
    out.parent.mkdir(parents=True, exist_ok=True)
    with (
        write_whole(out) as draft,
        draft.open("w", encoding="utf-8", errors="xmlcharrefreplace") as file,
    ):
        write_page(file, content)
    files = [out.with_name(f"{out.stem}-{picture.name}.png") for picture in pictures]
    for file_, picture in zip(files, pictures, strict=True):
        with write_whole(file_) as draft:
            draft.write_bytes(picture.wide)
    return replace(report, page=out, pictures=tuple(files))


def render_table(report: Report) -> Table:
    """The runs as a table for the terminal; percentages, and means a rollout."""
    table = _start_table(
        "run", "acc", "95%", "pass@k", "maj@k", "Tok", "Tpi", "hard", "limit", "unread", "errors"
    )
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
            f"{it['cut_off']}",
            f"{it['unread']}",
            f"{it['errors']}",
        )
    return table


def render_costs(report: Report) -> Table:
    """What the runs cost, as a table for the terminal."""
    table = _start_table("run", *COST_HEADER)
    for run in report.runs:
        table.add_row(_text(run.name), *list_cost(run.summary))
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
    """A text that Rich does not take for markup, without characters that a terminal would obey."""
    from rich.text import Text

    return Text(clean_line(value))


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
    needed = ("matplotlib", "latex2mathml", "jinja2", "markdown_it", "mdit_py_plugins")
    if not all(map(find_spec, needed)):
        raise RuntimeError(f"a report needs an extra: {advise_install('report')}")


def _check_folders(folders: Sequence[Path]) -> None:
    if not folders:
        raise ValueError("a report needs at least one folder of `evaluate --out`")
    seen = set()
    for folder in folders:
        if (real := folder.resolve()) in seen:
            raise ValueError(f"{folder} is given twice")
        seen.add(real)
