"""Which models `serve` offers: a model's name chooses a program and its operating point.

`scale` is the first program given, or SCALE with its defaults; a compiled program is named after
its file's stem. After the name, `@tau=0.3` sets the threshold, and `@tokens=8000` takes both
thresholds from the program's frontier: the most accurate point that costs at most so many response
tokens on average.
"""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scale_dspy.lm.modes import Modes
from scale_dspy.method import Solver
from scale_dspy.methods import METHODS, make_program
from scale_dspy.program import SCALE, load_program

DEFAULT = "scale"
PROVIDER = "scale"  # in a LiteLLM proxy, models are named scale/NAME

FrontierPoint = Mapping[str, float]
"""A point of a frontier: threshold, split, accuracy, tokens."""

LONGEST_NAME = 300  # characters, point included; a file's name has 255 at most

_STEM = re.compile(r"[A-Za-z0-9._-]+")
# `float` accepts more: blanks around the number, "_" inside it, digits of other scripts.
_NUMBER = re.compile(r"(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_POINT_KEYS = ("threshold", "split", "accuracy", "tokens")


class UnknownModelError(ValueError):
    """No model goes by this name."""


@dataclass(frozen=True)
class Catalogue:
    """What is served.

    Attributes:
        programs: by name; `scale` is always one of them.
        points: the frontier's points by the program's name, cheapest first; only where known.
        style: of the requests of other methods.
        candidates: decompositions to choose from, of other methods.
        solvers: those that were made for other methods, by method.
    """

    programs: Mapping[str, SCALE]
    points: Mapping[str, Sequence[FrontierPoint]]
    style: Modes | str = "hybrid"
    candidates: int = 8
    solvers: dict[str, Solver] = field(default_factory=dict)


def read_catalogue(
    paths: Sequence[str | Path] = (),
    frontier: str | Path | None = None,
    *,
    style: Modes | str = "hybrid",
    candidates: int = 8,
) -> Catalogue:
    """The catalogue of compiled programs in files.

    Args:
        paths: of programs; the first one is also `scale`.
        frontier: a frontier.json, measured on the program named `scale`.
        style: see `modes()`; or the modes themselves.
        candidates: decompositions to choose from, where no program says how many.

    Raises:
        ValueError: a file that cannot be read, or a name that cannot be used.
    """
    programs: dict[str, SCALE] = {}
    for path in map(Path, paths):
        if not _STEM.fullmatch(path.stem):
            raise ValueError(
                f"{path}: a model is named after its file, and a name is made of letters, digits, "
                "'.', '_' and '-'"
            )
        if path.stem in programs or (path.stem == DEFAULT and programs):
            raise ValueError(f"{path}: there is another model named {path.stem}; rename the file")
        programs[path.stem] = load_program(path, style)
    first = next(iter(programs.values()), None)
    programs = {DEFAULT: first or SCALE(candidates=candidates, modes=style), **programs}
    files = {Path(path).stem: path for path in paths}
    files |= dict.fromkeys([DEFAULT], paths[0]) if paths else {}
    points = {
        name: read
        for name, program in programs.items()
        if (read := _find_points(files.get(name, name), program))
    }
    if frontier is not None:
        measured = read_points(frontier)
        points |= {name: measured for name in programs if programs[name] is programs[DEFAULT]}
    return Catalogue(programs, points, style, candidates)


def list_names(catalogue: Catalogue) -> list[str]:
    """Every name that is listed: the programs, and the points of their frontiers."""
    names = []
    for name in catalogue.programs:
        names.append(name)
        names += [
            # Rounded up: otherwise the point would exceed its own budget.
            f"{name}@tokens={math.ceil(point['tokens'])}"
            for point in catalogue.points.get(name, ())
        ]
    return names


def find_program(catalogue: Catalogue, name: str, method: str | None = None) -> Solver:
    """The program that a model's name stands for.

    Args:
        method: another method instead of SCALE, one of METHODS. The method has its default
            settings; of the name only a threshold has an effect.

    Raises:
        UnknownModelError: there is no such program.
        ValueError: the operating point or the method is not available.
    """
    base, at, point = name.partition("@")
    if base not in catalogue.programs or len(name) > LONGEST_NAME:
        known = ", ".join(catalogue.programs)
        raise UnknownModelError(
            f"there is no model {name[:100]!r}: choose from {known}, each also with @tau=NUMBER or "
            "@tokens=NUMBER after it"
        )
    thresholds = _read_point(catalogue, base, point) if at else None
    if method is None or method == "scale":
        program = catalogue.programs[base]
        return program if thresholds is None else program.at(*thresholds)
    if not isinstance(method, str) or method not in METHODS:
        raise ValueError(f"method is one of {', '.join(METHODS)}, not {str(method)[:100]!r}")
    if method not in catalogue.solvers:
        catalogue.solvers[method] = make_program(
            method, candidates=catalogue.candidates, modes=catalogue.style
        )
    solver = catalogue.solvers[method]
    if thresholds is None:
        return solver
    if not isinstance(solver, SCALE):
        raise ValueError(f"method {method} has no threshold, so {point!r} means nothing to it")
    return solver.at(thresholds[0])


def read_points(path: str | Path) -> list[FrontierPoint]:
    """The points of a frontier.json, cheapest first.

    Raises:
        ValueError: the file is no frontier.
    """
    try:
        held = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"cannot read a frontier from {path}: {error}") from None
    points = held.get("points") if isinstance(held, dict) else None
    if not isinstance(points, list) or not points:
        raise ValueError(f"{path} holds no frontier: `scale-dspy frontier` writes one")
    try:
        return _check_points(points)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _find_points(path: str | Path, program: SCALE) -> list[FrontierPoint]:
    """The frontier's points in the record of a compile; none in older records."""
    points = (program.record or {}).get("points")
    if points is None:
        return []
    try:
        return _check_points(points)
    except ValueError as error:
        raise ValueError(f"{path}: scale_dspy.record.{error}") from None


def _check_points(points: Any) -> list[FrontierPoint]:
    """The points as numbers, cheapest first; ValueError names the first that is malformed."""
    if not isinstance(points, list):
        raise ValueError(f"points is a list, not {points!r:.60}")
    read = []
    for place, point in enumerate(points):
        if not isinstance(point, dict):
            raise ValueError(f"points[{place}] is an object, not {point!r:.60}")
        keys = (*_POINT_KEYS, "stop") if "stop" in point else _POINT_KEYS
        read.append({key: _check_number(point.get(key), place, key) for key in keys})
    return sorted(read, key=lambda point: point["tokens"])


def _check_number(value: Any, place: int, key: str) -> float:
    most = sys.float_info.max if key == "tokens" else 1
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= most:
        end = "0 up" if key == "tokens" else "0 to 1"
        raise ValueError(f"points[{place}].{key} is a number from {end}, not {str(value)[:60]!r}")
    return float(value)


def _read_point(
    catalogue: Catalogue, base: str, point: str
) -> tuple[float, float | None, float | None]:
    """(threshold, split, stop) of what follows the @; None for the program's own."""
    kind, _, text = point.partition("=")
    if kind not in ("tau", "tokens"):
        raise ValueError(
            f"a model's name ends in @tau=NUMBER or @tokens=NUMBER, not {point[:100]!r}"
        )
    value = float(text) if _NUMBER.fullmatch(text) else math.nan
    if not math.isfinite(value):
        raise ValueError(f"@{kind}= is followed by a number, not {text[:100]!r}")
    if kind == "tau":
        if not 0 <= value <= 1:
            raise ValueError(f"tau is a number from 0 to 1, not {text[:100]}")
        return value, None, None
    if not value > 0:
        raise ValueError(f"tokens is a number above 0, not {text[:100]}")
    points = catalogue.points.get(base)
    if points is None:
        raise ValueError(
            f"no frontier is known of {base}, so {point} cannot be read off it: give @tau, or "
            "start `serve` with --frontier"
        )
    affordable = [each for each in points if each["tokens"] <= value]
    if not affordable:
        least = points[0]["tokens"]
        raise ValueError(f"the cheapest point of {base} costs {least:,.0f} tokens, not {text}")
    best = max(affordable, key=lambda each: each["accuracy"])
    return best["threshold"], best["split"], best.get("stop")
