"""DSPy's ReAnchor on SCALE's threshold, for comparison with ThresholdSearch.

ReAnchor is for Boolean outputs with a probability. Here the output is whether a sub-problem is
hard, and its probability is the difficulty score of the same program.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from typing import Any, cast

import dspy
from dspy.experimental import Noul, ReAnchor

from scale_dspy.program import SCALE
from scale_dspy.tuning.threshold_search import change

CUT = "hard"  # the decision whose threshold ReAnchor tunes


def find_cut(
    program: SCALE, examples: Sequence[dspy.Example], metric: Callable[..., Any], threads: int
) -> tuple[SCALE, dict[str, Any]]:
    """(a copy of the program with the threshold that ReAnchor finds, what ReAnchor reports)."""
    anchor = ReAnchor(metric, num_threads=threads)
    tuned: Any = anchor.compile(DecidingSCALE.of(program), trainset=list(examples))
    found = change(program, {})
    cut = tuned.decide.fields.get(CUT, {}).get("threshold")
    if cut is not None:
        found.threshold.set(turn_into_tau(cut))
    return found, json.loads(json.dumps(anchor.report, default=str))


class DecideHard(dspy.Signature):
    """Decide whether a sub-problem of this difficulty score needs thought."""

    difficulty: float = dspy.InputField()
    hard: Noul = dspy.OutputField(desc="whether it is hard")


class ScoreReader:
    """Answers a decision with the score itself as the probability, and asks no model."""

    supports_decision_requests = True
    cache = True

    def __call__(self, state: dict[str, Any], questions: dict[str, Any]) -> dict[str, Any]:
        return {CUT: {"noul": float(state["inputs"]["difficulty"])}}


class DecidingSCALE(SCALE):
    """SCALE whose choice of a system is a decision that ReAnchor can tune."""

    decide: dspy.Predict

    @classmethod
    def of(cls, program: SCALE) -> DecidingSCALE:
        """This program, with the threshold that it came with."""
        deciding = cls.__new__(cls)
        deciding.__dict__.update(change(program, {}).__dict__)
        deciding.decide = dspy.Predict(DecideHard)
        deciding.decide.lm = cast(Any, ScoreReader())  # it has only what a decision needs of an LM
        deciding.decide.fields[CUT] = {"threshold": turn_into_cut(program.threshold.value)}
        return deciding

    def _choose_system(self, difficulty: float | None) -> int:
        if difficulty is None:
            return 1
        return 2 if self.decide(difficulty=difficulty).hard.value else 1


def turn_into_tau(cut: float) -> float:
    """The tau for which d > tau holds where d >= cut does; 0 where there is none."""
    return max(0.0, math.nextafter(cut, -1.0))


def turn_into_cut(tau: float) -> float:
    """The cut for which d >= cut holds where d > tau does; 1 where there is none."""
    return min(1.0, math.nextafter(tau, 2.0))
