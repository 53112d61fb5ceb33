"""Limits of tokens hold whatever a server tells of its usage, and whatever becomes of a try."""

from __future__ import annotations

import dspy
import pytest
from dspy.utils.exceptions import LMError

from scale_dspy import SCALE, connect
from scale_dspy.lm.cost_limit import CostLimitError, limit_cost
from scale_dspy.lm.event_loop import run
from tests.plain_server import Events, reply, serve

LYING = [
    {"prompt_tokens": 3, "completion_tokens": -500},
    {"prompt_tokens": -3, "completion_tokens": 5},
    {"completion_tokens": 5, "completion_tokens_details": {"reasoning_tokens": -9}},
    {"completion_tokens": -(10**30)},
    {"completion_tokens": 10**30},
    {"completion_tokens": 0.5},
    {"completion_tokens": "-5"},
    {"completion_tokens": True},
    {"completion_tokens": [5]},
]


@pytest.mark.parametrize("usage", LYING)
def test_a_budget_is_not_lifted_by_what_a_server_tells(usage: object) -> None:
    """Nothing below 0 is entered, nor what is no number: such a reply counts as the most."""
    with serve(reply("1. Find $x$.\n2. Find $y$, so \\boxed{7}", usage=usage)) as server:
        with dspy.context(lm=connect("m", server.api_base, cache=False)):
            prediction = SCALE(candidates=2)(problem="What is 3 + 4?", budget=1000)
        asked = [body["max_tokens"] * body.get("n", 1) for body in server.bodies]
    assert sum(asked) <= 1000
    assert all(tally["completion_tokens"] >= 0 for tally in prediction.usage.values())


@pytest.mark.parametrize(
    "failure",
    [
        (200, {}, "no object"),
        (200, {}, {"choices": None}),
        (500, {}, {"error": "x"}),
        (502, {}, "<html>"),
        (408, {}, {}),
        ...,
        Events(["{}", "nothing"], ends=False),
        Events([": blank"], ends=False),
    ],
    ids=str,
)
def test_a_try_that_fails_after_it_was_sent_costs_its_reservation(
    failure: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scale_dspy.lm.routing.FIRST_WAIT", 0.01)
    with serve(failure) as server:
        lm = connect("m", server.api_base, max_tokens=100, cache=False, timeout=0.5)

        def ask_on() -> None:
            for number in range(5):
                lm(f"question {number}")

        with limit_cost(250) as ledger, pytest.raises((CostLimitError, LMError)):
            ask_on()
        assert len(server.bodies) <= 2
        assert ledger.assumed_sent == 100 * len(server.bodies)


@pytest.mark.parametrize("status", [400, 401, 404, 422, 429, 503])
def test_a_try_that_a_server_refused_costs_nothing(
    status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scale_dspy.lm.routing.FIRST_WAIT", 0.01)
    with serve((status, {}, {"error": "no"})) as server:
        lm = connect("m", server.api_base, max_tokens=100, cache=False, num_retries=1)
        with limit_cost(100) as ledger:
            for number in range(3):
                with pytest.raises(LMError):
                    lm(f"question {number}")
        assert (ledger.assumed_sent, ledger.tokens) == (0, 0)
        assert len(server.bodies) >= 3


def test_a_streamed_reply_without_usage_costs_its_reservation() -> None:
    said = '{"choices": [{"index": 0, "delta": {"content": "7"}, "finish_reason": "stop"}]}'
    with serve(Events([said, "[DONE]"])) as server:
        lm = connect("m", server.api_base, max_tokens=100, cache=False)
        heard: list[tuple[str, str]] = []
        request = lm.make_request([{"role": "user", "content": "hi"}], {})
        with limit_cost(250) as ledger:
            run(lm.core.complete_here(request, lambda *piece: heard.append(piece)))
        assert heard == [("", "7")]
        assert (ledger.unknown, ledger.assumed_sent) == (1, 100)
