"""The metrics: whether an answer is right, a penalty for its tokens, and what went wrong in words.

No model is asked: answers are read and compared.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import dspy

from scale_dspy.grading.answers import accepts
from scale_dspy.grading.feedback.metric import write_feedback
from scale_dspy.grading.feedback.trajectory import Labels, count_stage, find_failure, read_golds

PRICE = 0.5  # in right answers, for as many tokens beyond the budget as the budget has


def is_right(example: dspy.Example, prediction: Any, trace: Any = None) -> bool:
    """Whether a prediction's answer equals one of the example's gold answers.

    Args:
        example: as `load` makes them: `answers`, all that are accepted, and `kind`, "integer" or
            "math", which says how they are compared. Without them its `answer` counts, as math.
        prediction: what has an `answer`, a text or None.
        trace: what DSPy's optimizers pass; ignored.
    """
    return accepts(prediction.answer, read_golds(example), kind=example.get("kind", "math"))


def score(
    example: dspy.Example, prediction: Any, *, budget: int | None = None, price: float = PRICE
) -> float:
    """1 for right or 0 for wrong, less a penalty for tokens beyond the budget: in [0, 1].

    right - price * max(0, tokens / budget - 1), and never below 0: DSPy's bootstrapping optimizers
    take every score that is not 0 for a success, a negative one too. They take a small one as well,
    so give them a `metric_threshold`.

    Args:
        example: as for `is_right`.
        prediction: what a Solver gives; a run that failed counts as wrong.
        budget: response tokens that cost nothing; None where tokens do not count.
        price: the penalty for as many tokens beyond the budget as the budget has; 0 or more.

    Raises:
        ValueError: the budget is not above 0, or the price is below 0.
    """
    _check_terms(budget, price)
    if find_failure(prediction) or not is_right(example, prediction):
        return 0.0
    return _charge(count_tokens(prediction), budget, price)


def count_tokens(prediction: Any) -> int:
    """Response tokens of all stages together, as the prediction's `usage` has them; 0 without."""
    usage = getattr(prediction, "usage", None)
    return sum(count_stage(usage, name) for name in usage) if isinstance(usage, Mapping) else 0


def make_metric(
    *,
    budget: int | None = None,
    price: float = PRICE,
    labels: Labels | None = None,
    feedback: bool = False,
) -> Callable[..., Any]:
    """Make `score` a metric as DSPy's optimizers call it, with words for those that reflect.

    Args:
        budget: see `score`.
        price: see `score`.
        labels: by (problem, sub-problem), what is known of a sub-problem's difficulty.
        feedback: give dspy.Prediction(score, feedback), as GEPA wants it, instead of a number.

    Returns:
        metric(gold, pred, trace, pred_name, pred_trace). The score is that of the whole run,
        whichever predictor is asked about. With `feedback`, the words are about the predictor
        `pred_name`, first of all about its one call in `pred_trace`; without a name they are about
        the run. Whatever `pred` and `pred_trace` are, it does not raise.

    Raises:
        ValueError: the budget is not above 0, or the price is below 0.
    """
    _check_terms(budget, price)
    known = {
        (problem.strip(), sub.strip()): each for (problem, sub), each in (labels or {}).items()
    }

    def metric(
        gold: dspy.Example,
        pred: Any,
        trace: Any = None,
        pred_name: str | None = None,
        pred_trace: Any = None,
    ) -> Any:
        worth = score(gold, pred, budget=budget, price=price)
        if not feedback:
            return worth
        failure = find_failure(pred)
        if failure:
            words = f"The run failed and gave no answer: {failure}."
        else:
            words = write_feedback(
                gold,
                pred,
                pred_name,
                pred_trace,
                right=is_right(gold, pred),
                tokens=count_tokens(pred),
                budget=budget,
                labels=known,
            )
        return dspy.Prediction(score=worth, feedback=words)

    return metric


def _check_terms(budget: int | None, price: float) -> None:
    if budget is not None and not budget > 0:
        raise ValueError(f"a budget is a number of response tokens above 0, not {budget!r}")
    if not price >= 0:
        raise ValueError(f"a price is a number from 0, not {price!r}")


def _charge(tokens: int, budget: int | None, price: float) -> float:
    """The worth of a right answer that took this many tokens."""
    return 1.0 if budget is None else max(0.0, 1 - price * max(0.0, tokens / budget - 1))
