"""Estimate: how likely a draft is to be wrong, from features of it, as a part of the program.

Measures of a draft's tokens follow DeepConf (arXiv 2508.15260): besides their mean, the least sure
window and the end. Which of them tell depends on the model, so their weights are a Parameter: they
are saved, loaded, copied and tuned with the program's prompts and thresholds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from dspy.predict.parameter import Parameter

WINDOW = 16  # tokens of the least sure passage
LAST = 32  # tokens of the end
CAP = 8192  # tokens that a length is measured against where a draft has no cap

FEATURES = ("length", "cut_off", "unreadable", "mean", "window", "last", "disagreement")
"""length: log(1 + tokens) / log(1 + cap). cut_off, unreadable: 0 or 1. mean, window, last: nats a
token, over the whole draft, its least sure WINDOW and its LAST tokens. disagreement: the share of
drafts that found something else, in [0, 1]."""

# The value that stands in for a feature that is not known: then it has no weight.
TYPICAL = {
    "length": 0.85,
    "cut_off": 0.0,
    "unreadable": 0.0,
    "mean": 0.1,
    "window": 0.6,
    "last": 0.1,
    "disagreement": 0.3,
}
# Signs and sizes that hold for any model; a compile fits them to one.
PLAIN = {
    "length": 8.0,
    "cut_off": 2.5,
    "unreadable": 3.0,
    "mean": 1.0,
    "window": 0.5,
    "last": 2.0,
    "disagreement": 3.5,
}
PLAIN_BIAS = -0.7


class Estimate(Parameter):
    """A logistic function of a draft's features.

    Args:
        weights: by feature; one that is left out weighs nothing.
        bias: log-odds of being wrong for a draft whose features are all TYPICAL.

    Raises:
        ValueError: an unknown feature, or a weight that is no finite number.

    >>> sure = measure_draft(40, 256, cut_off=False, readable=True)
    >>> lost = measure_draft(256, 256, cut_off=True, readable=False)
    >>> Estimate()(sure) < 0.2, Estimate()(lost) > 0.9
    (True, True)
    """

    def __init__(
        self, weights: Mapping[str, float] | None = None, bias: float = PLAIN_BIAS
    ) -> None:
        self.set(PLAIN if weights is None else weights, bias)

    def set(self, weights: Mapping[str, float], bias: float) -> None:
        """Change the weights and the bias; ValueError as for a new one."""
        unknown = sorted(set(weights) - set(FEATURES))
        if unknown:
            raise ValueError(f"a draft has no features {unknown}: choose from {FEATURES}")
        numbers = [bias, *weights.values()]
        if not all(_is_number(number) for number in numbers):
            raise ValueError(f"weights and bias are finite numbers, not {numbers!r}")
        self.weights = {name: float(weights.get(name, 0.0)) for name in FEATURES}
        self.bias = float(bias)

    def __call__(self, features: Mapping[str, float]) -> float:
        """The chance in [0, 1] that a draft with these features is wrong."""
        odds = self.bias + sum(
            weight * (features.get(name, TYPICAL[name]) - TYPICAL[name])
            for name, weight in self.weights.items()
        )
        # So many decimals are the same on every machine, and a score is a threshold one day.
        return round(1 / (1 + math.exp(-max(-30.0, min(30.0, odds)))), 6)

    def reset(self) -> None:
        """Keep the weights: optimizers call `reset_copy` on the programs they are given."""

    def dump_state(self, json_mode: bool = True) -> dict[str, Any]:
        return {"weights": dict(self.weights), "bias": self.bias}

    def load_state(self, state: dict[str, Any]) -> Estimate:
        self.set(state["weights"], state["bias"])
        return self

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Estimate) and self.dump_state() == other.dump_state()

    __hash__ = object.__hash__

    def __repr__(self) -> str:
        weights = ", ".join(f"{name} {weight:g}" for name, weight in self.weights.items())
        return f"Estimate(bias {self.bias:g}, {weights})"


def measure_draft(
    tokens: int,
    cap: int | None,
    *,
    cut_off: bool,
    readable: bool,
    logprobs: Sequence[float] | None = None,
    disagreement: float | None = None,
) -> dict[str, float]:
    """The features of a draft that are known; see FEATURES.

    Args:
        tokens: its length.
        cap: the most tokens that it might have had.
        readable: whether a result can be read in it.
        logprobs: of its tokens, natural logarithms; None where the server gives none.
        disagreement: in [0, 1]; None where it was the only draft.
    """
    known = {
        "length": math.log1p(tokens) / math.log1p(max(2, cap or CAP)),
        "cut_off": float(cut_off),
        "unreadable": float(not readable),
    }
    if logprobs:
        surprises = [-value for value in logprobs if math.isfinite(value)] or [0.0]
        known["mean"] = _mean(surprises)
        known["window"] = _find_worst(surprises)
        known["last"] = _mean(surprises[-LAST:])
    if disagreement is not None:
        known["disagreement"] = disagreement
    return known


def _find_worst(surprises: Sequence[float]) -> float:
    """The highest mean of WINDOW tokens in a row; of all where there are fewer."""
    total = highest = sum(surprises[:WINDOW])
    for place in range(WINDOW, len(surprises)):
        total += surprises[place] - surprises[place - WINDOW]
        highest = max(highest, total)
    return highest / min(WINDOW, len(surprises))


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _is_number(value: Any) -> bool:
    real = isinstance(value, (int, float)) and not isinstance(value, bool)
    return real and math.isfinite(value)
