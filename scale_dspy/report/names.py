"""Names for runs, made of their differences: method, threshold, options, but never a digest.

Runs that differ only in a digest (of their prompts, or of their data) are named by their folders.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

from scale_dspy.report.run_reader import Run


def name_runs(runs: Sequence[Run]) -> list[str]:
    """A different name for each run: method and threshold, and whatever else distinguishes runs."""
    return _find_differences(runs, threshold=True)


def group_runs(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """Runs that differ in nothing but the threshold, by a name for them."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(_identify(run), []).append(run)
    names = _find_differences([group[0] for group in groups.values()], threshold=False)
    return dict(zip(names, groups.values(), strict=True))


def _identify(run: Run) -> str:
    keys = ("method", *_SETTINGS, "program", "options", "requests", "digest")
    told = {key: run.description.get(key) for key in keys}
    return json.dumps(told, sort_keys=True, default=str)


_SETTINGS = ("model", "system_1", "data", "split", "seed")


def _find_differences(runs: Sequence[Run], *, threshold: bool) -> list[str]:
    names = [_name(run, threshold) for run in runs]
    for tell in (_describe_settings, lambda alike: [run.folder.name for run in alike]):
        for name, times in Counter(names).items():
            if times > 1:
                places = [place for place, each in enumerate(names) if each == name]
                for place, more in zip(places, tell([runs[p] for p in places]), strict=True):
                    names[place] = f"{name}, {shorten(more)}" if more else name
    times_used = Counter(names)
    return [
        f"{name} ({number})" if times_used[name] > 1 else name
        for number, name in enumerate(names, 1)
    ]


def _name(run: Run, threshold: bool) -> str:
    method = shorten(run.description.get("method") or "unnamed")
    if not threshold or run.threshold is None:
        return method
    split = f" split={run.split:g}" if run.split else ""
    return f"{method} τ={run.threshold:g}{split}"


def _describe_settings(runs: Sequence[Run]) -> list[str]:
    """For each run, those of its settings that are not the same in all."""
    settings = [
        {**{key: run.description.get(key) for key in _SETTINGS}, **read_run_options(run)}
        for run in runs
    ]
    keys = dict.fromkeys(key for each in settings for key in each)
    differing = [key for key in keys if len({str(each.get(key)) for each in settings}) > 1]
    return [
        ", ".join(_describe_setting(key, each.get(key)) for key in differing) for each in settings
    ]


def read_run_options(run: Run) -> dict[str, Any]:
    """The method's options; {} where its description has none."""
    options = run.description.get("options")
    return options if isinstance(options, dict) else {}


def _describe_setting(key: str, value: Any) -> str:
    return shorten(value) if key in ("model", "data") else f"{key} {shorten(value)}"


def shorten(value: Any) -> str:
    """One printable line, of a path its last part."""
    text = clean_line(str(value).rstrip("/").split("/")[-1])
    return text if len(text) <= 40 else f"{text[:39]}…"


def order_name(name: str) -> list[str | tuple[int, str]]:
    """A key that sorts p-9 before p-10."""
    parts = re.split("([0-9]+)", name)
    numbers = [(len(digits.lstrip("0")), digits.lstrip("0")) for digits in parts[1::2]]
    return [part for pair in zip(parts[::2], [*numbers, (0, "")], strict=True) for part in pair]


def clean_line(text: str) -> str:
    """A text on one line, without characters that a terminal would obey."""
    return "".join(each if each.isprintable() else " " for each in text)
