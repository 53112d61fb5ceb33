"""How an extra of this package is installed."""

from __future__ import annotations


def advise_install(extra: str) -> str:
    """The command that installs an extra, from a clone: the package is on no index, and a stranger
    could publish another one there under its name.

    >>> advise_install("report")
    'pip install ".[report]" in a clone of scale_dspy'
    """
    return f'pip install ".[{extra}]" in a clone of scale_dspy'
