"""Ctrl-C: a few presses at random moments of real commands; presses.py makes a hundred of them."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from scale_dspy.lm.event_loop import run
from tests.faults.presses import COMMANDS, Press, judge, play, press, serve_world
from tests.programs import start_program


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_few_presses_leave_nothing_that_is_not_clean(tmp_path: Path) -> None:
    with serve_world() as server:
        assert play(("evaluate", "compile"), 8, 1, 2, tmp_path, server) == 0


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_a_press_in_the_imports_is_one_line(name: str, tmp_path: Path) -> None:
    with serve_world() as server:
        ended = press(Press(name, 0.6, None), tmp_path / "run", server)
    assert judge(ended, tmp_path / "run") == []
    assert (ended.code, ended.err) == (130, "scale-dspy: interrupted\n")


def test_work_has_ended_before_an_interrupt_goes_on() -> None:
    """Else it meets a Python that is being shut down, and says so at length."""
    ended = threading.Event()

    async def work() -> None:
        try:
            await asyncio.sleep(0.1)  # until it is waited for
            os.kill(os.getpid(), signal.SIGINT)
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.3)
            ended.set()

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may ignore it
    try:
        with pytest.raises(KeyboardInterrupt):
            run(work())
        assert ended.is_set()
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize(("presses", "said"), [(1, "wound up"), (2, "")])
def test_the_first_press_winds_up_and_the_second_ends_it(presses: int, said: str) -> None:
    program = start_program(
        """
        import time
        from scale_dspy.cli.interrupts import run_until_interrupted, winding_up

        def main():
            try:
                with winding_up():
                    print("at work", flush=True)
                    time.sleep(60)
            except KeyboardInterrupt:
                print("winding up", flush=True)
                time.sleep(1)
                print("wound up", flush=True)
                return 130
            return 0

        run_until_interrupted(lambda: main)
        """
    )
    assert program.stdout is not None
    for told in ("at work", "winding up")[:presses]:
        assert program.stdout.readline() == f"{told}\n"
        os.killpg(program.pid, signal.SIGINT)
    began = time.monotonic()
    out, err = program.communicate(timeout=20)
    assert program.returncode == 130
    assert said in out
    assert ("wound up" in out) is (presses == 1)
    assert "Traceback" not in err
    if presses == 2:
        assert time.monotonic() - began < 0.9
        assert err == "scale-dspy: interrupted\n"
