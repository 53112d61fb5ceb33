"""Stage: all that is told of a stage outside its Module."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One question to the model, as terminal, exports, feedback and usage know it.

    Attributes:
        name: its key in `usage` and in the modes.
        predictor: its place in the program.
        about: what it is for, a sentence.
        doing: what the model is at while it is asked, for a terminal.
        read: the portable JSON's account of how a reply is read.
        default: the same of what holds where no reply can be read.
        when: when it is asked, a sentence for the portable JSON's steps; empty for the stages of
            the paper, which those steps are about.
        hint: what feedback says to its predictor before it tells of the run; empty for the stages
            that feedback has more to say about.
    """

    name: str
    predictor: str
    about: str
    doing: str
    read: dict[str, Any]
    default: dict[str, Any]
    when: str = ""
    hint: str = ""
