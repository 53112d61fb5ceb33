"""A fake vLLM server over real HTTP: a model of a synthetic world, with delays and faults.

    late = Fault(stage="assess", nth=1, status=503)
    with fake_vllm(World(), delay=0.05, faults=[late]) as server:
        lm = connect(server.model, server.api_base, seed=0)

It runs in a thread of its own. `spawn_fake_vllm`, or `python -m tests.fake_vllm --port 8000`, runs
it in a process of its own, which can be killed; there GET /fake/log and /fake/totals tell what
happened. A token is a word. The server itself is the package `fake`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import httpx

from tests.fake.orders import Fault, Options
from tests.fake.server import FakeVLLM
from tests.world import World


@contextlib.contextmanager
def fake_vllm(
    world: World | None = None, *, faults: Sequence[Fault] = (), port: int = 0, **options: Any
) -> Iterator[FakeVLLM]:
    """Serve a world in a thread of its own, at any free port unless one is given.

    Args:
        options: those of Options.
    """
    server = FakeVLLM(world or World(), Options(**options), faults)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="fake-vllm", daemon=True)
    thread.start()
    try:
        asyncio.run_coroutine_threadsafe(server.start(port), loop).result(10)
        yield server
    finally:
        asyncio.run_coroutine_threadsafe(server.stop(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


class Spawned:
    """A fake server in a process of its own."""

    def __init__(self, process: subprocess.Popen[str], url: str, model: str) -> None:
        self.process, self.url, self.model = process, url, model
        self.api_base = f"{url}/v1"

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def kill(self) -> None:
        """End it at once, as a crash would."""
        self.process.kill()
        self.process.wait()

    def log(self) -> list[dict[str, Any]]:
        """The log, see Request."""
        return list(httpx.get(f"{self.url}/fake/log").json())

    def totals(self) -> dict[str, Any]:
        """Totals, rounds, in_flight_max, utilisation and the book of right answers."""
        return dict(httpx.get(f"{self.url}/fake/totals").json())


@contextlib.contextmanager
def spawn_fake_vllm(
    world: World | None = None, *, faults: Sequence[Fault] = (), port: int = 0, **options: Any
) -> Iterator[Spawned]:
    """Serve a world in a process of its own; it ends with the block, or with this process.

    As for `fake_vllm`, but functions (`Fault.when`, `other`) cannot be handed over.
    """
    command = [sys.executable, "-m", "tests.fake_vllm", "--tied", "--port", str(port)]
    command += ["--world", json.dumps(asdict(world or World()))]
    command += ["--faults", json.dumps([asdict(fault) for fault in faults])]
    command += ["--options", json.dumps(options)]
    root = Path(__file__).resolve().parents[1]
    process = subprocess.Popen(
        command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout
        url = process.stdout.readline().strip()
        if not url:
            raise RuntimeError(f"the fake server ended with code {process.wait()}")
        yield Spawned(process, url, Options(**options).model)
    finally:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe:
                pipe.close()


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve until interrupted; the first line on standard output is the address."""
    parser = argparse.ArgumentParser(prog="python -m tests.fake_vllm", description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="default: any free one")
    parser.add_argument("--delay", type=float, help="seconds a choice")
    parser.add_argument("--per-token", type=float, help="seconds a response token")
    parser.add_argument("--max-concurrency", type=int, help="choices worked on at a time")
    parser.add_argument("--world", type=json.loads, default={}, help="knobs of World, JSON")
    parser.add_argument("--options", type=json.loads, default={}, help="of Options, JSON")
    parser.add_argument("--faults", type=json.loads, default=[], help="list of Faults, JSON")
    parser.add_argument("--tied", action="store_true", help="end when standard input ends")
    given = parser.parse_args(arguments)
    names = ("delay", "per_token", "max_concurrency")
    flags = {name: value for name in names if (value := getattr(given, name)) is not None}
    server = FakeVLLM(
        World(**_from_json(given.world)),
        Options(**given.options, **flags),
        [Fault(**_from_json(fault)) for fault in given.faults],
    )
    if given.tied:
        threading.Thread(target=_end_with_input, daemon=True).start()
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_serve_until_ended(server, given.port))


async def _serve_until_ended(server: FakeVLLM, port: int) -> None:
    ended = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    await server.start(port)
    print(server.url, flush=True)
    await ended.wait()
    await server.stop()


def _end_with_input() -> None:
    sys.stdin.read()
    os._exit(0)


def _from_json(knobs: dict[str, Any]) -> dict[str, Any]:
    return {
        name: tuple(value) if isinstance(value, list) else value for name, value in knobs.items()
    }


if __name__ == "__main__":
    main()
