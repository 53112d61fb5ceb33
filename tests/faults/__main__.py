"""Plays the whole table and prints it as Markdown.

python -m tests.faults [--only PATTERN] [--jobs 2] [--results FILE.jsonl]
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

from tests.faults import door, files
from tests.faults.lives import Lives
from tests.faults.play import Outcome, Player, can_mount
from tests.faults.table import COMMANDS, TROUBLES, Trouble

NEED_ROOT = ("output", "full cache")
NO_CASES = [("serve", "two processes, one output")]  # it writes none


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="cases whose fault and command match")
    parser.add_argument("--jobs", type=int, default=2, help="cases at a time")
    parser.add_argument(
        "--results", type=Path, help="kept as they come; what is there is not played"
    )
    given = parser.parse_args()
    cases = [
        (name, trouble)
        for trouble in TROUBLES
        for name in COMMANDS
        if re.search(given.only, f"{trouble.name} {name}")
        and (can_mount() or trouble.special not in NEED_ROOT)
        and (name, trouble.name) not in NO_CASES
    ]
    began = time.monotonic()
    outcomes = read_results(given.results)
    lives = Lives()
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(given.jobs) as pool:
        player = Player(lives, Path(folder))

        def play_one(case: tuple[str, Trouble]) -> None:
            name, trouble = case
            outcome = outcomes[name, trouble.name] = play(player, name, trouble)
            if given.results:
                line = json.dumps([name, trouble.name, asdict(outcome)])
                with given.results.open("a") as file:
                    file.write(line + "\n")

        missing = [(n, t) for n, t in cases if (n, t.name) not in outcomes]
        list(pool.map(play_one, missing))
        (Path(folder) / "files").mkdir()
        (Path(folder) / "door").mkdir()
        apart = [
            *files.play_all(lives, Path(folder) / "files", given.jobs, given.only),
            *door.play_all(lives, Path(folder) / "door", given.only),
        ]
    lives.close()
    shown = {(n, t.name): outcomes[n, t.name] for n, t in cases}
    print(write_table(shown))
    print(*(f"- {name}: **{'; '.join(told)}**" for name, told in apart if told), sep="\n")
    wrong = sum(bool(outcome.wrong) for outcome in shown.values())
    wrong += sum(bool(told) for _, told in apart)
    seconds = time.monotonic() - began
    print(
        f"\n{len(shown)} cases of the table, {len(missing)} of them in these {seconds:.0f} "
        f"seconds, and {len(apart)} of files and of the door: {wrong} not as they should be."
    )
    sys.exit(bool(wrong))


def read_results(path: Path | None) -> dict[tuple[str, str], Outcome]:
    """The outcomes of earlier runs, by command and fault."""
    if path is None or not path.exists():
        return {}
    lines = map(json.loads, path.read_text().splitlines())
    return {(name, fault): Outcome(**outcome) for name, fault, outcome in lines}


def play(player: Player, name: str, trouble: Trouble) -> Outcome:
    """Play a case and say on standard error what came of it."""
    try:
        outcome = player.play(name, trouble)
    except Exception as error:  # one case that could not be played does not end the others
        outcome = Outcome(met="not played", wrong=[f"{type(error).__name__}: {error}"[:300]])
    told = "; ".join(outcome.wrong) or "as it should be"
    print(
        f"{trouble.name} x {name}: {outcome.met}, {told} ({outcome.seconds:.0f} s)",
        file=sys.stderr,
        flush=True,
    )
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
