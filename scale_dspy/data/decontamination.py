"""Keep training problems apart from test problems: shared runs of words, and equal texts.

Two problems overlap where 13 words in a row are the same, or where all words are. Words are what is
left of a text in lower case without marks and signs, so LaTeX's spelling of a formula matters
little. The rule is strict: the sentence that most AIME problems end in ("relatively prime positive
integers, find m + n") is a run of 13 words as well. With aime24, aime25, amc23 and math500 it drops
206 of the 975 AIME problems of 1983-2023, most of them for that sentence.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

RUN = 13  # words in a row
_WORD = re.compile(r"[^\W_]+")

Index = Mapping[tuple[str, ...], str]
"""Runs of words, and whole texts, each with the name of the test set that contains it."""


def index_problems(sets: Mapping[str, Iterable[Any]]) -> Index:
    """What no training problem may share with test sets.

    Args:
        sets: by name, examples with a `problem`; if two sets contain the same run of words, the
            first is named.
    """
    index: dict[tuple[str, ...], str] = {}
    for name, examples in sets.items():
        for example in examples:
            for run in _list_runs(example.problem):
                index.setdefault(run, name)
    return index


def find_overlap(problem: str, index: Index) -> str | None:
    """The name of a test set that a problem overlaps with; None where it is clean."""
    return next((index[run] for run in _list_runs(problem) if run in index), None)


def _list_runs(text: str) -> Iterable[tuple[str, ...]]:
    """The whole text as words, then every run of RUN of them."""
    words = _WORD.findall(text.lower())
    yield ("", *words)  # marked, so that a text of RUN words is no run of a longer one
    for start in range(len(words) - RUN + 1):
        yield tuple(words[start : start + RUN])
