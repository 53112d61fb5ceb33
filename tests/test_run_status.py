"""A run seen from outside: status while it is at work, stop, going on, and what a kill leaves."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from scale_dspy.cli.detach import detach
from scale_dspy.evaluation.run_status import (
    RunStatus,
    announce,
    find_runs,
    find_worker,
    read_status,
    stop_run,
)
from scale_dspy.utils.files import hold_folder
from tests.command import backend, run
from tests.fake_vllm import FakeVLLM, Spawned, spawn_fake_vllm
from tests.world import World, write_set

ENV = "SCALE_CACHE"


@pytest.fixture
def slow_server() -> Iterator[Spawned]:
    with spawn_fake_vllm(World(), delay=0.4) as server:
        yield server


@pytest.fixture
def flags(slow_server: Spawned, tmp_path: Path) -> list[str]:
    write_set(tmp_path / "set.jsonl", World().problems(8))
    return [
        "evaluate", str(tmp_path / "set.jsonl"), "--method", "cot", "--samples", "4",
        "--threads", "2", "--out", str(tmp_path / "run"), *backend(slow_server),
    ]  # fmt: skip


def wait_for(what: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "it has not come about"
        time.sleep(0.05)


def has_begun(folder: Path) -> bool:
    return find_worker(folder) is not None and read_status(folder).done > 1


def test_a_detached_run_is_watched_stopped_and_goes_on(
    flags: list[str],
    slow_server: Spawned,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv(ENV, str(tmp_path / "cache"))
    folder = tmp_path / "run"
    code, _, err = run(capsys, *flags, "--detach")
    assert code == 0, err
    assert "runs as process" in err
    wait_for(lambda: has_begun(folder))
    at_work = read_status(folder)
    assert (at_work.state, at_work.total) == ("running", 32)
    assert at_work.rate
    assert at_work.seconds_left
    assert at_work.worker
    assert at_work.worker.pid != os.getpid()
    code, out, _ = run(capsys, "status", str(tmp_path), "--json")
    assert code == 0
    assert json.loads(out)[0]["state"] == "running"
    with pytest.raises(ValueError, match="in use"):
        detach(flags, folder)
    code, out, err = run(capsys, "stop", str(folder))
    assert code == 0, err
    assert re.search(r"stopped: \d+ of 32 are kept in", " ".join(out.split()))
    stopped = read_status(folder)
    assert stopped.state == "stopped"
    assert 1 < stopped.done < 32
    assert "Traceback" not in (folder / "log.txt").read_text()
    assert run(capsys, "stop", str(folder)) == (2, "", f"scale-dspy: nothing runs in {folder}\n")
    # Another limit, and it goes on from there.
    flags[flags.index("--threads") + 1] = "16"
    code, _, err = run(capsys, *flags)
    assert code == 0, err
    assert read_status(folder).state == "finished"
    assert len((folder / "rollouts.jsonl").read_text().splitlines()) == 32
    code, out, _ = run(capsys, "status", str(folder), "--watch")
    assert code == 0
    assert "32 of 32" in out


@pytest.mark.slow
def test_a_compile_is_watched_as_a_whole_and_goes_on_with_other_limits(
    slow_server: Spawned,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv(ENV, str(tmp_path / "cache"))
    write_set(tmp_path / "set.jsonl", World().problems(8))
    folder = tmp_path / "p.compile"
    flags = [
        "compile", str(tmp_path / "set.jsonl"), "--optimizer", "none", "--candidates", "1",
        "--threads", "1", "--cost-limit", "5000000", "--out", str(tmp_path / "p.json"),
        *backend(slow_server),
    ]  # fmt: skip
    code, _, err = run(capsys, *flags, "--detach")
    assert code == 0, err
    wait_for(lambda: find_worker(folder) is not None and (read_status(folder).done or 0) > 0)
    wait_for(lambda: bool(read_status(folder).sent_tokens))
    at_work = read_status(folder)
    assert (at_work.state, at_work.stage, at_work.total) == ("running", "threshold", 4)
    assert at_work.worker
    assert at_work.calls
    wait_for(lambda: bool(read_status(folder).rate))
    assert at_work.tokens_left == 5_000_000 - (at_work.sent_tokens or 0)
    code, out, _ = run(capsys, "status", str(tmp_path), "--json")
    assert code == 0
    assert [each["folder"] for each in json.loads(out)] == [str(folder)]
    assert run(capsys, "stop", str(folder))[0] == 0
    assert read_status(folder).state == "stopped"
    for flag, value in (("--threads", "8"), ("--cost-limit", "6000000")):
        flags[flags.index(flag) + 1] = value
    code, _, err = run(capsys, *flags, "--samples", "2", "--timeout", "600")
    assert code == 0, err
    done = read_status(folder)
    assert (done.state, done.done, done.total) == ("finished", 8, 8)
    assert done.tokens_left == 6_000_000 - (done.sent_tokens or 0)
    code, out, _ = run(capsys, "status", str(folder))
    assert "finished" in out
    assert "left" in out


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_command_in_one_line(number: int, flags: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    process = subprocess.Popen(
        [sys.executable, "-m", "scale_dspy", *flags],
        stderr=subprocess.PIPE, text=True, env={**os.environ, ENV: str(tmp_path / "cache")},
    )  # fmt: skip
    wait_for(lambda: has_begun(folder))
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert "the same command goes on from there" in " ".join(err.split())


def test_what_a_kill_leaves_does_not_pass_for_a_run(flags: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    process = subprocess.Popen(
        [sys.executable, "-m", "scale_dspy", *flags],
        stderr=subprocess.DEVNULL, env={**os.environ, ENV: str(tmp_path / "cache")},
    )  # fmt: skip
    wait_for(lambda: has_begun(folder))
    process.kill()
    process.wait()
    assert (folder / "process.json").exists()
    assert find_worker(folder) is None
    assert read_status(folder).state == "stopped"
    with pytest.raises(ValueError, match="nothing runs in"):
        stop_run(folder)


def test_a_detached_run_that_ends_at_once_says_why(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], server: FakeVLLM
) -> None:
    write_set(tmp_path / "set.jsonl", World().problems(1))
    code, _, err = run(
        capsys, "evaluate", str(tmp_path / "set.jsonl"), "--detach", "--out",
        str(tmp_path / "run"), "--model", "m", "--api-base", "http://127.0.0.1:9/v1",
        "--modes", "pair",
    )  # fmt: skip
    assert code == 1
    assert "--modes pair needs" in err


def test_a_compile_that_looks_for_prompts_tells_its_calls(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "p.compile"
    (folder / "threshold").mkdir(parents=True)
    (folder / "compile.json").write_text('{"plan": {}, "data": {}, "cost_limit": 900}')
    (folder / "threshold" / "run.json").write_text("{}")
    spent = {"calls": 7, "prompt_tokens": 70, "completion_tokens": 100}
    (folder / "costs.json").write_text(json.dumps({"threshold": spent, "prompts": spent}))
    status = read_status(folder)
    assert (status.stage, status.state, status.calls) == ("prompts", "stopped", 7)
    assert (status.sent_tokens, status.tokens_left, status.total) == (200, 700, None)
    code, out, _ = run(capsys, "status", str(folder))
    assert code == 0
    assert "7 calls" in out
    (folder / "costs.json").write_text("[")
    assert read_status(folder).sent_tokens is None


def test_folders_and_damage_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "status", str(tmp_path / "none"))[0] == 2
    code, _, err = run(capsys, "status", str(tmp_path))
    assert (code, err) == (2, f"scale-dspy: {tmp_path} holds no run: there is no run.json in it\n")
    folder = tmp_path / "one"
    folder.mkdir()
    (folder / "run.json").write_text('{"problems": 2, "samples": 1}')
    (folder / "rollouts.jsonl").write_text(
        '{"id": "a", "sample": 0, "correct": true, "error": null, '
        '"usage": {"x": {"completion_tokens": 5}}}\n'
        '{"id": "b", "sample": 0, "correct": false, "error": "LMError: gone", "usage": {}}\n'
        '{"id": "d", "sample": 0, "correct": false, "error": null, "usage": 7}\n'
        '[1]\nnonsense\n{"id": "c", "sample"'
    )
    assert find_runs([tmp_path, folder]) == [folder]
    one: RunStatus = read_status(folder)
    assert (one.done, one.total, one.state) == (2, 2, "finished")
    assert (one.accuracy, one.tokens, one.errors) == (0.5, 2.5, {"LMError": 1})
    (folder / "run.json").write_text("[")
    with pytest.raises(ValueError, match="cannot be read"):
        read_status(folder)


def test_another_machines_run_is_not_signalled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with hold_folder(tmp_path), announce(tmp_path, 3):
        worker = find_worker(tmp_path)
        assert worker
        assert (worker.pid, worker.done) == (os.getpid(), 3)
        monkeypatch.setattr("socket.gethostname", lambda: "elsewhere")
        with pytest.raises(ValueError, match="stop it there"):
            stop_run(tmp_path)
    assert not (tmp_path / "process.json").exists()


@pytest.mark.parametrize("number", [0, -1, 1, -(2**31)])
def test_a_planted_number_is_not_signalled(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A signal to 0 or below goes to a group of processes, or to all of a user's."""
    sent: list[Any] = []
    monkeypatch.setattr(os, "kill", lambda *to: sent.append(to))
    (tmp_path / "run.json").write_text("{}")
    told = {"pid": number, "host": socket.gethostname(), "started": 1.0, "done": 0}
    with hold_folder(tmp_path):
        (tmp_path / "process.json").write_text(json.dumps(told))
        with pytest.raises(ValueError, match="nothing runs"):
            stop_run(tmp_path, 0.1)
    assert not sent
