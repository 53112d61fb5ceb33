"""Account for what a run or a compile sends, and end it when a limit is reached."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path

from scale_dspy.evaluation.costs import Terms, read_costs, read_terms, sum_costs
from scale_dspy.evaluation.folder import read_description, write_json
from scale_dspy.lm.connect import MeteredLM
from scale_dspy.lm.cost_limit import limit_cost
from scale_dspy.lm.hosted import find_price
from scale_dspy.lm.tally import Tally
from scale_dspy.lm.usage import Ledger

NOTED = 1.0  # seconds between updates of the file with the costs


def complete_terms(terms: Terms | None, lm: MeteredLM, path: Path) -> Terms:
    """Terms with the price and the number of GPUs filled in, as far as they are known: those
    given, else those that an earlier session noted, else the price from LiteLLM's table.

    Args:
        lm: for a pair of models LiteLLM's table is not asked, as each has a price of its own.
        path: the description of the run or compile; it need not exist yet.
    """
    terms = terms or Terms()
    noted = read_terms(read_description(path)) if path.exists() else Terms()
    price = terms.price or noted.price
    if price is None and lm.partner is None:
        price = find_price(lm.model)
    return replace(terms, price=price, gpus=terms.gpus or noted.gpus)


@contextmanager
def pay(
    path: Path,
    stage: str,
    terms: Terms | None = None,
    keep: Tally | None = None,
    *,
    elsewhere: bool = False,
) -> Iterator[Ledger]:
    """Enter what the block sends to servers under `stage`, added to what earlier sessions sent.

    Args:
        path: the file with the cost of each stage.
        terms: their limits hold for all stages and sessions together.
        keep: an amount that is reserved for later stages.
        elsewhere: whether other processes send the requests, so that only the time is known.

    Raises:
        ValueError: the file cannot be read, or a limit cannot be kept.
    """
    costs = read_costs(path)
    spent = sum_costs(costs) + (keep or Tally())
    tokens, dollars = (terms or Terms()).leave(spent)
    if elsewhere and (tokens is not None or dollars is not None):
        raise ValueError("a cost limit holds for one process: leave out --engine ray")
    started = time.perf_counter()
    before = costs.get(stage, Tally())
    ended = threading.Event()

    def note() -> None:
        timed = elsewhere or ledger.cost.calls
        cost = replace(ledger.cost, seconds=time.perf_counter() - started if timed else 0.0)
        told = {**costs, stage: before + cost}
        write_json(path, {name: asdict(tally) for name, tally in told.items()})

    def note_until_ended() -> None:  # so a kill loses the last second at most
        while not ended.wait(NOTED):
            with suppress(OSError):
                note()

    with limit_cost(tokens, dollars, terms.price if terms else None) as ledger:
        noter = threading.Thread(target=note_until_ended, name="costs", daemon=True)
        noter.start()
        try:
            yield ledger
        except BaseException:
            ended.set()
            noter.join()
            with suppress(OSError):  # a removed folder must not hide what ended the block
                note()
            raise
        ended.set()
        noter.join()
        note()
