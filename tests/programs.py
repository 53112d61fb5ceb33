"""Python programs in processes of their own."""

from __future__ import annotations

import subprocess
import sys
import textwrap


def start_program(source: str) -> subprocess.Popen[str]:
    """Start a Python program of a session of its own, as from a terminal."""
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(source)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
