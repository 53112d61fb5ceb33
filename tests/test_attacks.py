"""The table of attacks names tests that are there."""

from __future__ import annotations

import re
from pathlib import Path

HERE = Path(__file__).parent


def test_every_test_that_the_table_names_is_there() -> None:
    table = (HERE / "attacks.md").read_text(encoding="utf-8")
    files = {path.stem: path.read_text(encoding="utf-8") for path in HERE.glob("test_*.py")}
    named = re.findall(r"`(?:(test_\w+)(?:: )?)?([a-z]\w{11,})?`", table)
    assert len(named) > 40
    defined = re.findall(r"^def test_(\w+)", "\n".join(files.values()), re.MULTILINE)
    for file, test in named:
        assert not file or file in files
        if test and file:
            assert re.search(rf"^def test_{test}", files[file], re.MULTILINE), (file, test)
        elif test:
            assert any(each.startswith(test) for each in defined), test
