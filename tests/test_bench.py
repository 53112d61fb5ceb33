"""The parts of the benchmark run, in tiny sizes; how fast they are is not asserted."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from tests.bench.__main__ import main
from tests.bench.reply_server import PARTS


@pytest.mark.slow
def test_every_part_gives_its_figures(tmp_path: Path) -> None:
    main(["--small", "--json", str(tmp_path / "figures.json")])
    found = json.loads((tmp_path / "figures.json").read_text())
    assert list(found) == ["a", "b", "c", "d"]
    (released,) = found["c"]
    assert released["requests of one problem: released"] == 8 * PARTS + 44
    assert released["requests of one problem: ours"] == 1 + 2 * PARTS
    figures = [value for rows in found.values() for row in rows for value in row.values()]
    assert all(math.isfinite(figure) for figure in figures)
    assert found["b"][0]["client CPU ms a call"] > 0
