"""SCALE: compute where it is needed, sub-problem by sub-problem (arXiv 2512.00466).

A problem is decomposed (stage 1), each sub-problem is rated (2) and sent to System 1 or System 2
(3), and solved in order with every earlier result in its context (4). The whole flow is
`SCALE._solve_within`; what a stage does is in stages/.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

import dspy

from scale_dspy.lm.cap import has_room
from scale_dspy.lm.modes import Modes, choose_modes
from scale_dspy.lm.usage import Ledger, track
from scale_dspy.method import Solver
from scale_dspy.stages.ask import gather_all
from scale_dspy.stages.assess import Assess
from scale_dspy.stages.decompose import Decompose, check_candidates
from scale_dspy.stages.drafts import Score, draw_draft, keep_draft, score_draft
from scale_dspy.stages.estimate import Estimate
from scale_dspy.stages.solve import Solve, pass_on_prompt
from scale_dspy.stages.votes import read_result
from scale_dspy.step import Step, render_context
from scale_dspy.threshold import Threshold
from scale_dspy.utils.files import write_whole
from scale_dspy.utils.lists import MAX_SUBPROBLEMS, render_list
from scale_dspy.utils.validation import check_whole
from scale_dspy.utils.version import __version__

Timing = Literal["in_context", "upfront", "none", "draft", "agreement", "review"]
TIMINGS: tuple[Timing, ...] = get_args(Timing)
DRAFTED = ("draft", "agreement", "review")  # System 1 solves first
PROBES = 4  # drafts whose agreement is measured, where the program does not say how many
MAX_VOTES = 256  # a program file from a stranger may name any number
STOP = 0.95
FINAL_DIFFICULTY = 0.9  # as published: the question itself thinks unless tau is 0.9 or more


def _check_timing(value: Any) -> Timing:
    if value not in TIMINGS:
        raise ValueError(f"assess is one of {', '.join(TIMINGS)}, not {value!r}")
    return value  # type: ignore[no-any-return]


def _check_optional(what: str, most: int | None = None) -> Callable[[Any], int | None]:
    """A check of a whole number that may also be None."""
    return lambda value: None if value is None else check_whole(what, value, most=most)


def _check_switch(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"weigh is True or False, not {value!r}")
    return value


def _make_threshold(value: Any) -> Threshold:
    return value if isinstance(value, Threshold) else Threshold(value)


class SCALE(Solver):
    """Solves a math problem: easy sub-problems without thinking, hard ones with it.

    Args:
        threshold: tau in [0, 1]. A sub-problem rated above it is solved by System 2.
        candidates: how many decompositions the best one is chosen from.
        assess: how a sub-problem's difficulty is found. `in_context`: the model rates it as its
            turn comes, its predecessors solved (Eq. 3). `upfront`: it rates all in one concurrent
            round before any is solved, as the released code does. `none`: never; then only the
            last one is System 2. In the others System 1 solves it first, and its draft is the
            solution unless the difficulty is above tau. `draft`: measured on the draft, by
            `estimate`. `agreement`: 1 - the share of the most frequent result of `probes` drafts.
            `review`: the model is asked for it when it has seen the draft.
        split: in [0, 1]. Above 0 the problem's difficulty is found first, and at or below `split`
            it is solved whole, as a single step. At 0 it is always split, as in the paper. At 1 it
            never is, and then nothing is rated that decides nothing: with tau at 0 this is
            ChainOfThought, request for request, and with `votes=8, stop=1` MajorityVote.
        votes: the most passes of a System 2 step; its result is the most frequent one.
        stop: in [0, 1]; drawing ends when the leading result is the most frequent of all with a
            probability above it. At 1 all votes are drawn, in one request.
        weigh: whether each vote counts by how likely its pass is to be right, as `pass_estimate`
            says, instead of all alike; `stop` is then the probability that the leading result is
            right, and drawing begins with a single pass.
        probes: how many drafts a difficulty is measured on, in one request: by default PROBES for
            `agreement` and one otherwise.
        final_difficulty: the score of the last sub-problem, which asks the original question;
            None to rate it like the others.
        budget: the most response tokens for a problem, everything included; None for no limit.
            Close to it System 2 turns into System 1, and an answer is still given.
        system_2_cap: the most response tokens of one System 2 call, instead of the max_tokens of
            its modes. The modes belong to a server and are not saved; this is, so it can be tuned.
        modes: request parameters by stage, or the name of a style; see `modes()`.

    All but `modes` may be set later too, as attributes of these names.

    Raises:
        ValueError: an argument is outside its range.

    >>> from scale_dspy import connect
    >>> with dspy.context(lm=connect(model, api_base, seed=0)):
    ...     p = SCALE(threshold=0.5, candidates=2)(problem=problem)
    >>> p.answer == answer, p.steps[-1].system
    (True, 2)
    """

    checks: ClassVar[Mapping[str, Callable[[Any], Any]]] = {
        "threshold": _make_threshold,
        "split": _make_threshold,
        "stop": _make_threshold,
        "timing": _check_timing,
        "votes": lambda value: check_whole("votes", value, most=MAX_VOTES),
        "weigh": _check_switch,
        "probes": _check_optional("probes", MAX_VOTES),
        "final_difficulty": lambda value: None if value is None else Threshold(value).value,
    }

    def __init__(
        self,
        threshold: float = 0.5,
        candidates: int = 8,
        assess: Timing = "in_context",
        *,
        split: float = 0.0,
        votes: int = 1,
        stop: float = STOP,
        weigh: bool = False,
        probes: int | None = None,
        final_difficulty: float | None = FINAL_DIFFICULTY,
        budget: int | None = None,
        system_2_cap: int | None = None,
        modes: Modes | str = "hybrid",
    ) -> None:
        super().__init__(budget)
        self.timing = assess
        requests = choose_modes(modes)
        self.decompose = Decompose(candidates, requests)
        self.assess = Assess(requests)
        self.solve = Solve(requests)
        self.threshold = Threshold(threshold)
        self.split = Threshold(split)
        self.stop = Threshold(stop)
        self.estimate, self.pass_estimate = Estimate(), Estimate()
        self.votes, self.weigh, self.probes = votes, weigh, probes
        self._uncapped = requests["solve_2"].get("max_tokens")
        self.system_2_cap = system_2_cap
        self.final_difficulty = final_difficulty
        if assess == "none" and final_difficulty is None:
            raise ValueError("assess='none' rates nothing, so final_difficulty must be a number")
        self.record: dict[str, Any] | None = None  # how it was compiled, and what that showed

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute; `assess` is the stage, or, as a text, how it finds a difficulty."""
        super().__setattr__("timing" if name == "assess" and not _is_module(value) else name, value)

    @property
    def candidates(self) -> int:
        """How many decompositions the best one is chosen from."""
        return self.decompose.candidates

    @candidates.setter
    def candidates(self, value: int) -> None:
        self.decompose.candidates = check_candidates(value)

    @property
    def system_2_cap(self) -> int | None:
        """The most response tokens of one System 2 call; None for what its modes say."""
        return self._system_2_cap

    @system_2_cap.setter
    def system_2_cap(self, value: int | None) -> None:
        self._system_2_cap = None if value is None else check_whole("a cap", value)
        most = self._uncapped if value is None else value
        for predictor in (self.solve.system_2, self.solve.whole):
            if isinstance(predictor, dspy.Predict) and predictor.config.get("max_tokens") != most:
                limit = {} if most is None else {"max_tokens": most}
                rest = {key: v for key, v in predictor.config.items() if key != "max_tokens"}
                predictor.config = {**rest, **limit}

    @property
    def options(self) -> dict[str, Any]:
        return {
            **super().options,
            "candidates": self.decompose.candidates,
            "assess": self.timing,
            "votes": self.votes,
            "weigh": self.weigh,
            "probes": self.probes,
            "final_difficulty": self.final_difficulty,
            "system_2_cap": self.system_2_cap,
        }

    def count_probes(self) -> int:
        """How many drafts a difficulty is measured on."""
        return self.probes or (PROBES if self.timing == "agreement" else 1)

    def _show(self) -> dict[str, Any]:
        names = ("threshold", "split", "stop")
        return {**{name: getattr(self, name).value for name in names}, **self.options}

    def at(self, threshold: float, split: float | None = None, stop: float | None = None) -> SCALE:
        """This program at other thresholds. It shares everything else with this one, so it is as
        cheap as a call; use `deepcopy` for one that may be tuned."""
        other = copy.copy(self)
        other.threshold = Threshold(threshold)
        other.split = Threshold(self.split.value if split is None else split)
        other.stop = Threshold(self.stop.value if stop is None else stop)
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

    def load_state(self, state: dict[str, Any], **how: Any) -> None:
        """Take a saved program: its prompts, thresholds, options and record, all or nothing.

        In a file from before `solve.whole` the tuned prompt of System 2 is that one's too.

        Raises:
            ValueError: an option is unknown or none that this version takes.
        """
        held = state.get("scale_dspy") or {}
        options = {} if "scale_dspy" not in state else read_saved_options(held)
        super().load_state(pass_on_prompt(state, self.dump_state()), **how)
        for name, value in options.items():
            setattr(self, name, value)
        if held:
            self.record = held.get("record")

    def bound_requests(self) -> tuple[int, int]:
        split, tau = self.split.value, self.threshold.value
        rated_last = self.final_difficulty is None
        rates = self.timing != "none"
        least = 2 + (rates and rated_last and split == 0)
        if (split == 1 and tau in (0, 1)) or (split > 0 and self.timing in DRAFTED):
            least = 1  # solved whole: unrated, or by the draft that it is rated on
        ratings = (MAX_SUBPROBLEMS - (not rated_last)) * rates + (split > 0)
        plan = 1 + (self.candidates > 1)
        # Drafts and passes one by one, where the server ignores `n`; each pass may be concluded.
        solutions = (self.count_probes() + 2 * self.votes) * MAX_SUBPROBLEMS
        return least, plan + ratings + solutions

    async def _solve_within(self, ledger: Ledger, problem: str) -> dspy.Prediction:
        """All four stages. A cap is spent so: at most a quarter on decomposing, a quarter kept back
        for the answer, and no step but the last takes more than half of what is left."""
        reserve = (ledger.cap or 0) // 4
        notes: list[str] = []
        subproblems, scores = await self._plan(problem, reserve, notes)
        steps: list[Step] = []
        for place, subproblem in enumerate(subproblems):
            number, last = place + 1, place == len(subproblems) - 1
            if not last and not has_room(2 * reserve):
                notes.append(f"step {number}: skipped, the rest of the budget is for the answer")
                continue
            context = render_context(steps)
            keep = 0 if last else max(reserve, (ledger.room or 0) // 2)
            scored = scores[place]
            if scored is None:
                scored = await self._score(place, notes, problem, context, subproblem, keep)
            solved = await self.solve.acall(
                problem=problem,
                context=context,
                subproblem=subproblem,
                system=scored.system or self._choose_system(scored.difficulty),
                whole=len(subproblems) == 1,
                votes=self.votes,
                stop=self.stop.value,
                estimate=self.pass_estimate if self.weigh else None,
                draft=scored.draft,
                keep=keep,
            )
            notes += [f"step {number}: {note}" for note in solved.replaced]
            steps.append(
                Step(
                    subproblem=subproblem,
                    difficulty=scored.difficulty,
                    system=solved.system,
                    solution=solved.solution,
                    reasoning=solved.reasoning,
                    tokens=solved.tokens,
                    votes=solved.votes,
                    draft=keep_draft(scored.draft),
                )
            )
        answer = read_result(steps[-1].solution, solved.unfinished)
        return dspy.Prediction(answer=answer, steps=steps, usage=ledger.usage(), replaced=notes)

    async def _plan(
        self, problem: str, reserve: int, notes: list[str]
    ) -> tuple[list[str], list[Score | None]]:
        """The sub-problems, the last of them the problem itself, and the scores known by now."""
        ends = {0.0: 2, 1.0: 1}
        if self.split.value == 1 and self.threshold.value in ends:
            return [problem], [Score(None, system=ends[self.threshold.value])]
        if self.split.value > 0:
            scored = await self._score(0, notes, problem, "", problem, reserve, whole=True)
            if scored.difficulty is not None and scored.difficulty <= self.split.value:
                return [problem], [scored]
        with track(reserve or None):
            plan = await self.decompose.acall(problem=problem)
        notes += plan.replaced
        # As in the released code, the question itself takes the last item's place.
        subproblems = [*plan.subproblems[:-1], problem]
        scores: list[Score | None] = [None] * len(subproblems)
        if self.final_difficulty is not None:
            scores[-1] = Score(self.final_difficulty)
        if self.timing == "upfront":
            await self._rate_upfront(problem, subproblems, scores, notes)
        return subproblems, scores

    async def _rate_upfront(
        self,
        problem: str,
        subproblems: list[str],
        scores: list[Score | None],
        notes: list[str],
    ) -> None:
        """Fill in the missing scores, in one concurrent round; each sees the texts before it."""
        unrated = [place for place, known in enumerate(scores) if known is None]
        rated = await gather_all(
            *(
                self._rate(
                    place, notes, problem, render_list(subproblems[:place]), subproblems[place]
                )
                for place in unrated
            )
        )
        for place, score in zip(unrated, rated, strict=True):
            scores[place] = Score(score)
        notes.sort()  # or their order would depend on which reply came first

    async def _score(
        self,
        place: int,
        notes: list[str],
        problem: str,
        context: str,
        subproblem: str,
        keep: int,
        whole: bool = False,
    ) -> Score:
        """The difficulty of a sub-problem whose turn it is, found as `assess` says.

        Args:
            whole: whether it is the problem itself before it is split, which is always scored.
        """
        if self.timing not in DRAFTED:
            rates = whole or self.timing == "in_context"
            asked = (place, notes, problem, context, subproblem)
            return Score(await self._rate(*asked) if rates else None)
        draft = await draw_draft(
            self.solve.system_1,
            {"problem": problem, "context": context, "subproblem": subproblem},
            probes=self.count_probes(),
            logprobs=self.timing == "draft",
            keep=keep,
        )
        if self.timing == "draft":
            return score_draft(draft, self.estimate(draft.features))
        if self.timing == "agreement":
            return score_draft(draft, round(draft.features.get("disagreement", 0.0), 6))
        text = draft.reply.text
        rated = await self._rate(place, notes, problem, context, subproblem, text)
        return score_draft(draft, rated)

    async def _rate(
        self,
        place: int,
        notes: list[str],
        problem: str,
        context: str,
        subproblem: str,
        draft: str | None = None,
    ) -> float:
        rated = await self.assess.acall(
            problem=problem, context=context, subproblem=subproblem, draft=draft
        )
        notes += [f"step {place + 1}: {note}" for note in rated.replaced]
        return float(rated.difficulty)

    def _choose_system(self, difficulty: float | None) -> int:
        """Eq. 4. A sub-problem that is not rated at all counts as easy."""
        return 2 if difficulty is not None and difficulty > self.threshold.value else 1


def read_saved_options(held: Any) -> dict[str, Any]:
    """The options in what a program's file says of itself, checked.

    Raises:
        ValueError: there are none, one is unknown, or a value is none that it takes.
    """
    options = held.get("options") if isinstance(held, dict) else None
    if not isinstance(options, dict):
        raise ValueError("there are no options under 'scale_dspy'")
    try:
        checked = SCALE(**options).options
    except TypeError as error:
        raise ValueError(str(error)) from None
    foreign = sorted(options.keys() - checked.keys())  # modes, which belong to a server
    if foreign:
        raise ValueError(f"a program's file has no option {foreign[0]!r}")
    return checked


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
        program = SCALE(modes=modes)
        program.load_state(state)
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


def _is_module(value: Any) -> bool:
    return isinstance(value, dspy.Module)


def _check_texts(predictor: dspy.Predict) -> None:
    """TypeError unless a file's instructions are a text and its demos are objects."""
    if not isinstance(predictor.signature.instructions, str):
        raise TypeError("instructions must be a text")
    if not isinstance(predictor.demos, list):
        raise TypeError("demos must be a list")
    for demo in predictor.demos:
        if not isinstance(demo, (dict, dspy.Example)):
            raise TypeError(f"a demo must be an object, not {demo!r:.40}")
