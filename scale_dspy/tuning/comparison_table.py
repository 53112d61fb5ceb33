"""The table of a comparison: its rows, read from what is finished, and as Markdown."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scale_dspy.evaluation.rollout import ROLLOUTS, read_rollouts
from scale_dspy.utils.statistics import compare

ROWS = (
    "cot",
    "cot+gepa",
    "cot+optimizer",  # tuned by the plan's optimizer, with as many rollouts as SCALE's prompts
    "cot+gepa-matched",  # with as many graded runs as scale+joint took in all, searches included
    "scale",
    "scale+reanchor",
    "scale+threshold",
    "scale+joint",
)
REFERENCES = (
    "cot+gepa",
    "cot+optimizer",
    "cot",
)  # the first of these that is finished is what the others are compared with
PAID = ("metric_calls", "requests", "prompt_tokens", "response_tokens")

TableRow = dict[str, Any]
"""name, problems, accuracy, accuracy_interval, tok, errors, threshold, split, tuning, against.
`tuning` holds what was paid for it: PAID (metric calls are graded runs), and the tallies by stage.
`against` holds the reference's name, the paired difference to it, its interval and p-value; None
for the reference itself."""


def draw_rows(out: Path) -> list[TableRow]:
    """The rows whose test is finished, in the order of ROWS."""
    there = {name: out / name for name in ROWS if (out / name / "test" / "summary.json").exists()}
    graded = {name: _read_grades(folder / "test") for name, folder in there.items()}
    reference = next((name for name in REFERENCES if name in graded), None)
    rows = []
    for name, folder in there.items():
        summary = json.loads((folder / "test" / "summary.json").read_text(encoding="utf-8"))
        noted = json.loads((folder / "tuning.json").read_text(encoding="utf-8"))
        row = {
            "name": name,
            **{key: summary[key] for key in ("problems", "accuracy", "accuracy_interval", "tok")},
            "errors": summary["errors"],
            "threshold": noted["threshold"],
            "split": noted["split"],
            "tuning": {key: noted[key] for key in noted if key not in ("threshold", "split")},
            "against": None,
        }
        if reference is not None and name != reference:
            found = compare(graded[name], graded[reference])
            row["against"] = {
                "name": reference,
                "difference": found.effect.estimate,
                "interval": [found.effect.low, found.effect.high],
                "p_value": found.p_value,
            }
        rows.append(row)
    return rows


def render_rows(rows: Sequence[TableRow]) -> str:
    """The rows as a Markdown table."""
    reference = next((row["against"]["name"] for row in rows if row["against"]), "-")
    lines = [
        f"| program | right | 95 % interval | tokens a problem | against {reference} (points) | "
        "tuning: graded runs | requests | prompt tokens | response tokens | threshold | split |",
        "|---|" + "---:|" * 10,
    ]
    for row in rows:
        low, high = row["accuracy_interval"]
        against, tuning = row["against"], row["tuning"]
        difference = ""
        if against:
            ends = " to ".join(f"{100 * end:+.1f}" for end in against["interval"])
            difference = f"{100 * against['difference']:+.1f} ({ends})"
        cells = [
            row["name"],
            f"{row['accuracy']:.1%}",
            f"{low:.0%} to {high:.0%}",
            f"{row['tok']:,.0f}",
            difference,
            *(f"{tuning[key]:,}" for key in PAID),
            *("" if row[key] is None else f"{row[key]:g}" for key in ("threshold", "split")),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _read_grades(folder: Path) -> dict[str, list[int]]:
    """Right or wrong by problem, for the samples that the run was last asked for."""
    samples = json.loads((folder / "run.json").read_text(encoding="utf-8"))["samples"]
    grades: dict[str, list[int]] = {}
    for rollout in read_rollouts(folder / ROLLOUTS):
        if rollout.sample < samples:
            grades.setdefault(rollout.id, []).append(int(rollout.right))
    return grades
