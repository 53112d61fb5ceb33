"""TRL really trains on traces: five steps of optimize/finetune.py on a tiny model."""

from __future__ import annotations

import json
import math
import os
import subprocess
from pathlib import Path

import pytest

from scale_dspy import SCALE, connect
from scale_dspy.traces.traces import make_traces
from tests.fake_vllm import fake_vllm
from tests.vllm.server import find_python, make_model
from tests.world import World

ROOT = Path(__file__).parents[1]


@pytest.mark.vllm
@pytest.mark.parametrize(("suffix", "flags"), [("jsonl", []), ("parquet", ["--full"])])
def test_trl_trains_on_traces(suffix: str, flags: list[str], tmp_path: Path) -> None:
    world = World(parts=(1, 2), tokens_1=10, tokens_2=20)
    traces = tmp_path / f"traces.{suffix}"
    with fake_vllm(world) as server:
        lm = connect(server.model, server.api_base, seed=0)
        make_traces(SCALE(candidates=1), world.problems(8), lm, traces, against={})
    make_model(tmp_path / "tiny", "plain")
    arguments = ["--steps", "5", "--batch", "1", "--max-length", "1500", "--learning-rate", "0.01"]
    arguments += ["--model", str(tmp_path / "tiny"), "--out", str(tmp_path / "out"), *flags]
    said = run(str(ROOT / "optimize" / "finetune.py"), str(traces), *arguments)
    assert "of 8 records have at most 1500 tokens" in said
    losses = json.loads((tmp_path / "out" / "losses.json").read_text())["loss"]
    assert len(losses) == 5
    assert all(map(math.isfinite, losses))
    assert losses[-1] < losses[0]
    written = "model.safetensors" if flags else "adapter_model.safetensors"
    assert (tmp_path / "out" / written).stat().st_size > 10_000


def run(*arguments: str) -> str:
    """What a script says, run by the interpreter that has the extra `finetune` too."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    command = [str(find_python()), *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stderr
