"""Replies for problems that are not of the fake server's world: those of a set with gold answers.

    with fake_vllm(other=play_known(load("aime"), wrong=0.3)) as server: ...

Two sub-problems for every problem; System 1 and 2 know the gold answer, but for a share of the
problems they state the next number instead.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from typing import Any

import dspy

from scale_dspy.stages.assess import RateDifficulty
from scale_dspy.stages.decompose import ProposeSubproblems, SelectCandidate
from scale_dspy.stages.solve import SolveDirectly, SolveThoroughly
from tests.fake.prompts import ending


def play_known(
    examples: Sequence[dspy.Example], wrong: float = 0.0
) -> Callable[[dict[str, Any]], str | None]:
    """What `Options.other` takes: the content for a body that holds one of these problems."""
    golds = {example.problem: example.answer for example in examples}

    def reply(body: dict[str, Any]) -> str | None:
        text = "\n".join(str(message["content"]) for message in body["messages"])
        problem = next((each for each in golds if each in text), None)
        if problem is None:
            return None
        asked = text.rstrip().rpartition("\n")[2]
        if asked == ending(ProposeSubproblems):
            return "1. Write down what is given and name the unknowns.\n2. Find what is asked for."
        if asked == ending(SelectCandidate):
            return "1"
        if asked == ending(RateDifficulty):
            return "0.7" if len(problem) % 2 else "0.3"
        known = {ending(SolveDirectly), ending(SolveThoroughly)}
        if asked in known and "Sub-problem:\nWrite down" in text:
            return r"What is given is named $\boxed{x}$, and the rest follows from it."
        slips = zlib.crc32(problem.encode()) % 1000 < 1000 * wrong
        answer = f"{golds[problem]}1" if slips else golds[problem]
        return rf"From what is known the value follows: $\boxed{{{answer}}}$."

    return reply
