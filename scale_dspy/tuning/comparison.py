"""SCALE tuned in several ways beside chain of thought tuned by the same means, in one table.

Every row is tuned on the same training and validation problems and judged on the same untouched
test problems. What is finished is kept in a folder, so that an interrupted comparison goes on.
"""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import dspy
from dspy.experimental import Noul, ReAnchor

from scale_dspy.backends.connect import MeteredLM
from scale_dspy.backends.ledger import Tally
from scale_dspy.baselines import ChainOfThought
from scale_dspy.evaluation.metrics import is_right
from scale_dspy.evaluation.run import (
    Progress,
    describe_run,
    evaluate,
    read_rollouts,
    write_json,
)
from scale_dspy.evaluation.statistics import compare
from scale_dspy.evaluation.summary import ROLLOUTS
from scale_dspy.program import SCALE, load_program, save_program
from scale_dspy.solver import Solver
from scale_dspy.tuning.optimizers import (
    COSTS,
    compile_program,
    pay,
    read_costs,
    search_thresholds,
)
from scale_dspy.tuning.prompts import Job, Plan, make_writer, run_optimizer
from scale_dspy.tuning.search import change, read_requests
from scale_dspy.tuning.walks import FILE

ROWS = (
    "cot",
    "cot+gepa",
    "cot+optimizer",  # tuned by the plan's optimizer, with as much as it has for SCALE's prompts
    "cot+gepa-matched",  # with as many graded runs as scale+joint took in all, its searches too
    "scale",
    "scale+reanchor",
    "scale+threshold",
    "scale+joint",
)
REFERENCES = ("cot+gepa", "cot+optimizer", "cot")  # the first that is there is compared with
CUT = "hard"  # the decision whose threshold ReAnchor tunes
OWN_ROLLOUT = 1_000_003  # draws replies of its own for a row that another would pay for otherwise

Row = dict[str, Any]
"""name, accuracy, accuracy_interval, tok, threshold, split, tuning, against: `tuning` holds what
was paid for it, metric_calls (graded runs), requests, prompt_tokens and response_tokens; `against`
the paired difference to the reference, its interval and p-value."""


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
) -> list[Row]:
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
        write_json(contest.out / "table.json", {"rows": draw_rows(contest.out)})
        write_table(contest.out)
    return draw_rows(contest.out)


def tune_row(
    contest: Contest, name: str, report: Callable[[str, Progress], None] | None = None
) -> Solver:
    """The tuned program of a row, kept as FOLDER/NAME/program.json with tuning.json beside it."""
    folder = contest.out / name
    folder.mkdir(parents=True, exist_ok=True)
    if name == "cot":
        _note(folder, {}, 0)
        return contest.baseline
    if name == "cot+gepa":
        return _tune_baseline(contest, folder, contest.plan.rollouts, contest.lm)
    if name == "cot+optimizer":
        return _tune_alike(contest, folder)
    if name == "cot+gepa-matched":
        tune_row(contest, "scale+joint", report)
        calls = _read_note(contest.out / "scale+joint")
        return _tune_baseline(contest, folder, calls, contest.lm.copy(rollout_id=OWN_ROLLOUT))
    tuned, costs, calls = contest.program, dict[str, Tally](), 0
    if name == "scale":
        pass  # as it came
    elif name == "scale+reanchor":
        tuned, costs, calls = _tune_by_reanchor(contest, folder)
    else:
        tuned, costs, calls = _tune_jointly(contest, name == "scale+threshold", report)
    save_program(tuned, folder / "program.json")
    _note(folder, costs, calls, tuned)
    return tuned


# ---- the ways to tune


def _tune_baseline(
    contest: Contest, folder: Path, metric_calls: int, lm: MeteredLM
) -> ChainOfThought:
    """Chain of thought as dspy.GEPA leaves it, with a metric that says right or wrong."""
    tuned: ChainOfThought = contest.baseline.deepcopy()
    path = folder / "program.json"
    if path.exists():
        tuned.load(path)
        return tuned
    metric, plan = Counted(), contest.plan
    gepa = dspy.GEPA(
        metric=metric,
        max_metric_calls=metric_calls,
        reflection_lm=make_writer(lm, tuned.solve.config),
        num_threads=plan.threads,
        seed=plan.seed,
    )
    with pay(folder / COSTS, "gepa", None), dspy.context(lm=lm):
        tuned = gepa.compile(tuned, trainset=list(contest.trainset), valset=list(contest.valset))
    _note(folder, read_costs(folder / COSTS), metric.calls)
    tuned.save(path)
    return tuned


def _tune_alike(contest: Contest, folder: Path) -> ChainOfThought:
    """Chain of thought as the plan's optimizer leaves it, run as the joint compile runs it."""
    tuned: ChainOfThought = contest.baseline.deepcopy()
    path, lm, metric = folder / "program.json", contest.lm, Counted()
    if not path.exists():
        writer = make_writer(lm, tuned.solve.config)
        sets = list(contest.trainset), list(contest.valset)
        with pay(folder / COSTS, "optimizer", None), dspy.context(lm=lm):
            found = run_optimizer(tuned, Job(metric, writer, *sets, contest.plan))
        _note(folder, read_costs(folder / COSTS), metric.calls)
        found.save(path)
    tuned.load(path)
    return tuned


def _tune_by_reanchor(contest: Contest, folder: Path) -> tuple[SCALE, dict[str, Tally], int]:
    """The threshold that ReAnchor finds, put into the program as it came.

    ReAnchor is for Boolean outputs with a probability. Here the output is whether a sub-problem
    is hard, and its probability is the difficulty score of the same program. It takes the outcomes
    at every cut, without a cost term, and keeps one only if it beats the start on held-out folds.
    """
    if (folder / "tuning.json").exists():
        return (
            load_program(folder / "program.json", read_requests(contest.program)),
            read_costs(folder / COSTS),
            _read_note(folder),
        )
    metric = Counted()
    student = DecidingSCALE.of(contest.program)
    lm = contest.lm if contest.share else contest.lm.copy(rollout_id=OWN_ROLLOUT)
    lm = lm.copy(rollout_id=0) if contest.share else lm
    anchor = ReAnchor(metric, num_threads=contest.plan.threads)
    with pay(folder / COSTS, "reanchor", None), dspy.context(lm=lm):
        tuned = anchor.compile(student, trainset=list(contest.valset))
    write_json(folder / "reanchor.json", json.loads(json.dumps(anchor.report, default=str)))
    program = change(contest.program, {})
    cut = tuned.decide.fields.get(CUT, {}).get("threshold")
    if cut is not None:
        program.threshold.set(lower(cut))
    return program, read_costs(folder / COSTS), metric.calls


def _tune_jointly(
    contest: Contest, thresholds_only: bool, report: Callable[[str, Progress], None] | None
) -> tuple[SCALE, dict[str, Tally], int]:
    """SCALE with its thresholds tuned, or with its prompts too; the second goes on from the first,
    and its cost holds that of the first."""
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
    prompts = plan.rollouts if plan.optimizer != "none" else 0
    calls = _count_runs(folder / "threshold") + prompts + _count_runs(folder / "joint")
    return tuned, read_costs(folder / COSTS), calls


class Counted:
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


class DecideHard(dspy.Signature):
    """Decide whether a sub-problem of this difficulty score needs thought."""

    difficulty: float = dspy.InputField()
    hard: Noul = dspy.OutputField(desc="whether it is hard")


class ScoreReader:
    """What answers a decision with the score itself as the probability; it asks no model."""

    supports_decision_requests = True
    cache = True

    def __call__(self, state: dict[str, Any], questions: dict[str, Any]) -> dict[str, Any]:
        return {CUT: {"noul": float(state["inputs"]["difficulty"])}}


class DecidingSCALE(SCALE):
    """SCALE whose choice of a system is a decision that ReAnchor can tune."""

    @classmethod
    def of(cls, program: SCALE) -> DecidingSCALE:
        """This program, with the threshold that it came with."""
        deciding = cls.__new__(cls)
        deciding.__dict__.update(change(program, {}).__dict__)
        deciding.decide = dspy.Predict(DecideHard)
        deciding.decide.lm = ScoreReader()
        deciding.decide.fields[CUT] = {"threshold": raise_(program.threshold.value)}
        return deciding

    def _choose_system(self, difficulty: float | None) -> int:
        if difficulty is None:
            return 1
        return 2 if self.decide(difficulty=difficulty).hard.value else 1


def lower(cut: float) -> float:
    """The tau for which d > tau says what d >= cut says; 0 where there is none."""
    return max(0.0, math.nextafter(cut, -1.0))


def raise_(tau: float) -> float:
    """The cut for which d >= cut says what d > tau says; 1 where there is none."""
    return min(1.0, math.nextafter(tau, 2.0))


# ---- the table


def draw_rows(out: Path) -> list[Row]:
    """The rows whose test is finished, in the order of ROWS."""
    there = {name: out / name for name in ROWS if (out / name / "test" / "summary.json").exists()}
    graded = {name: _read_grades(folder / "test") for name, folder in there.items()}
    reference = next((name for name in REFERENCES if name in graded), None)
    rows = []
    for name, folder in there.items():
        summary = json.loads((folder / "test" / "summary.json").read_text(encoding="utf-8"))
        noted = json.loads((folder / "tuning.json").read_text(encoding="utf-8"))
        row = {
            "name": name,
            **{key: summary[key] for key in ("problems", "accuracy", "accuracy_interval", "tok")},
            "errors": summary["errors"],
            "threshold": noted["threshold"],
            "split": noted["split"],
            "tuning": {key: noted[key] for key in noted if key not in ("threshold", "split")},
            "against": None,
        }
        if reference is not None and name != reference:
            found = compare(graded[name], graded[reference])
            row["against"] = {
                "name": reference,
                "difference": found.effect.estimate,
                "interval": [found.effect.low, found.effect.high],
                "p_value": found.p_value,
            }
        rows.append(row)
    return rows


def render_rows(rows: Sequence[Row]) -> str:
    """The rows as a Markdown table."""
    reference = next((row["against"]["name"] for row in rows if row["against"]), "-")
    lines = [
        f"| program | right | 95 % interval | tokens a problem | against {reference} (points) | "
        "tuning: graded runs | requests | prompt tokens | response tokens | threshold | split |",
        "|---|" + "---:|" * 10,
    ]
    for row in rows:
        low, high = row["accuracy_interval"]
        against, tuning = row["against"], row["tuning"]
        difference = ""
        if against:
            ends = " to ".join(f"{100 * end:+.1f}" for end in against["interval"])
            difference = f"{100 * against['difference']:+.1f} ({ends})"
        cells = [
            row["name"],
            f"{row['accuracy']:.1%}",
            f"{low:.0%} to {high:.0%}",
            f"{row['tok']:,.0f}",
            difference,
            *(f"{tuning[key]:,}" for key in ("metric_calls", "requests")),
            *(f"{tuning[key]:,}" for key in ("prompt_tokens", "response_tokens")),
            *("" if row[key] is None else f"{row[key]:g}" for key in ("threshold", "split")),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def write_table(out: Path) -> None:
    """Write table.md from what is finished."""
    (out / "table.md").write_text(render_rows(draw_rows(out)), encoding="utf-8")


def _read_grades(folder: Path) -> dict[str, list[int]]:
    grades: dict[str, list[int]] = {}
    for rollout in read_rollouts(folder / ROLLOUTS):
        grades.setdefault(rollout["id"], []).append(int(bool(rollout["correct"])))
    return grades


def _note(
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


def _read_note(folder: Path) -> int:
    """The metric calls that a row's tuning took."""
    return int(json.loads((folder / "tuning.json").read_text(encoding="utf-8"))["metric_calls"])


def _count_runs(folder: Path) -> int:
    """Graded runs of a search: the pieces of all curves, of all variants."""
    return sum(
        len(walk[key])
        for path in folder.rglob(FILE)
        for walk in read_rollouts(path)
        for key in ("split", "rated", "whole")
    )


def _name_report(report: Callable[[str, Progress], None], name: str) -> Callable[[Progress], None]:
    return lambda progress: report(name, progress)


def _check(contest: Contest, rows: Sequence[str]) -> None:
    unknown = set(rows) - set(ROWS)
    if unknown:
        raise ValueError(f"unknown rows {sorted(unknown)}: choose from {', '.join(ROWS)}")
    tuned_on = {each.problem for each in (*contest.trainset, *contest.valset)}
    shared = tuned_on & {each.problem for each in contest.testset}
    if shared:
        raise ValueError(
            f"{len(shared)} test problems are tuned on too, the first {next(iter(shared))[:60]!r}"
        )
