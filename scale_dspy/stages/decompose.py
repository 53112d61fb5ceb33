"""Stage 1: split the problem into ordered sub-problems (Eq. 1); choose the best of k (Eq. 2)."""

from __future__ import annotations

import re

import dspy

from scale_dspy.lm.cap import OutOfTokensError, room
from scale_dspy.lm.modes import Modes
from scale_dspy.stages.ask import ATTEMPTS, ask_many, ask_until_read, make_predictor
from scale_dspy.stages.stage import Stage
from scale_dspy.utils.lists import (
    CELL_END,
    MAX_READ,
    MAX_SUBPROBLEMS,
    NUMBERED,
    SENTENCE,
    STYLES,
    read_list,
    render_list,
)
from scale_dspy.utils.validation import check_whole

USUAL_CANDIDATES = 8  # of the paper; drawn one by one on the CPU they take minutes
MAX_CANDIDATES = 256  # a program file from a stranger may name any number
MIN_LIST = 128  # response tokens; under a budget, fewer candidates are drawn before shorter ones


class ProposeSubproblems(dspy.Signature):
    """Plan how to solve the problem: list the sub-problems that lead to its answer, in order.

    Each sub-problem says what to find, not how. It has one clear target, is simpler than the
    problem, follows from the problem and from what earlier sub-problems found, and is needed by a
    later one. Give a name to every new quantity, point or set that it speaks of. Solve nothing and
    state no numerical result. The last sub-problem asks for exactly what the problem asks."""

    problem: str = dspy.InputField(desc="Problem")
    subproblems: str = dspy.OutputField(
        desc="a numbered list, one sub-problem a line, as few as will do and at most eight"
    )


class SelectCandidate(dspy.Signature):
    """Each candidate plans to solve the problem through sub-problems. Choose the best candidate.

    It is the one whose sub-problems are mathematically sound, leave out nothing that the answer
    needs, ask for nothing that it does not need, are clear without further explanation, and lead
    straight to what the problem asks."""

    problem: str = dspy.InputField(desc="Problem")
    candidates: str = dspy.InputField(desc="Candidates")
    choice: str = dspy.OutputField(desc="the number of the best candidate and nothing else")


class Decompose(dspy.Module):
    """Sub-problems of a problem: k candidate lists from one request, then the model's own choice.

    Args:
        candidates: k, from 1 to MAX_CANDIDATES; with 1 nothing is selected.
        modes: request parameters by stage.
    """

    def __init__(self, candidates: int, modes: Modes) -> None:
        super().__init__()
        self.candidates = check_candidates(candidates)
        self.propose = make_predictor(ProposeSubproblems, **modes["decompose"])
        self.select = make_predictor(SelectCandidate, **modes["select"])

    async def aforward(self, problem: str) -> dspy.Prediction:
        """Prediction(subproblems, replaced): a list of texts, and what had to be replaced.

        Unreadable candidates are passed over. Where all are, single ones are asked for, ATTEMPTS
        rounds in all. After that, or without room in the budget, the one sub-problem is the
        problem itself.
        """
        candidates, told = self._count_candidates()
        left = room()
        wanted = candidates if left is None else min(candidates, left // MIN_LIST)
        complaint, seen = "no room in the budget", 0
        for attempt in range(ATTEMPTS if wanted else 0):
            try:
                replies = await ask_many(
                    self.propose,
                    "decompose",
                    {"problem": problem},
                    wanted
                    if attempt == 0
                    else 1,  # a second draw of as many would hardly be better
                    attempt=attempt * self.candidates,
                )
            except OutOfTokensError:
                break
            lists = [items for reply in replies if (items := read_list(reply.text))]
            if lists:
                chosen, replaced = await self._choose(problem, lists)
                self._trace_choice(problem, chosen)
                return dspy.Prediction(subproblems=chosen, replaced=[*told, *replaced])
            seen += len(replies)
            complaint = f"no list in any of {seen} replies"
        complaints = [*told, f"decompose: {complaint}"]
        return dspy.Prediction(subproblems=[problem], replaced=complaints)

    def _count_candidates(self) -> tuple[int, list[str]]:
        """How many to draw, and in words where that is not what the program says."""
        lm = self.propose.lm or dspy.settings.lm
        if getattr(lm, "style", None) != "embedded" or self.candidates != USUAL_CANDIDATES:
            return self.candidates, []
        return 1, [f"decompose: 1 candidate instead of {self.candidates}, as the CPU allows"]

    async def _choose(self, problem: str, lists: list[list[str]]) -> tuple[list[str], list[str]]:
        if all(items == lists[0] for items in lists):
            return lists[0], []
        candidates = "\n\n".join(
            f"Candidate {number}\n{render_list(items)}" for number, items in enumerate(lists, 1)
        )
        choice, complaint = await ask_until_read(
            lambda text: read_choice(text, len(lists)),
            self.select,
            "select",
            {"problem": problem, "candidates": candidates},
        )
        if choice is None:
            return lists[0], [f"select: {complaint}; took the first of {len(lists)} candidates"]
        return lists[choice - 1], []

    def _trace_choice(self, problem: str, chosen: list[str]) -> None:
        """Put the chosen list into DSPy's trace, which holds the first; demos are made of it."""
        for predictor, inputs, prediction in reversed(dspy.settings.trace or []):
            if predictor is self.propose and inputs["problem"] == problem:
                prediction.subproblems = render_list(chosen)
                return


def check_candidates(value: int) -> int:
    """`value` itself; ValueError unless it is a whole number from 1 to MAX_CANDIDATES."""
    return check_whole("candidates", value, most=MAX_CANDIDATES)


CHOICE = re.compile(r"\d{1,4}")
NAMED_CHOICE = tuple(
    re.compile(pattern, re.IGNORECASE | re.MULTILINE)
    for pattern in (
        # Alone on the first line.
        r"\A[\s*_#`$(\[\\]{0,9}(?:boxed\{)?(?:candidate|option|list|plan|number|no\.?)?"
        r"[ \t*_#]{0,5}(\d{1,4})[*_`$)\]}.:]{0,6}[ \t]*$",
        r"(?<!not )(?:\b(?:best|choice|choose|chosen|select|selected|pick|picked|prefer|answer)\b"
        r"|boxed\{)(?:[\s*_:=#`$\"'{(]|\b(?:candidate|option|list|plan|number|one|is|the|would|be)\b)"
        r"{0,9}(\d{1,4})\b(?![ \t*_]{0,3}(?:or|and|,|/|-)[ \t*_]{0,3}\d)",
        r"\b(?:candidate|option|list|plan)[ \t*_#]{0,4}(\d{1,4})[ \t*_]{0,4}(?:is|seems|looks)"
        r"(?: clearly| by far)?(?: the)? best\b",
    )
)
"""What names the choice among other numbers, in group 1."""


def read_choice(text: str, count: int) -> int | None:
    """The number from 1 to `count` that a reply chooses, or None: the one number in it or, among
    others, the one that is called the choice.

    >>> read_choice("Candidate 3", 8), read_choice("1 or 2", 8), read_choice("9", 8)
    (3, None, None)
    >>> read_choice("The best is 3, as 1 and 2 leave out a case.", 8)
    3
    """
    text = text[:MAX_READ]
    numbers = set(map(int, CHOICE.findall(text)))
    if len(numbers) > 1:
        numbers = {int(found) for named in NAMED_CHOICE for found in named.findall(text)}
    if len(numbers) != 1:
        return None
    (number,) = numbers
    return number if 1 <= number <= count else None


DECOMPOSE = Stage(
    name="decompose",
    predictor="decompose.propose",
    about="Splits the problem into sub-problems.",
    doing="splitting the problem",
    read={
        "kind": "numbered_list",
        "about": [
            "Of the content take the first `longest` characters, and drop the lines that begin, "
            "after blanks, with three backticks. What is left is the text.",
            "Where the text is a JSON array of texts, they are the items; drop what `number` "
            "matches at the beginning of each.",
            "Else try the `styles` in order and take the first that finds a list. Go through the "
            "matches of its `opening` in the text, `^` and `$` at every line's ends. Group 1 is "
            "the ordinal: a number where `ordinals` is empty, else the place in `ordinals`, from "
            "1, of its lower case; where `ordinals` is null, every match continues the count. A "
            "match that continues the count 1, 2, 3 opens an item; the first item may be number 0. "
            "An item is what follows its match, as far as the next item's match. With fewer items "
            "than `least` there is no list. In a style with `cells` an item is its first line as "
            "far as a match of `cell_end`.",
            "Strip the item and each of its lines, and drop all from its first empty line on. "
            "Where it is one line in double asterisks, take those off; where it ends in double "
            "asterisks and has an odd number of them, take off the last.",
            "In a style with `sentences` there is no list unless `sentence` matches at the "
            "beginning of every item.",
            "Drop empty and repeated items, and all after the first `most`.",
            "Whatever the last item asks, it is replaced by the problem itself.",
        ],
        "styles": [
            {
                "opening": {"regex": style.opening, "ignore_case": True},
                "ordinals": None if style.ordinals is None else list(style.ordinals),
                "least": style.least,
                "sentences": style.sentences,
                "cells": style.cells,
            }
            for style in STYLES
        ],
        "number": {"regex": NUMBERED, "ignore_case": True},
        "sentence": {"regex": SENTENCE, "ignore_case": False},
        "cell_end": {"regex": CELL_END, "ignore_case": False},
        "longest": MAX_READ,
        "most": MAX_SUBPROBLEMS,
    },
    default={"about": "The one sub-problem is the problem itself.", "items": 1},
)

SELECT = Stage(
    name="select",
    predictor="decompose.select",
    about="Chooses the best of the candidate lists.",
    doing="choosing among the lists",
    read={
        "kind": "choice",
        "about": "Of the first `longest` characters of the content: all matches of `number` must "
        "be one and the same number. Where they are not, all that group 1 of any of `named` "
        "matches must be, with `^` and `$` at every line's ends. It counts the candidates from 1 "
        "and must not exceed how many there are.",
        "number": {"regex": CHOICE.pattern, "ignore_case": False},
        "named": [{"regex": named.pattern, "ignore_case": True} for named in NAMED_CHOICE],
        "longest": MAX_READ,
    },
    default={"about": "The first candidate.", "choice": 1},
)
