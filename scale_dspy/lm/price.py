"""What tokens cost: a price in US dollars, and a limit in response tokens or in dollars."""

from __future__ import annotations

import math
from dataclasses import dataclass

from scale_dspy.lm.tally import Tally

MILLION = 1_000_000


@dataclass(frozen=True)
class Price:
    """US dollars for a million tokens.

    Attributes:
        prompt: of prompt tokens.
        response: of response tokens, reasoning included.
        cached: of prompt tokens that the server's prefix cache held; None where they cost as much
            as others.
    """

    prompt: float
    response: float
    cached: float | None = None

    def charge(self, used: Tally) -> float:
        """What these tokens cost, in US dollars."""
        cached = self.prompt if self.cached is None else self.cached
        fresh = used.prompt_tokens - used.cached_tokens
        asked = fresh * self.prompt + used.cached_tokens * cached
        return (asked + used.completion_tokens * self.response) / MILLION


def read_price(text: str) -> Price:
    """The price that `IN,OUT` stands for, in US dollars for a million prompt and response tokens.

    Raises:
        ValueError: the text is not two numbers from 0.

    >>> read_price("0.5,2")
    Price(prompt=0.5, response=2.0, cached=None)
    """
    try:
        prompt, response = map(float, text.split(","))
    except ValueError:
        prompt = response = math.nan
    if not (0 <= prompt < math.inf and 0 <= response < math.inf):
        raise ValueError(
            f"a price is IN,OUT, in dollars for a million prompt and response tokens, not {text!r}"
        )
    return Price(prompt, response)


@dataclass(frozen=True)
class Limit:
    """The most that calls may cost together.

    Attributes:
        most: in response tokens, or in US dollars where there is a price.
        price: of the tokens; None where the limit counts response tokens.
    """

    most: float
    price: Price | None = None

    def measure(self, used: Tally) -> float:
        """How much of the limit these tokens take."""
        return used.completion_tokens if self.price is None else self.price.charge(used)

    def refuse(self, wanted: Tally) -> str:
        """The message that there is no room for a request that may cost this much."""
        if self.price is None:
            tokens = wanted.completion_tokens
            return f"the cost limit has no room for {tokens:,} response tokens more"
        cost = self.price.charge(wanted)
        return f"the cost limit has no room for a request that may cost {cost:,.6f} dollars"
