"""The joint compile: thresholds, then prompts, then thresholds again, and the best of all stages.

Every stage is measured on the validation problems by the exact frontier, so a stage that did not
help is dropped, and the winner has been compared with the original program. Finished stages are
kept in a folder, and finished model calls in the cache of replies, so an interrupted compile can go
on.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import dspy

from scale_dspy.data.load import digest, drop_folder
from scale_dspy.evaluation.costs import COSTS, Terms, describe_cost, read_costs, sum_costs
from scale_dspy.evaluation.description import describe_run
from scale_dspy.evaluation.folder import (
    COMPILE,
    RECORD,
    match_description,
    match_whole_only,
    read_description,
    write_json,
)
from scale_dspy.evaluation.paying import complete_terms, pay
from scale_dspy.evaluation.run_status import announce
from scale_dspy.evaluation.runner import Progress
from scale_dspy.grading.metrics import PRICE
from scale_dspy.lm.connect import MeteredLM
from scale_dspy.lm.cost_limit import CostLimitError
from scale_dspy.lm.tally import Tally
from scale_dspy.program import SCALE, load_program, save_program
from scale_dspy.tuning.choice import Choice, describe_point, name_plain_points, rank
from scale_dspy.tuning.decision import compare_points
from scale_dspy.tuning.frontier import Frontier, list_points, read_problems
from scale_dspy.tuning.prompt_optimizers import Plan, tune_prompts
from scale_dspy.tuning.threshold_search import SearchResult, ThresholdSearch, adopt_prompts, change
from scale_dspy.tuning.threshold_sweep import read_labels, report_scores
from scale_dspy.utils.files import hold_folder
from scale_dspy.utils.statistics import compare

logger = logging.getLogger(__name__)

PROMPTS = "prompts.json"
RESERVE = 1.5  # times the first search's cost, kept back for the last search


def compile_program(
    program: SCALE,
    trainset: Sequence[dspy.Example],
    valset: Sequence[dspy.Example],
    lm: MeteredLM,
    folder: Path,
    plan: Plan,
    *,
    names: tuple[str, str] = ("train", "validation"),
    settings: Mapping[str, Any] | None = None,
    report: Callable[[str, Progress], None] | None = None,
) -> SCALE:
    """Tune a program's thresholds and prompts.

    Args:
        program: is not changed.
        trainset: what the prompts are tuned on.
        valset: what thresholds and the winner are chosen on. Keep a test set out of both.
        lm: runs the program and proposes prompts; must cache.
        folder: keeps finished stages, so that an interrupted compile goes on.
        plan: which optimizer, and under which limits.
        names: what the record calls the two sets.
        settings: the flags of the command line, for compile.json.
        report: called with the stage's name as walks end.

    Returns:
        A tuned copy; its `record` has scores and tokens before and after, each stage's cost, and
        how well the difficulty scores distinguish hard sub-problems.

    Raises:
        ValueError: a set is empty, the two overlap, the folder holds another compile or is in use
            by another process, or the plan walks whole problems only and the program splits some.
        CostLimitError: the cost limit does not even pay for the first search.
    """
    _check_sets(trainset, valset)
    if plan.whole_only and program.split.value != 1:
        raise ValueError(
            "where problems are walked whole only, the program to start from has split 1, not "
            f"{program.split.value:g}: nothing else is measured"
        )
    data = {
        key: {"name": drop_folder(name), "digest": digest(examples), "problems": len(examples)}
        for key, name, examples in zip(("train", "val"), names, (trainset, valset), strict=True)
    }
    with hold_folder(folder), announce(folder, 0):
        terms = complete_terms(plan.terms, lm, folder / COMPILE)
        plan = replace(plan, token_price=terms.price, gpus=terms.gpus)
        _match_folder(folder, program, lm, data, plan, settings)
        first = search_thresholds("threshold", program, valset, lm, folder, plan, report)
        last: SearchResult | None = None
        notes: list[str] = []
        if plan.optimizer != "none":
            tuned, notes = _tune_within_cost(first, trainset, valset, lm, folder, plan)
            if tuned is not None:
                try:
                    last = search_thresholds("joint", tuned, valset, lm, folder, plan, report)
                except CostLimitError as error:
                    notes.append(_explain_prompts_left(error))
        costs = read_costs(folder / COSTS)
        winner = _pick_winner(program, first, last, costs, lm, plan, data, notes)
        write_json(folder / RECORD, winner.record or {})
        return winner


def _tune_within_cost(
    first: SearchResult,
    trainset: Sequence[dspy.Example],
    valset: Sequence[dspy.Example],
    lm: MeteredLM,
    folder: Path,
    plan: Plan,
) -> tuple[SCALE | None, list[str]]:
    """The program with tuned prompts, or None where the limit forbids it; and notes for the
    record."""
    paid = folder / COSTS
    try:
        with pay(paid, "prompts", plan.terms, _reserve(read_costs(paid)["threshold"])) as ledger:
            tuned = _tune_prompts_once(first, trainset, valset, lm, folder, plan)
    except CostLimitError as error:
        return None, [_explain_prompts_left(error)]
    notes = []
    if ledger.refused:  # optimizers take refused requests for failed runs and go on
        notes.append("the cost limit ended the search for prompts early")
        (folder / PROMPTS).unlink()  # with a higher limit it may go on
    elif ledger.failed:
        notes.append(f"{ledger.failed} requests failed in the search for prompts")
        (folder / PROMPTS).unlink()  # a compile that is interrupted after it searches again
    return tuned, notes


def _reserve(first: Tally) -> Tally:
    """What is kept back for the last search, going by what the first one cost."""
    return Tally(
        prompt_tokens=round(RESERVE * first.prompt_tokens),
        completion_tokens=round(RESERVE * first.completion_tokens),
    )


def _explain_prompts_left(error: CostLimitError) -> str:
    told = f"the prompts were left as they were: {error}"
    logger.warning(told)
    return told


def _pick_winner(
    program: SCALE,
    first: SearchResult,
    last: SearchResult | None,
    costs: dict[str, Tally],
    lm: MeteredLM,
    plan: Plan,
    data: dict[str, Any],
    notes: list[str],
) -> SCALE:
    """The best stage's program, with the record of the whole compile."""
    candidates = _list_candidates(program, first, last, plan.budget)
    points = [(stage, choice) for stage, _, choice in candidates]
    best = rank([choice for _, choice in points], plan.margin)
    stage, winning, choice = candidates[best]
    decision = compare_points(points, _list_plain(first.start, plan.budget), plan.margin)
    reached = _find_frontier(stage, first, last)
    baselines = _compare_baselines(first.start, program, reached, choice)
    winner = change(winning, {})
    winner.record = {
        "optimizer": plan.optimizer,
        "model": lm.model,
        "data": data,
        "budget": plan.budget,
        "seed": lm.seed,
        **_describe_outcome(candidates, best, costs, plan.terms),
        "points": list_points(reached),
        "baselines": baselines,
        "runner_up": decision.to_dict()["runner_up"],
        "told": [f"Chosen: {decision.why}.", *_describe_noise(choice, baselines)],
        "difficulty": {
            "before": report_scores(first.walks),
            "after": report_scores((last or first).walks),
        },
        "notes": [*notes, *_describe_failures(first, last)],
    }
    return winner


def search_thresholds(
    stage: str,
    student: SCALE,
    valset: Sequence[dspy.Example],
    lm: MeteredLM,
    folder: Path,
    plan: Plan,
    report: Callable[[str, Progress], None] | None = None,
) -> SearchResult:
    """One search of a compile, kept in its folder under the stage's name, its cost beside it."""
    finder = ThresholdSearch(
        budget=plan.budget,
        margin=plan.margin,
        samples=plan.samples,
        threads=plan.threads,
        variants=plan.variants,
        seed=plan.seed,
        out=folder / stage,
        report=None if report is None else lambda progress: report(stage, progress),
        whole_only=plan.whole_only,
    )
    with pay(folder / COSTS, stage, plan.terms):
        return finder.find(student, valset, lm)


def _tune_prompts_once(
    first: SearchResult,
    trainset: Sequence[dspy.Example],
    valset: Sequence[dspy.Example],
    lm: MeteredLM,
    folder: Path,
    plan: Plan,
) -> SCALE:
    """The tuned prompts, read from the folder where an earlier session had found them."""
    path = folder / PROMPTS
    if path.exists():
        tuned = change(first.program, {})
        adopt_prompts(tuned, load_program(path))
        return tuned
    labels = read_labels(first.walks)
    tuned = tune_prompts(first.program, trainset, valset, lm, plan, labels)
    save_program(tuned, path)
    return tuned


def _list_candidates(
    program: SCALE, first: SearchResult, last: SearchResult | None, budget: int | None
) -> list[tuple[str, SCALE, Choice]]:
    """(stage, program, its outcome on the validation problems), simple ones first.

    The stage `prompts` is the new prompts at the thresholds that the program came with.
    """
    ends = program.threshold.value, program.split.value
    stop = program.stop.value
    start = describe_point(first.start, *ends, budget, stop)
    candidates = [("start", program, start), ("threshold", first.program, first.choice)]
    if last is not None:
        if last.program.options == program.options:
            point = describe_point(last.frontier, *ends, budget, stop)
            candidates.append(("prompts", last.program.at(*ends, stop), point))
        candidates.append(("joint", last.program, last.choice))
    return candidates


def _list_plain(start: Frontier, budget: int | None) -> list[tuple[str, Choice]]:
    """The points of the original program that can be named without looking at the problems."""
    named = name_plain_points(start).items()
    return [(name, describe_point(start, *point, budget)) for name, point in named]


def _describe_failures(first: SearchResult, last: SearchResult | None) -> Iterator[str]:
    """In words, how many walks failed in each search; more than a tenth would have ended it."""
    for stage, found in (("threshold", first), ("joint", last)):
        walks = found.walks if found else []
        failed = sum(walk.error is not None for walk in walks)
        if failed:
            yield f"{failed} of {len(walks)} walks failed in the search {stage!r}, counted as wrong"


def _find_frontier(stage: str, first: SearchResult, last: SearchResult | None) -> Frontier:
    """The frontier of the program that a stage ended with; `serve` reads thresholds off it."""
    if stage == "start":
        return first.start
    return first.frontier if last is None or stage == "threshold" else last.frontier


def _describe_outcome(
    stages: Sequence[tuple[str, SCALE, Choice]], best: int, costs: dict[str, Tally], terms: Terms
) -> dict[str, Any]:
    """The part of the record that says what was reached, and at what cost."""
    given = stages[0][1].options
    return {
        "before": _describe_choice(stages[0][2]),
        "after": _describe_choice(stages[best][2]),
        "held_out": stages[best][2].held_out,
        "stages": [
            {
                "name": stage,
                "kept": place == best,
                "variant": {k: v for k, v in program.options.items() if v != given[k]},
                "threshold": choice.threshold,
                "split": choice.split,
                "stop": choice.stop,
                "accuracy": choice.accuracy.estimate,
                "tok": choice.tokens.estimate,
                "response_tokens": costs.get(stage, Tally()).completion_tokens,
            }
            for place, (stage, program, choice) in enumerate(stages)
        ],
        "cost": describe_cost(sum_costs(costs), terms),
    }


def _compare_baselines(
    start: Frontier, program: SCALE, reached: Frontier, choice: Choice
) -> list[dict[str, Any]]:
    """The winner against simple settings of the original program, on the same problems.

    Args:
        start: the frontier of `program`, which is the original program.
        reached: the frontier on which `choice`, the winner's point, lies.
    """
    ours = read_problems(reached, choice.threshold, choice.split, choice.stop)
    stop = program.stop.value
    points = {"as it came": (program.threshold.value, program.split.value)}
    if start.splits[-1] > 0:
        points |= {"whole, System 2": (0.0, 1.0), "whole, System 1": (1.0, 1.0)}
    told = []
    for name, (tau, split) in points.items():
        accuracy, tokens = start.read(tau, split, stop)
        effect = compare(ours, read_problems(start, tau, split, stop)).effect
        told.append(
            {
                "name": name,
                "accuracy": accuracy,
                "tok": tokens,
                "difference": effect.estimate,
                "difference_interval": [effect.low, effect.high],
            }
        )
    return told


def _describe_noise(choice: Choice, baselines: Sequence[dict[str, Any]]) -> list[str]:
    """In words, how far the scores of a winner may be from those on new problems."""
    low, high = choice.accuracy.low, choice.accuracy.high
    told = [
        f"On the {choice.problems} validation problems {choice.accuracy.estimate:.1%} are right; "
        f"on new ones of their kind {low:.1%} to {high:.1%} (95 % interval)."
    ]
    owed = 0.0
    if choice.held_out is not None:
        owed = choice.accuracy.estimate - choice.held_out
        told.append(
            f"Of that, {100 * owed:.1f} points are owed to choosing thresholds on so few problems: "
            f"where a choice did not see the problems, {choice.held_out:.1%} are right."
        )
    for each in baselines:
        low, high = (100 * end for end in each["difference_interval"])
        worst = 100 * owed - low
        risk = f"may by chance be up to {worst:.1f} points worse"
        told.append(
            f"Against the program {each['name']} ({each['accuracy']:.1%}, {each['tok']:,.0f} "
            f"tokens): {100 * each['difference']:+.1f} points, {low:+.1f} to {high:+.1f}; on new "
            f"problems, less what the choice owes to these, it "
            f"{risk if round(worst, 1) > 0 else 'is no worse, also by chance'}."
        )
    return told


def _describe_choice(choice: Choice) -> dict[str, Any]:
    plain = choice.to_dict()
    accuracy, tokens = plain["accuracy"], plain["tokens"]
    return {
        "threshold": choice.threshold,
        "split": choice.split,
        "stop": choice.stop,
        "accuracy": accuracy["estimate"],
        "accuracy_interval": [accuracy["low"], accuracy["high"]],
        "tok": tokens["estimate"],
        "tok_interval": None if tokens["high"] is None else [tokens["low"], tokens["high"]],
        "problems": choice.problems,
    }


def _match_folder(
    folder: Path,
    program: SCALE,
    lm: MeteredLM,
    data: dict[str, Any],
    plan: Plan,
    settings: Mapping[str, Any] | None,
) -> None:
    """Write what is compiled here, or make sure that the folder holds the same compile."""
    path = folder / COMPILE
    match_whole_only(path, plan.whole_only)
    described = asdict(plan)
    if not plan.whole_only:
        del described["whole_only"]  # which older folders do not name
    # These may change from session to session, and so may the number of samples.
    for free in ("cost_limit", "dollar_limit", "token_price", "gpus", "threads"):
        del described[free]
    begun = read_description(path).get("plan") if path.exists() else None
    if isinstance(begun, dict) and "samples" in begun:
        described["samples"] = begun["samples"]
    described["price"] = PRICE  # of the metric; it was an option once, which older folders name
    described["variants"] = list(plan.variants)
    started = describe_run(program, "compile", "", [], lm, plan.samples)
    names = ("options", "program", "requests", "model", "system_1", "seed")
    same = {key: started[key] for key in (*names, "estimate", "pass_estimate")}
    same["thresholds"] = [each.value for each in (program.threshold, program.split, program.stop)]
    told = {"settings": dict(settings)} if settings else {}
    match_description(
        path,
        {
            **told,
            **same,
            "data": data,
            "plan": described,
            "samples": plan.samples,
            **plan.terms.describe(),
        },
    )


def _check_sets(trainset: Sequence[dspy.Example], valset: Sequence[dspy.Example]) -> None:
    if not trainset or not valset:
        raise ValueError("a compile needs training and validation problems, at least one of each")
    check_apart(trainset, valset, "problems are in both the training and the validation set")


def check_apart(ours: Sequence[dspy.Example], theirs: Sequence[dspy.Example], told: str) -> None:
    """ValueError, naming the first, where two sets share a problem."""
    known = {each.problem for each in theirs}
    shared = [each.problem for each in ours if each.problem in known]
    if shared:
        raise ValueError(f"{len(shared)} {told}, the first of them {shared[0][:60]!r}")
