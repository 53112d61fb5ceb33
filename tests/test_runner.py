"""Evaluation runs: real samples, resuming after anything, and nothing counted twice."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import dspy
import httpx
import pytest

from scale_dspy import SCALE, connect, track
from scale_dspy.baselines import ChainOfThought, make_program
from scale_dspy.evaluation.rollout import name_error
from scale_dspy.evaluation.run_status import read_status
from scale_dspy.evaluation.runner import (
    GIVE_UP,
    Progress,
    describe_run,
    evaluate,
    read_rollouts,
)
from scale_dspy.utils.files import hold_folder
from tests.fake.orders import Request
from tests.fake_vllm import FakeVLLM, Fault, fake_vllm
from tests.rollouts import read_untimed
from tests.world import World

WORLD = World.noisy()


def run(server: FakeVLLM, out: Path, count: int = 5, **options: Any) -> dict[str, Any]:
    lm = connect(server.model, server.api_base, seed=0)
    program = options.pop("program", None) or SCALE(candidates=2)
    return dict(evaluate(program, WORLD.problems(count), lm, out, **options))


def read_pairs(out: Path) -> list[tuple[str, int]]:
    return [(each.id, each.sample) for each in read_rollouts(out / "rollouts.jsonl")]


def test_errors_are_done_again_by_kind(tmp_path: Path) -> None:
    """Each problem but the first fails in a way of its own; what is named is done again alone."""
    problems = WORLD.problems(3)
    refused, broken = (
        Fault(when=lambda body, it=each.problem: it in body["messages"][-1]["content"], **what)
        for each, what in zip(problems[1:], ({"status": 400}, {"cut_json": True}), strict=True)
    )

    def read_errors() -> dict[str, str | None]:
        return {each.id: each.error for each in read_rollouts(tmp_path / "rollouts.jsonl")}

    with fake_vllm(WORLD, faults=[refused, broken]) as server:
        lm = connect(server.model, server.api_base, seed=0, num_retries=0)

        def go_on(retry: bool | list[str]) -> int:
            server.clear()
            effort: Any = {"samples": 1, "retry_errors": retry}
            evaluate(ChainOfThought(), problems, lm, tmp_path, **effort)
            return len(server.chats())

        assert go_on(False) == 3
        kinds = {name: name_error(error) for name, error in read_errors().items() if error}
        assert len(set(kinds.values())) == 2
        assert read_status(tmp_path).errors == dict.fromkeys(kinds.values(), 1)
        assert go_on(["LMNoSuchError"]) == 0
        server.play()
        assert go_on([kinds[problems[1].id]]) == 1
        assert [name for name, error in read_errors().items() if error] == [problems[2].id]
        assert go_on([kinds[problems[1].id]]) == 0  # the same command again
        assert go_on(True) == 1
        assert not any(read_errors().values())


def test_cot_sends_240_requests_for_30_problems_and_8_samples(tmp_path: Path) -> None:
    with fake_vllm(WORLD) as server:
        with track() as ledger:
            summary = run(server, tmp_path, 30, program=ChainOfThought(), samples=8)
        bodies = [request.body for request in server.chats()]
        assert len(server.requests) == len(bodies) == 240
        assert len({body["seed"] for body in bodies}) == 240
        right = sum(sum(verdicts) for verdicts in server.right.values())
        assert summary["accuracy"] == pytest.approx(right / 240)
        assert summary["tok"] == pytest.approx(server.totals().completion_tokens / 240)
        assert ledger.total().completion_tokens == server.totals().completion_tokens
        assert (summary["problems"], summary["samples"], summary["errors"]) == (30, 8, 0)


@pytest.mark.parametrize("method", ["scale", "majority"])
def test_accuracy_and_ledger_are_the_worlds_own(tmp_path: Path, method: str) -> None:
    with fake_vllm(WORLD) as server:
        summary = run(server, tmp_path, 6, program=make_program(method), samples=3)
        used = [each.tokens for each in read_rollouts(tmp_path / "rollouts.jsonl")]
        assert sum(used) == server.totals().completion_tokens
        if method == "scale":
            right = sum(sum(verdicts) for verdicts in server.right.values())
            assert summary["accuracy"] == pytest.approx(right / 18)


def test_a_rollout_is_the_contract(tmp_path: Path, server: FakeVLLM) -> None:
    run(server, tmp_path, 1, samples=1)
    rollout = json.loads((tmp_path / "rollouts.jsonl").read_text())
    assert {
        *("id", "sample", "answer", "gold", "correct", "steps", "usage", "seconds", "error")
    } <= set(rollout)
    assert set(rollout["steps"][0]) == {
        *("subproblem", "difficulty", "system", "solution", "reasoning", "tokens"),
        *("draft", "votes"),
    }
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert {
        *("problems", "samples", "accuracy", "tok", "tpi", "hard_percent", "calls", "seconds"),
        "errors",
    } <= set(summary)


def test_running_again_sends_nothing(tmp_path: Path, server: FakeVLLM) -> None:
    first = run(server, tmp_path, samples=2)
    server.clear()
    assert run(server, tmp_path, samples=2) == first
    assert server.requests == []


def test_more_samples_are_added(tmp_path: Path, server: FakeVLLM) -> None:
    run(server, tmp_path, samples=1)
    assert len(read_pairs(tmp_path)) == 5
    run(server, tmp_path, samples=3)
    assert sorted(read_pairs(tmp_path)) == sorted(
        (example.id, sample) for example in WORLD.problems(5) for sample in range(3)
    )


def test_a_torn_last_line_is_run_again(tmp_path: Path, server: FakeVLLM) -> None:
    run(server, tmp_path, samples=1)
    path = tmp_path / "rollouts.jsonl"
    path.write_bytes(path.read_bytes()[:-20])
    run(server, tmp_path, samples=1)
    assert len(set(read_pairs(tmp_path))) == len(read_pairs(tmp_path)) == 5


def test_a_broken_line_is_named(tmp_path: Path, server: FakeVLLM) -> None:
    run(server, tmp_path, samples=1)
    path = tmp_path / "rollouts.jsonl"
    path.write_text("{]\n" + path.read_text())
    with pytest.raises(ValueError, match=r"rollouts.jsonl:1 is no rollout"):
        run(server, tmp_path, samples=1)


def test_another_run_in_the_folder_is_refused(tmp_path: Path, server: FakeVLLM) -> None:
    run(server, tmp_path, samples=1, description={"method": "scale", "digest": "a"})
    with pytest.raises(ValueError, match="its method is 'scale', not 'cot'"):
        run(server, tmp_path, samples=1, description={"method": "cot", "digest": "a"})


def test_a_second_process_is_kept_out(tmp_path: Path, server: FakeVLLM) -> None:
    with hold_folder(tmp_path), pytest.raises(ValueError, match="in use by another run"):
        run(server, tmp_path)


def test_a_failed_rollout_is_recorded_and_retried_on_request(tmp_path: Path) -> None:
    with fake_vllm(WORLD, faults=[Fault(stage="whole", nth=(2, 5), status=400)]) as server:
        options: dict[str, Any] = {"program": ChainOfThought(), "samples": 2, "threads": 1}
        summary = run(server, tmp_path, **options)
        assert summary["errors"] == 2
        failed = [each for each in read_rollouts(tmp_path / "rollouts.jsonl") if each.error]
        assert all(not each.correct and each.answer is None for each in failed)
        server.play()
        assert run(server, tmp_path, **options)["errors"] == 2
        assert run(server, tmp_path, retry_errors=True, **options)["errors"] == 0
        assert len(set(read_pairs(tmp_path))) == len(read_pairs(tmp_path)) == 10


def test_no_address_and_no_key_in_what_is_written(tmp_path: Path) -> None:
    with fake_vllm(WORLD, api_key="marked-key", faults=[Fault(nth=2, reset="before")]) as server:
        lm = connect(server.model, server.api_base, "marked-key", num_retries=0)
        examples = WORLD.problems(2)
        program = SCALE(candidates=2)
        told = describe_run(program, "scale", "world", examples, lm, 2)
        assert evaluate(program, examples, lm, tmp_path, description=told, samples=2)["errors"] == 1
    for path in tmp_path.iterdir():
        text = path.read_text()
        assert "marked-key" not in text
        assert "127.0.0.1" not in text


def test_a_server_that_is_gone_ends_the_run(tmp_path: Path) -> None:
    with fake_vllm(WORLD, faults=[Fault(first=3, status=400)]) as server:
        with pytest.raises(RuntimeError, match=f"{GIVE_UP} rollouts in a row failed"):
            run(server, tmp_path, 30, program=ChainOfThought(), samples=8, threads=2)
        assert GIVE_UP <= len(read_pairs(tmp_path)) <= GIVE_UP + 4


def test_a_wrong_key_ends_the_run_at_once(tmp_path: Path) -> None:
    with fake_vllm(WORLD, api_key="right") as server:
        with pytest.raises(dspy.utils.exceptions.LMAuthError):
            run(server, tmp_path, 30, samples=8)
        assert read_pairs(tmp_path) == []


def test_progress_is_told_after_each_rollout(tmp_path: Path, server: FakeVLLM) -> None:
    told: list[Progress] = []
    run(server, tmp_path, samples=2, report=told.append)
    assert [state.done for state in told] == list(range(1, 11))
    assert {state.total for state in told} == {10}


def test_rollouts_are_concurrent_and_none_is_sent_twice(tmp_path: Path) -> None:
    with fake_vllm(WORLD, delay=0.2) as server:
        run(server, tmp_path, 16, program=ChainOfThought(), samples=2, threads=32)
        assert server.in_flight_max == 32
        assert len(server.chats()) == 32


LIVES = """
import os, signal, sys
from pathlib import Path
import dspy
from scale_dspy import SCALE, connect
from scale_dspy.evaluation.runner import evaluate
from tests.world import World
import litellm  # after scale_dspy, which keeps it from looking for a price list on the internet
model, url, out, problems, samples = sys.argv[1:]
lm = connect(model, url + "/v1", seed=0)
hello = [{"role": "user", "content": "Hello"}]
litellm.completion(lm.model, hello, api_base=url + "/v1", api_key="none")  # imports what it needs
print("ready", flush=True)
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
for _ in sys.stdin:
    child = os.fork()
    if child == 0:
        examples = World.noisy().problems(int(problems))
        evaluate(SCALE(candidates=2), examples, lm, Path(out), samples=int(samples), threads=3)
        os._exit(0)
    print(child, flush=True)
"""

Pair = tuple[str, int]
"""A problem's id and a sample: a rollout."""

KILLS, PROBLEMS, SAMPLES = 20, 15, 2


@pytest.mark.slow
def test_sigkill_at_20_random_moments_loses_and_repeats_nothing(tmp_path: Path) -> None:
    """The 20 lives are compared, call by call, with a run that nothing interrupted.

    Which calls were finished is told without a clock, see `_find_repeats`.
    """
    owners = _run_unbroken(tmp_path / "whole")
    chance = random.Random(0)
    path = tmp_path / "out" / "rollouts.jsonl"
    kept: list[bytes] = []
    done: list[set[Pair]] = []
    with fake_vllm(WORLD, delay=0.04) as server, _begin_lives(server, tmp_path) as lives:
        for _ in range(KILLS):
            child = _begin_life(lives)
            _wait_for_calls(server, chance.randint(0, 10), child)
            time.sleep(chance.uniform(0, 0.08))
            _kill(child)
            httpx.get(f"{server.url}/health")  # a mark in the log, behind all that the dead sent
            before, kept = kept, _read_whole_lines(path)
            assert kept[: len(before)] == before
            done.append({(each["id"], each["sample"]) for each in map(json.loads, kept)})
        _wait_for_end(_begin_life(lives))
        requests = server.requests
    assert _read_whole_lines(path)[: len(kept)] == kept
    ended, whole = read_untimed(tmp_path / "out"), read_untimed(tmp_path / "whole")
    # How many calls a life found in the cache is told by when the last one ended.
    for one, other in zip(ended, whole, strict=True):
        assert asdict(replace(one, replayed=0)) == asdict(replace(other, replayed=0))
    assert any(each.replayed for each in ended)
    assert {_write_call(request) for request in requests if request.body} == set(owners)
    assert _find_repeats(requests, owners, done) == []
    assert 0 < len(kept) < PROBLEMS * SAMPLES  # or the kills came too early or too late


def _run_unbroken(out: Path) -> dict[str, Pair]:
    """Run all without a kill, sample by sample; returns which rollout each call belongs to."""
    owners: dict[str, Pair] = {}
    with fake_vllm(WORLD) as server:
        for sample in range(SAMPLES):
            run(server, out, PROBLEMS, samples=sample + 1)
            for chat in server.chats():
                owners.setdefault(_write_call(chat), (chat.problem, sample))
    return owners


def _find_repeats(
    requests: Sequence[Request], owners: Mapping[str, Pair], done: Sequence[set[Pair]]
) -> list[str]:
    """Calls that were sent once more although they were finished.

    A rollout makes its calls one after the other, each from the replies before. So a call is
    finished once the rollout has sent another, or has its line in the file. It is not known to be
    finished only if it was the rollout's last one at a kill.

    Args:
        requests: in order of arrival, with a request of no body after each life.
        done: the rollouts in the file after each life.
    """
    latest: dict[Pair, tuple[str, int]] = {}  # a call, and the life in which it was sent
    finished: set[str] = set()
    repeats, life = [], 0
    for request in requests:
        if request.path == "/health":
            finished |= {latest[pair][0] for pair in done[life]}
            life += 1
        elif request.body:  # else the kill came while it was being sent
            call = _write_call(request)
            before, then = latest.get(owners[call], ("", life))
            if before != call or then == life:
                finished.add(before)
            if call in finished:
                repeats.append(f"{request.stage} of {owners[call]}: {life=}, {request.number=}")
            latest[owners[call]] = call, life
    return repeats


def _write_call(request: Request) -> str:
    return json.dumps(request.body, sort_keys=True)


def _read_whole_lines(path: Path) -> list[bytes]:
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    return [line for line in lines if line.endswith(b"\n")]


@contextlib.contextmanager
def _begin_lives(server: FakeVLLM, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that has all its modules imported; for each line it forks a child that runs."""
    sizes = [str(PROBLEMS), str(SAMPLES)]
    lives = subprocess.Popen(
        [sys.executable, "-c", LIVES, server.model, server.url, str(folder / "out"), *sizes],
        env={**os.environ, "SCALE_CACHE": str(folder / "cache")},
        cwd=Path(__file__).parents[1],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    try:
        assert lives.stdout is not None
        assert lives.stdout.readline() == b"ready\n"
        server.clear()
        yield lives
    finally:
        lives.kill()
        lives.wait()


def _begin_life(lives: subprocess.Popen[bytes]) -> int:
    assert lives.stdin is not None
    assert lives.stdout is not None
    lives.stdin.write(b"go\n")
    lives.stdin.flush()
    return int(lives.stdout.readline())


def _wait_for_calls(server: FakeVLLM, count: int, child: int) -> None:
    """Until `count` more calls are answered."""
    wanted = server.totals().calls + count
    deadline = time.monotonic() + 30
    while server.totals().calls < wanted and _is_alive(child) and time.monotonic() < deadline:
        time.sleep(0.005)


def _wait_for_end(child: int) -> None:
    deadline = time.monotonic() + 120
    while _is_alive(child) and time.monotonic() < deadline:
        time.sleep(0.05)


def _kill(child: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(child, signal.SIGKILL)
    while _is_alive(child):
        time.sleep(0.01)


def _is_alive(child: int) -> bool:
    try:
        os.kill(child, 0)
    except ProcessLookupError:
        return False
    return True


def test_interrupt_keeps_what_is_done(tmp_path: Path) -> None:
    def interrupt(progress: Progress) -> None:
        if progress.done == 5:
            os.kill(os.getpid(), signal.SIGINT)

    with fake_vllm(WORLD, delay=0.1) as server:
        before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may ignore it
        try:
            with pytest.raises(KeyboardInterrupt):
                run(server, tmp_path, 30, samples=8, threads=4, report=interrupt)
        finally:
            signal.signal(signal.SIGINT, before)
        assert 5 <= len(read_pairs(tmp_path)) < 20
        time.sleep(0.5)
        sent = len(server.requests)
        time.sleep(0.5)
        assert len(server.requests) == sent
