"""Rollouts on a local Ray: the same lines as in one process, and the same ends."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from dspy.utils.exceptions import LMAuthError

from scale_dspy import SCALE, connect
from scale_dspy.evaluation.ray_engine import make_engine
from scale_dspy.evaluation.runner import GIVE_UP, Progress, RolloutEngine, evaluate
from scale_dspy.lm.backend import Backend
from tests.command import backend, run
from tests.fake_vllm import FakeVLLM, Fault, fake_vllm
from tests.rollouts import read_untimed
from tests.world import World

KEY = "key-that-no-file-may-hold"
WORLD = World.noisy()


@pytest.fixture(scope="module")
def cluster() -> Iterator[Path]:
    """A Ray of two processors, and the folder where it and its workers write."""
    import ray

    with tempfile.TemporaryDirectory(prefix="scale") as folder, pytest.MonkeyPatch.context() as env:
        env.setenv("SCALE_CACHE", f"{folder}/cache")
        env.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
        ray.init(num_cpus=2, log_to_driver=False, _temp_dir=f"{folder}/ray")
        yield Path(folder)
        ray.shutdown()


def make(server: FakeVLLM, program: SCALE, key: str | None = None) -> RolloutEngine:
    return make_engine(program, Backend(server.model, server.api_base, key, 0), threads=48)


@pytest.mark.vllm
def test_the_same_rollouts_as_in_one_process(cluster: Path, tmp_path: Path) -> None:
    program, examples = SCALE(candidates=4), WORLD.problems(200)
    folders = {name: tmp_path / name for name in ("local", "ray")}
    with fake_vllm(WORLD, api_key=KEY, delay=0.02) as server:
        lm = connect(server.model, server.api_base, KEY, seed=0, cache=False)
        evaluate(program, examples, lm, folders["local"], samples=1, threads=48)
        local = server.totals()
        server.clear()
        engine, seen = make(server, program, KEY), []
        evaluate(program, examples[:150], lm, folders["ray"], samples=1, engine=engine)
        assert server.in_flight_max > 16  # not one by one
        summary = evaluate(
            program,
            examples,
            lm,
            folders["ray"],
            samples=1,
            engine=engine,
            report=lambda progress: seen.append(progress.done),
        )
        assert server.totals() == local
    assert read_untimed(folders["ray"]) == read_untimed(folders["local"])
    assert seen == list(range(1, 201))
    assert summary["rollouts"] == 200
    told = [path for path in [*cluster.rglob("*"), *tmp_path.rglob("*")] if path.is_file()]
    assert len(told) > 10
    assert not [path for path in told if KEY.encode() in path.read_bytes()]


@pytest.mark.vllm
def test_a_refused_key_and_a_dead_server_end_the_run(cluster: Path, tmp_path: Path) -> None:
    program, examples = SCALE(candidates=1), World(8).problems(60)
    with fake_vllm(World(8), api_key=KEY) as server:
        lm = connect(server.model, server.api_base, KEY, seed=0)
        with pytest.raises(LMAuthError):
            evaluate(program, examples, lm, tmp_path / "a", engine=make(server, program, "wrong"))
    broken = Fault(stage="decompose", first=1, status=400)
    with fake_vllm(World(9), faults=[broken]) as server:
        lm = connect(server.model, server.api_base, seed=0)
        with pytest.raises(RuntimeError, match=f"{GIVE_UP} rollouts in a row failed"):
            evaluate(
                program,
                World(9).problems(60),
                lm,
                tmp_path / "b",
                samples=1,
                engine=make(server, program),
            )
    assert len(read_untimed(tmp_path / "b")) >= GIVE_UP


@pytest.mark.vllm
def test_a_pair_of_models_on_ray(cluster: Path, tmp_path: Path) -> None:
    program, examples = SCALE(candidates=1, modes="pair"), WORLD.problems(6)
    with fake_vllm(WORLD) as plain, fake_vllm(WORLD, thinking="always") as thinker:
        addresses = {"api_base": thinker.api_base, "system_1_api_base": plain.api_base}
        names = {"model": thinker.model, "system_1": plain.model}
        lm = connect(**names, **addresses, seed=0, cache=False)
        evaluate(program, examples, lm, tmp_path / "local", samples=1)
        engine = make_engine(program, Backend(**names, **addresses, seed=0))
        evaluate(program, examples, lm, tmp_path / "ray", samples=1, engine=engine)
    assert read_untimed(tmp_path / "ray") == read_untimed(tmp_path / "local")


@pytest.mark.vllm
def test_an_interrupt_keeps_what_came_back_and_stops_the_workers(
    cluster: Path, tmp_path: Path
) -> None:
    def interrupt(progress: Progress) -> None:
        if progress.done == 5:
            os.kill(os.getpid(), signal.SIGINT)

    program, examples, world = SCALE(candidates=1), World(21).problems(60), World(21)
    with fake_vllm(world, delay=0.1) as server:
        lm = connect(server.model, server.api_base, seed=0)
        options = {"samples": 1, "engine": make_engine(program, Backend(lm.model, server.api_base))}
        before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may ignore it
        try:
            with pytest.raises(KeyboardInterrupt):
                evaluate(program, examples, lm, tmp_path, report=interrupt, **options)
        finally:
            signal.signal(signal.SIGINT, before)
        done = len(read_untimed(tmp_path))
        assert 5 <= done < 60
        deadline = time.monotonic() + 30
        sent = -1
        while sent != len(server.requests) and time.monotonic() < deadline:
            sent = len(server.requests)
            time.sleep(2)
        assert sent == len(server.requests)
        assert evaluate(program, examples, lm, tmp_path, **options)["rollouts"] == 60
    assert len({(each.id, each.sample) for each in read_untimed(tmp_path)}) == 60


@pytest.mark.parametrize("command", ["evaluate", "traces"])
def test_without_ray_one_line_says_so(
    command: str,
    server: FakeVLLM,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    out = ["--out", str(tmp_path / "t.jsonl"), "--engine", "ray", "--limit", "2"]
    code, _, err = run(capsys, command, "mini", *out, *backend(server))
    assert code == 2
    assert 'pip install ".[ray]"' in err.splitlines()[-1]
    assert not server.chats()


def test_a_backend_shows_neither_key_nor_address() -> None:
    shown = repr(Backend("m", "http://host:1/v1", KEY, 0))
    assert KEY not in shown
    assert "host" not in shown
