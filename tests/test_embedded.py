"""The embedded model: the life of its server's process."""

from __future__ import annotations

import importlib.util
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import dspy
import httpx
import pytest
from dspy.utils.exceptions import LMTransportError

from scale_dspy import connect, modes
from scale_dspy.baselines import InftyThink, make_program
from scale_dspy.lm.embedded import server as embedded
from scale_dspy.lm.embedded.server import EmbeddedServer
from scale_dspy.lm.embedded.weights import EmbeddedError
from scale_dspy.methods import METHODS
from tests.fake_vllm import fake_vllm
from tests.programs import start_program

SMALL = "qwen2.5-coder-0.5b"

HEALTHY = """
import http.server, json, sys, threading

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/health" else 404)
        self.end_headers()

    def log_message(self, *args):
        pass

server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
print(json.dumps({"address": f"http://127.0.0.1:{server.server_port}"}), flush=True)
threading.Thread(target=server.serve_forever, daemon=True).start()
sys.stdin.read()
"""
LOADING = HEALTHY.replace('200 if self.path == "/health" else 404', "503")
SILENT = "import sys; sys.stdin.read()"
BROKEN = "import sys; print('no such tensor', file=sys.stderr); sys.exit(3)"


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (ProcessLookupError, FileNotFoundError):
        return False
    return state != "Z"


def wait_until_gone(pid: int, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while is_running(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not is_running(pid)


@pytest.fixture
def gguf(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model file that a fake server may serve."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    path = tmp_path / "some-model.gguf"
    path.write_bytes(b"GGUF and more")
    return path


@pytest.fixture
def run_instead(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Have start_server run a given program, and not llama.cpp."""

    def set_program(source: str) -> None:
        command = [sys.executable, "-c", source]
        monkeypatch.setattr(embedded, "_make_command", lambda settings: command)

    return set_program


# Starting it


def test_the_server_itself_may_be_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    advice = (
        r"xllamacpp: pip install -r scale_dspy/lm/embedded/requirements/embedded\.txt in a clone"
    )
    with pytest.raises(EmbeddedError, match=advice):
        embedded.start_server(SMALL)


def test_refuses_what_is_no_model(gguf: Path, tmp_path: Path) -> None:
    with pytest.raises(EmbeddedError, match=r"no embedded model 'gpt-9'.*qwen2\.5-coder-1\.5b"):
        embedded.start_server("gpt-9")
    with pytest.raises(EmbeddedError, match="cannot read the model"):
        embedded.start_server(tmp_path)
    text = tmp_path / "text.gguf"
    text.write_text("hello")
    with pytest.raises(EmbeddedError, match="not a GGUF file"):
        embedded.start_server(text)


@pytest.mark.parametrize(("cores", "threads"), [(1, 1), (2, 2), (8, 8)])
def test_all_cores_are_used(monkeypatch: pytest.MonkeyPatch, cores: int, threads: int) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(cores)), raising=False)
    assert embedded.count_cores() == threads
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    assert embedded.count_cores() == threads


# The server's process, with a fake in its place


def test_serve_starts_one_server_for_all(gguf: Path, run_instead: Callable[[str], None]) -> None:
    run_instead(HEALTHY)
    with ThreadPoolExecutor(4) as pool:
        servers = list(pool.map(embedded.start_embedded, [gguf] * 4))
    assert all(server is servers[0] for server in servers)
    assert servers[0].model == "some-model"
    assert servers[0].api_base.startswith("http://127.0.0.1:")
    assert servers[0].api_base.endswith("/v1")
    embedded.stop_server(servers[0])
    embedded.stop_server(servers[0])
    assert not is_running(servers[0].pid)

    another = embedded.start_embedded(gguf)
    assert another.pid != servers[0].pid
    embedded.stop_server(another)


def test_a_proxy_of_the_environment_is_not_asked(
    gguf: Path, run_instead: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    run_instead(HEALTHY)
    embedded.stop_server(embedded.start_server(gguf, timeout=20))


def test_an_early_end_quotes_the_log(
    cache: Path, gguf: Path, run_instead: Callable[[str], None]
) -> None:
    run_instead(BROKEN)
    for _ in range(2):
        with pytest.raises(EmbeddedError, match=r"some-model ended with code 3: no such tensor;"):
            embedded.start_server(gguf)
    assert (cache / "logs" / "some-model.log").read_text() == "no such tensor\n"


@pytest.mark.parametrize("program", [SILENT, LOADING])
def test_a_server_that_does_not_come_up_is_ended(
    gguf: Path,
    run_instead: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
    program: str,
) -> None:
    started: list[subprocess.Popen[bytes]] = []
    start_process = embedded.start_process

    def start(settings: dict[str, object]) -> tuple[subprocess.Popen[bytes], Path]:
        process, log = start_process(settings)
        started.append(process)
        return process, log

    monkeypatch.setattr(embedded, "start_process", start)
    run_instead(program)
    with pytest.raises(EmbeddedError, match=r"isn't up after 1\.5 s: it wrote nothing"):
        embedded.start_server(gguf, timeout=1.5)
    assert started[0].returncode == -signal.SIGKILL


def test_a_forked_copy_does_not_end_the_server(
    gguf: Path, run_instead: Callable[[str], None]
) -> None:
    run_instead(HEALTHY)
    server = embedded.start_server(gguf)
    copy = os.fork()
    if copy == 0:
        embedded.stop_server(server)
        os._exit(0)
    os.waitpid(copy, 0)
    assert is_running(server.pid)
    assert embedded.is_healthy(server.api_base)
    embedded.stop_server(server)


def test_no_log_can_be_written(
    gguf: Path,
    tmp_path: Path,
    run_instead: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run_instead(HEALTHY)
    monkeypatch.setenv("SCALE_CACHE_DIR", str(gguf))
    with pytest.raises(EmbeddedError, match="cannot start the embedded model"):
        embedded.start_server(gguf)


def test_whoever_took_the_port_of_a_dead_server_is_not_believed(
    gguf: Path, run_instead: Callable[[str], None]
) -> None:
    run_instead(HEALTHY)
    server = embedded.start_server(gguf)
    lm = connect(server.model, server.api_base, cache=False, num_retries=0)
    os.kill(server.pid, signal.SIGKILL)
    server.process.wait()
    port = int(server.api_base.removesuffix("/v1").rpartition(":")[2])
    with fake_vllm(port=port) as stranger:
        with pytest.raises(LMTransportError, match="its port is another program's"):
            lm("What is 2 + 3?")
        assert not stranger.chats()
        other = connect(stranger.model, f"http://localhost:{port}/v1", cache=False)
        assert other("What is 2 + 3?")  # asked under another address it is just a server


def test_a_server_that_dies_under_a_call_is_not_believed_either(
    gguf: Path, run_instead: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    run_instead(HEALTHY)
    server = embedded.start_server(gguf)
    with fake_vllm() as stranger:
        lm = connect(stranger.model, server.api_base, cache=False, num_retries=0)
        monkeypatch.setitem(embedded._addresses, stranger.api_base, server)
        lm.core.server = replace(lm.core.server, api_base=stranger.api_base)
        assert lm("What is 2 + 3?")
        found = iter((None, -9))
        monkeypatch.setattr(server.process, "poll", lambda: next(found))
        with pytest.raises(LMTransportError, match="its port is another program's"):
            lm("What is 3 + 4?")
    monkeypatch.undo()
    embedded.stop_server(server)


def test_the_key_is_each_servers_own_and_on_no_command_line(
    cache: Path, gguf: Path, run_instead: Callable[[str], None]
) -> None:
    run_instead(HEALTHY)
    servers = [embedded.start_server(gguf) for _ in range(2)]
    try:
        assert len({server.key for server in servers}) == 2
        for server in servers:
            assert len(server.key) > 30
            assert server.key not in repr(server)
            assert server.key.encode() not in Path(f"/proc/{server.pid}/cmdline").read_bytes()
            assert connect(server.model, server.api_base).server.api_key == server.key
    finally:
        for server in servers:
            embedded.stop_server(server)


@pytest.mark.parametrize("planted", ["log", "folder"])
def test_a_planted_log_is_not_written_through(
    cache: Path, gguf: Path, tmp_path: Path, run_instead: Callable[[str], None], planted: str
) -> None:
    run_instead(BROKEN)
    victim = tmp_path / "victim" / "some-model.log"
    victim.parent.mkdir()
    victim.write_text("dear")
    if planted == "folder":
        cache.mkdir(exist_ok=True)
        (cache / "logs").symlink_to(victim.parent)
    else:
        (cache / "logs").mkdir(parents=True)
        (cache / "logs" / "some-model.log").symlink_to(victim)
    with pytest.raises(EmbeddedError, match=r"no such tensor|is a link"):
        embedded.start_server(gguf)
    assert victim.read_text() == "dear"


# The real one; its joined weights stay in the cache for the next time


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedServer]:
    server = embedded.start_embedded(SMALL)
    yield server
    embedded.stop_server(server)
    assert not is_running(server.pid)


def ask(server: EmbeddedServer, **more: object) -> httpx.Response:
    messages = [{"role": "user", "content": "What is 2 + 3? Reply with the number only."}]
    body = {"model": server.model, "messages": messages, "temperature": 0, "max_tokens": 16}
    return httpx.post(
        f"{server.api_base}/chat/completions",
        json={**body, **more},
        headers={"Authorization": f"Bearer {server.key}"},
        timeout=120,
        trust_env=False,
    )


@pytest.mark.embedded
@pytest.mark.parametrize("method", METHODS)
def test_serves_every_method(server: EmbeddedServer, method: str) -> None:
    short = {"solve_2": {"max_tokens": 32}, "solve_1": {"max_tokens": 32}}
    program = make_program(method, candidates=2, modes=modes("embedded", **short))
    if isinstance(program, InftyThink):
        program.rounds = 1
    with dspy.context(lm=connect(server.model, server.api_base, cache=False)):
        prediction = program(problem="What is 17 + 25?")
    assert prediction.steps
    assert prediction.usage["solve_2"]["calls"] + prediction.usage["solve_1"]["calls"] > 0


@pytest.mark.embedded
@pytest.mark.timeout(1200)
def test_the_python_of_the_front_page_on_the_embedded_model(tmp_path: Path) -> None:
    """As printed, by a user who has set nothing."""
    page = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    clean = {name: value for name, value in os.environ.items() if not name.startswith("SCALE_")}
    kept = {name: os.environ[name] for name in ("SCALE_CACHE_DIR",) if name in os.environ}
    done = subprocess.run(
        [sys.executable, "-c", block],
        env={**clean, **kept, "SCALE_CACHE": str(tmp_path)},
        capture_output=True, text=True, cwd=tmp_path, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    answer, steps, tokens = done.stdout.splitlines()
    assert answer
    assert steps.startswith("[(")
    assert int(tokens) >= 0
    assert "Traceback" not in done.stderr


@pytest.mark.embedded
def test_answers_a_chat_request(server: EmbeddedServer) -> None:
    reply = ask(server).json()
    assert "5" in reply["choices"][0]["message"]["content"]
    assert reply["model"] == SMALL
    assert 0 < reply["usage"]["completion_tokens"] <= 16


@pytest.mark.embedded
def test_serves_as_many_choices_as_it_says(server: EmbeddedServer) -> None:
    reply = ask(server, n=server.parallel, max_tokens=2, temperature=1.0)
    assert len(reply.json()["choices"]) == server.parallel
    assert ask(server, n=server.parallel + 1).status_code == 400


@pytest.mark.embedded
def test_holds_to_a_grammar(server: EmbeddedServer) -> None:
    reply = ask(server, grammar='root ::= "maybe" | "perhaps"').json()
    assert reply["choices"][0]["message"]["content"] in {"maybe", "perhaps"}


@pytest.mark.embedded
def test_refuses_browsers_and_listens_on_loopback_only(server: EmbeddedServer) -> None:
    health = httpx.get(
        server.api_base.removesuffix("/v1") + "/health",
        headers={"Origin": "https://example.org"},
        trust_env=False,
    )
    assert health.json() == {"status": "ok"}
    assert not health.headers.get("Access-Control-Allow-Origin")


@pytest.mark.embedded
def test_it_answers_to_its_key_only(server: EmbeddedServer) -> None:
    for key in ("", "wrong", server.key[:-1]):
        reply = httpx.post(
            f"{server.api_base}/chat/completions",
            json={"messages": [{"role": "user", "content": "x"}], "max_tokens": 1},
            headers={"Authorization": f"Bearer {key}"} if key else {},
            trust_env=False,
        )
        assert reply.status_code == 401


@pytest.mark.embedded
def test_serve_reuses_the_real_server(server: EmbeddedServer) -> None:
    assert embedded.start_embedded(SMALL) is server


@pytest.mark.embedded
def test_llama_cpp_says_what_is_wrong_with_a_file(cache: Path, tmp_path: Path) -> None:
    path = tmp_path / "bad.gguf"
    path.write_bytes(b"GGUF" + b"x" * 100)
    with pytest.raises(EmbeddedError, match=r"bad ended with code 1: .*GGUF file is version"):
        embedded.start_server(path)


PROGRAM = f"""
    import signal, sys, time
    from scale_dspy.lm.embedded import server as embedded
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may ignore it
    server = embedded.start_server({SMALL!r})
    print(server.pid, flush=True)
"""


@pytest.mark.embedded
def test_the_server_dies_with_a_killed_parent() -> None:
    program = start_program(PROGRAM + "    time.sleep(600)")
    assert program.stdout is not None
    pid = int(program.stdout.readline())
    assert is_running(pid)
    program.kill()
    program.wait()
    assert wait_until_gone(pid, seconds=5)


@pytest.mark.embedded
def test_the_server_dies_with_a_parent_killed_while_it_loads() -> None:
    program = start_program(
        f"""
        from scale_dspy.lm.embedded import server as embedded
        start_process = embedded.start_process
        def start(settings):
            process, log = start_process(settings)
            print(process.pid, flush=True)
            return process, log
        embedded.start_process = start
        embedded.start_server({SMALL!r})
        """
    )
    assert program.stdout is not None
    pid = int(program.stdout.readline())
    program.kill()
    program.wait()
    assert wait_until_gone(pid, seconds=20)


@pytest.mark.embedded
def test_the_server_ends_with_a_program_that_does_not_stop_it() -> None:
    out, errors = start_program(PROGRAM).communicate(timeout=60)
    assert errors == ""
    assert not is_running(int(out))


@pytest.mark.embedded
def test_ctrl_c_ends_both_and_only_the_program_complains() -> None:
    program = start_program(PROGRAM + "    time.sleep(600)")
    assert program.stdout is not None
    pid = int(program.stdout.readline())
    os.killpg(program.pid, signal.SIGINT)
    _, errors = program.communicate(timeout=20)
    assert errors.count("Traceback") == errors.count("KeyboardInterrupt") == 1
    assert wait_until_gone(pid, seconds=5)


@pytest.mark.embedded
def test_a_stopped_server_is_gone_while_at_work(server: EmbeddedServer) -> None:
    other = embedded.start_server(SMALL, context=512, parallel=1)
    failures: list[Exception] = []

    def ask_for_much() -> None:
        try:
            ask(other, max_tokens=400, ignore_eos=True)
        except httpx.HTTPError as error:
            failures.append(error)

    thread = threading.Thread(target=ask_for_much)
    thread.start()
    time.sleep(1)
    embedded.stop_server(other)
    thread.join(timeout=20)
    assert not is_running(other.pid)
    assert len(failures) == 1
    assert ask(server, max_tokens=1).status_code == 200
