"""The smallest server that can take part in a SCALE run: fixed replies after a set latency.

It exists so that a benchmark measures the client: a request costs it about 0.1 ms. `serve_replies`
runs it in a process of its own. It listens, tokenises and chats; GET /stats tells its work.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import orjson

MODEL = "fixed"
PARTS = 7  # sub-problems of every problem


@dataclass(frozen=True)
class Replies:
    """A running server."""

    url: str
    model: str = MODEL

    @property
    def api_base(self) -> str:
        return f"{self.url}/v1"

    def take_stats(self) -> dict[str, Any]:
        """{"requests": by path, "cpu": seconds of the server's process, "busy": [[at, chats at
        work], ...]}, since the last such question; `at` is time.monotonic()."""
        return dict(httpx.get(f"{self.url}/stats").json())


@contextlib.contextmanager
def serve_replies(latency: float, spread: float = 0.0) -> Iterator[Replies]:
    """Serve in a process of its own, which ends with the block.

    Args:
        latency: seconds of a chat reply, whatever its number of choices.
        spread: in [0, 1): each reply takes from 1 - spread to 1 + spread times as long, by a seeded
            draw, as a model's replies differ in length. At 0 they come in lockstep.
    """
    command = [sys.executable, "-m", "tests.bench.reply_server", str(latency), str(spread)]
    root = Path(__file__).resolve().parents[2]
    process = subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout
        yield Replies(process.stdout.readline().strip())
    finally:
        process.kill()
        process.wait()
        if process.stdout:
            process.stdout.close()


def say(text: str) -> str:
    """The reply to a prompt, by what its last line asks for."""
    asked = text.rstrip().rpartition("\n")[2]
    for words, reply in _SAID.items():
        if words in asked:
            return reply
    return "Both sides are halved. Hence $x = \\boxed{7}$."


def _find_endings() -> dict[str, str]:
    from scale_dspy.stages.assess import RateDifficulty
    from scale_dspy.stages.decompose import ProposeSubproblems, SelectCandidate
    from tests.fake.prompts import ending

    items = "\n".join(f"{number}. Find $x_{number}$ from the ones before." for number in PARTS_LIST)
    return {
        ending(ProposeSubproblems): items,
        ending(SelectCandidate): "1",
        ending(RateDifficulty): "0.3",
        "[[ ## completed ## ]]": "[[ ## answer ## ]]\n7\n\n[[ ## completed ## ]]",  # DSPy's own
    }


PARTS_LIST = range(1, PARTS + 1)
_SAID: dict[str, str] = {}


class _Connection(asyncio.Protocol):
    """One connection; its requests come one after another."""

    requests: dict[str, int] = {}  # noqa: RUF012 - one server a process
    busy: list[tuple[float, int]] = []  # noqa: RUF012
    at_work = 0
    latency = 0.0
    spread = 0.0
    chance = random.Random(0)
    cpu = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport
        self.data = b""

    def data_received(self, data: bytes) -> None:
        self.data += data
        head, separator, body = self.data.partition(b"\r\n\r\n")
        if not separator:
            return
        first, *lines = head.split(b"\r\n")
        headers = dict(line.lower().split(b": ", 1) for line in lines)
        if len(body) < int(headers.get(b"content-length", 0)):
            return
        self.data = b""
        path = first.split(b" ")[1].decode()
        if path == "/stats":
            self.send(self.take_stats())
            return
        self.requests[path] = self.requests.get(path, 0) + 1
        if path.endswith("/chat/completions"):
            reply = chat(orjson.loads(body))
            self.count(1)
            wait = self.latency * (1 + self.spread * self.chance.uniform(-1, 1))
            asyncio.get_running_loop().call_later(wait, self.finish, reply)
        elif path.endswith("/tokenize"):
            self.send({"count": len(body) // 4, "max_model_len": 40960, "tokens": []})
        else:
            self.send({"object": "list", "data": [{"id": MODEL, "max_model_len": 40960}]})

    def finish(self, reply: Any) -> None:
        self.count(-1)
        self.send(reply)

    def count(self, change: int) -> None:
        kind = type(self)
        kind.at_work += change
        self.busy.append((time.monotonic(), kind.at_work))

    def send(self, value: Any) -> None:
        body = orjson.dumps(value)
        head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
        self.transport.write(head.encode() + b"\r\n\r\n" + body)

    def take_stats(self) -> dict[str, Any]:
        kind = type(self)
        now = time.process_time()
        stats = {"requests": dict(self.requests), "busy": list(self.busy), "cpu": now - kind.cpu}
        kind.cpu = now
        self.requests.clear()
        self.busy.clear()
        return stats


def chat(request: dict[str, Any]) -> dict[str, Any]:
    """A chat reply as vLLM writes it, with the choices asked for."""
    content = request["messages"][-1]["content"]
    text, n = say(content), request.get("n") or 1
    choice = {"logprobs": None, "finish_reason": "stop", "stop_reason": None}
    message = {"role": "assistant", "tool_calls": [], "reasoning": None}
    prompt, response = len(content) // 4, n * (len(text) // 4 + 1)
    return {
        "id": "chatcmpl-fixed",
        "object": "chat.completion",
        "created": 0,
        "model": request["model"],
        "choices": [
            # Two choices differ, or there would be nothing to select.
            {
                "index": index,
                "message": {**message, "content": text + (f"\n(Plan {index}.)" if index else "")},
                **choice,
            }
            for index in range(n)
        ],
        "usage": {
            "prompt_tokens": prompt,
            "completion_tokens": response,
            "total_tokens": prompt + response,
        },
    }


async def _serve(latency: float, spread: float) -> None:
    _SAID.update(_find_endings())
    _Connection.latency, _Connection.spread = latency, spread
    server = await asyncio.get_running_loop().create_server(
        _Connection, "127.0.0.1", 0, backlog=1024
    )
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_serve(float(sys.argv[1]), float(sys.argv[2])))
