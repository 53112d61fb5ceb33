"""Command lines in processes that start at once: forks of one that has all imported.

`python -m tests.faults.lives` is that one. For each line of JSON on standard input it forks a
guard, which forks the command's process in a session of its own, waits for its end, looks for what
it left behind and writes `ended.json`. `Lives` is the side that tests use.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
LIMIT = 90.0  # seconds for a command; then it hangs


@dataclass(frozen=True)
class Ended:
    """How a command ended.

    Attributes:
        code: its exit code; None where it was still running at the limit.
        left: processes and threads that outlived it.
    """

    code: int | None
    out: str
    err: str
    seconds: float
    left: tuple[str, ...]


class Lives:
    """Starts commands; several may run at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.lives"],
            cwd=ROOT,
            env={**os.environ, "NO_PROXY": "127.0.0.1", "PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout
        if self._process.stdout.readline() != "ready\n":
            raise RuntimeError("the process that commands are forked from did not start")

    def start(self, arguments: list[str], folder: Path, name: str, **how: Any) -> None:
        """Begin a command in `folder`, with its own `limit` in seconds where LIMIT is too much; see
        `_run_command` for the rest of `how`."""
        (folder / name).mkdir()
        order = {"arguments": arguments, "folder": str(folder), "name": name, **how}
        with self._lock:
            assert self._process.stdin
            self._process.stdin.write(json.dumps(order) + "\n")
            self._process.stdin.flush()

    def end(self, folder: Path, name: str) -> None:
        """Send SIGTERM to a command."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(int((folder / name / "pid").read_text()), signal.SIGTERM)

    def wait(self, folder: Path, name: str) -> Ended:
        """Until the command has ended, or was ended at the limit."""
        told = folder / name / "ended.json"
        deadline = time.monotonic() + LIMIT + 30
        while not told.exists():
            if time.monotonic() > deadline:
                raise RuntimeError("a guard is gone")
            time.sleep(0.02)
        ended = json.loads(told.read_text())
        out, err = ((folder / name / part).read_text() for part in ("out", "err"))
        left = (*ended["left"], *(line for line in err.splitlines() if line.startswith("THREAD")))
        return Ended(ended["code"], out, err, ended["seconds"], left)

    def close(self) -> None:
        self._process.kill()
        self._process.wait()


def _serve() -> None:
    import litellm
    from aiohttp import web  # noqa: F401

    from scale_dspy.cli import main as cli
    from scale_dspy.tuning import threshold_search as search  # noqa: F401

    litellm.suppress_debug_info = True  # it prints
    with contextlib.suppress(Exception):  # imports the rest of what a call needs
        litellm.completion("hosted_vllm/m", [{"role": "user"}], api_base="http://127.0.0.1:9/v1")
    with contextlib.redirect_stdout(sys.stderr):
        import litellm.proxy.proxy_server  # half of the time that `serve` needs
    gc.freeze()  # forks then share its memory
    print("ready", flush=True)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for line in sys.stdin:
        if os.fork():
            continue
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        order = json.loads(line)
        limit = order.pop("limit", LIMIT)
        child = os.fork()
        if child == 0:
            sys.exit(_run_command(cli, **order))
        _guard(child, Path(order["folder"]) / order["name"], limit)
        os._exit(0)
    os._exit(0)


def _guard(child: int, folder: Path, limit: float) -> None:
    began, code = time.monotonic(), None
    (folder / "pid").write_text(str(child))
    while code is None and time.monotonic() < began + limit:
        done, status = os.waitpid(child, os.WNOHANG)
        code = os.waitstatus_to_exitcode(status) if done else None
        time.sleep(0.01)
    seconds = time.monotonic() - began
    left = [] if code is None else _list_session(child)
    if code is None or left:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)
    draft = folder / "ended.tmp"
    draft.write_text(json.dumps({"code": code, "seconds": seconds, "left": left}))
    draft.replace(folder / "ended.json")


def _list_session(session: int) -> list[str]:
    """The processes of a session, by name."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError):
            name, _, rest = path.read_text().rpartition(")")
            if int(rest.split()[3]) == session and rest.split()[0] != "Z":
                found.append(f"PROCESS {name.partition('(')[2]}")
    return found


def _run_command(
    cli: Any,
    arguments: list[str],
    folder: str,
    name: str,
    cache: str,
    first_wait: float = 0.02,
    longest_wait: float = 0.5,
    jumping_clock: bool = False,
    file_limit: int | None = None,
    memory: int | None = None,
) -> int:
    """Run one command line, with short waits and what goes wrong on its own side."""
    from scale_dspy.lm import routing as replicas

    os.setsid()
    os.chdir(folder)
    for number, path in ((0, os.devnull), (1, f"{name}/out"), (2, f"{name}/err")):
        os.dup2(os.open(path, os.O_RDWR | os.O_CREAT), number)
    sys.stdin = open(os.devnull)  # noqa: SIM115, PTH123
    os.environ["SCALE_CACHE"] = cache
    replicas.FIRST_WAIT, replicas.LONGEST_WAIT = first_wait, longest_wait
    if jumping_clock:
        real, jumps = time.time, itertools.cycle((0.0, 86_400.0, -86_400.0))
        time.time = lambda: real() + next(jumps)
    if file_limit is not None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, file_limit))
    if memory is not None:
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    code = int(cli.main(arguments))
    for thread in threading.enumerate():
        if not thread.daemon and thread is not threading.main_thread():
            print(f"THREAD {thread.name}", file=sys.stderr)
    return code


if __name__ == "__main__":
    _serve()
