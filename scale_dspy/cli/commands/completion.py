"""`completion`: a shell's completion of this command line."""

from __future__ import annotations

import argparse

from scale_dspy.utils.extras import advise_install

HELP = "a shell's completion script, to be sourced"
EXAMPLES = """
source <(scale-dspy completion bash)
scale-dspy completion fish > ~/.config/fish/completions/scale-dspy.fish
"""


def add_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("shell", choices=("bash", "zsh", "fish"))


def run(arguments: argparse.Namespace) -> int:
    try:
        import shtab
    except ImportError:
        raise RuntimeError(f"this needs an extra: {advise_install('completion')}") from None
    from scale_dspy.cli.main import make_parser

    print(shtab.complete(make_parser(), shell=arguments.shell))
    return 0
