"""Every method by its name: a line each, from which command line, server, traces and tables read.

Nothing heavy is imported before a program is made: `scale-dspy --help` must not wait for DSPy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scale_dspy.lm.modes import Modes
    from scale_dspy.method import Solver


@dataclass(frozen=True)
class Method:
    """A way to solve problems.

    Attributes:
        home: MODULE:CLASS of its program, which takes `budget` and `modes`.
        takes: the arguments of SCALE that it takes besides.
        preset: arguments that make this method of the class.
        joinable: whether its steps, joined, are one solution to learn from.
        in_table: whether it stands in the paper's Table 1.
    """

    home: str
    takes: tuple[str, ...] = ()
    preset: Mapping[str, Any] = field(default_factory=dict)
    joinable: bool = False
    in_table: bool = False


_VOTES = ("votes", "stop", "weigh")
_SCALE = ("threshold", "split", "assess", "candidates", "probes", *_VOTES)

METHODS: Mapping[str, Method] = {
    "scale": Method("scale_dspy.program:SCALE", _SCALE, joinable=True, in_table=True),
    "last_step": Method(  # rates nothing: only the question itself is thought over
        "scale_dspy.program:SCALE",
        ("threshold", "split", "candidates", *_VOTES),
        {"assess": "none"},
        joinable=True,
        in_table=True,
    ),
    "cot": Method("scale_dspy.baselines:ChainOfThought", joinable=True, in_table=True),
    "majority": Method("scale_dspy.baselines:MajorityVote", in_table=True),
    "inftythink": Method("scale_dspy.baselines:InftyThink", in_table=True),
    "routing": Method("scale_dspy.baselines:ProblemRouting", ("threshold",), joinable=True),
}


def make_program(
    method: str,
    *,
    candidates: int = 8,
    budget: int | None = None,
    modes: Modes | str = "hybrid",
    **arguments: Any,
) -> Solver:
    """The program of a method.

    Args:
        method: one of METHODS.
        candidates: decompositions to choose from, for a method that decomposes.
        budget: see Solver.
        modes: request parameters by stage, or the name of a style.
        arguments: others of SCALE, such as `threshold` or `votes`; None for the method's own.

    Raises:
        ValueError: an unknown method, or an argument for one that has none of the kind.
    """
    if method not in METHODS:
        raise ValueError(f"unknown method {method!r}: choose one of {', '.join(METHODS)}")
    chosen = METHODS[method]
    options: dict[str, Any] = {"budget": budget, "modes": modes, **chosen.preset}
    if "candidates" in chosen.takes:
        options["candidates"] = candidates
    given = {name: value for name, value in arguments.items() if value is not None}
    for name in given:
        if name not in chosen.takes:
            raise ValueError(f"method {method} has no {name}")
    module, _, name = chosen.home.partition(":")
    program: Solver = getattr(import_module(module), name)(**options, **given)
    return program
