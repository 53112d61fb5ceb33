"""The methods that SCALE is compared with, each counted, capped and scored as SCALE is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import dspy

from scale_dspy.grading.answers import find_answer
from scale_dspy.lm.cap import OutOfTokensError, room
from scale_dspy.lm.modes import Modes, choose_modes
from scale_dspy.lm.usage import Ledger, track
from scale_dspy.method import Solver
from scale_dspy.methods import METHODS as METHODS
from scale_dspy.methods import make_program as make_program
from scale_dspy.program import SCALE
from scale_dspy.stages.ask import Reply, ask, make_predictor
from scale_dspy.stages.passes import Solvers, draw_passes
from scale_dspy.stages.solve import SolveDirectly, SolveProblem
from scale_dspy.step import Step, Vote
from scale_dspy.utils.validation import check_whole

ROUND = 0.25  # of System 2's max_tokens, for one round of InftyThink
SHORTEST_ROUND = 256  # response tokens; in less nothing is worked out that is worth a summary


class ContinueProblem(dspy.Signature):
    r"""Solve the problem, going on from the summary of the work so far. Reason step by step. If
    there is no summary yet, begin; do not repeat what the summary has settled."""

    problem: str = dspy.InputField(desc="Problem")
    summary: str = dspy.InputField(desc="Summary of the work so far")
    solution: str = dspy.OutputField(
        desc=r"a complete solution that ends with the answer in \boxed{}"
    )


class SummariseWork(dspy.Signature):
    r"""Summarise the unfinished work so that a solver who sees only the problem and your summary
    can go on from there: every established result, with its value, what was ruled out and why, and
    what was about to be tried. Keep what still matters of the earlier summary. Solve nothing."""

    problem: str = dspy.InputField(desc="Problem")
    summary: str = dspy.InputField(desc="Summary of the work so far")
    work: str = dspy.InputField(desc="Latest work, cut off at its end")
    new_summary: str = dspy.OutputField(desc="the new summary in at most 300 words")


class ConcludeProblem(dspy.Signature):
    r"""Answer the problem from the summary of the work on it, as well as it allows."""

    problem: str = dspy.InputField(desc="Problem")
    summary: str = dspy.InputField(desc="Summary of the work so far")
    solution: str = dspy.OutputField(desc=r"a short solution that ends with the answer in \boxed{}")


class ChainOfThought(Solver):
    """One pass of System 2 over the whole problem, zero-shot.

    Args:
        budget: see Solver.
        modes: request parameters by stage, or the name of a style.
    """

    def __init__(self, *, budget: int | None = None, modes: Modes | str = "hybrid") -> None:
        super().__init__(budget)
        requests = choose_modes(modes)
        self.solve = make_predictor(SolveProblem, **requests["solve_2"])
        self.conclude = make_predictor(SolveDirectly, **requests["solve_1"])

    def bound_requests(self) -> tuple[int, int]:
        return 1, 2  # a pass that is cut off is concluded

    async def _solve_within(self, ledger: Ledger, problem: str) -> dspy.Prediction:
        drawn = await draw_passes(_make_solvers(self, problem))
        return _predict(ledger, problem, drawn.reply, drawn.votes[0].result)


class MajorityVote(Solver):
    """The most frequent answer of several passes (self-consistency, arXiv 2203.11171).

    Args:
        samples: how many passes; 8 in the paper.
        budget: see Solver; the passes share it equally.
        modes: request parameters by stage, or the name of a style.
    """

    checks: ClassVar[Mapping[str, Callable[[Any], Any]]] = {
        "samples": lambda value: check_whole("samples", value)
    }

    def __init__(
        self, samples: int = 8, *, budget: int | None = None, modes: Modes | str = "hybrid"
    ) -> None:
        super().__init__(budget)
        self.samples = samples
        requests = choose_modes(modes)
        self.solve = make_predictor(SolveProblem, **requests["solve_2"])
        self.conclude = make_predictor(SolveDirectly, **requests["solve_1"])

    @property
    def options(self) -> dict[str, Any]:
        return {**super().options, "samples": self.samples}

    def bound_requests(self) -> tuple[int, int]:
        # One by one, where the server ignores `n`; each may be concluded.
        return 1, 2 * self.samples

    async def _solve_within(self, ledger: Ledger, problem: str) -> dspy.Prediction:
        drawn = await draw_passes(_make_solvers(self, problem), self.samples)
        answers = [vote.result for vote in drawn.votes]
        answer = answers[drawn.winner] if answers else None
        votes = drawn.votes if len(answers) > 1 else ()
        prediction = _predict(ledger, problem, drawn.reply, answer, votes=votes)
        prediction.answers = answers
        return prediction


class InftyThink(Solver):
    """Bounded rounds of thinking; a summary of each replaces it (arXiv 2503.06692).

    The published model is trained to write its own summaries; here the prompt asks for them.

    Args:
        rounds: the most rounds, after which the summary is all that the answer is drawn from.
        round_tokens: response tokens of a round, and the most of its summary; by default ROUND of
            System 2's max_tokens, at least SHORTEST_ROUND.
        budget: see Solver.
        modes: request parameters by stage, or the name of a style.
    """

    checks: ClassVar[Mapping[str, Callable[[Any], Any]]] = {
        "rounds": lambda value: check_whole("rounds", value)
    }

    def __init__(
        self,
        rounds: int = 4,
        round_tokens: int | None = None,
        *,
        budget: int | None = None,
        modes: Modes | str = "hybrid",
    ) -> None:
        super().__init__(budget)
        stages = choose_modes(modes)
        thinking: dict[str, Any] = stages["solve_2"]
        length = round_tokens or max(SHORTEST_ROUND, int(thinking["max_tokens"] * ROUND))
        self.rounds = rounds
        self.think = make_predictor(ContinueProblem, **{**thinking, "max_tokens": length})
        self.summarise = make_predictor(SummariseWork, **_loosen(stages["solve_1"], length))
        self.conclude = make_predictor(ConcludeProblem, **stages["solve_1"])

    @property
    def options(self) -> dict[str, Any]:
        return {**super().options, "rounds": self.rounds}

    def bound_requests(self) -> tuple[int, int]:
        return 1, 2 * self.rounds + 1

    async def _solve_within(self, ledger: Ledger, problem: str) -> dspy.Prediction:
        summary, work = "", ""
        reserve = (ledger.cap or 0) // 4
        for attempt in range(self.rounds):
            left = room()
            try:
                with track(None if left is None else left - reserve):
                    inputs = {"problem": problem, "summary": summary}
                    (reply, *_) = await ask(self.think, "solve_2", inputs, attempt=attempt)
                    if reply.text and not reply.cut_off:
                        return _predict(ledger, problem, reply, find_answer(reply.text))
                    work = reply.text or reply.reasoning
                    inputs["work"] = work
                    (noted, *_) = await ask(self.summarise, "solve_1", inputs, attempt=attempt)
                    summary = noted.text or summary
            except OutOfTokensError:
                break
        inputs = {"problem": problem, "summary": summary or work}
        try:
            (reply, *_) = await ask(self.conclude, "solve_1", inputs)
        except OutOfTokensError:
            reply = Reply(work)
        return _predict(ledger, problem, reply, find_answer(reply.text), system=1)


class ProblemRouting(SCALE):
    """One difficulty for the whole problem, then one solution of it by System 1 or System 2.

    SCALE with `split` at 1, where no problem is decomposed.

    Args:
        threshold: tau in [0, 1]; a problem rated above it is solved by System 2.
        budget: see Solver.
        modes: request parameters by stage, or the name of a style.
    """

    def __init__(
        self,
        threshold: float = 0.5,
        *,
        budget: int | None = None,
        modes: Modes | str = "hybrid",
    ) -> None:
        super().__init__(threshold, candidates=1, split=1.0, budget=budget, modes=modes)


def _loosen(config: dict[str, Any], tokens: int) -> dict[str, Any]:
    """System 1 as a writer of prose: no grammar that holds answers to a form, and room for it."""
    body = {key: value for key, value in config.get("extra_body", {}).items() if key != "grammar"}
    free = {key: value for key, value in config.items() if key != "extra_body"}
    free["max_tokens"] = tokens
    return {**free, "extra_body": body} if body else free


def _make_solvers(program: ChainOfThought | MajorityVote, problem: str) -> Solvers:
    unfinished = {"problem": problem, "context": "", "subproblem": problem}
    return Solvers(program.solve, {"problem": problem}, program.conclude, unfinished)


def _predict(
    ledger: Ledger,
    problem: str,
    reply: Reply,
    answer: str | None,
    system: int = 2,
    votes: tuple[Vote, ...] = (),
) -> dspy.Prediction:
    """A solution of the whole problem as a single step."""
    solution = reply.text or reply.reasoning
    step = Step(problem, None, system, solution, reply.reasoning, ledger.tokens, votes)
    return dspy.Prediction(answer=answer, steps=[step], usage=ledger.usage(), replaced=[])
