"""What a reader of failures looks for first: cut off by the token limit, or right but not read."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from scale_dspy.evaluation.rollout import Rollout

TAIL = 1200  # characters at the end of the last solution in which its value is looked for


class Flags(NamedTuple):
    """What there is to say of a rollout beside right and wrong.

    Attributes:
        cut_off: whether a solution reached the token limit.
        unread: whether it is wrong though the end of its last solution holds the right value.
    """

    cut_off: bool
    unread: bool


def find_flags(rollout: Rollout, caps: Mapping[int, int]) -> Flags:
    """The flags of a whole rollout.

    Args:
        rollout: with its texts.
        caps: the most response tokens of one solution, by system; see `read_caps`.
    """
    return Flags(hits_limit(rollout, caps), holds_value(rollout))


def hits_limit(rollout: Rollout, caps: Mapping[int, int]) -> bool:
    """Whether any solution of it was cut off: it says so, or spent all tokens that it was given."""
    if any("cut off" in each for each in rollout.replaced):
        return True
    return any(0 < caps.get(step.system, 0) <= step.tokens for step in rollout.steps)


def holds_value(rollout: Rollout) -> bool:
    """Whether a wrong rollout ends in a text in which the gold answer stands by itself."""
    if rollout.right or rollout.error is not None or not rollout.steps:
        return False
    gold = _squeeze(rollout.gold)
    end = _squeeze(rollout.steps[-1].solution[-TAIL:])
    if not gold or gold == _squeeze(rollout.answer or ""):
        return False
    alone = rf"(?<![\w.,^_]){re.escape(gold)}(?![\w^]|[.,]\d)"
    return re.search(alone, end) is not None


def read_caps(description: Mapping[str, Any]) -> dict[int, int]:
    """The max_tokens of either system's solutions, from a run's description; {} where unknown."""
    requests = description.get("requests")
    caps: dict[int, int] = {}
    for name, request in (requests if isinstance(requests, dict) else {}).items():
        most = request.get("max_tokens") if isinstance(request, dict) else None
        if isinstance(most, int) and not isinstance(most, bool):
            for system in (1, 2):
                if name == f"solve.system_{system}":
                    caps[system] = most
    return caps


def _squeeze(text: str) -> str:
    """A text without what only dresses a value: dollars, blanks, `\\left`, thousands' commas."""
    bare = re.sub(r"\\(?:left|right|displaystyle|[,;!: ])|[$\s]+", " ", text)
    bare = re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", bare).replace(r"\dfrac", r"\frac")
    return " ".join(bare.split())
