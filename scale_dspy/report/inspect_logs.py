"""Write runs as logs of Inspect (inspect_ai), which `inspect view` opens: one `.eval` file a run.

A sample's messages are the problem and each sub-problem with its solution; reasoning, difficulty
and system go with them, so that nothing is lost on the way.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from datetime import datetime, timezone
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scale_dspy.evaluation.rollout import ROLLOUTS, Rollout, sum_usage
from scale_dspy.lm.tally import Tally
from scale_dspy.report.names import clean_line
from scale_dspy.report.run_reader import Run, read_text
from scale_dspy.utils.extras import advise_install
from scale_dspy.utils.files import write_whole

if TYPE_CHECKING:
    from inspect_ai.log import EvalLog, EvalSample
    from inspect_ai.model import ChatMessage, ModelUsage

SCORER = "scale_dspy"


def write_logs(runs: Sequence[Run], folder: Path) -> list[Path]:
    """Write a log for each run.

    Args:
        runs: named, as in a report.
        folder: made where it is missing; a log that is there is written anew.

    Returns:
        The files, in the order of the runs.

    Raises:
        RuntimeError: inspect_ai is not installed.
        ValueError: there are no runs, or `folder` is a file.
    """
    if not find_spec("inspect_ai"):
        raise RuntimeError(f"logs for Inspect need an extra: {advise_install('inspect')}")
    if not runs:
        raise ValueError("--inspect needs at least one run; a frontier alone has none")
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is no folder for logs: it is a file")
    from inspect_ai.log import write_eval_log

    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"{number}-{_name_file(run)}.eval" for number, run in enumerate(runs, 1)]
    for run, file in zip(runs, files, strict=True):
        with write_whole(file) as draft:
            write_eval_log(_make_log(run), str(draft), format="eval")
    return files


def _name_file(run: Run) -> str:
    name = run.name.replace("τ", "tau")
    return re.sub(r"[^\w.=-]+", "-", name, flags=re.ASCII).strip("-.")[:60] or "run"


def _make_log(run: Run) -> EvalLog:
    from inspect_ai.log import (
        EvalConfig,
        EvalDataset,
        EvalLog,
        EvalMetric,
        EvalResults,
        EvalScore,
        EvalSpec,
        EvalStats,
    )

    it, told = run.summary, run.description
    ended = (run.folder / ROLLOUTS).stat().st_mtime
    created = _write_time(ended - it.get("wall_seconds", 0.0))
    costs = [each.cost for each in run.rollouts if each.cost is not None]
    usage = {_line(told.get("model")): _write_usage(sum(costs, Tally()))} if costs else {}
    numbers = {"accuracy": it["accuracy"], "pass_at_k": it["pass_at_k"], "tokens": it["tok"]}
    metrics = {
        name: EvalMetric(name=name, value=value)
        for name, value in numbers.items()
        if value is not None
    }
    samples = list(_make_samples(run))
    return EvalLog(
        status="success",
        eval=EvalSpec(
            created=created,
            task=_line(told.get("data")),
            solver=clean_line(run.name),
            dataset=EvalDataset(name=_line(told.get("data")), samples=it["problems"]),
            model=_line(told.get("model")),
            config=EvalConfig(epochs=it["samples"]),
            metadata=dict(told),
        ),
        results=EvalResults(
            total_samples=it["rollouts"],
            completed_samples=it["rollouts"] - it["errors"],
            scores=[EvalScore(name=SCORER, scorer=SCORER, metrics=metrics)],
        ),
        stats=EvalStats(started_at=created, completed_at=_write_time(ended), model_usage=usage),
        samples=samples,
    )


def _write_time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat(timespec="seconds")


def _line(value: Any) -> str:
    return "unknown" if value is None else clean_line(str(value))


def _make_samples(run: Run) -> Iterator[EvalSample]:
    from inspect_ai.log import EvalError, EvalSample
    from inspect_ai.model import ModelOutput
    from inspect_ai.scorer import Score

    model = _line(run.description.get("model"))
    with (run.folder / ROLLOUTS).open("rb") as file:
        for known in run.rollouts:
            one = read_text(run, file, known)
            solution = one.steps[-1].solution if one.steps else ""
            score = Score(value="C" if one.right else "I", answer=one.answer, explanation=solution)
            error = None
            if one.error is not None:
                error = EvalError(message=one.error, traceback="", traceback_ansi="")
            flags = {"cut_off": one.cut_off, "unread": one.unread}
            yield EvalSample(
                id=one.id,
                epoch=one.sample + 1,
                input=one.problem,
                target=one.gold,
                messages=list(_make_messages(one)),
                output=ModelOutput.from_content(model, solution),
                scores={SCORER: score},
                metadata={**one.groups, **flags, "replaced": list(one.replaced)},
                model_usage={model: _write_usage(sum_usage(one.usage))},
                total_time=one.seconds,
                error=error,
            )


def _make_messages(rollout: Rollout) -> Iterator[ChatMessage]:
    from inspect_ai.model import (
        ChatMessageAssistant,
        ChatMessageUser,
        ContentReasoning,
        ContentText,
    )

    yield ChatMessageUser(content=rollout.problem)
    for step in rollout.steps:
        if step.subproblem != rollout.problem:
            yield ChatMessageUser(content=step.subproblem)
        thoughts = [ContentReasoning(reasoning=step.reasoning)] if step.reasoning else []
        told = {"system": step.system, "difficulty": step.difficulty, "tokens": step.tokens}
        yield ChatMessageAssistant(
            content=[*thoughts, ContentText(text=step.solution)], metadata=told
        )


def _write_usage(it: Tally) -> ModelUsage:
    from inspect_ai.model import ModelUsage

    # As Inspect counts, input that the cache held is no input.
    return ModelUsage(
        input_tokens=it.prompt_tokens - it.cached_tokens,
        output_tokens=it.completion_tokens,
        total_tokens=it.prompt_tokens + it.completion_tokens,
        input_tokens_cache_read=it.cached_tokens,
        reasoning_tokens=it.reasoning_tokens,
    )
