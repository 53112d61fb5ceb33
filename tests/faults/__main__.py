"""Plays the whole table and prints it as Markdown.

python -m tests.faults [--only PATTERN] [--jobs 2]
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.faults.lives import Lives
from tests.faults.play import Outcome, Player, can_mount
from tests.faults.table import COMMANDS, TROUBLES, Trouble

NEED_ROOT = ("output", "full cache")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="cases whose fault and command match")
    parser.add_argument("--jobs", type=int, default=2, help="cases at a time")
    given = parser.parse_args()
    cases = [
        (name, trouble)
        for trouble in TROUBLES
        for name in COMMANDS
        if re.search(given.only, f"{trouble.name} {name}")
        and (can_mount() or trouble.special not in NEED_ROOT)
    ]
    began = time.monotonic()
    lives = Lives()
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(given.jobs) as pool:
        player = Player(lives, Path(folder))
        outcomes = list(pool.map(lambda case: play(player, *case), cases))
    lives.close()
    print(write_table(dict(zip([(n, t.name) for n, t in cases], outcomes, strict=True))))
    wrong = sum(bool(outcome.wrong) for outcome in outcomes)
    seconds = time.monotonic() - began
    print(f"\n{len(cases)} cases in {seconds:.0f} seconds, {wrong} of them not as they should be.")
    sys.exit(bool(wrong))


def play(player: Player, name: str, trouble: Trouble) -> Outcome:
    outcome = player.play(name, trouble)
    told = "; ".join(outcome.wrong) or "as it should be"
    print(f"{trouble.name} x {name}: {outcome.met}, {told}", file=sys.stderr, flush=True)
    return outcome


def write_table(outcomes: dict[tuple[str, str], Outcome]) -> str:
    """A row for each fault, a column for each command."""
    names = [name for name in COMMANDS if any(command == name for command, _ in outcomes)]
    rows = [f"| fault | {' | '.join(names)} |", f"|---|{'---|' * len(names)}"]
    for trouble in TROUBLES:
        cells = [_write_cell(outcomes.get((name, trouble.name))) for name in names]
        if any(cells):
            rows.append(f"| {trouble.name} | {' | '.join(cells)} |")
    return "\n".join(rows)


def _write_cell(outcome: Outcome | None) -> str:
    if outcome is None:
        return ""
    bad = f" **{'; '.join(outcome.wrong)}**" if outcome.wrong else ""
    kept = f", {outcome.kept} kept" if outcome.kept and outcome.met == "error" else ""
    return f"{outcome.met}{kept} ({outcome.requests}){bad}"


if __name__ == "__main__":
    main()
