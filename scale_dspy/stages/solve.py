"""Stages 3 and 4 for one sub-problem: solve it with System 1 or System 2, in context (Eq. 4-6)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import dspy

from scale_dspy.lm.cap import has_room
from scale_dspy.lm.modes import Modes
from scale_dspy.lm.usage import track
from scale_dspy.stages.ask import ask_until_said, make_predictor
from scale_dspy.stages.drafts import Draft
from scale_dspy.stages.estimate import Estimate
from scale_dspy.stages.passes import DRAFT, Drawn, Solvers, draw_passes
from scale_dspy.stages.stage import Stage
from scale_dspy.step import Vote

MIN_THINKING = 256  # response tokens; with less room than this, thinking would end before it helps


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


class SolveProblem(dspy.Signature):
    r"""Solve the problem. Reason step by step and check the result before you state it."""

    problem: str = dspy.InputField(desc="Problem")
    solution: str = dspy.OutputField(
        desc=r"a complete solution that ends with the answer in \boxed{}"
    )


class Solve(dspy.Module):
    """The solution of one sub-problem.

    A problem that is not split is asked of System 2 as chain of thought asks it: by `whole`.

    Args:
        modes: request parameters by stage.
    """

    def __init__(self, modes: Modes) -> None:
        super().__init__()
        self.system_1 = make_predictor(SolveDirectly, **modes["solve_1"])
        self.system_2 = make_predictor(SolveThoroughly, **modes["solve_2"])
        self.whole = make_predictor(SolveProblem, **modes["solve_2"])

    async def aforward(
        self,
        problem: str,
        context: str,
        subproblem: str,
        system: int,
        *,
        whole: bool = False,
        votes: int = 1,
        stop: float = 1.0,
        estimate: Estimate | None = None,
        draft: Draft | None = None,
        keep: int = 0,
    ) -> dspy.Prediction:
        """Prediction(solution, reasoning, system, tokens, votes, unfinished, replaced).

        Args:
            system: 1 or 2. Under a budget a System 2 with too little room turns into System 1, and
                what comes back is the one that solved it.
            whole: whether the sub-problem is the problem itself, unsplit.
            votes, stop, estimate: see `draw_passes`; of System 2.
            draft: System 1's solution, where it is known already.
            keep: response tokens that must be left for steps to come.
        """
        inputs = {"problem": problem, "context": context, "subproblem": subproblem}
        replaced: list[str] = []
        with track() as spent:
            if system == 2 and not has_room(keep + MIN_THINKING):
                system, replaced = 1, ["solve: too little of the budget is left for System 2"]
            if system == 2:
                asked = {"problem": problem} if whole else inputs
                system_2 = self.whole if whole else self.system_2
                solvers = Solvers(system_2, asked, self.system_1, inputs)
                drawn = await draw_passes(solvers, votes, stop, keep, estimate)
            elif draft is not None:
                drawn = Drawn((draft.reply,), (), 0)
            else:
                said = await ask_until_said(self.system_1, "solve_1", inputs, keep=keep)
                drawn = Drawn((said,), (), 0)
        tokens = spent.tokens + (draft.tokens if draft else 0)
        reply, solution = drawn.reply, drawn.reply.text
        if solution and reply.cut_off:
            replaced = [*replaced, f"solve: the solution was cut off after {tokens} tokens"]
        if not solution:
            solution = reply.reasoning[-DRAFT:]
            replaced = [*replaced, "solve: no solution in any reply; took the raw text"]
        return dspy.Prediction(
            solution=solution,
            reasoning=reply.reasoning,
            system=system,
            tokens=tokens,
            votes=_list_votes(drawn, draft),
            unfinished=reply.cut_off,
            replaced=replaced,
        )


def pass_on_prompt(state: Mapping[str, Any], plain: Mapping[str, Any]) -> dict[str, Any]:
    """The state of a program, with a prompt for `whole` also where the file is older than that.

    Problems that are not split were asked of `system_2` then. Its instructions, if they were
    tuned, are passed on, with those of its demos that are whole problems.

    Args:
        plain: the state of the program that takes this one, before it does.
    """
    old, new = "solve.system_2", "solve.whole"
    if new in state or new not in plain or not isinstance(state.get(old), Mapping):
        return dict(state)
    signature, demos = state[old].get("signature"), state[old].get("demos")
    words = signature.get("instructions") if isinstance(signature, Mapping) else None
    given = {**plain[new]}
    if isinstance(words, str) and words != SolveThoroughly.instructions:
        given["signature"] = {**given["signature"], "instructions": words}
    if isinstance(demos, list):
        given["demos"] = [
            {name: demo[name] for name in ("problem", "solution")}
            for demo in demos
            if isinstance(demo, Mapping)
            and "solution" in demo
            and demo.get("problem") == demo.get("subproblem") is not None
        ]
    return {**state, new: given}


def _list_votes(drawn: Drawn, draft: Draft | None) -> tuple[Vote, ...]:
    """Drafts and passes; none where there is only one in all, and no doubt to tell of it."""
    votes = (*(draft.votes if draft else ()), *drawn.votes)
    return votes if len(votes) > 1 or any(vote.doubt is not None for vote in votes) else ()


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

WHOLE = Stage(
    name="whole",
    predictor="solve.whole",
    about="System 2: solves a problem that is not split.",
    doing="thinking",
    read=_SOLUTION,
    default=_NO_SOLUTION,
    when="Where the problem is not split, so that the one step is the problem itself, ask whole "
    "with `problem` alone, instead of solve_2.",
)
