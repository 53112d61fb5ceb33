"""What importing costs, and that the public names are there."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import scale_dspy

ROOT = Path(__file__).parents[1]


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


# Everything that is installed and that neither the base nor the extra `serve` asks for is hidden.
ALONE = """
import importlib.metadata as metadata
import sys
import tomllib
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

project = tomllib.load(open("pyproject.toml", "rb"))["project"]
todo = [*project["dependencies"], *project["optional-dependencies"]["serve"]]
wanted, seen = set(), set()
while todo:
    asked = Requirement(todo.pop())
    name = canonicalize_name(asked.name)
    if (name, *sorted(asked.extras)) in seen:
        continue
    seen.add((name, *sorted(asked.extras)))
    wanted.add(name)
    for needed in metadata.requires(name) or []:
        marker = Requirement(needed).marker
        if marker is None or any(marker.evaluate({"extra": each}) for each in ["", *asked.extras]):
            todo.append(needed)
hidden = {
    module
    for module, owners in metadata.packages_distributions().items()
    if not wanted & {canonicalize_name(owner) for owner in owners} and not module.startswith("_")
} - {"packaging", "scale_dspy", "tests"}


class Hide:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in hidden:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


assert {"pytest", "ray"} <= hidden, hidden
sys.meta_path.insert(0, Hide())
import litellm.proxy.proxy_server
import scale_dspy.serve.gateway
import scale_dspy.serve.provider
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.version_info < (3, 11), reason="tomllib")
def test_serve_needs_no_more_than_its_extra_names() -> None:
    done = subprocess.run(
        [sys.executable, "-c", ALONE], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
