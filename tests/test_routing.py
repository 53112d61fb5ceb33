"""Several replicas: balance, locality, and no rollout lost when one is killed."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import dspy
import pytest
from dspy.utils.exceptions import (
    LMAuthError,
    LMError,
    LMRateLimitError,
    LMServerError,
    LMTransportError,
)

from scale_dspy import SCALE, connect
from scale_dspy.cli.main import main
from scale_dspy.evaluation.runner import evaluate, read_rollouts
from scale_dspy.lm.connect import MeteredLM
from scale_dspy.lm.routing import (
    FIRST_WAIT,
    LONGEST_WAIT,
    SLACK,
    Replica,
    choose,
    split_addresses,
    take_turns,
)
from tests.fake_vllm import Fault, Spawned, fake_vllm, spawn_fake_vllm
from tests.proxy import proxy_of_litellm
from tests.world import World

PROBLEMS = [f"problem {number}" for number in range(600)]


def test_addresses_are_told_apart_by_commas_and_blanks() -> None:
    assert split_addresses("http://a/v1/,http://b/v1  http://a/v1") == [
        "http://a/v1",
        "http://b/v1",
    ]
    assert split_addresses(["http://a/v1", "http://b/v1/"]) == ["http://a/v1", "http://b/v1"]
    assert split_addresses(None) == []


def test_problems_are_shared_out_evenly_and_stay_where_they_are() -> None:
    three = [Replica(f"http://10.0.0.{number}:8000/v1") for number in (1, 2, 3)]
    first = {problem: choose(three, problem, 0.0) for problem in PROBLEMS}
    counts = Counter(replica.address for replica in first.values())
    assert min(counts.values()) > 150
    three[0].failures, three[0].until = 1, 10.0
    for problem in PROBLEMS:
        second = choose(three, problem, 0.0)
        assert second is (first[problem] if first[problem] is not three[0] else second)
        assert second is not three[0]
        assert choose(three, problem, 11.0) is first[problem]


def test_a_server_alone_is_waited_for_though_other_calls_succeed() -> None:
    (alone,) = replicas = [Replica("http://10.0.0.1:8000/v1")]
    turns = take_turns(replicas, retries=2)
    next(turns).error = LMTransportError("reset")
    assert alone.failures == 0  # as after a success of another call
    assert next(turns).wait == FIRST_WAIT
    two = [alone, Replica("http://10.0.0.2:8000/v1")]
    turns = take_turns(two, retries=0)
    next(turns).error = LMTransportError("reset")
    assert next(turns).wait == 0


MIX: list[dict[str, Any]] = [
    {"status": 429},
    {"status": 500},
    {"reset": "before"},
    {"reset": "middle"},
    {"cut_json": True},
    {"content_type": "text/html"},
]


@pytest.mark.parametrize("first", range(len(MIX)))
def test_failures_of_any_kinds_in_a_row_are_one_count(
    first: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scale_dspy.lm.routing.FIRST_WAIT", 0.01)
    kinds = [MIX[(first + step) % len(MIX)] for step in range(4)]
    with fake_vllm() as server:
        lm = connect(server.model, server.api_base, cache=False)
        server.play(*(Fault(nth=place, **kind) for place, kind in enumerate(kinds[:3], 1)))
        assert lm("What is 1 + 1?")
        assert len(server.chats()) == 4  # the three repeats are there for all kinds together
        server.play(*(Fault(nth=place, **kind) for place, kind in enumerate(kinds, 1)))
        with pytest.raises(LMError):
            lm("What is 1 + 1?")
        assert len(server.chats()) == 8


def test_waits_double_only_as_long_as_the_server_names_none() -> None:
    turns = take_turns([Replica("http://10.0.0.1:8000/v1")], retries=4)
    next(turns).error = LMRateLimitError("busy")
    waits = []
    for error in (
        LMServerError("broken"),
        LMRateLimitError("busy", retry_after=86_400),
        LMTransportError("reset"),
    ):
        turn = next(turns)
        turn.error = error
        waits.append(turn.wait)
    turn = next(turns)
    waits.append(turn.wait)
    assert waits == [FIRST_WAIT, 2 * FIRST_WAIT, LONGEST_WAIT, 8 * FIRST_WAIT]
    turn.error = last = LMRateLimitError("still busy")
    with pytest.raises(LMRateLimitError) as raised:
        next(turns)
    assert raised.value is last


def test_what_cannot_pass_is_not_tried_again() -> None:
    turns = take_turns([Replica("http://10.0.0.1:8000/v1")], retries=3)
    next(turns).error = LMServerError("broken")
    next(turns).error = LMAuthError("no such key")
    with pytest.raises(LMAuthError):
        next(turns)


def test_a_problem_leaves_a_replica_that_is_much_busier() -> None:
    two = [Replica("http://a/v1"), Replica("http://b/v1")]
    own = choose(two, "p", 0.0)
    (other,) = (each for each in two if each is not own)
    own.busy = SLACK
    assert choose(two, "p", 0.0) is own
    own.busy = SLACK + 1
    assert choose(two, "p", 0.0) is other
    assert choose(two, None, 0.0) is other


def test_a_replica_that_failed_is_tried_with_one_call() -> None:
    two = [Replica("http://a/v1", failures=1, until=5.0), Replica("http://b/v1", busy=50)]
    assert choose(two, None, 4.0) is two[1]
    assert choose(two, None, 6.0) is two[0]
    two[0].busy = 1
    assert choose(two, None, 6.0) is two[1]


def test_calls_are_balanced_and_a_problem_stays(tmp_path: Path) -> None:
    world = World()
    with fake_vllm(world, delay=0.005) as one, fake_vllm(world, delay=0.005) as two:
        lm = connect(one.model, [one.api_base, two.api_base], seed=0)
        evaluate(SCALE(), world.problems(12), lm, tmp_path, samples=1, threads=12)
        shares = [len(server.chats()) for server in (one, two)]
        assert min(shares) > 0.1 * sum(shares)
        homes: dict[str, Counter[int]] = {}
        for place, server in enumerate((one, two)):
            for chat in server.chats():
                homes.setdefault(chat.problem, Counter())[place] += 1
        stayed = sum(max(counts.values()) for counts in homes.values())
        assert stayed > 0.7 * sum(shares)


def test_the_cache_does_not_depend_on_the_replica() -> None:
    with fake_vllm() as one, fake_vllm() as two:
        program, problem = SCALE(), World().problems(1)[0].problem
        with dspy.context(lm=connect(one.model, one.api_base, seed=0)):
            alone = program(problem=problem)
        sent = len(one.chats()) + len(two.chats())
        with dspy.context(lm=connect(one.model, f"{two.api_base} {one.api_base}", seed=0)):
            again = program(problem=problem)
        assert len(one.chats()) + len(two.chats()) == sent
        assert again.answer == alone.answer


def test_a_replica_with_errors_costs_no_rollout(tmp_path: Path) -> None:
    world = World()
    faults = [Fault(every=3, status=503), Fault(every=5, reset="middle")]
    with fake_vllm(world, faults=faults) as one, fake_vllm(world) as two:
        lm = connect(one.model, [one.api_base, two.api_base], seed=0)
        summary = evaluate(SCALE(), world.problems(5), lm, tmp_path, samples=1, threads=5)
    assert summary["errors"] == 0


def test_one_killed_in_the_middle_of_a_run(tmp_path: Path) -> None:
    world = World()
    with ExitStack() as stack:
        servers = [stack.enter_context(spawn_fake_vllm(world, delay=0.03)) for _ in range(3)]
        lm = connect(servers[0].model, [server.api_base for server in servers], seed=0)
        killed = threading.Event()
        threading.Thread(
            target=kill_after, args=(servers[0], tmp_path / "rollouts.jsonl", 3, killed)
        ).start()
        summary = evaluate(SCALE(), world.problems(8), lm, tmp_path, samples=2, threads=8)
        assert killed.is_set()
        rollouts = list(read_rollouts(tmp_path / "rollouts.jsonl"))
        pairs = Counter((each.id, each.sample) for each in rollouts)
        assert len(pairs) == 16
        assert set(pairs.values()) == {1}
        assert summary["errors"] == 0
        check_no_address(tmp_path, servers)


def test_one_that_comes_back_gets_calls_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scale_dspy.lm.routing.LONGEST_WAIT", 0.2)
    monkeypatch.setattr("scale_dspy.lm.routing.FIRST_WAIT", 0.2)
    world = World()
    with fake_vllm(world) as one, spawn_fake_vllm(world) as two:
        lm = connect(one.model, [one.api_base, two.api_base], seed=0)
        two.kill()
        solve_all(world.problems(6), lm)
        with spawn_fake_vllm(world, port=two.port) as again:
            time.sleep(0.3)
            solve_all(world.problems(12)[6:], lm)
            assert again.totals()["calls"] > 0


def test_all_dead_is_one_clear_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scale_dspy.lm.routing.LONGEST_WAIT", 0.01)
    with fake_vllm() as one, fake_vllm() as two:
        model, addresses = one.model, f"{one.api_base},{two.api_base}"
    program = ["solve", "What is 1 + 1?", "--model", model, "--api-base", addresses]
    assert main(program) == 1
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith(f"scale-dspy: none of {addresses.replace(',', ', ')} can be reached")
    lm = connect(model, addresses)
    evaluate(SCALE(), World().problems(2), lm, tmp_path, samples=1, threads=2)
    assert all(each.error for each in read_rollouts(tmp_path / "rollouts.jsonl"))
    for address in addresses.split(","):
        assert urlsplit(address).netloc not in (tmp_path / "rollouts.jsonl").read_text()


def test_doctor_examines_each(capsys: pytest.CaptureFixture[str]) -> None:
    with fake_vllm() as one, fake_vllm(thinking="never") as two:
        addresses = f"{one.api_base},{two.api_base}"
        main(["doctor", "--model", one.model, "--api-base", addresses, "--json"])
    findings = json.loads(capsys.readouterr().out)["findings"]
    seen = {each["server"]: each["ok"] for each in findings if each["name"] == "thinking"}
    assert seen == {1: True, 2: None}


def solve_all(problems: list[dspy.Example], lm: MeteredLM) -> None:
    with dspy.context(lm=lm):
        for problem in problems:
            assert SCALE()(problem=problem.problem).answer


def kill_after(server: Spawned, path: Path, lines: int, killed: threading.Event) -> None:
    """Kill a server with SIGKILL once so many rollouts are written."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if path.exists() and path.read_bytes().count(b"\n") >= lines:
            server.kill()
            killed.set()
            return
        time.sleep(0.01)


def check_no_address(folder: Path, servers: list[Spawned]) -> None:
    for path in folder.iterdir():
        for server in servers:
            assert urlsplit(server.url).netloc not in path.read_text()


@pytest.mark.slow
def test_a_litellm_proxy_in_front_shares_out_the_calls(tmp_path: Path) -> None:
    """Two servers as one model of LiteLLM's proxy; what each stage asks for gets through it."""
    world = World()
    with spawn_fake_vllm(world) as one, spawn_fake_vllm(world) as two:
        config = {
            "model_list": [
                {
                    "model_name": "shared",
                    "litellm_params": {
                        "model": f"hosted_vllm/{server.model}",
                        "api_base": server.api_base,
                        "api_key": "x",
                    },
                }
                for server in (one, two)
            ],
        }
        with proxy_of_litellm(config, tmp_path) as (url, key):
            lm = connect("litellm_proxy/shared", f"{url}/v1", key)
            summary = evaluate(SCALE(), world.problems(8), lm, tmp_path / "out", samples=1)
        spent = [server.totals()["completion_tokens"] for server in (one, two)]
        logs = [*one.log(), *two.log()]
    assert min(spent) > 0
    assert summary["errors"] == 0
    assert summary["tok"] * 8 == pytest.approx(sum(spent))
    assert any(request["body"].get("n") == 8 for request in logs)
    assert {request["system"] for request in logs if request["stage"]} == {1, 2}
