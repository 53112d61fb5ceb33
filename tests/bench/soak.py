"""A long `evaluate` while one request in twenty goes wrong: is anything lost, does memory grow?

python -m tests.bench.soak [--rollouts 5000] [--method cot]

The server has a process of its own and plays faults of ten kinds; the run has another. At the end
every rollout must have its line and no error, the accuracy must be the one in the server's own book
of right answers, and the tokens in the lines must be those that the server counted.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from tests.bench.memory import ROOT, SAMPLES, WORLD, show, watch
from tests.fake_vllm import Fault, Spawned, spawn_fake_vllm

SHARE = 0.005  # of the requests, for each kind of fault: with ten of them 5 %
TIMEOUT = 10  # seconds for a request
KINDS: tuple[dict[str, Any], ...] = (
    {"status": 500},
    {"status": 502},
    {"status": 503},
    {"status": 429},
    {"status": 429, "retry_after": 1},
    {"reset": "before"},
    {"reset": "middle"},
    {"cut_json": True},
    {"content_type": "text/html"},
    {"stall": TIMEOUT + 5.0},
)
FAULTS = [Fault(probability=SHARE, seed=seed, **kind) for seed, kind in enumerate(KINDS)]

RUN = """
import sys
from pathlib import Path
import dspy
from scale_dspy import connect
from scale_dspy.baselines import make_program
from scale_dspy.evaluation.runner import evaluate
from tests.bench.memory import SAMPLES, THREADS, WORLD
from tests.bench.soak import TIMEOUT
model, url, method, rollouts, out = sys.argv[1:]
examples = WORLD.problems(int(rollouts) // SAMPLES)
lm = connect(model, url + "/v1", seed=0, timeout=TIMEOUT)
evaluate(make_program(method), examples, lm, Path(out), samples=SAMPLES, threads=THREADS)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rollouts", type=int, default=5_000, help=f"a multiple of {SAMPLES}")
    parser.add_argument("--method", default="cot", help="cot or scale")
    given = parser.parse_args()
    options: dict[str, Any] = {"faults": FAULTS, "keep_bodies": False}
    with tempfile.TemporaryDirectory() as folder, spawn_fake_vllm(WORLD, **options) as fake:
        run = start_run(fake, given.method, given.rollouts, Path(folder))
        show(watch(run, Path(folder) / "out" / "rollouts.jsonl"), given.rollouts)
        lost = check(Path(folder) / "out", fake.totals(), given.rollouts)
    if run.returncode or lost:
        sys.exit(f"the run ended with {run.returncode}: {'; '.join(lost) or 'nothing lost'}")


def start_run(fake: Spawned, method: str, rollouts: int, folder: Path) -> subprocess.Popen[bytes]:
    """Begin a run in a process of its own, with a cache of its own, in `folder`/out."""
    return subprocess.Popen(
        [sys.executable, "-c", RUN, fake.model, fake.url, method, str(rollouts), folder / "out"],
        env={**os.environ, "SCALE_CACHE": str(folder / "cache"), "NO_PROXY": "127.0.0.1"},
        cwd=ROOT,
    )


def check(out: Path, totals: dict[str, Any], rollouts: int) -> list[str]:
    """Print what happened; returns in words what does not add up."""
    lines = [json.loads(line) for line in (out / "rollouts.jsonl").read_text().splitlines()]
    summary = json.loads((out / "summary.json").read_text())
    pairs = Counter((line["id"], line["sample"]) for line in lines)
    tokens = sum(s["completion_tokens"] for line in lines for s in line["usage"].values())
    booked = [right for verdicts in totals["right"].values() for right in verdicts]
    played = sum(totals["struck"].values())
    print(f"rollouts {len(pairs)}, errors {sum(bool(line['error']) for line in lines)}")
    print(f"requests {totals['requests']}, answered {totals['calls']}, faults played {played}:")
    for kind, count in sorted(totals["struck"].items()):
        print(f"  {kind}: {count}")
    print(f"requests sent again {totals['requests'] - totals['calls']}")
    print(f"accuracy {summary['accuracy']:.5f}, the world's own {sum(booked) / len(booked):.5f}")
    print(f"response tokens {tokens}, the server's own {totals['completion_tokens']}")
    checks = {
        "a rollout is missing or twice": len(lines) == len(pairs) == rollouts,
        "a rollout ended in an error": not any(line["error"] for line in lines),
        "accuracy differs": round(summary["accuracy"] * rollouts) == sum(booked),
        "tokens differ": tokens == totals["completion_tokens"],
        "a request is not accounted for": totals["requests"] == totals["calls"] + played,
    }
    return [name for name, holds in checks.items() if not holds]


if __name__ == "__main__":
    main()
