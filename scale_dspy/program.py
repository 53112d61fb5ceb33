"""SCALE: compute where it is needed, sub-problem by sub-problem (arXiv 2512.00466).

A problem is decomposed (stage 1), each sub-problem is rated (2) and sent to System 1 or System 2
(3), and solved in order with every earlier result in its context (4). The whole flow is
`SCALE._solve_within`; what a stage does is in stages/.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any, Literal

import dspy

from scale_dspy import __version__
from scale_dspy.grading.answers import find_answer
from scale_dspy.lm.cap import has_room
from scale_dspy.lm.modes import Modes, choose_modes
from scale_dspy.lm.usage import Ledger, track
from scale_dspy.method import Solver
from scale_dspy.stages.ask import gather_all
from scale_dspy.stages.assess import Assess
from scale_dspy.stages.decompose import Decompose
from scale_dspy.stages.solve import Solve
from scale_dspy.step import Step, render_context
from scale_dspy.threshold import Threshold
from scale_dspy.utils.files import write_whole
from scale_dspy.utils.lists import render_list
from scale_dspy.utils.validation import check_whole

Timing = Literal["in_context", "upfront", "none"]
TIMINGS: tuple[Timing, ...] = ("in_context", "upfront", "none")
FINAL_DIFFICULTY = 0.9  # as published: the question itself thinks unless tau is 0.9 or more


class SCALE(Solver):
    """Solves a math problem: easy sub-problems without thinking, hard ones with it.

    Args:
        threshold: tau in [0, 1]. A sub-problem rated above it is solved by System 2.
        candidates: how many decompositions the best one is chosen from.
        assess: when a sub-problem is rated. `in_context`: as its turn comes, its predecessors
            solved (Eq. 3). `upfront`: all in one concurrent round before any is solved, as the
            released code does. `none`: never; then only the last one is System 2.
        split: in [0, 1]. Above 0 the problem is rated first, and at or below `split` it is solved
            whole, as a single step. At 0 it is always split, as in the paper.
        final_difficulty: the score of the last sub-problem, which asks the original question;
            None to rate it like the others.
        budget: the most response tokens for a problem, everything included; None for no limit.
            Close to it System 2 turns into System 1, and an answer is still given.
        system_2_cap: the most response tokens of one System 2 call, instead of the max_tokens of
            its modes. The modes belong to a server and are not saved; this is, so it can be tuned.
        modes: request parameters by stage, or the name of a style; see `modes()`.

    Raises:
        ValueError: an argument is outside its range.

    >>> from scale_dspy import connect
    >>> with dspy.context(lm=connect(model, api_base, seed=0)):
    ...     p = SCALE(threshold=0.5, candidates=2)(problem=problem)
    >>> p.answer == answer, p.steps[-1].system
    (True, 2)
    """

    def __init__(
        self,
        threshold: float = 0.5,
        candidates: int = 8,
        assess: Timing = "in_context",
        *,
        split: float = 0.0,
        final_difficulty: float | None = FINAL_DIFFICULTY,
        budget: int | None = None,
        system_2_cap: int | None = None,
        modes: Modes | str = "hybrid",
    ) -> None:
        super().__init__(budget)
        if assess not in TIMINGS:
            raise ValueError(f"assess is one of {', '.join(TIMINGS)}, not {assess!r}")
        requests = choose_modes(modes)
        if system_2_cap is not None:
            cap = check_whole("a cap", system_2_cap)
            requests = {**requests, "solve_2": {**requests["solve_2"], "max_tokens": cap}}
        self.decompose = Decompose(candidates, requests)
        self.assess = Assess(requests)
        self.solve = Solve(requests)
        self.threshold = Threshold(threshold)
        self.split = Threshold(split)
        self.timing = assess
        self.system_2_cap = system_2_cap
        self.final_difficulty = (
            None if final_difficulty is None else Threshold(final_difficulty).value
        )
        if assess == "none" and final_difficulty is None:
            raise ValueError("assess='none' rates nothing, so final_difficulty must be a number")
        self.record: dict[str, Any] | None = None  # how it was compiled, and what that showed

    @property
    def options(self) -> dict[str, Any]:
        return {
            **super().options,
            "candidates": self.decompose.candidates,
            "assess": self.timing,
            "final_difficulty": self.final_difficulty,
            "system_2_cap": self.system_2_cap,
        }

    def at(self, threshold: float, split: float | None = None) -> SCALE:
        """This program at other thresholds. It shares everything else with this one, so it is as
        cheap as a call; use `deepcopy` for one that may be tuned."""
        other = copy.copy(self)
        other.threshold = Threshold(threshold)
        other.split = Threshold(self.split.value if split is None else split)
        return other

    def dump_state(self, json_mode: bool = True) -> dict[str, Any]:
        """DSPy's state and, under "scale_dspy", what `load_program` needs beside it.

        An LM that was set on a predictor stays out: its state holds the server's address.
        """
        state = super().dump_state(json_mode=json_mode)
        for name, _ in self.named_predictors():
            state[name]["lm"] = None
        record = {} if self.record is None else {"record": self.record}
        return {**state, "scale_dspy": {"version": __version__, "options": self.options, **record}}

    async def _solve_within(self, ledger: Ledger, problem: str) -> dspy.Prediction:
        """All four stages. A cap is spent so: at most a quarter on decomposing, a quarter kept back
        for the answer, and no step but the last takes more than half of what is left."""
        reserve = (ledger.cap or 0) // 4
        notes: list[str] = []
        subproblems, difficulties = await self._plan(problem, reserve, notes)
        steps: list[Step] = []
        for place, subproblem in enumerate(subproblems):
            number, last = place + 1, place == len(subproblems) - 1
            if not last and not has_room(2 * reserve):
                notes.append(f"step {number}: skipped, the rest of the budget is for the answer")
                continue
            context = render_context(steps)
            difficulty = difficulties[place]
            if difficulty is None and self.timing == "in_context":
                difficulty = await self._rate(place, notes, problem, context, subproblem)
            solved = await self.solve.acall(
                problem=problem,
                context=context,
                subproblem=subproblem,
                system=self._choose_system(difficulty),
                keep=0 if last else max(reserve, (ledger.room or 0) // 2),
            )
            notes += [f"step {number}: {note}" for note in solved.replaced]
            steps.append(
                Step(
                    subproblem=subproblem,
                    difficulty=difficulty,
                    system=solved.system,
                    solution=solved.solution,
                    reasoning=solved.reasoning,
                    tokens=solved.tokens,
                )
            )
        answer = find_answer(steps[-1].solution)
        return dspy.Prediction(answer=answer, steps=steps, usage=ledger.usage(), replaced=notes)

    async def _plan(
        self, problem: str, reserve: int, notes: list[str]
    ) -> tuple[list[str], list[float | None]]:
        """The sub-problems, the last of them the problem itself, and the scores known by now."""
        if self.split.value > 0:
            difficulty = await self._rate(0, notes, problem, "", problem)
            if difficulty <= self.split.value:
                return [problem], [difficulty]
        with track(reserve or None):
            plan = await self.decompose.acall(problem=problem)
        notes += plan.replaced
        # As in the released code: whatever the last item asks, what is solved is the question.
        subproblems = [*plan.subproblems[:-1], problem]
        difficulties: list[float | None] = [None] * len(subproblems)
        difficulties[-1] = self.final_difficulty
        if self.timing == "upfront":
            await self._rate_upfront(problem, subproblems, difficulties, notes)
        return subproblems, difficulties

    async def _rate_upfront(
        self,
        problem: str,
        subproblems: list[str],
        difficulties: list[float | None],
        notes: list[str],
    ) -> None:
        """Fill in the missing scores, in one concurrent round; each sees the texts before it."""
        unrated = [place for place, known in enumerate(difficulties) if known is None]
        scores = await gather_all(
            *(
                self._rate(
                    place, notes, problem, render_list(subproblems[:place]), subproblems[place]
                )
                for place in unrated
            )
        )
        for place, score in zip(unrated, scores, strict=True):
            difficulties[place] = score
        notes.sort()  # or their order would depend on which reply came first

    async def _rate(
        self, place: int, notes: list[str], problem: str, context: str, subproblem: str
    ) -> float:
        rated = await self.assess.acall(problem=problem, context=context, subproblem=subproblem)
        notes += [f"step {place + 1}: {note}" for note in rated.replaced]
        return float(rated.difficulty)

    def _choose_system(self, difficulty: float | None) -> int:
        """Eq. 4. A sub-problem that is not rated at all counts as easy."""
        return 2 if difficulty is not None and difficulty > self.threshold.value else 1


def save_program(program: SCALE, path: str | Path) -> None:
    """Write a program's JSON file whole or not at all; `load_program` reads it."""
    with write_whole(Path(path)) as draft:
        program.save(draft)


def load_program(path: str | Path, modes: Modes | str = "hybrid") -> SCALE:
    """The program saved in a JSON file by `program.save(path)` or by a compile.

    Args:
        modes: request parameters by stage; they belong to a server and are not in the file.

    Raises:
        ValueError: the file is missing, is cut off, or holds another kind of program.
    """
    try:
        state = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"cannot read a program from {path}: {error}") from None
    record = state.get("scale_dspy") if isinstance(state, dict) else None
    options = record.get("options") if isinstance(record, dict) else None
    if not isinstance(record, dict) or not isinstance(options, dict):
        raise ValueError(f"{path} holds no SCALE program (no options under 'scale_dspy')")
    if not isinstance(record.get("record") or {}, dict):
        raise ValueError(f"{path}: scale_dspy.record is an object: what a compile did")
    try:
        program = SCALE(**options, modes=modes)
        program.load_state(state)
        program.record = record.get("record")
        for predictor in program.predictors():
            predictor.lm = None  # a file does not choose the server that its user's problems go to
            _check_texts(predictor)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        reason = f"{type(error).__name__}: {error}"
        written = record.get("version")
        raise ValueError(
            f"{path}, written by scale_dspy {written}, does not fit {__version__}: {reason}"
        ) from None
    return program


def _check_texts(predictor: dspy.Predict) -> None:
    """TypeError unless a file's instructions are a text and its demos are objects."""
    if not isinstance(predictor.signature.instructions, str):
        raise TypeError("instructions must be a text")
    if not isinstance(predictor.demos, list):
        raise TypeError("demos must be a list")
    for demo in predictor.demos:
        if not isinstance(demo, (dict, dspy.Example)):
            raise TypeError(f"a demo must be an object, not {demo!r:.40}")
