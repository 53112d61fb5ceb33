"""The runs as a table for a paper or a page: LaTeX (booktabs) or Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from scale_dspy.report.names import shorten
from scale_dspy.report.run_reader import Run

FORMATS = ("latex", "markdown")


class _Set(NamedTuple):
    """What a table calls a set of problems, and the runs on it by their row's name."""

    title: str
    runs: dict[str, Run]


def write_table(runs: Sequence[Run], how: str) -> str:
    """A row a run, and for each set accuracy with its interval, Tok, Tpi and the hard share.

    Runs of one method and threshold on several sets share a row, as in the paper's tables. The
    highest accuracy of each set is bold.

    Args:
        runs: named, as in a report.
        how: one of `FORMATS`.

    Raises:
        ValueError: `how` is another one, or there are no runs.
    """
    if how not in FORMATS:
        raise ValueError(f"a table is one of {', '.join(FORMATS)}, not {how}")
    if not runs:
        raise ValueError("a table needs at least one run; a frontier alone has none")
    sets = _sort_into_sets(runs)
    rows = list(dict.fromkeys(name for each in sets for name in each.runs))
    clean, bold = (
        (_clean_latex, r"\textbf{{{}}}") if how == "latex" else (_clean_markdown, "**{}**")
    )
    header = [["", *("Acc (%)", "Tok", "Tpi", "hard (%)") * len(sets)]]
    body = [
        [name, *(cell for each in sets for cell in _list_cells(each, name, bold))] for name in rows
    ]
    titles = [clean(each.title) for each in sets]
    text = [[clean(name), *cells] for name, *cells in body]
    if how == "latex":
        return _join_latex(titles, [[clean(cell) for cell in row] for row in header], text)
    return _join_markdown(titles, header, text)


def _sort_into_sets(runs: Sequence[Run]) -> list[_Set]:
    """Runs by their data; a name that occurs twice in a set is the run's own."""
    sets: dict[str | None, _Set] = {}
    for run in runs:
        key = run.digest or str(run.description.get("data"))
        members = sets.setdefault(key, _Set(shorten(run.description.get("data")), {})).runs
        members[run.name if _name(run) in members else _name(run)] = run
    return list(sets.values())


def _name(run: Run) -> str:
    method = shorten(run.description.get("method"))
    return method if run.threshold is None else f"{method} τ={run.threshold:g}"


def _list_cells(one: _Set, name: str, bold: str) -> list[str]:
    run = one.runs.get(name)
    if run is None:
        return ["–"] * 4
    it, best = run.summary, max(each.summary["accuracy"] for each in one.runs.values())
    low, high = it["accuracy_interval"]
    accuracy = f"{100 * it['accuracy']:.1f}"
    shown = bold.format(accuracy) if it["accuracy"] == best else accuracy
    hard = it["hard_percent"]
    return [
        f"{shown} [{100 * low:.1f}, {100 * high:.1f}]",
        *("–" if value is None else f"{value:,.0f}" for value in (it["tok"], it["tpi"])),
        "–" if hard is None else f"{hard:.0f}",
    ]


def _join_latex(titles: Sequence[str], header: list[list[str]], rows: list[list[str]]) -> str:
    def join(cells: Sequence[str]) -> str:
        return " & ".join(cells) + r" \\"

    over = join(["", *(rf"\multicolumn{{4}}{{c}}{{{title}}}" for title in titles)])
    lines = [
        rf"\begin{{tabular}}{{l{'rrrr' * len(titles)}}}",
        r"\toprule",
        over,
        *map(join, header),
        r"\midrule",
        *map(join, rows),
        r"\bottomrule",
        r"\end{tabular}",
    ]
    return "\n".join(lines)


def _join_markdown(titles: Sequence[str], header: list[list[str]], rows: list[list[str]]) -> str:
    names = header[0][:1] + [
        f"{titles[place // 4]}: {name}" if len(titles) > 1 else name
        for place, name in enumerate(header[0][1:])
    ]
    lines = [names, ["---", *["---:"] * (len(names) - 1)], *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


_LATEX = {
    **{each: f"\\{each}" for each in "&%$#_{}"},
    **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"},
    **{"τ": r"$\tau$", "…": r"\ldots{}", "–": "--", "−": "$-$"},
}


def _clean_latex(text: str) -> str:
    return "".join(_LATEX.get(each, each) for each in text)


def _clean_markdown(text: str) -> str:
    return "".join(f"\\{each}" if each in r"\`*_[]<>|#~&!" else each for each in text)
