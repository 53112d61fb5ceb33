"""Plays one fault against `serve`: its model server fails, and then it is sound again."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from tests.faults.lives import Ended, Lives
from tests.faults.table import PROBLEMS

PATIENCE = 300.0  # seconds for a problem, and for the start


@dataclass(frozen=True)
class Asked:
    """What a client of `serve` saw.

    Attributes:
        status: of the reply; 0 where there was none.
        content: of the message, for status 200.
        wrong: in words, everything that must not be.
    """

    status: int
    content: str | None
    wrong: tuple[str, ...]

    def name(self, reference: str | None) -> str:
        """What came of it, as in `Outcome.met`."""
        if self.status == 0:
            return "hangs"
        if self.status != 200:
            return "error"
        return "right" if self.content == reference else "other"


def read_url(folder: Path, name: str) -> str | None:
    """Where a `serve` that was just started answers; None where it ended before it did."""
    told, deadline = folder / name / "out", time.monotonic() + PATIENCE
    while time.monotonic() < deadline and not (folder / name / "ended.json").exists():
        if told.exists() and told.read_text().endswith("\n"):
            return str(json.loads(told.read_text())["url"])
        time.sleep(0.05)
    return None


def ask(url: str) -> Asked:
    """Ask for one problem, then for the models: an answer or an error in OpenAI's words."""
    wrong = []
    messages = [{"role": "user", "content": PROBLEMS[0].problem}]
    body = {"model": "scale", "messages": messages}
    try:
        reply = httpx.post(f"{url}/chat/completions", json=body, timeout=PATIENCE)
    except httpx.HTTPError as error:
        return Asked(0, None, (f"no reply: {type(error).__name__}",))
    content = None
    try:
        if reply.status_code == 200:
            content = str(reply.json()["choices"][0]["message"]["content"])
        else:
            told = reply.json()["error"]
            assert told["message"]
            assert told["type"]
            wrong += [] if 400 <= reply.status_code < 600 else [f"status {reply.status_code}"]
            wrong += ["a traceback in a reply"] if "Traceback" in reply.text else []
    except (ValueError, KeyError, TypeError, AssertionError):
        wrong.append(f"{reply.status_code} with no body of OpenAI's kind: {reply.text[:80]!r}")
    try:
        models = httpx.get(f"{url}/models", timeout=PATIENCE).json()["data"]
        wrong += [] if "scale" in [each["id"] for each in models] else ["it lists no model"]
    except (httpx.HTTPError, ValueError, KeyError) as error:
        wrong.append(f"it does not list its models: {type(error).__name__}")
    return Asked(reply.status_code, content, tuple(wrong))


def end(lives: Lives, folder: Path, name: str) -> Ended:
    """End it as a service manager does."""
    lives.end(folder, name)
    return lives.wait(folder, name)


def judge(asked: Asked, again: Asked, ended: Ended, reference: Any) -> list[str]:
    """Everything that was wrong with a `serve`, beside its first outcome."""
    wrong = [*asked.wrong, *(f"then {each}" for each in again.wrong)]
    if again.name(reference) != "right":
        wrong.append(f"with its server sound again it gives {again.name(reference)}")
    if ended.code != 0:
        wrong.append(f"SIGTERM ends it with {ended.code}")
    return wrong
