"""How to install an extra of this package."""

from __future__ import annotations


def advise_install(extra: str) -> str:
    """The command that installs an extra from a clone. The package is on no index, and anybody
    could publish another package there under its name.

    >>> advise_install("report")
    'pip install ".[report]" in a clone of scale_dspy'
    """
    return f'pip install ".[{extra}]" in a clone of scale_dspy'
