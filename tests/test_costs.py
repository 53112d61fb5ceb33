"""What runs cost: tokens and dollars as the server's own counts have them, and limits in money."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import dspy
import pytest

from scale_dspy import SCALE, connect, modes
from scale_dspy.baselines import ChainOfThought
from scale_dspy.evaluation.costs import COSTS, Terms, read_costs, read_terms
from scale_dspy.evaluation.rollout import read_rollouts
from scale_dspy.evaluation.run_status import read_status
from scale_dspy.evaluation.runner import evaluate
from scale_dspy.evaluation.summary import summarise
from scale_dspy.lm.chat import count_prompt_most, read_usage
from scale_dspy.lm.cost_limit import CostLimitError, limit_cost
from scale_dspy.lm.price import Price, read_price
from scale_dspy.lm.tally import Tally
from scale_dspy.program import load_program
from scale_dspy.report.report import read_report
from tests.command import backend, run
from tests.fake_vllm import FakeVLLM, Fault, fake_vllm
from tests.world import World, write_set

pytestmark = pytest.mark.usefixtures("own_disk_cache")

WORLD = World.noisy(3, parts=(1, 3), tokens_2=40)
PRICE = Price(3.0, 7.0)


@pytest.fixture
def problems(tmp_path: Path) -> Path:
    path = tmp_path / "set.jsonl"
    write_set(path, WORLD.problems(4))
    return path


def count_cached(server: FakeVLLM) -> int:
    return sum(chat.usage["prompt_tokens_details"]["cached_tokens"] for chat in server.chats())


def charge(server: FakeVLLM) -> float:
    """By the server's own counts."""
    totals = server.totals()
    return (3 * totals.prompt_tokens + 7 * totals.completion_tokens) / 1_000_000


def test_a_run_costs_what_the_server_counted(
    problems: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    with fake_vllm(WORLD, cached_tokens=True, delay=0.01) as server:
        flags = ("--samples", "2", "--out", str(out), "--price", "3,7", "--gpus", "4")
        code, text, err = run(capsys, "evaluate", str(problems), *flags, "--json", *backend(server))
        assert code == 0, err
        totals, cached, dollars = server.totals(), count_cached(server), charge(server)
    assert cached > 0
    summary = json.loads((out / "summary.json").read_text())
    assert summary == json.loads(text)
    counted = {
        "prompt_tokens": totals.prompt_tokens,
        "cached_tokens": cached,
        "response_tokens": totals.completion_tokens,
        "reasoning_tokens": totals.reasoning_tokens,
    }
    assert {name: summary[name] for name in counted} == counted
    assert summary["dollars"] == dollars
    assert f"{dollars:,.4f}" in err
    spent = read_costs(out / COSTS)["rollouts"]
    assert (spent.calls, spent.cached_tokens) == (totals.calls, cached)
    assert summary["gpu_seconds"] == pytest.approx(4 * summary["wall_seconds"], abs=0.01)
    assert summary["wall_seconds"] == pytest.approx(spent.seconds, abs=0.001)
    (reported,) = read_report([out]).runs
    assert dict(reported.summary) == summary
    status = read_status(out)
    assert (status.sent_tokens, status.dollars) == (totals.completion_tokens, dollars)
    # The price stays with the run, and a report can take another one.
    code, text, _ = run(capsys, "evaluate", str(problems), *flags[:4], "--json", *backend(server))
    again = json.loads(text)
    assert code == 0
    assert again["dollars"] == dollars
    assert again["wall_seconds"] == summary["wall_seconds"]
    (doubled,) = read_report([out], Terms(price=Price(6.0, 14.0), gpus=1)).runs
    assert doubled.summary["dollars"] == pytest.approx(2 * dollars)
    assert doubled.summary["gpu_seconds"] == pytest.approx(summary["wall_seconds"])


@pytest.mark.parametrize("limit", [0.02, 0.06])
def test_a_dollar_limit_is_never_passed_and_can_be_raised(
    limit: float, problems: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    flags = (
        "evaluate", str(problems), "--method", "cot", "--samples", "40", "--budget", "400",
        "--price", "3,7", "--out", str(out), "--threads", "8",
    )  # fmt: skip
    with fake_vllm(WORLD) as server:
        for factor in (1, 2):  # of all sessions together
            most = limit * factor
            code, _, err = run(capsys, *flags, "--dollar-limit", f"{most}", *backend(server))
            assert code == 1
            assert "the cost limit has no room for a request that may cost 0.0" in err
            assert most * 0.3 < charge(server) <= most
        done = read_status(out)
        assert done.dollars == pytest.approx(charge(server))
        assert done.dollars_left == pytest.approx(2 * limit - charge(server))
        assert done.state == "stopped"
        assert 0 < done.done < 160
        code, _, err = run(capsys, *flags, *backend(server))
        assert code == 0, err
        assert read_status(out).state == "finished"
    summary = json.loads((out / "summary.json").read_text())
    assert summary["dollars"] == pytest.approx(charge(server))


def test_a_token_limit_holds_for_a_run_too(tmp_path: Path) -> None:
    with fake_vllm(WORLD) as server:
        lm, out = connect(server.model, server.api_base, seed=0), tmp_path / "run"
        program = ChainOfThought(modes=modes("hybrid", solve_2={"max_tokens": 200}))
        with pytest.raises(CostLimitError):
            evaluate(program, WORLD.problems(4), lm, out, terms=Terms(cost_limit=1000))
        assert 500 < server.totals().completion_tokens <= 1000
        assert read_status(out).tokens_left == 1000 - server.totals().completion_tokens
        evaluate(program, WORLD.problems(4), lm, out, terms=Terms(cost_limit=10**6))
        assert read_status(out).done == 4 * 8


def test_tries_that_fail_count_against_a_dollar_limit() -> None:
    """What a server does not tell is taken to be the most that it may have been."""
    body = {"messages": [{"role": "user", "content": "x" * 1000}], "max_tokens": 100}
    one = PRICE.charge(Tally(prompt_tokens=count_prompt_most(body), completion_tokens=100))
    with fake_vllm(WORLD, faults=[Fault(cut_json=True)]) as server:
        lm = connect(server.model, server.api_base, num_retries=1, cache=False)
        with dspy.context(lm=lm), limit_cost(None, 2.5 * one, PRICE) as ledger:
            with pytest.raises(Exception, match=r"whole|JSON|reply|decode"):
                lm(messages=body["messages"], max_tokens=100)
            with pytest.raises(CostLimitError):
                lm(messages=body["messages"], max_tokens=100)
    assert len(server.chats()) == 2
    assert ledger.assumed_prompt == 2 * count_prompt_most(body)
    assert ledger.reserved == ledger.reserved_prompt == 0


def test_a_compile_tells_its_cost_and_keeps_to_a_dollar_limit(
    problems: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "p.json"
    flags = (
        "compile", str(problems), "--optimizer", "none", "--candidates", "1", "--caps", "300",
        "--out", str(out), "--price", "3,7", "--gpus", "2",
    )  # fmt: skip
    with fake_vllm(WORLD, cached_tokens=True) as server:
        low = ("--dollar-limit", "0.06")
        code, _, err = run(capsys, *flags, *low, *backend(server))
        assert code == 1, err
        assert 0 < charge(server) <= 0.06
        status = read_status(tmp_path / "p.compile")
        assert (status.state, status.stage) == ("stopped", "threshold")
        assert status.dollars_left == pytest.approx(0.06 - charge(server))
        code, text, err = run(capsys, *flags, "--dollar-limit", "5", "--json", *backend(server))
        assert code == 0, err
        cost = json.loads(text)["cost"]
        assert cost["dollars"] == pytest.approx(charge(server))
        assert cost["cached_tokens"] == count_cached(server)
        assert cost["gpu_seconds"] == pytest.approx(2 * cost["seconds"], abs=0.2)
        record = load_program(out).record
        assert record
        assert record["cost"] == cost
    status = read_status(tmp_path / "p.compile")
    assert status.state == "finished"
    assert status.done == status.total == 2
    assert status.sent_tokens == server.totals().completion_tokens


def test_a_frontier_and_traces_tell_what_they_cost(
    problems: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    priced = ("--price", "3,7")
    with fake_vllm(WORLD, cached_tokens=True) as server:
        flags = (str(problems), "--candidates", "1", "--out", str(tmp_path / "f"))
        code, _, err = run(capsys, "frontier", *flags, *priced, *backend(server))
        assert code == 0, err
        cost = json.loads((tmp_path / "f" / "frontier.json").read_text())["cost"]
        assert cost["dollars"] == charge(server)
        assert cost["cached_tokens"] == count_cached(server)
        assert cost["calls"] == len(server.chats())
        server.clear()
        flags = (str(problems), "--against", "none", "--out", str(tmp_path / "t.jsonl"))
        code, text, err = run(capsys, "traces", *flags, *priced, "--json", *backend(server))
        assert code == 0, err
        told = json.loads(text)["cost"]
        assert told["dollars"] == charge(server)
        assert told["cached_tokens"] == count_cached(server)
        card = (tmp_path / "t.card.md").read_text()
        assert f"| dollars | {charge(server):,.4f} |" in card
        assert f"| cached tokens, all rollouts | {count_cached(server):,} |" in card


def test_folders_from_before_costs_were_kept_still_load(tmp_path: Path) -> None:
    with fake_vllm(WORLD) as server:
        lm = connect(server.model, server.api_base, seed=0)
        found = evaluate(SCALE(candidates=1), WORLD.problems(2), lm, tmp_path, samples=1)
    path = tmp_path / "rollouts.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines:
        for stage in line["usage"].values():
            assert stage.pop("cached_tokens") == 0
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / COSTS).unlink()
    assert summarise(read_rollouts(path))["response_tokens"] == found["response_tokens"]
    (reported,) = read_report([tmp_path]).runs
    assert "wall_seconds" not in reported.summary
    assert read_status(tmp_path).sent_tokens is None
    evaluate(SCALE(candidates=1), WORLD.problems(2), lm, tmp_path, samples=1)
    assert read_status(tmp_path).sent_tokens is None  # nothing was sent since


def test_cached_tokens_are_believed_only_where_they_can_be() -> None:
    def read(cached: Any) -> int:
        told = {"prompt_tokens": 10, "completion_tokens": 1}
        usage, doubt = read_usage({**told, "prompt_tokens_details": cached}, 100)
        assert usage is not None
        assert not doubt
        return usage.cached_tokens

    assert read({"cached_tokens": 7}) == 7
    for odd in (None, 3, [], {}, *({"cached_tokens": each} for each in (None, -1, 11, "7", True))):
        assert read(odd) == 0


def test_cached_tokens_have_a_price_of_their_own_where_it_is_known() -> None:
    used = Tally(prompt_tokens=1000, cached_tokens=400, completion_tokens=100)
    assert Price(2, 10).charge(used) == pytest.approx(0.003)
    assert Price(2, 10, 0.5).charge(used) == pytest.approx((1200 + 200 + 1000) / 1e6)


@pytest.mark.parametrize("text", ["", "3", "1,2,3", "a,b", "-1,2", "nan,2", "1,inf", "$1,$2"])
def test_a_price_that_is_none_is_named(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="a price is IN,OUT"):
        read_price(text)
    code, _, err = run(capsys, "evaluate", "mini", f"--price={text}")
    assert code == 2
    assert err.startswith("scale-dspy: a price is IN,OUT")


@pytest.mark.parametrize(
    ("flag", "said"),
    [
        (("--gpus", "0"), "the number of GPUs"),
        (("--cost-limit", "0"), "a cost limit"),
        (("--dollar-limit", "0"), "a limit in dollars is above 0"),
        (("--dollar-limit", "nan"), "a limit in dollars is above 0"),
        (("--dollar-limit", "2"), "a limit in dollars needs a price"),
    ],
)
def test_limits_that_cannot_be_kept_are_refused_before_anything_is_asked(
    flag: tuple[str, str], said: str, problems: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str], server: FakeVLLM,
) -> None:  # fmt: skip
    out = ("--out", str(tmp_path / "run"))
    code, _, err = run(capsys, "evaluate", str(problems), *out, *flag, *backend(server))
    assert code == 2
    assert said in err
    assert not server.chats()


def test_damaged_terms_are_taken_for_not_said() -> None:
    told = {"price": {"prompt": 1, "response": 2}, "gpus": "many", "cost_limit": -3}
    assert read_terms(told) == Terms(price=Price(1, 2))
