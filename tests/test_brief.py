"""`--optimizer brief`: prompts at hand, measured like those that an optimizer finds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from scale_dspy import SCALE
from scale_dspy.baselines import ChainOfThought
from scale_dspy.program import load_program
from scale_dspy.tuning.prompt_optimizers import BRIEF, Job, Plan, run_optimizer
from tests.command import backend, run
from tests.fake_vllm import fake_vllm
from tests.world import World, write_set

pytestmark = pytest.mark.usefixtures("own_disk_cache")

ASKED = "Keep it short: one line for each step"


def read_instructions(program: Any) -> dict[str, str]:
    return {name: each.signature.instructions for name, each in program.named_predictors()}


def compile_briefly(
    capsys: pytest.CaptureFixture[str], world: World, *flags: str
) -> tuple[SCALE, list[bool]]:
    """The program that a compile wrote, and of each request that solves by System 2, in order,
    whether it asked for a short solution. Nothing else but these may be asked differently."""
    write_set(Path("set.jsonl"), world.problems(12))
    command = ["compile", "set.jsonl", "--optimizer", "brief", *flags, "--candidates", "1"]
    with fake_vllm(world) as server:
        command += [*backend(server), "--threads", "1", "--out", "p.json"]
        code, out, _ = run(capsys, *command, "--dry-run", "--json")
        assert (code, json.loads(out)["rollouts"]) == (0, 0)
        code, _, err = run(capsys, *command)
        assert code == 0, err
        asked = [(each.stage, ASKED in json.dumps(each.body)) for each in server.chats()]
    solving = ("whole", "solve_2")
    assert not any(short for stage, short in asked if stage not in solving)
    return load_program("p.json"), [short for stage, short in asked if stage in solving]


def test_brief_prompts_that_are_as_right_are_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    world = World(3, parts=(2, 3), ability_1=0.0, ability_2=2.0, brief=ASKED)
    program, asked = compile_briefly(capsys, world, "--whole")
    half = asked.index(True)
    assert asked == [False] * half + [True] * (len(asked) - half)
    assert read_instructions(program)["solve.whole"] == BRIEF["solve.whole"]
    record = program.record or {}
    stages = {stage["name"]: stage for stage in record["stages"]}
    assert list(stages) == ["start", "threshold", "prompts", "joint"]
    assert record["optimizer"] == "brief"
    assert stages["prompts"]["kept"] or stages["joint"]["kept"]
    assert stages["prompts"]["response_tokens"] == 0
    assert record["after"]["accuracy"] == stages["threshold"]["accuracy"] == 1.0
    assert record["after"]["tok"] < 0.7 * stages["threshold"]["tok"]


def test_brief_prompts_that_cost_accuracy_are_dropped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    # Its model slips in most solutions, unless it is told to check them, as by default it is.
    told = "result before you state it"
    world = World(3, parts=(1, 2), ability_2=2.0, slip=0.8, brief=ASKED, magic=told)
    program, asked = compile_briefly(capsys, world, "--limit", "6")
    assert True in asked
    assert read_instructions(program) == read_instructions(SCALE())
    kept = [stage["name"] for stage in (program.record or {})["stages"] if stage["kept"]]
    assert kept in (["start"], ["threshold"])
    plan = json.loads(Path("p.compile/compile.json").read_text())["plan"]
    assert "whole_only" not in plan  # as in folders of earlier versions, which go on


def test_brief_changes_the_instructions_of_system_2_and_nothing_else() -> None:
    for program, names in (
        (SCALE(), {"solve.whole", "solve.system_2"}),
        (ChainOfThought(), {"solve"}),
    ):
        before = read_instructions(program)
        job = Job(lambda *_: 0.0, None, [], [], Plan("brief"))  # type: ignore[arg-type]
        after = read_instructions(run_optimizer(program.deepcopy(), job))
        assert {name for name in before if before[name] != after[name]} == names
        assert read_instructions(program) == before
        assert all(ASKED in after[name] for name in names)
