"""A run as a log of Inspect, read back by Inspect's own reader."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import pytest

from scale_dspy.cli import main as cli
from scale_dspy.report import inspect_logs
from tests.command import backend, run
from tests.fake_vllm import fake_vllm
from tests.test_report import change_rollouts, make_run
from tests.world import World, write_set

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
    assert log.stats.model_usage["hosted_vllm/m"].output_tokens == 600


def test_inspect_reads_what_a_run_cost(
    tmp_path: Path, own_disk_cache: None, capsys: pytest.CaptureFixture[str]
) -> None:
    from inspect_ai.log import read_eval_log

    world, folder = World(), tmp_path / "run"
    write_set(tmp_path / "set.jsonl", world.problems(2))
    with fake_vllm(world, cached_tokens=True, delay=0.3) as server:
        flags = ("--out", str(folder), "--samples", "2", "--threshold", "0.25", "--threads", "1")
        code, _, err = run(
            capsys, "evaluate", str(tmp_path / "set.jsonl"), *flags, *backend(server)
        )
        assert code == 0, err
        totals = server.totals()
    assert cli.main(["report", str(folder), "--inspect", str(tmp_path / "logs")]) == 0
    (path,) = (tmp_path / "logs").iterdir()
    assert path.name == "1-scale-tau=0.25.eval"
    log = read_eval_log(str(path))
    (usage,) = log.stats.model_usage.values()
    assert usage.input_tokens_cache_read
    assert usage.input_tokens + usage.input_tokens_cache_read == totals.prompt_tokens
    assert usage.output_tokens == totals.completion_tokens
    took = datetime.fromisoformat(log.stats.completed_at) - datetime.fromisoformat(
        log.stats.started_at
    )
    assert took.total_seconds() >= 1
    assert log.samples is not None
    assert sum(each.model_usage[each.output.model].output_tokens for each in log.samples) == (
        totals.completion_tokens
    )


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
