"""SCALE tuned in several ways beside chain of thought tuned by the same means, in one table.

Every row is tuned on the same training and validation problems and judged on the same untouched
test problems. What is finished is kept in a folder, so that an interrupted comparison goes on.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import dspy

from scale_dspy.baselines import ChainOfThought
from scale_dspy.evaluation.costs import COSTS, read_costs
from scale_dspy.evaluation.description import describe_run
from scale_dspy.evaluation.folder import write_json
from scale_dspy.evaluation.paying import pay
from scale_dspy.evaluation.rollout import read_lines
from scale_dspy.evaluation.runner import Progress, evaluate
from scale_dspy.grading.metrics import is_right
from scale_dspy.lm.connect import MeteredLM
from scale_dspy.lm.tally import Tally
from scale_dspy.method import Solver
from scale_dspy.program import SCALE, load_program, save_program
from scale_dspy.tuning.comparison_table import ROWS, TableRow, draw_rows, render_rows
from scale_dspy.tuning.joint import check_apart, compile_program, search_thresholds
from scale_dspy.tuning.prompt_optimizers import Job, Plan, make_writer, run_optimizer
from scale_dspy.tuning.reanchor import find_cut
from scale_dspy.tuning.threshold_search import read_requests
from scale_dspy.tuning.threshold_sweep import WALKS, Walk
from scale_dspy.utils.files import write_whole

OWN_ROLLOUT = 1_000_003  # each row draws its own replies, and gets none of another row's


@dataclass(frozen=True)
class Contest:
    """What is compared, on what.

    Attributes:
        program: SCALE before tuning.
        baseline: chain of thought before tuning, with the same limits.
        trainset, valset: what is tuned on.
        testset: judged on, and used for nothing else.
        lm: runs everything; must cache.
        out: the folder of all that is kept.
        plan: of the joint compile. `plan.rollouts` is the number of metric calls that GEPA may
            make in either program.
        samples: rollouts of each test problem.
        share: let ReAnchor reuse the replies that the threshold search drew. Saves their cost, and
            its row then shows only what was left to pay.
    """

    program: SCALE
    baseline: ChainOfThought
    trainset: Sequence[dspy.Example]
    valset: Sequence[dspy.Example]
    testset: Sequence[dspy.Example]
    lm: MeteredLM
    out: Path
    plan: Plan
    samples: int = 1
    share: bool = False


def run_contest(
    contest: Contest,
    rows: Sequence[str] = ROWS,
    report: Callable[[str, Progress], None] | None = None,
) -> list[TableRow]:
    """Tune and judge each row that is missing, writing the table after each.

    Args:
        rows: names out of ROWS, in the order in which they are worked off.
        report: called as rollouts end, with the row or the stage they belong to.

    Raises:
        ValueError: an unknown row, or a test problem that is tuned on too.
    """
    _check(contest, rows)
    for name in rows:
        program = tune_row(contest, name, report)
        examples, lm, folder = contest.testset, contest.lm, contest.out / name / "test"
        description = describe_run(program, name, "test", examples, lm, contest.samples)
        evaluate(
            program,
            examples,
            lm,
            folder,
            description=description,
            samples=contest.samples,
            threads=contest.plan.threads,
            report=None if report is None else _name_report(report, name),
        )
        drawn = draw_rows(contest.out)
        write_json(contest.out / "table.json", {"rows": drawn})
        with write_whole(contest.out / "table.md") as draft:
            draft.write_text(render_rows(drawn), encoding="utf-8")
    return draw_rows(contest.out)


def tune_row(
    contest: Contest, name: str, report: Callable[[str, Progress], None] | None = None
) -> Solver:
    """The tuned program of a row, kept as FOLDER/NAME/program.json with tuning.json beside it."""
    folder, plan = contest.out / name, contest.plan
    folder.mkdir(parents=True, exist_ok=True)
    if name == "cot":
        _write_note(folder, {}, 0)
        return contest.baseline
    if name == "cot+gepa":
        return _tune_baseline(contest, folder, replace(plan, optimizer="gepa"), contest.lm)
    if name == "cot+optimizer":
        return _tune_baseline(contest, folder, plan, contest.lm.copy(rollout_id=OWN_ROLLOUT))
    if name == "cot+gepa-matched":
        tune_row(contest, "scale+joint", report)
        calls = _read_metric_calls(contest.out / "scale+joint")
        own = contest.lm.copy(rollout_id=OWN_ROLLOUT + 1)
        matched = replace(plan, optimizer="gepa", rollouts=calls)
        return _tune_baseline(contest, folder, matched, own)
    tuned, costs, calls = contest.program, dict[str, Tally](), 0
    if name == "scale":
        pass  # untuned
    elif name == "scale+reanchor":
        tuned, costs, calls = _tune_by_reanchor(contest, folder)
    else:
        tuned, costs, calls = _tune_jointly(contest, name == "scale+threshold", report)
    save_program(tuned, folder / "program.json")
    _write_note(folder, costs, calls, tuned)
    return tuned


def _tune_baseline(contest: Contest, folder: Path, plan: Plan, lm: MeteredLM) -> ChainOfThought:
    """Chain of thought tuned by an optimizer, with a metric that says right or wrong."""
    tuned: ChainOfThought = contest.baseline.deepcopy()
    path, metric = folder / "program.json", CountingMetric()
    if not path.exists():
        writer = make_writer(lm, tuned.solve.config)
        job = Job(metric, writer, list(contest.trainset), list(contest.valset), plan)
        with pay(folder / COSTS, plan.optimizer), dspy.context(lm=lm):
            found = run_optimizer(tuned, job)
        _write_note(folder, read_costs(folder / COSTS), metric.calls)
        found.save(path)
    tuned.load(path)
    return tuned


def _tune_by_reanchor(contest: Contest, folder: Path) -> tuple[SCALE, dict[str, Tally], int]:
    """The original program with the threshold that ReAnchor finds.

    It takes the outcomes at every cut, without a cost term, and keeps one only if it beats the
    start on held-out folds.
    """
    if (folder / "tuning.json").exists():
        return (
            load_program(folder / "program.json", read_requests(contest.program)),
            read_costs(folder / COSTS),
            _read_metric_calls(folder),
        )
    lm = contest.lm.copy(rollout_id=0 if contest.share else OWN_ROLLOUT)
    metric, threads = CountingMetric(), contest.plan.threads
    with pay(folder / COSTS, "reanchor"), dspy.context(lm=lm):
        program, told = find_cut(contest.program, contest.valset, metric, threads)
    write_json(folder / "reanchor.json", told)
    return program, read_costs(folder / COSTS), metric.calls


def _tune_jointly(
    contest: Contest, thresholds_only: bool, report: Callable[[str, Progress], None] | None
) -> tuple[SCALE, dict[str, Tally], int]:
    """SCALE with its thresholds tuned, or with its prompts too. The second continues the first, and
    its cost includes that of the first."""
    folder, plan = contest.out / "compile", contest.plan
    folder.mkdir(parents=True, exist_ok=True)
    valset, lm = contest.valset, contest.lm
    if thresholds_only:
        found = search_thresholds("threshold", contest.program, valset, lm, folder, plan, report)
        costs = {"threshold": read_costs(folder / COSTS)["threshold"]}
        return found.program, costs, _count_runs(folder / "threshold")
    names = ("train", "validation")
    trainset = contest.trainset
    tuned = compile_program(
        contest.program, trainset, valset, lm, folder, plan, names=names, report=report
    )
    searched = _count_runs(folder / "threshold") + _count_runs(folder / "joint")
    return tuned, read_costs(folder / COSTS), searched + plan.tuning_rollouts


class CountingMetric:
    """Right or wrong, as a metric of any of DSPy's optimizers, and how often it was asked."""

    def __init__(self) -> None:
        self.calls = 0
        self._lock = threading.Lock()

    def __call__(
        self,
        gold: dspy.Example,
        pred: Any,
        trace: Any = None,
        pred_name: str | None = None,
        pred_trace: Any = None,
    ) -> float:
        with self._lock:
            self.calls += 1
        return float(hasattr(pred, "answer") and is_right(gold, pred))


def _write_note(
    folder: Path, costs: dict[str, Tally], metric_calls: int, program: SCALE | None = None
) -> None:
    """Write what a row's tuning cost, and where its thresholds ended."""
    total = sum(costs.values(), Tally())
    noted = {
        "metric_calls": metric_calls,
        "requests": total.calls,
        "prompt_tokens": total.prompt_tokens,
        "response_tokens": total.completion_tokens,
        "stages": {name: asdict(tally) for name, tally in costs.items()},
        "threshold": program.threshold.value if program else None,
        "split": program.split.value if program else None,
    }
    write_json(folder / "tuning.json", noted)


def _read_metric_calls(folder: Path) -> int:
    """The metric calls that a row's tuning took."""
    return int(json.loads((folder / "tuning.json").read_text(encoding="utf-8"))["metric_calls"])


def _count_runs(folder: Path) -> int:
    """Graded runs of a search: the pieces of all curves, of all variants."""
    return sum(len(walk.pieces) for path in folder.rglob(WALKS) for walk in read_lines(Walk, path))


def _name_report(report: Callable[[str, Progress], None], name: str) -> Callable[[Progress], None]:
    return lambda progress: report(name, progress)


def _check(contest: Contest, rows: Sequence[str]) -> None:
    unknown = set(rows) - set(ROWS)
    if unknown:
        raise ValueError(f"unknown rows {sorted(unknown)}: choose from {', '.join(ROWS)}")
    if "cot+optimizer" in rows and contest.plan.optimizer == "none":
        raise ValueError("the row cot+optimizer needs an optimizer: name one, or leave the row out")
    tuned_on = [*contest.trainset, *contest.valset]
    check_apart(contest.testset, tuned_on, "test problems are tuned on too")
