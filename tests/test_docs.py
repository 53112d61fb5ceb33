"""Every page: its links lead somewhere, its commands and its Python run against the fake server."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from scale_dspy.cli import main as cli
from tests.fake_vllm import fake_vllm
from tests.manual import write_manual
from tests.world import World, write_set

ROOT = Path(__file__).parents[1]
TUTORIAL = ROOT / "optimize" / "TUTORIAL.md"
DOCS = sorted((ROOT / "scale_dspy" / "docs").glob("*.md"))
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "optimize").glob("*.md")), *DOCS]
BLOCK = re.compile(r"^```(bash|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(?<!\\)\]\(([^)\s]+)\)")


def find_blocks(page: Path) -> list[tuple[str, str]]:
    return BLOCK.findall(page.read_text(encoding="utf-8"))


def name_page(page: Path) -> str:
    return str(page.relative_to(ROOT))


def name_anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=name_page)
def test_every_link_leads_somewhere(page: Path) -> None:
    for link in LINK.findall(page.read_text(encoding="utf-8")):
        if link.startswith(("https://", "http://")):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in name_anchors(target), link


def test_every_test_that_the_page_of_faults_names_is_there() -> None:
    page = ROOT / "scale_dspy" / "docs" / "faults.md"
    named = set(re.findall(r"`(test_\w+)`", page.read_text(encoding="utf-8")))
    files = (ROOT / "tests").rglob("test_*.py")
    there = {
        name
        for file in files
        for name in re.findall(r"def (test_\w+)\(", file.read_text(encoding="utf-8"))
    }
    assert len(named) > 50
    assert named <= there


def test_the_front_page_is_short_and_leads_to_every_page() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.split()) <= 800
    reached = {(ROOT / link.partition("#")[0]).resolve() for link in LINK.findall(text)}
    beside = {
        (page.parent / link.partition("#")[0]).resolve()
        for page in PAGES
        for link in LINK.findall(page.read_text(encoding="utf-8"))
    }
    assert set(DOCS) <= reached | beside


@pytest.mark.slow
@pytest.mark.usefixtures("own_disk_cache")
@pytest.mark.parametrize("page", [page for page in PAGES if find_blocks(page)], ids=name_page)
def test_every_block_runs(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    world = World(parts=(1, 2))
    for name, start in (("train", 0), ("val", 50), ("test", 100)):
        write_set(Path(f"{name}.jsonl"), world.problems(4, start))
    names: dict[str, Any] = {}
    with fake_vllm(world, cached_tokens=True) as server:
        monkeypatch.setenv("SCALE_API_BASE", server.api_base)
        for kind, text in find_blocks(page):
            if kind == "python":
                exec(compile(text, str(page), "exec"), names)
                continue
            for line in text.splitlines():
                program, *arguments = shlex.split(line, comments=True)
                assert program == "scale-dspy"
                assert cli.main(arguments) == 0, (line, capsys.readouterr().err)
    if "example" in names:
        assert names["p"].answer == names["example"].answer


def test_the_tutorial_shows_every_step() -> None:
    commands = set(re.findall(r"scale-dspy (\w+)", TUTORIAL.read_text(encoding="utf-8")))
    assert commands == {"doctor", "evaluate", "report", "frontier", "compile", "export"}


def test_the_page_on_the_command_line_is_the_parsers_own() -> None:
    page = ROOT / "scale_dspy" / "docs" / "command_line.md"
    assert page.read_text(encoding="utf-8") == write_manual(), "python -m tests.manual writes it"
