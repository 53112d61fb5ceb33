"""Arguments that several commands have."""

from __future__ import annotations

import argparse
import os
import re
from typing import Any, get_args

from scale_dspy.lm.modes import Style
from scale_dspy.lm.switches import SWITCHES
from scale_dspy.methods import METHODS

MODES = get_args(Style)
ASSESS = ("in_context", "upfront", "none", "draft", "agreement", "review")
NAMES = (*MODES, *SWITCHES)


def add_rollouts(command: argparse.ArgumentParser, samples: int, text: str) -> None:
    command.add_argument("--samples", type=int, default=samples, help=f"{text} [{samples}]")
    command.add_argument("--limit", type=int, metavar="N", help="only the first N problems")
    command.add_argument(
        "--retry-errors", action="store_true", help="run those again that ended in an error"
    )
    command.add_argument(
        "--retry",
        metavar="KIND[,KIND...]",
        help="run those again that ended in an error of these kinds, as `status` names them",
    )


def add_costs(command: argparse.ArgumentParser) -> None:
    group = command.add_argument_group("what it costs")
    group.add_argument(
        "--price",
        metavar="IN,OUT",
        help="dollars for a million prompt and response tokens [LiteLLM's, where it has one]",
    )
    group.add_argument("--gpus", type=int, metavar="N", help="that serve, to count GPU-seconds")
    group.add_argument(
        "--cost-limit",
        type=int,
        metavar="TOKENS",
        help="the most response tokens, over all sessions of the folder; may be changed later",
    )
    group.add_argument(
        "--dollar-limit",
        type=float,
        metavar="DOLLARS",
        help="the same in dollars; needs a price",
    )


def add_reuse(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--reuse",
        action="store_true",
        help="in a new folder, take replies that earlier runs drew from this server",
    )


def add_engine(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--engine",
        choices=("local", "ray"),
        default="local",
        help="ray: on all machines of a Ray cluster (RAY_ADDRESS)",
    )


def add_method(command: argparse.ArgumentParser) -> None:
    group = command.add_argument_group("method")
    group.add_argument(
        "--method", choices=tuple(METHODS), default="scale", help="how to solve [scale]"
    )
    group.add_argument("--program", metavar="FILE.json", help="a compiled SCALE program")
    group.add_argument(
        "--threshold",
        type=float,
        metavar="T",
        help="0 to 1; a sub-problem rated above it is solved by System 2",
    )
    group.add_argument(
        "--split", type=float, metavar="S", help="0 to 1; a problem rated up to it is solved whole"
    )
    group.add_argument("--assess", choices=ASSESS, help="how a difficulty is found [in_context]")
    group.add_argument(
        "--probes",
        type=int,
        metavar="N",
        help="drafts that a difficulty is measured on [1; 4 for agreement]",
    )
    group.add_argument("--votes", type=int, metavar="N", help="most passes of a System 2 step [1]")
    group.add_argument(
        "--stop",
        type=float,
        metavar="P",
        help="0 to 1; a vote ends when its leader is surer than this [0.95]",
    )
    group.add_argument(
        "--weigh",
        action="store_const",
        const=True,
        help="each vote counts by how likely its pass is to be right",
    )
    group.add_argument(
        "--candidates",
        type=int,
        metavar="K",
        help="decompositions to choose from [8; 1 if embedded]",
    )
    group.add_argument(
        "--budget", type=int, metavar="TOKENS", help="the most response tokens for a problem"
    )


def add_choice(command: argparse.ArgumentParser, margin: float) -> None:
    group = command.add_argument_group("program and choice")
    group.add_argument("--program", metavar="FILE.json", help="a compiled program to start from")
    group.add_argument(
        "--assess",
        type=lambda text: text.split(","),
        metavar="HOW[,HOW...]",
        help="in_context, upfront, draft, agreement or review [in_context]; of several, compile "
        "keeps the best",
    )
    group.add_argument(
        "--probes",
        type=read_numbers,
        metavar="N[,N...]",
        help="drafts that a difficulty is measured on [1; 4 for agreement]; of several, compile "
        "keeps the best",
    )
    group.add_argument(
        "--votes",
        type=read_numbers,
        metavar="N[,N...]",
        help="most passes of a System 2 step [1]; of several, compile keeps the best",
    )
    group.add_argument(
        "--weigh",
        type=read_switches,
        metavar="no|yes[,yes]",
        help="whether each vote counts by how likely its pass is to be right [no]; of both, "
        "compile keeps the better one",
    )
    group.add_argument(
        "--candidates",
        type=read_numbers,
        metavar="K[,K...]",
        help="decompositions to choose from [8; 1 if embedded]; of several compile keeps the best",
    )
    group.add_argument(
        "--caps",
        type=read_numbers,
        metavar="N[,N...]",
        help="most response tokens of a System 2 call; of several, compile keeps the best",
    )
    group.add_argument(
        "--whole",
        action="store_true",
        help="measure only whole problems, never split: for a fraction of the tokens, where "
        "splitting is known not to pay",
    )
    group.add_argument(
        "--budget", type=int, metavar="TOKENS", help="response tokens a problem, on average"
    )
    group.add_argument(
        "--margin",
        type=float,
        default=margin,
        help=f"accuracy to give up for fewer tokens [{margin}]",
    )


def add_steering(command: argparse.ArgumentParser) -> None:
    """Arguments of commands that may run long; they also take a run file."""
    group = command.add_argument_group("a long run")
    group.add_argument(
        "--detach", action="store_true", help="run on in the background, with a log in the folder"
    )
    group.add_argument(
        "--dry-run", action="store_true", help="say what would be asked, and ask nothing"
    )
    group.add_argument(
        "--like", metavar="DIR", help="with --dry-run: a run whose tokens tell what to expect"
    )


def add_backend(command: argparse.ArgumentParser) -> None:
    group = command.add_argument_group("backend (flags win over the environment)")
    for flag, variable, text in (
        ("--model", "SCALE_MODEL", "model name as served, or a GGUF file"),
        (
            "--api-base",
            "SCALE_API_BASE",
            "for example http://127.0.0.1:8000/v1; of several replicas, with commas between",
        ),
        ("--api-key", "SCALE_API_KEY", "the server's key"),
        ("--system-1-model", "SCALE_SYSTEM_1_MODEL", "with --modes pair: System 1's model"),
        ("--system-1-api-base", "SCALE_SYSTEM_1_API_BASE", "its server, if it has its own"),
    ):
        group.add_argument(
            flag, default=os.environ.get(variable) or None, help=f"{text} [{variable}]"
        )
    group.add_argument(
        "--modes",
        choices=("auto", "list", *NAMES),
        action=_ListModes,
        metavar="NAME",
        help="how System 1 and 2 differ: a style or a family of models; `list` has the names [auto:"
        " the server is asked; embedded]",
    )
    group.add_argument(
        "--threads",
        type=int,
        metavar="N",
        help="problems at work at once [64; 1 if embedded]",
    )
    group.add_argument("--seed", type=int, help="makes a run repeatable")
    group.add_argument(
        "--timeout", type=float, metavar="SECONDS", help="for each attempt at a request [3600]"
    )
    group.add_argument("--json", action="store_true", help="one JSON object on standard output")


class _ListModes(argparse.Action):
    """Takes --modes; `list` prints the names and ends, as --version does."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        if values == "list":
            from rich.console import Console

            from scale_dspy.cli.figures import show_modes

            show_modes(Console())
            parser.exit()
        setattr(namespace, self.dest, values)


def read_switches(text: str) -> list[bool]:
    """The choices of an argument such as yes or no,yes."""
    switches = {"no": False, "yes": True}
    parts = text.split(",")
    if not all(part in switches for part in parts):
        raise argparse.ArgumentTypeError(f"{text[:60]!r} is not no, yes or no,yes")
    return [switches[part] for part in parts]


def read_numbers(text: str) -> list[int]:
    """The numbers of an argument such as 8 or 8,1."""
    parts = text.split(",")
    if not all(re.fullmatch(r"0*[1-9][0-9]{0,11}", part) for part in parts):
        raise argparse.ArgumentTypeError(f"{text[:60]!r} is no whole number from 1, nor several")
    return [int(part) for part in parts]
