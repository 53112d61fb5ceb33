"""Stage: what other rooms need to know of a stage of the program."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One question to the model, as terminal, exports, feedback and usage know it.

    Attributes:
        name: its key in `usage` and in the modes.
        predictor: its place in the program.
        about: its purpose, in a sentence.
        doing: what the model is doing meanwhile, as a terminal shows it.
        read: the portable JSON's account of how a reply is read.
        default: the same of what holds where no reply can be read.
        when: when it is asked, a sentence for the portable JSON's steps; empty for the stages of
            the paper, which those steps are about.
        hint: the first line of the feedback on its predictor; empty for stages that have feedback
            of their own in grading/feedback.
    """

    name: str
    predictor: str
    about: str
    doing: str
    read: dict[str, Any]
    default: dict[str, Any]
    when: str = ""
    hint: str = ""
