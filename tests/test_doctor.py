"""The doctor finds each fault that a server can have, and says what to change."""

from __future__ import annotations

from typing import Any

import pytest

from scale_dspy.lm.doctor import Finding, examine
from tests.fake_vllm import Fault, fake_vllm


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
