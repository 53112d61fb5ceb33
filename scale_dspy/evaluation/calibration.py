"""Fit the weights of an Estimate to drafts that are known to be right or wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scale_dspy.stages.estimate import FEATURES, TYPICAL, Estimate
from scale_dspy.utils.statistics import Numbers

Features = Mapping[str, float]

FOLDS = 5
FEWEST = 20  # drafts, below which nothing is fitted
PRIOR = 4.0  # precision of the prior around the given weights, for features of unit variance
STEPS = 50  # of Newton's method, which ends after about eight


def fit_estimate(
    drafts: Sequence[Features],
    wrong: Sequence[bool],
    groups: Sequence[str],
    start: Estimate | None = None,
) -> Estimate:
    """The estimate with weights fitted to these drafts, or `start` if that is no worse.

    Logistic regression with a Gaussian prior around the weights of `start` (Newton's method on the
    penalised log-likelihood): with few drafts they change little. The fit is kept only if, in cross
    validation, fits to the other folds predict held-out drafts better than `start` does, by their
    mean log loss.

    Args:
        groups: the problem of each draft; all drafts of a problem lie in one fold.
        start: the weights to begin from; the default weights if None.
    """
    start = start or Estimate()
    labels = np.array(wrong, dtype=bool)
    if len(drafts) < FEWEST or labels.all() or not labels.any() or len(set(groups)) < 2:
        return start
    held_out = np.array(estimate_unseen(drafts, wrong, groups, start))
    given = np.array([start(draft) for draft in drafts])
    if measure_loss(held_out, labels) >= measure_loss(given, labels):
        return start
    return _fit(_tabulate(drafts), labels, start)


def estimate_unseen(
    drafts: Sequence[Features],
    wrong: Sequence[bool],
    groups: Sequence[str],
    start: Estimate | None = None,
) -> list[float]:
    """The estimate for each draft, from weights fitted without the fold of its problem."""
    start = start or Estimate()
    labels = np.array(wrong, dtype=bool)
    folds = assign_folds(groups)
    table = _tabulate(drafts)
    found = np.zeros(len(drafts))
    for number in range(FOLDS):
        inside = folds == number
        seen = labels[~inside]
        fitted = _fit(table[~inside], seen, start) if 0 < seen.sum() < len(seen) else start
        found[inside] = [fitted(drafts[int(place)]) for place in np.flatnonzero(inside)]
    return [float(value) for value in found]


def assign_folds(groups: Sequence[str]) -> NDArray[np.int64]:
    """The number of each group's fold, from 0 to FOLDS - 1; the same in every process."""
    names = sorted(set(groups))
    np.random.default_rng(0).shuffle(names)
    fold = {name: place % FOLDS for place, name in enumerate(names)}
    return np.array([fold[name] for name in groups], dtype=np.int64)


def measure_loss(scores: Numbers, wrong: NDArray[np.bool_]) -> float:
    """The mean log loss in nats; scores are clipped to [0.001, 0.999]."""
    clipped = np.clip(scores, 1e-3, 1 - 1e-3)
    return float(-np.mean(np.where(wrong, np.log(clipped), np.log(1 - clipped))))


def _tabulate(drafts: Sequence[Features]) -> Numbers:
    """A row a draft, a column a feature, as its distance from what is typical."""
    rows = [
        [draft.get(name, TYPICAL[name]) - TYPICAL[name] for name in FEATURES] for draft in drafts
    ]
    return np.array(rows, dtype=np.float64).reshape(len(drafts), len(FEATURES))


def _fit(table: Numbers, wrong: NDArray[Any], start: Estimate) -> Estimate:
    prior = np.array([start.bias, *(start.weights[name] for name in FEATURES)])
    design = np.column_stack([np.ones(len(table)), table])
    spread = table.std(axis=0)
    # A feature that never varies keeps the weight it had, and the bias is free.
    penalty = PRIOR * np.array([1e-3, *np.where(spread > 1e-9, spread**2, 1.0)])
    weights = prior.copy()
    for _ in range(STEPS):
        chance = 1 / (1 + np.exp(-np.clip(design @ weights, -30, 30)))
        slope = design.T @ (chance - wrong) + penalty * (weights - prior)
        curve = (design * (chance * (1 - chance))[:, None]).T @ design + np.diag(penalty)
        step = np.linalg.solve(curve, slope)
        weights = weights - step * min(1.0, 5.0 / max(1e-12, float(np.abs(step).max())))
        if float(np.abs(step).max()) < 1e-8:
            break
    bias, *fitted = (round(float(value), 6) for value in weights)
    return Estimate(dict(zip(FEATURES, fitted, strict=True)), bias)
