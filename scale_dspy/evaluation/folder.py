"""The folder of a run: its name, and its run.json, which describes the run."""

from __future__ import annotations

import json
import logging
import re
import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scale_dspy.utils.files import read_file, write_whole
from scale_dspy.utils.records import parse_json

logger = logging.getLogger(__name__)

RUN = "run.json"
COMPILE = "compile.json"  # describes a compile in its folder, as run.json describes a run
RECORD = "record.json"  # the result of a compile, in its folder
LIMITS = frozenset({"price", "gpus", "cost_limit", "dollar_limit"})
FREE = LIMITS | {"versions", "samples", "settings", "modes"}
_BRIEF = reprlib.Repr()
_BRIEF.maxstring = _BRIEF.maxother = 80


def name_folder(data: str, name: str) -> str:
    """A folder's name for a run on `data`, which may be a path or a hub path.

    >>> name_folder("sets/mine.jsonl", "cot"), name_folder("owner/set:test", "cot")
    ('mine-cot', 'owner-set-test-cot')
    """
    stem = Path(data).stem if data.endswith((".json", ".jsonl")) else data
    return re.sub(r"[^\w.-]+", "-", f"{stem}-{name}")


def match_description(path: Path, description: dict[str, Any]) -> None:
    """Write the description of a run, or make sure that the file there describes the same run.

    What is in FREE may differ from session to session: more samples, other limits, the flags as
    they were typed; how the modes were found, as long as the requests are the same; and versions of
    the software, which are logged.

    Raises:
        ValueError: the file cannot be read, or describes another run.
    """
    if path.exists():
        there = read_description(path)
        differing = {
            key
            for key in {*there, *description}
            if _drop_unset(there.get(key)) != _drop_unset(description.get(key))
        }
        for key in sorted(differing - FREE)[:1]:
            raise ValueError(
                f"{path.parent} holds another run: its {key} is {_BRIEF.repr(there.get(key))}, "
                f"not {_BRIEF.repr(description.get(key))}; choose another --out"
            )
        if "versions" in differing:
            began = _BRIEF.repr(there.get("versions"))
            logger.warning("%s was begun with other versions: %s", path.parent, began)
        graders = list(dict.fromkeys([*read_graders(there), *read_graders(description)]))
        if len(graders) > 1 and "versions" in description:  # rollouts of the older one are there
            versions = {**description["versions"], "grader": ", ".join(graders)}
            description = {**description, "versions": versions}
    write_json(path, description)


def _drop_unset(value: Any) -> Any:
    """A value; of options, those that are set: a folder may be older than an option."""
    if not isinstance(value, dict):
        return value
    return {key: one for key, one in value.items() if one is not None and one is not False}


def match_whole_only(path: Path, whole_only: bool) -> None:
    """Make sure that the folder of the description at `path`, if it is there, holds walks of the
    same kind: of whole problems only, or of problems that are split as well.

    Raises:
        ValueError: the file cannot be read, or describes walks of the other kind.
    """
    if not path.exists():
        return
    there = read_description(path)
    if there.get("method", "frontier") != "frontier":
        return  # a run of another kind, of which `match_description` tells
    plan = there.get("plan")
    told = plan if isinstance(plan, Mapping) else there  # a compile has it in its plan
    if bool(told.get("whole_only")) == whole_only:
        return
    begun = "split their problems too" if whole_only else "are of whole problems only (--whole)"
    raise ValueError(
        f"{path.parent} holds walks that {begun}, and these would "
        f"{'not' if whole_only else 'split them too'}; choose another --out"
    )


def read_description(path: Path) -> dict[str, Any]:
    """A description as it was written.

    Raises:
        ValueError: the file cannot be read, or is no description.
    """
    try:
        there = parse_json(read_file(path))
    except FileNotFoundError:
        raise ValueError(f"{path} is missing: give folders of `evaluate --out`") from None
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as JSON: {error}") from None
    if not isinstance(there, dict):
        raise ValueError(f"{path} is not the description of a run")
    return there


def read_graders(description: Mapping[str, Any]) -> list[str]:
    """The versions of the grader that a run's description names: several if it was continued with
    another version.

    >>> read_graders({"versions": {"grader": "1, 2"}}), read_graders({})
    (['1', '2'], ['1'])
    """
    versions = description.get("versions")
    named = versions.get("grader") if isinstance(versions, Mapping) else None
    return str(named).split(", ") if named else ["1"]


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write a JSON file whole or not at all."""
    text = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
    with write_whole(path) as draft:
        draft.write_text(text, encoding="utf-8", errors="backslashreplace")
