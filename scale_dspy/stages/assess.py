"""Stage 2: rate how difficult a sub-problem is, in [0, 1] (Eq. 3)."""

from __future__ import annotations

import re

import dspy

from scale_dspy.lm.modes import Modes
from scale_dspy.stages.ask import ask_until_read
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


class Assess(dspy.Module):
    """The difficulty of a sub-problem in its context.

    Args:
        modes: request parameters by stage.
    """

    def __init__(self, modes: Modes) -> None:
        super().__init__()
        self.rate = dspy.Predict(RateDifficulty, **modes["assess"])

    async def aforward(self, problem: str, context: str, subproblem: str) -> dspy.Prediction:
        """Prediction(difficulty, replaced); a score that stays unreadable is UNREADABLE."""
        difficulty, complaint = await ask_until_read(
            read_score,
            self.rate,
            "assess",
            {"problem": problem, "context": context, "subproblem": subproblem},
        )
        if difficulty is None:
            replaced = [f"assess: {complaint}; difficulty {UNREADABLE:g}"]
            return dspy.Prediction(difficulty=UNREADABLE, replaced=replaced)
        return dspy.Prediction(difficulty=difficulty, replaced=[])


NUMBER = re.compile(r"[-+]?(?:\d{1,9}(?:\.\d{0,30})?|\.\d{1,30})%?")


def read_score(text: str) -> float | None:
    """The score in a reply: its first number if it starts with one, else its last; None if that
    number is not in [0, 1].

    >>> read_score("0.7"), read_score("Difficulty: .25"), read_score("1.7"), read_score("high")
    (0.7, 0.25, None, None)
    """
    stripped = text.strip().strip("*`$ ")
    numbers = NUMBER.findall(stripped)
    if not numbers:
        return None
    number = numbers[0] if NUMBER.match(stripped) else numbers[-1]
    if number.endswith("%"):
        return None
    score = float(number)
    return score if 0 <= score <= 1 else None


ASSESS = Stage(
    name="assess",
    predictor="assess.rate",
    about="Rates how difficult a sub-problem is, from 0 to 1.",
    doing="rating how hard it is",
    read={
        "kind": "score",
        "about": "Strip blanks, then the characters in `strip`. Of the matches of `number` "
        "take the first where the text begins with it, else the last. With a percent sign, or "
        "outside of 0 to 1, it cannot be read.",
        "strip": "*`$ ",
        "number": {"regex": NUMBER.pattern, "ignore_case": False},
    },
    default={"about": "The difficulty that leads to System 2.", "difficulty": UNREADABLE},
)
