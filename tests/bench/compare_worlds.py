"""The comparison of optimize/compare.py in simulated worlds, over several seeds, with the spread.

    python tests/bench/compare_worlds.py --seeds 3 --out runs/worlds

What it shows is whether tuning finds what is there to be found: in these worlds it is known
whether splitting helps, and one change of prompts is known to. It says nothing of any real model.
Run again, it does what is missing.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))


from scale_dspy import SCALE, connect
from scale_dspy.baselines import ChainOfThought
from scale_dspy.lm.cache import Store, use
from scale_dspy.tuning.comparison_table import ROWS, TableRow
from scale_dspy.tuning.dspy_comparison import Contest, run_contest
from scale_dspy.tuning.prompt_optimizers import Plan
from tests.fake_vllm import fake_vllm
from tests.world import World
from tests.writer import write_prompts

MAGIC = "with great care"
KINDS: dict[str, dict[str, Any]] = {
    "splitting helps": {"parts": (2, 5), "merge": 0.2},
    "mixed": {"parts": (1, 6), "merge": 0.12, "slip": 0.06},
    "splitting hurts": {"parts": (2, 5), "merge": -0.05, "slip": 0.1},
}


def run_world(kind: str, seed: int, out: Path, sizes: Sequence[int], calls: int) -> list[TableRow]:
    """All rows in one world; `sizes` are problems to train on, to choose on and to judge by."""
    knobs = {"magic": MAGIC, "magic_gain": 0.1, "ability_1": 0.4, "ability_2": 0.85, **KINDS[kind]}
    world = World.noisy(seed, **knobs)
    folder = out / f"{kind.replace(' ', '-')}-{seed}"
    use(Store(folder / "cache" / "replies.sqlite3"))
    train, val, test = sizes
    with fake_vllm(world, other=write_prompts(f"Solve it {MAGIC}.")) as server:
        contest = Contest(
            SCALE(candidates=1),
            ChainOfThought(),
            world.problems(train),
            world.problems(val, 1000),
            world.problems(test, 2000),
            connect(server.model, server.api_base, seed=seed),
            folder,
            Plan("gepa", rollouts=calls, threads=8, seed=seed),
        )
        with redirect_stdout(sys.stderr):  # GEPA and ReAnchor print
            return run_contest(contest)


def sum_up(runs: Sequence[list[TableRow]]) -> list[dict[str, Any]]:
    """Means over seeds, and the standard deviation between them."""
    summed = []
    for name in ROWS:
        rows = [row for run in runs for row in run if row["name"] == name]
        right = [100 * row["accuracy"] for row in rows]
        gaps = [100 * row["against"]["difference"] for row in rows if row["against"]]
        summed.append(
            {
                "name": name,
                "right": statistics.mean(right),
                "right_sd": statistics.stdev(right) if len(right) > 1 else 0.0,
                "tok": statistics.mean(row["tok"] for row in rows),
                "against": statistics.mean(gaps) if gaps else None,
                "against_range": [min(gaps), max(gaps)] if gaps else None,
                "metric_calls": statistics.mean(row["tuning"]["metric_calls"] for row in rows),
                "tokens": statistics.mean(row["tuning"]["response_tokens"] for row in rows),
            }
        )
    return summed


def render(kind: str, seeds: int, rows: Sequence[dict[str, Any]]) -> str:
    lines = [
        f"### {kind} ({seeds} seeds)",
        "",
        "| program | right, mean ± sd | tokens a problem | against cot+gepa, points: mean (range) "
        "| graded runs | tuning, response tokens |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        gap = ""
        if row["against"] is not None:
            low, high = row["against_range"]
            gap = f"{row['against']:+.1f} ({low:+.1f} to {high:+.1f})"
        lines.append(
            f"| {row['name']} | {row['right']:.1f} ± {row['right_sd']:.1f} | {row['tok']:,.0f} "
            f"| {gap} | {row['metric_calls']:,.0f} | {row['tokens']:,.0f} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--sizes", type=int, nargs=3, default=(12, 24, 60))
    parser.add_argument("--rollouts", type=int, default=100)
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=list(KINDS))
    parser.add_argument("--out", type=Path, default=Path("runs/worlds"))
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    tables, found = [], {}
    for kind in arguments.kinds:
        runs = [
            run_world(kind, seed, arguments.out, arguments.sizes, arguments.rollouts)
            for seed in range(1, arguments.seeds + 1)
        ]
        found[kind] = sum_up(runs)
        tables.append(render(kind, arguments.seeds, found[kind]))
        print(tables[-1], flush=True)
        (arguments.out / "worlds.md").write_text("\n".join(tables), encoding="utf-8")
        (arguments.out / "worlds.json").write_text(json.dumps(found, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
