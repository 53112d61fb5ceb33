"""The command line as a user meets it: output, exit codes, one clear line for what went wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from scale_dspy import SCALE
from scale_dspy.methods import METHODS
from tests.command import backend, run
from tests.fake_vllm import FakeVLLM, Fault, fake_vllm
from tests.world import World, write_set

pytestmark = pytest.mark.usefixtures("own_disk_cache")


def test_solve_prints_the_answer_alone_on_standard_output(
    server: FakeVLLM, capsys: pytest.CaptureFixture[str]
) -> None:
    (example,) = World().problems(1)
    code, out, err = run(capsys, "solve", example.problem, *backend(server))
    assert (code, out) == (0, f"{example.answer}\n")
    assert "the question itself" in err
    assert "System 2" in err


def test_solve_json_is_the_contract(server: FakeVLLM, capsys: pytest.CaptureFixture[str]) -> None:
    (example,) = World().problems(1)
    code, out, _ = run(capsys, "solve", example.problem, "--json", *backend(server))
    result = json.loads(out)
    assert code == 0
    assert set(result) == {"answer", "steps", "usage", "seconds", "model"}
    assert result["answer"] == example.answer
    assert set(result["steps"][0]) == {"subproblem", "difficulty", "system", "solution", "tokens"}
    assert result["usage"]["solve_2"]["reasoning_tokens"] > 0


def test_solve_takes_a_program_a_threshold_and_a_budget(
    server: FakeVLLM, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    SCALE(threshold=0.0, candidates=2).save(tmp_path / "tuned.json")
    (example,) = World().problems(1)
    program = ["--program", str(tmp_path / "tuned.json")]
    run(capsys, "solve", example.problem, *program, *backend(server))
    assert server.chats("decompose")[0].body["n"] == 2
    assert not server.chats("solve_1")
    server.clear()
    flags = ["--threshold", "1", "--budget", "2000"]
    run(capsys, "solve", example.problem, *program, *flags, *backend(server))
    assert not server.chats("solve_2")
    assert server.totals().completion_tokens <= 2000


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["solve", ""], "the problem is empty"),
        (["solve", "   "], "the problem is empty"),
        (["solve", "1+1", "--threshold", "7"], "a threshold is a number from 0 to 1, not 7.0"),
        (["solve", "1+1", "--threshold", "much"], "invalid float value: 'much'"),
        (["solve", "1+1", "--threshold", "nan"], "a threshold is a number from 0 to 1, not nan"),
        (["solve", "1+1", "--budget", "-5"], "a budget is a whole number"),
        (["solve", "1+1", "--program", "nowhere.json"], "cannot read a program from nowhere.json"),
        (["solve", "1+1", "--method", "guess"], "invalid choice: 'guess'"),
        (["solve", "1+1", "--method", "cot", "--threshold", "0.5"], "method cot has no threshold"),
        (["solve"], "give one problem"),
        (["paint"], "invalid choice: 'paint'"),
        ([], "COMMAND"),
    ],
)
def test_bad_usage_is_one_line_and_code_2(
    server: FakeVLLM, capsys: pytest.CaptureFixture[str], arguments: list[str], complaint: str
) -> None:
    backed = [*arguments, *backend(server)] if arguments[:1] == ["solve"] else arguments
    code, out, err = run(capsys, *backed)
    assert code == 2
    assert out == ""
    assert complaint in err
    assert "Traceback" not in err
    assert not server.requests


def test_unreachable_server(capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    monkeypatch.setattr("scale_dspy.lm.routing.FIRST_WAIT", 0)
    address = "http://127.0.0.1:9/v1"
    code, _, err = run(capsys, "solve", "1+1", "--model", "m", "--api-base", address)
    assert code == 1
    assert f"{address} cannot be reached" in err.splitlines()[-1]


def test_unreachable_server_without_a_model(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "solve", "1+1", "--api-base", "http://127.0.0.1:9/v1")
    assert code == 1
    assert "the server does not tell which models it serves" in err.splitlines()[-1]


def test_wrong_model(server: FakeVLLM, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "solve", "1+1", "--model", "other", "--api-base", server.api_base)
    assert code == 1
    assert "does not serve other" in err.splitlines()[-1]


def test_no_key_and_a_wrong_key(capsys: pytest.CaptureFixture[str]) -> None:
    with fake_vllm(api_key="right-key") as server:
        for key in ([], ["--api-key", "wrong-key"]):
            code, _, err = run(capsys, "solve", "1+1", *backend(server), *key)
            assert code == 1
            assert "refused the key" in err.splitlines()[-1]
            assert "wrong-key" not in err
        (example,) = World().problems(1)
        code, out, _ = run(
            capsys, "solve", example.problem, *backend(server), "--api-key", "right-key"
        )
        assert (code, out) == (0, f"{example.answer}\n")


def test_one_model_needs_no_name(server: FakeVLLM, capsys: pytest.CaptureFixture[str]) -> None:
    (example,) = World().problems(1)
    code, out, _ = run(capsys, "solve", example.problem, "--api-base", server.api_base)
    assert (code, out) == (0, f"{example.answer}\n")


def test_the_environment_names_the_backend_and_flags_win(
    server: FakeVLLM, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (example,) = World().problems(1)
    monkeypatch.setenv("SCALE_API_BASE", server.api_base)
    monkeypatch.setenv("SCALE_MODEL", "other")
    assert run(capsys, "solve", example.problem)[0] == 1
    assert run(capsys, "solve", example.problem, "--model", server.model)[0] == 0


def test_what_was_replaced_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    with fake_vllm(faults=[Fault(stage="assess", content="high")]) as server:
        (example,) = World().problems(1)
        _, _, err = run(capsys, "solve", example.problem, *backend(server))
        assert "unreadable reply 'high'" in err


@pytest.fixture
def two_problems(tmp_path: Path) -> str:
    return write_set(tmp_path / "two.jsonl", World().problems(2))


@pytest.mark.parametrize("method", METHODS)
def test_evaluate_every_method_then_report(
    server: FakeVLLM,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    two_problems: str,
    method: str,
) -> None:
    out = tmp_path / "out"
    flags = ["--method", method, "--samples", "2", "--out", str(out), "--json"]
    code, printed, err = run(capsys, "evaluate", two_problems, *flags, *backend(server))
    summary = json.loads(printed)
    assert code == 0
    assert (summary["problems"], summary["samples"]) == (2, 2)
    assert summary == json.loads((out / "summary.json").read_text())
    assert "95 % interval" in err
    told = (out / "run.json").read_text()
    assert server.api_base not in told
    assert json.loads(told)["method"] == method
    sent = len(server.requests)
    assert run(capsys, "evaluate", two_problems, *flags, *backend(server))[0] == 0
    assert len(server.requests) == sent


def test_report_of_a_run(
    server: FakeVLLM, capsys: pytest.CaptureFixture[str], tmp_path: Path, two_problems: str
) -> None:
    out, page = tmp_path / "out", tmp_path / "page.html"
    flags = ["--samples", "1", "--out", str(out)]
    run(capsys, "evaluate", two_problems, *flags, *backend(server))
    code, printed, _ = run(capsys, "report", str(out), "--out", str(page))
    assert code == 0
    assert "scale" in printed
    assert page.read_text().startswith("<!DOCTYPE html>")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["evaluate", "nowhere.jsonl"], "cannot be read"),
        (["evaluate", "nothing"], "no set is called 'nothing'"),
        (["evaluate", "mini", "--samples", "0"], "--samples is a whole number from 1, not 0"),
        (["evaluate", "mini", "--limit", "0"], "--limit is a whole number from 1, not 0"),
        (["evaluate", "mini", "--threads", "0"], "--threads is a whole number from 1, not 0"),
        (["report", "nowhere"], "run.json is missing"),
    ],
)
def test_bad_evaluations_are_one_line_and_code_2(
    server: FakeVLLM, capsys: pytest.CaptureFixture[str], arguments: list[str], complaint: str
) -> None:
    backed = [*arguments, *backend(server)] if arguments[0] == "evaluate" else arguments
    code, out, err = run(capsys, *backed)
    assert (code, out) == (2, "")
    assert complaint in err.splitlines()[-1]
    assert not server.requests


def test_frontier_compile_export_and_use(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    world = World(3, parts=(1, 3))
    write_set(Path("set.jsonl"), world.problems(6))
    with fake_vllm(world) as server:
        there = [*backend(server), "--candidates", "1", "--threads", "4"]
        code, out, err = run(capsys, "frontier", "set.jsonl", *there, "--budget", "600", "--json")
        found = json.loads(out)
        assert code == 0, err
        assert set(found["choices"]) == {"most_accurate", "cheapest", "within_budget"}
        assert json.loads(Path("runs/set-frontier/frontier.json").read_text()) == found
        assert "most accurate" in err
        code, out, err = run(
            capsys, "compile", "set.jsonl", "--optimizer", "bootstrap", "--out", "p.json", *there
        )
        assert (code, out) == (0, ""), err
        assert "chosen" in err
        code, out, err = run(
            capsys,
            "compile",
            "set.jsonl",
            "--optimizer",
            "none",
            "--out",
            "q.json",
            *there,
            "--cost-limit",
            "9",
            "--seed",
            "5",
        )
        assert (code, out) == (1, "")
        assert "the cost limit has no room" in err
        (example,) = world.problems(1, 70)
        solved = run(capsys, "solve", example.problem, "--program", "p.json", *backend(server))
        assert solved[:2] == (0, f"{example.answer}\n")
        for kind, path in (("markdown", "p.md"), ("messages", "p.messages.json")):
            code, _, err = run(capsys, "export", "p.json", "--format", kind, "--out", path)
            assert code == 0, err
        assert "threshold" in Path("p.md").read_text().lower()
        assert json.loads(Path("p.messages.json").read_text())["format"].startswith("scale_dspy/")


@pytest.mark.parametrize(
    ("arguments", "again", "said"),
    [
        (["evaluate", "--samples", "1"], ["--retry-errors"], "1 failed and count as wrong"),
        (["frontier"], ["--retry-errors"], "1 failed and count as wrong"),
        (["traces", "--against", "none"], ["--retry-errors"], "1 failed and count as wrong"),
        (["compile", "--optimizer", "none"], [], "1 of 3 walks failed, too many to choose by"),
    ],
)
def test_what_ran_with_failures_ends_with_1_and_again_with_0(
    arguments: list[str],
    again: list[str],
    said: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    world = World(3, parts=(1, 2))
    write_set(Path("set.jsonl"), world.problems(6))
    name, *rest = arguments
    out = {"compile": "out.json", "traces": "out.jsonl"}.get(name, "out")
    with fake_vllm(world) as server:
        server.play(Fault(stage="decompose", nth=1, status=400))
        command = [name, "set.jsonl", *rest, "--out", out, "--threads", "2", *backend(server)]
        code, _, err = run(capsys, *command)
        assert code == 1
        assert said in " ".join(err.split())
        server.play()
        code, _, err = run(capsys, *command, *again)
        assert code == 0, err


def test_a_cache_that_cannot_be_written_is_one_line(
    server: FakeVLLM,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("scale_dspy.lm.cache._chosen", [])
    monkeypatch.setenv("SCALE_CACHE", "/proc/scale-dspy-cache")
    monkeypatch.chdir(tmp_path)
    for name, *rest in (
        ("evaluate", "mini", "--out", "run"),
        ("frontier", "mini", "--out", "run"),
        ("traces", "mini", "--against", "none", "--out", "t.jsonl"),
        ("compile", "mini", "--optimizer", "none", "--out", "p.json"),
    ):
        code, out, err = run(capsys, name, *rest, *backend(server))
        assert (code, out) == (1, ""), name
        assert "cannot be used" in err.splitlines()[-1]
    assert not server.chats()
    code, out, err = run(capsys, "solve", World().problem(0).text, *backend(server))
    assert (code, out) == (0, f"{World().problem(0).answer}\n"), err  # it has nothing to resume
    assert caplog.text.count("no reply is cached") == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["compile", "mini", "--optimizer", "magic", "--out", "x.json"], "unknown optimizer"),
        (["compile", "mini", "--optimizer", "none", "--out", "x.txt"], ".json"),
        (["compile", "mini", "--optimizer", "none", "--out", "no/x.json"], "exists"),
        (["compile", "mini", "--optimizer", "none", "--out", "x.json", "--rollouts", "0"], "not 0"),
        (["frontier", "mini", "--margin", "2"], "margin"),
        (["frontier", "mini", "--budget", "-5"], "budget"),
        (["frontier", "mini", "--candidates", "8,x"], "whole number"),
        (["frontier", "mini", "--candidates", "8,1"], "one number"),
        (["frontier", "nothing.jsonl"], "nothing.jsonl"),
        (["export", "nothing.json", "--format", "markdown", "--out", "y.md"], "nothing.json"),
    ],
)
def test_bad_tuning_is_one_line_and_code_2(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    code, out, err = run(capsys, *arguments)
    assert (code, out) == (2, "")
    assert said in err
    assert "Traceback" not in err


def test_doctor_of_a_good_server(capsys: pytest.CaptureFixture[str]) -> None:
    with fake_vllm(cached_tokens=True) as server:
        code, out, _ = run(capsys, "doctor", "--api-base", server.api_base)
    assert code == 0
    for name in ("reachable", "model", "context", "thinking", "reasoning field", "seed", "usage"):
        assert any(line.startswith("yes") and name in line for line in out.splitlines()), name
    assert "no  " not in out


def test_doctor_json(server: FakeVLLM, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "doctor", "--json", "--api-base", server.api_base)
    report = json.loads(out)
    assert code == 0
    assert {finding["name"] for finding in report["findings"]} >= {"reachable", "n", "thinking"}


def test_doctor_of_no_server(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "doctor", "--api-base", "http://127.0.0.1:9/v1")
    assert code == 1
    assert "start the server" in out


def test_doctor_of_nothing_to_ask(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "doctor", "--model", "openai/gpt-4o")
    assert (code, out) == (2, "")
    assert "there is no server to ask" in err


def test_a_program_is_measured_with_the_timing_that_is_asked_for(
    server: FakeVLLM, capsys: pytest.CaptureFixture[str], tmp_path: Path, two_problems: str
) -> None:
    SCALE(candidates=1, assess="upfront").save(tmp_path / "p.json")
    program = ["--program", str(tmp_path / "p.json")]
    for flags, timing in (([], "upfront"), (["--assess", "in_context"], "in_context")):
        out = ["--out", str(tmp_path / timing)]
        code, _, err = run(
            capsys, "frontier", two_problems, *program, *flags, *out, *backend(server)
        )
        assert code == 0, err
        told = json.loads((tmp_path / timing / "run.json").read_text())
        assert told["options"]["assess"] == timing


def test_neither_key_is_shown(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(arguments: Any) -> int:
        raise RuntimeError("the server said first-secret and second-secret")

    monkeypatch.setattr("scale_dspy.cli.commands.solve.run", fail)
    monkeypatch.setenv("SCALE_SYSTEM_1_API_KEY", "second-secret")
    code, _, err = run(capsys, "solve", "1+1", "--api-key", "first-secret")
    assert (code, err) == (1, "scale-dspy: the server said [key] and [key]\n")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_knows_every_command(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "completion", shell)
    assert code == 0
    for word in ("solve", "evaluate", "frontier", "compile", "export", "report", "doctor"):
        assert word in out
    assert "cost-limit" in out


def test_python_m_is_the_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "scale_dspy", "--version"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("scale-dspy ")


ABSURD = ("9" * 20, "-" + "9" * 20, "9" * 400, "9" * 5000, "1e400", "nan")
# Counts, budgets and seeds of every command that asks a model.
NUMBERS = {
    "solve": "budget candidates threads seed timeout threshold split",
    "evaluate": "samples limit budget candidates threads seed timeout threshold split",
    "frontier": "samples limit budget margin candidates probes votes caps threads seed timeout",
    "compile": "samples limit rollouts cost-limit budget margin candidates probes votes caps seed",
    "traces": "samples limit threads seed timeout",
    "serve": "port threads waiting seed timeout",
    "doctor": "threads seed",
}


@pytest.mark.parametrize(
    ("command", "flag"), [(name, flag) for name, flags in NUMBERS.items() for flag in flags.split()]
)
def test_absurd_digits_are_refused_before_anything_is_asked(
    server: FakeVLLM,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: str,
    flag: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    write_set(Path("set.jsonl"), World().problems(2))
    start = {
        "solve": ["What is 1 + 1?"],
        "compile": ["set.jsonl", "--optimizer", "none", "--out", "p.json"],
        "traces": ["set.jsonl", "--against", "none", "--out", "t.jsonl"],
        "serve": [],
        "doctor": [],
    }.get(command, ["set.jsonl", "--out", "out"])
    for value in ABSURD[1:] if flag == "timeout" else ABSURD:  # 10^20 seconds are long, no more
        code, _, said = run(capsys, command, *start, *backend(server)[:-2], f"--{flag}={value}")
        assert code == 2, (value, said)
        word = "threshold" if flag == "split" else flag.replace("-", " ")  # a split is one too
        assert word in said.replace("-", " "), (value, said)
        assert "Traceback" not in said
    assert not server.chats()
