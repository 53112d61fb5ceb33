"""What importing costs, and that the public names are there."""

from __future__ import annotations

import subprocess
import sys

import pytest

import scale_dspy


def list_loaded(script: str) -> set[str]:
    """The modules that a program has loaded at its end."""
    script = f"{script}\nimport sys; print('\\nloaded', *sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    return set(done.stdout.splitlines()[-1].split()[1:])


@pytest.mark.parametrize(
    ("script", "heavy"),
    [
        ("import scale_dspy", {"dspy", "litellm", "datasets", "numpy"}),
        ("import scale_dspy.data.load", {"datasets", "litellm", "scipy"}),
        (
            "import scale_dspy.report.report",
            {"matplotlib", "latex2mathml", "dspy", "litellm", "rich"},
        ),
        ("import scale_dspy.lm.embedded.server", {"dspy", "httpx", "litellm", "xllamacpp"}),
        (
            "import scale_dspy.cli.main as cli\ntry: cli.main(['--help'])\nexcept SystemExit: pass",
            {"dspy", "litellm", "datasets", "rich", "numpy", "httpx"},
        ),
    ],
)
def test_nothing_heavy_is_loaded(script: str, heavy: set[str]) -> None:
    assert not list_loaded(script) & heavy


def test_public_names_resolve() -> None:
    for name in scale_dspy.__all__:
        assert getattr(scale_dspy, name) is not None


def test_litellm_is_whole_once_an_lm_is_made() -> None:
    assert "litellm.main" in list_loaded("from scale_dspy import connect; connect('openai/gpt-5')")


def test_a_server_with_an_address_needs_no_litellm() -> None:
    script = "from scale_dspy import connect; connect('model', 'http://127.0.0.1:1/v1')"
    assert "litellm" not in list_loaded(script)
