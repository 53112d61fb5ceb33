"""Numbered lists in a model's words: read and written."""

from __future__ import annotations

import re
from collections.abc import Sequence

MAX_SUBPROBLEMS = 12


def render_list(items: Sequence[str]) -> str:
    """Items as a numbered list, as `read_list` reads it."""
    return "\n".join(f"{number}. {item}" for number, item in enumerate(items, 1))


NUMBERED = re.compile(
    r"^[ \t]{0,3}(?:[*_#]{1,3}[ \t]*)?(?:(?:sub-?problem|step|task)[ \t]+)?"
    r"\(?(\d{1,3})[.):、](?!\d)(?:[*_]{1,2})?",
    re.IGNORECASE,
)
BULLET = re.compile(r"^[-*•][ \t]+")


def read_list(text: str) -> list[str]:
    r"""The items of a numbered list in a model's reply, or of a bulleted one if none is numbered.

    An item may run over several lines; LaTeX is left as it is. A number opens an item only where
    it continues the count, so a line of mathematics that begins with "3." does not. Repeated items
    count once. At most MAX_SUBPROBLEMS are kept. Text before the list and code fences are dropped.

    >>> read_list("Plan:\n1. Find $\\frac{a}{b}$.\n2) Find its square.")
    ['Find $\\frac{a}{b}$.', 'Find its square.']
    """
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("```")]
    items = _collect_numbered(lines) or _collect_bullets(lines)
    cleaned = [_tidy(item) for item in items]
    return list(dict.fromkeys(item for item in cleaned if item))[:MAX_SUBPROBLEMS]


def _collect_numbered(lines: list[str]) -> list[list[str]]:
    items: list[list[str]] = []
    for line in lines:
        match = NUMBERED.match(line)
        if match and int(match.group(1)) == len(items) + 1:
            items.append([line[match.end() :]])
        elif items:
            items[-1].append(line)
    return [_cut_at_gap(item) for item in items]


def _collect_bullets(lines: list[str]) -> list[list[str]]:
    items: list[list[str]] = []
    for line in lines:
        match = BULLET.match(line)
        if match:
            items.append([line[match.end() :]])
        elif items and line.strip():
            items[-1].append(line)
    return items


def _cut_at_gap(item: list[str]) -> list[str]:
    """Drop what follows a blank line: a remark after the list is not part of its last item."""
    for position, line in enumerate(item):
        if position and not line.strip():
            return item[:position]
    return item


def _tidy(item: list[str]) -> str:
    text = "\n".join(line.strip() for line in item).strip()
    bold = re.fullmatch(r"\*\*(.+?)\*\*", text)
    return bold.group(1).strip() if bold else text
