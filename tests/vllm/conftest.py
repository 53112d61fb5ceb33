"""One real server for the whole session, and a second one where a family needs another template."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.vllm.families import TRUST
from tests.vllm.server import RealVLLM, make_model, need_vllm, serve


@pytest.fixture(scope="session")
def hybrid(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealVLLM]:
    """A model whose template switches thinking, as Qwen3's does."""
    need_vllm()
    model = make_model(tmp_path_factory.mktemp("hybrid") / "model", "hybrid")
    with serve(model, TRUST, name="tiny-hybrid") as server:
        print(f"\nvLLM is up after {server.started:.0f} s")
        yield server


@pytest.fixture(scope="session")
def reasoning(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealVLLM]:
    """A model whose template always opens a thinking block, as those of R1 and QwQ do."""
    need_vllm()
    model = make_model(tmp_path_factory.mktemp("reasoning") / "model", "reasoning")
    with serve(model, "--reasoning-parser", "deepseek_r1", name="tiny-reasoning") as server:
        print(f"\nvLLM is up after {server.started:.0f} s")
        yield server
