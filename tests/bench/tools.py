"""What the benches share: problems, repeated calls, an empty cache, the mean of a value."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import dspy

from scale_dspy.lm.cache import Store, use

Figures = dict[str, float]
PROMPT = "Find the smallest positive integer that leaves the remainder 3 on division by 7. " * 8


def write_prompt(number: int) -> str:
    """A prompt of a usual length, another one for each number."""
    return f"{PROMPT} {number}\n\nReply with a number."


async def repeat(call: Callable[[], Awaitable[None]], count: int, width: int) -> float:
    """CPU milliseconds a call of this process, all its threads together."""

    async def work(times: int) -> None:
        for _ in range(times):
            await call()

    await work(1)
    began = time.process_time()
    await asyncio.gather(*(work(count // width) for _ in range(width)))
    return 1000 * (time.process_time() - began) / (count // width * width)


def average(changes: list[list[float]], begin: float, end: float) -> float:
    """The mean of a value between two moments, from its changes."""
    total, value, at = 0.0, 0.0, begin
    for moment, later in changes:
        if moment > end:
            break
        if moment > begin:
            total += value * (moment - at)
            at = moment
        value = later
    return (total + value * (end - at)) / (end - begin)


def make_problems(count: int) -> list[dspy.Example]:
    """Problems whose answer the server of fixed replies gives."""
    return [
        dspy.Example(id=str(number), problem=f"{PROMPT} Problem {number}.", answer="7").with_inputs(
            "problem"
        )
        for number in range(count)
    ]


@contextlib.contextmanager
def fresh_cache() -> Iterator[str]:
    """An empty cache on disk, as a run of the command line has it; yields a folder."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        use(Store(Path(folder) / "cache" / "replies.sqlite3"))
        yield folder
        use(None)
