"""Files of a run with values of another kind: one line that says where, and never a traceback."""

from __future__ import annotations

import copy
import json
import math
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.command import backend, run
from tests.fake_vllm import FakeVLLM, fake_vllm
from tests.world import World, write_set

pytestmark = pytest.mark.usefixtures("own_disk_cache")

VALUES: list[Any] = [
    *(
        None,
        True,
        "x",
        "0.5",
        "\ud800",
        "",
        7,
        -1,
        0.5,
        1e308,
        10**30,
        10**4000,
        math.nan,
        math.inf,
    ),
    *([], [7], [[0.0, True]], {}, {"x": 7}, {"x": {"calls": "many"}}),
]
DEEP = 100_000
LINES = [
    *("", "7", "null", "[]", '"x"', "{", "[" * DEEP, '{"id":' * DEEP, '{"id": ' + "9" * 9999 + "}"),
    *('{"id": NaN}', "\x00", '{"id": "a"}', "[" * 900 + "]" * 900),
]


def list_places(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The places of all values inside a JSON value, its own first."""
    yield place
    if isinstance(value, dict):
        items: Any = value.items()
    else:
        items = enumerate(value if isinstance(value, list) else ())
    for key, item in items:
        yield from list_places(item, (*place, key))


def change(value: Any, place: tuple[Any, ...], new: Any, *, drop: bool = False) -> Any:
    """A copy with another value at a place, or with none there."""
    if not place:
        return new
    changed = copy.deepcopy(value)
    holder = changed
    for key in place[:-1]:
        holder = holder[key]
    if drop:
        del holder[place[-1]]
    else:
        holder[place[-1]] = new
    return changed


def damage(text: str) -> Iterator[str]:
    """A file's text with its first line changed: at every place every other value, and none; with
    lines that are none; and cut off."""
    line, _, rest = text.partition("\n")
    if line == "{":  # one JSON value over many lines
        line, rest = text, ""
    value = json.loads(line)
    for place in list_places(value):
        for new in VALUES:
            yield json.dumps(change(value, place, new)) + "\n" + rest
        if place:
            yield json.dumps(change(value, place, None, drop=True)) + "\n" + rest
    for other in LINES:
        yield f"{other}\n{rest}"
    for cut in (1, len(line) // 2, len(line) - 1):
        yield f"{line[:cut]}\n{rest}"
    yield line[: len(line) // 2]


@pytest.fixture(scope="module")
def served() -> Iterator[FakeVLLM]:
    with fake_vllm(World(parts=(1, 2))) as server:
        yield server


COMMANDS = {
    "evaluate": (["evaluate", "set.jsonl", "--samples", "2", "--out", "run"], "run"),
    "traces": (["traces", "set.jsonl", "--samples", "2", "--out", "t.jsonl"], "t.jsonl.run"),
    "report": (["report", "run", "--out", "page.html"], "run"),
    "frontier": (["frontier", "set.jsonl", "--out", "walks"], "walks"),
    "compile": (["compile", "set.jsonl", "--optimizer", "none", "--out", "c.json"], "c.compile"),
}
FILES = [
    *(("evaluate", "rollouts.jsonl"), ("evaluate", "run.json")),
    *(("traces", "rollouts.jsonl"), ("traces", "run.json")),
    *(("report", "rollouts.jsonl"), ("report", "run.json")),
    *(("frontier", "walks.jsonl"), ("frontier", "run.json")),
    *(("compile", "threshold/walks.jsonl"), ("compile", "costs.json"), ("compile", "compile.json")),
]


FEW, ALL = 16, 96  # of some hundreds in each file, drawn at random


@pytest.mark.timeout(3600)  # all cases take a minute, on a busy machine several
@pytest.mark.parametrize("most", [FEW, pytest.param(ALL, marks=pytest.mark.slow)])
@pytest.mark.parametrize(("name", "file"), FILES)
def test_no_value_of_a_file_is_a_traceback(
    name: str,
    file: str,
    most: int,
    served: FakeVLLM,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    for picture in ("draw_accuracy", "draw_calibration", "draw_positions"):
        monkeypatch.setattr(f"scale_dspy.report.report.{picture}", lambda *runs: None)
    write_set(Path("set.jsonl"), World(parts=(1, 2)).problems(2))
    (begin, _), (arguments, folder) = COMMANDS["evaluate"], COMMANDS[name]
    flags = backend(served) if name != "report" else []
    if name == "report":
        assert run(capsys, *begin, *backend(served))[0] == 0
    assert run(capsys, *arguments, *flags)[0] == 0
    shutil.copytree(folder, "kept")
    text = (Path("kept") / file).read_text()
    cases = list(damage(text))
    if most < len(cases):
        cases = random.Random(0).sample(cases, most)
    refused = 0
    for damaged in cases:
        shutil.rmtree(folder)
        shutil.copytree("kept", folder)
        (Path(folder) / file).write_text(damaged, errors="surrogatepass")
        code, _, said = run(capsys, *arguments, *flags)
        assert code in (0, 1, 2), (damaged[:200], said)
        assert "Traceback" not in said, (damaged[:200], said)
        if code == 2:
            refused += 1
            last = said.strip().splitlines()[-1]
            assert last.startswith("scale-dspy: "), (damaged[:200], said)
            assert len(last) < 400
            assert Path(file).name in last or "holds" in last, (damaged[:200], said)
    print(f"{name} {file}: {len(cases)} cases, {refused} refused")
    # A page shows what a description says, and nothing follows from it.
    assert refused > len(cases) / 10 or (name, file) == ("report", "run.json")
