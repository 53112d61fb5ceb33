"""Selection on recorded passes: which signals detect a wrong pass, and the cost and accuracy of
each way of deciding how many passes to draw.

All ways are replayed on the same passes in the same random orders. If a way has settings, they are
chosen on other problems than those on which it is scored; so are the weights of its estimate.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scale_dspy.evaluation.calibration import assign_folds, estimate_unseen, fit_estimate
from scale_dspy.evaluation.passes import Pass, ProblemPasses
from scale_dspy.evaluation.rollout import Rollout
from scale_dspy.grading.labels import bound_auroc, measure_auroc
from scale_dspy.program import SCALE
from scale_dspy.stages.estimate import Estimate
from scale_dspy.stages.solve import SolveProblem
from scale_dspy.stages.votes import (
    FIRST_WAVE,
    find_winner,
    group_results,
    measure_disagreement,
    measure_lead,
    plan_waves,
)
from scale_dspy.utils.statistics import TAIL, Numbers, bound_accuracy

ORDERS = 40  # random orders of each problem's passes, in which everything is replayed
RESAMPLES = 2_000
STOPS = (0.75, 0.85, 0.9, 0.95, 0.98)
WEIGHED_STOPS = (0.3, 0.4, 0.5, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 0.98)
GATES = tuple(round(0.05 * k, 2) for k in range(1, 20))
FEW = 1e-9

Places = NDArray[np.int64]


@dataclass(frozen=True)
class ReplayOutcome:
    """The result of one way for each problem and order: whether it was right, its response tokens,
    and how many passes it drew."""

    right: Numbers
    tokens: Numbers
    passes: Numbers

    def take(self, problems: Places) -> ReplayOutcome:
        """The same for some of the problems."""
        return ReplayOutcome(self.right[problems], self.tokens[problems], self.passes[problems])


@dataclass(frozen=True)
class Prefixes:
    """What the first 1, 2, ... of a problem's passes show; arrays of (problem, order, count).

    Attributes:
        orders: the places of the passes in the order in which they are drawn.
        right: whether their most frequent result is right.
        tokens: response tokens of all of them.
        leads: how sure their leader is, see `votes.measure_lead`.
        weighed, weighed_leads: as `right` and `leads`, if each pass counts by its doubt.
        disagreement: see `votes.measure_disagreement`.
        doubt: how likely the first pass is to be wrong, by an estimate; of (problem, order).
    """

    orders: Places
    right: Numbers
    tokens: Numbers
    leads: Numbers
    weighed: Numbers
    weighed_leads: Numbers
    disagreement: Numbers
    doubt: Numbers


def list_signals(drawn: Sequence[ProblemPasses]) -> dict[str, dict[str, dict[str, Any]]]:
    """How well each signal tells wrong from right, for `pass` and, where there are any, `draft`.

    Returns:
        By kind and by name: `auroc` with its interval over problems, the number of `passes`, and
        `share_right`. A fitted estimate has weights that were fitted without the pass's problem.
    """
    told = {"pass": _list_signals([(each.id, each.passes) for each in drawn])}
    if all(each.drafts for each in drawn):
        told["draft"] = _list_signals([(each.id, each.drafts) for each in drawn])
    return told


def replay(drawn: Sequence[ProblemPasses], seed: int = 0) -> list[dict[str, Any]]:
    """Accuracy and response tokens of every way, all on the same passes in the same orders.

    Ways without a setting are replayed as they are. The others may spend as many tokens as a fixed
    vote of 1, 2, ... passes: the most accurate setting within that budget is chosen on the problems
    of the other folds, and scored on those of this fold.

    Returns:
        For each: `way`, `given` (the fixed vote whose tokens it may spend, or None), accuracy with
        its interval, tokens and passes a problem, and the difference of its accuracy to chain of
        thought (`to_cot`), to a fixed vote of as many tokens (`to_fixed`) and to the vote of all
        passes (`to_all`), each with its paired bootstrap interval over problems.

    Raises:
        ValueError: there are fewer than two problems.
    """
    if len(drawn) < 2:
        raise ValueError("a replay needs two problems: one to choose settings on, one to score")
    names = [each.id for each in drawn]
    folds = assign_folds(names)
    kinds = [[each.passes for each in drawn]]
    if all(each.drafts for each in drawn):
        kinds.append([each.drafts for each in drawn])
    shown = [(_look_at(some, seed), some) for some in kinds]
    count = len(drawn[0].passes)
    scored: dict[tuple[str, int | None], list[tuple[Places, ReplayOutcome]]] = {}
    for number in np.unique(folds):
        inside, outside = np.flatnonzero(folds == number), np.flatnonzero(folds != number)
        ways = _replay_all(
            [
                _weigh(each, some, _fit([some[k] for k in outside], [names[k] for k in outside]))
                for each, some in shown
            ]
        )
        for name, settings in ways.items():
            for given in _list_budgets(settings, count):
                chosen = _choose(ways, name, given, outside)
                scored.setdefault((name, given), []).append((inside, chosen.take(inside)))
    joined = {key: _join(parts) for key, parts in scored.items()}
    fixed = [joined[_name_vote(votes), None] for votes in range(1, count + 1)]
    return [
        _describe(name, given, outcome, fixed, names) for (name, given), outcome in joined.items()
    ]


def score_run(
    run: str, rollouts: Sequence[Rollout], drawn: Sequence[ProblemPasses], seed: int = 0
) -> dict[str, Any] | None:
    """A run of a program on some of these problems, as `replay` describes a way: against chain of
    thought and fixed votes on the same problems. None where it has none of them.

    Raises:
        ValueError: a problem has different numbers of rollouts from another, or unknown tokens.
    """
    ran: dict[str, list[Rollout]] = {}
    for one in rollouts:
        ran.setdefault(one.id, []).append(one)
    both = [
        (each, ran[name])
        for each in drawn
        if (name := each.id.removeprefix(f"{each.group}/")) in ran
    ]
    if not both:
        return None
    problems, rows = zip(*both, strict=True)
    costs = [[one.cost for one in row] for row in rows]
    if len({len(row) for row in rows}) != 1 or any(None in row for row in costs):
        raise ValueError(f"{run}: problems need as many rollouts each, with known tokens")
    spent = [[one.completion_tokens for one in row if one] for row in costs]
    right = np.array([[one.right for one in row] for row in rows], dtype=np.float64)
    outcome = ReplayOutcome(right, np.array(spent, dtype=np.float64), np.zeros_like(right))
    passes = _look_at([each.passes for each in problems], seed)
    fixed = [_vote(passes, votes, 1.0) for votes in range(1, passes.right.shape[2] + 1)]
    told = _describe(run, None, outcome, fixed, [each.id for each in problems])
    return {**told, "passes": None, "problems": len(problems)}


def score_program(
    name: str, program: SCALE, drawn: Sequence[ProblemPasses], seed: int = 0
) -> dict[str, Any]:
    """A program that solves problems whole by votes, as `replay` describes a way: its own votes,
    stop and weights, in all orders of passes that were drawn without it.

    Raises:
        ValueError: it splits problems or rates them, has another prompt than chain of thought, or
            more votes than there are passes. Its cap is taken to be that of the passes.
    """
    passes = [each.passes for each in drawn]
    asked = program.solve.whole
    same = asked.signature.instructions == SolveProblem.instructions and not asked.demos
    if program.split.value != 1 or program.threshold.value != 0 or not same:
        raise ValueError(
            f"{name} cannot be replayed: only with split 1, tau 0 and chain of thought's prompt"
        )
    if program.votes > len(passes[0]):
        raise ValueError(f"{name} has {program.votes} votes, and {len(passes[0])} passes are drawn")
    prefixes = _weigh(_look_at(passes, seed), passes, program.pass_estimate)
    fixed = [_vote(prefixes, votes, 1.0) for votes in range(1, len(passes[0]) + 1)]
    outcome = _vote(prefixes, program.votes, program.stop.value, program.weigh)
    return _describe(name, None, outcome, fixed, [each.id for each in drawn])


def _name_vote(votes: int) -> str:
    return "cot" if votes == 1 else f"vote {votes}"


def _replay_all(kinds: Sequence[Prefixes]) -> dict[str, list[ReplayOutcome]]:
    """The outcome of every setting of every way, of passes and, where there are any, of drafts."""
    passes, *more = kinds
    count = passes.right.shape[2]
    ways = {"cot": [_vote(passes, 1, 1.0)]}
    for votes in range(2, count + 1):
        ways[f"vote {votes}"] = [_vote(passes, votes, 1.0)]
    for stop in STOPS:
        ways[f"adaptive vote at {stop:g}"] = [_vote(passes, count, stop)]
    hard = list(_list_votes(passes))
    ways["adaptive votes"] = hard
    ways["weighed votes"] = [
        _vote(passes, votes, stop, weigh=True)
        for votes in range(1, count + 1)
        for stop in WEIGHED_STOPS
    ]
    for drafts in more:
        ways["System 1"] = [_vote(drafts, 1, 1.0)]
        ways["draft gates votes"] = [
            _hand_over(_vote(drafts, 1, 1.0), drafts.doubt > gate, votes)
            for gate in GATES
            for votes in hard
        ]
        ways["agreement of drafts gates votes"] = [
            _hand_over(_vote(drafts, probes, 1.0), apart > gate + FEW, votes)
            for probes in range(2, drafts.right.shape[2] + 1)
            for apart in [drafts.disagreement[:, :, probes - 1]]
            for gate in _list_shares(probes)
            for votes in hard
        ]
    return ways


def _look_at(passes: Sequence[Sequence[Pass]], seed: int) -> Prefixes:
    """What every prefix of the passes shows, in ORDERS random orders of each problem's."""
    rng = np.random.default_rng(seed)
    shape = (len(passes), ORDERS, len(passes[0]))
    right, tokens, leads, disagreement = (np.zeros(shape) for _ in range(4))
    orders = np.zeros(shape, dtype=np.int64)
    for row, drawn in enumerate(passes):
        spellings = _spell([each.result for each in drawn])
        for turn in range(ORDERS):
            order = rng.permutation(len(drawn))
            orders[row, turn] = order
            results = [spellings[k] for k in order]
            tokens[row, turn] = np.cumsum([drawn[k].tokens for k in order])
            for count in range(1, len(drawn) + 1):
                seen, at = results[:count], (row, turn, count - 1)
                right[at] = drawn[order[find_winner(seen)]].right
                leads[at], disagreement[at] = measure_lead(seen), measure_disagreement(seen)
    doubt = np.zeros(shape[:2])
    return Prefixes(orders, right, tokens, leads, right, leads, disagreement, doubt)


def _weigh(prefixes: Prefixes, passes: Sequence[Sequence[Pass]], estimate: Estimate) -> Prefixes:
    """The prefixes, with what the estimate says of each pass."""
    weighed, leads = np.zeros_like(prefixes.right), np.zeros_like(prefixes.right)
    doubt = np.zeros_like(prefixes.doubt)
    for row, drawn in enumerate(passes):
        spellings = _spell([each.result for each in drawn])
        wrong = [estimate(each.features) for each in drawn]
        for turn, order in enumerate(prefixes.orders[row]):
            results, doubts = [spellings[k] for k in order], [wrong[k] for k in order]
            doubt[row, turn] = doubts[0]
            for count in range(1, len(drawn) + 1):
                seen, at = (results[:count], doubts[:count]), (row, turn, count - 1)
                weighed[at] = drawn[order[find_winner(*seen)]].right
                leads[at] = measure_lead(*seen)
    return replace(prefixes, weighed=weighed, weighed_leads=leads, doubt=doubt)


def _spell(results: Sequence[str | None]) -> list[str | None]:
    """The number of each result's group as text: equal results get equal texts, quick to
    compare."""
    spelled: list[str | None] = [None] * len(results)
    for number, group in enumerate(group_results(results)):
        for place in group:
            spelled[place] = str(number)
    return spelled


def _vote(passes: Prefixes, votes: int, stop: float, weigh: bool = False) -> ReplayOutcome:
    """A vote of at most `votes` passes, see `passes.draw_passes`."""
    drawn = np.full(passes.doubt.shape, votes)
    leads = passes.weighed_leads if weigh else passes.leads
    for wave in reversed(list(plan_waves(votes, stop, 1 if weigh else FIRST_WAVE))[:-1]):
        drawn = np.where(leads[:, :, wave - 1] > stop, wave, drawn)
    at = (drawn - 1)[:, :, None]
    right = passes.weighed if weigh else passes.right
    read = [np.take_along_axis(each, at, 2)[:, :, 0] for each in (right, passes.tokens)]
    return ReplayOutcome(read[0], read[1], drawn.astype(np.float64))


def _list_votes(passes: Prefixes) -> Iterator[ReplayOutcome]:
    for votes in range(1, passes.right.shape[2] + 1):
        for stop in (*STOPS, 1.0) if votes > 2 else (1.0,):
            yield _vote(passes, votes, stop)


def _hand_over(
    drafts: ReplayOutcome, doubted: NDArray[np.bool_], votes: ReplayOutcome
) -> ReplayOutcome:
    """System 1's draft; if it is in doubt, System 2's vote instead, at the cost of both. The draft
    itself does not vote."""
    both = ReplayOutcome(votes.right, drafts.tokens + votes.tokens, drafts.passes + votes.passes)
    return _pick(doubted, both, drafts)


def _pick(where: NDArray[np.bool_], one: ReplayOutcome, other: ReplayOutcome) -> ReplayOutcome:
    return ReplayOutcome(
        np.where(where, one.right, other.right),
        np.where(where, one.tokens, other.tokens),
        np.where(where, one.passes, other.passes),
    )


def _list_shares(probes: int) -> list[float]:
    """The disagreements that so many probes may show, except the largest."""
    return [1 - size / probes for size in range(probes, 1, -1)]


def _list_budgets(settings: Sequence[ReplayOutcome], count: int) -> list[int | None]:
    """The budgets of a way, each as the fixed vote that spends as much; None if it has one
    setting."""
    return [None] if len(settings) == 1 else list(range(1, count + 1))


def _choose(
    ways: Mapping[str, Sequence[ReplayOutcome]], name: str, given: int | None, known: Places
) -> ReplayOutcome:
    """The setting that is most accurate on the known problems within the budget, the cheapest of
    several; the cheapest of all where none keeps to it."""
    settings = ways[name]
    if given is None:
        return settings[0]
    spends = ways[_name_vote(given)][0]
    most = float(spends.tokens[known].mean()) + FEW
    cost = np.array([each.tokens[known].mean() for each in settings])
    accuracy = np.array([each.right[known].mean() for each in settings])
    allowed = cost <= most if (cost <= most).any() else cost <= cost.min()
    best = allowed & (accuracy >= accuracy[allowed].max() - FEW)
    return settings[int(np.argmin(np.where(best, cost, np.inf)))]


def _join(parts: Sequence[tuple[Places, ReplayOutcome]]) -> ReplayOutcome:
    """The folds' outcomes in the order of the problems."""
    order = np.argsort(np.concatenate([places for places, _ in parts]))
    fields = ("right", "tokens", "passes")
    joined = (np.concatenate([getattr(one, key) for _, one in parts])[order] for key in fields)
    return ReplayOutcome(*joined)


def _describe(
    name: str,
    given: int | None,
    outcome: ReplayOutcome,
    fixed: Sequence[ReplayOutcome],
    problems: Sequence[str],
) -> dict[str, Any]:
    graded = {
        key: row.astype(int).tolist() for key, row in zip(problems, outcome.right, strict=True)
    }
    accuracy = bound_accuracy(graded)
    told: dict[str, Any] = {
        "way": name,
        "given": given,
        "accuracy": accuracy.estimate,
        "accuracy_interval": [accuracy.low, accuracy.high],
        "tok": float(outcome.tokens.mean()),
        "passes": float(outcome.passes.mean()),
    }
    for key, ends in _compare(outcome, fixed).items():
        told[key], told[f"{key}_interval"] = ends[0], ends[1:]
    return told


def _compare(outcome: ReplayOutcome, fixed: Sequence[ReplayOutcome]) -> dict[str, list[float]]:
    """[difference of accuracy, low, high] to chain of thought, to a fixed vote of as many tokens
    (interpolated between two votes), and to the vote of all passes.

    The intervals are percentile ones of the bootstrap (Efron 1979) over problems; a resample has
    its own tokens too. The settings that were chosen are not chosen again on it.
    """
    count = len(outcome.right)
    rng = np.random.default_rng(0)
    weights = rng.multinomial(count, np.full(count, 1 / count), RESAMPLES) / count
    weights = np.vstack([np.full(count, 1 / count), weights])  # the problems as they are come first
    ours, cost = weights @ outcome.right.mean(axis=1), weights @ outcome.tokens.mean(axis=1)
    rights = weights @ np.array([each.right.mean(axis=1) for each in fixed]).T
    costs = weights @ np.array([each.tokens.mean(axis=1) for each in fixed]).T
    rows = zip(cost, costs, rights, strict=True)
    equal = np.array([np.interp(one, xs, ys) for one, xs, ys in rows])
    others = {"to_cot": rights[:, 0], "to_fixed": equal, "to_all": rights[:, -1]}
    return {key: _bound(ours - theirs) for key, theirs in others.items()}


def _bound(values: Numbers) -> list[float]:
    """[the first value, low, high]."""
    low, high = np.quantile(values, (TAIL, 1 - TAIL))
    return [round(float(value), 6) for value in (values[0], low, high)]


def _fit(passes: Sequence[Sequence[Pass]], names: Sequence[str]) -> Estimate:
    flat = [(name, one) for name, some in zip(names, passes, strict=True) for one in some]
    return fit_estimate(
        [one.features for _, one in flat],
        [not one.right for _, one in flat],
        [name for name, _ in flat],
    )


def _list_signals(drafts: Sequence[tuple[str, Sequence[Pass]]]) -> dict[str, dict[str, Any]]:
    flat = [(name, one) for name, passes in drafts for one in passes]
    wrong = [not one.right for _, one in flat]
    groups = [name for name, _ in flat]
    agreeing = [value for _, passes in drafts for value in _count_agreeing(passes)]
    columns: dict[str, list[float]] = {
        feature: [one.features[feature] for _, one in flat]
        for feature in ("length", "cut_off", "unreadable", "mean", "window", "last")
        if all(feature in one.features for _, one in flat)
    }
    columns["disagreement with one other"] = [1 - one for one, _ in agreeing]
    columns["disagreement with all others"] = [1 - share for _, share in agreeing]
    alone = [one.features for _, one in flat]
    columns["estimate, plain weights"] = [Estimate()(features) for features in alone]
    columns["estimate, fitted"] = estimate_unseen(alone, wrong, groups)
    paired = [
        {**one.features, "disagreement": 1 - other}
        for (_, one), (other, _) in zip(flat, agreeing, strict=True)
    ]
    columns["estimate with one other, fitted"] = estimate_unseen(paired, wrong, groups)
    return {name: _describe_signal(scores, wrong, groups) for name, scores in columns.items()}


def _describe_signal(
    scores: Sequence[float], wrong: Sequence[bool], groups: Sequence[str]
) -> dict[str, Any]:
    return {
        "auroc": measure_auroc(scores, wrong),
        "auroc_interval": bound_auroc(scores, wrong, groups),
        "passes": len(scores),
        "share_right": 1 - sum(wrong) / len(wrong),
    }


def _count_agreeing(passes: Sequence[Pass]) -> Iterator[tuple[float, float]]:
    """For each pass, whether the next one agrees with it, and the share of the others that do."""
    results = [one.result for one in passes]
    group = {place: set(each) for each in group_results(results) for place in each}
    for place in range(len(passes)):
        mine = group.get(place, set())
        others = max(1, len(passes) - 1)
        yield float((place + 1) % len(passes) in mine - {place}), len(mine - {place}) / others
