"""LiteLLM's own proxy, started for a test."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
KEY = "sk-of-the-proxy-0123456789abcdef"
CODE = "import uvicorn; from litellm.proxy.proxy_server import app; uvicorn.run(app, port=0)"


@contextlib.contextmanager
def proxy_of_litellm(
    config: dict[str, Any], folder: Path, **environment: str
) -> Iterator[tuple[str, str]]:
    """Run the proxy with this configuration, kept in `folder`; gives its address and its key."""
    path = folder / "config.yaml"
    path.write_text(json.dumps(config))
    needed = {
        "LITELLM_MASTER_KEY": KEY,
        "CONFIG_FILE_PATH": str(path),
        "LITELLM_LOCAL_MODEL_COST_MAP": "true",
        "NO_PROXY": "127.0.0.1",
    }
    process = subprocess.Popen(
        [sys.executable, "-c", CODE],
        cwd=ROOT,
        env={**os.environ, **needed, **environment},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stderr
        line = next(line for line in process.stderr if "running on" in line)
        threading.Thread(target=process.stderr.read, daemon=True).start()
        yield "http://" + line.partition("http://")[2].split()[0], KEY
    finally:
        process.kill()
        process.wait()
