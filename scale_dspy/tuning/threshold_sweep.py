"""Run a program at every threshold that makes a difference, and at no other (the walk).

A run at tau stays the same for every threshold from the largest of its scores that is at most tau
up to the smallest that is above it. So from tau = 0 each run itself names the next threshold worth
running, and after at most n + 1 runs the outcome of a (problem, sample) pair is known at every tau
in [0, 1]. Runs share their beginnings, and what is shared comes from the cache.

Where System 2 votes, a run also stays the same for every `stop` from the highest lead at which a
step went on drawing, up to the run's own stop. So the walk over tau is repeated just below that
lead, and so on down to 0; the passes that it draws are the first waves of those drawn before.

A walk may also be of the whole problem only: then the problem is never split, and what splitting it
would give stays unknown.
"""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import dspy
from typing_extensions import Unpack

from scale_dspy.evaluation.description import describe_run
from scale_dspy.evaluation.folder import RUN, match_whole_only
from scale_dspy.evaluation.paying import complete_terms
from scale_dspy.evaluation.rollout import Rollout, read_pairs, sum_usage
from scale_dspy.evaluation.runner import Effort, finish_pairs, solve_once
from scale_dspy.grading.labels import (
    Label,
    ScoreReport,
    bound_auroc,
    make_label,
    measure_auroc,
    measure_scores,
)
from scale_dspy.grading.metrics import is_right
from scale_dspy.lm.connect import MeteredLM
from scale_dspy.lm.tally import Tally
from scale_dspy.lm.usage import track
from scale_dspy.program import SCALE
from scale_dspy.stages.estimate import FEATURES
from scale_dspy.stages.votes import measure_lead, read_doubts
from scale_dspy.step import Step, Vote
from scale_dspy.utils.records import Share

WALKS = "walks.jsonl"
CURVES = ("split", "rated", "whole", "plain")
BOTTOM = math.nextafter(0.0, 1.0)
TOP = math.nextafter(1.0, 0.0)  # the largest stop at which passes are drawn in waves


class Piece(NamedTuple):
    """A piece of a curve: it holds from `tau` and `stop` up to the next one's. Tokens are response
    tokens."""

    tau: Share
    right: bool
    tokens: int
    stop: Share = 0.0


@dataclass(frozen=True)
class Known:
    """A draft that is known to be wrong or right.

    Attributes:
        features: see `estimate.FEATURES`.
        difficulty: the score that was found on it; None in walks of earlier versions.
    """

    features: dict[str, float]
    wrong: bool
    difficulty: Share | None = None


@dataclass(frozen=True, kw_only=True)
class Walk:
    """All outcomes of one sample of a problem, a line of walks.jsonl.

    Attributes:
        difficulty: of the whole problem; None where it was not rated.
        split: the curve of the problem that is not rated, and split; empty where the walk failed or
            is `whole_only`.
        rated: of the problem that is rated first, and split; likewise.
        whole: of the problem that is rated first, and solved whole.
        plain: of the problem solved whole, unrated, at tau 0 and 1.
        drafts: those that are known to be wrong or right.
        passes: of the problem solved whole by System 2, where votes are weighed; as `drafts`.
        labels: which single sub-problems proved easy or hard.
        usage: what was really sent, by stage.
        seconds: wall-clock.
        error: what ended one of its runs; None where nothing did.
        whole_only: whether the problem was not split on purpose: only `whole` and `plain` are
            measured.
    """

    id: str
    sample: int
    gold: str = ""
    difficulty: Share | None
    split: tuple[Piece, ...]
    rated: tuple[Piece, ...]
    whole: tuple[Piece, ...]
    labels: tuple[Label, ...]
    usage: dict[str, Tally]
    seconds: float | None
    error: str | None
    plain: tuple[Piece, ...] = ()
    drafts: tuple[Known, ...] = ()
    passes: tuple[Known, ...] = ()
    whole_only: bool = False

    def __post_init__(self) -> None:
        for name in CURVES:
            places = [(piece.stop, piece.tau) for piece in getattr(self, name)]
            if places[:1] not in ([], [(0.0, 0.0)]) or any(a >= b for a, b in pairwise(places)):
                raise ValueError(f"the thresholds of the curve {name!r} do not rise from 0")

    @property
    def right(self) -> bool:
        """Whether it is right at tau = 0, of the problem split or, where it never is, whole."""
        curve = self.plain if self.whole_only else self.split
        return bool(curve) and curve[0].right

    @property
    def tokens(self) -> int:
        """Response tokens that were really sent."""
        return sum_usage(self.usage).completion_tokens

    @property
    def pieces(self) -> tuple[Piece, ...]:
        """Those of all curves: each is a run that was graded."""
        return (*self.split, *self.rated, *self.whole, *self.plain)

    def read_curve(self, split: float) -> tuple[Piece, ...]:
        """The curve over tau at a split."""
        if self.whole_only:
            return self.whole if split == 1 else ()
        if split == 0:
            return self.split
        whole = self.difficulty is not None and self.difficulty <= split
        return self.whole if whole else self.rated


def walk_all(
    program: SCALE,
    examples: Sequence[dspy.Example],
    lm: MeteredLM,
    out: Path,
    *,
    data: str = "",
    settings: Mapping[str, Any] | None = None,
    whole_only: bool = False,
    **effort: Unpack[Effort],
) -> list[Walk]:
    """Walk every example `samples` times, each written as it ends; again, do what is missing.

    Args:
        program: its threshold and split do not matter.
        examples: as `load` makes them.
        lm: must cache, or the runs of a walk would not share their beginnings.
        out: the folder of walks.jsonl and run.json.
        data: the name of the examples, for run.json.
        settings: the flags of the command line, for run.json.
        whole_only: walk the problems whole only, and never split one.
        effort: as for `evaluate`, and counted in walks; one sample by default.

    Returns:
        The walks in the order of the examples and samples, whatever order they ended in: sums and
        resamples of them are then the same each time.

    Raises:
        ValueError: the LM does not cache, `out` holds other walks, such as those of the other kind
            (`whole_only` or not), or a file in it is damaged.
        RuntimeError: the server is gone; what is finished is kept.
    """
    if not lm.cache:
        raise ValueError("the frontier needs an LM that caches: leave cache=True")
    samples = effort.setdefault("samples", 1)

    async def work(example: dspy.Example, sample: int) -> Walk:
        return await walk_pair(program, example, sample, lm, whole_only)

    match_whole_only(out / RUN, whole_only)
    effort["terms"] = complete_terms(effort.get("terms"), lm, out / RUN)
    described = describe_run(
        program.at(0, float(whole_only), TOP), "frontier", data, examples, lm, samples, settings
    )
    path = out / WALKS
    kind = {"whole": True, **({"whole_only": True} if whole_only else {})}
    finish_pairs(Walk, work, examples, path, {**described, **kind}, effort)
    places = {str(example.id): place for place, example in enumerate(examples)}
    walks = {(walk.id, walk.sample): walk for walk in read_pairs(Walk, path, examples, samples)}
    return sorted(walks.values(), key=lambda walk: (places[walk.id], walk.sample))


def read_labels(walks: Sequence[Walk]) -> list[Label]:
    """Which single sub-problems proved easy or hard: see `labels.Label`."""
    return [label for walk in walks for label in walk.labels]


Labelled = tuple[list[dict[str, float]], list[bool], list[str]]


def read_drafts(walks: Sequence[Walk]) -> Labelled:
    """(features, whether it was wrong, its problem) of each known draft of the walks."""
    return _label([(draft, walk.id) for walk in walks for draft in walk.drafts])


def read_passes(walks: Sequence[Walk]) -> Labelled:
    """The same of each known pass of System 2."""
    return _label([(one, walk.id) for walk in walks for one in walk.passes])


def _label(told: Sequence[tuple[Known, str]]) -> Labelled:
    return (
        [draft.features for draft, _ in told],
        [draft.wrong for draft, _ in told],
        [name for _, name in told],
    )


def report_scores(walks: Sequence[Walk]) -> ScoreReport | None:
    """How well the difficulty scores distinguish hard sub-problems; None without labels."""
    labels = read_labels(walks)
    return measure_scores(labels) if labels else None


def report_signals(walks: Sequence[Walk]) -> dict[str, dict[str, Any]]:
    """How well the difficulty and every feature of a draft distinguish wrong drafts from right
    ones, all on the same drafts; empty if no walk has any.

    Returns:
        By signal: `auroc` with its interval over problems (None where there is none), the number
        of `drafts`, and `share_wrong`.
    """
    told = [(draft, walk.id) for walk in walks for draft in walk.drafts]
    wrong, groups = [draft.wrong for draft, _ in told], [name for _, name in told]
    columns: dict[str, list[float | None]] = {"difficulty": [one.difficulty for one, _ in told]}
    columns |= {name: [one.features.get(name) for one, _ in told] for name in FEATURES}
    known = {
        name: [value for value in column if value is not None] for name, column in columns.items()
    }
    return {
        name: {
            "auroc": measure_auroc(column, wrong),
            "auroc_interval": bound_auroc(column, wrong, groups),
            "drafts": len(wrong),
            "share_wrong": sum(wrong) / len(wrong),
        }
        for name, column in known.items()
        if column and len(column) == len(wrong)
    }


@dataclass(frozen=True)
class WalkRollout:
    """A rollout, and the threshold and stop from which it holds."""

    tau: float
    stop: float
    rollout: Rollout


async def walk_pair(
    program: SCALE, example: dspy.Example, sample: int, lm: MeteredLM, whole_only: bool = False
) -> Walk:
    """All outcomes of one (problem, sample) pair; with `whole_only`, those without splitting it.

    Raises:
        LMError: one that every other walk would meet as well.
        CostLimitError: no request may be sent any more.
    """
    started = time.perf_counter()
    with track() as ledger:
        split: list[WalkRollout] = []
        if not whole_only:
            split = await _walk_curve(program.at(0, 0), example, sample, lm)
        # Just above 0, for at 0 a problem that is never split is not rated at all.
        whole = await _walk_curve(program.at(0, 1), example, sample, lm, BOTTOM)
        difficulty = _read_whole_difficulty(whole)
        rated: list[WalkRollout] = []
        if difficulty and not whole_only:  # one rated 0 is never split once it is rated
            rated = await _walk_curve(program.at(0, difficulty / 2), example, sample, lm)
        plain = await _walk_ends(program, example, sample, lm)
    runs = [*split, *whole, *rated, *plain]
    error = next((run.rollout.error for run in runs if run.rollout.error), None)
    labels = await asyncio.to_thread(
        _list_labels, split, whole
    )  # comparing formulas may take a while
    drafts = await asyncio.to_thread(_list_drafts, example, split, whole)
    passes = await asyncio.to_thread(_list_passes, example, plain)
    return Walk(
        id=str(example.id),
        sample=sample,
        gold=str(example.answer),
        difficulty=difficulty,
        split=() if error else _draw_curve(split),
        rated=() if error else _draw_curve(rated),
        whole=() if error else _draw_curve(whole),
        plain=() if error else _draw_curve(plain),
        labels=labels,
        drafts=drafts,
        passes=passes,
        usage=dict(ledger.sent),
        seconds=round(time.perf_counter() - started, 3),
        error=error,
        whole_only=whole_only,
    )


async def _walk_curve(
    program: SCALE, example: dspy.Example, sample: int, lm: MeteredLM, start: float = 0.0
) -> list[WalkRollout]:
    """Runs at rising thresholds, and the same again at each lower stop that makes a difference.

    Returns:
        The runs in rising order of the stop from which they hold.
    """
    rows: list[list[WalkRollout]] = []
    stop: float | None = TOP
    while stop is not None:
        runs: list[WalkRollout] = []
        tau: float | None = start
        while tau is not None:
            rollout = await solve_once(program.at(tau, stop=stop), example, sample, lm)
            runs.append(WalkRollout(0.0 if tau == start else tau, 0.0, rollout))
            scores = [step.difficulty for step in rollout.steps]
            above = [score for score in scores if score is not None and score > tau]
            tau = min(above, default=None)
        stop = _add_row(rows, runs)
    return [run for row in reversed(rows) for run in row]


async def _walk_ends(
    program: SCALE, example: dspy.Example, sample: int, lm: MeteredLM
) -> list[WalkRollout]:
    """Runs of the problem whole and unrated, by System 2 and by System 1, as `_walk_curve`."""
    rows: list[list[WalkRollout]] = []
    stop: float | None = TOP
    while stop is not None:
        ends = [program.at(tau, 1.0, stop) for tau in (0.0, 1.0)]
        rollouts = [await solve_once(each, example, sample, lm) for each in ends]
        runs = [WalkRollout(tau, 0.0, each) for tau, each in zip((0.0, 1.0), rollouts, strict=True)]
        stop = _add_row(rows, runs)
    return [run for row in reversed(rows) for run in row]


def _add_row(rows: list[list[WalkRollout]], runs: Sequence[WalkRollout]) -> float | None:
    """Add the runs at one stop, marked with the smallest stop at which they are the same.

    Returns:
        The next smaller stop, at which runs may differ; None where there is none.
    """
    least = max(_find_least_stop(run.rollout) for run in runs)
    rows.append([replace(run, stop=least) for run in runs])
    return math.nextafter(least, 0.0) if least > 0 else None


def _find_least_stop(rollout: Rollout) -> float:
    """The largest lead after which a vote of this run drew another wave: at a stop below that it
    would have ended there. 0 where no vote drew a second wave."""
    leads = [0.0]
    for step in rollout.steps:
        votes = [vote for vote in step.votes if vote.system == 2]
        for wave in {vote.wave for vote in votes[:-1]} - {vote.wave for vote in votes[-1:]}:
            drawn = [vote for vote in votes if vote.wave <= wave]
            leads.append(measure_lead([vote.result for vote in drawn], read_doubts(drawn)))
    return max(leads)


def _draw_curve(runs: list[WalkRollout]) -> tuple[Piece, ...]:
    return tuple(
        Piece(run.tau, run.rollout.correct, run.rollout.tokens or 0, run.stop) for run in runs
    )


def _read_whole_difficulty(runs: list[WalkRollout]) -> float | None:
    steps = runs[0].rollout.steps
    return steps[0].difficulty if steps else None


def _list_labels(*curves: list[WalkRollout]) -> tuple[Label, ...]:
    return tuple(
        make_label(problem, ours.subproblem, ours.difficulty, theirs.solution, ours.solution)
        for curve in curves
        for problem, ours, theirs in _find_handed_over(curve)
        if ours.difficulty is not None
    )


def _list_drafts(example: dspy.Example, *curves: list[WalkRollout]) -> tuple[Known, ...]:
    """Drafts that are known to be wrong or right: of the whole problem by its gold answer; of a
    sub-problem, by whether System 2 found the same in the same context."""
    found: dict[str, Known] = {}
    for curve in curves:
        for _, ours, theirs in _find_handed_over(curve):
            label = make_label("", "", 0.0, theirs.solution, ours.solution)
            _note_draft(found, ours, not label.alike)
        for run in curve:
            steps = run.rollout.steps
            if len(steps) == 1 and steps[0].draft:
                told = dspy.Prediction(answer=steps[0].draft["result"])
                _note_draft(found, steps[0], not is_right(example, told))
    return tuple(found.values())


def _list_passes(example: dspy.Example, runs: Sequence[WalkRollout]) -> tuple[Known, ...]:
    """The passes of the run of a whole problem that drew most of them, by its gold answer."""
    drawn = (run.rollout.steps[-1].votes for run in runs if run.rollout.steps)
    votes: Sequence[Vote] = max(drawn, key=len, default=())
    judged = [vote for vote in votes if vote.doubt is not None]
    told = (is_right(example, dspy.Prediction(answer=vote.result)) for vote in judged)
    return tuple(
        Known(vote.features, not right, vote.doubt)
        for vote, right in zip(judged, told, strict=True)
    )


def _note_draft(found: dict[str, Known], step: Step, wrong: bool) -> None:
    """Enter a step's draft. One that is entered again replaces the first: a verdict by the gold
    answer comes after those by System 2."""
    if step.draft:
        features = {name: float(step.draft[name]) for name in FEATURES if name in step.draft}
        key = json.dumps([features, step.draft.get("result")])
        found[key] = Known(features, bool(wrong), step.difficulty)


def _find_handed_over(runs: list[WalkRollout]) -> Iterator[tuple[str, Step, Step]]:
    """(problem, step, the other's step) where one run hands a sub-problem to System 1 that the run
    before left to System 2, both in the same context: all steps before it are the same."""
    for slow, quick in pairwise(runs):
        if slow.stop != quick.stop:
            continue
        for ours, theirs in zip(slow.rollout.steps, quick.rollout.steps, strict=False):
            if ours.system != theirs.system:
                yield slow.rollout.problem, ours, theirs
                break
