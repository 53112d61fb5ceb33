"""The joint compile with DSPy's real optimizers: what it learns, keeps, costs and survives."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import dspy
import pytest

from scale_dspy import SCALE, connect, modes
from scale_dspy.baselines import ChainOfThought
from scale_dspy.cli.commands.compile import divert_output
from scale_dspy.evaluation.costs import read_costs
from scale_dspy.evaluation.paying import NOTED
from scale_dspy.lm.cache import Store, use
from scale_dspy.lm.connect import MeteredLM
from scale_dspy.lm.cost_limit import CostLimitError
from scale_dspy.program import load_program
from scale_dspy.tuning import OPTIMIZERS
from scale_dspy.tuning.joint import compile_program
from scale_dspy.tuning.prompt_optimizers import Plan, check_optimizer, tune_prompts
from scale_dspy.tuning.threshold_search import change
from scale_dspy.utils.files import hold_folder
from tests.command import backend
from tests.fake_vllm import FakeVLLM, Fault, fake_vllm
from tests.world import World, write_set
from tests.writer import write_prompts

pytestmark = pytest.mark.usefixtures("cache_on_disk")

ROOT = Path(__file__).resolve().parents[1]


def join(server: FakeVLLM, seed: int = 0) -> MeteredLM:
    return connect(server.model, server.api_base, seed=seed)


def prompts_of(program: dspy.Module) -> dict[str, Any]:
    return {
        name: (predictor.signature.instructions, [dict(demo) for demo in predictor.demos])
        for name, predictor in program.named_predictors()
    }


SOLVE = """
import sys, json, dspy
from scale_dspy.lm.cache import use
from scale_dspy import connect
from scale_dspy.program import load_program
model, base, problem, *paths = sys.argv[1:]
use(None)
with dspy.context(lm=connect(model, base, seed=0)):
    solved = [load_program(path)(problem=problem) for path in paths]
print(json.dumps([[step.solution for step in each.steps] for each in solved]))
"""


@pytest.mark.slow
def test_every_optimizer_compiles_saves_and_loads(tmp_path: Path) -> None:
    world = World.noisy(4, parts=(1, 3))
    requests = modes("hybrid", solve_2={"max_tokens": 2000})
    program = SCALE(0.3, candidates=2, budget=5000, modes=requests)
    train, val, (example,) = world.problems(4), world.problems(3, 50), world.problems(1, 90)
    paths, here = [], []
    with fake_vllm(world, other=write_prompts("Do it with care.")) as server:
        lm = join(server)
        for optimizer in OPTIMIZERS:
            cache, folder = (
                tmp_path / optimizer / "cache" / "c.sqlite3",
                tmp_path / optimizer / "work",
            )
            use(Store(cache))
            spent, calls = server.totals().completion_tokens, len(server.chats())
            plan = Plan(optimizer, rollouts=12, threads=4)
            tuned = compile_program(program, train, val, lm, folder, plan)
            cost = (tuned.record or {})["cost"]
            assert cost["response_tokens"] == server.totals().completion_tokens - spent, optimizer
            assert cost["calls"] == len(server.chats()) - calls, optimizer
            assert tuned.options == program.options
            assert {name: each.config for name, each in tuned.named_predictors()} == {
                name: each.config for name, each in program.named_predictors()
            }
            paths.append(tmp_path / f"{optimizer}.json")
            tuned.save(paths[-1])
            loaded = load_program(paths[-1], requests)
            assert (loaded.record, prompts_of(loaded)) == (tuned.record, prompts_of(tuned))
            assert loaded.threshold.value == tuned.threshold.value
            assert loaded.split.value == tuned.split.value
            with dspy.context(lm=lm):
                solved = load_program(paths[-1])(problem=example.problem)
            here.append([step.solution for step in solved.steps])
            assert "127.0.0.1" not in paths[-1].read_text()
        arguments = [server.model, server.api_base, example.problem, *map(str, paths)]
        there = subprocess.run(
            [sys.executable, "-c", SOLVE, *arguments], capture_output=True, text=True, check=True
        )
    assert program.threshold.value == 0.3
    assert json.loads(there.stdout) == here


def test_prompts_that_are_tuned_are_kept_with_their_thresholds(tmp_path: Path) -> None:
    """One change of prompts is known to help, and the best threshold is not 0.5."""
    world = World(
        3, parts=(2, 4), hard=(0.6, 0.85), ability_1=0.2, ability_2=0.7, magic="with great care"
    )
    budget = 1500
    with fake_vllm(world, other=write_prompts("Solve it with great care.")) as server:
        tuned = compile_program(
            SCALE(candidates=1),
            world.problems(6),
            world.problems(10, 100),
            join(server),
            tmp_path / "work",
            Plan("gepa", budget=budget, rollouts=70, threads=8),
        )
        assert tuned.record is not None
        assert tuned.record["cost"]["response_tokens"] == server.totals().completion_tokens
    stages = {stage["name"]: stage for stage in tuned.record["stages"]}
    after = tuned.record["after"]
    assert after["tok"] <= budget
    assert tuned.threshold.value != 0.5
    assert any("great care" in text for text, _ in prompts_of(tuned).values())
    assert after["accuracy"] > stages["threshold"]["accuracy"]
    assert after["accuracy"] > stages["prompts"]["accuracy"]


def test_a_stage_that_does_not_help_is_dropped(tmp_path: Path) -> None:
    world = World(8, parts=(2, 3))  # free of chance: SCALE at 0.5 is always right already
    with fake_vllm(world, other=write_prompts("Do it.")) as server:
        plan = Plan("gepa", rollouts=10, threads=4)
        tuned = compile_program(
            SCALE(candidates=1),
            world.problems(3),
            world.problems(3, 9),
            join(server),
            tmp_path,
            plan,
        )
    assert prompts_of(tuned) == prompts_of(SCALE())
    kept = [stage["name"] for stage in tuned.record["stages"] if stage["kept"]]
    best = max(point["accuracy"] for point in tuned.record["points"])
    assert best >= tuned.record["after"]["accuracy"]
    assert kept in (["start"], ["threshold"])


@pytest.mark.parametrize(("tau", "used"), [(0.0, "solving"), (0.1, "rating")])
def test_gepa_rewrites_only_prompts_that_are_used(tau: float, used: str) -> None:
    """Its own turns begin with decompose, of which a program that never splits has no run, and go
    on with the rating, which decides nothing at the ends of the thresholds."""
    world = World(8, parts=(2, 3), whole_2=0.0)
    program = SCALE(tau, candidates=1, split=1.0)
    with fake_vllm(world, other=write_prompts("Do it.")) as server:
        plan = Plan("gepa", rollouts=8, threads=4)
        tune_prompts(program, world.problems(3), world.problems(3, 9), join(server), plan)
        asked = [
            each.body for each in server.chats("whole") if write_prompts("")(each.body) is not None
        ]
    proposals = [str(body["messages"]) for body in asked]
    assert proposals
    predictor = program.assess.rate if used == "rating" else program.solve.whole
    assert predictor.signature.instructions[:60] in proposals[0]


def test_what_gepa_finds_for_whole_problems_serves_chain_of_thought_too() -> None:
    """In this world System 2 slips in most passes, unless its prompt asks for care."""
    world = World(6, parts=(2, 3), ability_2=2.0, slip=0.6, magic="with great care")
    program, cot = SCALE(0.0, candidates=1, split=1.0), ChainOfThought()
    unseen = world.problems(8, 100)
    with fake_vllm(world, other=write_prompts("Solve it with great care.")) as server:
        lm, plan = join(server), Plan("gepa", rollouts=30, threads=4)
        tuned = tune_prompts(program, world.problems(4), world.problems(6, 50), lm, plan)
        cot.solve.load_state(tuned.solve.whole.dump_state())
        with dspy.context(lm=lm):
            right = [
                [each(problem=one.problem).answer == one.answer for one in unseen]
                for each in (program, tuned, cot)
            ]
    before, after = prompts_of(program), prompts_of(tuned)
    assert [name for name in before if before[name] != after[name]] == ["solve.whole"]
    assert not all(right[0])
    assert all(right[1])
    assert right[2] == right[1]


def test_a_second_compile_in_the_folder_is_kept_out(tmp_path: Path) -> None:
    world, folder = World.noisy(4, parts=(1, 3)), tmp_path / "work"
    sets = world.problems(2), world.problems(2, 50)
    with fake_vllm(world) as server:
        with hold_folder(folder), pytest.raises(ValueError, match="in use by another run"):
            compile_program(SCALE(), *sets, join(server), folder, Plan("none", threads=4))
        assert not server.chats()
        assert [path.name for path in folder.iterdir()] == [".lock"]


def test_an_interrupted_compile_goes_on_and_pays_nothing_twice(tmp_path: Path) -> None:
    world = World.noisy(5, parts=(1, 3))
    program, plan = SCALE(candidates=2), Plan("bootstrap", threads=4)
    sets = world.problems(4), world.problems(4, 50)
    with fake_vllm(world) as server:
        lm = join(server)
        whole = compile_program(program, *sets, lm, tmp_path / "a", plan)
        sent = len(server.requests)
        again = compile_program(program, *sets, lm, tmp_path / "a", plan)
        assert len(server.requests) == sent
        assert again.record["cost"]["response_tokens"] == whole.record["cost"]["response_tokens"]
        with pytest.raises(ValueError, match="its plan is"):
            compile_program(program, *sets, lm, tmp_path / "a", Plan("simba", threads=4))
        (tmp_path / "a" / "prompts.json").unlink()  # as if it had stopped in the middle of them
        third = compile_program(program, *sets, lm, tmp_path / "a", plan)
        assert len(server.requests) == sent
    assert prompts_of(third) == prompts_of(whole)


def test_a_compile_goes_on_with_a_tenth_of_its_walks_failed_and_not_with_more(
    tmp_path: Path,
) -> None:
    world = World.noisy(5, parts=(1, 2))
    program, plan = SCALE(candidates=1), Plan("none", threads=1)
    sets = world.problems(1), world.problems(10, 50)
    with fake_vllm(world) as server:
        server.play(Fault(stage="decompose", nth=(1, 3), status=400))
        with pytest.raises(RuntimeError, match="2 of 10 walks failed, too many to choose by"):
            compile_program(program, *sets, join(server), tmp_path / "a", plan)
        lm = join(server, 1)
        server.play(Fault(stage="decompose", nth=1, status=400))
        one_failed = compile_program(program, *sets, lm, tmp_path / "b", plan)
        assert "1 of 10 walks failed in the search 'threshold'" in one_failed.record["notes"][0]
        server.play()
        whole = compile_program(program, *sets, lm, tmp_path / "b", plan)
        assert whole.record["notes"] == []
        assert whole.record["after"]["problems"] == 10


COMPILE = """
import sys
from scale_dspy.cli import main as cli
sys.exit(cli.main(["compile", "set.jsonl", "--optimizer", "none", "--threads", "2", *sys.argv[1:]]))
"""


@pytest.mark.slow
def test_what_a_compile_cost_is_known_after_it_is_killed(tmp_path: Path) -> None:
    """All but what was sent since the last note, at most some NOTED seconds before the kill."""
    world = World.noisy(5, parts=(1, 3))
    write_set(tmp_path / "set.jsonl", world.problems(8))
    costs = tmp_path / "p.compile" / "costs.json"
    environment = {**os.environ, "SCALE_CACHE": str(tmp_path / "own"), "NO_PROXY": "127.0.0.1"}
    with fake_vllm(world, delay=0.1) as server:
        command = [sys.executable, "-c", COMPILE, *backend(server), "--out", "p.json"]
        process = subprocess.Popen(
            command, cwd=tmp_path, env={**environment, "PYTHONPATH": str(ROOT)}
        )
        deadline = time.monotonic() + 120
        while not read_costs(costs) and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(0.5)
        process.kill()
        process.wait()
        killed = time.monotonic()
        time.sleep(0.3)  # for what was on its way
        noted, sent = read_costs(costs)["threshold"], server.totals()
        early = [chat for chat in server.chats() if chat.end < killed - 2 * NOTED]
        assert len(early) <= noted.calls <= sent.calls
        server.options = replace(server.options, delay=0.0)
        again = subprocess.run(
            command, cwd=tmp_path, env={**environment, "PYTHONPATH": str(ROOT)}, timeout=120
        )
        assert again.returncode == 0
        whole, record = server.totals(), load_program(tmp_path / "p.json").record
        lost = sent.completion_tokens - noted.completion_tokens
        assert record["cost"]["response_tokens"] == whole.completion_tokens - lost


def test_the_cost_limit_is_kept_and_leaves_the_thresholds(tmp_path: Path) -> None:
    world = World.noisy(5, parts=(1, 3), tokens_2=40)
    requests = modes(
        "hybrid", **{stage: {"max_tokens": 300} for stage in ("decompose", "solve_1", "solve_2")}
    )
    program = SCALE(candidates=1, modes=requests)
    sets = world.problems(4), world.problems(4, 50)
    with fake_vllm(world, other=write_prompts("Do it.")) as server:
        free = compile_program(program, *sets, join(server), tmp_path / "free", Plan("none"))
        paid = free.record["cost"]["response_tokens"]
    use(Store(tmp_path / "new" / "c.sqlite3"))
    with fake_vllm(world, other=write_prompts("Do it.")) as server:
        limit = paid + 1000
        plan = Plan("gepa", rollouts=40, threads=4, cost_limit=limit)
        tuned = compile_program(program, *sets, join(server), tmp_path / "b", plan)
        assert server.totals().completion_tokens <= limit
        assert tuned.record["cost"]["response_tokens"] == server.totals().completion_tokens
        assert "cost limit" in tuned.record["notes"][0]
        assert tuned.threshold.value == free.threshold.value
        with pytest.raises(CostLimitError):
            compile_program(
                program, *sets, join(server, 7), tmp_path / "c", Plan("none", cost_limit=100)
            )


def test_bad_plans_are_refused_before_anything_is_spent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for bad in ({"optimizer": "magic"}, {"budget": 0}, {"samples": 0}, {"cost_limit": 0}):
        with pytest.raises(ValueError, match=r"not|unknown"):
            Plan(**bad)  # type: ignore[arg-type]
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match="needs optuna"):
        check_optimizer("mipro")
    world = World()
    with fake_vllm(world) as server:
        both = world.problems(2)
        with pytest.raises(ValueError, match="in both"):
            compile_program(SCALE(), both, both[:1], join(server), tmp_path, Plan("none"))
        with pytest.raises(ValueError, match="at least one"):
            compile_program(SCALE(), both, [], join(server), tmp_path, Plan("none"))
        assert not server.requests


def test_the_cap_of_system_2_is_tuned_kept_and_told(tmp_path: Path) -> None:
    """Cut off at 60 tokens System 2 errs, and at 2,000 it does not; 4,000 are no better."""
    world = World(9, parts=(2, 3), ability_1=0.2)
    requests = modes("hybrid", solve_2={"max_tokens": 8000})
    program = SCALE(candidates=1, system_2_cap=60, modes=requests)
    assert program.solve.system_2.config["max_tokens"] == 60
    caps = [{"system_2_cap": cap} for cap in (2000, 4000)]
    with fake_vllm(world) as server:
        plan = Plan("none", threads=8, variants=caps)
        sets = world.problems(2), world.problems(8, 50)
        tuned = compile_program(program, *sets, join(server), tmp_path / "work", plan)
        tuned.save(tmp_path / "tuned.json")
        loaded = load_program(tmp_path / "tuned.json", requests)
        with dspy.context(lm=join(server)):
            loaded(problem=world.problem(200).text)
    assert loaded.options["system_2_cap"] == 2000
    assert loaded.solve.system_2.config == tuned.solve.system_2.config
    assert loaded.solve.system_2.config["max_tokens"] == 2000
    record = tuned.record or {}
    assert record["stages"][1]["variant"] == {"system_2_cap": 2000}
    assert {each["name"] for each in record["baselines"]} == {
        "as it came",
        "whole, System 2",
        "whole, System 1",
    }
    start = record["baselines"][0]
    assert start["accuracy"] == record["before"]["accuracy"]
    gained = record["after"]["accuracy"] - start["accuracy"]
    assert start["difference"] == pytest.approx(gained)
    low, high = start["difference_interval"]
    assert low <= gained <= high
    assert gained > 0
    told = " ".join(record["told"])
    assert f"{100 * gained:+.1f} points" in told
    assert f"{record['held_out']:.1%} are right" in told
    owed = record["after"]["accuracy"] - record["held_out"]
    worst = 100 * (owed - record["baselines"][1]["difference_interval"][0])
    risk = f"up to {worst:.1f} points worse" if worst >= 0.05 else "no worse, also by chance"
    assert risk in record["told"][3]
    with pytest.raises(ValueError, match="not lifted"):
        change(tuned, {"system_2_cap": None})
    for bad in (0, True, 1.5):
        with pytest.raises(ValueError, match="a cap is"):
            SCALE(system_2_cap=bad)  # type: ignore[arg-type]


def test_two_that_share_the_log_of_optimizers_both_leave_it(tmp_path: Path) -> None:
    log = tmp_path / "p.compile" / "optimizer.log"
    with divert_output(log), divert_output(log):
        pass
    assert not log.exists()
