"""No key and no private address in any file, log line or traceback, whatever command is run.

All commands run in one process with a home, a folder for temporary files and caches of their own,
with a marked key and a server whose host has a marked name; then every byte that was written is
searched. To add a command, add a line to COMMANDS.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fake_vllm import Fault, spawn_fake_vllm
from tests.world import World

KEY = "sk-MARKED-0123456789abcdef"
HOST = "marked-host.test"
WORLD = World(parts=(1, 2))
COMMANDS = (
    "solve PROBLEM",
    "solve PROBLEM --method cot --json",
    "evaluate set.jsonl --samples 2 --out runs/scale",
    "evaluate set.jsonl --samples 1 --method majority --out runs/majority",
    "frontier set.jsonl --candidates 1 --out runs/frontier",
    "compile set.jsonl --candidates 1 --optimizer none --out none.json",
    "compile set.jsonl --candidates 1 --optimizer bootstrap --rollouts 4 --out bootstrap.json",
    "compile set.jsonl --candidates 1 --optimizer gepa --rollouts 4 --out gepa.json",
    "solve PROBLEM --program gepa.json",
    "export gepa.json --format markdown --out gepa.md",
    "export gepa.json --format messages --out gepa.messages.json",
    "report runs/scale runs/majority --out page.html",
    "doctor",
    "doctor --json",
)
SLOW_OR_OFFLINE = {"export", "report", "bootstrap", "gepa", "gepa.json"}

# Runs each command as `scale-dspy` does. Logs, and tracebacks that nobody caught, go to a file.
SCRIPT = """
import json, logging, os, shlex, socket, sys, time, traceback
host, problem, commands = json.load(sys.stdin)
find = socket.getaddrinfo
socket.getaddrinfo = lambda name, *rest, **more: find(
    "127.0.0.1" if name in (host, host.encode()) else name, *rest, **more
)
logging.basicConfig(filename="log.txt", level=logging.INFO)
logging.getLogger("scale_dspy").setLevel(logging.DEBUG)
from scale_dspy import cli
import dspy.clients.execution
dspy.clients.execution._delay = lambda error, attempt: 0
for command in commands:
    words = [problem if word == "PROBLEM" else word for word in shlex.split(command)]
    print("##", command, file=sys.stderr)
    begun = time.monotonic()
    try:
        print("##", cli.main(words), f"after {time.monotonic() - begun:.1f} s", file=sys.stderr)
    except BaseException:
        with open("tracebacks.txt", "a") as file:
            file.write(command + "\\n" + traceback.format_exc())
"""


def run_all(
    folder: Path, api_base: str, model: str, commands: tuple[str, ...]
) -> subprocess.CompletedProcess[str]:
    """Run commands in `folder`, which all their files are written below."""
    for name in ("home", "tmp", "cache"):
        (folder / name).mkdir()
    example, *examples = WORLD.problems(5)
    rows = [{"problem": each.problem, "answer": each.answer} for each in examples]
    (folder / "set.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    environment = {
        **{name: value for name, value in os.environ.items() if "PROXY" not in name.upper()},
        "HOME": str(folder / "home"),
        "XDG_CACHE_HOME": str(folder / "home" / "cache"),
        "TMPDIR": str(folder / "tmp"),
        "DSPY_CACHEDIR": str(folder / "cache"),
        "SCALE_CACHE_DIR": str(folder / "cache" / "scale"),
        "SCALE_API_BASE": api_base,
        "SCALE_API_KEY": KEY,
        "SCALE_MODEL": model,
        "PYTHONPATH": str(Path(__file__).parents[1]),
        "PYTHONDONTWRITEBYTECODE": "1",
        "MPLCONFIGDIR": str(folder / "home"),
    }
    return subprocess.run(
        [sys.executable, "-c", SCRIPT],
        input=json.dumps([HOST, example.problem, commands]),
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=200,
    )


def find_leaks(folder: Path, *secrets: str) -> list[tuple[str, str]]:
    """(file, secret) for every file below `folder` that holds one, in its name or its bytes."""
    leaks = []
    for path in sorted(each for each in folder.rglob("*") if each.is_file()):
        content = path.read_bytes() + str(path.relative_to(folder)).encode()
        leaks += [
            (str(path.relative_to(folder)), secret)
            for secret in secrets
            if secret.encode() in content or secret.encode("utf-16-le") in content
        ]
    return leaks


@pytest.mark.slow
def test_no_command_writes_the_key_or_the_address(tmp_path: Path) -> None:
    with spawn_fake_vllm(WORLD, api_key=KEY, other="Solve with care.") as server:
        api_base = f"http://{HOST}:{server.port}/v1"
        done = run_all(tmp_path, api_base, server.model, COMMANDS)
        assert len(server.log()) > 50
    assert done.stderr.count("## 0 after") == len(COMMANDS), done.stderr[-3000:]
    assert not (tmp_path / "tracebacks.txt").exists()
    assert find_leaks(tmp_path, "boxed"), "the search finds nothing at all"
    assert find_leaks(tmp_path / "cache", "boxed"), "the search does not look into the cache"
    assert find_leaks(tmp_path, KEY, HOST, f":{server.port}/v1", f"127.0.0.1:{server.port}") == []
    assert KEY not in done.stdout + done.stderr


@pytest.mark.slow
def test_a_server_that_echoes_the_key_has_it_written_nowhere(tmp_path: Path) -> None:
    said = f"bad request: Authorization: Bearer {KEY} to http://{HOST}/v1\nkey {KEY}"
    asking = tuple(each for each in COMMANDS if not set(each.split()) & SLOW_OR_OFFLINE)
    with spawn_fake_vllm(
        WORLD, api_key=KEY, faults=[Fault(first=2, status=400, message=said)]
    ) as server:
        done = run_all(tmp_path, f"http://{HOST}:{server.port}/v1", server.model, asking)
    assert (tmp_path / "runs/scale/rollouts.jsonl").read_text().count("[server]") >= 1
    assert find_leaks(tmp_path, KEY, HOST) == []
    assert KEY not in done.stdout + done.stderr
