"""The real vLLM server on a tiny model, in a process of its own on a free loopback port.

SCALE_VLLM_PYTHON names the interpreter that has vLLM; CONTRIBUTING.md says how to make one.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import httpx
import pytest

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
VARIABLE = "SCALE_VLLM_PYTHON"
MODEL = "tiny"
START = 480.0  # seconds; 30 on an idle machine, minutes on a busy one
FLAGS = (
    "--enforce-eager --reasoning-parser qwen3 --enable-prompt-tokens-details --max-model-len 4096 "
    "--max-num-batched-tokens 8192"  # no prefill in chunks: with a seed it ends the CPU's engine
).split()
STRUCTURE = ("--structured-outputs-config", '{"backend":"xgrammar","disable_any_whitespace":true}')
ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "NO_PROXY": "127.0.0.1,localhost",
}


@dataclass(frozen=True)
class RealVLLM:
    """A running server.

    Attributes:
        started: seconds that its start took.
    """

    url: str
    started: float
    model: str = MODEL

    @property
    def api_base(self) -> str:
        return f"{self.url}/v1"

    def metrics(self) -> dict[str, float]:
        """vLLM's own counters, each summed over its labels, without the prefix `vllm:`."""
        sums: dict[str, float] = {}
        for line in httpx.get(f"{self.url}/metrics", timeout=30).text.splitlines():
            match = re.match(r"vllm:(\w+)(?:\{.*\})? (\S+)$", line)
            if match:
                sums[match[1]] = sums.get(match[1], 0.0) + float(match[2])
        return sums


def find_python() -> str | None:
    """The interpreter that has vLLM, or None where the variable names none."""
    return os.environ.get(VARIABLE) or None


def need_vllm() -> None:
    """Skip the test where there is no vLLM."""
    if find_python() is None:
        pytest.skip(f"{VARIABLE} names no interpreter that has vLLM")


def make_model(folder: Path, template: Literal["hybrid", "reasoning", "plain"]) -> Path:
    """The tiny model in `folder`; its tokenizer is trained on the problems and on our prompts."""
    texts = [*ROOT.glob("scale_dspy/**/*.py"), ROOT / "scale_dspy" / "data" / "mini.jsonl"]
    command = [str(find_python()), str(HERE / "tiny_model.py"), str(folder), template]
    text = "\n".join(path.read_text(encoding="utf-8") for path in sorted(texts))
    subprocess.run(
        command, input=text, text=True, check=True, timeout=START, capture_output=True,
        env={**os.environ, **ENVIRONMENT},
    )  # fmt: skip
    return folder


@contextmanager
def serve(model: Path, *flags: str, name: str = MODEL) -> Iterator[RealVLLM]:
    """Start the server and wait until it is ready; afterwards stop it with all its processes.

    Args:
        model: the model's folder; the log is written beside it.
        flags: of vLLM, after FLAGS, so that they win.
        name: the model's name as served.

    Raises:
        RuntimeError: it ended or is not up in START seconds; with the end of its log.
    """
    port = find_port()
    command = [str(find_python()), "-m", "vllm.entrypoints.openai.api_server"]
    command += ["--model", str(model), "--served-model-name", name, "--host", "127.0.0.1"]
    command += ["--port", str(port), *FLAGS, *STRUCTURE, *flags]
    log = model.parent / f"vllm-{port}.log"
    began = time.monotonic()
    with log.open("wb") as file:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            env={**os.environ, **ENVIRONMENT},
            cwd=model.parent,
            start_new_session=True,
        )
        try:
            wait_until_ready(process, f"http://127.0.0.1:{port}", log)
            yield RealVLLM(f"http://127.0.0.1:{port}", time.monotonic() - began, name)
        finally:
            stop(process)


def wait_until_ready(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + START
    while process.poll() is None and time.monotonic() < deadline:
        try:
            if httpx.get(f"{url}/health", timeout=5).status_code == 200:
                return
        except httpx.HTTPError:
            time.sleep(0.25)
    tail = log.read_text(encoding="utf-8", errors="replace")[-3000:]
    state = "is not up" if process.poll() is None else f"ended with {process.returncode}"
    raise RuntimeError(f"vLLM {state}:\n{tail}")


def stop(process: subprocess.Popen[bytes]) -> None:
    """End the server and the engine's processes, which are of its session; none is left behind."""
    for kind, seconds in ((signal.SIGTERM, 20.0), (signal.SIGKILL, 20.0)):
        try:
            os.killpg(process.pid, kind)
        except ProcessLookupError:
            break
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and is_alive(process):
            time.sleep(0.1)
    process.wait(timeout=20)


def is_alive(process: subprocess.Popen[bytes]) -> bool:
    """Whether the server or a process of its group is still there."""
    process.poll()
    try:
        os.killpg(process.pid, 0)
    except ProcessLookupError:
        return False
    return True


def find_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
