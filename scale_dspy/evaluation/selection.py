"""What recorded passes show of selection: which signals tell, and what votes would have cost.

Several passes over each problem were drawn once; every rule that picks an answer among them, or
decides how many to draw, is replayed on the same draws, in many random orders of them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from scale_dspy.estimate import measure_draft
from scale_dspy.grading.answers import accepts
from scale_dspy.grading.calibration import estimate_unseen
from scale_dspy.grading.labels import bound_auroc, measure_auroc
from scale_dspy.stages.votes import (
    count_passes,
    find_winner,
    group_results,
    measure_disagreement,
    read_result,
)
from scale_dspy.utils.statistics import bound_accuracy, compare

ORDERS = 40  # random orders of a problem's passes that a rule is replayed in
STOPS = (0.75, 0.85, 0.9, 0.95, 0.98)
GATES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
PROBES = (2, 3, 4)


@dataclass(frozen=True)
class Pass:
    """One pass: its result as text or None, whether that is right, its response tokens, and the
    features of it that need no other pass (see `estimate.FEATURES`)."""

    result: str | None
    right: bool
    tokens: int
    features: dict[str, float]


@dataclass(frozen=True)
class Drawn:
    """A problem's passes, as many for each problem, and System 1's drafts of it, maybe none."""

    id: str
    group: str
    passes: tuple[Pass, ...]
    drafts: tuple[Pass, ...]


Rule = Callable[[Sequence[Pass], Sequence[float]], tuple[int, int]]
"""(the winning pass's place, how many passes it drew) for passes in an order and the estimate of
each one's being wrong."""


def read_passes(path: Path, cap: int | None = None, cap_1: int | None = None) -> list[Drawn]:
    """Recorded passes: JSON Lines with `id`, `gold` and `passes`, each of these an object with
    text, tokens, finish_reason and maybe logprobs; maybe `set`, and `system_1` like `passes`.

    Args:
        cap: the most tokens a pass could have; by default the longest cut-off one's.
        cap_1: the same for System 1's drafts.

    Raises:
        ValueError: a line is of another kind; or problems have different numbers of passes.
    """
    lines = [
        (number, line)
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if line.strip()
    ]
    try:
        records = [json.loads(line) for _, line in lines]
        cap = cap or _find_cap(records, "passes")
        cap_1 = cap_1 or _find_cap(records, "system_1")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} holds no recorded passes: {error!r}") from None
    drawn = []
    for (number, _), record in zip(lines, records, strict=True):
        try:
            drawn.append(_read_record(record, cap, cap_1))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path}:{number} holds no recorded passes: {error!r}") from None
    if len({len(each.passes) for each in drawn}) != 1:
        raise ValueError(f"{path}: give every problem the same number of passes")
    return drawn


def list_signals(drawn: Sequence[Drawn]) -> dict[str, dict[str, Any]]:
    """How well each signal tells a wrong pass from a right one, by its name.

    Returns:
        For each: `auroc` with its interval over problems, `drafts` and the `share_right` of them.
        Signals of System 1's own drafts, where there are any, begin with "system 1: ".
    """
    told = _list_signals([(each.id, each.passes) for each in drawn])
    drafts = [(each.id, each.drafts) for each in drawn if each.drafts]
    return {**told, **{f"system 1: {k}": v for k, v in _list_signals(drafts).items()}}


def replay_rules(drawn: Sequence[Drawn], seed: int = 0) -> list[dict[str, Any]]:
    """Accuracy and response tokens of every rule, all on the same passes in the same orders.

    Returns:
        For each: its name, accuracy with its interval over problems, tokens and passes a problem,
        and the difference of accuracy to the vote of all passes, with its interval.
    """
    wrong = _estimate_passes(drawn)
    count = len(drawn[0].passes)
    rng = np.random.default_rng(seed)
    orders = [[rng.permutation(count) for _ in range(ORDERS)] for _ in drawn]
    played = {
        name: [_play(rule, each, wrong[each.id], orders[n]) for n, each in enumerate(drawn)]
        for name, rule in list_rules(count).items()
    }
    full = {
        each.id: right for each, (right, _, _) in zip(drawn, played[f"vote {count}"], strict=True)
    }
    return [
        _describe_rule(
            name, {each.id: one for each, one in zip(drawn, outcomes, strict=True)}, full
        )
        for name, outcomes in played.items()
    ]


def list_rules(count: int) -> dict[str, Rule]:
    """The rules by name, for `count` passes a problem."""
    rules: dict[str, Rule] = {"cot": lambda passes, wrong: (0, 1)}
    for votes in range(2, count + 1):
        rules[f"vote {votes}"] = _vote(votes, 1.0)
        rules[f"weighted vote {votes}"] = _vote(votes, 1.0, weighted=True)
    for stop in STOPS:
        rules[f"adaptive {stop:g}"] = _vote(count, stop)
        rules[f"weighted adaptive {stop:g}"] = _vote(count, stop, weighted=True)
    for gate in GATES:
        for stop in (*STOPS, 1.0):
            rules[f"draft {gate:g}, vote at {stop:g}"] = _gate_by_draft(gate, count, stop)
    for probes in PROBES:
        for gate in sorted({1 - size / probes for size in range(1, probes)} | {0.0}):
            name = f"agreement of {probes} at {gate:.2f}"
            rules[name] = _gate_by_agreement(gate, probes, count)
    return rules


def _vote(votes: int, stop: float, weighted: bool = False) -> Rule:
    def rule(passes: Sequence[Pass], wrong: Sequence[float]) -> tuple[int, int]:
        results = [each.result for each in passes]
        drawn = count_passes(results, votes, stop)
        weights = [1 - chance for chance in wrong[:drawn]] if weighted else None
        return find_winner(results[:drawn], weights), drawn

    return rule


def _gate_by_draft(gate: float, votes: int, stop: float) -> Rule:
    """The first pass is the answer where its estimate of being wrong is at most `gate`; otherwise
    it is the first of the votes."""

    def rule(passes: Sequence[Pass], wrong: Sequence[float]) -> tuple[int, int]:
        return (0, 1) if wrong[0] <= gate else _vote(votes, stop)(passes, wrong)

    return rule


def _gate_by_agreement(gate: float, probes: int, votes: int) -> Rule:
    """The probes' leader is the answer where the others' share is at most `gate`."""

    def rule(passes: Sequence[Pass], wrong: Sequence[float]) -> tuple[int, int]:
        results = [each.result for each in passes]
        if measure_disagreement(results[:probes]) <= gate + 1e-9:
            return find_winner(results[:probes]), probes
        return find_winner(results[:votes]), votes

    return rule


def _play(
    rule: Rule, drawn: Drawn, wrong: Sequence[float], orders: Sequence[Any]
) -> tuple[list[int], list[int], list[int]]:
    """(right or not, tokens, passes) of a rule in each order."""
    right, tokens, counts = [], [], []
    for order in orders:
        passes = [drawn.passes[place] for place in order]
        winner, count = rule(passes, [wrong[place] for place in order])
        right.append(int(passes[winner].right))
        tokens.append(sum(each.tokens for each in passes[:count]))
        counts.append(count)
    return right, tokens, counts


def _describe_rule(
    name: str,
    outcomes: Mapping[str, tuple[list[int], list[int], list[int]]],
    full: Mapping[str, list[int]],
) -> dict[str, Any]:
    right = {key: outcome[0] for key, outcome in outcomes.items()}
    accuracy, effect = bound_accuracy(right), compare(right, full).effect
    return {
        "rule": name,
        "accuracy": accuracy.estimate,
        "accuracy_interval": [accuracy.low, accuracy.high],
        "tok": float(np.mean([np.mean(tokens) for _, tokens, _ in outcomes.values()])),
        "passes": float(np.mean([np.mean(counts) for _, _, counts in outcomes.values()])),
        "to_full_vote": effect.estimate,
        "to_full_vote_interval": [effect.low, effect.high],
    }


def _list_signals(drafts: Sequence[tuple[str, Sequence[Pass]]]) -> dict[str, dict[str, Any]]:
    flat = [(name, one) for name, passes in drafts for one in passes]
    if not flat:
        return {}
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
        "drafts": len(scores),
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


def _estimate_passes(drawn: Sequence[Drawn]) -> dict[str, list[float]]:
    """The estimate of each pass's being wrong, by weights fitted without its problem."""
    flat = [(each.id, one) for each in drawn for one in each.passes]
    scores = iter(
        estimate_unseen(
            [one.features for _, one in flat],
            [not one.right for _, one in flat],
            [name for name, _ in flat],
        )
    )
    return {each.id: [next(scores) for _ in each.passes] for each in drawn}


def _read_record(record: Mapping[str, Any], cap: int | None, cap_1: int | None) -> Drawn:
    known: dict[str | None, bool] = {None: False}

    def grade(result: str | None) -> bool:
        if result not in known:
            known[result] = accepts(result, [str(record["gold"])])
        return known[result]

    def read(one: Mapping[str, Any], most: int | None) -> Pass:
        cut_off, text = one["finish_reason"] == "length", one["text"] or ""
        result = read_result(text, cut_off)
        features = measure_draft(
            int(one["tokens"]),
            most,
            cut_off=cut_off,
            readable=result is not None,
            logprobs=one.get("logprobs"),
        )
        return Pass(result, grade(result), int(one["tokens"]), features)

    return Drawn(
        id=f"{record.get('set', '')}/{record['id']}",
        group=str(record.get("set", "")),
        passes=tuple(read(one, cap) for one in record["passes"]),
        drafts=tuple(read(one, cap_1) for one in record.get("system_1") or ()),
    )


def _find_cap(records: Sequence[Mapping[str, Any]], key: str) -> int | None:
    lengths = [int(one["tokens"]) for record in records for one in record.get(key) or ()]
    return max(lengths, default=None)
