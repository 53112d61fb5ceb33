"""Request parameters that make a model of random weights reply in form, by structured output."""

from __future__ import annotations

from typing import Any

LIST = r"1\. [a-z]{3,9} [a-z]{3,9}\n2\. [a-z]{3,9} [a-z]{3,9}\n3\. [a-z]{3,9} [a-z]{3,9}"
BOXED = r"x = \\boxed\{[1-9][0-9]{0,2}\}"
SHAPES: dict[str, dict[str, Any]] = {
    "decompose": {"regex": LIST},
    "select": {"choice": ["1", "2"]},
    "assess": {"choice": ["0.2", "0.8"]},
    "solve_1": {"regex": BOXED},
    "solve_2": {"regex": BOXED},
}
LENGTHS = {"decompose": 96, "select": 16, "assess": 16, "solve_1": 64, "solve_2": 96}


def shape(**solve_2: Any) -> dict[str, dict[str, Any]]:
    """Overrides for `modes()`; for solve_2 with these fields of the body on top."""
    bodies = {stage: {"structured_outputs": form} for stage, form in SHAPES.items()}
    bodies["solve_2"] = {**bodies["solve_2"], **solve_2}
    return {
        stage: {"max_tokens": LENGTHS[stage], "extra_body": body} for stage, body in bodies.items()
    }
