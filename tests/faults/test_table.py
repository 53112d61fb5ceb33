"""Some faults against some commands; `python -m tests.faults` plays all."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

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
