"""Values of a compile's record as text; any of them may be missing or of another kind.

No address, key or path gets through.
"""

from __future__ import annotations

import math
import re
from typing import Any

UNKNOWN = "–"
_SPECIAL = re.compile(r"[\\`*\[\]<>|~$&#]|(?<!\w)_|_(?!\w)")
_PLACES = re.compile(  # addresses, hosts with a port, keys, paths
    r"""[A-Za-z][A-Za-z0-9+.-]*://\S+
    |\b(?:localhost|[\w-]+(?:\.[\w-]+)+):\d{2,5}\b(?:/\S*)?
    |\b(?:sk|hf)[-_][\w-]{8,}|\bBearer[ ]\S+
    |(?:(?<![\w.:/~-])~?/(?:[^\s/]+/)+|\b[A-Za-z]:\\(?:[^\s\\]+\\)*)(?P<file>[^\s/\\]*)""",
    re.VERBOSE,
)


def name_model(record: Any) -> str | None:
    """The model's name as served, or None."""
    model = dig(record, "model")
    if not isinstance(model, str) or not model:
        return None
    return _hide_places(re.sub(r"^(?:hosted_vllm|litellm_proxy)/", "", model))


def _hide_places(text: str) -> str:
    """The text without addresses and keys, and with files instead of paths."""
    return _PLACES.sub(lambda match: match["file"] or "[hidden]", text)


def dig(record: Any, *path: str) -> Any:
    for name in path:
        record = record.get(name) if isinstance(record, dict) else None
    return record


def escape(value: Any) -> str:
    """Any value as Markdown that shows it on one line, without addresses, keys and paths."""
    line = re.sub(r"\s+", " ", _hide_places(str(value))).strip()
    return _SPECIAL.sub(r"\\\g<0>", line)


def show_text(value: Any) -> str:
    return escape(value) if isinstance(value, str) and value.strip() else UNKNOWN


def show_number(value: Any, how: str) -> str:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return UNKNOWN
    return format(value, how)


def show_count(record: Any, name: str) -> str:
    number = show_number(dig(record, name), ",.0f")
    return number if number == UNKNOWN else f"{number} {name.replace('_', ' ')}"


def join_facts(facts: list[str]) -> str:
    return ", ".join(fact for fact in facts if fact != UNKNOWN) or UNKNOWN


def show_percent(record: Any, name: str) -> str:
    return _with_interval(record, name, ".1%")


def show_tokens(record: Any, name: str) -> str:
    return _with_interval(record, name, ",.0f")


def _with_interval(record: Any, name: str, how: str) -> str:
    value, interval = show_number(dig(record, name), how), dig(record, f"{name}_interval")
    if not isinstance(interval, (list, tuple)) or len(interval) != 2:
        return value
    low, high = (show_number(end, how) for end in interval)
    return value if UNKNOWN in (low, high) else f"{value} ({low} to {high})"
