"""Drafts: System 1 solves first, and the difficulty is measured on what it wrote.

The draft is the solution where it is not escalated, so an easy step costs no request of its own.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import dspy

from scale_dspy.lm.cap import MIN_GRANT, OutOfTokensError, room
from scale_dspy.lm.usage import track
from scale_dspy.stages.ask import Reply, ask_many, ask_until_said, read_config
from scale_dspy.stages.estimate import measure_draft
from scale_dspy.stages.passes import share_tokens
from scale_dspy.stages.votes import find_winner, measure_disagreement, read_result
from scale_dspy.step import Vote

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Draft:
    """System 1's solution of a sub-problem, drawn before it is decided which system solves it.

    Attributes:
        reply: the draft, of several the first of the largest group of equal results.
        features: what was measured of it, see `estimate.FEATURES`.
        votes: all drafts.
        tokens: of all drafts.
        difficulty: measured on it; None before that.
    """

    reply: Reply
    features: dict[str, float]
    votes: tuple[Vote, ...]
    tokens: int
    difficulty: float | None = None

    @property
    def result(self) -> str | None:
        return read_result(self.reply.text, self.reply.cut_off)


@dataclass(frozen=True)
class Score:
    """A sub-problem's difficulty, and what was found with it.

    Attributes:
        difficulty: in [0, 1]; None where nothing was rated.
        draft: what it was measured on; None where it was asked for.
        system: 1 or 2, where that is settled whatever the difficulty.
    """

    difficulty: float | None
    draft: Draft | None = None
    system: int | None = None


def score_draft(draft: Draft, difficulty: float) -> Score:
    """The score that was found on a draft."""
    return Score(difficulty, replace(draft, difficulty=difficulty))


async def draw_draft(
    system_1: dspy.Module,
    inputs: dict[str, str],
    *,
    probes: int = 1,
    logprobs: bool = False,
    keep: int = 0,
) -> Draft:
    """Draw System 1's draft.

    Args:
        inputs: problem, context and sub-problem.
        probes: how many are drawn, in one request; under a budget, no more than it has room for.
        logprobs: whether the log-probabilities of its tokens are wanted.
        keep: response tokens that must be left for steps to come.
    """
    with track() as spent:
        if probes == 1:
            said = await ask_until_said(system_1, "solve_1", inputs, keep=keep, logprobs=logprobs)
            replies: Sequence[Reply] = [said]
        else:
            replies = await _draw_several(system_1, inputs, probes, logprobs, keep)
    results = [read_result(reply.text, reply.cut_off) for reply in replies]
    shares = share_tokens(replies, spent.tokens)
    votes = tuple(Vote(one, share, 1, 0) for one, share in zip(results, shares, strict=True))
    place = find_winner(results)
    reply = replies[place]
    if logprobs and reply.text and reply.logprobs is None:
        _warn_no_logprobs(str(getattr(dspy.settings.lm, "model", "the model")))
    features = measure_draft(
        # By the log-probabilities, as the request's own count is that of all its choices.
        len(reply.logprobs) if reply.logprobs else shares[place],
        read_config(system_1).get("max_tokens"),
        cut_off=reply.cut_off,
        readable=results[place] is not None,
        logprobs=reply.logprobs,
        disagreement=measure_disagreement(results) if len(replies) > 1 else None,
    )
    return Draft(reply, features, votes, spent.tokens)


async def _draw_several(
    system_1: dspy.Module, inputs: dict[str, str], probes: int, logprobs: bool, keep: int
) -> Sequence[Reply]:
    left = room()
    allowed = None if left is None else max(0, left - keep)
    wanted = probes if allowed is None else max(1, min(probes, allowed // MIN_GRANT))
    try:
        with track(allowed):
            return await ask_many(system_1, "solve_1", inputs, wanted, logprobs=logprobs)
    except OutOfTokensError:
        return [Reply("")]


@lru_cache(maxsize=64)  # once for each model
def _warn_no_logprobs(model: str) -> None:
    logger.warning(
        "%s gives no log-probabilities: drafts are measured by their length and result alone", model
    )


def keep_draft(draft: Draft | None) -> dict[str, Any]:
    """What a Step records of its draft."""
    return {} if draft is None else {**draft.features, "result": draft.result}
