"""No key and no private address in any file, log line or traceback, whatever command is run.

All commands run in one process with a home, a folder for temporary files and caches of their own,
with a marked key and a server whose host has a marked name; then every byte that was written is
searched. To add a command, add a line to COMMANDS.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.canary import run_canary
from tests.command import run
from tests.fake_vllm import Fault, fake_vllm, spawn_fake_vllm
from tests.world import World, write_set

KEY = "sk-MARKED-0123456789abcdef"
CLIENT_KEY, WRONG_KEY = "MARKED-client-key", "MARKED-wrong-key"
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
    "traces set.jsonl --against none --samples 2 --out traces.jsonl",
    "traces set.jsonl --against none --method last_step --limit 2 --out traces.parquet",
    "doctor",
    "doctor --json",
)
SLOW_OR_OFFLINE = {"export", "report", "bootstrap", "gepa", "gepa.json"}

# Runs each command as `scale-dspy` does. Logs, and tracebacks that nobody caught, go to a file.
SCRIPT = """
import json, logging, os, shlex, socket, sys, time, traceback
host, problem, commands = json.load(sys.stdin)
sys.modules["uvloop"] = None  # it would not look names up here
find = socket.getaddrinfo
socket.getaddrinfo = lambda name, *rest, **more: find(
    "127.0.0.1" if name in (host, host.encode()) else name, *rest, **more
)
logging.basicConfig(filename="log.txt", level=logging.INFO)
logging.getLogger("scale_dspy").setLevel(logging.DEBUG)
from scale_dspy.cli import main as cli
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
    example, *examples = WORLD.problems(5)
    write_set(folder / "set.jsonl", examples)
    return subprocess.run(
        [sys.executable, "-c", SCRIPT],
        input=json.dumps([HOST, example.problem, commands]),
        cwd=folder,
        env=make_environment(folder, api_base, model),
        capture_output=True,
        text=True,
        timeout=200,
    )


def make_environment(folder: Path, api_base: str, model: str) -> dict[str, str]:
    """The backend with its secrets, and a home and caches below `folder`."""
    for name in ("home", "tmp", "cache"):
        (folder / name).mkdir()
    return {
        **{name: value for name, value in os.environ.items() if "PROXY" not in name.upper()},
        "HOME": str(folder / "home"),
        "XDG_CACHE_HOME": str(folder / "home" / "cache"),
        "TMPDIR": str(folder / "tmp"),
        "SCALE_CACHE": str(folder / "cache"),
        "SCALE_CACHE_DIR": str(folder / "cache" / "scale"),
        "SCALE_API_BASE": api_base,
        "SCALE_API_KEY": KEY,
        "SCALE_MODEL": model,
        "PYTHONPATH": str(Path(__file__).parents[1]),
        "PYTHONDONTWRITEBYTECODE": "1",
        "MPLCONFIGDIR": str(folder / "home"),
    }


@contextlib.contextmanager
def run_serve(folder: Path, api_base: str, model: str, **more: str) -> Iterator[str]:
    """Run `serve` in `folder`, its output in files there too; its address.

    Args:
        more: of its environment.
    """
    environment = make_environment(folder, api_base, model) | {"SCALE_SERVE_KEY": CLIENT_KEY}
    environment |= more
    (folder / "stdin").write_text(json.dumps([HOST, "", ["serve --port 0 --json --modes hybrid"]]))
    with (folder / "stdin").open() as stdin, (folder / "stderr").open("w") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-c", SCRIPT],
            cwd=folder,
            env=environment,
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        )
        (folder / "stdin").unlink()
        try:
            assert process.stdout
            yield json.loads(process.stdout.readline())["url"]
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0
        finally:
            process.kill()
            (folder / "stdout").write_text(process.communicate()[0])


def ask_serve(url: str, key: str) -> list[httpx.Response]:
    """Right and wrong requests of one client."""
    question = {"role": "user", "content": WORLD.problems(1)[0].problem}
    body: dict[str, Any] = {"model": "scale", "messages": [question]}
    bodies: tuple[dict[str, Any], ...] = (
        body,
        body | {"stream": True},
        body | {"method": "cot"},
        body | {"model": "scale@tokens=1"},
        body | {"budget": "much"},
        body | {"api_base": "http://127.0.0.1:1"},
        body | {"model": "openai/gpt-4o", "custom_llm_provider": "openai"},
        body | {"metadata": {"api_base": "http://127.0.0.1:1"}, "fallbacks": ["gpt-4o"]},
    )
    headers = {"Authorization": f"Bearer {key}"}
    with httpx.Client(base_url=url, headers=headers, timeout=60, trust_env=False) as client:
        asked = [client.post("/chat/completions", json=body) for body in bodies]
        return [*asked, client.get("/models"), client.get("/model/info")]


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
    # Named modes: a server that refuses everything is otherwise left at the first question.
    asking = tuple(
        f"{each} --modes hybrid" for each in COMMANDS if not set(each.split()) & SLOW_OR_OFFLINE
    )
    with spawn_fake_vllm(
        WORLD, api_key=KEY, faults=[Fault(first=2, status=400, message=said)]
    ) as server:
        done = run_all(tmp_path, f"http://{HOST}:{server.port}/v1", server.model, asking)
    assert (tmp_path / "runs/scale/rollouts.jsonl").read_text().count("[server]") >= 1
    assert find_leaks(tmp_path, KEY, HOST) == []
    assert KEY not in done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("trouble", ["none", "echo", "unreachable"])
def test_serve_tells_no_key_and_no_address(tmp_path: Path, trouble: str) -> None:
    said = f"bad request: Authorization: Bearer {KEY} to http://{HOST}/v1\nkey {KEY}"
    faults = [Fault(first=2, status=400, message=said)] if trouble == "echo" else []
    with (
        run_canary() as (owners, canary),
        spawn_fake_vllm(WORLD, api_key=KEY, faults=faults) as server,
    ):
        port = 9 if trouble == "unreachable" else server.port
        others = (owners["OPENAI_API_KEY"], owners["OPENAI_BASE_URL"])
        secrets = (KEY, CLIENT_KEY, WRONG_KEY, HOST, f":{port}/v1", f"127.0.0.1:{port}", *others)
        with run_serve(tmp_path, f"http://{HOST}:{port}/v1", server.model, **owners) as url:
            asked, refused = ask_serve(url, CLIENT_KEY), ask_serve(url, WRONG_KEY)
            leaks = find_leaks(tmp_path, *secrets)
        assert canary == []
    codes = [reply.status_code for reply in asked]
    expected = 200 if trouble == "none" else 503
    assert (codes[0], codes[2:]) == (expected, [expected, 400, 400, 400, 400, 400, 200, 404])
    assert {reply.status_code for reply in refused} == {401, 404}
    for reply in asked + refused:
        seen = reply.text + str(reply.headers)
        assert [secret for secret in secrets if secret in seen] == []
    assert leaks + find_leaks(tmp_path, *secrets) == []
    assert not (tmp_path / "tracebacks.txt").exists()
    assert find_leaks(tmp_path, "## serve"), "standard error is not searched"
    assert bool(find_leaks(tmp_path, "the model server failed")) == (trouble != "none")


PASSWORD = "MARKED-password"
WITH_A_PASSWORD = (
    "doctor",
    "doctor --json",
    "doctor --api-base {address},{other}",
    "doctor --api-base {gone}",
    "solve PROBLEM --method cot",
    "solve PROBLEM --method cot --api-base {gone}",
    "solve PROBLEM --method cot --api-key another",
    "evaluate set.jsonl --samples 1 --method cot --out out",
    "evaluate set.jsonl --samples 1 --method cot --out none --modes hybrid --api-base {gone}",
    "evaluate set.jsonl --samples 1 --method cot --out far --detach",
    "frontier set.jsonl --candidates 1 --out walks",
    "status out none far walks",
    "status out none far walks --json",
    "report out none --out page.html",  # a run with no tokens at all is compared too
)


def test_a_password_in_an_address_is_shown_and_written_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nor its spelling in a header; by `doctor` and `status` neither."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SCALE_CACHE", str(tmp_path / "cache"))
    write_set(tmp_path / "set.jsonl", WORLD.problems(2))
    spelled = base64.b64encode(f"me:{PASSWORD}".encode()).decode()
    problem = WORLD.problems(3)[2].problem
    with fake_vllm(WORLD) as server, fake_vllm(WORLD) as second:
        places = {"address": server.api_base, "other": second.api_base}
        places["gone"] = "http://127.0.0.1:9/v1"
        places = {k: v.replace("//", f"//me:{PASSWORD}@") for k, v in places.items()}
        monkeypatch.setenv("SCALE_API_BASE", places["address"])
        monkeypatch.setenv("SCALE_MODEL", server.model)
        for command in WITH_A_PASSWORD:
            words = command.format(**places).split()
            words = [problem if word == "PROBLEM" else word for word in words]
            code, out, said = run(capsys, *words)
            assert code == (2 if "another" in command else int("{gone}" in command)), said
            for secret in (PASSWORD, spelled):
                assert secret not in out + said, command
    assert find_leaks(tmp_path, PASSWORD, spelled) == []
    assert find_leaks(tmp_path, "boxed"), "the search finds nothing at all"
