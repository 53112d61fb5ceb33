"""The files of a run, damaged, missing or planted, and the commands that read them.

Each case is a folder of a finished run in which one file is not what it was. A command then ends
within LIMIT with 0, 1 or 2, says no more than LINES, has no traceback, and leaves alone what links
point at.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tests.command import backend
from tests.fake_vllm import FakeVLLM, fake_vllm
from tests.faults.lives import Ended, Lives
from tests.faults.table import WORLD
from tests.world import write_set

LIMIT = 30.0  # seconds; an idle machine needs one or two
LINES = 16  # of an error; argparse tells the usage first
MEMORY = 6 << 30  # bytes of address space: an endless file must not fill the machine
STRANGER = "stranger"  # beside the run; links point at it

EVALUATE = ("evaluate", "set.jsonl", "--method", "cot", "--samples", "2", "--out", "run")
RUN_TOML = 'data = "set.jsonl"\nmethod = "cot"\nsamples = 2\nout = "run"\n'


@dataclass(frozen=True)
class Reader:
    """A command line and the files that it reads, in the folder of the case.

    Attributes:
        asks: whether it needs a model server.
    """

    arguments: tuple[str, ...]
    files: tuple[str, ...]
    asks: bool = False


READERS = {
    "status": Reader(
        ("status", "run"),
        ("run/run.json", "run/rollouts.jsonl", "run/process.json", "run/.lock"),
    ),
    "status --json": Reader(("status", "run", "--json"), ("run/run.json", "run/rollouts.jsonl")),
    "stop": Reader(("stop", "run"), ("run/run.json", "run/process.json", "run/.lock")),
    "cache": Reader(("cache",), ("cache/replies.sqlite3",)),
    "cache --clear": Reader(("cache", "--clear"), ("cache/replies.sqlite3",)),
    "regrade": Reader(("regrade", "run"), ("run/run.json", "run/rollouts.jsonl")),
    "report": Reader(
        ("report", "run", "--out", "page.html"),
        ("run/run.json", "run/rollouts.jsonl", "run/summary.json", "page.html"),
    ),
    "evaluate": Reader(
        EVALUATE,
        ("run/run.json", "run/rollouts.jsonl", "run/summary.json", "run/.lock", "set.jsonl"),
        asks=True,
    ),
    "evaluate run.toml": Reader(("evaluate", "run.toml"), ("run.toml",), asks=True),
    "evaluate run.json": Reader(
        ("evaluate", "run/run.json", "--out", "other"), ("run/run.json",), asks=True
    ),
    "solve --program": Reader(
        ("solve", "Find 1 + 1.", "--program", "program.json"), ("program.json",), asks=True
    ),
}


def _write(content: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(content)


def _link(target: str) -> Callable[[Path], object]:
    def link(path: Path) -> None:
        path.unlink(missing_ok=True)
        path.symlink_to(target)

    return link


def _cut(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def _change(path: Path) -> None:
    """Bytes in the middle, as a bad disk or another program would."""
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 16] = b"\xff\x00{[\"]}\\n\x1b[2J'%s"[: len(content) - middle]
    path.write_bytes(bytes(content))


def _mix(path: Path) -> None:
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))


DAMAGE: dict[str, Callable[[Path], object]] = {
    "nothing": lambda path: None,
    "is missing": lambda path: path.unlink(),
    "is empty": _write(b""),
    "is cut in half": _cut,
    "has other bytes in its middle": _change,
    "has a byte order mark and CRLF": _mix,
    "is a list": _write(b"[1, 2]\n"),
    "is a number": _write(b"7\n"),
    "is an object of nothing known": _write(b'{"pid": -1, "data": {"x": []}}\n'),
    "is nested deep": _write(b"[" * 100_000),
    "is no text": _write(bytes(range(256)) * 40),
    "is a page of HTML": _write(b"<!DOCTYPE html><html><body>502 Bad Gateway</body></html>\n"),
    "is a folder": lambda path: (path.unlink(), path.mkdir()),
    "is a pipe": lambda path: (path.unlink(), os.mkfifo(path)),
    "is a link to a stranger's file": _link(f"{{place}}/{STRANGER}"),
    "is a link to nothing": _link("nowhere/at/all"),
    "is a link to itself": lambda path: (path.unlink(), path.symlink_to(path.name)),
    "is an endless device": _link("/dev/zero"),
    "is a full device": _link("/dev/full"),
}


@dataclass(frozen=True)
class Case:
    """One damaged file and one command that reads it."""

    reader: str
    file: str
    damage: str

    @property
    def name(self) -> str:
        return f"{self.file} {self.damage} x {self.reader}"


# What a person names may be a pipe, as in `evaluate <(make-a-set)`; these are then waited for.
NAMED = ("set.jsonl", "program.json")
ENDLESS = ("is a pipe", "is an endless device", "is a full device")
CASES = [
    Case(name, file, damage)
    for name, reader in READERS.items()
    for file in reader.files
    for damage in DAMAGE
    if not (file in NAMED and damage in ENDLESS)
]


def make_original(lives: Lives, folder: Path, server: FakeVLLM) -> None:
    """A folder with one of each file, from a run that is done."""
    from scale_dspy import SCALE

    folder.mkdir()
    write_set(folder / "set.jsonl", WORLD.problems(3))
    (folder / "run.toml").write_text(RUN_TOML)
    (folder / STRANGER).write_text("mine\n")
    SCALE(candidates=1).save(folder / "program.json")
    for name, arguments in (
        ("made", (*EVALUATE, *backend(server))),
        ("page", ("report", "run", "--out", "page.html")),
    ):
        lives.start(list(arguments), folder, name, cache=str(folder / "cache"))
        ended = lives.wait(folder, name)
        if ended.code != 0:
            raise RuntimeError(f"the run to damage was not made: {ended.err}")
    (folder / "run/process.json").write_text('{"pid": 1, "host": "h", "started": 1, "done": 0}\n')


def play(case: Case, lives: Lives, original: Path, folder: Path, server: FakeVLLM) -> list[str]:
    """Play a case in a copy of `original`; returns in words everything that must not be."""
    reader = READERS[case.reader]
    shutil.copytree(original, folder, symlinks=True)
    path = folder / case.file
    DAMAGE[case.damage](path)
    if path.is_symlink():
        _link(str(path.readlink()).format(place=folder))(path)
    flags = backend(server) if reader.asks else []
    own = {"cache": str(folder / "cache"), "memory": MEMORY, "limit": LIMIT}
    lives.start([*reader.arguments, *flags], folder, "ended", **own)
    ended = lives.wait(folder, "ended")
    return judge(case, ended, folder)


def play_all(
    lives: Lives, folder: Path, jobs: int, only: str = ""
) -> Iterator[tuple[str, list[str]]]:
    """(case, in words what was wrong) of each."""
    chosen = [case for case in CASES if re.search(only, case.name)]
    if not chosen:
        return
    with fake_vllm(WORLD) as server, ThreadPoolExecutor(jobs) as pool:
        make_original(lives, folder / "original", server)

        def play_one(number: int) -> tuple[str, list[str]]:
            case = chosen[number]
            return case.name, play(case, lives, folder / "original", folder / f"{number}", server)

        yield from pool.map(play_one, range(len(chosen)))


def judge(case: Case, ended: Ended, folder: Path) -> list[str]:
    """Everything that was wrong with how a command ended."""
    wrong = []
    if ended.code is None:
        wrong.append("it hangs")
    elif ended.code not in (0, 1, 2):
        wrong.append(f"exit code {ended.code}")
    if "Traceback" in ended.err + ended.out:
        wrong.append("a traceback")
    if "\x1b[2J" in ended.err + ended.out:
        wrong.append("a file's bytes reach the terminal")
    if ended.code and not ended.err.strip():
        wrong.append("no word of what went wrong")
    if ended.code and len(ended.err.splitlines()) > LINES:
        wrong.append(f"{len(ended.err.splitlines())} lines on standard error")
    if ended.left:
        wrong.append(f"left behind: {', '.join(ended.left)}")
    if case.damage == "nothing" and ended.code != 0 and case.reader != "stop":
        wrong.append(f"undamaged it ends with {ended.code}")
    if (folder / STRANGER).read_text() != "mine\n":
        wrong.append("a stranger's file was written through a link")
    return wrong
