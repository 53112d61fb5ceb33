"""`--detach`: a command runs on in the background, with a log in its folder."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from scale_dspy.cli.options import DONE
from scale_dspy.utils.files import append_lines

LOG = "log.txt"
BEGIN = 120.0  # seconds that a detached run gets to begin its work


def detach(argv: Sequence[str], out: Path) -> int:
    """Run a command in the background, with its output in a log in `out`; returns once it works.

    Args:
        argv: the command's own arguments.
        out: the folder it will work in.
    """
    from scale_dspy.evaluation.run_status import find_worker
    from scale_dspy.utils.files import make_folder

    if find_worker(out):
        raise ValueError(f"{out} is in use by another run")
    make_folder(out)
    command = [sys.executable, "-m", "scale_dspy", *(each for each in argv if each != "--detach")]
    with append_lines(out / LOG) as log:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
    deadline = time.monotonic() + BEGIN
    while process.poll() is None and not find_worker(out) and time.monotonic() < deadline:
        time.sleep(0.1)
    code = process.poll()
    if code:
        lines = (out / LOG).read_text(encoding="utf-8", errors="replace").splitlines()
        last = (lines or ["no word"])[-1].removeprefix("scale-dspy: ")
        raise RuntimeError(f"it ended at once: {last}")
    how = f"runs as process {process.pid}" if code is None else "is done already"
    print(
        f"{out}: {how}, its words are in {out / LOG}; `scale-dspy status {out}` tells how far it "
        f"is, `scale-dspy stop {out}` ends it",
        file=sys.stderr,
    )
    return DONE
