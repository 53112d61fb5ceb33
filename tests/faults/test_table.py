"""Some faults against some commands, files and clients; `python -m tests.faults` plays all."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults import door, files
from tests.faults.lives import Lives
from tests.faults.play import Player
from tests.faults.table import COMMANDS, TROUBLES, Trouble

SAMPLE = {
    ("JSON cut short, twice", "solve"),
    ("429, Retry-After a day, for good", "solve"),
    ("a window below max_tokens", "solve"),
    ("connection refused", "evaluate"),
    ("500, for good", "evaluate"),
}
CASES = [
    pytest.param(name, trouble, id=f"{trouble.name} x {name}")
    for trouble in TROUBLES
    for name in COMMANDS
    if (trouble.name, name) in SAMPLE
]


@pytest.fixture(scope="module")
def player(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Player]:
    lives = Lives()
    yield Player(lives, tmp_path_factory.mktemp("faults"))
    lives.close()


def test_the_sample_is_of_the_table() -> None:
    assert len(CASES) == len(SAMPLE)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "trouble"), CASES)
def test_fault(player: Player, name: str, trouble: Trouble) -> None:
    assert player.play(name, trouble).wrong == []


@pytest.mark.slow
def test_some_damaged_files_and_some_probes_of_the_door(player: Player, tmp_path: Path) -> None:
    lives = player.lives
    some = "run.json (is a pipe|is a link to a str|is nested).* x (status|stop|regrade|evaluate)$"
    played = dict(files.play_all(lives, tmp_path, jobs=2, only=some))
    assert len(played) == 12
    (tmp_path / "door").mkdir()
    played |= door.play_all(lives, tmp_path / "door", "^(two|model 's|body: n|a foreign)")
    assert len(played) > 24
    assert {name: wrong for name, wrong in played.items() if wrong} == {}
