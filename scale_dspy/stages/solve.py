"""Stages 3 and 4 for one sub-problem: solve it with System 1 or System 2, in context (Eq. 4-6)."""

from __future__ import annotations

import dspy

from scale_dspy.lm.cap import has_room, room
from scale_dspy.lm.modes import Modes
from scale_dspy.lm.usage import track
from scale_dspy.stages.ask import Reply, ask_until_said
from scale_dspy.stages.stage import Stage

MIN_THINKING = 256  # response tokens; with less room than this, thinking would end before it helps
DRAFT = 24_000  # characters of unfinished reasoning that are handed on, counted from its end


class SolveDirectly(dspy.Signature):
    r"""Solve the sub-problem directly, building on what is known so far. Write only the few lines
    of mathematics that lead to the result, without repeating the question and without remarks."""

    problem: str = dspy.InputField(desc="Problem")
    context: str = dspy.InputField(desc="Known so far")
    subproblem: str = dspy.InputField(desc="Sub-problem")
    draft: str = dspy.InputField(desc="Unfinished work on the sub-problem", default="")
    solution: str = dspy.OutputField(desc=r"a short solution that ends with its result in \boxed{}")


class SolveThoroughly(dspy.Signature):
    r"""Solve the sub-problem with full care. Reason step by step from the problem and from what is
    known so far; if an earlier result turns out to be wrong, say so and correct it. Check the
    result before you state it. The solution you give keeps every fact that later work needs."""

    problem: str = dspy.InputField(desc="Problem")
    context: str = dspy.InputField(desc="Known so far")
    subproblem: str = dspy.InputField(desc="Sub-problem")
    solution: str = dspy.OutputField(
        desc=r"a complete solution that ends with its result in \boxed{}"
    )


class Solve(dspy.Module):
    """The solution of one sub-problem.

    Args:
        modes: request parameters by stage.
    """

    def __init__(self, modes: Modes) -> None:
        super().__init__()
        self.system_1 = dspy.Predict(SolveDirectly, **modes["solve_1"])
        self.system_2 = dspy.Predict(SolveThoroughly, **modes["solve_2"])

    async def aforward(
        self, problem: str, context: str, subproblem: str, system: int, keep: int = 0
    ) -> dspy.Prediction:
        """Prediction(solution, reasoning, system, tokens, replaced).

        `system` is the one that solved it: under a budget a System 2 with too little room turns
        into System 1. `keep` is the response tokens that must be left for steps to come.
        """
        inputs = {"problem": problem, "context": context, "subproblem": subproblem}
        replaced: list[str] = []
        with track() as spent:
            if system == 2 and not has_room(keep + MIN_THINKING):
                system, replaced = 1, ["solve: too little of the budget is left for System 2"]
            if system == 2:
                reply = await self._think(inputs, keep)
            else:
                reply = await ask_until_said(self.system_1, "solve_1", inputs, keep=keep)
        solution = reply.text
        if solution and reply.cut_off:
            replaced = [*replaced, f"solve: the solution was cut off after {spent.tokens} tokens"]
        if not solution:
            solution = reply.reasoning[-DRAFT:]
            replaced = [*replaced, "solve: no solution in any reply; took the raw text"]
        return dspy.Prediction(
            solution=solution,
            reasoning=reply.reasoning,
            system=system,
            tokens=spent.tokens,
            replaced=replaced,
        )

    async def _think(self, inputs: dict[str, str], keep: int) -> Reply:
        """System 2; where it is cut off before a result, System 1 concludes from what there is."""
        left = room()
        conclude = 0 if left is None else min(self._answer_tokens(), (left - keep) // 4)
        reply = await ask_until_said(self.system_2, "solve_2", inputs, keep=keep + conclude)
        if not reply.cut_off or r"\boxed" in reply.text:
            return reply
        work = f"{reply.reasoning}\n\n{reply.text}".strip()
        unfinished = {**inputs, "draft": work[-DRAFT:]}
        end = await ask_until_said(self.system_1, "solve_1", unfinished, keep=keep)
        return Reply(end.text or reply.text, work, end.cut_off)

    def _answer_tokens(self) -> int:
        return int(self.system_1.config.get("max_tokens") or MIN_THINKING)


_SOLUTION = {
    "kind": "solution",
    "about": "The whole content is the solution. It is asked for again only where it is empty and "
    "the reply was not cut off.",
}
_NO_SOLUTION = {
    "about": f"The last {DRAFT} characters of the reasoning are the solution.",
    "characters": DRAFT,
}

SOLVE_1 = Stage(
    name="solve_1",
    predictor="solve.system_1",
    about="System 1: solves a sub-problem directly, or concludes an unfinished draft.",
    doing="solving without thinking",
    read=_SOLUTION,
    default=_NO_SOLUTION,
)

SOLVE_2 = Stage(
    name="solve_2",
    predictor="solve.system_2",
    about="System 2: solves a sub-problem with care.",
    doing="thinking",
    read=_SOLUTION,
    default=_NO_SOLUTION,
)
