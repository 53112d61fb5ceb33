"""The door of `serve` under attack: over HTTP, with LiteLLM's real proxy behind it, and another
provider within its reach, with the owner's key for that one in its environment."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import httpx
import openai
import pytest

from tests.canary import run_canary
from tests.command import backend
from tests.fake_vllm import Fault, Spawned, spawn_fake_vllm
from tests.raw import send_raw
from tests.test_serve import EXAMPLES, chats, start_serve

JSON = {"content-type": "application/json"}
ARABIC = "٠.٣"


@dataclass(frozen=True)
class Attacked:
    """A `serve` without a key, its fake server, its log, and what the canary was asked."""

    url: str
    fake: Spawned
    log: Path
    canary: list[str]
    environment: dict[str, str]
    pid: int

    def post(self, content: Any, **headers: str) -> httpx.Response:
        """Send bytes, or an object as JSON."""
        content = content if isinstance(content, bytes) else json.dumps(content).encode()
        given = {**JSON, **{name.replace("_", "-"): value for name, value in headers.items()}}
        return httpx.post(
            f"{self.url}/chat/completions", content=content, headers=given, timeout=60
        )


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Attacked]:
    log = tmp_path_factory.mktemp("door") / "log"
    with (
        run_canary() as (environment, canary),
        spawn_fake_vllm() as fake,
        log.open("w") as stderr,
        start_serve(*backend(fake), stderr=stderr, **environment) as (said, process),
    ):
        yield Attacked(said["url"], fake, log, canary, environment, process.pid)


@pytest.fixture(autouse=True)
def _nothing_got_through(attacked: Attacked) -> Iterator[None]:
    """After every attack: the canary sings not, no stack is in the log, the models are listed."""
    yield
    assert attacked.canary == []
    assert "Traceback" not in attacked.log.read_text()
    began = time.monotonic()
    assert httpx.get(f"{attacked.url}/models").json()["data"][0]["id"] == "scale"
    assert time.monotonic() - began < 2


def make_body(number: int = 0, **more: Any) -> dict[str, Any]:
    """A request of one call."""
    question = {"role": "user", "content": EXAMPLES[number].problem}
    return {"model": "scale", "messages": [question], "method": "cot", **more}


def check_refused(attacked: Attacked, reply: httpx.Response, start: int, *statuses: int) -> None:
    """An error in OpenAI's form, and no call of the model."""
    assert reply.status_code in (statuses or (400,)), reply.text[:300]
    assert reply.headers["content-type"] == "application/json"
    error = reply.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    assert len(error["message"]) < 1000
    assert len(chats(attacked.fake)) == start


# 1: one body, parsed once


def write_forms() -> dict[str, tuple[bytes, str]]:
    """Bodies that are JSON to one reader and a form to another."""
    evil = {"model": "openai/gpt-4o", "custom_llm_provider": "openai", "api_key": "x", "x": "1"}
    inner = make_body(user="&" + urlencode(evil) + "&messages=[]&z=")
    text = json.dumps(inner)
    parts = "".join(
        f'--b\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
        for name, value in evil.items()
    )
    return {
        "a form": (text.encode(), "application/x-www-form-urlencoded"),
        "a form with a charset": (
            text.encode(),
            "application/x-www-form-urlencoded; charset=utf-8",
        ),
        "a form in parts": (f"{parts}--b--".encode(), "multipart/form-data; boundary=b"),
        "JSON called parts": (text.encode(), "multipart/form-data; boundary=b"),
        "both kinds": (text.encode(), "application/json, application/x-www-form-urlencoded"),
        "a kind within a kind": (text.encode(), "text/plain; application/json"),
        "JSON of another kind": (text.encode(), "application/vnd.api+json"),
        "another charset": (text.encode("utf-16"), "application/json; charset=utf-16"),
    }


@pytest.mark.parametrize("name", write_forms())
def test_a_body_is_what_the_door_read_and_nothing_else(attacked: Attacked, name: str) -> None:
    content, kind = write_forms()[name]
    start = len(chats(attacked.fake))
    check_refused(attacked, attacked.post(content, content_type=kind), start, 415)


def test_two_content_types_are_none(attacked: Attacked) -> None:
    start, content = len(chats(attacked.fake)), json.dumps(make_body()).encode()
    two = "Content-Type: application/json\r\nContent-Type: application/x-www-form-urlencoded\r\n"
    reply = send_raw(attacked.url, content, two)
    assert b" 400 " in reply.partition(b"\r\n")[0]
    assert b"more than one header content-type" in reply
    assert len(chats(attacked.fake)) == start


@pytest.mark.parametrize(
    "content",
    [
        b'{"model": "openai/gpt-4o", "messages": [], "model": "scale"}',
        json.dumps(make_body()).encode("utf-16"),
        b"\xef\xbb\xbf" + json.dumps(make_body()).encode(),
        json.dumps(make_body(temperature=float("nan"))).encode(),
        b"[" * 900_000,
        b'{"a":' * 150_000,
        b'{"model": ' + b"9" * 5000 + b"}",
    ],
)
def test_json_that_readers_differ_about_is_refused(attacked: Attacked, content: bytes) -> None:
    start = len(chats(attacked.fake))
    check_refused(attacked, attacked.post(content), start)


def test_the_last_of_two_equal_fields_counts_everywhere(attacked: Attacked) -> None:
    start, text = len(chats(attacked.fake)), json.dumps(make_body())
    reply = attacked.post(text.replace("{", '{"model": "openai/gpt-4o", ', 1).encode())
    assert reply.json()["model"] == "scale"
    assert len(chats(attacked.fake)) == start + 1


@pytest.mark.parametrize(
    "more",
    [
        {"custom_llm_provider": "openai"},
        {"api_key": "x"},
        {"api_base": "http://127.0.0.1:9"},
        {"extra_body": {"api_base": "http://127.0.0.1:9"}},
        {"fallbacks": ["gpt-4o"]},
        {"mock_response": "x"},
        {"proxy_server_request": {}},
        {"litellm_metadata": {}},
        {"guardrails": []},
    ],
)
def test_fields_of_the_proxys_own_are_unknown(attacked: Attacked, more: dict[str, Any]) -> None:
    start = len(chats(attacked.fake))
    check_refused(attacked, attacked.post(make_body(**more)), start)


def test_the_canary_would_sing(attacked: Attacked) -> None:
    """Where LiteLLM is asked for that provider, in this very environment, it is called."""
    ask = "import litellm; litellm.completion('openai/gpt-4o', [{'role': 'user', 'content': 'x'}])"
    environment = {**os.environ, **attacked.environment, "NO_PROXY": "127.0.0.1"}
    subprocess.run([sys.executable, "-c", ask], env=environment, check=True, capture_output=True)
    assert "the-owners-key" in attacked.canary.pop()


# 2, 3, 7: names


@pytest.mark.parametrize(
    "name",
    [
        "," * 10_000,
        "," * 1_000_000,
        "scale," * 400,
        ",".join(["scale"] * 10),
        "scale,scale",
        " scale",
        "scale ",
        "scale\n",
        "scale\r\nX-Evil: 1",
        "scale\x00",
        "SCALE",
        "ѕcale",
        "scale/scale",
        "scale/",
        "*",
        "",
        "a" * 500_000,
        "openai/gpt-4o",
        "gpt-4o",
        "scale;" * 10_000,
        "/" * 100_000,
        "@" * 100_000,
    ],
    ids=lambda name: f"{name[:12]!r}x{len(name)}",
)
def test_a_name_that_is_none_is_refused_at_once(attacked: Attacked, name: str) -> None:
    start, began = len(chats(attacked.fake)), time.monotonic()
    reply = attacked.post(make_body(model=name))
    assert time.monotonic() - began < 2
    check_refused(attacked, reply, start, 404)


@pytest.mark.parametrize(
    "point",
    [
        "",
        "tau",
        "tau=",
        f"tau={ARABIC}",
        "tau=0.3\r",
        "tau=0.3\n",
        "tau=0.3 ",
        "tau= 0.3",
        "tau=0_1",
        "tau=nan",
        "tau=1e-1,scale",
        "tau=0,5",
        "tau=+0.5",
        "tau=-0",
        "tau=0.3@tau=0.3",
        "tokens=inf",
        "tokens=1e999",
        "tokens=" + "9" * 5000,
        "tau=0." + "3" * 400,
        "tau=x" * 5000,
    ],
    ids=lambda point: f"{point[:16]!r}x{len(point)}",
)
def test_a_point_that_is_none_is_refused_before_anything_is_asked(
    attacked: Attacked, point: str
) -> None:
    start = len(chats(attacked.fake))
    reply = attacked.post(make_body(model=f"scale@{point}", method=None))
    check_refused(attacked, reply, start, 400, 404)


def test_the_server_answers_while_names_of_a_megabyte_come_in(attacked: Attacked) -> None:
    """Commas took minutes of everyone's time."""
    threads = [
        threading.Thread(target=attacked.post, args=(make_body(model=f"{each}" * 1_000_000),))
        for each in ",,,,;;//"
    ]
    for thread in threads:
        thread.start()
    slowest = 0.0
    while any(thread.is_alive() for thread in threads):
        began = time.monotonic()
        assert httpx.get(f"{attacked.url}/models").status_code == 200
        slowest = max(slowest, time.monotonic() - began)
    assert slowest < 2


def test_a_good_point_is_served_and_named_in_the_reply(attacked: Attacked) -> None:
    for name in ("scale@tau=.5", "scale@tau=5e-1", "scale@tau=1"):
        reply = attacked.post(make_body(model=name, method=None))
        assert (reply.status_code, reply.json()["model"]) == (200, name)


# 5: headers and the query


@pytest.mark.parametrize(
    "headers",
    [
        {"x_litellm_num_retries": "5"},
        {"x_litellm_timeout": "0.001", "x_litellm_stream_timeout": "0.001"},
        {"x_litellm_tags": "a,b", "x_litellm_spend_logs_metadata": "{}"},
        {"x_litellm_enable_message_redaction": "true", "x_litellm_trace_id": "../x"},
        {"anthropic_beta": "x", "openai_organization": "evil", "x_forwarded_for": "1.2.3.4"},
        {"litellm_changed_by": "x", "x_stainless_raw_response": "true"},
    ],
)
def test_no_header_of_a_client_is_obeyed(attacked: Attacked, headers: dict[str, str]) -> None:
    start = len(chats(attacked.fake))
    reply = attacked.post(make_body(), **headers)
    assert reply.status_code == 200
    assert [name for name in reply.headers if name.startswith(("x-litellm", "llm"))] == []
    assert len(chats(attacked.fake)) == start + 1


def test_a_request_that_fails_is_not_sent_again_for_a_header() -> None:
    with (
        spawn_fake_vllm(faults=[Fault(status=400)]) as fake,
        start_serve(*backend(fake)) as (said, _),
    ):
        for name in ("X-None", "x-litellm-num-retries", "x-litellm-max-retries"):
            start = len(fake.log())
            url, headers = f"{said['url']}/chat/completions", {name: "5"}
            reply = httpx.post(url, json=make_body(), headers=headers, timeout=60)
            assert reply.status_code == 503
            assert reply.json()["error"]["message"] == "the model server failed"
            assert len(fake.log()) == start + 1


@pytest.mark.parametrize(
    "query",
    [
        "api_base=http://127.0.0.1:9",
        "model=openai/gpt-4o",
        "api-version=1&num_retries=5",
        "a=" * 999,
    ],
)
def test_the_query_has_no_effect(attacked: Attacked, query: str) -> None:
    reply = httpx.post(f"{attacked.url}/chat/completions?{query}", json=make_body(), timeout=60)
    assert (reply.status_code, reply.json()["model"]) == (200, "scale")


# 8, 9: fields that are on the list


def nest(depth: int) -> Any:
    value: Any = {}
    for _ in range(depth):
        value = {"a": value}
    return value


@pytest.mark.parametrize(
    "more",
    [
        {"metadata": {"api_base": "http://127.0.0.1:9"}},
        {"metadata": nest(500)},
        {"metadata": "zzz"},
        {"metadata": {"tags": 5, "model_group": "x", "user_api_key": "y"}},
        {"reasoning_effort": "low"},
        {"reasoning_effort": {"effort": 3}},
        {"verbosity": "high"},
        {"top_k": 20, "min_p": 0.1, "repetition_penalty": 1.1},
        {"chat_template_kwargs": {"enable_thinking": False}},
        {"temperature": "hot", "top_p": -3, "presence_penalty": [], "logit_bias": 7},
        {"user": {"a": 1}, "service_tier": 5, "store": "x", "safety_identifier": nest(50)},
        {"prompt_cache_key": "\x00", "parallel_tool_calls": 3},
    ],
)
def test_an_ignored_field_has_no_effect_and_is_named(
    attacked: Attacked, more: dict[str, Any]
) -> None:
    reply = attacked.post(make_body(**more))
    assert reply.status_code == 200, reply.text
    assert reply.headers["x-scale-ignored"] == ", ".join(sorted(more))


def test_nothing_is_named_where_nothing_was_ignored(attacked: Attacked) -> None:
    reply = attacked.post(make_body(seed=3, n=1, stop=None, tools=[], logprobs=False))
    assert reply.status_code == 200
    assert "x-scale-ignored" not in reply.headers


@pytest.mark.parametrize(
    ("more", "word"),
    [
        ({"response_format": "zzz"}, "response_format"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"response_format": {"type": "json_schema", "json_schema": nest(9)}}, "response_format"),
        ({"stop": ["\n"]}, "stop"),
        ({"stop": "x"}, "stop"),
        ({"logprobs": True}, "logprobs"),
        ({"logprobs": 1}, "logprobs"),
        ({"top_logprobs": 5}, "top_logprobs"),
        ({"modalities": ["audio"]}, "modalities"),
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"tools": {}}, "tools"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"functions": 1}, "functions"),
        ({"function_call": {"name": "x"}}, "function_call"),
        ({"seed": 2**64}, "seed"),
        ({"seed": -(2**63) - 1}, "seed"),
        ({"seed": True}, "seed"),
        ({"seed": 1.0}, "seed"),
        ({"seed": 10**400}, "seed"),
        ({"n": True}, "n is 1"),
        ({"n": 0}, "n is 1"),
        ({"n": 10**30}, "n is 1"),
        ({"stream": "yes"}, "stream"),
        ({"stream": 1}, "stream"),
        ({"stream_options": 5}, "stream_options"),
        ({"stream": True, "stream_options": {"include_usage": "x"}}, "include_usage"),
        ({"stream_options": {"api_base": "x"}}, "stream_options"),
        ({"budget": 63}, "from 64"),
        ({"budget": 10**400}, "a budget"),
        ({"budget": 2**63}, "a budget"),
        ({"budget": "64"}, "a budget"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": -5}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"max_completion_tokens": "x"}, "max_completion_tokens"),
        ({"max_tokens": 10**400}, "max_tokens"),
        ({"method": ["cot"]}, "method"),
        ({"method": {"a": 1}}, "method"),
        ({"method": "m" * 10_000}, "method"),
    ],
)
def test_what_cannot_be_had_is_refused_in_words(
    attacked: Attacked, more: dict[str, Any], word: str
) -> None:
    start = len(chats(attacked.fake))
    reply = attacked.post(make_body(**more))
    check_refused(attacked, reply, start)
    assert word in reply.json()["error"]["message"]


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_a_small_limit_of_tokens_is_the_least_budget(attacked: Attacked, name: str) -> None:
    reply = attacked.post(make_body(method=None, **{name: 50}))
    assert reply.status_code == 200, reply.text
    assert reply.json()["usage"]["completion_tokens"] <= 64


@pytest.mark.parametrize(
    "content", [5, True, {"a": 1}, [5], [{"text": 5}], [{"type": "image_url"}], [nest(50)], ""]
)
def test_content_that_is_no_text_is_a_bad_request(attacked: Attacked, content: Any) -> None:
    start = len(chats(attacked.fake))
    reply = attacked.post(make_body(messages=[{"role": "user", "content": content}]))
    check_refused(attacked, reply, start)
    earlier = {"role": "assistant", "content": content if content != "" else 5}
    reply = attacked.post(make_body(messages=[earlier, *make_body()["messages"]]))
    check_refused(attacked, reply, start)


def test_text_that_no_file_holds_is_mended(attacked: Attacked) -> None:
    question = f"{EXAMPLES[0].problem} \ud800\x00\x1b[2J"
    reply = attacked.post(make_body(messages=[{"role": "user", "content": question}]))
    assert reply.status_code == 200


# the rest of what OpenAI's clients look at


def test_the_last_chunk_tells_the_usage_and_no_choice(attacked: Attacked) -> None:
    client = openai.OpenAI(base_url=attacked.url, api_key="none")
    options = make_body(stream=True, stream_options={"include_usage": True})
    method = {"method": options.pop("method")}
    chunks = list(client.chat.completions.create(**options, extra_body=method))
    assert chunks[-1].choices == []
    assert chunks[-1].usage
    assert chunks[-1].usage.completion_tokens > 0
    assert all(chunk.choices for chunk in chunks[:-1])
    content = "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1])
    assert "\\boxed{" in content


def test_a_stream_without_that_option_tells_no_usage(attacked: Attacked) -> None:
    reply = attacked.post(make_body(stream=True))
    assert reply.text.endswith("data: [DONE]\n\n")
    assert '"usage":' not in reply.text


def test_one_model_can_be_looked_up(attacked: Attacked) -> None:
    models = openai.OpenAI(base_url=attacked.url, api_key="none").models
    assert models.retrieve("scale").id == "scale"
    assert models.retrieve("scale@tau=0.5").id == "scale@tau=0.5"
    with pytest.raises(openai.NotFoundError):
        models.retrieve("gpt-4o")


def test_its_health_is_told_without_a_key(attacked: Attacked) -> None:
    root = attacked.url.removesuffix("/v1")
    for path in ("/health", "/health/", "/health/liveliness"):
        assert httpx.get(root + path).json() == {"status": "ok"}


@pytest.mark.parametrize(
    "path",
    ["/v1/models/../../etc", "/v1/models/%2e%2e/x", "/v1/models/scale%0a", "//v1/models", "/v"],
)
def test_a_path_that_is_none_is_not_found(attacked: Attacked, path: str) -> None:
    url = urlsplit(attacked.url)
    reply = send_raw(attacked.url, b"", "", line=f"GET {path} HTTP/1.1")
    assert url.port
    assert b" 404 " in reply.partition(b"\r\n")[0]
    assert b'"error"' in reply


def test_what_is_no_http_gets_an_error_too(attacked: Attacked) -> None:
    reply = send_raw(attacked.url, b"", "", line="\x00\x01 nonsense")
    assert b"application/json" in reply
    assert b'{"error": {"message":' in reply


def test_bad_requests_are_no_errors_of_the_server(attacked: Attacked) -> None:
    for body in (make_body(budget=3), make_body(model="gpt"), make_body(stop="x"), 5):
        assert attacked.post(body).status_code in (400, 404)
    log = attacked.log.read_text()
    assert "ERROR" not in log
    assert "sign-in" not in log
