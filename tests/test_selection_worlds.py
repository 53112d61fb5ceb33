"""Worlds in which one way to select is known to be right: what a compile makes of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import dspy
import pytest

from scale_dspy import SCALE, connect
from scale_dspy.baselines import make_program
from scale_dspy.evaluation.rollout import ROLLOUTS, Rollout, read_pairs
from scale_dspy.evaluation.runner import evaluate
from scale_dspy.lm.connect import MeteredLM
from scale_dspy.method import Solver
from scale_dspy.program import load_program
from scale_dspy.utils.statistics import compare
from tests.command import backend, run
from tests.fake_vllm import FakeVLLM, fake_vllm
from tests.world import World, write_set

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("cache_on_disk")]

# What is asked for is noise; a wrong draft is half a nat a token less sure than a right one.
DRAFTS_TELL = World(5, parts=(2, 4), softness=0.03, ability_2=0.85, noise=2.0, tells=0.5)
# Passes over a problem are all right or all wrong.
VOTES_WASTED = World(3, parts=(1, 1), hard=(0.5, 0.95), ability_1=0.3, ability_2=0.7, tokens_2=60)
VOTES_PAY = replace(VOTES_WASTED, softness=0.2)
PASSES_TELL = replace(VOTES_PAY, tells=0.4)


def compile_there(
    server: FakeVLLM, world: World, capsys: pytest.CaptureFixture[str], out: Path, *flags: str
) -> SCALE:
    """What `compile` makes of 40 validation problems, with the prompts as they are."""
    train = write_set(out.with_suffix(".train.jsonl"), world.problems(2))
    valid = write_set(out.with_suffix(".valid.jsonl"), world.problems(40, 100))
    told = ["--optimizer", "none", "--candidates", "1", "--threads", "16", "--out", str(out)]
    code, _, err = run(
        capsys, "compile", train, "--valset", valid, *told, *flags, *backend(server)
    )  # fmt: skip
    assert code == 0, err
    return load_program(out)


Grades = tuple[dict[str, list[int]], float]


def measure(program: Solver, problems: list[dspy.Example], lm: MeteredLM, out: Path) -> Grades:
    """(each problem's outcome, response tokens a problem) on problems that no compile saw."""
    summary = evaluate(program, problems, lm, out, samples=1, threads=16)
    rollouts = read_pairs(Rollout, out / ROLLOUTS, problems, 1)
    return {each.id: [int(each.correct)] for each in rollouts}, float(summary["tok"] or 0)


def share(grades: Grades) -> float:
    return sum(value for (value,) in grades[0].values()) / len(grades[0])


@pytest.fixture
def drafts_tell() -> Iterator[FakeVLLM]:
    with fake_vllm(DRAFTS_TELL) as server:
        yield server


def test_where_asking_is_noise_and_drafts_tell_the_compile_takes_drafts_and_beats_all(
    drafts_tell: FakeVLLM, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lm = connect(drafts_tell.model, drafts_tell.api_base, seed=0)
    problems = DRAFTS_TELL.problems(80, 1000)
    baselines: dict[str, Solver] = {
        name: make_program(name, candidates=1) for name in ("cot", "majority", "scale", "last_step")
    }
    baselines["vote of 2"] = SCALE(0, 1, split=1, votes=2, stop=1)
    baselines["System 1"] = SCALE(1, 1, split=1)
    found = {
        name: measure(program, problems, lm, tmp_path / name) for name, program in baselines.items()
    }
    allowed = ("--budget", str(round(found["cot"][1])))
    asked = compile_there(
        drafts_tell,
        DRAFTS_TELL,
        capsys,
        tmp_path / "asked.json",
        "--assess",
        "in_context",
        *allowed,
    )
    found["asked, compiled"] = measure(asked, problems, lm, tmp_path / "asked")
    ours = compile_there(
        drafts_tell, DRAFTS_TELL, capsys, tmp_path / "x.json",
        "--assess", "in_context,draft", *allowed,
    )  # fmt: skip
    assert ours.timing == "draft"
    assert 0 < ours.threshold.value < 1
    tuned = measure(ours, problems, lm, tmp_path / "ours")
    assert tuned[1] <= found["cot"][1]
    for name, grades in found.items():
        effect = compare(tuned[0], grades[0]).effect
        told = (
            f"{name}: {share(grades):.2f} for {grades[1]:.0f}, {share(tuned):.2f}, {tuned[1]:.0f}"
        )
        assert effect.low > 0, told
    # No mixture of two baselines does as well for as many tokens either.
    points = sorted((tokens, share((grades, tokens))) for grades, tokens in found.values())
    for few, less in points:
        for many, more in points:
            if few <= tuned[1] <= many and few < many:
                mixed = less + (more - less) * (tuned[1] - few) / (many - few)
                assert share(tuned) > mixed + 0.05


@pytest.mark.parametrize(("world", "kept"), [(VOTES_WASTED, 1), (VOTES_PAY, 8)])
def test_the_compile_votes_where_that_pays_and_only_there(
    world: World, kept: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with fake_vllm(world) as server:
        program = compile_there(server, world, capsys, tmp_path / "x.json", "--votes", "1,8")
        assert program.votes == kept
        lm = connect(server.model, server.api_base, seed=0)
        problems = world.problems(60, 1000)
        tuned = measure(program, problems, lm, tmp_path / "ours")
        cot = measure(make_program("cot"), problems, lm, tmp_path / "cot")
        if kept == 1:
            assert share(tuned) == share(cot)
        else:
            assert share(tuned) > share(cot) + 0.05
        assert all(
            len([vote for vote in step.votes if vote.system == 2]) <= kept
            for rollout in read_pairs(Rollout, tmp_path / "ours" / ROLLOUTS, problems, 1)
            for step in rollout.steps
        )


def test_where_passes_tell_the_compile_weighs_votes_and_gains_by_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with fake_vllm(PASSES_TELL) as server:
        lm = connect(server.model, server.api_base, seed=0)
        problems = PASSES_TELL.problems(80, 1000)
        cot = measure(make_program("cot"), problems, lm, tmp_path / "cot")
        flags = ("--votes", "8", "--budget", str(round(2 * cot[1])), "--weigh")
        both = compile_there(server, PASSES_TELL, capsys, tmp_path / "both.json", *flags, "no,yes")
        plain = compile_there(server, PASSES_TELL, capsys, tmp_path / "plain.json", *flags, "no")
        assert both.weigh
        assert not plain.weigh
        assert both.pass_estimate != SCALE().pass_estimate  # fitted
        ours = measure(both, problems, lm, tmp_path / "ours")
        theirs = measure(plain, problems, lm, tmp_path / "theirs")
        assert compare(ours[0], cot[0]).effect.low > 0
        assert compare(ours[0], theirs[0]).effect.estimate > 0
        assert ours[1] < 2.2 * cot[1]
