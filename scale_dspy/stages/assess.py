"""Stage 2: rate how difficult a sub-problem is, in [0, 1] (Eq. 3)."""

from __future__ import annotations

import re

import dspy

from scale_dspy.lm.modes import Modes
from scale_dspy.stages.ask import ask_until_read, make_predictor
from scale_dspy.stages.stage import Stage

UNREADABLE = 1.0  # the difficulty where no score can be read: it leads to System 2


class RateDifficulty(dspy.Signature):
    """Rate how difficult the sub-problem is, taking what is already known as given.

    Weigh four things: how much must be computed, how advanced the mathematics is, how long the
    chain of reasoning is, and how easily a solver goes astray. From 0 to 0.5: a pupil gets it
    right quickly and without help. From 0.5 to 1: a strong student needs long thought or help."""

    problem: str = dspy.InputField(desc="Problem")
    context: str = dspy.InputField(desc="Known so far")
    subproblem: str = dspy.InputField(desc="Sub-problem")
    difficulty: str = dspy.OutputField(desc="one number from 0 to 1 and nothing else")


class ReviewDraft(dspy.Signature):
    """Judge the draft: how likely is its result to be wrong?

    Go through it line by line against the sub-problem: whether it answers what is asked, whether
    each number is the right one, whether each step follows. 0: certainly right. 1: certainly
    wrong."""

    problem: str = dspy.InputField(desc="Problem")
    context: str = dspy.InputField(desc="Known so far")
    subproblem: str = dspy.InputField(desc="Sub-problem")
    draft: str = dspy.InputField(desc="Draft of a solution")
    doubt: str = dspy.OutputField(
        desc="one number from 0 to 1, the chance that the draft is wrong, and nothing else"
    )


class Assess(dspy.Module):
    """The difficulty of a sub-problem in its context, as the model says it.

    Args:
        modes: request parameters by stage.
    """

    def __init__(self, modes: Modes) -> None:
        super().__init__()
        self.rate = make_predictor(RateDifficulty, **modes["assess"])
        self.review = make_predictor(ReviewDraft, **modes["assess"])

    async def aforward(
        self, problem: str, context: str, subproblem: str, draft: str | None = None
    ) -> dspy.Prediction:
        """Prediction(difficulty, replaced); a score that stays unreadable is UNREADABLE.

        Args:
            draft: a solution; the score is then how likely it is to be wrong.
        """
        inputs = {"problem": problem, "context": context, "subproblem": subproblem}
        predictor = self.rate
        if draft is not None:
            inputs["draft"], predictor = draft, self.review
        difficulty, complaint = await ask_until_read(read_score, predictor, "assess", inputs)
        if difficulty is None:
            replaced = [f"assess: {complaint}; difficulty {UNREADABLE:g}"]
            return dspy.Prediction(difficulty=UNREADABLE, replaced=replaced)
        return dspy.Prediction(difficulty=difficulty, replaced=[])


NUMBER = re.compile(
    r"([-+]?(?:\d{1,9}(?:[.,]\d{0,30})?|[.,]\d{1,30})%?)"
    r"(?:[ \t]*(?:/|out[ \t]+of)[ \t]*(\d{1,9}(?:\.\d{1,30})?))?"
)
"""A number with a point or a comma, and what it is out of where that is said."""


def read_score(text: str) -> float | None:
    """The score in a reply: its first number if it starts with one, else its last; None if that
    number, divided by what it is said to be out of, is not in [0, 1].

    >>> read_score("0.7"), read_score("Difficulty: 0,25"), read_score("1.7"), read_score("high")
    (0.7, 0.25, None, None)
    >>> read_score("Difficulty: 0.3 out of 1"), read_score("Rating: 3/10")
    (0.3, 0.3)
    """
    stripped = text.strip().strip("*`$ ")
    numbers = NUMBER.findall(stripped)
    if not numbers:
        return None
    number, whole = numbers[0] if NUMBER.match(stripped) else numbers[-1]
    if number.endswith("%"):
        return None
    most = float(whole or 1)
    score = float(number.replace(",", ".")) / most if most else -1.0
    return score if 0 <= score <= 1 else None


_SCORE = {
    "kind": "score",
    "about": "Strip blanks, then the characters in `strip`. Of the matches of `number` take the "
    "first where the text begins with it, else the last: group 1, its comma read as a point, "
    "divided by group 2 where that matched. With a percent sign, divided by 0, or outside of 0 to "
    "1, it cannot be read.",
    "strip": "*`$ ",
    "number": {"regex": NUMBER.pattern, "ignore_case": False},
}
_UNREAD = {"about": "The difficulty that leads to System 2.", "difficulty": UNREADABLE}

ASSESS = Stage(
    name="assess",
    predictor="assess.rate",
    about="Rates how difficult a sub-problem is, from 0 to 1.",
    doing="rating how hard it is",
    read=_SCORE,
    default=_UNREAD,
)

REVIEW = Stage(
    name="review",
    predictor="assess.review",
    about="Judges how likely a draft of a solution is to be wrong, from 0 to 1.",
    doing="reviewing the draft",
    read=_SCORE,
    default=_UNREAD,
    when="Where assess is `review`, ask review with `problem`, `context`, `subproblem` and, as "
    "`draft`, the reply of solve_1; its score is the difficulty.",
)
