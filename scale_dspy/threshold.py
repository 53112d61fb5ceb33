"""Threshold: a number in [0, 1] that is part of a program as its prompts are (Eq. 4).

DSPy finds it among the program's parameters, so it is saved, loaded, copied and tuned with them.
"""

from __future__ import annotations

from typing import Any

from dspy.predict.parameter import Parameter


class Threshold(Parameter):
    """A tunable number between 0 and 1.

    Raises:
        ValueError: the value is no number in [0, 1].

    >>> Threshold(0.5)
    Threshold(0.5)
    >>> Threshold(7)
    Traceback (most recent call last):
    ValueError: a threshold is a number from 0 to 1, not 7
    """

    def __init__(self, value: float) -> None:
        self.set(value)

    def set(self, value: float) -> None:
        """Change the value; ValueError unless it is a number in [0, 1]."""
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
            raise ValueError(f"a threshold is a number from 0 to 1, not {value!r}")
        self.value = float(value)

    def reset(self) -> None:
        """Keep the value: optimizers call `reset_copy` on the programs they are given."""

    def dump_state(self, json_mode: bool = True) -> dict[str, float]:
        return {"value": self.value}

    def load_state(self, state: dict[str, Any]) -> Threshold:
        self.set(state["value"])
        return self

    def __float__(self) -> float:
        return self.value

    def __repr__(self) -> str:
        return f"Threshold({self.value:g})"
