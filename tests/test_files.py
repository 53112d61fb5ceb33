"""Files whole or not at all, whoever else writes them; folders for one process at a time."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from scale_dspy.utils.files import hold_folder, open_file, write_whole
from tests.command import run

WRITE_OFTEN = """
import sys
from pathlib import Path
from scale_dspy.utils.files import write_whole
print("ready", flush=True)
sys.stdin.readline()
for _ in range(500):
    with write_whole(Path(sys.argv[1])) as draft:
        draft.write_text(sys.argv[2] * 10_000)
"""

TRY_TO_HOLD = """
import sys
from pathlib import Path
from scale_dspy.utils.files import hold_folder
with hold_folder(Path(sys.argv[1])):
    print("held")
"""


def test_a_file_is_whole_whichever_of_two_processes_wrote_it_last(tmp_path: Path) -> None:
    path = tmp_path / "summary.json"
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITE_OFTEN, path, letter],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        for letter in "ab"
    ]
    for writer in writers:
        assert writer.stdout
        writer.stdout.readline()
    for writer in writers:  # now both have imported, and write at once
        assert writer.stdin
        writer.stdin.close()
    assert [writer.wait(60) for writer in writers] == [0, 0]
    assert path.read_text() in ("a" * 10_000, "b" * 10_000)
    assert list(tmp_path.iterdir()) == [path]


def test_a_block_that_fails_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "program.json"
    path.write_text("{}")

    def write_half() -> None:
        with write_whole(path) as draft:
            draft.write_text("{")
            raise OSError("full")

    with pytest.raises(OSError, match="full"):
        write_half()
    assert path.read_text() == "{}"
    assert list(tmp_path.iterdir()) == [path]


def test_a_second_process_is_kept_out_of_a_folder_until_the_first_is_done(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "mini"
    command = [sys.executable, "-c", TRY_TO_HOLD, folder]
    with hold_folder(folder):
        refused = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert f"ValueError: {folder} is in use by another run" in refused.stderr
    assert subprocess.run(command, capture_output=True, text=True, timeout=60).stdout == "held\n"


@pytest.mark.parametrize("kind", ["a pipe", "a device", "a folder"])
def test_what_is_no_regular_file_is_one_line(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A pipe would be waited for, and some devices have no end."""
    for name in ("run.json", "rollouts.jsonl"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "run.json").write_text("{}")
        path = folder / name
        path.unlink(missing_ok=True)
        {
            "a pipe": lambda path: os.mkfifo(path),
            "a device": lambda path: path.symlink_to("/dev/zero"),
            "a folder": lambda path: path.mkdir(),
        }[kind](path)
        with pytest.raises(OSError, match=r"regular|directory"):
            open_file(path)
        for command in ("regrade", "report"):
            code, out, err = run(capsys, command, str(folder))
            assert (code, out) == (2, "")
            assert len(err.splitlines()) == 1, err
    with pytest.raises(FileNotFoundError):
        open_file(tmp_path / "nothing")
