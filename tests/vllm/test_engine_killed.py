"""The real vLLM's engine is killed in the middle of `evaluate`, which its front end outlives."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from scale_dspy.evaluation.runner import read_rollouts
from tests.vllm.server import ROOT, RealVLLM, find_python, make_model, serve
from tests.vllm.test_two_replicas import find_processes
from tests.world import World, write_set

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(2400)]

PROBLEMS, SAMPLES = 12, 2
BOUND = 600.0  # seconds for the whole command; a rollout that fails waits for seven


@pytest.mark.skipif(find_python() is None, reason="no interpreter with vLLM is named")
def test_an_engine_that_is_killed_ends_the_run_and_another_finishes_it(tmp_path: Path) -> None:
    model = make_model(tmp_path / "tiny", "hybrid")
    write_set(tmp_path / "set.jsonl", World().problems(PROBLEMS))
    path = tmp_path / "out" / "rollouts.jsonl"
    with serve(model) as server:
        killed: list[int] = []
        killer = threading.Thread(target=kill_engine, args=(server, path, 4, killed), daemon=True)
        killer.start()
        began = time.monotonic()
        first = evaluate(server, tmp_path)
        seconds = time.monotonic() - began
        assert killed
    assert first.returncode == 1, first.stderr
    assert "Traceback" not in first.stderr
    assert "failed and count as wrong" in " ".join(first.stderr.split())
    lines = list(read_rollouts(path))
    finished = [line for line in lines if not line.error]
    assert len(lines) == PROBLEMS * SAMPLES
    assert 4 <= len(finished) < len(lines)
    assert urlsplit(server.url).netloc not in path.read_text()
    with serve(model) as another:
        again = evaluate(another, tmp_path, "--retry-errors")
    assert again.returncode == 0, again.stderr
    whole = list(read_rollouts(path))
    assert len({(line.id, line.sample) for line in whole}) == len(whole) == len(lines)
    assert not any(line.error for line in whole)
    assert all(line in whole for line in finished)
    print(f"{len(finished)} of {len(lines)} finished when the engine was killed, {seconds:.0f} s")


def evaluate(server: RealVLLM, folder: Path, *more: str) -> subprocess.CompletedProcess[str]:
    """The command; it raises where it takes longer than BOUND."""
    command = [sys.executable, "-m", "scale_dspy", "evaluate", "set.jsonl", "--method", "cot"]
    command += ["--samples", str(SAMPLES), "--budget", "64", "--threads", "4", "--out", "out"]
    command += ["--model", server.model, "--api-base", server.api_base]
    command += ["--modes", "hybrid", *more]
    environment = {"PYTHONPATH": str(ROOT), "SCALE_CACHE": str(folder / "cache")}
    return subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, **environment, "NO_PROXY": "127.0.0.1"},
        capture_output=True,
        text=True,
        timeout=BOUND,
    )


def kill_engine(server: RealVLLM, path: Path, lines: int, killed: list[int]) -> None:
    """SIGKILL the engine's process, and it alone, once so many rollouts are written."""
    while not path.exists() or path.read_bytes().count(b"\n") < lines:
        time.sleep(0.02)
    for pid in find_engines(find_processes(server)):
        os.kill(pid, signal.SIGKILL)
        killed.append(pid)


def find_engines(servers: Sequence[int]) -> list[int]:
    """The processes of the servers' groups that call themselves EngineCore."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            name = (folder / "cmdline").read_bytes() + (folder / "comm").read_bytes()
            group = os.getpgid(int(folder.name))
        except OSError:
            continue
        if b"EngineCor" in name and group in servers:
            found.append(int(folder.name))
    return found
