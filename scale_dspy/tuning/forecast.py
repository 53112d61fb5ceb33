"""Forecasts of a walk and of a compile before their first request."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import dspy

from scale_dspy.evaluation.folder import RUN
from scale_dspy.evaluation.forecast import expect
from scale_dspy.evaluation.run_status import SEARCHES, read_finished
from scale_dspy.program import DRAFTED, SCALE
from scale_dspy.tuning.prompt_optimizers import Plan
from scale_dspy.utils.lists import MAX_SUBPROBLEMS


@dataclass(frozen=True)
class CompileForecast:
    """What is left of a compile, and how many requests, tokens and dollars it takes.

    Attributes:
        training, validation: problems.
        walks: of all searches for thresholds together.
        done: walks that are there already.
        rollouts: about how many runs of the program the prompt optimizer may make; 0 without one.
        requests: the least and the most, not counting proposals of prompts.
        tokens: response tokens to expect for the missing walks; None if no walks are known.
        measured: how many walks the expectation is based on.
        dollars: to expect for the missing walks; None if no walks or no price are known.
        cost_limit, dollar_limit: of the whole compile; None for no limit.
    """

    training: int
    validation: int
    walks: int
    done: int
    rollouts: int
    requests: tuple[int, int]
    tokens: float | None
    measured: int
    dollars: float | None
    cost_limit: int | None
    dollar_limit: float | None


def bound_walk(program: SCALE, whole_only: bool = False) -> tuple[int, int]:
    """The least and the most requests of one walk, if every reply can be read at once.

    A walk runs the program at most once for each difficulty score and once more: on the curve of
    the problem that is split, on the one that is rated and split, on the one that is rated and
    solved whole; and twice unrated and whole. Where System 2 votes, each of these runs may be made
    again for each lead at which a step went on drawing. With `whole_only` there are the last four
    of these runs at most, each of one step.
    """
    if whole_only:
        least, _ = program.at(0.5, 0.5).bound_requests()
        # A rating, drafts and passes one by one, where the server ignores `n`, and conclusions.
        each = 1 + program.count_probes() + 2 * program.votes
        return 1 + (least if program.timing in DRAFTED else 2), program.votes * 4 * each
    least, most = program.at(0, 0).bound_requests()
    _, rated = program.at(0, 0.5).bound_requests()
    scores = MAX_SUBPROBLEMS
    rows = 1 + scores * (program.votes - 1)
    return least + 2, rows * ((scores + 1) * (most + rated) + 4 * rated)


def forecast_compile(
    program: SCALE,
    trainset: Sequence[dspy.Example],
    valset: Sequence[dspy.Example],
    folder: Path,
    plan: Plan,
    like: Path | None = None,
) -> CompileForecast:
    """Forecast a compile under a plan.

    Args:
        folder: the one it would work in.
        like: a folder of walks from whose tokens to forecast; by default those in `folder`.

    Raises:
        ValueError: `like` holds no records with known tokens.
    """
    optimizes = plan.optimizer != "none"
    each = len(valset) * plan.samples * (1 + len(plan.variants))
    walks = each * (1 + optimizes)
    parts = [path.parent for stage in SEARCHES for path in (folder / stage).rglob(RUN)]
    done = sum(1 for part in parts for _ in read_finished(part))
    bounds, (_, most) = bound_walk(program, plan.whole_only), program.bound_requests()
    missing = max(0, walks - done)
    measured, tokens, dollars = expect(missing, like or folder / SEARCHES[0], plan.token_price)
    if like and not measured:
        raise ValueError(f"{like} holds no walks whose tokens are known")
    rollouts = plan.rollouts if optimizes else 0
    return CompileForecast(
        training=len(trainset),
        validation=len(valset),
        walks=walks,
        done=done,
        rollouts=rollouts,
        requests=(bounds[0] * missing, bounds[1] * missing + most * rollouts),
        tokens=tokens,
        measured=measured,
        dollars=dollars,
        cost_limit=plan.cost_limit,
        dollar_limit=plan.dollar_limit,
    )
