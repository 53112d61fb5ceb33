"""The sentence at the head of a report."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from scale_dspy.report.comparisons import compare_runs
from scale_dspy.report.names import name_runs
from scale_dspy.report.run_reader import read_run
from scale_dspy.report.verdict import write_verdicts
from tests.test_report import make_run


def tell(folder: Path, *rights: str, told: list[dict[str, Any]] | None = None) -> list[str]:
    given = told or [{"method": name} for name in ("cot", "scale", "majority")]
    runs = [
        read_run(make_run(folder / str(place), right, told=given[place]))
        for place, right in enumerate(rights)
    ]
    runs = [replace(run, name=name) for run, name in zip(runs, name_runs(runs), strict=True)]
    return write_verdicts(runs, compare_runs(runs)[0])


def test_a_clear_win_is_sure(tmp_path: Path) -> None:
    (told,) = tell(tmp_path, "0" * 40, "1" * 40)
    assert told.startswith("scale τ=0.5 is right 100.0 percentage points more often than cot τ=0.5")
    assert "more than chance explains" in told


def test_a_small_gap_is_not_sure(tmp_path: Path) -> None:
    (told,) = tell(tmp_path, "1100110011001100", "1100110011001110")
    assert "That is not sure: chance alone could do it" in told
    assert "−" in told  # the low end of the interval


def test_equals_and_single_runs_are_told(tmp_path: Path) -> None:
    (told,) = tell(tmp_path / "a", "1100", "0011")
    assert "are right equally often, at the same number of tokens." in told
    (told,) = tell(tmp_path / "b", "1100")
    assert told.startswith("cot τ=0.5 is right 50.0 % of the time (95 % interval ")


def test_the_first_run_as_the_best_is_set_against_the_next_best(tmp_path: Path) -> None:
    (told,) = tell(tmp_path, "1" * 24, "0" * 24, "01" * 12)
    assert told.startswith("cot τ=0.5 is right 50.0 percentage points more often than majority")


def test_each_set_has_a_sentence(tmp_path: Path) -> None:
    given = [{"digest": name, "data": name} for name in ("one", "two")]
    first, second = tell(tmp_path, "11", "00", told=given)
    assert first.startswith("On one, ")
    assert second.startswith("On two, ")
