"""What a reader of failures looks for first: cut off by the token limit, or right but not read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from scale_dspy.evaluation.rollout import Rollout
from scale_dspy.grading.flags import hit_limit


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
    steps = rollout.steps
    spent = any(0 < caps.get(step.system, 0) <= step.tokens for step in steps)
    unread = rollout.unread and rollout.answer != rollout.gold
    return Flags(spent or hit_limit(rollout.replaced), unread)


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
