"""`serve` as its users meet it: the command, LiteLLM's proxy and the unmodified `openai` client."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import openai
import pytest

from scale_dspy import SCALE
from tests.command import backend, run
from tests.fake_vllm import Fault, Spawned, spawn_fake_vllm
from tests.proxy import proxy_of_litellm
from tests.raw import send_raw
from tests.world import World

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = World().problems(16)
KEY, UPSTREAM_KEY = "a-key-of-the-tests", "a-key-of-the-server"
AT_WORK, WAITING = 4, 4
LONGEST = max(range(16), key=lambda number: len(World().problem(number).parts))


@dataclass(frozen=True)
class Served:
    """A running `serve`, and the fake server behind it."""

    url: str
    models: list[str]
    fake: Spawned
    temporary: Path

    def client(self, key: str = KEY, **options: Any) -> openai.OpenAI:
        return openai.OpenAI(base_url=self.url, api_key=key, max_retries=0, **options)


@contextlib.contextmanager
def start_serve(
    *arguments: str,
    stderr: Any = subprocess.DEVNULL,
    entry: tuple[str, ...] = ("-m", "scale_dspy"),
    **environment: str,
) -> Iterator[tuple[dict[str, Any], Any]]:
    """Run `serve` in a process of its own; what it says of itself, and the process."""
    command = [sys.executable, *entry, "serve", "--port", "0", "--json", *arguments]
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, "NO_PROXY": "127.0.0.1", **environment},
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
    )
    try:
        assert process.stdout
        line = process.stdout.readline()
        assert line, f"serve ended with {process.wait(10)}"
        yield json.loads(line), process
    finally:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
        if process.stdout:
            process.stdout.close()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("serve")
    program = SCALE(threshold=1.0, candidates=2)
    program.record = {
        "points": [{"threshold": 0.3, "split": 0.0, "accuracy": 1.0, "tokens": 2500.0}]
    }
    program.save(folder / "cheap.json")
    (folder / "key").write_text(f"{KEY}\n")
    temporary = folder / "tmp"
    temporary.mkdir()
    with spawn_fake_vllm(delay=0.05, api_key=UPSTREAM_KEY) as fake:
        environment = {"SCALE_API_KEY": UPSTREAM_KEY, "TMPDIR": str(temporary)}
        arguments = ["--program", str(folder / "cheap.json"), "--key-file", str(folder / "key")]
        arguments += ["--threads", str(AT_WORK), "--waiting", str(WAITING)]
        with start_serve(*backend(fake), *arguments, **environment) as (said, process):
            yield Served(said["url"], said["models"], fake, temporary)
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0
        assert not list(temporary.glob("scale-serve-*"))


def ask(number: int = 0, **options: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": EXAMPLES[number].problem}]
    return {"model": "scale@tau=0.5", "messages": messages, **options}


def chats(fake: Spawned) -> list[dict[str, Any]]:
    return [entry for entry in fake.log() if entry["stage"]]


def test_the_openai_client_solves_and_usage_is_what_was_spent(served: Served) -> None:
    before = served.fake.totals()
    reply = served.client().chat.completions.create(**ask())
    after = served.fake.totals()
    (choice,) = reply.choices
    assert choice.finish_reason == "stop"
    assert f"\\boxed{{{EXAMPLES[0].answer}}}" in str(choice.message.content)
    assert "sub-problems:" in choice.message.reasoning_content  # type: ignore[attr-defined]
    fields = choice.message.provider_specific_fields  # type: ignore[attr-defined]
    assert fields["scale_steps"][-1]["solution"] == choice.message.content
    assert reply.usage
    assert reply.usage.completion_tokens_details
    told = {
        "prompt_tokens": reply.usage.prompt_tokens,
        "completion_tokens": reply.usage.completion_tokens,
        "reasoning_tokens": reply.usage.completion_tokens_details.reasoning_tokens,
    }
    assert told == {key: after[key] - before[key] for key in told}
    assert told["reasoning_tokens"]


def test_a_stream_shows_the_work_as_it_happens(served: Served) -> None:
    options = ask(stream=True, stream_options={"include_usage": True})
    began, times, content, steps, usage = time.monotonic(), [], "", [], None
    for chunk in served.client().chat.completions.create(**options):
        usage = chunk.usage or usage
        for choice in chunk.choices:
            if getattr(choice.delta, "reasoning_content", None):
                times.append(time.monotonic() - began)
            content += choice.delta.content or ""
            fields = getattr(choice.delta, "provider_specific_fields", None) or {}
            steps += fields.get("scale_steps", [])
    assert f"\\boxed{{{EXAMPLES[0].answer}}}" in content
    assert len(times) > len(steps) > 1
    assert times[-1] - times[0] > 0.05 * len(steps)  # told one by one, not at the end
    spent = sum(step["tokens"] for step in steps)
    assert usage
    assert usage.completion_tokens > spent


def test_models_are_listed_and_each_is_served(served: Served) -> None:
    listed = [model.id for model in served.client().models.list()]
    names = ["scale", "scale@tokens=2500", "cheap", "cheap@tokens=2500"]
    assert listed == served.models == names
    start = len(chats(served.fake))
    served.client().chat.completions.create(**ask(model="cheap"))
    assert {entry["system"] for entry in chats(served.fake)[start:]} == {1}
    start = len(chats(served.fake))
    served.client().chat.completions.create(**ask(model="cheap@tokens=2500"))
    assert {entry["system"] for entry in chats(served.fake)[start:]} == {1, 2}


def test_budget_and_method_through_extra_body(served: Served) -> None:
    create = served.client().chat.completions.create
    reply = create(**ask(extra_body={"budget": 1000}))
    assert reply.usage
    assert reply.usage.completion_tokens <= 1000
    start = len(chats(served.fake))
    create(**ask(model="scale", extra_body={"method": "cot", "budget": 4000}))
    assert [entry["stage"] for entry in chats(served.fake)[start:]] == ["whole"]


@pytest.mark.parametrize(
    ("options", "status", "words"),
    [
        ({"model": "gpt-4o"}, 404, "there is no model 'gpt-4o'"),
        ({"model": "scale@tokens=3"}, 400, "the cheapest point"),
        ({"extra_body": {"budget": -5}}, 400, "not -5"),
        ({"extra_body": {"budget": -5}, "stream": True}, 400, "not -5"),
        ({"extra_body": {"method": "magic"}}, 400, "not 'magic'"),
        ({"extra_body": {"api_base": "http://127.0.0.1:1"}}, 400, "unknown field 'api_base'"),
        ({"messages": []}, 400, "the last message is the question"),
        ({"messages": [{"role": "user", "content": "x" * 10_000_000}]}, 413, "1,048,576"),
        ({"n": 2}, 400, "n is 1"),
    ],
)
def test_a_bad_request_gets_an_error_as_openai_words_it(
    served: Served, options: dict[str, Any], status: int, words: str
) -> None:
    start = len(chats(served.fake))
    with pytest.raises(openai.APIStatusError) as told:
        served.client().chat.completions.create(**ask(**options))
    assert told.value.status_code == status
    assert isinstance(told.value.body, dict)
    assert set(told.value.body) >= {"message", "type", "param", "code"}
    assert words in told.value.body["message"]
    assert len(chats(served.fake)) == start


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"\xff\xfe", b"[" * 200_000, b'{"messages": 3}', b'{"messages": []}']
)
def test_a_body_that_is_no_request_gets_a_clear_error(served: Served, body: bytes) -> None:
    headers = {"Authorization": f"Bearer {KEY}"}
    reply = httpx.post(f"{served.url}/chat/completions", content=body, headers=headers)
    assert reply.status_code == 400
    assert reply.json()["error"]["message"]
    assert served.client().models.list().data  # it lives


@pytest.mark.parametrize("key", ["wrong", f"{KEY}x", KEY[:-1], "ü"])
def test_a_wrong_key_gets_401(served: Served, key: str) -> None:
    headers = {"Authorization": f"Bearer {key}".encode()}
    for method, path in (("GET", "models"), ("POST", "chat/completions")):
        reply = httpx.request(method, f"{served.url}/{path}", headers=headers, json=ask())
        assert reply.status_code == 401
        assert reply.json()["error"]["code"] == "invalid_api_key"
    assert httpx.get(f"{served.url}/models").status_code == 401


def test_the_proxys_other_paths_are_closed(served: Served) -> None:
    root = served.url.removesuffix("/v1")
    headers = {"Authorization": f"Bearer {KEY}"}
    for path in ("/", "/key/generate", "/model/info", "/config/yaml", "/openapi.json", "/ui/"):
        assert httpx.get(root + path, headers=headers).status_code == 404
    assert httpx.get(f"{served.url}/chat/completions", headers=headers).status_code == 405


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_stops_its_work(served: Served, stream: bool) -> None:
    start = len(chats(served.fake))
    leave_at_work(served, ask(LONGEST, stream=stream))
    assert 0 < count_when_calm(served.fake, start) < 12  # of 17; 3 or 4 where nothing is slow


def leave_at_work(served: Served, body: dict[str, Any]) -> None:
    """Ask, and close the connection at the first streamed piece of the work, or without a stream
    as soon as the model was asked."""
    start = len(chats(served.fake))
    url, headers = urlsplit(served.url), {"Authorization": f"Bearer {KEY}"}
    headers["Content-Type"] = "application/json"
    connection = http.client.HTTPConnection(url.netloc, timeout=60)
    connection.request("POST", f"{url.path}/chat/completions", json.dumps(body), headers)
    if body["stream"]:
        assert any(b"reasoning_content" in line for line in connection.getresponse())
    else:
        while len(chats(served.fake)) == start:
            time.sleep(0.02)
    connection.close()


def count_when_calm(fake: Spawned, start: int) -> int:
    """The calls after the first `start`, once none was made for a second."""
    count = -1
    while count != (count := len(chats(fake)) - start):
        time.sleep(1)
    return count


def test_more_than_may_wait_get_429_and_are_told_when(served: Served) -> None:
    def go(number: int) -> Any:
        try:
            return served.client().chat.completions.create(**ask(number % 8))
        except openai.RateLimitError as error:
            return error

    with ThreadPoolExecutor(12) as pool:
        replies = list(pool.map(go, range(12)))
    refused = [reply for reply in replies if isinstance(reply, openai.RateLimitError)]
    assert len(refused) == 12 - AT_WORK - WAITING
    assert all(int(error.response.headers["retry-after"]) > 0 for error in refused)
    assert isinstance(refused[0].body, dict)
    for number, reply in enumerate(replies):
        if not isinstance(reply, openai.RateLimitError):
            assert f"\\boxed{{{EXAMPLES[number % 8].answer}}}" in reply.choices[0].message.content


@pytest.mark.slow
def test_the_models_are_listed_at_once_whatever_is_queued() -> None:
    """Two problems at work that do not end soon, as many as may wait, and clients sent away."""
    with (
        spawn_fake_vllm(delay=30.0) as fake,
        start_serve(*backend(fake), "--threads", "2", "--waiting", "30") as (said, _),
        ThreadPoolExecutor(64) as pool,
        httpx.Client(base_url=said["url"], timeout=httpx.Timeout(90)) as client,
    ):
        request = {"model": "scale", "messages": ask(0)["messages"], "method": "cot"}

        def go(number: int) -> int:
            try:
                body = {**request, "stream": number % 2 == 0}
                return client.post("/chat/completions", json=body, timeout=15).status_code
            except httpx.TimeoutException:
                return 0  # still waiting: it is let go

        asked = [pool.submit(go, 0)]
        time.sleep(3)  # the first request of all imports what it needs
        asked += [pool.submit(go, number) for number in range(1, 60)]
        slowest, began = 0.0, time.monotonic()
        while time.monotonic() - began < 8:
            start = time.monotonic()
            reply = send_raw(said["url"], b"", "", line="GET /v1/models HTTP/1.1")
            assert b'"id": "scale"' in reply
            slowest = max(slowest, time.monotonic() - start)
        statuses = Counter(each.result() for each in asked)
    assert slowest < 2
    assert statuses == {0: 32, 429: 28}


def test_no_file_keeps_a_key_or_an_address(served: Served) -> None:
    held = [path for path in served.temporary.rglob("*") if path.is_file()]
    assert held
    for path in held:
        text = path.read_text(errors="replace")
        for secret in (KEY, UPSTREAM_KEY, f":{served.fake.port}"):
            assert secret not in text


@pytest.mark.slow
@pytest.mark.parametrize("stream", [False, True])
def test_a_failing_model_server_is_a_line_in_the_log(stream: bool, tmp_path: Path) -> None:
    faults = [Fault(status=401)]
    with (
        spawn_fake_vllm(faults=faults) as fake,
        (tmp_path / "log").open("w") as log,
        start_serve(*backend(fake), stderr=log) as (said, _),
    ):
        body = {**ask(), "model": "scale", "stream": stream}
        reply = httpx.post(f"{said['url']}/chat/completions", json=body, timeout=60)
    assert "the model server failed" in reply.text
    told = (tmp_path / "log").read_text()
    assert "the model server failed" in told
    assert "Traceback" not in told
    assert f":{fake.port}" not in told


@pytest.mark.slow
def test_another_proxy_mounts_it_beside_a_plain_model(tmp_path: Path) -> None:
    """The two entries of the README, in LiteLLM's own proxy, with its own key."""
    with spawn_fake_vllm() as fake:
        plain = {"model": f"hosted_vllm/{fake.model}", "api_base": fake.api_base, "api_key": "x"}
        config = {
            "litellm_settings": {
                "custom_provider_map": [
                    {"provider": "scale", "custom_handler": "scale_dspy.serve.provider.handler"}
                ]
            },
            "model_list": [
                {"model_name": "plain", "litellm_params": plain},
                {"model_name": "scale", "litellm_params": {"model": "scale/scale"}},
            ],
        }
        backend = {"SCALE_MODEL": fake.model, "SCALE_API_BASE": fake.api_base}
        with proxy_of_litellm(config, tmp_path, **backend) as (url, key):
            client = openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0)
            assert {model.id for model in client.models.list()} == {"plain", "scale"}
            solved = client.chat.completions.create(**ask(model="scale"))
            assert f"\\boxed{{{EXAMPLES[0].answer}}}" in str(solved.choices[0].message.content)
            assert solved.choices[0].message.provider_specific_fields["scale_steps"]  # type: ignore[attr-defined]
            start = len(chats(fake))
            assert client.chat.completions.create(**ask(model="plain")).choices
            assert len(chats(fake)) == start + 1


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "example.org", "127.evil.example"])
def test_it_refuses_to_be_reached_without_a_key(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    monkeypatch.delenv("SCALE_SERVE_KEY", raising=False)
    code, _, said = run(capsys, "serve", "--host", host)
    assert code == 2
    assert said.count("\n") == 1
    assert "SCALE_SERVE_KEY" in said


def test_what_is_wrong_with_the_flags_is_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "empty").write_text("\n")
    for arguments, words in (
        (["--key-file", str(tmp_path / "empty")], "holds no key"),
        (["--key-file", str(tmp_path / "none")], "cannot read a key"),
        (["--port", "0", "--program", str(tmp_path / "none.json")], "cannot read a program"),
        (["--port", "0", "--frontier", str(tmp_path / "none.json")], "cannot read a frontier"),
        (["--waiting", "0"], "--waiting"),
        (["--port", "70000"], "--port"),
    ):
        code, _, said = run(capsys, "serve", *arguments)
        assert (code, said.count("\n")) == (2, 1), said
        assert words in said


def test_a_missing_extra_is_said_before_anything_starts(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scale_dspy.serve.proxy.NEEDED", ("no_such_package",))
    code, _, said = run(capsys, "serve", "--port", "0")
    assert code == 1
    assert 'pip install ".[serve]"' in said


@pytest.mark.embedded
def test_the_embedded_model_solves_in_a_stream_and_usage_is_the_ledger() -> None:
    question = "Ann has 3 boxes with 4 pens each and gives 5 pens away. How many pens has she left?"
    messages = [{"role": "user", "content": question}]
    with start_serve("--model", "qwen2.5-coder-0.5b", "--seed", "0") as (said, _):
        client = openai.OpenAI(base_url=said["url"], api_key="none", timeout=250)
        stream = client.chat.completions.create(
            model="scale",
            messages=messages,  # type: ignore[arg-type]
            stream=True,
            stream_options={"include_usage": True},
        )
        chunks = list(stream)
    usage = chunks[-1].usage
    deltas = [choice.delta for chunk in chunks for choice in chunk.choices]
    (answer,) = [delta for delta in deltas if delta.content]
    fields = answer.provider_specific_fields  # type: ignore[attr-defined]
    ledger = fields["scale_usage"].values()
    assert usage
    assert usage.completion_tokens == sum(tally["completion_tokens"] for tally in ledger)
    assert usage.prompt_tokens == sum(tally["prompt_tokens"] for tally in ledger)
    assert usage.completion_tokens >= sum(step["tokens"] for step in fields["scale_steps"]) > 0
    told = [getattr(delta, "reasoning_content", None) for delta in deltas]
    assert len([text for text in told if text]) > len(fields["scale_steps"])
    assert "\\boxed" in str(answer.content)
