"""Commands in odd surroundings: full disks, odd terminals, addresses as people paste them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from scale_dspy.cli.main import main
from scale_dspy.data.load import load
from scale_dspy.lm.client import describe_status, find_proxy, prepare_address
from tests.command import backend, run
from tests.fake_vllm import FakeVLLM
from tests.world import World, write_set

PROBLEM = World().problem(0)


def start(server: FakeVLLM, *flags: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "scale_dspy", "solve", PROBLEM.text, *backend(server), *flags],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "environment",
    [
        {"NO_COLOR": "1", "FORCE_COLOR": "1"},
        {"TERM": "dumb", "COLUMNS": "10"},
        {"COLUMNS": "0"},
        {"COLUMNS": "wide"},
        {"LC_ALL": "C", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"},
        {"HOME": "/nonexistent", "SCALE_CACHE": "", "XDG_CACHE_HOME": "/proc/x"},
        {"SCALE_API_KEY": "abc\n"},
    ],
    ids=lambda environment: " ".join(environment),
)
def test_the_answer_stands_alone_in_any_shell(
    server: FakeVLLM, environment: dict[str, str]
) -> None:
    done = start(server, **environment)
    assert (done.returncode, done.stdout) == (0, f"{PROBLEM.answer}\n"), done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_full_disk_under_standard_output_is_one_line(server: FakeVLLM) -> None:
    command = [sys.executable, "-m", "scale_dspy", "solve", PROBLEM.text, "--json"]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [*command, *backend(server)],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "scale-dspy: no space left on device"
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("out", "code", "said"),
    [
        ("set.jsonl", 2, "there is a file of that name"),
        ("set.jsonl/run", 2, "there is a file of that name"),
        ("/dev/null", 2, "there is a file of that name"),
        ("/proc/nope/run", 1, "no such file or directory: /proc/nope"),
        ("y" * 300, 1, "file name too long"),
    ],
)
def test_a_folder_that_cannot_be_is_one_line(
    out: str,
    code: int,
    said: str,
    server: FakeVLLM,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    write_set(tmp_path / "set.jsonl", World().problems(1))
    ended, _, err = run(
        capsys, "evaluate", "set.jsonl", "--method", "cot", "--out", out, *backend(server)
    )
    (line,) = err.splitlines()
    assert (ended, said in line) == (code, True), err
    assert "Errno" not in line
    assert not server.chats()


@pytest.mark.parametrize(
    "address",
    [
        "localhost:8000/v1",
        "file:///etc/passwd",
        '"http://localhost:8000/v1"',
        "http://:8000/v1",
        "http://localhost:99999/v1",
        "http://localhost:port/v1",
        "http://localhost:0/v1",
        "ws://localhost/v1",
    ],
)
def test_what_is_no_address_is_said_before_it_is_asked(
    address: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ValueError, match="an api_base is an address such as"):
        prepare_address(address, None)
    assert main(["solve", "1 + 1", "--model", "m", "--api-base", address]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize(
    ("environment", "code", "said"),
    [
        ({"http_proxy": "not a url"}, 2, "http_proxy is no address such as http://host:port"),
        ({"http_proxy": "http://127.0.0.1:9"}, 1, "through the proxy that the environment names"),
        ({"SCALE_API_KEY": "schl\u00fcssel"}, 2, "an API key is printable ASCII in one line"),
        ({"SCALE_API_KEY": "a\nb"}, 2, "an API key is printable ASCII in one line"),
    ],
)
def test_what_is_wrong_with_the_environment_is_said(
    environment: dict[str, str],
    code: int,
    said: str,
    server: FakeVLLM,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, value in {"NO_PROXY": "", "no_proxy": "", **environment}.items():
        monkeypatch.setenv(name, value)
    find_proxy.cache_clear()
    try:
        ended, _, err = run(capsys, "solve", PROBLEM.text, *backend(server))
    finally:
        find_proxy.cache_clear()
    assert (ended, said in err) == (code, True), err
    assert "Traceback" not in err


def test_an_address_with_the_whole_path_is_told_what_it_should_be() -> None:
    for address, advice in (
        ("http://h/v1/chat/completions", "the api_base is what comes before that"),
        ("http://h", "an api_base usually ends in /v1"),
    ):
        assert advice in str(describe_status(404, "not found", {}, address))


def test_a_list_of_answers_is_told_where_it_belongs(tmp_path: Path) -> None:
    path = tmp_path / "set.jsonl"
    path.write_text(json.dumps({"id": "a", "problem": "p", "answer": ["7", "8"]}))
    with pytest.raises(ValueError, match="go into 'accepted_answers'"):
        load(str(path))
