"""What an argument must be, said in one line where it is not."""

from __future__ import annotations

from typing import Any


def check_whole(name: str, value: Any, least: int = 1, most: int | None = None) -> int:
    """`value` itself, if it is a whole number in the range.

    Args:
        name: what it is, with an article where the sentence wants one.
        least, most: the ends of the range, both part of it; None for no end.

    Raises:
        ValueError: it is no whole number, or out of the range.
    """
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not whole or value < least or (most is not None and value > most):
        end = "" if most is None else f" to {most}"
        raise ValueError(f"{name} is a whole number from {least}{end}, not {value!r}")
    return int(value)
