"""ThresholdSearch: a DSPy optimizer that tunes a program's thresholds on its exact frontier.

From the outcomes that the frontier shows, it also fits the weights by which the program estimates
whether a draft is wrong.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import dspy
from dspy.teleprompt import Teleprompter

from scale_dspy.evaluation.calibration import fit_estimate
from scale_dspy.evaluation.runner import Progress
from scale_dspy.lm.connect import MeteredLM
from scale_dspy.lm.modes import Modes
from scale_dspy.program import SCALE
from scale_dspy.stages.ask import read_config
from scale_dspy.stages.registry import STAGES
from scale_dspy.threshold import Threshold
from scale_dspy.tuning.choice import Choice, check_rule, choose, rank, settle
from scale_dspy.tuning.frontier import Frontier, draw_frontier
from scale_dspy.tuning.threshold_sweep import Walk, read_drafts, read_passes, walk_all

TRIALS = 40  # values that Optuna tries

logger = logging.getLogger(__name__)

FITTED = "fitted"  # the folder of walks with fitted weights
MAY_FAIL = 0.1  # share of the walks; if more fail, a choice by the others means little


@dataclass(frozen=True)
class SearchResult:
    """A program at its best thresholds, and the measurements behind them.

    Attributes:
        start: the frontier of the program as it was given, before any variant.
    """

    program: SCALE
    choice: Choice
    frontier: Frontier
    walks: list[Walk]
    start: Frontier


class ThresholdSearch(Teleprompter):
    """Sets `threshold`, `split` and `stop` of a SCALE program to the best point of its frontier, or
    to a plain point where the best one seems best by luck alone (see `settle`). Where difficulty is
    measured on drafts, or votes are weighed, the weights of its `estimate` and `pass_estimate` are
    fitted too, and kept if they do better.

    Usable alone, and as a stage of dspy.BetterTogether. For other programs that have Thresholds it
    tries values with Optuna.

    Args:
        metric: scores (example, prediction); needed for programs other than SCALE, whose frontier
            counts right answers and tokens.
        budget: response tokens a problem, on average; None for no limit.
        margin: accuracy that may be given up for fewer tokens; see `choose`.
        samples: walks of each example.
        threads: examples at work at once.
        variants: options of SCALE to try beside its own, such as {"candidates": 1} or
            {"system_2_cap": 4096}; the best variant at its best thresholds wins.
        seed: of Optuna and of the intervals.
        out: the folder that keeps the walks, so that an interrupted search goes on; a temporary one
            by default.
        whole_only: walk the problems whole only, for far fewer tokens; the split is then 1.
        report: called after each walk.
    """

    def __init__(
        self,
        metric: Callable[..., Any] | None = None,
        *,
        budget: float | None = None,
        margin: float = 0.0,
        samples: int = 1,
        threads: int = 64,
        variants: Sequence[dict[str, Any]] = (),
        seed: int = 0,
        out: Path | None = None,
        report: Callable[[Progress], None] | None = None,
        whole_only: bool = False,
    ) -> None:
        super().__init__()
        check_rule(budget, margin)
        self.metric = metric
        self.budget, self.margin = budget, margin
        self.samples, self.threads = samples, threads
        self.variants, self.seed = variants, seed
        self.out, self.report = out, report
        self.whole_only = whole_only

    def compile(
        self,
        student: dspy.Module,
        *,
        trainset: list[dspy.Example],
        teacher: dspy.Module | None = None,
        valset: list[dspy.Example] | None = None,
    ) -> dspy.Module:
        """A copy of `student` with tuned thresholds; those are chosen on `valset` if there is one.

        Raises:
            ValueError: the student has no thresholds, or the LM does not cache or does not count.
            RuntimeError: too many runs failed; running it again does those again.
        """
        examples = list(valset or trainset)
        if isinstance(student, SCALE):
            tuned = self.find(student, examples, _find_lm(student)).program
            for ours, given in zip(tuned.predictors(), student.predictors(), strict=True):
                ours.lm = given.lm
            return tuned
        return self._try_values(student, examples)

    def find(self, student: SCALE, examples: Sequence[dspy.Example], lm: MeteredLM) -> SearchResult:
        """The best variant of a SCALE program at its best thresholds."""
        students = [(name, change(student, options)) for name, options in self._name_variants()]
        with nullcontext(self.out) if self.out else tempfile.TemporaryDirectory() as folder:
            found = [
                one
                for name, each in students
                for one in self._find_fitted(each, examples, lm, Path(str(folder)) / name)
            ]
        best = rank([each.choice for each in found], self.margin)
        return replace(found[best], start=found[0].frontier)

    def _name_variants(self) -> list[tuple[str, dict[str, Any]]]:
        """Folder names and options; the program as it is comes first and lies in the folder."""
        named: list[tuple[str, dict[str, Any]]] = [("", {})]
        for options in self.variants:
            name = "-".join(f"{key}-{value}" for key, value in options.items())
            named.append((name, dict(options)))
        return named

    def _find_fitted(
        self, student: SCALE, examples: Sequence[dspy.Example], lm: MeteredLM, out: Path
    ) -> list[SearchResult]:
        """The student at its best thresholds; and the same with weights fitted to its drafts and
        passes, if fitted weights do better on those of problems that they were not fitted to."""
        plain = self._find_one(student, examples, lm, out)
        other = change(student, {})
        if student.timing == "draft":
            other.estimate = fit_estimate(*read_drafts(plain.walks), student.estimate)
        if student.weigh:
            other.pass_estimate = fit_estimate(*read_passes(plain.walks), student.pass_estimate)
        fitted = (other.estimate, other.pass_estimate)
        if fitted == (student.estimate, student.pass_estimate):
            return [plain]
        return [plain, self._find_one(other, examples, lm, out / FITTED)]

    def _find_one(
        self, student: SCALE, examples: Sequence[dspy.Example], lm: MeteredLM, out: Path
    ) -> SearchResult:
        walks = walk_all(
            student,
            examples,
            lm,
            out,
            samples=self.samples,
            threads=self.threads,
            retry_errors=True,
            report=self.report,
            whole_only=self.whole_only,
        )
        errors = [walk.error for walk in walks if walk.error]
        if len(errors) > MAY_FAIL * len(walks):
            raise RuntimeError(
                f"{len(errors)} of {len(walks)} walks failed, too many to choose by; the last "
                f"with {errors[-1]}"
            )
        if errors:
            logger.warning("%d of %d walks failed and count as wrong", len(errors), len(walks))
        frontier = draw_frontier(walks)
        choice = choose(frontier, budget=self.budget, margin=self.margin, seed=self.seed)
        choice = settle(frontier, choice, budget=self.budget, margin=self.margin)
        tuned = change(student, {})
        tuned.threshold.set(choice.threshold)
        tuned.split.set(choice.split)
        if choice.stop is not None:
            tuned.stop.set(choice.stop)
        return SearchResult(tuned, choice, frontier, walks, frontier)

    def _try_values(self, student: dspy.Module, examples: list[dspy.Example]) -> dspy.Module:
        import optuna

        tuned = student.deepcopy()
        parameters = {
            name: parameter
            for name, parameter in tuned.named_parameters()
            if isinstance(parameter, Threshold)
        }
        if not parameters:
            raise ValueError(f"{type(student).__name__} has no Threshold to tune")
        if self.metric is None:
            raise ValueError(f"a metric is needed to tune a {type(student).__name__}")
        evaluate = dspy.Evaluate(
            devset=examples, metric=self.metric, num_threads=self.threads, display_progress=False
        )

        def measure(trial: optuna.Trial) -> float:
            for name, parameter in parameters.items():
                parameter.set(trial.suggest_float(name, 0.0, 1.0))
            return float(evaluate(tuned).score)

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        sampler = optuna.samplers.TPESampler(seed=self.seed)
        study = optuna.create_study(direction="maximize", sampler=sampler)
        study.enqueue_trial({name: each.value for name, each in parameters.items()})
        study.optimize(measure, n_trials=TRIALS)
        for name, parameter in parameters.items():
            parameter.set(study.best_params[name])
        return tuned


def change(program: SCALE, options: dict[str, Any]) -> SCALE:
    """A copy of a program with other options, and with signatures of its own; prompts, thresholds,
    weights and requests stay, the record and LMs that were set on predictors do not.

    Raises:
        ValueError: an option is unknown, or has an invalid value. A cap of System 2 can
            be changed but not lifted, as the limit that it replaced is not on record.
    """
    unknown = set(options) - set(program.options)
    if unknown:
        raise ValueError(f"a SCALE program has no options {sorted(unknown)}")
    if program.system_2_cap is not None and options.get("system_2_cap", 1) is None:
        raise ValueError("the cap of System 2 can be changed but not lifted")
    other: SCALE = program.deepcopy()
    other.record = None
    for name, value in options.items():
        setattr(other, name, value)
    for predictor in other.predictors():
        predictor.lm = None
    adopt_prompts(other, other)
    return other


def read_requests(program: SCALE) -> Modes:
    """A program's request parameters by stage, as its predictors have them."""
    predictors = dict(program.named_predictors())
    return {stage.name: read_config(predictors[stage.predictor]) for stage in STAGES}


def adopt_prompts(program: SCALE, source: dspy.Module) -> None:
    """Give `program` the instructions and demos of `source`, and nothing else of it."""
    tuned = dict(source.named_predictors())
    for name, predictor in program.named_predictors():
        predictor.signature = tuned[name].signature.with_instructions(
            tuned[name].signature.instructions
        )
        predictor.demos = [dict(demo) for demo in tuned[name].demos]


def _find_lm(student: SCALE) -> MeteredLM:
    """The LM that the student's predictors have (BetterTogether sets one), or the context's."""
    own = next((predictor.lm for predictor in student.predictors() if predictor.lm), None)
    lm = own or dspy.settings.lm
    if not isinstance(lm, MeteredLM):
        raise ValueError("the search needs an LM that counts its tokens: connect() makes one")
    return lm
