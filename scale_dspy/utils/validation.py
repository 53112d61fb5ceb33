"""Check arguments; each error says in one line what the argument must be."""

from __future__ import annotations

from typing import Any

LARGEST = 10**12  # of a count; more is a mistake, and floats do not hold every larger number
SEEDS = (-(2**63), 2**63 - 1)  # the range of 64 bits, which JSON libraries and servers accept


def check_whole(name: str, value: Any, least: int = 1, most: int | None = None) -> int:
    """`value` itself, if it is a whole number in the range.

    Args:
        name: what it is, as the subject of the error's sentence, with an article if it needs one.
        least, most: the ends of the range, both included; most=None means LARGEST, which the
            message then leaves out.

    Raises:
        ValueError: it is not a whole number, or out of the range.
    """
    whole = isinstance(value, int) and not isinstance(value, bool)
    if whole and abs(value) > LARGEST and (most is None or most < LARGEST):
        raise ValueError(f"{name} is a whole number from {least} to 10^12, not {_shorten(value)}")
    if not whole or value < least or (most is not None and value > most):
        end = "" if most is None else f" to {most}"
        raise ValueError(f"{name} is a whole number from {least}{end}, not {_shorten(value)}")
    return int(value)


def check_seed(seed: Any) -> int | None:
    """`seed` itself; ValueError unless it is None or a whole number of 64 bits."""
    if seed is None:
        return None
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise ValueError(f"seed is a whole number, not {_shorten(seed)}")
    if not SEEDS[0] <= seed <= SEEDS[1]:
        raise ValueError(f"seed is a whole number from -2^63 to 2^63 - 1, not {_shorten(seed)}")
    return int(seed)


def _shorten(value: Any) -> str:
    """The value's repr, shortened for a message."""
    if isinstance(value, int) and value.bit_length() > 128:  # Python may refuse to write them
        return "one of more than 38 digits"
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:99]}…"
