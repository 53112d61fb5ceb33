"""Files whole or not at all, whoever else writes them; folders for one process at a time."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from scale_dspy.utils.files import append_lines, hold_folder, open_file, write_whole
from tests.command import backend, run
from tests.fake_vllm import FakeVLLM, fake_vllm
from tests.world import World, write_set

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


# Links that somebody planted


def plant(path: Path, victim: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(victim)


@pytest.mark.parametrize("dangling", [False, True])
def test_a_link_is_replaced_and_not_written_through(tmp_path: Path, dangling: bool) -> None:
    victim, path = tmp_path / "victim", tmp_path / "summary.json"
    if not dangling:
        victim.write_text("dear")
    plant(path, victim)
    with write_whole(path) as draft:
        draft.write_text("new")
    assert path.read_text() == "new"
    assert not path.is_symlink()
    assert (victim.read_text() if victim.exists() else "") == ("" if dangling else "dear")


@pytest.mark.parametrize("dangling", [False, True])
def test_nothing_is_appended_through_a_link(tmp_path: Path, dangling: bool) -> None:
    victim, path = tmp_path / "victim", tmp_path / "rollouts.jsonl"
    if not dangling:
        victim.write_text("dear")
    plant(path, victim)
    with pytest.raises(OSError, match=r"rollouts\.jsonl"), append_lines(path) as file:
        file.write("more")
    assert (victim.read_text() if victim.exists() else "") == ("" if dangling else "dear")


def test_a_lock_that_is_a_link_holds_nothing(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("dear")
    plant(tmp_path / "out" / ".lock", tmp_path / "victim")
    with pytest.raises(OSError, match=r"\.lock"), hold_folder(tmp_path / "out"):
        pass
    assert (tmp_path / "victim").read_text() == "dear"


WRITERS = {
    "evaluate set.jsonl --samples 1 --out out": (
        "run.json", "rollouts.jsonl", "summary.json", "draws.txt", ".lock", "process.json",
    ),
    "evaluate set.jsonl --samples 1 --out out --detach": ("log.txt",),
    "frontier set.jsonl --candidates 1 --out out": ("walks.jsonl", "frontier.json"),
    "compile set.jsonl --candidates 1 --optimizer none --out out/p.json": (
        "p.json", "p.compile/optimizer.log", "p.compile/costs.json", "p.compile/run.json",
    ),
    "traces set.jsonl --against none --samples 1 --out out/t.jsonl": ("t.jsonl", "t.card.md"),
}  # fmt: skip


@pytest.mark.parametrize(
    ("command", "name"), [(command, name) for command, names in WRITERS.items() for name in names]
)
def test_no_command_writes_through_a_link(
    server: FakeVLLM,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    command: str,
    name: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    write_set(Path("set.jsonl"), World().problems(2))
    for there in (True, False):
        victim = tmp_path / f"victim-{there}"
        if there:
            victim.write_text("dear\n")
        shutil.rmtree("out", ignore_errors=True)
        plant(Path("out") / name, victim)
        code, _, said = run(capsys, *command.split(), *backend(server))
        assert (victim.read_text() if victim.exists() else "") == ("dear\n" if there else "")
        assert code in (0, 1, 2)
        assert "Traceback" not in said


@pytest.mark.parametrize("command", ["evaluate", "frontier"])
def test_a_folder_that_is_deleted_midway_ends_the_run_at_once(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    command: str,
) -> None:
    """Else everything was asked, and then there were no problems."""
    monkeypatch.chdir(tmp_path)
    write_set(Path("set.jsonl"), World().problems(60))
    with fake_vllm(World(), delay=0.05) as slow:

        def delete() -> None:
            while len(slow.chats()) < 40:
                time.sleep(0.01)
            shutil.rmtree("out")

        thread = threading.Thread(target=delete)
        thread.start()
        flags = ["--samples", "1", "--threads", "2", "--out", "out", *backend(slow)]
        code, _, said = run(capsys, command, "set.jsonl", *flags)
        thread.join()
        asked = len(slow.chats())
    assert code == 1
    assert "was removed while it was written" in said.splitlines()[-1]
    assert asked < 200
