"""The embedded model: a small language model served on the CPU when there is no other server.

llama.cpp's HTTP server runs it in a process of its own, which ends when the program that started it
ends, even if that is killed. Run as `python -m scale_dspy.lm.embedded.server SETTINGS`, this module
is that process.
"""

from __future__ import annotations

import atexit
import contextlib
import http.client
import importlib.util
import json
import logging
import os
import queue
import secrets
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from scale_dspy.lm.embedded.hub import HUB, name_fetched, open_fetched
from scale_dspy.lm.embedded.weights import (
    MODELS,
    ByteProgress,
    EmbeddedError,
    advise,
    cache_folder,
    choose_model,
    make_cache_folder,
    name_weights,
    open_weights,
)
from scale_dspy.utils.files import create_file

MAGIC = b"GGUF"
KEY = "SCALE_EMBEDDED_KEY"  # in the environment of the server's process, which others cannot read

logger = logging.getLogger(__name__)
_served: dict[str, EmbeddedServer] = {}
_addresses: dict[str, EmbeddedServer] = {}  # of every server that this process has started
_serving = threading.Lock()


@dataclass(frozen=True)
class EmbeddedServer:
    """A running server."""

    model: str  # the name to ask for
    api_base: str  # of the OpenAI endpoints, like http://127.0.0.1:PORT/v1
    pid: int
    context: int  # most tokens of a request, prompt and reply together
    parallel: int  # most choices of a request: it refuses a larger `n`
    process: subprocess.Popen[bytes] = field(repr=False, compare=False)
    key: str = field(default="", repr=False)  # the only key it accepts, made for each server


def start_embedded(
    model: str | Path | None = None, *, progress: ByteProgress | None = None
) -> EmbeddedServer:
    """This process's server of `model`, started at the first call; see start_server."""
    with _serving:
        key = str(model or choose_model())
        server = _served.get(key)
        if server is None or server.process.poll() is not None:
            server = _served[key] = start_server(key, progress=progress)
        return server


def start_server(
    model: str | Path | None = None,
    *,
    context: int = 8192,
    parallel: int = 4,
    progress: ByteProgress | None = None,
    timeout: float = 120.0,
) -> EmbeddedServer:
    """Start a server on a free port of 127.0.0.1 and wait until it is ready to answer.

    It is ended by stop_server, and when this process exits or is killed.

    Args:
        model: a name of MODELS or HUB, or the path of a GGUF file; None for the model that is
            installed.
        context: tokens of prompt and reply that each request may have.
        parallel: requests served at once; further ones wait.
        progress: called while weights are joined or fetched.
        timeout: seconds that the server may take to be ready, joining the weights not counted.

    Raises:
        EmbeddedError: the extra is not installed, the file is no GGUF file, or the server does not
            start.
    """
    if importlib.util.find_spec("xllamacpp") is None:
        raise EmbeddedError(f"the embedded model needs xllamacpp: {advise('embedded')}")
    name, path, file = _find_model(model, progress)
    settings: dict[str, Any] = {
        "path": str(path),
        "name": name,
        "threads": count_cores(),
        "context": context,
        "parallel": parallel,
        "key": secrets.token_urlsafe(32),
        "files": () if file is None else (file,),
    }
    try:
        process, log = start_process(settings)
    finally:
        if file is not None:
            os.close(file)
    try:
        address = _wait_until_ready(process, name, log, timeout)
    except BaseException:
        _stop_process(process)
        raise
    server = EmbeddedServer(
        name, f"{address}/v1", process.pid, context, parallel, process, settings["key"]
    )
    _addresses[server.api_base] = server
    atexit.register(stop_server, server)
    logger.info("%s serves at %s with %d threads", name, server.api_base, settings["threads"])
    return server


def stop_server(server: EmbeddedServer) -> None:
    """End `server` and wait until its process is gone. Does nothing when it has ended already."""
    _stop_process(server.process)


def find_key(api_base: str | None) -> str | None:
    """The key of the server at this address, if this process has started it."""
    server = _addresses.get(api_base or "")
    return server.key if server else None


def explain_end(api_base: str | None) -> str | None:
    """Why no request may go to the server at this address: this process started it and it has
    ended, so another program may have taken its port. None while it runs."""
    server = _addresses.get(api_base or "")
    code = server.process.poll() if server else None
    if code is None:
        return None
    return f"the embedded model's server has ended with {code}, and its port is another program's"


def _find_model(
    model: str | Path | None, progress: ByteProgress | None
) -> tuple[str, Path, int | None]:
    """A model's name and its file. Our own weights are joined if necessary, checked, and kept open,
    so that exactly what was checked is loaded."""
    if model is None:
        model = choose_model()
    if str(model) in MODELS:
        weights = MODELS[str(model)]
        return weights.name, *_name_open(open_weights(weights, progress), name_weights(weights))
    if str(model) in HUB:
        wanted = HUB[str(model)]
        return wanted.name, *_name_open(open_fetched(wanted, progress), name_fetched(wanted))
    path = Path(model).expanduser()
    try:
        with path.open("rb") as given:
            magic = given.read(len(MAGIC))
    except FileNotFoundError:
        raise EmbeddedError(
            f"no embedded model {str(model)!r}: give one of {', '.join((*MODELS, *HUB))}, or the "
            "path of a GGUF file"
        ) from None
    except OSError as error:
        raise EmbeddedError(f"cannot read the model {path}: {error.strerror}") from error
    if magic != MAGIC:
        raise EmbeddedError(f"{path} is not a GGUF file: it begins with {magic!r}, not {MAGIC!r}")
    return path.stem, path.resolve(), None


def _name_open(file: int, path: Path) -> tuple[Path, int | None]:
    """(a path by which the open file is read, the file). On a system without such paths, the file
    is closed and its own path is returned, with None."""
    opened = Path(f"/dev/fd/{file}")
    if sys.platform == "linux" and opened.exists():
        return opened, file
    os.close(file)
    return path, None


def count_cores() -> int:
    """How many cores this process may use.

    Using all of them pays only because the threads wait passively (see start_process): a prompt is
    read twice as fast with 2 threads as with 1 on 2 idle cores, and as fast if one core is busy.
    """
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # macOS and Windows
        return os.cpu_count() or 1


def start_process(settings: dict[str, Any]) -> tuple[subprocess.Popen[bytes], Path]:
    """Start the server's process. Returns the process and its log file.

    Args:
        settings: `key` that it accepts and `files` that it gets open; the rest goes on its command
            line, which other users can read.
    """
    told = {name: value for name, value in settings.items() if name not in ("key", "files")}
    log = cache_folder() / "logs" / f"{settings['name']}.log"
    try:
        make_cache_folder(log.parent)
        with os.fdopen(create_file(log, 0o600), "ab") as errors:
            process = subprocess.Popen(
                _make_command(told),
                stdin=subprocess.PIPE,  # never written to: when it ends, so does the child
                stdout=subprocess.PIPE,
                stderr=errors,
                cwd=Path(__file__).parents[3],  # only this package can be imported there
                # Otherwise waiting threads spin, and one busy process makes it 20 times slower.
                env={"OMP_WAIT_POLICY": "passive", **os.environ, KEY: settings["key"]},
                pass_fds=settings["files"],
                start_new_session=True,  # a Ctrl-C in our terminal must not reach it
            )
    except OSError as error:
        raise EmbeddedError(f"cannot start the embedded model: {error}") from error
    return process, log


def _make_command(settings: dict[str, Any]) -> list[str]:
    return [sys.executable, "-m", "scale_dspy.lm.embedded.server", json.dumps(settings)]


def _wait_until_ready(
    process: subprocess.Popen[bytes], name: str, log: Path, timeout: float
) -> str:
    """The address that the process reports, once GET /health there is answered with 200."""
    deadline = time.monotonic() + timeout
    line = _read_line(process, timeout)
    if line:
        address: str = json.loads(line)["address"]
        while time.monotonic() < deadline and process.poll() is None:
            if is_healthy(address):
                return address
            time.sleep(0.1)
    if line == b"":
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=5)
    ended = process.poll() is not None
    problem = f"ended with code {process.returncode}" if ended else f"isn't up after {timeout:g} s"
    raise EmbeddedError(f"the embedded model {name} {problem}: {_read_tail(log)}; log: {log}")


def _read_line(process: subprocess.Popen[bytes], timeout: float) -> bytes | None:
    """The process's next line; b"" if it ended without one, None after `timeout` seconds."""
    assert process.stdout is not None
    lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    read = process.stdout.readline
    threading.Thread(target=lambda: lines.put(read()), daemon=True).start()
    try:
        return lines.get(timeout=timeout)
    except queue.Empty:
        return None


def is_healthy(address: str) -> bool:
    # http.client ignores the proxies of the environment.
    connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=5)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _read_tail(log: Path, lines: int = 8) -> str:
    try:
        text = log.read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    written = [line.strip() for line in text.splitlines() if line.strip()]
    return " | ".join(written[-lines:]) or "it wrote nothing"


def _stop_process(process: subprocess.Popen[bytes]) -> None:
    # It has nothing to save. In a forked copy of this program it is not a child; Popen then sees
    # that it cannot wait for it, and takes it for ended.
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()


# The server's process


def run_server(settings: dict[str, Any]) -> None:
    """Serve until standard input ends; the address goes to standard output as one JSON line."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    report = os.dup(1)
    os.dup2(2, 1)  # so that what a library prints does not get into the report
    import xllamacpp

    server = xllamacpp.Server(_make_params(xllamacpp.CommonParams(), settings))
    with contextlib.suppress(BrokenPipeError):
        os.write(report, json.dumps({"address": server.listening_address}).encode() + b"\n")
    while os.read(0, 1):
        pass
    os._exit(0)  # an orderly end would wait for the requests under way


def _make_params(params: Any, settings: dict[str, Any]) -> Any:
    """Fill in llama.cpp's parameters."""
    params.model.path = settings["path"]
    params.model_alias = {settings["name"]}
    params.hostnames = ["127.0.0.1"]
    params.port = 0  # any free port
    params.api_keys = [os.environ[KEY]]
    params.cpuparams.n_threads = settings["threads"]
    params.cpuparams_batch.n_threads = settings["threads"]
    params.n_parallel = settings["parallel"]
    params.n_ctx = settings["context"] * settings["parallel"]  # divided among the slots
    params.cache_ram_mib = 512  # for finished prompts; the default is 8 GiB
    params.cors_origins = ""  # no page in a browser may call it; by default any may
    params.ui = False
    params.verbosity = 2  # warnings and errors only: lines for each request would fill the log
    return params


if __name__ == "__main__":
    try:
        run_server(json.loads(sys.argv[1]))
    except RuntimeError as error:  # from llama.cpp, which has logged what was wrong
        sys.exit(str(error))
