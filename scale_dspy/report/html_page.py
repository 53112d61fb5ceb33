"""Write a report's page: one HTML file that needs nothing from the network.

Jinja escapes every text from a run; `page.html` is the template. The page's own content security
policy lets exactly one script run, `page.js`, and one style, each named by its digest, so that no
text of a run could act even if it were not escaped.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING, Any, NamedTuple, TextIO

from scale_dspy.data.registry import GROUPS
from scale_dspy.report import mathml, prose
from scale_dspy.report.bodies import collect_problems, pack
from scale_dspy.report.comparisons import Pair, Series, compare_groups, count_positions
from scale_dspy.report.figures import Picture
from scale_dspy.report.names import shorten
from scale_dspy.report.run_reader import Run
from scale_dspy.report.spending import COST_HEADER, list_cost
from scale_dspy.report.sweeps import Sweep
from scale_dspy.report.verdict import SURE, write_verdicts
from scale_dspy.utils.statistics import Comparison, Interval

if TYPE_CHECKING:
    from jinja2 import Template

Cell = tuple[str, str]
"""A cell of a table, and the small print below it."""


def _read(name: str) -> str:
    return files("scale_dspy.report").joinpath(name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


STYLE, SCRIPT = _read("page.css"), _read("page.js")
POLICY = (
    f"default-src 'none'; script-src {_digest(SCRIPT)}; style-src {_digest(STYLE)}; "
    "img-src data:; base-uri 'none'; form-action 'none'"
)

PICTURES = {
    "accuracy": (
        "Accuracy against tokens",
        "Means over all rollouts: {size}. Error bars are 95 % intervals that resample problems; a "
        "point without a horizontal bar has too few problems that differ. Joined points differ "
        "only in the threshold, which is the number beside them. Hollow points and the dotted "
        "line, where there are any, are the paper’s own figures (arXiv 2512.00466, Qwen3-32B), "
        "not runs of this report.",
    ),
    "caps": (
        "Accuracy against System 2’s limit",
        "Runs that differ in the most tokens that one System 2 call may spend (the paper’s Figure "
        "2), with 95 % intervals that resample problems.",
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


@dataclass(frozen=True)
class Content:
    """What a page shows.

    Attributes:
        runs: in the order of the tables.
        sweeps: of thresholds.
        pairs: runs compared.
        series: the numbers of the calibration picture.
        pictures: those that could be drawn.
        notes: what a reader should know first.
    """

    runs: Sequence[Run]
    sweeps: Sequence[Sweep]
    pairs: Sequence[Pair]
    series: Sequence[Series]
    pictures: Sequence[Picture]
    notes: Sequence[str]


class Table(NamedTuple):
    """A table below a picture: its header, and rows of a name and cells."""

    header: Sequence[str]
    rows: Sequence[tuple[str, Sequence[Cell]]]


def write_page(file: TextIO, content: Content) -> None:
    """Write the page, so that memory holds the texts of one block of rollouts at a time."""
    file.write(_load_template().render(_describe(content)))
    if content.runs:
        file.writelines(_write_data(content.runs))
    file.write("</body></html>\n")


def _load_template() -> Template:
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    loader = FunctionLoader(_read)
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined)
    return environment.get_template("page.html")


def _write_data(runs: Sequence[Run]) -> Iterator[str]:
    """The blocks of texts, the index, and the script that reads them."""
    rows: list[list[Any]] = []
    for number, (block, members) in enumerate(pack(runs, collect_problems(runs))):
        yield f'<script type="text/plain" id="block-{number}">{block}</script>\n'
        rows += [[*row, number, place] for place, row in enumerate(members)]
    allowed = {
        "html": sorted(prose.ELEMENTS),
        "math": sorted(mathml.ELEMENTS),
        "attributes": sorted(mathml.ATTRIBUTES),
    }
    index = {
        "runs": [run.name for run in runs],
        "groups": list(GROUPS),
        "allowed": allowed,
        "problems": rows,
    }
    text = json.dumps(index, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    yield '<script type="application/json" id="data">'
    yield text.encode("utf-8", errors="replace").decode()  # a lone surrogate is no character
    yield f"</script>\n<script>{SCRIPT}</script>\n"


def _describe(content: Content) -> dict[str, Any]:
    """What the template is given; nothing in it is HTML but our own style and images."""
    from markupsafe import Markup

    runs = content.runs
    pictures = [_describe_picture(picture, content) for picture in content.pictures]
    first = pictures[:1] if content.pictures and content.pictures[0].name == "accuracy" else []
    described: list[Run | Sweep] = [*runs, *content.sweeps]
    sets = dict.fromkeys(shorten(each.description.get("data")) for each in described)
    return {
        "policy": Markup(POLICY),
        "style": Markup(STYLE),
        "data": ", ".join(sets),
        "verdicts": [*write_verdicts(runs, content.pairs), *map(_describe_sweep, content.sweeps)],
        "notes": content.notes,
        "first": first[0] if first else None,
        "pictures": pictures[len(first) :],
        "run_header": RUN_HEADER,
        "run_names": [run.name for run in runs],
        "runs": [{"name": run.name, "cells": _list_numbers(run)} for run in runs],
        "cost_header": ("run", *COST_HEADER),
        "costs": [
            {"name": run.name, "cells": list_cost(run.summary)}
            for run in runs
            if run.summary["prompt_tokens"] is not None
        ],
        "pairs": [_describe_pair(pair) for pair in content.pairs],
        "groups": _describe_groups(runs),
        "signals": _describe_signals(content.sweeps),
        "settings": _describe_settings(runs),
    }


def _describe_sweep(sweep: Sweep) -> str:
    best = sweep.found.choices.get("most_accurate")
    if best is None:
        return f"{sweep.name} has no choice of a threshold yet."
    told = (
        f"{sweep.name}: the most accurate threshold is τ = {best.threshold:.2g}, right "
        f"{100 * best.accuracy.estimate:.1f} % of the time at {best.tokens.estimate:,.0f} tokens"
    )
    if best.held_out is None:
        return f"{told}."
    return f"{told}; expect {100 * best.held_out:.1f} % on new problems."


# ---- tables ---------------------------------------------------------------------------------

RUN_HEADER = (
    *("run", "accuracy", "pass@k", "maj@k", "Tok", "Tpi", "hard", "calls", "seconds"),
    *("token limit", "not read", "errors", "size"),
)


def _list_numbers(run: Run) -> list[Cell]:
    it = run.summary
    hard = it["hard_percent"]
    return [
        (_percent(it["accuracy"]), _span(it["accuracy_interval"], 100, ".1f")),
        (_percent(it["pass_at_k"]), ""),
        (_percent(it["maj_at_k"]), ""),
        (_count(it["tok"]), _span(it["tok_interval"], 1, ",.0f")),
        (_count(it["tpi"]), ""),
        ("–" if hard is None else f"{hard:.0f} %", ""),
        (_count(it["calls"], 1), ""),
        (_count(it["seconds"], 1), ""),
        (f"{it['cut_off']:,}", ""),
        (f"{it['unread']:,}", ""),
        (f"{it['errors']:,}", ""),
        (f"{it['problems']:,} × {it['samples']:,}", ""),
    ]


def _describe_pair(pair: Pair) -> dict[str, Any]:
    accuracy, tokens = pair.accuracy, pair.tokens
    points = f"{100 * accuracy.effect.estimate:+.1f}".replace("-", "−")
    ratio = (f"× {tokens.effect.estimate:.2f}", _ends(tokens.effect, 1, ".2f")) if tokens else None
    cells = [
        (points, _ends(accuracy.effect, 100, "+.1f")),
        (_chance(accuracy), ""),
        ratio or ("–", ""),
        (_chance(tokens) if tokens else "–", ""),
        (f"{accuracy.problems:,}", ""),
    ]
    shown = [*_conclude(accuracy, accuracy.effect.estimate > 0, "more accurate", "less accurate")]
    if tokens:
        shown += _conclude(tokens, tokens.effect.estimate < 1, "fewer tokens", "more tokens")
    return {"run": pair.run.name, "other": pair.other.name, "shown": shown, "cells": cells}


def _conclude(compared: Comparison, better: bool, win: str, loss: str) -> list[tuple[bool, str]]:
    """In words what a p-value shows, if anything; a loss as plainly as a win."""
    return [(better, win if better else loss)] if compared.p_value < SURE else []


def _describe_groups(runs: Sequence[Run]) -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "rows": [
                {
                    "value": row.value,
                    "problems": f"{row.problems:,}",
                    "cells": [
                        (_percent(each.estimate), _ends(each, 100, ".0f")) if each else ("–", "")
                        for each in row.accuracies
                    ],
                }
                for row in rows
            ],
        }
        for name, rows in compare_groups(runs).items()
    ]


def _describe_signals(sweeps: Sequence[Sweep]) -> dict[str, Any] | None:
    """What tells a wrong draft: a row a signal, a column a frontier that drafts were drawn for."""
    drafted = [sweep for sweep in sweeps if sweep.found.signals]
    if not drafted:
        return None
    names = dict.fromkeys(name for sweep in drafted for name in sweep.found.signals)
    sizes = [next(iter(sweep.found.signals.values())) for sweep in drafted]
    return {
        "header": [
            "signal",
            *(
                f"{sweep.name}: {size.drafts:,} drafts, {100 * size.share_wrong:.0f} % wrong"
                for sweep, size in zip(drafted, sizes, strict=True)
            ),
        ],
        "rows": [
            (name.replace("_", " "), [_list_signal(sweep, name) for sweep in drafted])
            for name in names
        ],
    }


def _list_signal(sweep: Sweep, name: str) -> Cell:
    signal = sweep.found.signals.get(name)
    if signal is None or signal.auroc is None:
        return ("–", "")
    return (f"{signal.auroc:.2f}", _span(signal.auroc_interval, 1, ".2f"))


SETTINGS = ("method", "threshold", "split", "model", "system_1", "data", "seed", "grader")
NESTED = ("options", "requests", "versions")


def _describe_settings(runs: Sequence[Run]) -> dict[str, Any] | None:
    """Settings in which runs differ, and those that all share; digests are left to run.json."""
    if not runs:
        return None
    flat = [dict(_flatten(run.description)) for run in runs]
    names = list(dict.fromkeys(name for each in flat for name in each))
    values = {name: [each.get(name, "–") for each in flat] for name in names}
    differing = [(name, each) for name, each in values.items() if len(set(each)) > 1]
    requests = [(name, each) for name, each in differing if "." in name]  # many, and seldom read
    shared = [(name, each[0]) for name, each in values.items() if len(set(each)) == 1]
    title = f"The {len(shared)} settings " + ("of the run" if len(runs) == 1 else "that all share")
    return {
        "differing": [each for each in differing if each not in requests],
        "requests": requests,
        "shared": shared,
        "shared_title": title,
    }


def _flatten(description: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for key in SETTINGS:
        if description.get(key) is not None:
            yield key, str(description[key])
    for key in NESTED:
        yield from _flatten_value(key, description.get(key), 0)


def _flatten_value(name: str, value: Any, depth: int) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping) and depth < 5:
        for key, each in value.items():
            yield from _flatten_value(f"{name}.{key}" if depth else str(key), each, depth + 1)
    elif value is not None:
        yield name, str(value)


def _tabulate(name: str, content: Content) -> Table | None:
    if name == "calibration":
        rows = [(one.name, _list_bin(each)) for one in content.series for each in one.bins]
        return Table(("runs", "difficulty", "sub-problems", "problems", "wrong"), rows)
    if name == "system2":
        columns, counts = count_positions(content.runs)
        cells = [
            [(f"{cell[0]:,} of {cell[1]:,}" if cell else "–", "") for cell in row] for row in counts
        ]
        names = [run.name for run in content.runs]
        return Table(["run", *columns], list(zip(names, cells, strict=True)))
    return None


def _list_bin(each: Any) -> list[Cell]:
    return [
        (f"{each.low:.1f} to {each.high:.1f}", ""),
        (f"{each.steps:,}", ""),
        (f"{each.problems:,}", ""),
        (_percent(each.wrong.estimate), _ends(each.wrong, 100, ".1f")),
    ]


# ---- pictures -------------------------------------------------------------------------------


def _describe_picture(picture: Picture, content: Content) -> dict[str, Any]:
    title, caption = PICTURES[picture.name]
    steps = sum(each.steps for one in content.series for each in one.bins)
    rated = _describe_size([run for one in content.series for run in one.runs])
    told = caption.format(
        size=_describe_size(content.runs), steps=f"{steps:,} sub-problems", rated=rated
    )
    images = ("wide", "narrow", "wide_dark", "narrow_dark")
    return {
        "name": picture.name,
        "title": title,
        "caption": told,
        "alt": picture.alt,
        "table": _tabulate(picture.name, content),
        **{image: _embed(getattr(picture, image)) for image in images},
    }


def _describe_size(runs: Sequence[Run]) -> str:
    sizes = {(run.summary["problems"], run.summary["samples"]) for run in runs}
    if len(sizes) > 1:
        return f"{len(runs)} runs, their problems and samples as in the table of runs"
    problems, samples = next(iter(sizes), (0, 0))
    count = "1 run" if len(runs) == 1 else f"{len(runs)} runs"
    return f"{count}, {problems:,} problems with {samples:,} samples each"


def _embed(image: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(image).decode()}"


# ---- numbers --------------------------------------------------------------------------------


def _chance(compared: Comparison) -> str:
    return "<0.001" if compared.p_value < 0.001 else f"{compared.p_value:.3f}"


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"


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
