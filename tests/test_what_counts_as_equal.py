"""The page that says what counts as equal is true, row by row."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import scale_dspy
from scale_dspy.grading.answers import equal, find_answer

PAGE = Path(scale_dspy.__file__).parent / "docs" / "what_counts_as_equal.md"


def read_table(heading: str) -> list[list[str]]:
    """The code spans of each row under a heading."""
    section = PAGE.read_text(encoding="utf-8").partition(f"## {heading}\n")[2].partition("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("|")][2:]
    return [re.findall(r"`([^`]*)`", row) for row in rows]


@pytest.mark.parametrize("row", read_table("Where the answer is read"))
def test_the_answer_is_read_as_the_page_says(row: list[str]) -> None:
    *lines, answer = row
    assert find_answer("\n".join(lines)) == answer


@pytest.mark.parametrize(("pred", "gold"), read_table("Equal"))
def test_what_the_page_calls_equal_is(pred: str, gold: str) -> None:
    assert equal(pred, gold)
    assert equal(gold, pred)


@pytest.mark.parametrize(("pred", "gold"), read_table("Not equal"))
def test_what_the_page_calls_different_is(pred: str, gold: str) -> None:
    assert not equal(pred, gold)
    assert not equal(gold, pred)


def test_the_page_has_its_tables() -> None:
    counts = [len(read_table(each)) for each in ("Where the answer is read", "Equal", "Not equal")]
    assert all(count >= 9 for count in counts)
