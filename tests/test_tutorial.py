"""The tutorial, block by block, against the fake server."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from scale_dspy.cli import main as cli
from tests.fake_vllm import fake_vllm
from tests.world import World, write_set

TUTORIAL = Path(__file__).parents[1] / "optimize" / "TUTORIAL.md"
BLOCK = re.compile(r"^```(bash|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.mark.slow
@pytest.mark.usefixtures("own_disk_cache")
def test_every_block_of_the_tutorial_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    world = World(parts=(1, 2))
    for name, start in (("train", 0), ("val", 50), ("test", 100)):
        write_set(Path(f"{name}.jsonl"), world.problems(4, start))
    names: dict[str, Any] = {}
    blocks = BLOCK.findall(TUTORIAL.read_text())
    with fake_vllm(world, cached_tokens=True) as server:
        monkeypatch.setenv("SCALE_API_BASE", server.api_base)
        for kind, text in blocks:
            if kind == "python":
                exec(compile(text, str(TUTORIAL), "exec"), names)
                continue
            for line in text.splitlines():
                program, *arguments = shlex.split(line)
                assert program == "scale-dspy"
                assert cli.main(arguments) == 0, (line, capsys.readouterr().err)
    assert names["p"].answer == names["example"].answer
    assert {kind for kind, _ in blocks} == {"bash", "python"}
    commands = set(re.findall(r"scale-dspy (\w+)", TUTORIAL.read_text()))
    assert commands == {"doctor", "evaluate", "report", "frontier", "compile", "export"}
    for name in ("report.html", "tuned.md", "tuned.messages.json", "runs/tuned/summary.json"):
        assert Path(name).stat().st_size > 0
