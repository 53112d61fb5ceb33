"""A program's prompts tuned by one of DSPy's optimizers, under a plan."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from inspect import cleandoc
from typing import Any

import dspy

from scale_dspy.evaluation.costs import Terms
from scale_dspy.grading.labels import Label
from scale_dspy.grading.metrics import make_metric
from scale_dspy.lm.connect import MeteredLM
from scale_dspy.lm.price import Price
from scale_dspy.program import SCALE
from scale_dspy.tuning import OPTIMIZERS
from scale_dspy.tuning.choice import check_rule
from scale_dspy.tuning.threshold_search import adopt_prompts, change
from scale_dspy.utils.extras import advise_install
from scale_dspy.utils.validation import check_whole

NEEDS = {"mipro": "optuna", "gepa": "gepa"}  # DSPy imports these only after spending tokens
DEMOS = 2  # bootstrapped demos of a predictor; each adds a whole solution to every prompt
SUCCESS = 0.5  # the score from which a rollout may become a demo
PROPOSAL = 2048  # response tokens of a proposal, where System 2 has a cap of its own


@dataclass(frozen=True)
class Plan:
    """What a compile does.

    Attributes:
        optimizer: one of OPTIMIZERS, for the prompts.
        budget: response tokens a problem, on average over the validation problems.
        margin: accuracy that may be given up for fewer tokens; see `frontier.choose`.
        samples: walks of each validation problem.
        rollouts: about how many runs of the program the prompt optimizer may make.
        cost_limit: response tokens that the whole compile may cost; None for no limit.
        dollar_limit: US dollars that it may cost; None for no limit.
        token_price: of a token; None for that of LiteLLM's table, where it has one.
        gpus: that serve the model, for the record.
        threads: problems at work at once.
        variants: options of SCALE to try; see `ThresholdSearch`.
        seed: of the optimizer and the intervals.
        whole_only: problems are walked whole only; the program to start from then has split 1.
    """

    optimizer: str = "gepa"
    budget: int | None = None
    margin: float = 0.0
    samples: int = 1
    rollouts: int = 200
    cost_limit: int | None = None
    threads: int = 64
    variants: Sequence[dict[str, Any]] = ()
    seed: int = 0
    dollar_limit: float | None = None
    token_price: Price | None = None
    gpus: int | None = None
    whole_only: bool = False

    def __post_init__(self) -> None:
        check_optimizer(self.optimizer)
        check_rule(self.budget, self.margin)
        for name in ("samples", "rollouts", "threads"):
            check_whole(name, getattr(self, name))
        self.terms  # noqa: B018 - checks them

    @property
    def terms(self) -> Terms:
        """What tokens and time cost, and the limits of the whole compile."""
        return Terms(self.token_price, self.gpus, self.cost_limit, self.dollar_limit)


def check_optimizer(name: str) -> None:
    """Raise ValueError unless an optimizer of this name can run here."""
    if name not in OPTIMIZERS:
        raise ValueError(f"unknown optimizer {name!r}: choose one of {', '.join(OPTIMIZERS)}")
    package = NEEDS.get(name)
    if package and importlib.util.find_spec(package) is None:
        raise ValueError(f"optimizer {name} needs {package}: {advise_install('tune')}")


def tune_prompts(
    program: SCALE,
    trainset: Sequence[dspy.Example],
    valset: Sequence[dspy.Example],
    lm: MeteredLM,
    plan: Plan,
    labels: Sequence[Label] = (),
) -> SCALE:
    """A copy of `program` with the instructions and demos that one of DSPy's optimizers found.

    Args:
        plan: its optimizer is not "none".
        labels: what is known of sub-problems' difficulty, told to GEPA's reflection.
    """
    metric = make_metric(
        budget=plan.budget,
        labels={(label.problem, label.subproblem): label for label in labels},
        feedback=plan.optimizer == "gepa",
    )
    student = change(program, {})  # with signatures of its own, as InferRules writes into classes
    writer = make_writer(lm, program.solve.system_2.config)
    with dspy.context(lm=lm):
        tuned = run_optimizer(student, Job(metric, writer, list(trainset), list(valset), plan))
    copy = change(program, {})
    adopt_prompts(copy, tuned)
    return copy


def make_writer(lm: MeteredLM, config: Mapping[str, Any]) -> MeteredLM:
    """The LM that writes proposals. It is asked like System 2, for this is hard, but at temperature
    1, and with room for a whole prompt even if solutions of sub-problems are capped."""
    most = config.get("max_tokens")
    room = {} if most is None else {"max_tokens": max(most, PROPOSAL)}
    writer: MeteredLM = lm.copy(**{**config, "temperature": 1.0, **room})
    return writer


@dataclass(frozen=True)
class Job:
    """What an optimizer works with; `writer` proposes prompts, the LM of the context runs them."""

    metric: Callable[..., Any]
    writer: MeteredLM
    trainset: list[dspy.Example]
    valset: list[dspy.Example]
    plan: Plan

    def share(self, cost: int, most: int) -> int:
        """How many rounds of so many rollouts each the plan allows: from 1 to `most`."""
        return max(1, min(most, self.plan.rollouts // max(1, cost)))


def run_optimizer(student: dspy.Module, job: Job) -> dspy.Module:
    """The student after the plan's optimizer, which is not "none", has tuned it."""
    return _MAKERS[job.plan.optimizer](student, job)


def _bootstrap(student: dspy.Module, job: Job) -> dspy.Module:
    optimizer = dspy.BootstrapFewShot(
        metric=job.metric,
        metric_threshold=SUCCESS,
        max_bootstrapped_demos=DEMOS,
        max_labeled_demos=0,  # examples have a problem and an answer, which no predictor takes
        max_errors=len(job.trainset),
    )
    return optimizer.compile(student, trainset=job.trainset)


def _bootstrap_random_search(student: dspy.Module, job: Job) -> dspy.Module:
    optimizer = dspy.BootstrapFewShotWithRandomSearch(
        metric=job.metric,
        metric_threshold=SUCCESS,
        max_bootstrapped_demos=DEMOS,
        max_labeled_demos=0,
        num_candidate_programs=job.share(2 * len(job.valset), 16),
        num_threads=job.plan.threads,
    )
    return optimizer.compile(student, trainset=job.trainset, valset=job.valset)


def _copro(student: dspy.Module, job: Job) -> dspy.Module:
    predictors = len(student.predictors())
    optimizer = dspy.COPRO(
        prompt_model=job.writer,
        metric=job.metric,
        breadth=1 + job.share(predictors * len(job.trainset), 9),
        depth=1,
    )
    settings = {"num_threads": job.plan.threads, "display_progress": False}
    return optimizer.compile(student, trainset=job.trainset, eval_kwargs=settings)


def _mipro(student: dspy.Module, job: Job) -> dspy.Module:
    optimizer = dspy.MIPROv2(
        metric=job.metric,
        prompt_model=job.writer,
        auto=None,
        num_candidates=1 + job.share(4 * len(job.valset), 5),
        max_bootstrapped_demos=DEMOS,
        max_labeled_demos=0,
        metric_threshold=SUCCESS,
        num_threads=job.plan.threads,
        seed=job.plan.seed,
    )
    return optimizer.compile(
        student,
        trainset=job.trainset,
        valset=job.valset,
        num_trials=job.share(len(job.valset), 30),
        minibatch=False,
        # It would read this program's source and describe it to the model at length.
        program_aware_proposer=False,
    )


def _simba(student: dspy.Module, job: Job) -> dspy.Module:
    batch, candidates = min(32, len(job.trainset)), 3
    optimizer = dspy.SIMBA(
        metric=job.metric,
        bsize=batch,
        num_candidates=candidates,
        max_steps=job.share((2 * candidates + 1) * batch, 8),
        max_demos=DEMOS,
        prompt_model=job.writer,
        num_threads=job.plan.threads,
    )
    return optimizer.compile(student, trainset=job.trainset, seed=job.plan.seed)


def _infer_rules(student: dspy.Module, job: Job) -> dspy.Module:
    optimizer = dspy.InferRules(
        num_candidates=job.share(len(job.valset), 10),
        num_rules=5,
        num_threads=job.plan.threads,
        metric=job.metric,
        metric_threshold=SUCCESS,
        max_bootstrapped_demos=DEMOS,
        max_labeled_demos=0,
        teacher_settings={"lm": job.writer},
    )
    return optimizer.compile(student, trainset=job.trainset, valset=job.valset)


def _gepa(student: dspy.Module, job: Job) -> dspy.Module:
    optimizer = dspy.GEPA(
        metric=job.metric,
        max_metric_calls=job.plan.rollouts,
        component_selector=partial(choose_predictor, find_idle(student)),
        reflection_lm=job.writer,
        num_threads=job.plan.threads,
        seed=job.plan.seed,
    )
    return optimizer.compile(student, trainset=job.trainset, valset=job.valset)


def find_idle(student: dspy.Module) -> set[str]:
    """The predictors whose replies decide nothing: ratings, if the thresholds leave no choice."""
    if not isinstance(student, SCALE):
        return set()
    decided = {student.threshold.value, student.split.value} <= {0.0, 1.0}
    return {"assess.rate", "assess.review"} if decided else set()


def choose_predictor(
    idle: set[str],
    state: Any,
    trajectories: Sequence[Any],
    scores: Any,
    place: int,
    candidate: dict[str, str],
) -> list[str]:
    """The predictor whose prompt GEPA rewrites next: each in turn, but for idle ones.

    GEPA by itself would spend rounds, and their rollouts, on predictors that the program never
    calls at its thresholds, such as decompose if every problem is solved whole.
    """
    names = state.list_of_named_predictors
    turns = state.named_predictor_id_to_update_next_for_program_candidate
    ran = {call[0].signature.instructions for each in trajectories for call in each["trace"]}
    for _ in names:
        name = names[turns[place]]
        turns[place] = (turns[place] + 1) % len(names)
        if name not in idle and cleandoc(candidate[name]) in ran:
            break
    return [name]


_MAKERS: dict[str, Callable[[dspy.Module, Job], dspy.Module]] = {
    "bootstrap": _bootstrap,
    "bootstrap_random_search": _bootstrap_random_search,
    "copro": _copro,
    "mipro": _mipro,
    "simba": _simba,
    "infer_rules": _infer_rules,
    "gepa": _gepa,
}
