"""`serve` with a check between the door and LiteLLM's proxy, on the proxy's side; for door.py."""

from __future__ import annotations

import atexit
import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

# Before the proxy is imported, as `serve` does it.
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "true"

from scale_dspy.cli import main as cli
from scale_dspy.serve import gateway
from tests.fuzz.door import check_forwarded

seen: dict[str, Any] = {"count": 0, "wrong": []}


def check_all(app: Any) -> Any:
    """`app`, and a look at all that it gets."""

    async def checked(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return await app(scope, receive, send)
        messages = [await receive()]
        while messages[-1].get("more_body"):
            messages.append(await receive())
        content = b"".join(each.get("body", b"") for each in messages)
        seen["count"] += 1
        try:
            complaint = check_forwarded(scope, content)
        except Exception as error:
            complaint = repr(error)
        if complaint:
            seen["wrong"].append(f"{complaint}: {content[:300]!r}")

        async def receive_again() -> Any:
            return messages.pop(0) if messages else await receive()

        return await app(scope, receive_again, send)

    return checked


if __name__ == "__main__":
    path = Path(sys.argv.pop(1))
    atexit.register(lambda: path.write_text(json.dumps(seen)))
    make_door = gateway.make_door
    gateway.make_door = lambda inside, ready: make_door(
        replace(inside, app=check_all(inside.app)), ready
    )
    sys.exit(cli.main(sys.argv[1:]))
