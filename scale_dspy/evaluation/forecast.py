"""A forecast of a run before its first request: how many requests and tokens it needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import dspy

from scale_dspy.evaluation.costs import Terms
from scale_dspy.evaluation.rollout import sum_usage
from scale_dspy.evaluation.run_status import read_finished
from scale_dspy.lm.price import Price
from scale_dspy.lm.tally import Tally


@dataclass(frozen=True)
class Forecast:
    """What is left to do, and how many requests, tokens and dollars it takes.

    Attributes:
        problems, samples: of the whole run.
        done: rollouts, or walks, that are there already.
        missing: those to be made.
        requests: the least and the most for these, if every reply can be read at once.
        tokens: response tokens to expect for these; None if no finished records are known.
        measured: how many finished records the expectation is based on.
        dollars: to expect for these tokens and their prompts; None if no finished records or no
            price are known.
    """

    problems: int
    samples: int
    done: int
    missing: int
    requests: tuple[int, int]
    tokens: float | None
    measured: int
    dollars: float | None = None


def forecast(
    bounds: tuple[int, int],
    examples: Sequence[dspy.Example],
    samples: int,
    out: Path,
    like: Path | None = None,
    terms: Terms | None = None,
) -> Forecast:
    """Forecast a run with these arguments.

    Args:
        bounds: the least and the most requests of one rollout or walk.
        out: the folder it would work in.
        like: the folder of another run, from whose tokens to forecast; by default `out`.

    Raises:
        ValueError: `like` holds no records with known tokens.
    """
    wanted = {(str(example.id), sample) for example in examples for sample in range(samples)}
    done = {(each.id, each.sample) for each in read_finished(out)} & wanted
    missing = len(wanted) - len(done)
    measured, tokens, dollars = expect(missing, like or out, terms.price if terms else None)
    if like and not measured:
        raise ValueError(f"{like} holds no rollouts whose tokens are known")
    least, most = bounds
    return Forecast(
        problems=len(examples),
        samples=samples,
        done=len(done),
        missing=missing,
        requests=(least * missing, most * missing),
        tokens=tokens,
        measured=measured,
        dollars=dollars,
    )


def expect(missing: int, like: Path, price: Price | None) -> tuple[int, float | None, float | None]:
    """What `missing` records will cost, by the mean of the records in a folder: (how many of those
    have known tokens, response tokens, US dollars); None for what cannot be told."""
    costs = [sum_usage(each.usage) for each in read_finished(like) if each.tokens]
    if not costs:
        return 0, None, None
    spent, share = sum(costs, Tally()), missing / len(costs)
    dollars = None if price is None else share * price.charge(spent)
    return len(costs), share * spent.completion_tokens, dollars
