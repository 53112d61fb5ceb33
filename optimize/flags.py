"""The flags that all recipes have."""

from __future__ import annotations

import argparse
from typing import get_args

from scale_dspy.lm.modes import Style


def make_parser(description: str | None, **sets: str | None) -> argparse.ArgumentParser:
    """A parser for these sets, each with its help, and for the flags of the model and its
    server."""
    parser = argparse.ArgumentParser(description=(description or "").partition("\n")[0])
    for name, text in sets.items():
        parser.add_argument(name, help=text)
    parser.add_argument("--model")
    parser.add_argument("--api-base")
    parser.add_argument("--modes", default="hybrid", choices=get_args(Style))
    parser.add_argument("--limit", type=int, help="only the first problems of each set")
    return parser
