"""The table of a paper: rows by method, columns by set, and nothing of a run that is markup."""

from __future__ import annotations

from pathlib import Path

import pytest

from scale_dspy.cli import main as cli
from scale_dspy.report.report import read_report
from scale_dspy.report.tables import write_table
from tests.command import run
from tests.test_report import make_run


def test_markdown_has_a_row_a_run_and_the_best_in_bold(tmp_path: Path) -> None:
    folders = [
        make_run(tmp_path / "a", "1111", told={"method": "cot", "threshold": None}),
        make_run(tmp_path / "b", "1100"),
    ]
    lines = write_table(read_report(folders).runs, "markdown").splitlines()
    assert lines[0] == "|  | Acc (%) | Tok | Tpi | hard (%) |"
    assert lines[2].startswith("| cot | **100.0** [")
    assert lines[3].startswith("| scale τ=0.5 | 50.0 [")
    assert len(lines) == 4


def test_runs_of_one_method_on_two_sets_share_a_row(tmp_path: Path) -> None:
    folders = [
        make_run(tmp_path / name, told={"data": name, "digest": name}) for name in ("s1", "s_2")
    ]
    text = write_table(read_report(folders).runs, "latex")
    assert r"\multicolumn{4}{c}{s1} & \multicolumn{4}{c}{s\_2} \\" in text
    rows = [line for line in text.splitlines() if line.startswith("scale")]
    assert len(rows) == 1
    assert rows[0].count("&") == 8
    assert rows[0].startswith(r"scale $\tau$=0.5 & \textbf{75.0} [")


def test_names_are_no_commands(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "a", told={"method": r"\input{x}|&%", "threshold": None})
    runs = read_report([folder]).runs
    assert r"\textbackslash{}input\{x\}|\&\%" in write_table(runs, "latex")
    assert r"\\input{x}\|\&%" in write_table(runs, "markdown")


def test_the_command_prints_the_table_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = make_run(tmp_path / "a")
    code, shown, _ = run(capsys, "report", str(folder), "--table", "latex")
    assert code == 0
    assert shown.startswith(r"\begin{tabular}")
    assert shown.endswith("\\end{tabular}\n")
    assert not list(tmp_path.glob("*.html"))
    assert cli.main(["report", str(folder), "--table", "markdown", "--out", "page.html"]) == 0
    assert (tmp_path / "page.html").exists()
