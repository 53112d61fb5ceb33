"""A run in numbers: from the records of its rollouts to summary.json (Acc, Tok, Tpi)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, TypedDict

from typing_extensions import NotRequired

from scale_dspy.evaluation.rollout import Rollout
from scale_dspy.grading.answers import vote
from scale_dspy.lm.tally import Tally
from scale_dspy.utils.statistics import (
    bound_accuracy,
    bound_tokens,
    maj_at_k,
    pass_at_k,
)


class Outcome(NamedTuple):
    """The numbers of one rollout.

    Attributes:
        correct: 1 or 0; 0 for a failed rollout whatever its answer.
        answer: as given; None where there is none or the rollout failed.
        tokens: response tokens over all stages; None where unknown.
        calls: model calls; None where unknown.
        steps: solved sub-problems.
        hard: those of them that System 2 solved.
        seconds: wall-clock; None where unknown.
        failed: whether an error ended it.
        unread: whether it counts as wrong although the right value is at the end of its text.
        cut_off: whether the token limit ended one of its replies.
        replayed: calls that the cache answered.
        unknown: replies whose tokens the server did not report.
        cost: over all stages; None where unknown.
    """

    correct: int
    answer: str | None
    tokens: int | None
    calls: int | None
    steps: int
    hard: int
    seconds: float | None
    failed: bool
    unread: bool = False
    cut_off: bool = False
    replayed: int = 0
    unknown: int = 0
    cost: Tally | None = None


class Summary(TypedDict):
    """A run in numbers, ready for JSON. A number that the rollouts do not give is None.

    Attributes:
        problems: problems with at least one rollout.
        samples: k, the rollouts of a problem; if problems differ in it, the fewest.
        rollouts: all of them, failed ones included.
        accuracy: avg@k in [0, 1].
        accuracy_interval: [low, high].
        pass_at_k: share of problems that one of k samples solves, in [0, 1].
        maj_at_k: share of problems that the vote of all samples solves, in [0, 1].
        tok: response tokens a rollout, averaged as accuracy is.
        tok_interval: [low, high]; None where too few problems differ to know it.
        tpi: response tokens a sub-problem.
        hard_percent: sub-problems solved by System 2, in percent.
        calls: model calls a rollout.
        seconds: wall-clock seconds a rollout.
        errors: failed rollouts.
        unread: wrong ones with the right value at their end, which was not read as the answer.
        cut_off: those that hit the token limit.
        replayed: calls of all rollouts that the cache answered.
        drawn: calls of all rollouts that a server answered; None where unknown.
        unknown: replies whose tokens the server did not report, which count as 0 above.
        prompt_tokens, response_tokens: of all rollouts together; None where unknown.
        cached_tokens: those of the prompt tokens that the server's prefix cache held.
        reasoning_tokens: those of the response tokens that are reasoning.
        wall_seconds: of all sessions that sent a request; missing where unknown.
        gpu_seconds: wall_seconds times the number of GPUs; missing where that was not given.
        dollars: what all these tokens cost; missing where no price was given and LiteLLM has none.
    """

    problems: int
    samples: int
    rollouts: int
    accuracy: float
    accuracy_interval: list[float]
    pass_at_k: float
    maj_at_k: float | None
    tok: float | None
    tok_interval: list[float] | None
    tpi: float | None
    hard_percent: float | None
    calls: float | None
    seconds: float | None
    errors: int
    unread: int
    cut_off: int
    replayed: int
    drawn: int | None
    unknown: int
    prompt_tokens: int | None
    cached_tokens: int | None
    response_tokens: int | None
    reasoning_tokens: int | None
    wall_seconds: NotRequired[float]
    gpu_seconds: NotRequired[float]
    dollars: NotRequired[float]


def collect(rollouts: Iterable[Rollout]) -> dict[str, dict[int, Outcome]]:
    """Go through rollouts once, and keep only numbers and answers.

    Returns:
        Outcomes by problem id and sample, in the order of ids and samples.

    Raises:
        ValueError: two rollouts have the same id and sample.
    """
    read: dict[str, dict[int, Outcome]] = {}
    for number, rollout in enumerate(rollouts, 1):
        outcomes = read.setdefault(rollout.id, {})
        if rollout.sample in outcomes:
            raise ValueError(
                f"record {number} repeats sample {rollout.sample} of problem {rollout.id!r}"
            )
        outcomes[rollout.sample] = _measure(rollout)
    return {name: dict(sorted(read[name].items())) for name in sorted(read)}


def _measure(rollout: Rollout) -> Outcome:
    failed = rollout.error is not None
    return Outcome(
        correct=int(rollout.right),
        answer=None if failed else rollout.answer,
        tokens=rollout.tokens,
        calls=rollout.calls,
        steps=len(rollout.steps),
        hard=rollout.hard,
        seconds=rollout.seconds,
        failed=failed,
        unread=rollout.unread,
        cut_off=rollout.cut_off,
        replayed=rollout.replayed,
        unknown=rollout.unknown,
        cost=rollout.cost,
    )


def take_correct(run: Mapping[str, Mapping[int, Outcome]]) -> dict[str, list[int]]:
    """Take from what `collect` gives whether each sample is right, as `compare` wants it."""
    return {name: [one.correct for one in samples.values()] for name, samples in run.items()}


def take_tokens(run: Mapping[str, Mapping[int, Outcome]]) -> dict[str, list[int]]:
    """Take the known tokens of each sample, as `compare_tokens` wants them.

    A problem of which no sample's tokens are known is left out.
    """
    known = {
        name: [one.tokens for one in samples.values() if one.tokens is not None]
        for name, samples in run.items()
    }
    return {name: tokens for name, tokens in known.items() if tokens}


def summarise(rollouts: Iterable[Rollout]) -> Summary:
    """Summarise a run from its rollouts, in one pass.

    A failed rollout counts as wrong; its tokens, calls and seconds count where they are known.

    Raises:
        ValueError: there are no rollouts, or two have the same id and sample.
    """
    run = collect(rollouts)
    correct, tokens = take_correct(run), take_tokens(run)
    accuracy = bound_accuracy(correct)
    tok = bound_tokens(tokens) if tokens else None
    outcomes = [one for samples in run.values() for one in samples.values()]
    fewest = min(map(len, run.values()))
    steps = sum(one.steps for one in outcomes)
    replayed = sum(one.replayed for one in outcomes)
    calls = [one.calls for one in outcomes if one.calls is not None]
    costs = [one.cost for one in outcomes if one.cost is not None]
    cost = sum(costs, Tally()) if costs else None
    return Summary(
        problems=len(run),
        samples=fewest,
        rollouts=len(outcomes),
        accuracy=accuracy.estimate,
        accuracy_interval=[accuracy.low, accuracy.high],
        pass_at_k=pass_at_k(correct, fewest),
        maj_at_k=maj_at_k(_take_answers(run), correct, vote),
        tok=tok.estimate if tok else None,
        tok_interval=[tok.low, tok.high] if tok and math.isfinite(tok.high) else None,
        tpi=_tokens_a_step(outcomes),
        hard_percent=100 * sum(one.hard for one in outcomes) / steps if steps else None,
        calls=_mean_known(one.calls for one in outcomes),
        seconds=_mean_known(one.seconds for one in outcomes),
        errors=sum(one.failed for one in outcomes),
        unread=sum(one.unread for one in outcomes),
        cut_off=sum(one.cut_off for one in outcomes),
        replayed=replayed,
        drawn=sum(calls) - replayed if calls else None,
        unknown=sum(one.unknown for one in outcomes),
        prompt_tokens=cost.prompt_tokens if cost else None,
        cached_tokens=cost.cached_tokens if cost else None,
        response_tokens=cost.completion_tokens if cost else None,
        reasoning_tokens=cost.reasoning_tokens if cost else None,
    )


def _take_answers(run: Mapping[str, Mapping[int, Outcome]]) -> dict[str, list[str | None]]:
    return {name: [one.answer for one in samples.values()] for name, samples in run.items()}


def _mean_known(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _tokens_a_step(outcomes: Sequence[Outcome]) -> float | None:
    known = [(one.tokens, one.steps) for one in outcomes if one.tokens is not None]
    steps = sum(count for _, count in known)
    return sum(tokens for tokens, _ in known) / steps if steps else None
