"""The passes of System 2: one, or several in waves until their results agree. A pass that was cut
off is concluded by System 1."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import dspy

from scale_dspy.lm.cap import MIN_GRANT, OutOfTokensError, room
from scale_dspy.lm.usage import track
from scale_dspy.stages.ask import Reply, ask_many, ask_until_said, gather_all, read_config
from scale_dspy.stages.estimate import Estimate, measure_draft
from scale_dspy.stages.votes import (
    FIRST_WAVE,
    find_winner,
    is_settled,
    plan_waves,
    read_doubts,
    read_result,
)
from scale_dspy.step import Vote

DRAFT = 24_000  # characters of unfinished reasoning that are handed on, counted from its end
CONCLUSION = 256  # response tokens kept for a conclusion where System 1 sets no limit


@dataclass(frozen=True)
class Drawn:
    """All passes over one sub-problem, and which of them won."""

    replies: tuple[Reply, ...]
    votes: tuple[Vote, ...]
    winner: int

    @property
    def reply(self) -> Reply:
        return self.replies[self.winner] if self.replies else Reply("")


@dataclass(frozen=True)
class Solvers:
    """The predictor that makes a pass, the one that concludes a pass that was cut off, and the
    inputs of both.

    Attributes:
        system_2: makes a pass.
        inputs: of a pass.
        system_1: concludes from a draft, from the same inputs as `SolveDirectly` and the draft.
        unfinished: its inputs but for the draft.
    """

    system_2: dspy.Module
    inputs: dict[str, str]
    system_1: dspy.Module
    unfinished: dict[str, str]


async def draw_passes(
    solvers: Solvers,
    votes: int = 1,
    stop: float = 1.0,
    keep: int = 0,
    estimate: Estimate | None = None,
) -> Drawn:
    """Draw passes until their leading result is sure enough, see `votes.plan_waves`.

    A single pass that says nothing is asked for again; among several it is one without a result.

    Args:
        votes: the most passes; under a budget, no more than it has room for.
        stop: how sure the leader must be, in [0, 1]; see `votes.is_settled`.
        keep: response tokens that must be left for steps to come.
        estimate: weighs each vote by how likely its pass is to be wrong; the first wave is then a
            single pass. None counts all alike.
    """
    if votes == 1:
        with track() as spent:
            reply = await _think_once(solvers, keep)
        result = read_result(reply.text, reply.cut_off)
        return Drawn((reply,), (Vote(result, spent.tokens, 2, 0),), 0)
    left = room()
    if left is not None:
        votes = max(1, min(votes, (left - keep) // MIN_GRANT))
    replies: list[Reply] = []
    counted: list[Vote] = []
    first = FIRST_WAVE if estimate is None else 1
    for wave, most in enumerate(plan_waves(votes, stop, first)):
        wanted, drawn = most - len(replies), len(replies)
        with track() as spent:
            with track() as drawing:
                passes = await _draw_wave(
                    solvers, wanted, drawn, keep, logprobs=estimate is not None
                )
            ended = await _conclude_all(solvers, passes, keep)
        shares = share_tokens(ended, spent.tokens)
        replies += ended
        for reply, tokens in zip(ended, shares, strict=True):
            counted.append(Vote(read_result(reply.text, reply.cut_off), tokens, 2, wave))
        if estimate is not None:
            counted[drawn:] = _judge(counted[drawn:], passes, drawing.tokens, solvers, estimate)
        results, doubts = [vote.result for vote in counted], read_doubts(counted)
        if len(replies) < most or is_settled(results, stop, doubts):
            break
    winner = find_winner([vote.result for vote in counted], read_doubts(counted))
    return Drawn(tuple(replies), tuple(counted), winner)


async def conclude(solvers: Solvers, reply: Reply, keep: int = 0) -> Reply:
    r"""A pass as it is, or, where it was cut off before a result, what System 1 concludes from it.

    Every method ends its cut-off passes here, so that none is judged by a number that merely stood
    where its text broke off.
    """
    if not _lacks_result(reply):
        return reply
    work = f"{reply.reasoning}\n\n{reply.text}".strip()
    inputs = {**solvers.unfinished, "draft": work[-DRAFT:]}
    end = await ask_until_said(solvers.system_1, "solve_1", inputs, keep=keep)
    return Reply(end.text or reply.text, work, end.cut_off or not end.text)


def share_tokens(replies: Sequence[Reply], tokens: int) -> list[int]:
    """Divide the `tokens` of a request among its replies so that the parts add up to it: by their
    numbers of log-probabilities where each has some, else by the length of their texts."""
    sizes = [len(reply.logprobs or ()) for reply in replies]
    if not all(sizes):
        sizes = [1 + len(reply.text) + len(reply.reasoning) for reply in replies]
    total, ends, shares = sum(sizes), 0, []
    for size in sizes:
        begin = tokens * ends // total
        ends += size
        shares.append(tokens * ends // total - begin)
    return shares


async def _think_once(solvers: Solvers, keep: int) -> Reply:
    kept = keep + _keep_for_end(solvers, keep)
    reply = await ask_until_said(solvers.system_2, "solve_2", solvers.inputs, keep=kept)
    return await conclude(solvers, reply, keep)


async def _draw_wave(
    solvers: Solvers, wanted: int, drawn: int, keep: int, logprobs: bool
) -> Sequence[Reply]:
    """The passes of one wave; none where the budget is used up."""
    left = room()
    try:
        with track(None if left is None else max(0, left - keep)):
            return await ask_many(
                solvers.system_2,
                "solve_2",
                solvers.inputs,
                wanted,
                attempt=drawn,
                logprobs=logprobs,
            )
    except OutOfTokensError:
        return []


async def _conclude_all(solvers: Solvers, replies: Sequence[Reply], keep: int) -> Sequence[Reply]:
    """The passes of a wave with the conclusions of those that were cut off. No part of a budget is
    reserved for these: they share what the wave leaves, and a pass that cannot be concluded has no
    vote."""
    unfinished = sum(map(_lacks_result, replies))
    left = room()
    share = None if left is None else max(0, left - keep) // max(1, unfinished)
    return await gather_all(*(_conclude_within(share, solvers, one) for one in replies))


def _judge(
    votes: Sequence[Vote],
    passes: Sequence[Reply],
    tokens: int,
    solvers: Solvers,
    estimate: Estimate,
) -> Iterator[Vote]:
    """The votes of a wave with the doubt in each, estimated from its pass as that was before it was
    concluded: what is concluded from an unfinished pass is as uncertain as that pass."""
    shares = share_tokens(passes, tokens)
    for vote, one, share in zip(votes, passes, shares, strict=True):
        features = measure_draft(
            len(one.logprobs) if one.logprobs else share,
            read_config(solvers.system_2).get("max_tokens"),
            cut_off=one.cut_off,
            readable=read_result(one.text, one.cut_off) is not None,
            logprobs=one.logprobs,
        )
        yield replace(vote, doubt=estimate(features), features=features)


def _lacks_result(reply: Reply) -> bool:
    """Whether a pass was cut off before it stated a result in a box."""
    return reply.cut_off and r"\boxed" not in reply.text


async def _conclude_within(cap: int | None, solvers: Solvers, reply: Reply) -> Reply:
    with track(cap):
        return await conclude(solvers, reply)


def _keep_for_end(solvers: Solvers, keep: int) -> int:
    """Response tokens kept for System 1 to conclude from a draft; 0 without a budget."""
    left = room()
    if left is None:
        return 0
    longest = int(read_config(solvers.system_1).get("max_tokens") or CONCLUSION)
    return max(0, min(longest, (left - keep) // 4))
