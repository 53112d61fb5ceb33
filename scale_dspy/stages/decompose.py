"""Stage 1: split the problem into ordered sub-problems (Eq. 1); choose the best of k (Eq. 2)."""

from __future__ import annotations

import re

import dspy

from scale_dspy.lm.cap import OutOfTokensError, room
from scale_dspy.lm.modes import Modes
from scale_dspy.stages.ask import ATTEMPTS, ask_many, ask_until_read
from scale_dspy.utils.lists import read_list, render_list
from scale_dspy.utils.validation import check_whole

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
        self.candidates = check_whole("candidates", candidates, most=MAX_CANDIDATES)
        self.propose = dspy.Predict(ProposeSubproblems, **modes["decompose"])
        self.select = dspy.Predict(SelectCandidate, **modes["select"])

    async def aforward(self, problem: str) -> dspy.Prediction:
        """Prediction(subproblems, replaced): a list of texts, and what had to be replaced.

        Unreadable candidates are passed over. Where all are, single ones are asked for, ATTEMPTS
        rounds in all. After that, or without room in the budget, the one sub-problem is the
        problem itself.
        """
        left = room()
        wanted = self.candidates if left is None else min(self.candidates, left // MIN_LIST)
        complaint, seen = "no room in the budget", 0
        for attempt in range(ATTEMPTS if wanted else 0):
            try:
                replies = await ask_many(
                    self.propose,
                    "decompose",
                    {"problem": problem},
                    wanted if attempt == 0 else 1,  # eight more would hardly be better
                    attempt=attempt * self.candidates,
                )
            except OutOfTokensError:
                break
            lists = [items for reply in replies if (items := read_list(reply.text))]
            if lists:
                chosen, replaced = await self._choose(problem, lists)
                self._trace_choice(problem, chosen)
                return dspy.Prediction(subproblems=chosen, replaced=replaced)
            seen += len(replies)
            complaint = f"no list in any of {seen} replies"
        return dspy.Prediction(subproblems=[problem], replaced=[f"decompose: {complaint}"])

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
