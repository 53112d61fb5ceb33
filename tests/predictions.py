"""A problem with its gold answer, and predictions for it as SCALE makes them."""

from __future__ import annotations

from typing import Any

import dspy

GOLD = dspy.Example(
    problem="Let $x = 2$. What is $x + 5$?", answer="7", solution=r"As $x = 2$, $x + 5 = 7$."
).with_inputs("problem")


def make_prediction(answer: str | None = "7", tokens: int = 0, **more: Any) -> dspy.Prediction:
    usage = {name: {"completion_tokens": 0} for name in ("decompose", "solve_1")}
    usage["solve_2"] = {"completion_tokens": tokens}
    return dspy.Prediction(
        **{"answer": answer, "steps": [], "usage": usage, "replaced": [], **more}
    )
