"""The export as Markdown: what a person can read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from scale_dspy import SCALE
from scale_dspy.export.markdown import export_markdown
from scale_dspy.export.portable_json import export_messages
from scale_dspy.program import load_program
from tests.exported import NAMES, RECORD, tune


def test_markdown_is_the_same_twice_and_after_a_round_trip(tmp_path: Path) -> None:
    program = tune(SCALE(threshold=0.42, split=0.1))
    program.record = RECORD
    program.save(tmp_path / "program.json")
    loaded = load_program(tmp_path / "program.json")
    assert export_markdown(program) == export_markdown(program) == export_markdown(loaded)
    assert export_messages(program) == export_messages(loaded)


def test_markdown_tells_scores_routing_and_prompts() -> None:
    program = tune(SCALE(threshold=0.42, split=0.1, budget=5000))
    program.record = RECORD
    page = export_markdown(program)
    assert page.startswith("# A SCALE program for Qwen/Qwen3-8B\n")
    assert "| accuracy | 40.0% (30.0% to 50.0%) | 50.0% (40.0% to 60.0%) |" in page
    assert "| response tokens a problem | 9,000 (8,000 to 10,000) | 8,000 |" in page
    assert "- Training set: limo, 40 problems" in page
    assert "- Cost of the compile: 900 calls, 1,900,000 response tokens" in page
    assert "| prompts | yes | 45.0% | 8,500 | – |" in page
    assert r"- stopped early \| at \<b\>round 3\</b\>" in page
    assert "- Threshold 0.42: a sub-problem rated above it" in page
    assert "- Split 0.1: the problem is rated first" in page
    assert "- Budget 5000:" in page
    for name, predictor in program.named_predictors():
        assert f"## {NAMES[name]}\n" in page
        assert f"\n{predictor.signature.instructions}\n" in page


def test_a_change_of_one_line_changes_one_line() -> None:
    program = tune(SCALE())
    before = export_markdown(program).splitlines()
    rate = program.assess.rate
    old = rate.signature.instructions
    rate.signature = rate.signature.with_instructions(old.replace("Weigh", "Consider"))
    after = export_markdown(program).splitlines()
    assert sum(one != other for one, other in zip(before, after, strict=True)) == 1


BAD_RECORDS: list[Any] = [
    {},
    {"model": None, "data": None, "before": [], "after": "x", "stages": {}, "notes": 3},
    {"model": 7, "data": {"train": 1}, "stages": [None, 4, {"kept": []}], "notes": [None, {}]},
    {
        "before": {"accuracy": "high", "accuracy_interval": [1]},
        "after": {"accuracy": True, "tok": float("nan"), "tok_interval": [None, 2]},
        "cost": {"calls": None},
        "optimizer": "",
    },
    "a text",
]


@pytest.mark.parametrize("record", [None, *BAD_RECORDS])
def test_a_record_may_lack_anything(record: Any) -> None:
    program = SCALE()
    program.record = record
    assert export_markdown(program).startswith("# A SCALE program\n")
    assert export_messages(program)["model"] is None
