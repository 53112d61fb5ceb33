"""Signals and ways to vote, replayed on passes whose truth is known."""

from __future__ import annotations

import itertools
import json
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from scale_dspy import SCALE
from scale_dspy.evaluation import selection
from scale_dspy.evaluation.passes import Pass, ProblemPasses
from scale_dspy.evaluation.rollout import Rollout
from scale_dspy.evaluation.selection import list_signals, replay, score_program, score_run
from scale_dspy.lm.tally import Tally
from scale_dspy.stages.votes import (
    count_passes,
    find_winner,
    group_results,
    is_settled,
    read_doubts,
)
from scale_dspy.step import Vote

COUNT = 8


@pytest.fixture(autouse=True)
def _fewer_orders(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selection, "ORDERS", 4)


def make_pass(right: bool, sure: float, chance: random.Random, tokens: int = 100) -> Pass:
    """A right pass finds 7, a wrong one any of four numbers; both show how sure they are."""
    result = "7" if right else str(chance.randrange(4))
    return Pass(result, right, tokens + chance.randrange(10), {"mean": sure, "length": 0.8})


def make_problems(count: int, tells: float, seed: int = 0, drafts: int = 4) -> list[ProblemPasses]:
    """Problems that a pass solves with chances from 0.2 to 1; by `tells` nats a token a wrong pass
    is less sure."""
    chance = random.Random(seed)
    drawn = []
    for number in range(count):
        ability = 0.2 + 0.8 * chance.random()

        def draw(skill: float, tokens: int) -> Pass:
            right = chance.random() < skill
            return make_pass(right, 0.1 + tells * (not right) + chance.random() / 9, chance, tokens)

        passes = tuple(draw(ability, 300) for _ in range(COUNT))
        given = tuple(draw(ability - 0.1, 60) for _ in range(drafts))
        drawn.append(ProblemPasses(f"a/{number}", "a", passes, given))
    return drawn


def test_a_signal_that_tells_is_told_from_one_that_does_not() -> None:
    for tells, low, high in ((0.5, 0.99, 1.0), (0.0, 0.3, 0.7)):
        told = list_signals(make_problems(40, tells))
        assert set(told) == {"pass", "draft"}
        for kind, count in (("pass", 8), ("draft", 4)):
            mean, fitted = told[kind]["mean"], told[kind]["estimate, fitted"]
            assert low <= mean["auroc"] <= high
            assert mean["auroc_interval"][0] <= mean["auroc"] <= mean["auroc_interval"][1]
            assert mean["passes"] == 40 * count
            if tells:
                assert fitted["auroc"] > 0.95
        agreement = told["pass"]["disagreement with all others"]
        assert agreement["auroc"] > told["pass"]["disagreement with one other"]["auroc"] > 0.6
    assert set(list_signals(make_problems(9, 0.5, drafts=0))) == {"pass"}


def test_ways_without_settings_are_what_votes_do_on_the_same_draws() -> None:
    drawn = make_problems(12, 0.2)
    told = {one["way"]: one for one in replay(drawn) if one["given"] is None}
    rng = np.random.default_rng(0)
    expected: dict[str, list[tuple[bool, int, int]]] = {}
    for each in drawn:
        for _ in range(selection.ORDERS):
            passes = [each.passes[k] for k in rng.permutation(COUNT)]
            results = [one.result for one in passes]
            ways = {f"vote {votes}": votes for votes in range(2, COUNT + 1)} | {"cot": 1}
            for stop in selection.STOPS:
                ways[f"adaptive vote at {stop:g}"] = count_passes(results, COUNT, stop)
            for way, count in ways.items():
                winner = passes[find_winner(results[:count])]
                tokens = sum(one.tokens for one in passes[:count])
                expected.setdefault(way, []).append((winner.right, tokens, count))
    for way, outcomes in expected.items():
        right, tokens, counts = np.mean(outcomes, axis=0)
        assert told[way]["accuracy"] == pytest.approx(right)
        assert told[way]["tok"] == pytest.approx(tokens)
        assert told[way]["passes"] == pytest.approx(counts)


def test_settings_are_chosen_on_other_problems_and_keep_to_what_they_are_given() -> None:
    drawn = make_problems(60, 0.5)
    told = {(one["way"], one["given"]): one for one in replay(drawn)}
    draft, weighed = told["draft gates votes", 2], told["weighed votes", 3]
    for one in (draft, weighed):
        assert one["to_fixed_interval"][0] > 0  # drafts tell, so tokens go where they pay
        assert one["tok"] < 1.1 * told[f"vote {one['given']}", None]["tok"]
    blind = {(one["way"], one["given"]): one for one in replay(make_problems(60, 0.0))}
    assert blind["draft gates votes", 2]["to_fixed"] < draft["to_fixed"]
    assert blind["weighed votes", 3]["to_fixed_interval"][0] < 0.02
    assert weighed["to_fixed"] > 0.05 + blind["weighed votes", 3]["to_fixed"]


def test_weighed_votes_are_those_of_the_program(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selection, "WEIGHED_STOPS", (0.8,))
    drawn = make_problems(12, 0.3)
    estimate = selection._fit([each.passes for each in drawn], [each.id for each in drawn])
    passes = [each.passes for each in drawn]
    prefixes = selection._weigh(selection._look_at(passes, 0), passes, estimate)
    outcome = selection._replay_all([prefixes])["weighed votes"][-1]  # of all passes
    for row, each in enumerate(drawn):
        for turn, order in enumerate(prefixes.orders[row]):
            votes: list[Vote] = []
            for most in (1, 2, 4, 8):
                votes += [
                    Vote(one.result, one.tokens, 2, 0, estimate(one.features))
                    for one in (each.passes[k] for k in order[len(votes) : most])
                ]
                results, doubts = [vote.result for vote in votes], read_doubts(votes)
                if is_settled(results, 0.8, doubts):
                    break
            winner = each.passes[order[find_winner(results, doubts)]]
            told = (outcome.right[row, turn], outcome.tokens[row, turn], outcome.passes[row, turn])
            assert told == (winner.right, sum(vote.tokens for vote in votes), len(votes))
    program = SCALE(0, split=1, votes=8, stop=0.8, weigh=True)
    program.pass_estimate = estimate
    scored = score_program("mine", program, drawn)
    assert scored["accuracy"] == pytest.approx(outcome.right.mean())
    assert scored["tok"] == pytest.approx(outcome.tokens.mean())


def test_only_what_passes_show_is_replayed_of_a_program() -> None:
    drawn = make_problems(4, 0.3)
    asked = SCALE(0, split=1, votes=2)
    asked.solve.whole.signature = asked.solve.whole.signature.with_instructions("Be brief.")
    for program in (SCALE(0.5, split=1), SCALE(0, split=0.5), asked):
        with pytest.raises(ValueError, match="mine cannot be replayed"):
            score_program("mine", program, drawn)
    with pytest.raises(ValueError, match="mine has 9 votes, and 8 passes are drawn"):
        score_program("mine", SCALE(0, split=1, votes=9), drawn)


def test_no_problem_is_scored_with_settings_chosen_on_it() -> None:
    drawn = make_problems(30, 0.5)
    chosen = selection._choose
    seen = []

    def spy(ways, name, given, known):  # type: ignore[no-untyped-def]
        seen.append(set(known.tolist()))
        return chosen(ways, name, given, known)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(selection, "_choose", spy)
        replay(drawn)
    folds = {frozenset(each) for each in seen}
    assert len(folds) == 5
    left_out = [set(range(30)) - each for each in folds]
    assert sorted(itertools.chain(*left_out)) == list(range(30))


def test_one_problem_is_too_few() -> None:
    with pytest.raises(ValueError, match="two problems"):
        replay(make_problems(1, 0.5))


def make_rollout(name: str, right: bool, tokens: int, sample: int = 0) -> Rollout:
    usage = {"solve_2": Tally(calls=1, completion_tokens=tokens)}
    answer = "7" if right else "8"
    return Rollout(
        id=name, sample=sample, answer=answer, correct=right, steps=(), usage=usage,
        seconds=1.0, error=None,
    )  # fmt: skip


def test_a_run_is_scored_on_the_problems_that_it_shares_with_the_passes() -> None:
    drawn = make_problems(12, 0.5)
    names = [each.id.removeprefix("a/") for each in drawn[:8]]
    rollouts = [make_rollout(name, True, 150) for name in names]
    told = score_run("run", [*rollouts, make_rollout("another", False, 9)], drawn)
    assert told is not None
    assert (told["problems"], told["accuracy"], told["tok"]) == (8, 1.0, 150.0)
    alone = replay(drawn[:8])
    cot = next(way["accuracy"] for way in alone if way["way"] == "cot")
    assert told["to_cot"] == pytest.approx(1 - cot)
    assert score_run("run", [make_rollout("another", True, 9)], drawn) is None
    more = make_rollout(names[0], True, 150, sample=1)
    with pytest.raises(ValueError, match="as many rollouts each"):
        score_run("run", [*rollouts, more], drawn)


def test_the_recipe_writes_a_table_a_picture_and_json(tmp_path: Path) -> None:
    lines = []
    for each in make_problems(8, 0.5):
        row = {"set": "a", "id": each.id, "gold": "7"}
        for key, passes in (("passes", each.passes), ("system_1", each.drafts)):
            row[key] = [  # type: ignore[assignment]
                {
                    "text": rf"\boxed{{{one.result}}}",
                    "tokens": one.tokens,
                    "finish_reason": "stop",
                    "logprobs": [-one.features["mean"]] * 20,
                }
                for one in passes
            ]
        lines.append(json.dumps(row))
    (tmp_path / "x.jsonl").write_text("\n".join(lines))
    files = {name: tmp_path / name for name in ("s.md", "s.png", "s.json")}
    recipe = Path(__file__).parents[1] / "optimize" / "selection.py"
    asked = [sys.executable, str(recipe), "replay", *[str(tmp_path / "x.jsonl")] * 2]
    asked += [f"--table={files['s.md']}", f"--picture={files['s.png']}", f"--out={files['s.json']}"]
    subprocess.run(asked, check=True, capture_output=True)
    table = files["s.md"].read_text()
    assert "## a: 8 problems" in table
    widths = Counter(line.count("|") for line in table.splitlines() if line.startswith("|"))
    assert set(widths) == {4, 9}
    assert files["s.png"].read_bytes().startswith(b"\x89PNG")
    assert set(json.loads(files["s.json"].read_text())["a"]) == {"problems", "signals", "ways"}


def test_equal_results_are_spelled_alike() -> None:
    results = ["1", "2.0", None, "2", "1/2", "0.5"]
    spelled = selection._spell(results)
    assert group_results(spelled) == group_results(results)
