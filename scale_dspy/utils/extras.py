"""How an extra of this package is installed."""

from __future__ import annotations


def advise_install(extra: str) -> str:
    """The command that brings an extra. The package is on no index, where a stranger could put one
    of its name; it is installed from a clone.

    >>> advise_install("report")
    'pip install ".[report]" in a clone of scale_dspy'
    """
    return f'pip install ".[{extra}]" in a clone of scale_dspy'
