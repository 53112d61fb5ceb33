"""Two real vLLM replicas; one dies in the middle of a run."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from scale_dspy import SCALE, connect
from scale_dspy.evaluation.runner import evaluate, read_rollouts
from scale_dspy.lm.modes import modes
from tests.vllm.server import RealVLLM, find_python, make_model, serve
from tests.world import World

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(900)]

SHORT = {stage: {"max_tokens": 32} for stage in ("decompose", "solve_1", "solve_2")}


@pytest.mark.skipif(find_python() is None, reason="no interpreter with vLLM is named")
def test_one_killed_in_the_middle_of_a_run(tmp_path: Path) -> None:
    model = make_model(tmp_path / "tiny", "hybrid")
    out = tmp_path / "out"
    with serve(model) as one, serve(model) as two:
        lm = connect(one.model, [one.api_base, two.api_base])
        before = {server.url: count_replies(server) for server in (one, two)}
        killer = threading.Thread(target=kill_after, args=(one, out / "rollouts.jsonl", 4))
        killer.start()
        program = SCALE(candidates=2, modes=modes("hybrid", **SHORT))
        began = time.monotonic()
        summary = evaluate(program, World().problems(12), lm, out, samples=2, threads=8)
        seconds = time.monotonic() - began
        killer.join(1)
        assert not find_processes(one)
        after = count_replies(two)
    pairs = Counter((each.id, each.sample) for each in read_rollouts(out / "rollouts.jsonl"))
    assert len(pairs) == 24
    assert set(pairs.values()) == {1}
    assert summary["errors"] == 0
    assert after > before[two.url]
    for server in (one, two):
        for path in out.iterdir():
            assert urlsplit(server.url).netloc not in path.read_text()
    print(f"24 rollouts in {seconds:.0f} s, {after:.0f} replies of the one left")


def count_replies(server: RealVLLM) -> float:
    return server.metrics().get("request_success_total", 0.0)


def kill_after(server: RealVLLM, path: Path, lines: int) -> None:
    """Kill a server with SIGKILL, its engine too, once so many rollouts are written."""
    while not path.exists() or path.read_bytes().count(b"\n") < lines:
        time.sleep(0.02)
    for pid in find_processes(server):
        os.killpg(pid, signal.SIGKILL)


def find_processes(server: RealVLLM) -> list[int]:
    """The process that was started at a server's port; it leads a group of its own."""
    port = str(urlsplit(server.url).port).encode()
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if b"vllm.entrypoints.openai.api_server" in words and port in words:
            found.append(int(folder.name))
    return found
