"""Where `solve` takes its problem from, and what it says where there is none."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest

from tests.command import backend, run
from tests.fake_vllm import FakeVLLM
from tests.world import World

(EXAMPLE,) = World().problems(1)


def type_in(monkeypatch: pytest.MonkeyPatch, text: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text)))


def test_a_dash_reads_standard_input(
    server: FakeVLLM, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    type_in(monkeypatch, f"{EXAMPLE.problem}\n".encode())
    code, out, err = run(capsys, "solve", "-", *backend(server))
    assert (code, out) == (0, f"{EXAMPLE.answer}\n"), err


def test_a_file_holds_the_problem(
    server: FakeVLLM, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "p.txt").write_text(EXAMPLE.problem, encoding="utf-8")
    code, out, err = run(capsys, "solve", "--file", str(tmp_path / "p.txt"), *backend(server))
    assert (code, out) == (0, f"{EXAMPLE.answer}\n"), err


@pytest.mark.parametrize("problem", ["-3x+5=2, x=?", "-3", "-x^2=-4", "- 3 + 5"])
@pytest.mark.parametrize("last", [True, False])
def test_a_problem_may_begin_with_a_minus(
    server: FakeVLLM, capsys: pytest.CaptureFixture[str], problem: str, last: bool
) -> None:
    flags = [*backend(server), "--method", "cot"]
    run(capsys, "solve", *((*flags, problem) if last else (problem, *flags)))
    assert problem in str(server.chats()[0].body["messages"])


@pytest.mark.parametrize(
    ("arguments", "typed", "complaint"),
    [
        ([], b"", "give one problem"),
        (["-"], b" \n", "standard input holds no text"),
        (["-"], b"\xff\xfe", "cannot read a problem from standard input"),
        ([" "], b"", "the argument holds no text"),
        (["--file", "nowhere.txt"], b"", "cannot read a problem from nowhere.txt"),
        (["--file", "."], b"", "cannot read a problem from ."),
        (["1 + 1", "--file", "p.txt"], b"", "give one problem"),
        (["1 + 1", "-x"], b"", "unrecognized arguments: -x"),
        (["--treshold", "1"], b"", "unrecognized arguments: --treshold"),
        (["-3x", "-5"], b"", "unrecognized arguments: -3x"),
    ],
)
def test_what_is_no_problem_is_one_line_and_code_2(
    server: FakeVLLM,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    typed: bytes,
    complaint: str,
) -> None:
    type_in(monkeypatch, typed)
    code, out, err = run(capsys, "solve", *arguments, *backend(server))
    assert (code, out) == (2, "")
    assert complaint in err.splitlines()[-1]
    assert not server.requests
