"""A model provider that must never be called, and the owner's keys for it in the environment."""

from __future__ import annotations

import contextlib
import http.server
import json
import threading
from collections.abc import Iterator

REPLY = json.dumps(
    {
        "id": "x",
        "object": "chat.completion",
        "created": 0,
        "model": "gpt-4o",
        "choices": [
            {
                "index": 0,
                "finish_reason": "stop",
                "message": {"role": "assistant", "content": "canary"},
            }
        ],
        "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
    }
).encode()
NAMES = ("OPENAI", "ANTHROPIC", "DEEPSEEK", "GROQ", "MISTRAL", "OPENROUTER", "LITELLM_PROXY")


@contextlib.contextmanager
def run_canary() -> Iterator[tuple[dict[str, str], list[str]]]:
    """(environment with its address and the owner's keys, the requests that it got)."""
    got: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def answer(self) -> None:
            got.append(f"{self.command} {self.path} {self.headers.get('Authorization')}")
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(REPLY)))
            self.end_headers()
            self.wfile.write(REPLY)

        do_GET = do_POST = do_PUT = do_OPTIONS = answer  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    environment = {}
    for name in NAMES:
        environment[f"{name}_API_KEY"] = "the-owners-key"
        environment[f"{name}_API_BASE"] = environment[f"{name}_BASE_URL"] = f"{address}/v1"
    try:
        yield environment, got
    finally:
        server.shutdown()
        server.server_close()
