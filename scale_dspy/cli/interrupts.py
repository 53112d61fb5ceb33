"""What a press of Ctrl-C does, and SIGTERM with it.

While a run is at work, the first press ends it in order: requests on their way are cancelled, and a
line says what is kept. Before that and after it, and at a second press, the process ends at once:
there is nothing to save, and an exception that is raised in the middle of an import, or while
Python shuts down, would be printed as a traceback.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

INTERRUPTED = 130
TOLD = "scale-dspy: interrupted"

_at_work = False


def run_until_interrupted(make_main: Callable[[], Callable[[], int]]) -> None:
    """Run a program in this process, and end the process with its exit code.

    Args:
        make_main: imports the program; a press during the import, which takes a while, counts too.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is not signal.SIG_IGN:  # a shell may have it ignored
            signal.signal(number, _meet)
    try:
        code = make_main()()
    except SystemExit as stop:  # argparse
        code = stop.code if isinstance(stop.code, int) else 1
    # Threads that are still at work have nobody to report to, and to take all of a big program
    # apart, as Python does at its end, takes seconds.
    atexit._run_exitfuncs()
    _end(code)


@contextmanager
def winding_up() -> Iterator[None]:
    """Inside the block the first press raises KeyboardInterrupt, so that work can end in order."""
    global _at_work
    _at_work = True
    try:
        yield
    finally:
        _at_work = False


def _meet(number: int, frame: FrameType | None) -> None:
    global _at_work
    if _at_work:
        _at_work = False
        raise KeyboardInterrupt
    with suppress(OSError):  # not through sys.stderr, in whose middle the press may have come
        cursor = "\x1b[?25h" if os.isatty(2) else ""  # a progress bar hides it
        os.write(2, f"{cursor}\n{TOLD}\n".encode() if cursor else f"{TOLD}\n".encode())
    _end(INTERRUPTED)


def _end(code: int) -> None:
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):
            stream.flush()
    os._exit(code)
