"""run.json: what a run is, enough to repeat it and to know it again when it goes on."""

from __future__ import annotations

import hashlib
import json
import logging
import re
import reprlib
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import dspy

from scale_dspy.data.load import digest
from scale_dspy.lm.connect import MeteredLM
from scale_dspy.method import Solver
from scale_dspy.program import SCALE
from scale_dspy.utils.files import write_whole
from scale_dspy.utils.records import parse_json

logger = logging.getLogger(__name__)

RUN = "run.json"


def describe_run(
    program: Solver,
    method: str,
    data: str,
    examples: Sequence[dspy.Example],
    lm: MeteredLM,
    samples: int,
) -> dict[str, Any]:
    """What run.json says of a run, enough to repeat it; no key and no URL among it."""
    return {
        "method": method,
        "threshold": program.threshold.value if isinstance(program, SCALE) else None,
        "split": program.split.value if isinstance(program, SCALE) else None,
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
    }


def match_description(path: Path, description: dict[str, Any]) -> None:
    """Write the description of some work, or make sure that what the file tells of is the same.

    More samples may be added to a run; other versions of the software are logged.

    Raises:
        ValueError: the file cannot be read, or tells of other work.
    """
    if path.exists():
        there = read_description(path)
        differing = {
            key for key in {*there, *description} if there.get(key) != description.get(key)
        }
        for key in sorted(differing - {"versions", "samples"})[:1]:
            raise ValueError(
                f"{path.parent} holds another run: its {key} is {_BRIEF.repr(there.get(key))}, "
                f"not {_BRIEF.repr(description.get(key))}; choose another --out"
            )
        if "versions" in differing:
            began = _BRIEF.repr(there.get("versions"))
            logger.warning("%s was begun with other versions: %s", path.parent, began)
    write_json(path, description)


def read_description(path: Path) -> dict[str, Any]:
    """A description as it was written.

    Raises:
        ValueError: the file cannot be read, or is none.
    """
    try:
        there = parse_json(path.read_bytes())
    except FileNotFoundError:
        raise ValueError(f"{path} is missing: give folders of `evaluate --out`") from None
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as JSON: {error}") from None
    if not isinstance(there, dict):
        raise ValueError(f"{path} is not the description of a run")
    return there


_BRIEF = reprlib.Repr()
_BRIEF.maxstring = _BRIEF.maxother = 80


def name_folder(data: str, name: str) -> str:
    """A folder's name for a run on `data`, which may be a path or a hub path.

    >>> name_folder("sets/mine.jsonl", "cot"), name_folder("owner/set:test", "cot")
    ('mine-cot', 'owner-set-test-cot')
    """
    stem = Path(data).stem if data.endswith((".json", ".jsonl")) else data
    return re.sub(r"[^\w.-]+", "-", f"{stem}-{name}")


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write a JSON file whole or not at all."""
    text = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
    with write_whole(path) as draft:
        draft.write_text(text, encoding="utf-8", errors="backslashreplace")


def _digest_instructions(program: Solver) -> str:
    """A digest of all that an optimizer may change in the prompts."""
    prompts = {
        name: [predict.signature.dump_state(), [dict(demo) for demo in predict.demos]]
        for name, predict in program.named_predictors()
    }
    text = json.dumps(prompts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def read_versions() -> dict[str, str]:
    """The versions of what a run rests on."""
    return {name: version(name) for name in ("scale-dspy", "dspy", "litellm")}
