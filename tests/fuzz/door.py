"""Fuzz the door of `serve`: bodies, content types, headers, names and paths, over HTTP.

    python -m tests.fuzz.door [--count 100000] [--seed 0] [--at-once 16] [--seconds 3600]

LiteLLM's real proxy is behind the door, and between them, on LiteLLM's side, stands a check: what
comes through is an object of the known shape and nothing else. Beside it another provider waits,
for which the owner's keys are there, and must never be asked. /v1/models is asked all the while.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
import string
import sys
import time
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlsplit

from tests.bench.memory import read_memory
from tests.canary import run_canary
from tests.command import backend
from tests.fake_vllm import spawn_fake_vllm
from tests.test_serve import start_serve

QUESTION = {"role": "user", "content": "What is 2 + 3?"}
KINDS = (
    *["application/json"] * 20,
    "application/json; charset=utf-8",
    "Application/JSON",
    "application/x-www-form-urlencoded",
    "multipart/form-data; boundary=b",
    "text/plain",
    "application/json; charset=utf-16",
    "application/json, text/plain",
    "",
)
NAMES = ("scale", "scale@tau=0.5", "scale@tokens=5", "gpt-4o", "openai/gpt-4o", "*", "scale,scale")
FIELDS = """messages stream stream_options seed n max_tokens max_completion_tokens budget method
    temperature top_p top_k logit_bias logprobs top_logprobs stop user metadata store tools
    tool_choice functions function_call response_format reasoning_effort verbosity modalities
    chat_template_kwargs api_base api_key custom_llm_provider fallbacks extra_body mock_response
    litellm_metadata num_retries timeout x""".split()
HEADERS = (
    "x-litellm-num-retries: 5",
    "x-litellm-timeout: 0.001",
    "x-litellm-api-key: x",
    "Origin: http://127.0.0.1:1",
    "Origin: null",
    "Content-Encoding: gzip",
    "X-Forwarded-Host: evil",
    "Authorization: Bearer x",
    "Expect: 100-continue",
    "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c",
    "Sec-Fetch-Site: cross-site",
    "Content-Type: text/plain",
    "Cookie: token=x",
    "x: " + "y" * 9000,
)
HOSTS = (*["127.0.0.1:4000"] * 12, "localhost", "[::1]:1", "evil.example", "127.0.0.1.evil", "a b")
QUERIES = (*[""] * 8, "?api_base=http://127.0.0.1:1", "?model=openai/gpt-4o", "?" + "a=b&" * 500)
KNOWN = {"model", "messages", "stream", "stream_options", "seed", "budget", "method"}
NAME = re.compile(r"scale(@(tau|tokens)=[0-9.eE+-]{1,290})?")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--at-once", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=3600.0, help="no request begins later")
    given = parser.parse_args()
    with (
        TemporaryDirectory() as folder,
        run_canary() as (environment, canary),
        spawn_fake_vllm(keep_bodies=False) as fake,
        start_serve(
            *backend(fake),
            entry=("-m", "tests.fuzz.door_child", f"{folder}/seen"),
            **environment,
        ) as (said, process),
    ):
        figures = asyncio.run(fuzz(said["url"], process.pid, given))
        process.terminate()
        process.wait(30)
        seen = json.loads(Path(folder, "seen").read_text())
    wrong = show(figures, seen, canary)
    sys.exit(bool(wrong))


async def fuzz(url: str, pid: int, given: argparse.Namespace) -> dict[str, Any]:
    """All requests, the models asked meanwhile, and the memory of `serve` along the way."""
    chance, statuses, wrong = random.Random(given.seed), Counter[int](), list[str]()
    ends = time.monotonic() + given.seconds
    left, memory, waits, done = given.count, [read_memory(pid)[0]], [0.0], asyncio.Event()

    async def work() -> None:
        nonlocal left
        while left > 0 and time.monotonic() < ends:
            left -= 1
            request = make_request(chance)
            status, complaint = await send(url, request)
            statuses[status] += 1
            if complaint:
                wrong.append(f"{complaint}: {request[:300]!r}")
            if left % max(1, given.count // 100) == 0:
                memory.append(read_memory(pid)[0])
                print(f"{left:,} left, {len(wrong)} wrong", file=sys.stderr, flush=True)

    async def watch() -> None:
        line = b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        while not done.is_set():
            began = time.monotonic()
            status, _ = await send(url, line)
            waits.append(time.monotonic() - began)
            if status != 200:
                wrong.append(f"the models are answered with {status}")
            await asyncio.sleep(0.1)

    watching, began = asyncio.create_task(watch()), time.monotonic()
    await asyncio.gather(*(work() for _ in range(given.at_once)))
    done.set()
    await watching
    seconds = time.monotonic() - began
    return {
        "seconds": seconds,
        "statuses": statuses,
        "wrong": wrong,
        "memory": memory,
        "waits": waits,
    }


async def send(url: str, request: bytes) -> tuple[int, str]:
    """(status, what is wrong with the reply); 0 where the server closed without one."""
    place = urlsplit(url)
    reader, writer = await asyncio.open_connection(place.hostname, place.port, limit=1 << 22)
    try:
        writer.write(request)
        reply = await asyncio.wait_for(reader.read(-1), 60)
    except ConnectionError:
        return 0, "the connection was cut"
    except asyncio.TimeoutError:
        return 0, "no reply within a minute"
    finally:
        writer.close()
    head, _, body = reply.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 "):
        return 0, f"no HTTP: {reply[:80]!r}"
    if head.startswith(b"HTTP/1.1 100"):
        head, _, body = body.partition(b"\r\n\r\n")
    status = int(head.split()[1])
    if b"access-control" in head.lower() or b"x-litellm" in head.lower():
        return status, "headers that let pages in, or tell of LiteLLM"
    if status < 400:
        return status, ""
    try:
        error = json.loads(body)["error"]
        fits = set(error) == {"message", "type", "param", "code"} and error["message"]
    except (ValueError, KeyError, TypeError):
        fits = False
    if status >= 500:
        return status, f"status {status}"
    return status, "" if fits else f"no error of OpenAI's form: {body[:80]!r}"


def make_request(chance: random.Random) -> bytes:
    """One request as bytes; about one in twenty is a good one."""
    content = make_content(chance)
    kind = chance.choice(KINDS)
    lines = [f"Content-Type: {kind}"] if kind else []
    lines += chance.sample(HEADERS, chance.choice((0, 0, 0, 1, 2)))
    path = chance.choice((*["/v1/chat/completions"] * 30, "/chat/completions/", "/v1/completions"))
    head = "\r\n".join(
        [
            f"POST {path}{chance.choice(QUERIES)} HTTP/1.1",
            f"Host: {chance.choice(HOSTS)}",
            f"Content-Length: {len(content)}",
            *lines,
        ]
    )
    if "Connection:" not in head:
        head += "\r\nConnection: close"
    return head.replace("Upgrade, HTTP2", "close, Upgrade, HTTP2").encode() + b"\r\n\r\n" + content


def make_content(chance: random.Random) -> bytes:
    way = chance.random()
    if way < 0.05:
        return chance.randbytes(chance.choice((0, 1, 50, 5000)))
    if way < 0.1:
        return json.dumps(make_value(chance, 4)).encode()
    if way < 0.13:
        return b"model=openai/gpt-4o&custom_llm_provider=openai&api_key=x&messages=[]"
    if way < 0.15:
        return chance.choice((b"[", b'{"a":', b'{"messages":[')) * chance.choice((100, 5000))
    body: dict[str, Any] = {"model": make_name(chance), "messages": [QUESTION], "method": "cot"}
    for name in chance.sample(FIELDS, chance.choice((0, 0, 1, 1, 2, 5))):
        body[name] = make_value(chance, 3)
    if chance.random() < 0.1:
        del body[chance.choice(list(body))]
    if chance.random() < 0.2:
        body["messages"] = [{"role": "user", "content": make_value(chance, 3)}]
    content = json.dumps(body, ensure_ascii=chance.random() < 0.9).encode("utf-8", "surrogatepass")
    if chance.random() < 0.05:
        place = chance.randrange(len(content))
        content = content[:place] + chance.randbytes(1) + content[place + 1 :]
    return content


def make_name(chance: random.Random) -> Any:
    way = chance.random()
    if way < 0.5:
        return chance.choice(NAMES[:2])
    if way < 0.7:
        return chance.choice(NAMES)
    if way < 0.8:
        return "scale@tau=" + make_text(chance, 8)
    if way < 0.82:
        return chance.choice((",", "scale,", "/", "@", "a", "@tau=")) * chance.choice(
            (9, 999, 30_000)
        )
    if way < 0.9:
        return f"scale@tau={chance.random()}"
    return make_text(chance, 20)


def make_value(chance: random.Random, depth: int) -> Any:
    way = chance.random()
    if depth and way < 0.15:
        return [make_value(chance, depth - 1) for _ in range(chance.randrange(4))]
    if depth and way < 0.3:
        return {make_text(chance, 6): make_value(chance, depth - 1) for _ in range(3)}
    return chance.choice(
        (
            None,
            True,
            False,
            chance.randrange(-100, 5000),
            chance.choice((2**63, 2**64, -(2**70), 10**400)),
            chance.random() * 10 ** chance.randrange(-5, 300),
            float("nan"),
            make_text(chance, 30),
            "http://127.0.0.1:1/v1",
            "openai/gpt-4o",
        )
    )


def make_text(chance: random.Random, most: int) -> str:
    pieces = (*string.printable, "٣", "ѕ", "\ud800", "\x00", "\r\n", "é", "𝟘", ",", "=", "@")
    return "".join(chance.choice(pieces) for _ in range(chance.randrange(most + 1)))


def check_forwarded(scope: Any, content: bytes) -> str:
    """What is wrong with a request that reached LiteLLM; empty where nothing is."""
    headers = dict(scope["headers"])
    names = {b"host", b"content-type", b"content-length", b"authorization"}
    body = json.loads(content)
    (message,) = body["messages"]
    number = (int, type(None))
    checks = {
        "its line": (scope["method"], scope["path"]) == ("POST", "/v1/chat/completions"),
        "a query": not scope["query_string"],
        "its headers": set(headers) == names and len(headers) == len(scope["headers"]),
        "its content type": headers.get(b"content-type") == b"application/json",
        "its length": headers.get(b"content-length") == str(len(content)).encode(),
        "its spelling": json.dumps(body).encode() == content,
        "its fields": set(body) <= KNOWN,
        "its model": bool(NAME.fullmatch(body["model"])),
        "its message": set(message) == {"role", "content"} and message["role"] == "user",
        "its question": isinstance(message["content"], str)
        and 0 < len(message["content"]) <= 10**5,
        "its stream": body.get("stream", True) is True,
        "its options": body.get("stream_options", {"include_usage": True})
        == {"include_usage": True},
        "its seed": isinstance(body.get("seed"), number) and abs(body.get("seed") or 0) <= 2**63,
        "its budget": isinstance(body.get("budget"), number)
        and 64 <= (body.get("budget") or 64) <= 10**12,
        "its method": body.get("method", "cot") in ("scale", "cot"),
    }
    return ", ".join(name for name, holds in checks.items() if not holds)


def show(figures: dict[str, Any], seen: dict[str, Any], canary: list[str]) -> int:
    """Print the figures; how many things are wrong."""
    statuses, waits, memory = figures["statuses"], sorted(figures["waits"]), figures["memory"]
    print(f"{sum(statuses.values()):,} requests in {figures['seconds']:.0f} s")
    print("statuses:", ", ".join(f"{status}: {n:,}" for status, n in sorted(statuses.items())))
    print(f"LiteLLM received {seen['count']:,}, {len(seen['wrong'])} of them not a checked object")
    print(f"/v1/models: {len(waits) - 1} times, median {waits[len(waits) // 2]:.3f} s, ", end="")
    print(f"slowest {waits[-1]:.2f} s")
    marks = [memory[int(share * (len(memory) - 1))] for share in (0, 0.25, 0.5, 0.75, 1)]
    print("MiB at 0, 25, 50, 75, 100 %:", *(f"{mark:.0f}" for mark in marks))
    print(f"the other provider was called {len(canary)} times")
    wrong = [*figures["wrong"], *seen["wrong"], *canary]
    wrong += ["the models came late"] if waits[-1] > 2 else []
    for each in wrong[:10]:
        print("WRONG", each)
    print(f"{len(wrong)} wrong")
    return len(wrong)


if __name__ == "__main__":
    main()
