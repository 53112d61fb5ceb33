"""Faults against commands: a few under the mark `slow`, the whole table under `faults`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.faults.lives import Lives
from tests.faults.play import Player, can_mount
from tests.faults.table import COMMANDS, TROUBLES, Trouble

SAMPLE = {
    ("JSON cut short, twice", "solve"),
    ("429, Retry-After a day, for good", "solve"),
    ("a window below max_tokens", "solve"),
    ("connection refused", "evaluate"),
    ("500, for good", "evaluate"),
}
NEED_ROOT = ("output", "full cache")


@pytest.fixture(scope="module")
def player(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Player]:
    lives = Lives()
    yield Player(lives, tmp_path_factory.mktemp("faults"))
    lives.close()


@pytest.mark.parametrize(
    ("name", "trouble"),
    [
        pytest.param(
            name,
            trouble,
            id=f"{trouble.name} x {name}",
            marks=pytest.mark.slow if (trouble.name, name) in SAMPLE else pytest.mark.faults,
        )
        for trouble in TROUBLES
        for name in COMMANDS
    ],
)
def test_fault(player: Player, name: str, trouble: Trouble) -> None:
    if trouble.special in NEED_ROOT and not can_mount():
        pytest.skip("a full disk needs root here")
    assert player.play(name, trouble).wrong == []
