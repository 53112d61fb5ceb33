"""The process that compares mathematics: bounded, replaced when it dies, alone when it forks."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from scale_dspy.grading import math_verify_worker as mathworker
from scale_dspy.grading.answers import equal


@pytest.fixture
def _fresh_worker() -> Iterator[None]:
    mathworker._stop_worker()
    yield
    mathworker._stop_worker()


def test_an_endless_computation_is_bounded_and_the_next_call_works() -> None:
    assert equal("1/2", "0.5")
    begun = time.monotonic()
    assert not equal("9^{9^{9}}", "1")
    assert time.monotonic() - begun < mathworker.TIME_LIMIT + 3
    assert equal(r"\frac{2}{4}", "0.5")


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs POSIX signals")
def test_a_worker_killed_from_outside_is_replaced() -> None:
    assert equal("1/2", "0.5")
    assert mathworker._worker is not None
    os.kill(mathworker._worker.pid, signal.SIGKILL)
    assert equal("2/4", "0.5")


def test_threads_share_one_worker() -> None:
    assert equal("1/2", "0.5")
    worker = mathworker._worker
    with ThreadPoolExecutor(8) as pool:
        verdicts = list(pool.map(lambda n: equal(f"{n}/4", "0.5"), range(16)))
    assert [n for n, verdict in enumerate(verdicts) if verdict] == [2]
    assert mathworker._worker is worker


@pytest.mark.usefixtures("_fresh_worker")
def test_where_the_worker_does_not_start_a_warning_is_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    assert not equal("1/2", "0.5")
    assert "does not start" in caplog.text
    assert equal("1/2", r"\frac{1}{2}")


@pytest.mark.usefixtures("_fresh_worker")
def test_a_worker_that_is_too_slow_to_start_is_given_up(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(mathworker, "START_LIMIT", 0.01)
    assert not equal("1/2", "0.5")
    assert "too slow" in caplog.text


def test_an_interrupted_question_does_not_answer_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    assert equal("1/2", "0.5")

    def interrupt(line: str) -> object:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(mathworker.json, "dumps", interrupt)
        with pytest.raises(KeyboardInterrupt):
            equal("1/3", "0.5")
    assert not equal("1/3", "0.5")
    assert equal("2/4", "0.5")


SCRIPT = """
import importlib.util, os, sys
spec = importlib.util.spec_from_file_location("alone", sys.argv[1])
mathworker = importlib.util.module_from_spec(spec)
spec.loader.exec_module(mathworker)
assert not {"sympy", "math_verify", "scale_dspy"} & set(sys.modules)
equal = mathworker.ask_worker
assert equal("1/2", "0.5")            # no `if __name__` guard, no importable main module
pid = mathworker._worker.pid
if hasattr(os, "fork"):
    mathworker._lock.acquire()           # as if another thread were comparing
    child = os.fork()
    if child == 0:
        os._exit(0 if equal("2/4", "0.5") and mathworker._worker.pid != pid else 1)
    mathworker._lock.release()
    assert os.waitpid(child, 0)[1] == 0
    assert equal("3/6", "0.5") and mathworker._worker.pid == pid
print(pid)
"""


def test_an_unguarded_script_can_compare_fork_and_leaves_no_process(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-", mathworker.__file__],
        input=SCRIPT,
        capture_output=True,
        text=True,
        timeout=60,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    with pytest.raises(ProcessLookupError):
        os.kill(int(done.stdout), 0)
