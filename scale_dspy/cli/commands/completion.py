"""`completion`: a shell's completion of this command line."""

from __future__ import annotations

import argparse

HELP = "a shell's completion script, to be sourced"


def add_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("shell", choices=("bash", "zsh", "fish"))


def run(arguments: argparse.Namespace) -> int:
    try:
        import shtab
    except ImportError:
        raise RuntimeError('this needs an extra: pip install "scale-dspy[completion]"') from None
    from scale_dspy.cli.main import make_parser

    print(shtab.complete(make_parser(), shell=arguments.shell))
    return 0
