"""Weights from the hub, against a stand-in for it: fetched, cut off, resumed, checked, refused."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from scale_dspy.lm.connect import uses_embedded
from scale_dspy.lm.embedded.hub import HUB
from tests.fake_hub import FakeHub, fake_hub
from tests.tiny_gguf import write_gguf

NAME = "qwen3-0.6b"
WANTED = HUB[NAME]
PATH = f"{WANTED.repo}/resolve/{WANTED.revision}/{WANTED.file}"


@pytest.fixture
def tiny(tmp_path: Path) -> bytes:
    """A real GGUF file, small."""
    return write_gguf(tmp_path / "tiny.gguf").read_bytes()


def run(folder: Path, hub: FakeHub | None, content: bytes, code: str, **env: str) -> Any:
    """Run `code` in a process of its own, whose hub and cache are the test's, and whose table
    wants `content`. The hub's library reads its settings when it is imported."""
    place = hub.url if hub else "http://127.0.0.1:9"
    program = f"""
        import dataclasses, os, sys
        from scale_dspy.lm.embedded import hub
        from scale_dspy.lm.embedded.weights import EmbeddedError
        from scale_dspy.cli.main import main
        wanted = dataclasses.replace(hub.HUB[{NAME!r}], bytes={len(content)},
                                     sha256={hashlib.sha256(content).hexdigest()!r})
        hub.HUB[{NAME!r}] = wanted
        """
    source = textwrap.dedent(program) + textwrap.dedent(code)
    settings = {
        **{key: value for key, value in os.environ.items() if not key.startswith("HF_")},
        "HF_ENDPOINT": place, "HF_HOME": str(folder / "hf"), "NO_PROXY": "127.0.0.1",
        "SCALE_CACHE_DIR": str(folder / "cache"), "SCALE_CACHE": str(folder / "dspy"), **env,
    }  # fmt: skip
    return subprocess.run(
        [sys.executable, "-c", source], env=settings, capture_output=True, text=True, timeout=240,
        cwd=Path(__file__).parents[1],
    )  # fmt: skip


FETCH = """
    seen = []
    try:
        file = hub.open_fetched(wanted, lambda done, total: seen.append((done, total)))
        print("fetched", hub.name_fetched(wanted).name, os.fstat(file).st_size, seen[-1:])
    except EmbeddedError as error:
        print(error)
"""


def test_the_names_are_for_the_command_line() -> None:
    assert uses_embedded(NAME, None)
    assert not uses_embedded(NAME, "http://127.0.0.1:1/v1")
    for name, wanted in HUB.items():
        assert wanted.name == name
        assert len(wanted.revision) == 40
        assert len(wanted.sha256) == 64


def test_fetched_once_with_progress_and_checked(tmp_path: Path, tiny: bytes) -> None:
    with fake_hub(PATH, tiny) as hub:
        done = run(tmp_path, hub, tiny, FETCH)
        assert f"({len(tiny)}, {len(tiny)})" in done.stdout, done
        assert hub.ranges == [None]
        run(tmp_path, hub, tiny, FETCH)
        assert hub.ranges == [None]
        offline = run(tmp_path, None, tiny, FETCH, HF_HUB_OFFLINE="1")
    assert "fetched qwen3" in offline.stdout, offline


def test_cut_off_and_resumed(tmp_path: Path, tiny: bytes) -> None:
    whole = tiny + bytes(24_000_000)  # the hub's library writes pieces of 10 MiB
    with fake_hub(PATH, whole, cut=22_000_000) as hub:
        cut = run(tmp_path, hub, whole, FETCH)
        assert "goes on where this one stopped" in cut.stdout, cut
        assert cut.stdout.count("\n") == 1
        hub.cut = None
        hub.log.clear()
        done = run(tmp_path, hub, whole, FETCH)
        assert "fetched qwen3" in done.stdout, done
        assert hub.ranges == [f"bytes={2 * 10 * 1024 * 1024}-"]


def test_one_wrong_byte_is_refused_and_removed(tmp_path: Path, tiny: bytes) -> None:
    wrong = bytes([*tiny[:-1], tiny[-1] ^ 1])
    with fake_hub(PATH, wrong) as hub:
        for _ in range(2):
            refused = run(tmp_path, hub, tiny, FETCH)
            assert "is not the expected file" in refused.stdout, refused
        assert hub.ranges == [None, None]
        left = {path.suffix for path in (tmp_path / "cache" / "weights").iterdir()}
        assert left == {".lock"}


@pytest.mark.parametrize("env", [{}, {"HF_HUB_OFFLINE": "1"}])
def test_without_a_hub_there_is_one_clear_line(
    tmp_path: Path, tiny: bytes, env: dict[str, str]
) -> None:
    done = run(tmp_path, None, tiny, FETCH, **env)
    assert "is not on this machine and the hub cannot be reached" in done.stdout, done
    assert done.stdout.count("\n") == 1
    assert "Traceback" not in done.stderr


def test_bytes_changed_after_fetching_are_not_served(tmp_path: Path, tiny: bytes) -> None:
    path = tmp_path / "cache" / "weights" / f"{NAME}.gguf"
    with fake_hub(PATH, tiny) as hub:
        for _ in range(2):
            done = run(tmp_path, hub, tiny, FETCH)
            assert "fetched qwen3" in done.stdout, done
            assert path.read_bytes() == tiny
            path.write_bytes(tiny[:-1] + b"!")  # of the same size: only the digest tells
        assert hub.ranges == [None, None]


@pytest.mark.parametrize("suffix", [".gguf", ".gguf.part", ".gguf.sha256", ".lock"])
def test_a_planted_link_is_not_followed(tmp_path: Path, tiny: bytes, suffix: str) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"dear")
    folder = tmp_path / "cache" / "weights"
    folder.mkdir(parents=True)
    (folder / f"{NAME}{suffix}").symlink_to(victim)
    with fake_hub(PATH, tiny) as hub:
        done = run(tmp_path, hub, tiny, FETCH)
    assert ("fetched qwen3" in done.stdout) == (suffix != ".lock"), done
    assert "Traceback" not in done.stderr
    assert victim.read_bytes() == b"dear"
    assert not (folder / f"{NAME}.gguf").is_symlink()


def test_a_file_that_the_hub_does_not_have(tmp_path: Path, tiny: bytes) -> None:
    with fake_hub(PATH.replace("Q8_0", "Q2_K"), tiny) as hub:
        done = run(tmp_path, hub, tiny, FETCH)
    assert "the hub does not give qwen3-0.6b" in done.stdout, done


@pytest.mark.embedded
def test_a_thinking_model_by_name_on_the_cpu(tmp_path: Path, tiny: bytes) -> None:
    solve = 'sys.exit(main(["solve", "What is 1 + 1?", "--model", "qwen3-0.6b", "--json"]))'
    with fake_hub(PATH, tiny) as hub:
        done = run(tmp_path, hub, tiny, solve)
    assert "modes: embedded: enable_thinking false or true" in done.stderr, done
    usage = json.loads(done.stdout)["usage"]
    assert usage["solve_2"]["calls"] >= 1
