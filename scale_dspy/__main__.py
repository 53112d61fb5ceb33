"""`python -m scale_dspy` is `scale-dspy`: the way in from a shell."""

from __future__ import annotations

import signal

if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a press ends it quietly while it is imported

from collections.abc import Callable

from scale_dspy.cli.interrupts import run_until_interrupted


def enter() -> None:
    """Run the command line as this process."""
    run_until_interrupted(_import_main)


def _import_main() -> Callable[[], int]:
    from scale_dspy.cli.main import main

    return main


if __name__ == "__main__":
    enter()
