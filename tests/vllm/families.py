"""Chat templates that switch thinking as each family of the table does, and a server for each.

One real vLLM serves them all: it is started with --trust-request-chat-template, and before it
stands a thin proxy for each family, which puts the family's template into every request and keeps
the bodies. vLLM itself renders the template and parses the reply.
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx

TRUST = "--trust-request-chat-template"
_MESSAGES = """
{%- for message in messages -%}
<|im_start|>{{ message.role }}
{{ message.content }}<|im_end|>
{% endfor -%}
{%- if add_generation_prompt -%}
<|im_start|>assistant
"""
_OPEN, _CLOSED = "{{ '<think>\\n' }}", "{{ '<think>\\n\\n</think>\\n\\n' }}"


def _switch(condition: str) -> str:
    """A template that closes the thinking block at once where `condition` holds."""
    return f"{_MESSAGES}{{% if {condition} -%}}{_CLOSED}{{%- else -%}}{_OPEN}{{%- endif -%}}{{%- endif -%}}".strip()  # noqa: E501


_SYSTEM = "messages[0].role == 'system' and '{}' in messages[0].content"
TEMPLATES: dict[str, str] = {
    "enable_thinking, on by itself": _switch("enable_thinking is defined and not enable_thinking"),
    "enable_thinking, off by itself": _switch("not enable_thinking"),
    "thinking, on by itself": _switch("thinking is defined and not thinking"),
    "thinking, off by itself": _switch("not thinking"),
    "effort": _switch("reasoning_effort == 'none'"),
    "no_think": _switch(_SYSTEM.format("/no_think")),
    "detailed thinking": _switch("not (" + _SYSTEM.format("detailed thinking on") + ")"),
    "always": _switch("false"),
    "never": f"{_MESSAGES}{{%- endif -%}}".strip(),
}


@dataclass
class Family:
    """A family's server.

    Attributes:
        bodies: of the chat requests, as they came, without the template.
    """

    api_base: str
    bodies: list[dict[str, Any]] = field(default_factory=list)


@contextlib.contextmanager
def serve_family(api_base: str, template: str) -> Iterator[Family]:
    """A server of the family that `template` stands for, before the real one at `api_base`."""
    family = Family("")
    server = ThreadingHTTPServer(("127.0.0.1", 0), _make_handler(family, api_base, template))
    family.api_base = f"http://127.0.0.1:{server.server_port}/v1"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield family
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)


def _make_handler(family: Family, api_base: str, template: str) -> type[BaseHTTPRequestHandler]:
    real = api_base.removesuffix("/v1")

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._reply(httpx.get(f"{real}{self.path}", timeout=60))

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            family.bodies.append(body)
            sent = {**body, "chat_template": template}
            self._reply(httpx.post(f"{real}{self.path}", json=sent, timeout=300))

        def _reply(self, reply: httpx.Response) -> None:
            self.send_response(reply.status_code)
            self.send_header("Content-Type", reply.headers.get("Content-Type", "text/plain"))
            self.send_header("Content-Length", str(len(reply.content)))
            self.end_headers()
            self.wfile.write(reply.content)

        def log_message(self, format: str, *args: object) -> None:
            pass

    return Handler
