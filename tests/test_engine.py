"""The engine under dspy.LM: repeats, whose replies are whose, unknown usage, odd servers."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from email.utils import formatdate
from pathlib import Path
from typing import Any

import dspy
import pytest
from dspy import lm15
from dspy.utils.exceptions import (
    LMConfigurationError,
    LMError,
    LMRateLimitError,
    LMTimeoutError,
    LMUnexpectedError,
)

from scale_dspy import SCALE, connect, track
from scale_dspy.cli.main import main
from scale_dspy.lm import cache
from scale_dspy.lm.cache import FILE, Keys, Store, make_keys, use
from scale_dspy.lm.client import read_retry_after
from scale_dspy.lm.cost_limit import CostLimitError, limit_cost
from tests.fake_vllm import FakeVLLM, Fault, fake_vllm
from tests.plain_server import reply, serve
from tests.world import World, write_set


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("date", [False, True])
def test_retry_after_is_waited_for(status: int, date: bool) -> None:
    value = formatdate(time.time() + 3, usegmt=True) if date else "2"
    with serve((status, {"Retry-After": value}, {}), reply()) as server:
        began = time.monotonic()
        assert connect("m", server.api_base)("hi") == ["7"]
        assert 1.8 <= time.monotonic() - began < 10


def test_retry_after_is_read_in_both_forms() -> None:
    assert read_retry_after("6") == 6
    assert read_retry_after("soon") is read_retry_after("-3") is None
    assert read_retry_after(formatdate(0, usegmt=True)) == 0


@pytest.mark.parametrize("status", [408, 409, 423, 425])
def test_what_may_pass_is_sent_again(status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scale_dspy.lm.routing.FIRST_WAIT", 0.01)
    with serve((status, {}, {}), reply()) as server:
        assert connect("m", server.api_base)("hi") == ["7"]
        assert len(server.seen) == 2


def test_a_timeout_bounds_the_whole_request() -> None:
    with serve(...) as server:
        lm = connect("m", server.api_base, timeout=0.5, num_retries=0)
        began = time.monotonic()
        with pytest.raises(LMTimeoutError):
            lm("hi")
        assert time.monotonic() - began < 3


def test_n_is_one_request_through_any_adapter(server: FakeVLLM) -> None:
    lm = connect(server.model, server.api_base)
    assert len(lm("What is 1 + 1?", n=3, temperature=1.0)) == 3
    with dspy.context(lm=lm, adapter=dspy.ChatAdapter()):
        assert lm.history[-1]["outputs"]
    assert len(server.chats()) == 1
    assert server.chats()[0].body["n"] == 3


@pytest.mark.parametrize(
    ("content", "said"),
    [([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "ab"), (None, ""), (5, "5")],
)
def test_odd_contents_are_read(content: Any, said: str) -> None:
    with serve(reply(content)) as server:
        assert connect("m", server.api_base)("hi") == [said]


@pytest.mark.parametrize("body", [None, {"error": "x"}, [], {"choices": None}])
def test_what_is_no_completion_is_said(body: Any) -> None:
    with serve(body) as server, pytest.raises(LMError, match="no chat completion"):
        connect("m", server.api_base, num_retries=0)("hi")


@pytest.mark.parametrize(
    "usage", [None, {"completion_tokens": -500}, {"completion_tokens": 10**9}, {}, "x"]
)
def test_unknown_usage_is_charged_at_the_most(usage: Any) -> None:
    with serve(reply(usage=usage)) as server:
        lm = connect("m", server.api_base, max_tokens=100, cache=False)
        with dspy.context(lm=lm), limit_cost(250) as ledger:
            lm("a")
            lm("b")
            with pytest.raises(CostLimitError):
                lm("c")
        assert (ledger.unknown, ledger.assumed_sent, ledger.tokens) == (2, 200, 0)


def test_a_failed_try_is_charged_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scale_dspy.lm.routing.FIRST_WAIT", 0.01)
    with fake_vllm(faults=[Fault(every=2, reset="middle")]) as server:
        lm = connect(server.model, server.api_base, max_tokens=100, cache=False)

        def ask_for_ever() -> None:
            for number in range(100):
                lm(f"What is {number} + 1?")

        with dspy.context(lm=lm), limit_cost(1000), pytest.raises(CostLimitError):
            ask_for_ever()
        assert server.totals().completion_tokens <= 1000


def test_a_prediction_says_that_tokens_are_unknown() -> None:
    with serve(reply(r"1. Find $\boxed{7}$", usage=None)) as server:
        with dspy.context(lm=connect("m", server.api_base)):
            prediction = SCALE(candidates=1)(problem="What is 3 + 4?")
        assert "did not tell the tokens" in prediction.replaced[-1]


def test_a_user_and_a_password_are_sent_and_never_shown(capsys: Any, tmp_path: Path) -> None:
    with serve(reply()) as server:
        address = server.api_base.replace("//", "//me:hidden@")
        assert connect("m", address)("hi") == ["7"]
        assert server.seen[0]["Authorization"].startswith("Basic ")
        assert main(["solve", "p", "--model", "m", "--api-base", address, "--api-key", "k"]) == 2
    gone = "http://me:hidden@127.0.0.1:9/v1"
    assert main(["solve", "p", "--model", "m", "--api-base", gone]) == 1
    assert "hidden" not in "".join(capsys.readouterr())


def test_v1_left_out_is_said() -> None:
    with serve((404, {}, {"detail": "Not Found"})) as server:
        address = server.api_base.removesuffix("/v1")
        with pytest.raises(LMConfigurationError, match="/v1"):
            connect("m", address)("hi")


def test_a_socks_proxy_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:1080")
    with pytest.raises(ValueError, match="SOCKS"):
        connect("m", "http://10.0.0.1:8000/v1")


def evaluate(server: FakeVLLM | str, data: Path, out: Path, *flags: str) -> tuple[int, Any]:
    address = server if isinstance(server, str) else server.api_base
    model = "m" if isinstance(server, str) else server.model
    arguments = ["evaluate", str(data), "--out", str(out), "--model", model, "--samples", "1"]
    arguments += ["--modes", "hybrid"]
    code = main([*arguments, "--api-base", address, *flags])
    path = out / "summary.json"
    return code, json.loads(path.read_text()) if path.exists() else None


@pytest.mark.usefixtures("own_disk_cache")
def test_replies_belong_to_their_server_and_their_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scale_dspy.lm.routing.FIRST_WAIT", 0.01)
    data, world = tmp_path / "d.jsonl", World.noisy()
    write_set(data, world.problems(3))
    with fake_vllm(world) as a, fake_vllm(world) as b:
        code, first = evaluate(a, data, tmp_path / "a")
        asked = len(a.chats())
        assert (code, first["drawn"], first["replayed"]) == (0, asked, 0)
        _, other = evaluate(b, data, tmp_path / "b")
        assert other["drawn"] == len(b.chats()) > 0
        _, anew = evaluate(a, data, tmp_path / "a2")
        assert (anew["replayed"], len(a.chats())) == (0, asked + anew["drawn"])
        calls = len(a.chats())
        _, same = evaluate(a, data, tmp_path / "a3", "--reuse")
        assert (same["drawn"], same["replayed"], len(a.chats())) == (0, asked, calls)
        (tmp_path / "a2" / "rollouts.jsonl").unlink()
        _, resumed = evaluate(a, data, tmp_path / "a2")
        assert (resumed["drawn"], resumed["tok"]) == (0, anew["tok"])
        texts = [(tmp_path / name / "rollouts.jsonl").read_text() for name in ("a", "a2")]
        assert texts[0] != texts[1]
    code, nothing = evaluate("http://127.0.0.1:9/v1", data, tmp_path / "none")
    assert (code, nothing["errors"]) == (1, 3)


def test_damaged_replies_are_asked_for_again(server: FakeVLLM, tmp_path: Path) -> None:
    path = tmp_path / FILE
    for damage in (b"{", b"[]", b'{"choices": []}'):
        store = Store(path)
        use(store)
        lm = connect(server.model, server.api_base, seed=0)
        said = lm("What is 1 + 1?")
        calls = len(server.chats())
        assert lm("What is 1 + 1?") == said
        assert len(server.chats()) == calls
        store._run("UPDATE replies SET reply=?", damage)
        assert lm("What is 1 + 1?") == said
        assert len(server.chats()) == calls + 1
    path.write_bytes(b"no database at all" * 100)
    for tail in ("-wal", "-shm"):
        path.with_name(path.name + tail).unlink(missing_ok=True)
    assert Store(path).measure() == (0, 0)
    assert [each for each in tmp_path.iterdir() if "damaged" in each.name]


def test_the_cache_is_shown_cleared_and_switched_off(
    server: FakeVLLM, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scale_dspy.lm.cache._chosen", [])
    monkeypatch.setenv("SCALE_CACHE", str(tmp_path))
    connect(server.model, server.api_base)("What is 1 + 1?")
    for flags, replies in (((), 1), (("--clear",), 0)):
        assert main(["cache", "--json", *flags]) == 0
        assert json.loads(capsys.readouterr().out)["replies"] == replies
    monkeypatch.setenv("SCALE_CACHE", "off")
    for _ in range(2):
        connect(server.model, server.api_base)("What is 1 + 1?")
    assert len(server.chats()) == 3


def test_a_plain_lm_works_and_its_settings_hold(server: FakeVLLM) -> None:
    (example,) = World().problems(1)
    lm = dspy.LM(
        f"hosted_vllm/{server.model}", api_base=server.api_base, api_key="x",
        temperature=0.3, max_tokens=900,
    )  # fmt: skip
    with dspy.context(lm=lm), track() as ledger:
        prediction = SCALE(candidates=2)(problem=example.problem)
    assert prediction.answer == example.answer
    assert ledger.tokens == server.totals().completion_tokens
    bodies = [chat.body for chat in server.chats()]
    assert {(body["temperature"], body["max_tokens"]) for body in bodies} == {(0.3, 900)}
    assert all(body["top_k"] == 20 and "extra_body" not in body for body in bodies)


def keep(store: Store, number: int, size: int = 10) -> Keys:
    keys = make_keys("server", "run", number, {})
    store.put(keys, "x" * size)
    return keys


def test_a_cache_that_another_process_holds_is_waited_for_once_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "PATIENCE", 0.5)
    store = Store(tmp_path / FILE)
    first = keep(store, 0)
    other = sqlite3.connect(tmp_path / FILE, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    began = time.monotonic()
    for number in range(1, 20):
        keep(store, number)
    assert store.get(first) == "x" * 10  # reading goes on
    assert time.monotonic() - began < 5
    assert caplog.text.count("another process holds it locked") == 1
    with pytest.raises(OSError, match="was not cleared"):
        store.clear()
    other.execute("COMMIT")
    assert store.get(keep(store, 20)) == "x" * 10
    assert not store.broken
    other.execute("BEGIN IMMEDIATE")
    keep(store, 21)
    assert caplog.text.count("another process holds it locked") == 2


def test_processes_that_make_the_cache_at_the_same_moment_all_get_it(tmp_path: Path) -> None:
    """SQLite refuses the change to WAL at once, whatever time it may wait for other locks."""
    count = 6
    for turn in range(100):
        start, folder = threading.Barrier(count), tmp_path / str(turn)

        def open_one(start: threading.Barrier = start, folder: Path = folder) -> None:
            start.wait()
            Store(folder / FILE).connection.close()

        with ThreadPoolExecutor(count) as pool:
            for each in [pool.submit(open_one) for _ in range(count)]:
                each.result()


def test_a_cache_that_is_locked_from_the_start_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(cache, "PATIENCE", 0.2)
    monkeypatch.setattr("scale_dspy.lm.cache._chosen", [])
    monkeypatch.setenv("SCALE_CACHE", str(tmp_path))
    other = sqlite3.connect(tmp_path / FILE, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    began = time.monotonic()
    assert main(["cache"]) == 1
    assert time.monotonic() - began < 5
    said = capsys.readouterr().err
    assert "another process holds it locked" in said
    assert said.count("\n") == 1
    other.close()


def test_a_cache_file_that_is_a_link_is_refused(tmp_path: Path) -> None:
    Store(tmp_path / "theirs").connection.close()
    before = (tmp_path / "theirs").read_bytes()
    (tmp_path / FILE).symlink_to(tmp_path / "theirs")
    with pytest.raises(OSError, match="is a link"):
        Store(tmp_path / FILE)
    assert (tmp_path / "theirs").read_bytes() == before


def test_the_oldest_replies_of_a_large_cache_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store = Store(tmp_path / FILE)
    keys = [keep(store, number, 5000) for number in range(200)]
    monkeypatch.setattr(cache, "MOST_BYTES", 400_000)
    monkeypatch.setattr(cache, "FRESH", -1.0)
    again = Store(tmp_path / FILE)
    there = [again.get(each) is not None for each in keys]
    assert there == sorted(there)  # the older ones are gone
    assert 30 < sum(there) < 80
    assert again._count_bytes() <= 300_000
    assert f"its {200 - sum(there)} oldest replies were dropped" in caplog.text
    monkeypatch.setattr(cache, "MOST_BYTES", 1000)
    monkeypatch.setattr(cache, "FRESH", 60.0)
    assert Store(tmp_path / FILE).measure()[0] == sum(there)  # what is fresh stays in any case


# What DSPy does and does not promise; see docs/dspy_3_5.md


@dataclass(frozen=True)
class Failing:
    """An engine of DSPy's contract that fails."""

    error: Exception

    def complete(self, request: lm15.Request) -> lm15.Response:
        raise self.error

    def stream(self, request: lm15.Request) -> Any:
        raise self.error

    def close(self) -> None: ...


@dataclass(frozen=True)
class FailingAsync(Failing):
    """The same, asynchronous."""

    async def complete(self, request: lm15.Request) -> lm15.Response:  # type: ignore[override]
        raise self.error

    async def aclose(self) -> None: ...


def fail_with(error: Exception) -> list[Exception]:
    """What dspy.LM raises where its engine raises `error`, called either way."""
    engines = {"engine": Failing(error), "async_engine": FailingAsync(error)}
    lm = dspy.LM("x/y", num_retries=0, cache=False, **engines)
    request = lm15.Request(model="x/y", messages=(lm15.Message.user("hi"),))
    raised: list[Exception] = []
    for call in (lambda: lm(request), lambda: asyncio.run(lm.acall(request))):
        with pytest.raises(Exception, match="hidden") as caught:
            call()
        raised.append(caught.value)
    return raised


@pytest.mark.parametrize(
    "error",
    [
        LMRateLimitError("hidden", status=429, retry_after=7.0),
        LMTimeoutError("hidden"),
        LMConfigurationError("hidden"),
    ],
)
def test_an_engines_lm_error_comes_through_dspy_unchanged(error: LMError) -> None:
    assert all(each is error for each in fail_with(error))


@pytest.mark.parametrize("error", [CostLimitError("hidden"), ValueError("hidden")])
def test_dspy_keeps_the_cause_of_any_other_error(error: Exception) -> None:
    for raised in fail_with(error):
        assert isinstance(raised, LMUnexpectedError)
        assert raised.__cause__ is error


def test_our_lm_raises_what_its_engine_raised(server: FakeVLLM) -> None:
    lm = connect(server.model, server.api_base, max_tokens=100, cache=False)
    with limit_cost(10), pytest.raises(CostLimitError):
        lm("hi")
    with limit_cost(10), pytest.raises(CostLimitError):
        asyncio.run(lm.acall("hi"))


def test_what_dspy_is_to_remove_is_an_error_in_the_tests() -> None:
    """So a call of ours that 3.5 removes fails the fast tests."""
    with pytest.raises(DeprecationWarning, match=r"removal in DSPy 3\.5"):
        dspy.LM("x/y")(messages=[{"role": "user", "content": "hi"}])


@pytest.mark.parametrize(("module", "counts"), [("dspy.clients.lm", True), ("other.module", False)])
def test_any_deprecation_of_dspys_own_is_one_and_no_strangers(module: str, counts: bool) -> None:
    def warn() -> None:
        warnings.warn_explicit("old", DeprecationWarning, "lm.py", 1, module=module)

    if counts:
        with pytest.raises(DeprecationWarning, match="old"):
            warn()
    else:
        with pytest.warns(DeprecationWarning, match="old"):
            warn()
