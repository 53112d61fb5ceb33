"""What a run or a compile cost in tokens, time and money, and limits on tokens and money.

A folder's costs.json holds, by stage, what reached a server over all sessions; it is written while
the run works, so that a kill loses little of it. Its run.json holds the price and the GPUs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scale_dspy.evaluation.folder import RUN, read_description
from scale_dspy.lm.price import Price
from scale_dspy.lm.tally import Tally
from scale_dspy.utils.files import read_file
from scale_dspy.utils.records import WrongFieldError, parse_json, read_record
from scale_dspy.utils.validation import check_whole

if TYPE_CHECKING:
    from scale_dspy.evaluation.summary import Summary

COSTS = "costs.json"


@dataclass(frozen=True)
class Terms:
    """What tokens and time cost, and the most that all sessions together may spend.

    Attributes:
        price: of the tokens; None where it is not known.
        gpus: how many GPUs serve the model; None where it was not given.
        cost_limit: response tokens; None for no limit.
        dollar_limit: US dollars; None for no limit.
    """

    price: Price | None = None
    gpus: int | None = None
    cost_limit: int | None = None
    dollar_limit: float | None = None

    def __post_init__(self) -> None:
        if self.gpus is not None:
            check_whole("the number of GPUs", self.gpus)
        if self.cost_limit is not None:
            check_whole("a cost limit", self.cost_limit)
        if self.dollar_limit is not None and not 0 < self.dollar_limit < math.inf:
            raise ValueError(f"a limit in dollars is above 0, not {self.dollar_limit:g}")

    def describe(self) -> dict[str, Any]:
        """Those that are set, for run.json."""
        return {key: value for key, value in asdict(self).items() if value is not None}

    def leave(self, spent: Tally) -> tuple[int | None, float | None]:
        """What is left of the limits after `spent`, in response tokens and US dollars; None for no
        limit.

        Raises:
            ValueError: there is a limit in dollars and no price.
        """
        tokens, dollars = self.cost_limit, self.dollar_limit
        if tokens is not None:
            tokens = max(0, tokens - spent.completion_tokens)
        if dollars is not None:
            if self.price is None:
                raise ValueError(
                    "a limit in dollars needs a price: give --price IN,OUT, as none is known for "
                    "this model"
                )
            dollars = max(0.0, dollars - self.price.charge(spent))
        return tokens, dollars


def read_terms(described: Mapping[str, Any]) -> Terms:
    """The terms in a run.json; a missing or damaged value counts as not given."""
    terms = Terms()
    for name in asdict(terms):
        with suppress(ValueError):
            one = read_record(Terms, {name: described.get(name)})
            terms = replace(terms, **{name: getattr(one, name)})
    return terms


def read_costs(path: Path) -> dict[str, Tally]:
    """What each stage has cost, by the stage's name; empty where there is no file.

    Raises:
        ValueError: the file cannot be read.
    """
    try:
        stages = parse_json(read_file(path))
        if not isinstance(stages, dict):
            raise ValueError("it holds no object")
        return {name: read_stage(name, tally) for name, tally in stages.items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read ({error}): choose another --out") from None


def read_stage(name: str, value: Any) -> Tally:
    """What one stage has cost; a ValueError that names the stage if the value is no Tally."""
    try:
        return read_record(Tally, value)
    except WrongFieldError as error:
        raise error.inside(name) from None


def sum_costs(costs: Mapping[str, Tally]) -> Tally:
    """What all stages have cost together."""
    return sum(costs.values(), Tally())


def describe_cost(spent: Tally, terms: Terms) -> dict[str, Any]:
    """A cost as plain data: tokens, calls and wall-clock seconds; GPU-seconds and US dollars where
    they are known."""
    told: dict[str, Any] = {
        "response_tokens": spent.completion_tokens,
        "prompt_tokens": spent.prompt_tokens,
        "cached_tokens": spent.cached_tokens,
        "reasoning_tokens": spent.reasoning_tokens,
        "calls": spent.calls,
        "seconds": round(spent.seconds, 1),
    }
    if terms.gpus is not None:
        told["gpu_seconds"] = round(spent.seconds * terms.gpus, 1)
    if terms.price is not None:
        told["dollars"] = terms.price.charge(spent)
    return told


def read_spending(folder: Path) -> dict[str, Any]:
    """What the run in a folder sent, over all sessions, in the form of `describe_cost`.

    Raises:
        ValueError: its run.json or costs.json cannot be read.
    """
    terms = read_terms(read_description(folder / RUN))
    return describe_cost(sum_costs(read_costs(folder / COSTS)), terms)


def read_cost(summary: Summary) -> dict[str, float]:
    """The part of a summary that is about cost, without what is unknown."""
    names = (
        *("prompt_tokens", "cached_tokens", "response_tokens", "reasoning_tokens"),
        *("wall_seconds", "gpu_seconds", "dollars"),
    )
    known: dict[str, float | None] = {name: dict(summary).get(name) for name in names}  # type: ignore[misc]
    return {name: value for name, value in known.items() if value is not None}


def add_cost(summary: Summary, folder: Path, terms: Terms) -> None:
    """Add to a summary what the run in `folder` cost in time and money.

    Seconds are those of all sessions that sent a request. They come from costs.json, which runs of
    earlier versions do not have. Dollars are what the tokens of all rollouts cost, including
    replies from the cache.
    """
    with suppress(ValueError):  # a damaged file must not prevent a report
        wall = sum_costs(read_costs(folder / COSTS)).seconds
        if wall:
            summary["wall_seconds"] = round(wall, 3)
            if terms.gpus is not None:
                summary["gpu_seconds"] = round(wall * terms.gpus, 3)
    if terms.price is not None and summary["prompt_tokens"] is not None:
        used = Tally(
            prompt_tokens=summary["prompt_tokens"],
            completion_tokens=summary["response_tokens"] or 0,
            cached_tokens=summary["cached_tokens"] or 0,
        )
        summary["dollars"] = terms.price.charge(used)
