"""Threshold as a parameter of a DSPy program."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest

from scale_dspy import SCALE, Threshold, connect
from scale_dspy.program import load_program


@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan"), "0.5", None, True])
def test_values_outside_the_range_are_refused(value: object) -> None:
    with pytest.raises(ValueError, match="a threshold is a number from 0 to 1"):
        Threshold(value)  # type: ignore[arg-type]


def test_program_knows_its_thresholds_as_parameters() -> None:
    names = [name for name, _ in SCALE().named_parameters()]
    assert names == [
        "decompose.propose",
        "decompose.select",
        "assess.rate",
        "assess.review",
        "solve.system_1",
        "solve.system_2",
        "solve.whole",
        "threshold",
        "split",
        "stop",
        "estimate",
        "pass_estimate",
    ]


def test_copies_keep_a_changed_threshold() -> None:
    program = SCALE()
    program.threshold.set(0.3)
    for copied in (copy.deepcopy(program), program.deepcopy(), program.reset_copy()):
        assert copied.threshold.value == 0.3
        assert copied.threshold is not program.threshold
        assert copied.solve.system_2.config == program.solve.system_2.config


def test_file_keeps_threshold_and_options_and_no_secret(tmp_path: Path) -> None:
    program = SCALE(candidates=3, assess="upfront", final_difficulty=None, budget=5000)
    program.threshold.set(0.3)
    program.split.set(0.2)
    program.save(tmp_path / "program.json")
    loaded = load_program(tmp_path / "program.json")
    assert (loaded.threshold.value, loaded.split.value) == (0.3, 0.2)
    assert loaded.options == program.options
    assert loaded.dump_state() == program.dump_state()
    text = (tmp_path / "program.json").read_text()
    assert "http" not in text
    assert "api" not in text


def test_file_holds_no_address_of_an_lm_that_was_set(tmp_path: Path) -> None:
    program = SCALE()
    program.set_lm(connect("m", "http://private.example/v1", "secret-key"))
    program.save(tmp_path / "program.json")
    text = (tmp_path / "program.json").read_text()
    assert "private.example" not in text
    assert "secret-key" not in text


def test_a_file_does_not_choose_the_server(tmp_path: Path) -> None:
    SCALE().save(tmp_path / "program.json")
    state = json.loads((tmp_path / "program.json").read_text())
    state["assess.rate"]["lm"] = {"model": "openai/other", "api_base": "http://other.example"}
    (tmp_path / "program.json").write_text(json.dumps(state))
    assert load_program(tmp_path / "program.json").assess.rate.lm is None


def test_dspy_loads_the_file_into_a_program_of_the_same_kind(tmp_path: Path) -> None:
    program = SCALE(threshold=0.3)
    program.save(tmp_path / "program.json")
    other = SCALE()
    other.load(tmp_path / "program.json")
    assert other.threshold.value == 0.3


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "cannot read a program"),
        ('{"threshold": ', "cannot read a program"),
        ("[" * 100_000, "cannot read a program"),
        ("[]", "holds no SCALE program"),
        ('{"predict": {}}', "holds no SCALE program"),
        ('{"scale_dspy": {"options": {}}}', "does not fit"),
        ('{"scale_dspy": {"options": {"wings": 2}}}', "does not fit"),
        ('{"scale_dspy": {"options": {"candidates": 0}}}', "does not fit"),
    ],
)
def test_files_of_another_kind_are_refused(tmp_path: Path, text: str, complaint: str) -> None:
    path = tmp_path / "program.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=complaint):
        load_program(path)


def test_a_file_whose_threshold_is_out_of_range_is_refused(tmp_path: Path) -> None:
    program = SCALE()
    program.save(tmp_path / "program.json")
    state = json.loads((tmp_path / "program.json").read_text())
    state["threshold"]["value"] = 7
    (tmp_path / "program.json").write_text(json.dumps(state))
    with pytest.raises(ValueError, match="a threshold is a number from 0 to 1, not 7"):
        load_program(tmp_path / "program.json")
