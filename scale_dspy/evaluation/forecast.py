"""What a run would ask of a server, before it asks anything."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import dspy

from scale_dspy.baselines import ChainOfThought, InftyThink, MajorityVote
from scale_dspy.evaluation.run_status import count_tokens, read_finished
from scale_dspy.method import Solver
from scale_dspy.program import DRAFTED, SCALE
from scale_dspy.utils.lists import MAX_SUBPROBLEMS


@dataclass(frozen=True)
class Forecast:
    """What is left to do, and what it takes.

    Attributes:
        problems, samples: of the whole run.
        done: rollouts that are there already.
        missing: rollouts to be made.
        requests: at least and at most for these, where every reply can be read at once.
        tokens: response tokens to expect for these; None where nothing tells.
        measured: rollouts that the expectation is the mean of.
    """

    problems: int
    samples: int
    done: int
    missing: int
    requests: tuple[int, int]
    tokens: float | None
    measured: int


def forecast(
    program: Solver, examples: Sequence[dspy.Example], samples: int, out: Path, like: Path | None
) -> Forecast:
    """What `evaluate` with these arguments would do.

    Args:
        out: the folder it would work in.
        like: the folder of another run, whose tokens tell what to expect; by default `out`.

    Raises:
        ValueError: `like` holds no rollouts.
    """
    wanted = {(str(example.id), sample) for example in examples for sample in range(samples)}
    done = {(str(each.get("id")), each.get("sample")) for each in read_finished(out)} & wanted
    missing = len(wanted) - len(done)
    counts = [tokens for each in read_finished(like or out) if (tokens := count_tokens(each))]
    if like and not counts:
        raise ValueError(f"{like} holds no rollouts whose tokens are known")
    least, most = bound_requests(program)
    return Forecast(
        problems=len(examples),
        samples=samples,
        done=len(done),
        missing=missing,
        requests=(least * missing, most * missing),
        tokens=missing * sum(counts) / len(counts) if counts else None,
        measured=len(counts),
    )


def bound_requests(program: Solver) -> tuple[int, int]:
    """Requests of one rollout, at least and at most, where every reply can be read at once."""
    if isinstance(program, SCALE):
        rated_last = program.final_difficulty is None
        rates = program.timing != "none"
        least = 2 + (rates and rated_last and program.split.value == 0)
        if _may_be_one_request(program):
            least = 1
        ratings = (MAX_SUBPROBLEMS - (not rated_last)) * rates + (program.split.value > 0)
        plan = 1 + (program.decompose.candidates > 1)
        # Drafts and passes one by one, where the server ignores `n`; each pass may be concluded.
        solutions = (program.count_probes() + 2 * program.votes) * MAX_SUBPROBLEMS
        return least, plan + ratings + solutions
    if isinstance(program, MajorityVote):
        return 1, 2 * program.samples  # the same
    if isinstance(program, InftyThink):
        return 1, 2 * program.rounds + 1
    if isinstance(program, ChainOfThought):
        return 1, 2
    raise ValueError(f"nothing is known of the requests of {type(program).__name__}")


def _may_be_one_request(program: SCALE) -> bool:
    """Whether a problem may be solved whole without being rated, or by the draft it is rated on."""
    unrated = program.split.value == 1 and program.threshold.value in (0, 1)
    return unrated or (program.split.value > 0 and program.timing in DRAFTED)
