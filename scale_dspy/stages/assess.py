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


MAX_READ = 10_000  # characters of a reply that are read
_STRIPPED = "*`$ "
_DECIMAL = r"(?:\d{1,9}(?:[.,]\d{0,30})?|[.,]\d{1,30})(?:e[-+]?\d{1,2})?%?"
NUMBER = re.compile(
    rf"([-+]?{_DECIMAL})"
    r"(?:[ \t]?(?:-|–|—|~|to)[ \t]?"
    r"(\d{0,9}[.,]\d{1,30}%?|\d{1,9}%|\d{1,9}(?=[ \t]?(?:/|out[ \t]))))?"
    r"(?:[*_]{0,3}[ \t]{0,5}\(?(?:/|out[ \t]{1,5}of)[ \t]{0,5}(\d{1,9}(?:\.\d{1,30})?))?",
    re.IGNORECASE,
)
"""A number, the other end of a range, and what they are out of, where these are said."""

NAMED = re.compile(
    r"(?:\b(?:difficulty|rating|rated?|scored?|doubt|probability|likelihood|chance|level|say|give"
    r"|assign|estimate)\b|boxed\{)"
    r"(?:[\s*_:=~≈$`\"'(<>/{|\\–—]|-(?=[ \t])"
    r"|\b(?:is|at|it|as|this|about|around|be|to|would|i|say|roughly|approximately|an?|score|rating"
    r"|level|value)\b|\bof(?=[ \t]{1,3}[*_]{0,3}[01]?\.\d)){0,20}" + NUMBER.pattern,
    re.IGNORECASE,
)
"""NUMBER, where it is called the score."""

REWRITE = tuple(
    (re.compile(pattern, re.IGNORECASE), replacement)
    for pattern, replacement in (
        (r"[ \t]percent\b|[ \t]%", "%"),
        (
            r"(?<=\d)[*_]{0,3}[ \t,]{0,3}\(?on (?:a|the) scale (?:of|from) [01](?:\.0)?"
            r"[ \t]?(?:-|–|to)[ \t]?(\d{1,3})(?:\.0)?\b\)?",
            r"/\1",
        ),
        (
            r"\[0(?:\.0)?,[ \t]?1(?:\.0)?\]|(?:\bfrom |\bbetween |\()?(?<![\d.,])0(?:\.0)?"
            r"[ \t]?(?:-|–|—|to|and|\.\.)[ \t]?1(?:\.0)?(?![.,]?\d|[%/])\)?",
            "",
        ),
        (
            r"(?<![\d.,/])[01](?:\.0)?[ \t]?(?:=|:|is|means|being|for|->|→)[ \t]?"
            r"(?:the |very |most |trivially |certainly )?"
            r"(?:eas|trivial|hard|difficult|impossible|right|wrong|simpl)[a-z]{0,9}",
            "",
        ),
        (rf"\bbetween ({_DECIMAL}) and ({_DECIMAL})", r"\1-\2"),
        (r"\A\d{1,2}[.)][ \t]{1,3}(?=[*_]{0,3}(?:difficulty|rating|score)\b)", ""),
    )
)
"""What is taken out of a reply or put in other words before its score is read: the scale that it
repeats, which is not a score, and other ways to write percents and ranges."""


def read_score(text: str) -> float | None:
    """The score in a reply: its first number if it starts with one, else the last that is called
    the score, else its last; of a range the middle. None if that, taken out of what it is said to
    be out of, is not in [0, 1].

    >>> read_score("0.7"), read_score("Difficulty: 0,25"), read_score("1.7"), read_score("high")
    (0.7, 0.25, None, None)
    >>> read_score("Difficulty: 0.3 out of 1"), read_score("Rating: 3/10"), read_score("30%")
    (0.3, 0.3, 0.3)
    """
    text = text[:MAX_READ].strip().strip(_STRIPPED)
    for pattern, replacement in REWRITE:
        text = pattern.sub(replacement, text)
    match = NUMBER.match(text) or _find_last(NAMED, text) or _find_last(NUMBER, text)
    if match is None:
        return None
    low, high, whole = match.groups()
    ends = [low, high or low]
    most = 100.0 if any("%" in end for end in ends) else float(whole or 1)
    values = [float(end.rstrip("%").replace(",", ".")) for end in ends]
    score = sum(values) / 2 / most if most else -1.0
    return score if 0 <= score <= 1 else None


def _find_last(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    matches = list(pattern.finditer(text))
    return matches[-1] if matches else None


_SCORE = {
    "kind": "score",
    "about": "Take the first `longest` characters, strip blanks, then the characters in `strip`. "
    "In the order of `rewrite` replace all matches by `with`, where \\1 is group 1. Take the match "
    "of `number` where the text begins with one, else the last of `named`, else the last of "
    "`number`. Read commas as points. The score is group 1 or, with a group 2, the mean of both, "
    "divided by 100 where one has a percent sign, else by group 3 where that matched. Divided by "
    "0, or outside of 0 to 1, it cannot be read.",
    "longest": MAX_READ,
    "strip": _STRIPPED,
    "rewrite": [
        {"regex": pattern.pattern, "ignore_case": True, "with": replacement}
        for pattern, replacement in REWRITE
    ],
    "number": {"regex": NUMBER.pattern, "ignore_case": True},
    "named": {"regex": NAMED.pattern, "ignore_case": True},
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
