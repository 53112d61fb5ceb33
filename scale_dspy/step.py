"""Step: the record of one solved sub-problem; and steps as the context of the next one (Eq. 6)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from scale_dspy.utils.records import Between, Share


@dataclass(frozen=True)
class Step:
    r"""One solved sub-problem.

    Attributes:
        difficulty: its score in [0, 1]; None where nothing was rated.
        system: 1, solved with thinking off, or 2, with thinking on.
        reasoning: what the model thought before its solution; empty for System 1.
        tokens: response tokens spent on solving it, repeats included.

    >>> Step("Find a.", 0.3, 1, r"a = \boxed{2}", "", 9).system
    1
    """

    subproblem: str
    difficulty: Share | None
    system: Annotated[int, Between(1, 2)]
    solution: str
    reasoning: str
    tokens: int = 0


def show_step(step: Step) -> dict[str, Any]:
    """A step as replies and --json show it: all but its reasoning."""
    keys = ("subproblem", "difficulty", "system", "solution", "tokens")
    return {key: getattr(step, key) for key in keys}


def render_context(steps: Sequence[Step]) -> str:
    """The context C_i after these steps. It only ever grows at its end: a cached prefix stays."""
    return "\n\n".join(
        f"{number}. {step.subproblem}\n{step.solution}" for number, step in enumerate(steps, 1)
    )
