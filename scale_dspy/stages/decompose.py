"""Stage 1: split the problem into ordered sub-problems (Eq. 1); choose the best of k (Eq. 2)."""

from __future__ import annotations

import re

import dspy

from scale_dspy.lm.cap import OutOfTokensError, room
from scale_dspy.lm.modes import Modes
from scale_dspy.stages.ask import ATTEMPTS, ask_many, ask_until_read, make_predictor
from scale_dspy.stages.stage import Stage
from scale_dspy.utils.lists import BULLET, MAX_SUBPROBLEMS, NUMBERED, read_list, render_list
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


def read_choice(text: str, count: int) -> int | None:
    """The one number from 1 to `count` that a reply names, or None.

    >>> read_choice("Candidate 3", 8), read_choice("1 or 2", 8), read_choice("9", 8)
    (3, None, None)
    """
    numbers = {int(number) for number in re.findall(r"\d{1,4}", text)}
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
            "Drop the lines that begin, after blanks, with three backticks.",
            "A line that `numbered` matches at its beginning, with a number (group 1) that "
            "continues the count 1, 2, 3, opens an item; the item is what follows the match. "
            "Every other line is part of the item above it, or of none. An item ends before "
            "the first blank line that is not its first line.",
            "Where there is no item at all, each line that `bulleted` matches opens one, and "
            "every other line that is not blank is part of the item above it.",
            "Strip every line of an item, join them with newlines, strip the whole; where it "
            "is one line in double asterisks, take those off. Drop empty and repeated items, "
            "and all after the first `most`.",
            "Whatever the last item asks, it is replaced by the problem itself.",
        ],
        "numbered": {"regex": NUMBERED.pattern, "ignore_case": True},
        "bulleted": {"regex": BULLET.pattern, "ignore_case": False},
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
        "about": "All numbers in the content, each a run of digits, must be one and the same; "
        "it counts the candidates from 1 and must not exceed how many there are.",
        "number": {"regex": r"\d{1,4}", "ignore_case": False},
    },
    default={"about": "The first candidate.", "choice": 1},
)
