"""Walks of whole problems only: exact at split 1, no word of any other, and far fewer requests."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scale_dspy import SCALE
from scale_dspy.program import TIMINGS, Timing, load_program
from scale_dspy.tuning.decision import summarise_frontier
from scale_dspy.tuning.forecast import bound_walk
from scale_dspy.tuning.frontier import draw_frontier, list_curve, list_points
from scale_dspy.tuning.joint import compile_program
from scale_dspy.tuning.prompt_optimizers import Plan
from scale_dspy.tuning.threshold_sweep import walk_all
from tests.command import backend, run
from tests.fake_vllm import fake_vllm
from tests.test_frontier import join, list_cells, solve, sweep
from tests.world import World, write_set


@settings(max_examples=6, suppress_health_check=list(HealthCheck))
@given(
    seed=st.integers(0, 10_000),
    assess=st.sampled_from(TIMINGS),
    votes=st.sampled_from([1, 5]),
)
def test_a_frontier_of_whole_problems_is_exact_and_splits_none(
    seed: int, assess: Timing, votes: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    world = World.noisy(seed, parts=(1, 3), softness=0.25, tokens_2=40)
    examples = world.problems(2)
    program = SCALE(candidates=1, assess=assess, votes=votes)
    with fake_vllm(world) as server:
        lm = join(server, seed)
        folder = tmp_path_factory.mktemp("walks")
        walks = walk_all(program, examples, lm, folder, whole_only=True)
        sent = len(server.requests)
        assert not server.chats("decompose")
        frontier = draw_frontier(walks)
        assert frontier.splits.tolist() == [1.0]
        cells = list_cells(frontier)
        for _, tau, stop in random.Random(seed).sample(cells, min(12, len(cells))):
            outcomes = [solve(program.at(tau, 1, stop), each, 0, lm) for each in examples]
            expected = tuple(np.mean(outcomes, axis=0))
            assert frontier.read(tau, 1, stop) == pytest.approx(expected), (tau, stop)
        assert len(server.requests) == sent  # the walks had asked all there is to ask
        least, most = bound_walk(program, whole_only=True)
        assert least <= sent / len(examples) <= most
    assert {point["split"] for point in list_points(frontier)} == {1.0}
    assert {point["split"] for point in list_curve(frontier)} == {1.0}
    for split in (0.0, 0.5):
        with pytest.raises(ValueError, match="was not measured"):
            frontier.read(0.0, split)


def test_walks_of_whole_problems_are_those_of_all_problems_without_their_splits(
    tmp_path: Path,
) -> None:
    """Only the curves that split a problem are missing, and the rest is the same to the token; a
    folder goes on with walks of its own kind only."""
    world = World.noisy(7, parts=(1, 3))
    examples, program = world.problems(4), SCALE(candidates=1, assess="draft")
    with fake_vllm(world) as server:
        lm = join(server)
        part = walk_all(program, examples, lm, tmp_path / "whole", whole_only=True)
        sent = len(server.requests)
        for solved in ((0.0, 1.0), (1.0, 1.0), (0.5, 1.0)):
            sweep(program, examples, lm, *solved)
        assert len(server.requests) == sent
        full = walk_all(program, examples, lm, tmp_path / "all")
        assert len(server.requests) > 2 * sent
        assert walk_all(program, examples, lm, tmp_path / "whole", whole_only=True) == part
        for name, kind, begun in (
            ("whole", False, "of whole problems only"),
            ("all", True, "split their problems too"),
        ):
            with pytest.raises(ValueError, match=begun):
                walk_all(program, examples, lm, tmp_path / name, whole_only=kind)
    for one, other in zip(part, full, strict=True):
        assert one.whole_only
        assert not other.whole_only
        assert (one.split, one.rated) == ((), ())
        assert other.split
        assert (one.whole, one.plain, one.difficulty) == (
            other.whole,
            other.plain,
            other.difficulty,
        )
        assert one.right == one.plain[0].right
    for row in (tmp_path / "whole" / "walks.jsonl").read_text().splitlines():
        assert json.loads(row)["whole_only"] is True
    whole, every = draw_frontier(part), draw_frontier(full)
    for tau in (0.0, *whole.taus.tolist(), 1.0):
        assert whole.read(tau, 1) == pytest.approx(every.read(tau, 1))
    with pytest.raises(ValueError, match="some are not"):
        draw_frontier([part[0], full[1]])


def test_what_is_chosen_of_whole_problems_was_measured(tmp_path: Path) -> None:
    world = World.noisy(3, parts=(1, 3), softness=0.3)
    examples, program = world.problems(6), SCALE(candidates=1, votes=4)
    with fake_vllm(world) as server:
        walks = walk_all(program, examples, join(server), tmp_path, whole_only=True)
    found = summarise_frontier(walks, (0.5, 1.0), budget=100)
    for each in found["choices"].values():
        assert each["split"] == 1.0
        assert each["split_range"] == each["split_interval"] == [1.0, 1.0]
        assert "split," not in each["why"]
        assert each["runner_up"] is None or each["runner_up"]["split"] == 1.0
    with pytest.raises(ValueError, match="a split of 0 was not measured"):
        summarise_frontier(walks)
    failed = [replace(walk, whole=(), plain=(), error="LMError: gone") for walk in walks]
    lost = summarise_frontier(failed, (0.5, 1.0))
    assert [point["split"] for point in lost["points"]] == [1.0]


@pytest.mark.usefixtures("own_disk_cache")
def test_compile_of_whole_problems_writes_a_program_that_splits_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    world = World.noisy(4, parts=(2, 3), softness=0.3)
    write_set(Path("set.jsonl"), world.problems(8))
    SCALE(0.3, candidates=1, split=0.2).save("start.json")
    with fake_vllm(world) as server:
        flags = ["--optimizer", "none", "--votes", "4", "--program", "start.json", "--whole"]
        command = ["compile", "set.jsonl", *flags, *backend(server), "--out", "p.json"]
        code, out, _ = run(capsys, *command, "--dry-run", "--json")
        assert code == 0
        least, most = json.loads(out)["requests"]
        assert not server.requests
        code, out, err = run(capsys, *command, "--json")
        assert code == 0, err
        assert not server.chats("decompose")
        sent = len(server.requests)
        assert least <= sent <= most
        assert run(capsys, *command)[0] == 0
        assert len(server.requests) == sent
        without = [each for each in command if each != "--whole"]
        code, _, err = run(capsys, *without)
        assert (code, len(server.requests)) == (2, sent)
        assert "p.compile holds walks that are of whole problems only (--whole)" in err
        assert len(err.strip().splitlines()) == 1
        again = ["compile", "p.compile/compile.json", *backend(server), "--out", "p.json"]
        assert run(capsys, *again)[0] == 0
        assert len(server.requests) == sent
    program, record = load_program("p.json"), json.loads(out)
    assert program.split.value == 1.0
    assert program.record == record
    for point in (*record["stages"], *record["points"], record["before"], record["after"]):
        assert point["split"] == 1.0
    assert [each["name"] for each in record["baselines"]] == [
        "as it came",
        "whole, System 2",
        "whole, System 1",
    ]
    told = " ".join(record["told"])
    assert "split" not in told
    assert record["runner_up"] is None or record["runner_up"]["split"] == 1.0


@pytest.mark.usefixtures("own_disk_cache")
def test_a_folder_that_was_begun_with_splits_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    world = World(parts=(1, 2))
    path = write_set(Path("set.jsonl"), world.problems(2))
    with fake_vllm(world) as server:
        command = ["frontier", path, "--candidates", "1", *backend(server)]
        assert run(capsys, *command, "--whole", "--out", "a")[0] == 0
        assert not server.chats("decompose")
        found = json.loads(Path("a/frontier.json").read_text())
        assert {point["split"] for point in (*found["points"], *found["curve"])} == {1.0}
        assert run(capsys, "report", "a", "--out", "a.html")[0] == 0
        assert run(capsys, *command, "--out", "b")[0] == 0
        sent = len(server.requests)
        for flags, begun in ((["--whole", "--out", "b"], "split"), (["--out", "a"], "whole")):
            code, _, err = run(capsys, *command, *flags)
            assert (code, len(server.requests)) == (2, sent)
            assert begun in err
            assert "choose another --out" in err
            assert len(err.strip().splitlines()) == 1
        with pytest.raises(ValueError, match="has split 1, not 0"):
            compile_program(
                SCALE(),
                world.problems(1),
                world.problems(1, 9),
                join(server),
                tmp_path / "c",
                Plan("none", whole_only=True),
            )
