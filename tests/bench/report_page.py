"""How long a report's page takes to write and to open, and how big it is.

python tests/bench/report_page.py [--rollouts 5000 100000]

The page compares four runs of made-up solutions about as long as real ones. Opening is timed in
Chromium, from the address to the grid, and then from a press of Enter to the solutions side by
side. Needs the extra `report` and Chromium.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from scale_dspy.report.report import write_report
from tests.browser import ask, open_page, press, wait_for

RUNS, SAMPLES = 4, 4
TRIES = 3  # of opening; the fastest counts, as others may use the machine
WORDS = (60, 300)  # of a solution, of its reasoning
LETTERS = "etaoinshrdlu"
_spell = random.Random(0)
VOCABULARY = ["".join(_spell.choices(LETTERS, k=_spell.randint(2, 9))) for _ in range(3000)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rollouts", type=int, nargs="+", default=[5_000, 100_000])
    for rollouts in parser.parse_args().rollouts:
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(measure(Path(folder), rollouts)), flush=True)


def measure(folder: Path, rollouts: int) -> dict[str, Any]:
    """The figures of a page on `rollouts` rollouts; seconds, and MB of a million bytes."""
    problems = rollouts // (RUNS * SAMPLES)
    folders = [write_run(folder / f"run-{number}", problems, number) for number in range(RUNS)]
    began = time.perf_counter()
    page = write_report(folders, folder / "page.html").page
    assert page
    written = time.perf_counter() - began
    places = [folder / f"browser-{number}" for number in range(TRIES)]
    for place in places:
        place.mkdir()
    times = [asyncio.run(time_opening(page, place)) for place in places]
    opened, read = (min(each) for each in zip(*times, strict=True))
    return {
        "rollouts": RUNS * SAMPLES * problems,
        "records MB": round(sum(size(each / "rollouts.jsonl") for each in folders), 1),
        "page MB": round(size(page), 1),
        "written in s": round(written, 1),
        "peak memory MB": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000),
        "opened in s": round(opened, 2),
        "solutions read in s": round(read, 2),
    }


def size(path: Path) -> float:
    return path.stat().st_size / 1e6


def write_run(folder: Path, problems: int, seed: int) -> Path:
    """A run as `evaluate` leaves it."""
    chance = random.Random(seed)
    folder.mkdir()
    told = {
        "method": "scale", "threshold": seed / RUNS, "model": "m", "data": "made-up",
        "digest": "d" * 16, "problems": problems, "samples": SAMPLES,
    }  # fmt: skip
    (folder / "run.json").write_text(json.dumps(told))
    with (folder / "rollouts.jsonl").open("w") as file:
        for number in range(problems):
            share = chance.random()
            for sample in range(SAMPLES):
                record = write_rollout(f"p-{number}", sample, chance.random() < share, chance)
                file.write(json.dumps(record) + "\n")
    return folder


def babble(words: int, chance: random.Random) -> str:
    """Words that compress about as well as real ones."""
    return " ".join(chance.choices(VOCABULARY, k=words))


def write_rollout(name: str, sample: int, right: bool, chance: random.Random) -> dict[str, Any]:
    problem = rf"Problem {name}: find $\frac{{q_1 + 7}}{{2}} \bmod 997$. {babble(30, chance)}"
    answer = "4" if right else "5"
    steps = [
        {
            "subproblem": problem if last else f"Part {part}: {babble(12, chance)}",
            "difficulty": chance.random(),
            "system": 2 if last else 1,
            "solution": rf"{babble(WORDS[0], chance)} so $q = \boxed{{{answer}}}$.",
            "reasoning": babble(WORDS[1], chance) if last else "",
            "tokens": sum(WORDS),
        }
        for part, last in enumerate((False, False, True))
    ]
    usage = {"solve_2": {"calls": 3, "prompt_tokens": 900, "completion_tokens": 500}}
    return {
        "id": name, "sample": sample, "problem": problem, "answer": answer, "gold": "4",
        "correct": right, "steps": steps, "usage": usage, "seconds": 3.0, "error": None,
        "groups": {"level": name[-1]},
    }  # fmt: skip


async def time_opening(page: Path, folder: Path) -> tuple[float, float]:
    """(seconds until the grid is there, seconds from Enter to the solutions); in a new browser."""
    async with open_page(page, folder) as call:
        await wait_for(call, "document.querySelectorAll('#grid-body tr').length > 0")
        started = await ask(call, "performance.now()")
        opened = time.perf_counter()
        await press(call, "Enter")
        await wait_for(call, "document.querySelectorAll('#reader-runs .step').length > 0")
        read = time.perf_counter() - opened
    return started / 1000, read


if __name__ == "__main__":
    main()
