"""Step: the record of one solved sub-problem; and steps as the context of the next one (Eq. 6)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any

from annotated_types import Interval


@dataclass(frozen=True)
class Vote:
    """One pass over a sub-problem among several.

    Attributes:
        result: what it found, as text; None where nothing can be read.
        tokens: its response tokens. Servers count those of a request; where they do not give a
            log-probability for each token, the request's are shared out by the length of texts.
        system: 1, a draft that a difficulty was measured on, or 2.
        wave: passes that were asked for together have the same number, from 0.
        doubt: how likely it is to be wrong, where votes are weighed by that.
        features: what that was estimated from, see `estimate.FEATURES`.
    """

    result: str | None
    tokens: int
    system: Annotated[int, Interval(ge=1, le=2)]
    wave: int
    doubt: Annotated[float, Interval(ge=0, le=1)] | None = None
    features: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Step:
    r"""One solved sub-problem.

    Attributes:
        difficulty: its score in [0, 1]; None where nothing was rated.
        system: 1, solved with thinking off, or 2, with thinking on.
        reasoning: what the model thought before its solution; empty for System 1.
        tokens: response tokens spent on solving it, repeats, drafts and all passes included.
        votes: its passes, where there were several, or a draft and a pass, or where votes are
            weighed; the drafts first.
        draft: what was seen of the draft whose difficulty was measured, by feature (see
            `estimate.FEATURES`), and its `result`; empty where there was none.

    >>> Step("Find a.", 0.3, 1, r"a = \boxed{2}", "", 9).system
    1
    """

    subproblem: str
    difficulty: Annotated[float, Interval(ge=0, le=1)] | None
    system: Annotated[int, Interval(ge=1, le=2)]
    solution: str
    reasoning: str
    tokens: int = 0
    votes: tuple[Vote, ...] = ()
    draft: dict[str, Any] = field(default_factory=dict)

    def toDict(self) -> dict[str, Any]:  # noqa: N802 - what dspy.Prediction.toDict looks for
        """The step as plain data."""
        return {**asdict(self), "votes": [asdict(vote) for vote in self.votes]}


def show_step(step: Step) -> dict[str, Any]:
    """A step as replies and --json show it: all but its reasoning."""
    keys = ("subproblem", "difficulty", "system", "solution", "tokens")
    return {key: getattr(step, key) for key in keys}


def render_context(steps: Sequence[Step]) -> str:
    """The context C_i after these steps. It only ever grows at its end: a cached prefix stays."""
    return "\n\n".join(
        f"{number}. {step.subproblem}\n{step.solution}" for number, step in enumerate(steps, 1)
    )
