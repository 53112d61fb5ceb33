"""MLflow's autolog over SCALE: a trace of every stage, with the ledger's tokens."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import dspy
import pytest

from scale_dspy import SCALE
from scale_dspy.lm.connect import MeteredLM
from tests.world import World


@pytest.fixture
def _autolog(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow = pytest.importorskip("mlflow", reason="needs mlflow-skinny, of the extra dev")
    mlflow.set_tracking_uri((tmp_path / "runs").as_uri())
    mlflow.dspy.autolog()
    yield
    mlflow.dspy.autolog(disable=True)


@pytest.mark.usefixtures("_autolog")
def test_a_trace_holds_every_stage_and_the_ledger_s_tokens(lm: MeteredLM) -> None:
    import mlflow

    (example,) = World().problems(1)
    with dspy.context(lm=lm, track_usage=True):
        prediction = SCALE(candidates=2)(problem=example.problem)
    trace = mlflow.get_trace(mlflow.get_last_active_trace_id(), flush=True)
    assert trace is not None
    usage = prediction.usage.values()
    spans = trace.data.spans
    asked = [span for span in spans if span.span_type == "CHAT_MODEL"]
    assert len(asked) == sum(tally["calls"] for tally in usage)
    assert (trace.info.token_usage or {}) == {
        "input_tokens": sum(tally["prompt_tokens"] for tally in usage),
        "output_tokens": sum(tally["completion_tokens"] for tally in usage),
        "total_tokens": sum(tally["prompt_tokens"] + tally["completion_tokens"] for tally in usage),
    }
    (whole,) = (span for span in spans if span.parent_id is None)
    assert whole.name == "SCALE.forward"
    assert {"Decompose.forward", "Assess.forward", "Solve.forward"} <= {each.name for each in spans}
