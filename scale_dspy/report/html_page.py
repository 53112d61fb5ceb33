"""Write a report's page: one HTML file without scripts and without anything from the network.

Every text from a run is escaped, in `mathml.py`, in `html_rollouts.py` or here; the page
also forbids scripts by its own content security policy.
"""

from __future__ import annotations

import base64
import html
import math
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from typing import Any, TextIO

from scale_dspy.report.comparisons import Pair, Series, count_positions, shorten
from scale_dspy.report.figures import Picture
from scale_dspy.report.html_rollouts import write_reader
from scale_dspy.report.run_reader import Run
from scale_dspy.utils.statistics import Comparison, Interval

POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; "
    "base-uri 'none'; form-action 'none'"
)

PICTURES = {
    "accuracy": (
        "Accuracy against tokens",
        "Means over all rollouts: {size}. Error bars are 95 % intervals that resample problems; a "
        "point without a horizontal bar has too few problems that differ. Joined points differ "
        "only in the threshold, which is the number beside them.",
    ),
    "calibration": (
        "Difficulty against System 1’s error",
        "For the sub-problems that System 1 solved, by the difficulty they were rated: the share "
        "of them whose rollout ended in a wrong answer. This is not the error of the sub-problem "
        "itself: there is no gold for sub-problems, so the final answer’s correctness stands in. "
        "Last sub-problems whose difficulty was set, not rated, are left out. {steps} of {rated}; "
        "runs that differ only in the threshold are taken together. Each problem weighs the same; "
        "error bars are 95 % intervals that resample problems. Below: "
        "how many sub-problems there are.",
    ),
    "system2": (
        "Where System 2 was used",
        "The share of sub-problems that System 2 solved, by their position in the problem: "
        "{size}. The last sub-problem, which asks the original question, is kept apart; a "
        "problem that was not divided has only that one. There are no error bars: these are "
        "counts of what the runs did.",
    ),
}


def write_page(
    file: TextIO,
    runs: Sequence[Run],
    pairs: Sequence[Pair],
    series: Sequence[Series],
    pictures: Sequence[Picture],
    notes: Sequence[str],
) -> None:
    """Write the page piece by piece, so that memory holds one rollout at a time.

    Args:
        file: open for writing.
        runs: in the order of the tables.
        pairs: runs compared.
        series: the numbers of the calibration picture.
        pictures: those that could be drawn.
        notes: what a reader should know first.
    """
    tables = {"calibration": _tabulate_series(series), "system2": _tabulate_positions(runs)}
    steps = f"{sum(each.steps for one in series for each in one.bins):,} sub-problems"
    rated = _tell_size([run for one in series for run in one.runs])
    file.writelines(_write_head(pairs, pictures, notes))
    file.writelines(_write_runs(runs))
    file.writelines(_write_pairs(pairs))
    for picture in pictures:
        title, caption = PICTURES[picture.name]
        told = html.escape(caption.format(size=_tell_size(runs), steps=steps, rated=rated))
        file.writelines(_write_picture(picture, title, told, tables.get(picture.name, "")))
    file.write(
        '<section id="rollouts"><h2>Rollouts</h2><p class="soft">Open a problem, then a sample. '
        "Sub-problems with a coloured edge were solved by System 2.</p>"
    )
    for number, run in enumerate(runs, 1):
        file.writelines(write_reader(run, number, len(runs)))
    file.write("</section></main></body></html>\n")


def _tell_size(runs: Sequence[Run]) -> str:
    sizes = {(run.summary["problems"], run.summary["samples"]) for run in runs}
    if len(sizes) > 1:
        return f"{len(runs)} runs, their problems and samples as in the table of runs"
    problems, samples = next(iter(sizes), (0, 0))
    count = "1 run" if len(runs) == 1 else f"{len(runs)} runs"
    return f"{count}, {problems:,} problems with {samples:,} samples each"


def _write_head(
    pairs: Sequence[Pair], pictures: Sequence[Picture], notes: Sequence[str]
) -> Iterator[str]:
    style = files("scale_dspy.report").joinpath("page.css").read_text(encoding="utf-8")
    sections = {"runs": "Runs"}
    sections |= {"differences": "Differences"} if pairs else {}
    sections |= {picture.name: PICTURES[picture.name][0] for picture in pictures}
    sections["rollouts"] = "Rollouts"
    links = "".join(f'<li><a href="#{name}">{title}</a></li>' for name, title in sections.items())
    yield (
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Evaluation report</title><style>{style}</style></head><body><main>"
        f'<h1>Evaluation report</h1><nav aria-label="Contents"><ul>{links}</ul></nav>'
    )
    if notes:
        items = "".join(f"<li>{html.escape(note)}</li>" for note in notes)
        yield f'<div class="note" role="note"><ul>{items}</ul></div>'


# Tables.


def _write_runs(runs: Sequence[Run]) -> Iterator[str]:
    yield '<section id="runs"><h2>Runs</h2>'
    numbers = ("accuracy", "pass@k", "maj@k", "Tok", "Tpi", "hard", "calls", "seconds", "errors")
    header = ("run", *numbers, "method", "τ", "model", "data")
    yield _open_table("Runs", header, words=1, last_words=4)
    for number, run in enumerate(runs, 1):
        yield _write_run(number, run)
    yield (
        "</tbody></table></div>"
        '<p class="caption">Under the data: problems × samples. Accuracy is averaged over samples, '
        "then over problems; pass@k: one of k samples is right; maj@k: the most frequent answer of "
        "k samples is. Tok and Tpi: response tokens a rollout and a sub-problem. Hard: share of "
        "sub-problems solved by System 2. Calls and seconds: a rollout. In small print: 95 % "
        "intervals that resample problems.</p>"
        f"<details><summary>Settings</summary>{_tabulate_settings(runs)}</details></section>"
    )


def _write_run(number: int, run: Run) -> str:
    it, told = run.summary, run.description
    hard = it["hard_percent"]
    cells = [
        _cell(_percent(it["accuracy"]), _span(it["accuracy_interval"], 100, ".1f")),
        _cell(_percent(it["pass_at_k"])),
        _cell(_percent(it["maj_at_k"])),
        _cell(_count(it["tok"]), _span(it["tok_interval"], 1, ",.0f")),
        _cell(_count(it["tpi"])),
        _cell("–" if hard is None else f"{hard:.0f}&nbsp;%"),
        _cell(_count(it["calls"], 1)),
        _cell(_count(it["seconds"], 1)),
        _cell(f"{it['errors']:,}"),
        f'<td class="word">{_escape(told.get("method"))}</td>',
        f'<td class="word">{_escape(told.get("threshold"))}'
        f"{f'<span class=dim>split {run.split:g}</span>' if run.split else ''}</td>",
        f'<td class="word long">{_name(told.get("model"))}</td>',
        f'<td class="word">{_name(told.get("data"))}'
        f'<span class="dim">{it["problems"]:,} × {it["samples"]:,}</span></td>',
    ]
    name = f'<a href="#run-{number}">{html.escape(run.name)}</a>'
    return f'<tr><th scope="row" class="word">{name}</th>{"".join(cells)}</tr>'


def _tabulate_settings(runs: Sequence[Run]) -> str:
    keys = (
        *("model", "system_1", "program", "options", "requests"),
        *("split", "seed", "digest", "versions"),
    )
    parts = [_open_table("Settings", ["run", *keys], words=len(keys) + 1)]
    for run in runs:
        cells = (
            f'<td class="word long">{_settings(run.description.get(key))}</td>' for key in keys
        )
        parts.append(f"<tr>{_row_head(run.name)}{''.join(cells)}</tr>")
    return "".join([*parts, "</tbody></table></div>"])


def _settings(value: Any) -> str:
    if isinstance(value, Mapping):
        return "<br>".join(f"{_escape(key)}: {_escape(each)}" for key, each in value.items()) or "–"
    return _escape(value)


def _write_pairs(pairs: Sequence[Pair]) -> Iterator[str]:
    if not pairs:
        return
    yield '<section id="differences"><h2>Differences</h2>'
    header = ("run", "against", "shown", "accuracy", "p", "tokens", "p", "problems")
    yield _open_table("Differences", header, words=3)
    for pair in pairs:
        accuracy, tokens = pair.accuracy, pair.tokens
        points = f"{100 * accuracy.effect.estimate:+.1f}".replace("-", "−")
        cells = [
            f'<td class="word">{html.escape(pair.other.name)}</td>',
            f'<td class="word">{_conclude(accuracy, tokens)}</td>',
            _cell(points, _ends(accuracy.effect, 100, "+.1f")),
            _cell(_chance(accuracy)),
            _cell(f"× {tokens.effect.estimate:.2f}", _ends(tokens.effect, 1, ".2f"))
            if tokens
            else _cell("–"),
            _cell(_chance(tokens) if tokens else "–"),
            _cell(f"{accuracy.problems:,}"),
        ]
        yield f"<tr>{_row_head(pair.run.name)}{''.join(cells)}</tr>"
    yield (
        '</tbody></table></div><p class="caption">Each run against the first one and against the '
        "most accurate one on the same data, paired by problem: accuracy as a difference in "
        "percentage points, tokens as a ratio, each with its 95 % interval and the p-value of a "
        "sign-flip test. Shown: what has p below 0.05. The p-values are not adjusted for the "
        "number of comparisons, and the most accurate run was picked after the fact, which "
        "flatters it.</p></section>"
    )


def _conclude(accuracy: Comparison, tokens: Comparison | None) -> str:
    """In words what the p-values show; a loss as plainly as a win."""
    words = [_word(accuracy, accuracy.effect.estimate > 0, "more accurate", "less accurate")]
    if tokens:
        words.append(_word(tokens, tokens.effect.estimate < 1, "fewer tokens", "more tokens"))
    return "<br>".join(word for word in words if word) or "no difference"


def _word(compared: Comparison, better: bool, win: str, loss: str) -> str:
    if compared.p_value >= 0.05:
        return ""
    return f'<span class="{"good" if better else "bad"}">{win if better else loss}</span>'


def _tabulate_series(series: Sequence[Series]) -> str:
    header = ("runs", "difficulty", "sub-problems", "problems", "wrong")
    parts = [_open_table("Wrong answers by difficulty", header, words=1)]
    for name, _, _, bins in series:
        for each in bins:
            cells = [
                _cell(f"{each.low:.1f} to {each.high:.1f}"),
                _cell(f"{each.steps:,}"),
                _cell(f"{each.problems:,}"),
                _cell(_percent(each.wrong.estimate), _ends(each.wrong, 100, ".1f")),
            ]
            parts.append(f"<tr>{_row_head(name)}{''.join(cells)}</tr>")
    return "".join([*parts, "</tbody></table></div>"])


def _tabulate_positions(runs: Sequence[Run]) -> str:
    columns, counts = count_positions(runs)
    parts = [_open_table("System 2 by position", ["run", *columns], words=1)]
    for run, row in zip(runs, counts, strict=True):
        cells = (_cell(f"{cell[0]:,} of {cell[1]:,}" if cell else "–") for cell in row)
        parts.append(f"<tr>{_row_head(run.name)}{''.join(cells)}</tr>")
    return "".join([*parts, "</tbody></table></div>"])


def _write_picture(picture: Picture, title: str, caption: str, table: str) -> Iterator[str]:
    yield f'<section id="{picture.name}"><h2>{title}</h2><figure><picture>'
    yield (
        f'<source media="screen and (max-width: 600px)" srcset="{_embed(picture.narrow)}">'
        f'<img src="{_embed(picture.wide)}" alt="{html.escape(picture.alt)}"></picture>'
        f"<figcaption>{caption}</figcaption></figure>"
    )
    if table:
        yield f"<details><summary>The numbers</summary>{table}</details>"
    yield "</section>"


# Pieces.


def _open_table(name: str, header: Sequence[str], words: int, last_words: int = 0) -> str:
    """The table's beginning; `words` columns at its left and `last_words` at its right are text."""
    cells = "".join(
        f'<th scope="col"{" class=word" if not words <= place < len(header) - last_words else ""}>'
        f"{html.escape(title)}</th>"
        for place, title in enumerate(header)
    )
    return (
        f'<div class="box" tabindex="0" role="region" aria-label="Table: {name}">'
        f'<table class="data"><thead><tr>{cells}</tr></thead><tbody>'
    )


def _row_head(name: str) -> str:
    return f'<th scope="row" class="word">{html.escape(name)}</th>'


def _cell(value: str, small: str = "") -> str:
    """A cell; both texts are HTML already."""
    return f"<td>{value}{f'<span class=dim>{small}</span>' if small else ''}</td>"


def _escape(value: object) -> str:
    return "–" if value is None else html.escape(str(value))


def _name(value: object) -> str:
    """A model or a set by the last part of its name; the settings have it whole."""
    return "–" if value is None else html.escape(shorten(value))


def _chance(compared: Comparison) -> str:
    return "&lt;0.001" if compared.p_value < 0.001 else f"{compared.p_value:.3f}"


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}&nbsp;%"


def _count(value: float | None, digits: int = 0) -> str:
    return "–" if value is None else f"{value:,.{digits}f}"


def _span(ends: Sequence[float] | None, scale: float, how: str) -> str:
    if ends is None:
        return ""
    return f"{scale * ends[0]:{how}} to {scale * ends[1]:{how}}".replace("-", "−")


def _ends(interval: Interval, scale: float, how: str) -> str:
    if math.isinf(interval.high):
        return "interval unknown"
    return _span([interval.low, interval.high], scale, how)


def _embed(image: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(image).decode()}"
