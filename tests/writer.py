"""A fake model that writes prompts: it fills whatever fields a DSPy adapter asks for."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

_CHAT = re.compile(r"\[\[ ## (\w+) ## \]\]")
_ASKED = re.compile(r"Respond with .*", re.DOTALL)


def write_prompts(text: str) -> Callable[[dict[str, Any]], str | None]:
    """For `Options.other`: every field that an optimizer's own Signature asks for is `text`."""

    def reply(body: dict[str, Any]) -> str | None:
        asked = _ASKED.search(str(body["messages"][-1]["content"]))
        if asked is None:
            return None  # a problem, not a request of an optimizer
        if "JSON object" in asked[0]:
            return json.dumps(dict.fromkeys(re.findall(r"`(\w+)`", asked[0]), text))
        fields = [name for name in _CHAT.findall(asked[0]) if name != "completed"]
        return "\n\n".join(f"[[ ## {name} ## ]]\n{text}" for name in fields)

    return reply
