"""The command line in this process, and the flags that name a fake server."""

from __future__ import annotations

import pytest

from scale_dspy.cli import main as cli
from tests.fake_vllm import FakeVLLM, Spawned


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """(exit code, standard output, standard error) of `scale-dspy` with these arguments."""
    try:
        code = cli.main(arguments)
    except SystemExit as stop:  # argparse
        code = int(stop.code or 0)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def backend(server: FakeVLLM | Spawned) -> list[str]:
    """The flags that name the server, its model, its style and a seed. Without the style a command
    asks the server for it first, and a test that counts requests would count those too."""
    named = ["--model", server.model, "--api-base", server.api_base]
    return [*named, "--modes", "hybrid", "--seed", "0"]
