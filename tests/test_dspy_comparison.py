"""The comparison: every row is tuned, judged and resumed; ReAnchor's cut is the program's tau."""

from __future__ import annotations

import json
from pathlib import Path

import dspy
import pytest

from scale_dspy import SCALE, connect
from scale_dspy.baselines import ChainOfThought
from scale_dspy.tuning.comparison_table import ROWS, render_rows
from scale_dspy.tuning.dspy_comparison import Contest, run_contest
from scale_dspy.tuning.prompt_optimizers import Plan
from scale_dspy.tuning.reanchor import DecidingSCALE, turn_into_cut, turn_into_tau
from tests.fake_vllm import FakeVLLM, fake_vllm
from tests.world import World
from tests.writer import write_prompts

pytestmark = pytest.mark.usefixtures("cache_on_disk")


def make_contest(server: FakeVLLM, world: World, out: Path, val: int = 4) -> Contest:
    return Contest(
        SCALE(candidates=1),
        ChainOfThought(),
        world.problems(3),
        world.problems(val, 50),
        world.problems(4, 100),
        connect(server.model, server.api_base, seed=0),
        out,
        Plan("gepa", rollouts=8, threads=4),
    )


def test_all_rows_are_tuned_judged_and_not_done_twice(tmp_path: Path) -> None:
    world = World.noisy(4, parts=(1, 3))
    with fake_vllm(world, other=write_prompts("Do it with care.")) as server:
        contest = make_contest(server, world, tmp_path / "out")
        rows = run_contest(contest)
        sent = len(server.chats())
        spent = server.totals().completion_tokens
        again = run_contest(contest)
        assert len(server.chats()) == sent
    assert [row["name"] for row in rows] == list(ROWS)
    assert again == rows
    by_name = {row["name"]: row for row in rows}
    assert by_name["cot+gepa"]["against"] is None
    assert all(row["against"] for row in rows if row["name"] != "cot+gepa")
    for name in ("cot", "scale"):
        assert by_name[name]["tuning"]["response_tokens"] == 0
    for name in ("cot+gepa", "scale+reanchor", "scale+threshold"):
        assert by_name[name]["tuning"]["metric_calls"] > 0
        assert by_name[name]["tuning"]["response_tokens"] > 0
    assert by_name["cot+gepa-matched"]["tuning"]["metric_calls"] > 2 * 8
    joint, alone = (by_name[name]["tuning"] for name in ("scale+joint", "scale+threshold"))
    assert joint["metric_calls"] > alone["metric_calls"]
    # Here it is tuned not to split: its prompts are then chain of thought's, and their rollouts
    # are those that GEPA has paid for in the row above.
    assert joint["response_tokens"] >= alone["response_tokens"]
    assert by_name["scale+threshold"]["split"] == 1
    tuned = sum(
        by_name[name]["tuning"]["response_tokens"]
        for name in (
            "cot+gepa",
            "cot+optimizer",
            "cot+gepa-matched",
            "scale+reanchor",
            "scale+joint",
        )
    )
    assert tuned < spent  # the rest was spent on the test problems
    table = (tmp_path / "out" / "table.md").read_text()
    assert table == render_rows(rows)
    assert json.loads((tmp_path / "out" / "table.json").read_text())["rows"] == rows
    with pytest.raises(ValueError, match="unknown rows"):
        run_contest(contest, ["magic"])


def test_reanchor_finds_a_threshold_that_helps(tmp_path: Path) -> None:
    """System 1 solves up to 0.2 only, so the cut has to fall from 0.5."""
    world = World(6, parts=(2, 3), ability_1=0.2, easy=(0.25, 0.45))
    with fake_vllm(world) as server:
        contest = make_contest(server, world, tmp_path, val=10)
        rows = run_contest(contest, ["scale", "scale+reanchor"])
    by_name = {row["name"]: row for row in rows}
    assert by_name["scale+reanchor"]["threshold"] < 0.45
    assert by_name["scale+reanchor"]["accuracy"] > by_name["scale"]["accuracy"]


def test_a_deciding_program_does_what_the_program_does() -> None:
    world = World.noisy(3, parts=(2, 3))
    with fake_vllm(world) as server:
        program = SCALE(0.37, candidates=1)
        with dspy.context(lm=connect(server.model, server.api_base, seed=0)):
            for example in world.problems(4):
                ours = program(problem=example.problem)
                theirs = DecidingSCALE.of(program)(problem=example.problem)
                assert ours.steps == theirs.steps
    for score in (0.0, 0.3, 0.37, 0.5, 1.0):
        for tau in (0.0, 0.3, 0.37, 0.999):
            assert (score > tau) == (score >= turn_into_cut(tau))
            assert turn_into_tau(turn_into_cut(tau)) == tau


def test_test_problems_stay_out_of_tuning(tmp_path: Path) -> None:
    world = World()
    with fake_vllm(world) as server:
        contest = make_contest(server, world, tmp_path)
        mixed = Contest(**{**contest.__dict__, "testset": world.problems(2)})
        with pytest.raises(ValueError, match="tuned on too"):
            run_contest(mixed)
        assert not server.requests
