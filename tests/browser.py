"""Drive a real Chromium by its DevTools protocol: keys are pressed, not events made up."""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import re
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--remote-debugging-port=0", "--hide-scrollbars", "about:blank"),
)
CODES = {"Enter": 13, "Escape": 27, "ArrowLeft": 37, "ArrowRight": 39, "ArrowDown": 40}

Call = Callable[..., Awaitable[dict[str, Any]]]


@asynccontextmanager
async def open_page(
    page: Path, folder: Path, *, fragment: str = "", size: tuple[int, int] = (1280, 900)
) -> AsyncIterator[Call]:
    """A tab that shows a page, as a function that calls a method of the protocol in it."""
    profile = f"--user-data-dir={folder / 'profile'}"
    browser = await asyncio.create_subprocess_exec(
        str(CHROMIUM), profile, *FLAGS, stderr=asyncio.subprocess.PIPE
    )
    try:
        async with aiohttp.ClientSession() as session:
            address = await _read_address(browser)
            async with session.get(f"http://{address}/json/list") as reply:
                (target,) = [tab for tab in await reply.json() if tab["type"] == "page"]
            async with session.ws_connect(target["webSocketDebuggerUrl"], max_msg_size=0) as socket:
                call = _make_call(socket)
                width, height = size
                await call(
                    "Emulation.setDeviceMetricsOverride",
                    **{"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False},
                )
                await call("Page.navigate", url=page.as_uri() + fragment)
                await wait_for(call, "document.readyState === 'complete'")
                yield call
    finally:
        browser.kill()
        await browser.wait()


async def _read_address(browser: asyncio.subprocess.Process) -> str:
    assert browser.stderr is not None
    async for line in browser.stderr:
        if found := re.search(rb"ws://([^/]+)/", line):
            return found[1].decode()
    raise RuntimeError("Chromium did not start")


def _make_call(socket: aiohttp.ClientWebSocketResponse) -> Call:
    numbers = itertools.count(1)

    async def call(method: str, **params: Any) -> dict[str, Any]:
        number = next(numbers)
        await socket.send_json({"id": number, "method": method, "params": params})
        while True:
            message = json.loads((await socket.receive(timeout=60)).data)
            if message.get("id") == number:
                assert "error" not in message, message
                return dict(message["result"])

    return call


async def ask(call: Call, expression: str) -> Any:
    """The value of an expression in the page."""
    told = await call("Runtime.evaluate", expression=expression, returnByValue=True)
    assert "exceptionDetails" not in told, told["exceptionDetails"]
    return told["result"].get("value")


async def wait_for(call: Call, expression: str, seconds: float = 40) -> None:
    """Wait until an expression is true in the page."""
    for _ in range(int(seconds / 0.05)):
        if await ask(call, expression):
            return
        await asyncio.sleep(0.05)
    raise AssertionError(f"never true: {expression}")


async def press(call: Call, key: str) -> None:
    """Press a key and let it go."""
    text = {"text": key} if len(key) == 1 else {"text": "\r"} if key == "Enter" else {}
    code = CODES.get(key, ord(key[0].upper()))
    for kind in ("keyDown", "keyUp"):
        given = text if kind == "keyDown" else {}
        await call(
            "Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=code, **given
        )


async def shoot(call: Call, path: Path) -> None:
    """Save what the tab shows as a PNG."""
    shot = (await call("Page.captureScreenshot"))["data"]
    await asyncio.to_thread(path.write_bytes, base64.b64decode(shot))
