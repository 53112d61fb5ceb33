"""A run as a log of Inspect, read back by Inspect's own reader."""

from __future__ import annotations

from pathlib import Path

import pytest

from scale_dspy.cli import main as cli
from scale_dspy.report import inspect_logs
from tests.test_report import change_rollouts, make_run

pytest.importorskip("inspect_ai")


def test_inspect_reads_what_the_report_writes(tmp_path: Path) -> None:
    from inspect_ai.log import read_eval_log

    folder = make_run(tmp_path / "run", "110100", text="so it is")
    assert cli.main(["report", str(folder), "--inspect", str(tmp_path / "logs")]) == 0
    assert not (tmp_path / "report.html").exists()
    (path,) = (tmp_path / "logs").iterdir()
    log = read_eval_log(str(path))
    assert (log.status, log.eval.task, log.eval.model) == ("success", "mine", "hosted_vllm/m")
    assert log.results is not None
    assert log.results.scores[0].metrics["accuracy"].value == 0.5
    assert log.samples is not None
    samples = sorted(log.samples, key=lambda each: (str(each.id), each.epoch))
    assert [each.scores["scale_dspy"].value for each in samples if each.scores] == list("CCICII")
    first = samples[0]
    assert (first.id, first.epoch, first.target) == ("p-0", 1, "4")
    assert [each.role for each in first.messages] == ["user", "user", "assistant", "assistant"]
    assert first.messages[-1].text == r"$\boxed{4}$ so it is"
    assert first.model_usage["hosted_vllm/m"].output_tokens == 100


def test_errors_and_hostile_names_are_data(tmp_path: Path) -> None:
    from inspect_ai.log import read_eval_log

    told = {"method": "../../evil\x1b[2J", "data": None, "model": None}
    folder = change_rollouts(
        make_run(tmp_path / "run", told=told), error="Timeout: late", answer=None
    )
    assert cli.main(["report", str(folder), "--inspect", str(tmp_path / "logs")]) == 0
    (path,) = (tmp_path / "logs").iterdir()
    log = read_eval_log(str(path))
    assert log.samples is not None
    assert {each.error.message for each in log.samples if each.error} == {"Timeout: late"}


def test_a_missing_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inspect_logs, "find_spec", lambda name: None)
    folder = make_run(tmp_path / "run")
    assert cli.main(["report", str(folder), "--inspect", str(tmp_path / "logs")]) == 1
