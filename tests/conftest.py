"""Fixtures of all tests: a fake vLLM server, an LM that asks it, no cache or settings left over."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # `import tests.fake_vllm` everywhere

import dspy
import pytest
from hypothesis import settings

from scale_dspy import connect
from scale_dspy.lm.cache import Store, use
from scale_dspy.lm.connect import MeteredLM
from scale_dspy.lm.embedded import server as embedded
from tests.fake_vllm import FakeVLLM, fake_vllm

PLACES = ("SCALE_DATA_DIR", "SCALE_CACHE_DIR", "SCALE_VLLM_PYTHON")

# A shell starts background jobs with Ctrl-C ignored, and commands that tests start inherit it.
signal.signal(signal.SIGINT, signal.default_int_handler)

# A busy machine is no failure: time is bounded for whole tests, not for single examples.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")


@pytest.fixture(autouse=True)
def _isolated_cache() -> None:
    """Empty caches in memory and none on disk, ours and DSPy's."""
    use(Store(None))
    dspy.configure_cache(enable_disk_cache=False, enable_memory_cache=True)


@pytest.fixture(autouse=True)
def _no_findings_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What was found out about a server is not taken for another's on the same port."""
    monkeypatch.setattr("scale_dspy.lm.detect.cache_folder", lambda: tmp_path / "found")


@pytest.fixture(autouse=True)
def _no_ended_servers() -> None:
    """A test's server may get the port of an embedded one that has ended."""
    for address, ended in list(embedded._addresses.items()):
        if ended.process.poll() is not None:
            del embedded._addresses[address]


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting of the caller's but where things are, and no proxy before a test's server."""
    for name in list(os.environ):
        if name.startswith("SCALE_") and name not in PLACES:
            monkeypatch.delenv(name)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")


@pytest.fixture
def own_disk_cache(tmp_path: Path) -> None:
    """A disk cache of its own."""
    use(Store(tmp_path / "cache" / "replies.sqlite3"))


@pytest.fixture
def cache_on_disk(own_disk_cache: None) -> None:
    """As in real life: runs of a walk share their beginnings through it, and so do sessions."""


@pytest.fixture
def server() -> Iterator[FakeVLLM]:
    """The default world, where every stage is right, without delay."""
    with fake_vllm() as running:
        yield running


@pytest.fixture
def lm(server: FakeVLLM) -> MeteredLM:
    """The LM of `server`."""
    return connect(server.model, server.api_base, seed=0)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of the test's own."""
    monkeypatch.setenv("SCALE_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"
