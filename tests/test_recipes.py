"""The recipes in optimize/, run for real on two problems against the fake server."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from scale_dspy.program import load_program
from tests.fake_vllm import Spawned, spawn_fake_vllm
from tests.world import World, write_set

ROOT = Path(__file__).parents[1]
WORLD = World.noisy(parts=(1, 3))


@pytest.mark.slow
def test_paper_tables_runs_and_repeats_nothing(tmp_path: Path) -> None:
    data = write_set(tmp_path / "world.jsonl", WORLD.problems(2))
    with spawn_fake_vllm(WORLD) as server:
        arguments = ["--samples", "1", "--data", data, "--out", str(tmp_path / "runs")]
        calls = []
        for _ in range(2):
            run_recipe("paper_tables", server, tmp_path, *arguments)
            calls.append(len(server.log()))
    summaries = list(tmp_path.glob("runs/*/summary.json"))
    assert len(summaries) == 5 + 8 + 4
    assert calls[0] == calls[1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recipe", "sets", "arguments"),
    [
        ("threshold", 1, ["--budget", "3000"]),
        ("prompts", 2, ["--rollouts", "8"]),
        ("joint", 2, ["--optimizer", "bootstrap", "--candidates", "2"]),
    ],
)
def test_tuning_recipes_write_a_program(
    recipe: str, sets: int, arguments: list[str], tmp_path: Path
) -> None:
    data = write_sets(tmp_path, sets)
    with spawn_fake_vllm(WORLD) as server:
        run_recipe(recipe, server, tmp_path, *data, *arguments, "--out", str(tmp_path / "p.json"))
    assert 0 <= load_program(tmp_path / "p.json").threshold.value <= 1
    if recipe == "joint":
        assert {path.name for path in tmp_path.glob("p.*")} >= {"p.md", "p.messages.json"}


@pytest.mark.slow
def test_the_comparison_writes_a_table_and_pays_nothing_twice(tmp_path: Path) -> None:
    sets = write_sets(tmp_path, 3)
    out = tmp_path / "out"
    arguments = [*sets, "--rollouts", "6", "--candidates", "1", "--cap", "900", "--out", str(out)]
    rows = ["--rows", "cot", "cot+gepa", "scale+threshold"]
    with spawn_fake_vllm(WORLD) as server:
        calls = []
        for _ in range(2):
            run_recipe("compare", server, tmp_path, *arguments, *rows)
            calls.append(len(server.log()))
    assert calls[0] == calls[1]
    assert len((out / "table.md").read_text().splitlines()) == 2 + 3
    assert load_program(out / "scale+threshold" / "program.json").system_2_cap == 900


def run_recipe(recipe: str, server: Spawned, folder: Path, *arguments: str) -> None:
    command = [sys.executable, str(ROOT / "optimize" / f"{recipe}.py"), *arguments]
    command += ["--model", server.model, "--api-base", f"{server.url}/v1"]
    environment = {**os.environ, "SCALE_CACHE": str(folder / "cache")}
    subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True)


def write_sets(folder: Path, count: int) -> list[str]:
    """Sets of two problems each, all different."""
    return [
        write_set(folder / f"{number}.jsonl", WORLD.problems(2, 10 * number))
        for number in range(count)
    ]
