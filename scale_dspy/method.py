"""What every method shares: a call with a problem, a budget, a ledger and one event loop.

SCALE and the baselines it is compared with differ only in `_solve_within`, so that all of them are
counted, capped and scored alike.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import dspy

from scale_dspy.lm.adapter import PlainAdapter, mend
from scale_dspy.lm.connect import MeteredLM
from scale_dspy.lm.event_loop import run
from scale_dspy.lm.usage import Ledger, change_scope, track
from scale_dspy.utils.validation import check_whole

MIN_BUDGET = 64  # response tokens
# Parameters that programs saved earlier don't have: they load with the plain ones.
LATER = frozenset(("assess.review", "solve.whole", "stop", "estimate", "pass_estimate", "conclude"))


class Solver(dspy.Module):
    """A DSPy program from a problem to Prediction(answer, steps, usage, replaced).

    Args:
        budget: the most response tokens for a problem, everything included; None for no limit.

    Raises:
        ValueError: the budget is no whole number from MIN_BUDGET.
    """

    # What is done to a value that an attribute is set to; it raises ValueError for a bad one.
    checks: ClassVar[Mapping[str, Callable[[Any], Any]]] = {}

    def __init__(self, budget: int | None = None) -> None:
        super().__init__()
        self.budget = budget

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute; an option is checked at once, and not when it is used."""
        check = check_budget if name == "budget" else self.checks.get(name)
        super().__setattr__(name, value if check is None else check(value))

    def __repr__(self) -> str:
        options = ", ".join(f"{name}={value!r}" for name, value in self._show().items())
        return f"{type(self).__name__}({options})\n{super().__repr__()}"

    def _show(self) -> dict[str, Any]:
        """What `repr` shows: options, and whatever else decides what a call does."""
        return self.options

    def load_state(self, state: dict[str, Any], **how: Any) -> None:
        """Take the parameters of a saved program; of LATER ones, those that it has."""
        kept = {name: value for name, value in self.dump_state().items() if name in LATER}
        super().load_state({**kept, **state}, **how)

    @property
    def options(self) -> dict[str, Any]:
        """The arguments that made this program, without its parameters and its modes."""
        return {"budget": self.budget}

    def forward(self, problem: str, budget: int | None = None) -> dspy.Prediction:
        """Solve `problem`; see `aforward`."""
        given = {} if budget is None else {"budget": budget}
        return run(self.aforward(problem=problem, **given))

    async def aforward(self, problem: str, budget: int | None = None) -> dspy.Prediction:
        """Solve `problem`.

        Args:
            problem: its text, LaTeX welcome.
            budget: response tokens for this call, instead of the program's own.

        Returns:
            Prediction(answer, steps, usage, replaced): the answer as text or None, the Steps in
            order, the cost by stage, and in words every model output that had to be replaced.

        Raises:
            ValueError: the problem is no text or an empty one, the budget is no whole number from
                MIN_BUDGET, or there is one and the LM does not count its tokens.
            dspy.utils.exceptions.LMError: the server did not answer.
        """
        if not isinstance(problem, str) or not problem.strip():
            raise ValueError(f"a problem is a text that is not empty, not {problem!r}")
        cap = self.budget if budget is None else check_budget(budget)
        if cap is not None and not isinstance(dspy.settings.lm, MeteredLM):
            raise ValueError("a budget needs an LM that counts its tokens: connect() makes one")
        # By the problem's text its calls find the replica that has its beginning in the cache.
        text = mend(problem.strip())
        scope = change_scope(problem=text)
        with dspy.context(adapter=PlainAdapter()), scope, track(cap) as ledger:
            prediction = await self._solve_within(ledger, text)
        if ledger.unknown:
            told = f"the server did not tell the tokens of {ledger.unknown} replies"
            note = f"usage: {told}; a budget counts them as at most {ledger.assumed:,}"
            prediction.replaced = [*prediction.replaced, note]
        return _put_answer_last(prediction)

    def bound_requests(self) -> tuple[int, int]:
        """Requests of one problem, at least and at most, where every reply can be read at once.

        Raises:
            ValueError: the method does not say.
        """
        raise ValueError(f"nothing is known of the requests of {type(self).__name__}")

    async def _solve_within(self, ledger: Ledger, problem: str) -> dspy.Prediction:
        raise NotImplementedError


def _put_answer_last(prediction: dspy.Prediction) -> dspy.Prediction:
    """Where `dspy.majority` looks for what to count, unless it is told a field."""
    answer = prediction["answer"]
    del prediction["answer"]
    prediction["answer"] = answer
    return prediction


def check_budget(budget: int | None) -> int | None:
    """`budget` itself; ValueError unless it is None or a whole number from MIN_BUDGET."""
    return None if budget is None else check_whole("a budget", budget, MIN_BUDGET)
