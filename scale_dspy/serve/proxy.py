"""`serve`: LiteLLM's proxy with SCALE mounted, behind a door.

The proxy has a key that only the door knows, made anew for each process.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import secrets
import signal
import socket
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scale_dspy.serve.callers import Callers, is_loopback
from scale_dspy.serve.models import PROVIDER, list_names
from scale_dspy.utils.extras import advise_install

if TYPE_CHECKING:
    from scale_dspy.serve.provider import Offer

NEEDED = (
    *("apscheduler", "backoff", "expression", "fastapi", "fastapi_sso"),
    *("mcp", "multipart", "redis", "soundfile", "uvicorn", "websockets"),
)


def check_extra() -> None:
    """Raise RuntimeError where the packages of the extra `serve` are missing."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise RuntimeError(f"`serve` needs an extra: {advise_install('serve')}")


def read_key(path: str | None) -> str | None:
    """The key that clients must send: in this file, or in SCALE_SERVE_KEY; None if there is none.

    Raises:
        ValueError: the file cannot be read or is empty.
    """
    if path is None:
        return os.environ.get("SCALE_SERVE_KEY") or None
    try:
        key = Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"cannot read a key from {path}: {error}") from None
    if not key:
        raise ValueError(f"{path} holds no key")
    return key


def check_key(key: str | None, host: str) -> None:
    """Raise ValueError unless this key will do for this address."""
    if not key and not is_loopback(host):
        raise ValueError(
            f"--host {host} can be reached from other machines, so a key is needed: set "
            "SCALE_SERVE_KEY, or --key-file"
        )
    if key and not (key.isascii() and key.isprintable() and " " not in key):
        raise ValueError("a key is printable ASCII without blanks")


def open_socket(host: str, port: int) -> socket.socket:
    """A socket that listens there; at any free port for 0.

    Raises:
        OSError: the port is taken, or the host is none of this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(1024)
    except OSError as error:
        listener.close()
        raise OSError(f"cannot listen on {host}:{port}: {error.strerror or error}") from None
    return listener


def serve(
    offer: Offer, listener: socket.socket, callers: Callers, ready: Callable[[], None]
) -> None:
    """Serve until SIGINT or SIGTERM.

    Args:
        callers: who may ask.
        ready: called when requests are answered.
    """
    with tempfile.TemporaryDirectory(prefix="scale-serve-") as folder:
        path = Path(folder) / "config.yaml"  # JSON is YAML too
        path.write_text(json.dumps(describe_proxy(list_names(offer.catalogue))))
        inner_key = f"sk-{secrets.token_urlsafe(32)}"
        _set_environment(path, inner_key)
        for name in ("LiteLLM Proxy", "LiteLLM Router", "LiteLLM"):
            logging.getLogger(name).addFilter(_is_news)
        import uvicorn
        from litellm.proxy.proxy_server import app

        from scale_dspy.serve.connections import Connection, limit_connections
        from scale_dspy.serve.gateway import Inside, make_door
        from scale_dspy.serve.provider import handler

        handler.set_offer(offer)
        Connection.most = limit_connections()
        config = uvicorn.Config(
            make_door(Inside(app, inner_key, offer.catalogue, callers), ready),
            http=Connection,
            ws="none",
            lifespan="on",
            backlog=Connection.most // 2,  # all that are accepted at once open a file each
            log_level="error",  # uvicorn's warnings are about what clients send
            access_log=False,
            server_header=False,
            headers=[("x-content-type-options", "nosniff")],
            timeout_graceful_shutdown=3,
        )
        server = uvicorn.Server(config)
        # By itself uvicorn drops all requests at a second Ctrl-C, and then waits for them.
        setattr(server, "handle_exit", lambda *_: setattr(server, "should_exit", True))  # noqa: B010
        with _ended_by_signals():
            server.run(sockets=[listener])


def describe_proxy(names: Sequence[str]) -> dict[str, Any]:
    """The configuration of LiteLLM's proxy. It holds names only: no key, no address."""
    deployments = [
        {"model_name": name, "litellm_params": {"model": f"{PROVIDER}/{name}"}}
        for name in dict.fromkeys([*names, "*"])  # any other name is refused by the provider
    ]
    custom = {"provider": PROVIDER, "custom_handler": "scale_dspy.serve.provider.handler"}
    return {
        "model_list": deployments,
        "litellm_settings": {
            "custom_provider_map": [custom],
            "num_retries": 0,
            "telemetry": False,
        },
        # A failed request has already cost its tokens, and a full queue is no broken deployment.
        "router_settings": {"num_retries": 0, "disable_cooldowns": True},
        "general_settings": {"cancel_on_disconnect": True},
    }


def _is_news(record: logging.LogRecord) -> bool:
    """Drop what LiteLLM's proxy logs of errors that our provider raised: the client has them, and a
    failed model server or a bug of ours is in the log already. The hint at the proxy's sign-in page
    goes too, as that page is closed."""
    error = record.exc_info[1] if record.exc_info else None
    ours = getattr(error, "llm_provider", None) == PROVIDER
    return not ours and "Admin UI sign-in" not in str(record.msg)


def _set_environment(config: Path, inner_key: str) -> None:
    """Set what the proxy reads its configuration from; settings for another proxy are removed."""
    for name in ("WORKER_CONFIG", "DATABASE_URL", "LITELLM_CONFIG_BUCKET_NAME"):
        os.environ.pop(name, None)
    os.environ["CONFIG_FILE_PATH"] = str(config)
    os.environ["LITELLM_MASTER_KEY"] = inner_key


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Ignore the signal that uvicorn raises again once it has shut down: it would kill the process
    before the model server is stopped and the folder removed."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, lambda *_: None) for number in numbers}
    try:
        yield
    finally:
        for number, action in before.items():
            signal.signal(number, action)
