"""Plays one fault against one command, then lets the command finish, and says what was wrong."""

from __future__ import annotations

import contextlib
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tests.command import backend
from tests.fake_vllm import FakeVLLM, fake_vllm
from tests.faults import served
from tests.faults.lives import Ended, Lives
from tests.faults.table import (
    COMMANDS,
    PROBLEMS,
    TIMEOUT,
    WORLD,
    Command,
    Trouble,
    read_finished,
    read_result,
)
from tests.world import write_set

TRIES = 4  # a request and its three repeats


@dataclass
class Outcome:
    """What came of a case.

    Attributes:
        met: how the command ended while the fault was played: "right", "error", "other" (a result
            that the fault changed), "hangs".
        kept: finished lines that the fault left, all of them still there at the end.
        said: the last line on standard error where it failed.
        wrong: in words, everything that must not be.
    """

    met: str = ""
    kept: int = 0
    requests: int = 0
    seconds: float = 0.0
    said: str = ""
    wrong: list[str] = field(default_factory=list)


class Player:
    """Plays cases. Results without a fault are found once for each command."""

    def __init__(self, lives: Lives, folder: Path) -> None:
        self.lives, self._folder = lives, folder
        self._references: dict[str, tuple[Any, int]] = {}
        self._lock = threading.Lock()

    def play(self, name: str, trouble: Trouble) -> Outcome:
        """Play `trouble` against the command called `name`."""
        if name == "serve":
            return self._play_serve(trouble)
        command = COMMANDS[name]
        reference, usual = self._find_reference(name)
        outcome = Outcome()
        folder = self._make_folder(f"{name}-{trouble.name}")
        with contextlib.ExitStack() as stack:
            cache = stack.enter_context(_prepare_disks(trouble, folder))
            own = {"cache": cache, **trouble.own}
            first, requests = self._meet(command, trouble, folder, own)
            outcome.requests, outcome.seconds = requests, first.seconds
            finished = read_finished(command, folder)
            outcome.kept = len(finished)
            _judge_end(outcome, first)
            outcome.met = _name_end(command, folder, first, reference)
            _judge_met(outcome, (name == "solve" and trouble.solo) or trouble.end)
            _judge_requests(outcome, usual)
        if trouble.end != "any":
            self._finish(outcome, command, folder, finished, reference)
        return outcome

    def _play_serve(self, trouble: Trouble) -> Outcome:
        """Play `trouble` against the model server of a `serve`, which then is sound again."""
        reference, usual = self._find_reference("serve")
        folder = self._make_folder(f"serve-{trouble.name}")
        outcome = Outcome()
        with _prepare_disks(trouble, folder) as cache:
            own = {"cache": cache, **trouble.own}
            asked, again, ended, outcome.requests = self._serve(trouble, folder, own)
        outcome.seconds = ended.seconds
        if asked is None or again is None:
            outcome.met = "error"
            outcome.wrong.append(f"it does not start: {_last_line(ended)}")
        else:
            outcome.met = asked.name(reference)
            outcome.wrong += served.judge(asked, again, ended, reference)
        _judge_end(outcome, ended)
        _judge_met(outcome, trouble.served or trouble.solo or trouble.end)
        _judge_requests(outcome, usual)
        return outcome

    def _serve(
        self, trouble: Trouble, folder: Path, own: dict[str, Any]
    ) -> tuple[served.Asked | None, served.Asked | None, Ended, int]:
        """(what a client saw meanwhile, and afterwards; how `serve` ended; requests meanwhile)."""
        with fake_vllm(WORLD, faults=trouble.faults, **trouble.server) as server:
            self._start(COMMANDS["serve"], server, folder, "first", trouble.timeout, own)
            url = served.read_url(folder, "first")
            away = trouble.special in ("refused", "restart")
            asked = served.ask(url) if url and not away else None
            requests = len(server.chats())
        if url and away:
            asked, requests = self._ask_while_away(trouble, server, url)
        with fake_vllm(WORLD, port=server.port):
            again = served.ask(url) if url else None
            return asked, again, served.end(self.lives, folder, "first"), requests

    def _ask_while_away(
        self, trouble: Trouble, server: FakeVLLM, url: str
    ) -> tuple[served.Asked, int]:
        """Ask while the server is gone; one that restarts is there again after a second."""
        if trouble.special == "refused":
            return served.ask(url), 0
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(served.ask, url)
            time.sleep(1)
            with fake_vllm(WORLD, port=server.port) as back:
                return waiting.result(), len(back.chats())

    def _meet(
        self, command: Command, trouble: Trouble, folder: Path, own: dict[str, Any]
    ) -> tuple[Ended, int]:
        """Run the command while the fault is played; returns its end and the requests seen."""
        if trouble.special == "refused":
            with fake_vllm(WORLD) as gone:
                pass
            return self._run(command, gone, folder, "first", trouble.timeout, own), 0
        if trouble.special == "restart":
            return self._meet_restart(command, folder, own)
        with fake_vllm(WORLD, faults=trouble.faults, **trouble.server) as server:
            if trouble.special == "two":
                server.options = type(server.options)(delay=0.1)
                self._start(command, server, folder, "other", trouble.timeout, own)
                first = self._run(command, server, folder, "first", trouble.timeout, own)
                other = self.lives.wait(folder, "other")
                return _judge_two(command, first, other), len(server.chats())
            ended = self._run(command, server, folder, "first", trouble.timeout, own)
            return ended, len(server.chats())

    def _meet_restart(
        self, command: Command, folder: Path, own: dict[str, Any]
    ) -> tuple[Ended, int]:
        """The server is away for a second after its third request, and back at the same port."""
        with fake_vllm(WORLD, delay=0.05) as server:
            self._start(command, server, folder, "first", TIMEOUT, own)
            deadline = time.monotonic() + TIMEOUT
            while len(server.chats()) < 3 and time.monotonic() < deadline:
                time.sleep(0.01)
        time.sleep(1)
        with fake_vllm(WORLD, port=server.port) as back:
            ended = self.lives.wait(folder, "first")
            return ended, len(server.chats()) + len(back.chats())

    def _finish(
        self,
        outcome: Outcome,
        command: Command,
        folder: Path,
        finished: dict[Any, Any],
        reference: Any,
    ) -> None:
        """Run it again with nothing wrong: its result is whole, what was done unchanged."""
        with fake_vllm(WORLD) as server:
            again = Command((*command.arguments, *command.again))
            cache = {"cache": str(folder / "cache")}
            ended = self._run(again, server, folder, "again", TIMEOUT, cache)
        if ended.code != 0:
            outcome.wrong.append(f"run again it ended with {ended.code}: {_last_line(ended)}")
        elif read_result(command, folder, ended.out) != reference:
            outcome.wrong.append("run again its result is not whole")
        now = read_finished(command, folder)
        if any(now.get(key) != line for key, line in finished.items()):
            outcome.wrong.append("a finished line was lost or done again")

    def _find_reference(self, name: str) -> tuple[Any, int]:
        with self._lock:
            if name not in self._references:
                command, folder = COMMANDS[name], self._make_folder(f"{name}-reference")
                if name == "serve":
                    own = {"cache": str(folder / "cache")}
                    asked, *_, requests = self._serve(Trouble("nothing", "right"), folder, own)
                    if asked is None or asked.status != 200:
                        raise RuntimeError(f"serve fails without a fault: {asked}")
                    self._references[name] = asked.content, requests
                    return self._references[name]
                with fake_vllm(WORLD) as server:
                    cache = {"cache": str(folder / "cache")}
                    ended = self._run(command, server, folder, "first", TIMEOUT, cache)
                    if ended.code != 0:
                        raise RuntimeError(f"{name} fails without a fault: {ended.err}")
                    result = read_result(command, folder, ended.out)
                    self._references[name] = result, len(server.chats())
            return self._references[name]

    def _make_folder(self, name: str) -> Path:
        folder = self._folder / "".join(each if each.isalnum() else "-" for each in name)
        (folder / "out").mkdir(parents=True)
        write_set(folder / "set.jsonl", PROBLEMS)
        return folder

    def _start(
        self,
        command: Command,
        server: FakeVLLM,
        folder: Path,
        name: str,
        timeout: float,
        own: dict[str, Any],
    ) -> None:
        flags = ["--threads", "4", "--timeout", str(timeout), *backend(server)]
        arguments = [*command.arguments, *flags]
        self.lives.start(arguments, folder, name, **own)

    def _run(self, command: Command, server: FakeVLLM, folder: Path, name: str, *how: Any) -> Ended:
        self._start(command, server, folder, name, *how)
        return self.lives.wait(folder, name)


PAIRS = range(12)  # the most (problem, sample) pairs of a command


@contextlib.contextmanager
def _prepare_disks(trouble: Trouble, folder: Path) -> Iterator[str]:
    """The folder of the cache; the disks that the fault needs, as small file systems of their own.

    They need root. What was written to a full one stays when the disk gets larger.
    """
    cache = folder / "cache"
    if trouble.special == "cache":
        yield "/proc/scale-dspy-cache"
        return
    if trouble.special not in ("output", "full cache"):
        yield str(cache)
        return
    place, size = (folder / "out", "16k") if trouble.special == "output" else (cache, "2400k")
    place.mkdir(exist_ok=True)
    _call("mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(place))
    try:
        yield str(cache)
        kept = folder / "kept"
        _call("cp", "-a", str(place), str(kept))
    finally:
        _call("umount", str(place))
    _call("cp", "-a", f"{kept}/.", str(place))


def can_mount() -> bool:
    """Whether full disks can be played here."""
    return os.geteuid() == 0


def _call(*command: str) -> None:
    subprocess.run(command, check=True, timeout=20)


def _judge_met(outcome: Outcome, wanted: str) -> None:
    if wanted != "any" and outcome.met != wanted:
        outcome.wrong.append(f"ended {outcome.met}, not {wanted}")


def _judge_requests(outcome: Outcome, usual: int) -> None:
    if outcome.requests > TRIES * usual + 2 * len(PAIRS):
        outcome.wrong.append(f"{outcome.requests} requests where {usual} are usual")


def _judge_end(outcome: Outcome, ended: Ended) -> None:
    if ended.code is None:
        outcome.wrong.append("it hangs")
    elif ended.code not in (0, 1, 2):
        outcome.wrong.append(f"exit code {ended.code}")
    if "Traceback" in ended.err:
        outcome.wrong.append("a traceback")
    if ended.left:
        outcome.wrong.append(f"left behind: {', '.join(ended.left)}")
    if ended.code in (1, 2):
        outcome.said = _last_line(ended)
        if not outcome.said:
            outcome.wrong.append("no word of what went wrong")


def _name_end(command: Command, folder: Path, ended: Ended, reference: Any) -> str:
    if ended.code is None:
        return "hangs"
    if ended.code:
        return "error"
    return "right" if read_result(command, folder, ended.out) == reference else "other"


def _judge_two(command: Command, first: Ended, other: Ended) -> Ended:
    """The one that did the work; the other must have been kept out, or be right as well."""
    for worker, kept_out in ((first, other), (other, first)):
        told = "in use by another" in kept_out.err and "Traceback" not in kept_out.err
        if worker.code == 0 and ((kept_out.code == 2 and told) or not command.result):
            return worker
    failed, beside = (first, other) if first.code else (other, first)
    said = f"the other, with {beside.code}: {_last_line(beside)}; {_last_line(failed)}"
    return replace(failed, err=f"{failed.err}\n{said}")


def _last_line(ended: Ended) -> str:
    return (ended.err.strip().splitlines() or [""])[-1][:200]
