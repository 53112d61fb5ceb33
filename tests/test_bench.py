"""The parts of the benchmark run, in tiny sizes; how fast they are is not asserted."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from tests.bench.__main__ import AT_LEAST, AT_MOST, main
from tests.bench.reply_server import PARTS


@pytest.mark.slow
@pytest.mark.timeout(1200)  # it starts a dozen processes
def test_every_part_gives_its_figures(tmp_path: Path) -> None:
    assert main(["--small", "--json", str(tmp_path / "figures.json")]) == 0
    found = json.loads((tmp_path / "figures.json").read_text())
    assert list(found) == list("abcdefgh")
    (released,) = found["c"]
    assert released["requests of one problem: released"] == 8 * PARTS + 44
    assert released["requests of one problem: ours"] == 1 + 2 * PARTS
    figures = [value for rows in found.values() for row in rows for value in row.values()]
    assert all(math.isfinite(figure) for figure in figures)
    assert found["b"][0]["client CPU ms a call, 64 slots"] > 0
    assert found["g"][0]["most calls in flight, of 2,048"] == 16  # all that there are here
    named = {name for rows in found.values() for name in rows[0]}
    assert named >= {*AT_MOST, *AT_LEAST}, "an aim that no part has a figure for"


def test_an_aim_that_is_missed_ends_with_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cost = "a whole run / litellm.acompletion, cache on"
    rows = [{cost: value, "share of 64 slots at work": 0.99} for value in (1.0, 0.9, 1.5)]
    given = iter([rows[0], *rows, rows[0], *rows[:2], rows[2] | {"share of 64 slots at work": 0.5}])
    monkeypatch.setattr("tests.bench.__main__.PARTS_OF", {"e": lambda small: next(given)})
    assert main(["--repeats", "3"]) == 0  # by the median
    assert "every aim is reached" in capsys.readouterr().out
    monkeypatch.setitem(AT_MOST, cost, 0.95)
    assert main(["--repeats", "3"]) == 1
    said = capsys.readouterr().out
    assert f"missed: {cost}\n" in said
    assert "<= 0.95, missed" in said
