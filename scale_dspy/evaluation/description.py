"""The description of a run, for its run.json: enough to repeat it, and to recognise it when it is
continued."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

import dspy

from scale_dspy.data.load import digest
from scale_dspy.grading.answers import GRADER
from scale_dspy.lm.connect import MeteredLM
from scale_dspy.method import Solver
from scale_dspy.program import SCALE


def describe_run(
    program: Solver,
    method: str,
    data: str,
    examples: Sequence[dspy.Example],
    lm: MeteredLM,
    samples: int,
    settings: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """What run.json says of a run: enough to repeat it, but no key and no URL.

    Args:
        settings: the flags of the command line, as a run file holds them.
    """
    return {
        **({"settings": dict(settings)} if settings else {}),
        "method": method,
        "threshold": program.threshold.value if isinstance(program, SCALE) else None,
        "split": program.split.value if isinstance(program, SCALE) else None,
        "stop": program.stop.value if isinstance(program, SCALE) else None,
        "estimate": program.estimate.dump_state() if isinstance(program, SCALE) else None,
        "pass_estimate": program.pass_estimate.dump_state()
        if isinstance(program, SCALE) and program.weigh
        else None,
        "options": program.options,
        "program": _digest_instructions(program),
        "requests": {name: predict.config for name, predict in program.named_predictors()},
        "model": lm.model,
        "system_1": lm.partner.model if lm.partner else None,
        "data": data,
        "digest": digest(examples),
        "problems": len(examples),
        "samples": samples,
        "seed": lm.seed,
        **({"modes": lm.found} if lm.found else {}),
    }


def _digest_instructions(program: Solver) -> str:
    """A digest of all that an optimizer may change in the prompts."""
    prompts = {
        name: [predict.signature.dump_state(), [dict(demo) for demo in predict.demos]]
        for name, predict in program.named_predictors()
    }
    text = json.dumps(prompts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def read_versions() -> dict[str, str]:
    """The versions of the software that a run depends on."""
    packages = {name: version(name) for name in ("scale-dspy", "dspy", "litellm")}
    return {**packages, "grader": str(GRADER)}
