"""Runs as files: what a TOML file or a run.json says is what its flags would have said."""

from __future__ import annotations

import json
from pathlib import Path

import litellm
import pytest

from tests.command import backend, run
from tests.fake_vllm import FakeVLLM
from tests.world import World, write_set

pytestmark = pytest.mark.usefixtures("own_disk_cache")


@pytest.fixture
def problems(tmp_path: Path) -> Path:
    path = tmp_path / "problems.jsonl"
    write_set(path, World().problems(3))
    return path


def test_a_toml_file_runs_and_flags_win(
    server: FakeVLLM, problems: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(
        f'data = "{problems}"\nmethod = "cot"\nsamples = 2\nlimit = 3\nout = "{tmp_path / "out"}"\n'
    )
    code, _, err = run(capsys, "evaluate", str(file), "--limit", "2", *backend(server))
    assert code == 0, err
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert (summary["problems"], summary["samples"]) == (2, 2)


def test_run_json_repeats_its_run(
    server: FakeVLLM, problems: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    flags = ("--method", "majority", "--samples", "2", "--seed", "5", "--budget", "4000")
    code, _, err = run(
        capsys, "evaluate", str(problems), *flags, "--out", str(first), *backend(server)
    )
    assert code == 0, err
    described = json.loads((first / "run.json").read_text())
    settings = described["settings"]
    assert settings["method"] == "majority"
    assert "api-base" not in settings
    assert server.api_base not in (first / "run.json").read_text()
    code, _, err = run(
        capsys, "evaluate", str(first / "run.json"), "--out", str(second), *backend(server)
    )
    assert code == 0, err
    again = json.loads((second / "run.json").read_text())
    assert {**again, "settings": settings} == described
    assert again["settings"] == settings


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('data = "mini"\nsampels = 2\n', "unknown key 'sampels'; known are "),
        ('data = "mini"\nsamples = "many"\n', "invalid int value: 'many'"),
        ('data = "mini"\nsamples = {a = 1}\n', "samples is a text, a number or a list of these"),
        ('data = "mini"\nretry-errors = 1\n', "retry-errors is true or false, not 1"),
        ('data = "mini"\napi-key = "k"\n', "a key does not belong in a file"),
        ('command = "compile"\ndata = "mini"\n', "is a run of `compile`, not of `evaluate`"),
        ("data = \n", "cannot be read"),
    ],
)
def test_a_bad_file_is_refused_in_one_line(
    text: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "bad.toml"
    file.write_text(text)
    code, out, err = run(capsys, "evaluate", str(file))
    assert (code, out) == (2, "")
    assert said in err


def test_a_file_that_is_a_flags_value_is_not_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "program.toml"
    file.write_text("x = 1\n")
    code, _, err = run(capsys, "evaluate", "--program", str(file), "mini")
    assert code == 2
    assert "cannot read a program" in err


def test_a_run_json_of_an_earlier_version_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run.json").write_text('{"method": "cot"}')
    code, _, err = run(capsys, "evaluate", str(tmp_path / "run.json"))
    assert code == 2
    assert "it was written by an earlier version" in err


LONG = {
    "frontier": ("--candidates", "2", "--samples", "2", "--seed", "5", "--caps", "400"),
    "traces": ("--against", "none", "--method", "cot", "--samples", "2", "--budget", "4000"),
    "compile": ("--optimizer", "none", "--candidates", "1,2", "--margin", "0.1"),
}
OUT = {"frontier": "", "traces": ".jsonl", "compile": ".json"}
FOLDER = {"frontier": "", "traces": ".jsonl.run", "compile": ".compile"}
PLACE = {"frontier": "run.json", "traces": "run.json", "compile": "compile.json"}


@pytest.mark.parametrize("command", LONG)
def test_every_long_command_is_forecast_and_repeated_from_its_file(
    command: str,
    server: FakeVLLM,
    problems: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    one, two = tmp_path / f"one{OUT[command]}", tmp_path / f"two{OUT[command]}"
    folder = tmp_path / f"one{FOLDER[command]}"
    flags = (command, str(problems), *LONG[command], "--out", str(one), *backend(server))
    code, text, err = run(capsys, *flags, "--price", "1,2", "--dry-run", "--json")
    assert code == 0, err
    planned = json.loads(text)
    assert not server.requests
    assert not folder.exists()
    assert (planned["done"], planned["tokens"], planned["dollars"]) == (0, None, None)
    code, _, err = run(capsys, *flags)
    assert code == 0, err
    least, most = planned["requests"]
    assert least <= len(server.chats()) <= most
    code, text, _ = run(capsys, *flags, "--price", "1,2", "--dry-run", "--json")
    after = json.loads(text)
    assert code == 0
    assert after["requests"] == [0, 0]
    assert after["tokens"] == after["dollars"] == 0
    told = folder / PLACE[command]
    described = json.loads(told.read_text())
    assert server.api_base not in told.read_text()
    code, _, err = run(capsys, command, str(told), "--out", str(two), *backend(server))
    assert code == 0, err
    again = json.loads((tmp_path / f"two{FOLDER[command]}" / PLACE[command]).read_text())
    assert again == described


def test_a_forecast_by_another_run_tells_dollars(
    server: FakeVLLM, problems: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    like = ("--method", "cot", "--samples", "2", "--out", str(tmp_path / "like"))
    assert run(capsys, "evaluate", str(problems), *like, *backend(server))[0] == 0
    flags = (
        *("--method", "cot", "--samples", "8", "--out", str(tmp_path / "new"), "--price", "1,2"),
        *("--dry-run", "--like", str(tmp_path / "like")),
    )
    code, text, err = run(capsys, "evaluate", str(problems), *flags, "--json", *backend(server))
    assert code == 0, err
    planned, totals = json.loads(text), server.totals()
    assert planned["tokens"] == 4 * totals.completion_tokens
    paid = (totals.prompt_tokens + 2 * totals.completion_tokens) / 1e6
    assert planned["dollars"] == pytest.approx(4 * paid)


def test_a_forecast_for_a_hosted_model_takes_its_price_from_litellm(
    server: FakeVLLM,
    problems: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.delenv("SCALE_API_BASE", raising=False)
    like = ("--method", "cot", "--samples", "1", "--out", str(tmp_path / "like"))
    assert run(capsys, "evaluate", str(problems), *like, *backend(server))[0] == 0
    totals = server.totals()
    flags = ("--out", str(tmp_path / "new"), "--like", str(tmp_path / "like"), "--samples", "1")
    hosted = ("--model", "openai/gpt-4o-mini", "--modes", "prompt", "--dry-run", "--json")
    code, text, err = run(capsys, "evaluate", str(problems), *flags, *hosted)
    assert code == 0, err
    told = litellm.cost_per_token(
        "openai/gpt-4o-mini",
        prompt_tokens=totals.prompt_tokens,
        completion_tokens=totals.completion_tokens,
    )
    assert json.loads(text)["dollars"] == pytest.approx(sum(told))


def test_a_dry_run_asks_nothing_and_says_what_would_be_asked(
    server: FakeVLLM, problems: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    flags = (str(problems), "--method", "cot", "--samples", "4", "--out", str(out))
    code, text, err = run(capsys, "evaluate", *flags, "--dry-run", "--json", *backend(server))
    assert code == 0, err
    assert json.loads(text) == {
        "problems": 3, "samples": 4, "done": 0, "missing": 12, "requests": [12, 24],
        "tokens": None, "measured": 0, "dollars": None,
    }  # fmt: skip
    assert not server.requests
    assert not out.exists()
    assert run(capsys, "evaluate", *flags, "--limit", "2", *backend(server))[0] == 0
    asked = len(server.requests)
    code, text, _ = run(capsys, "evaluate", *flags, "--dry-run", "--json", *backend(server))
    planned = json.loads(text)
    assert (planned["done"], planned["missing"], planned["measured"]) == (8, 4, 8)
    summary = json.loads((out / "summary.json").read_text())
    assert planned["tokens"] == pytest.approx(4 * summary["tok"])
    assert len(server.requests) == asked
