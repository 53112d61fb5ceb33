"""The page in a real browser: the grid, filters, search, the reader, keys, a phone, no network."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from scale_dspy.report.report import write_report
from tests.browser import CHROMIUM, Call, ask, open_page, press, wait_for
from tests.test_report import make_run, undrawn

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium"),
    pytest.mark.usefixtures("undrawn"),
]
__all__ = ["undrawn"]

ROWS = (
    "[...document.querySelectorAll('#grid-body tr')]"
    ".map(r => r.querySelector('button').textContent).join(' ')"
)
CELLS = (
    "[...document.querySelectorAll('#grid-body tr:first-child td.cell')]"
    ".map(c => c.textContent).join(' ')"
)
NAME = (
    "document.getElementById('reader').open && document.getElementById('reader-name').textContent"
)
COLUMNS = "document.querySelectorAll('#reader-runs .column').length"


def make_page(folder: Path) -> Path:
    """Two runs: they differ on p-1 most, then on p-3; p-0 both have right, p-2 both wrong."""
    first = make_run(folder / "cot", "11110010", told={"method": "cot", "threshold": None})
    second = make_run(folder / "scale", "11000011")
    for run in (first, second):
        lines = [json.loads(line) for line in (run / "rollouts.jsonl").read_text().splitlines()]
        for line in lines:
            if not line["correct"]:
                line["steps"][-1]["solution"] = r"$\boxed{5}$"
            line["groups"] = {"level": "easy" if line["id"] in ("p-0", "p-1") else "hard"}
            if line["id"] == "p-2" and run == first:
                line["error"], line["steps"] = "Timeout", []
            elif line["id"] == "p-3":
                line["replaced"] = ["solve: the solution was cut off after 9 tokens"]
            elif line["id"] == "p-2":
                line["steps"][-1]["solution"] = "So it is 4 in the end."
        (run / "rollouts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    page = write_report([first, second], folder / "page.html").page
    assert page
    return page


def drive(
    folder: Path, act: Callable[[Call], Awaitable[None]], fragment: str = "", width: int = 1280
) -> None:
    async def run() -> None:
        size = (width, 900)
        async with open_page(make_page(folder), folder, fragment=fragment, size=size) as call:
            await act(call)

    asyncio.run(run())


async def click(call: Call, selector: str) -> None:
    await ask(call, f"document.querySelector({json.dumps(selector)}).click()")


def test_the_grid_has_the_runs_shares_and_sorts_by_where_they_differ(tmp_path: Path) -> None:
    async def act(call: Call) -> None:
        assert await ask(call, ROWS) == "p-1 p-3 p-2 p-0"
        assert await ask(call, CELLS) == "2/2 0/2"
        await ask(call, "change('s', 'name')")
        assert await ask(call, ROWS) == "p-0 p-1 p-2 p-3"

    drive(tmp_path, act)


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("differ", "p-1 p-3"),
        ("wrong", "p-1 p-3 p-2"),
        ("cut", "p-3"),
        ("error", "p-2"),
        ("unread", "p-2"),
    ],
)
def test_filters_keep_what_they_say(tmp_path: Path, name: str, rows: str) -> None:
    async def act(call: Call) -> None:
        await click(call, f"[data-filter={name}]")
        assert await ask(call, ROWS) == rows
        assert await ask(call, "location.hash") == f"#f={name}"
        shown = await ask(call, f"document.querySelector('[data-filter={name}]').textContent")
        assert shown.endswith(f" {len(rows.split())}")

    drive(tmp_path, act)


def test_search_and_groups(tmp_path: Path) -> None:
    async def act(call: Call) -> None:
        await ask(call, "change('g', document.querySelectorAll('#groups option')[1].value)")
        assert await ask(call, ROWS) == "p-1 p-0"  # the easy ones
        await ask(call, "change('g', '')")
        await press(call, "/")
        assert await ask(call, "document.activeElement.id") == "search"
        for key in "P-3":
            await press(call, key)
        assert await ask(call, ROWS) == "p-3"
        assert await ask(call, "document.getElementById('count').textContent") == "1 of 4 problems"
        await press(call, "Enter")  # out of the search, then into the problem
        await press(call, "Enter")
        await wait_for(call, f"({NAME}) === 'p-3'")

    drive(tmp_path, act)


def test_a_click_opens_the_solutions_side_by_side(tmp_path: Path) -> None:
    async def act(call: Call) -> None:
        await click(call, "#grid-body tr:nth-child(1) td.cell")
        await wait_for(call, f"({NAME}) === 'p-1'")
        assert await ask(call, COLUMNS) == 2
        heads = "[...document.querySelectorAll('#reader-runs h4')].map(h => h.textContent).join()"
        assert await ask(call, heads) == "cot,scale τ=0.5"
        places = "[...document.querySelectorAll('.column')].map(c => c.getBoundingClientRect().top)"
        assert await ask(call, f"new Set({places}).size") == 1
        assert await ask(call, "document.querySelector('#reader-runs menclose').textContent") == "4"
        assert await ask(call, "document.querySelectorAll('#reader-problem math').length") == 1
        await click(call, ".column .pills button:nth-child(2)")
        chosen = "document.querySelector('.pills [aria-pressed=true]').title"
        assert await ask(call, chosen) == "sample 1: right"

    drive(tmp_path, act)


def test_keys_move_open_and_close(tmp_path: Path) -> None:
    at = "document.querySelector('tr.at button').textContent"

    async def act(call: Call) -> None:
        for key, name in (("j", "p-3"), ("ArrowDown", "p-2"), ("k", "p-3")):
            await press(call, key)
            assert await ask(call, at) == name
        await press(call, "Enter")
        await wait_for(call, f"({NAME}) === 'p-3'")
        await press(call, "ArrowRight")
        await wait_for(call, f"({NAME}) === 'p-2'")
        assert await ask(call, "document.querySelector('.flag').textContent") == "Error: Timeout"
        await press(call, "ArrowLeft")
        await press(call, "k")
        await wait_for(call, f"({NAME}) === 'p-1'")
        await press(call, "1")
        await wait_for(
            call,
            "document.querySelector('.pills [aria-pressed=true]').title.startsWith('sample 1')",
        )
        await press(call, "Escape")
        await wait_for(call, "!document.getElementById('reader').open")
        assert await ask(call, at) == "p-1"

    drive(tmp_path, act)


def test_an_address_opens_a_problem_under_its_filter(tmp_path: Path) -> None:
    async def act(call: Call) -> None:
        await wait_for(call, f"({NAME}) === 'p-2'")
        assert await ask(call, ROWS) == "p-2"
        flag = "[...document.querySelectorAll('.flag')].map(f => f.textContent).join()"
        assert "not read as the answer" in await ask(call, flag)

    drive(tmp_path, act, fragment="#f=unread&p=2")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_scrolls_down_only_and_dark_is_dark(tmp_path: Path, scheme: str) -> None:
    async def act(call: Call) -> None:
        media = [{"name": "prefers-color-scheme", "value": scheme}]
        await call("Emulation.setEmulatedMedia", features=media)
        assert await ask(call, "document.documentElement.scrollWidth") == 400
        await press(call, "Enter")
        await wait_for(call, f"({NAME}) === 'p-1'")
        assert await ask(call, "document.getElementById('reader').scrollWidth") <= 400
        ground = await ask(call, "getComputedStyle(document.body).backgroundColor")
        assert (int(ground[4:].split(",")[0]) < 60) == (scheme == "dark")

    drive(tmp_path, act, width=400)
