"""The doctor finds each fault that a server can have, and says what to change."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from scale_dspy.lm.doctor import Finding, examine
from scale_dspy.lm.embedded.server import start_server, stop_server
from tests.command import run
from tests.fake_vllm import Fault, fake_vllm
from tests.tiny_gguf import write_gguf


def diagnose(model: str | None = None, **server: Any) -> dict[str, Finding]:
    with fake_vllm(**server) as running:
        return {finding.name: finding for finding in examine(running.api_base, model)}


def test_a_good_server_has_no_fault() -> None:
    findings = diagnose(cached_tokens=True)
    assert [finding for finding in findings.values() if not finding.ok] == []
    assert findings["thinking cap"].detail.startswith("16 reasoning tokens")


@pytest.mark.parametrize(
    ("name", "ok", "advice", "server"),
    [
        ("thinking", None, "--reasoning-parser", {"thinking": "never"}),
        ("thinking", False, "--reasoning-parser qwen3", {"reasoning_field": None}),
        ("n", False, "concurrent requests", {"ignore_n": True}),
        ("usage of n", False, "decompose={'n': 1}", {"usage": "one"}),
        ("logprobs", False, "length and result alone", {"logprobs": False}),
        ("usage", False, "does not count tokens", {"usage": "none"}),
        ("context", False, "--max-model-len 40960", {"max_model_len": 8192}),
        ("prefix cache", None, "--enable-prompt-tokens-details", {}),
        ("seed", False, "look at the server's log", {"faults": [Fault(reset="before", first=5)]}),
    ],
)
def test_faults(name: str, ok: bool | None, advice: str, server: dict[str, Any]) -> None:
    finding = diagnose(**server)[name]
    assert finding.ok is ok, finding
    assert advice in finding.advice


def test_a_model_that_always_thinks_is_told_apart_by_its_reasoning() -> None:
    findings = diagnose(thinking="always")
    assert findings["seed"].ok, findings["seed"]
    assert findings["n"].ok, findings["n"]
    assert findings["structure"].ok is None


@pytest.mark.parametrize(
    ("style", "server"),
    [
        ("hybrid", {"thinking": "switch"}),
        ("prefill", {"thinking": "always"}),
        ("prompt", {"thinking": "never"}),
    ],
)
def test_the_style_that_fits(style: str, server: dict[str, Any]) -> None:
    finding = diagnose(**server)["style"]
    assert finding.ok
    assert finding.detail.startswith(f"{style}:")


def test_a_model_that_cannot_be_kept_from_thinking() -> None:
    stubborn = Fault(reasoning="So. " * 20, null_content=True)
    finding = diagnose(thinking="always", faults=[stubborn])["style"]
    assert not finding.ok
    assert finding.detail.startswith("pair:")


def test_the_older_reasoning_field() -> None:
    findings = diagnose(reasoning_field="reasoning_content")
    assert findings["reasoning field"].detail == "message.reasoning_content"


def test_a_model_that_is_not_served() -> None:
    findings = diagnose(model="other")
    assert findings["model"].needed
    assert not findings["model"].ok
    assert "n" not in findings


def test_a_server_that_wants_a_key() -> None:
    assert "--api-key" in diagnose(api_key="secret")["reachable"].advice


def test_every_probe_survives_replies_that_are_none() -> None:
    for fault in (
        Fault(cut_json=True),
        Fault(content_type="text/html"),
        Fault(empty_choices=True),
        Fault(null_content=True),
        Fault(status=500),
    ):
        findings = diagnose(faults=[fault])
        assert "seed" in findings, fault


UGLY = [
    "null",
    '{"prompt_tokens": null}',
    '{"prompt_tokens": "12", "completion_tokens": "8"}',
    "[1, 2]",
    '{"prompt_tokens": [3], "prompt_tokens_details": [], "completion_tokens_details": 0}',
    "7",
    '{"prompt_tokens": 1e400, "prompt_tokens_details": {"cached_tokens": "all"}}',
]


@pytest.mark.parametrize("usage", UGLY)
@pytest.mark.parametrize("content", ["null", '"x"', "5", '["a", 5]', '[{"type": "text"}]', "{}"])
def test_any_usage_and_content_is_survived(usage: str, content: str) -> None:
    body = f'{{"choices": [{{"message": {{"content": {content}}}}}], "usage": {usage}}}'
    assert "seed" in diagnose(faults=[Fault(body=body)])


@pytest.mark.parametrize(
    "fault",
    [
        Fault(content_type="text/html"),
        Fault(body='{"error": {"message": "overloaded", "code": 529}}'),
        Fault(body='{"choices": null}'),
        Fault(body='{"choices": [5]}'),
        Fault(body="[]"),
        Fault(cut_json=True),
        Fault(status=500),
    ],
)
def test_scale_cannot_work_where_no_reply_is_one(
    fault: Fault, capsys: pytest.CaptureFixture[str]
) -> None:
    with fake_vllm(faults=[fault]) as server:
        code, out, _ = run(capsys, "doctor", "--api-base", server.api_base, "--json")
    assert code == 1
    told = {each["name"]: each for each in json.loads(out)["findings"]}
    assert told["chat"]["needed"]
    assert told["chat"]["ok"] is False


def test_a_listing_may_be_ugly_too() -> None:
    for body in ('{"data": [{"id": "m", "meta": 5, "max_model_len": "long"}]}', "[]", "<html>"):
        findings = diagnose(model="m", faults=[Fault(path="/v1/models", body=body)])
        assert "reachable" in findings


@pytest.mark.parametrize(
    ("server", "thinking", "modes"),
    [
        ({"switch": "thinking", "thinks": False}, "by default it is off", "--modes template;"),
        ({"switch": "/no_think"}, "system message /no_think or /think", "--modes no-think;"),
        ({"switch": "reasoning_effort"}, "reasoning_effort none or high", "--modes effort-none;"),
        ({"switch": "levels", "closes": False}, "always", "--modes levels;"),
    ],
)
def test_it_finds_what_auto_finds(server: dict[str, Any], thinking: str, modes: str) -> None:
    with fake_vllm(model="mine", **server) as running:
        findings = {each.name: each for each in examine(running.api_base)}
    assert thinking in findings["thinking"].detail
    assert modes in findings["style"].detail
    assert findings["seed"].ok


def test_the_command_line_that_mends_it(capsys: pytest.CaptureFixture[str]) -> None:
    with fake_vllm(reasoning_field=None, max_model_len=8192) as server:
        _, out, err = run(capsys, "doctor", "--api-base", server.api_base, "--json")
    (line,) = json.loads(out)["command_lines"]
    assert line.startswith("vllm serve fake/Qwen3-World --")
    assert line in err
    for flag in ("--reasoning-parser qwen3", "--max-model-len 40960"):
        assert flag in line
    with fake_vllm(cached_tokens=True) as server:
        _, out, _ = run(capsys, "doctor", "--api-base", server.api_base, "--json")
    assert json.loads(out)["command_lines"] == []


def test_it_ends_in_time() -> None:
    began = time.monotonic()
    with fake_vllm(delay=1.0) as server:
        findings = {each.name: each for each in examine(server.api_base, seconds=4)}
    assert time.monotonic() - began < 8
    assert "time was used up" in findings["prefix"].detail


@pytest.mark.embedded
def test_llama_cpp_is_called_by_its_name(cache: Path, tmp_path: Path) -> None:
    server = start_server(write_gguf(tmp_path / "tiny.gguf"), context=4096)
    try:
        found = {
            each.name: each for each in examine(server.api_base, None, server.key, embedded=True)
        }
    finally:
        stop_server(server)
    assert found["engine"].detail == "llama.cpp"
    assert found["style"].detail.startswith("embedded: enable_thinking false or true (--modes")
    assert not any("vLLM" in each.detail + each.advice for each in found.values())
    assert found["structure"].detail.startswith("grammar")
