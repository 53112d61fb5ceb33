"""The folder of a run: its name, and its run.json, which says what is done there."""

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
    """Write the description of some work, or make sure that what the file tells of is the same.

    More samples may be added to a run; other versions of the software are logged. How its modes
    were found may differ, as long as the requests are the same.

    Raises:
        ValueError: the file cannot be read, or tells of other work.
    """
    if path.exists():
        there = read_description(path)
        differing = {
            key for key in {*there, *description} if there.get(key) != description.get(key)
        }
        for key in sorted(differing - {"versions", "samples", "settings", "modes"})[:1]:
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


def read_description(path: Path) -> dict[str, Any]:
    """A description as it was written.

    Raises:
        ValueError: the file cannot be read, or is none.
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
    """The versions of the grader that a run's description names; several where it went on later.

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
