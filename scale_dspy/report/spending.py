"""What runs cost, as the cells of a table: tokens, time and money."""

from __future__ import annotations

from scale_dspy.evaluation.summary import Summary

COST_HEADER = ("prompt", "cached", "response", "reasoning", "wall s", "GPU s", "dollars")
UNKNOWN = "–"


def list_cost(it: Summary) -> list[str]:
    """The cells of a run, in the order of COST_HEADER."""
    prompt, cached = it["prompt_tokens"], it["cached_tokens"]
    response, reasoning = it["response_tokens"], it["reasoning_tokens"]
    return [
        _count(prompt),
        _share(cached or None, prompt),  # a server that does not report it looks like 0
        _count(response),
        _share(reasoning, response),
        _count(it.get("wall_seconds")),
        _count(it.get("gpu_seconds")),
        _show_dollars(it.get("dollars")),
    ]


def _count(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:,.0f}"


def _share(part: int | None, whole: int | None) -> str:
    return f"{100 * part / whole:.0f} %" if part is not None and whole else UNKNOWN


def _show_dollars(value: float | None) -> str:
    """Dollars with cents; small sums with as many digits as it takes to show two of them."""
    if value is None:
        return UNKNOWN
    return f"{value:,.2f}" if value >= 0.1 or not value else f"{value:.2g}"
