"""What importing costs, and that the public names are there."""

from __future__ import annotations

import subprocess
import sys

import scale_dspy


def test_import_loads_neither_litellm_nor_datasets() -> None:
    script = (
        "import scale_dspy, sys; print([n for n in ('litellm', 'datasets') if n in sys.modules])"
    )
    trace = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", script],
        capture_output=True,
        text=True,
        check=True,
    )
    assert trace.stdout.strip() == "[]"
    assert "dspy" not in trace.stderr.replace("scale_dspy", "")


def test_help_loads_nothing_heavy() -> None:
    script = (
        "import sys, scale_dspy.cli as cli\n"
        "try: cli.main(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'dspy', 'litellm', 'datasets', 'rich', 'numpy', 'httpx'} & set(sys.modules)\n"
        "print(sorted(heavy), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stderr.strip() == "[]"


def test_public_names_resolve() -> None:
    for name in scale_dspy.__all__:
        assert getattr(scale_dspy, name) is not None


def test_litellm_is_whole_once_an_lm_is_made() -> None:
    script = (
        "import sys\n"
        "from scale_dspy import connect\n"
        "connect('model', 'http://127.0.0.1:1/v1')\n"
        "print('litellm.main' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "True"
