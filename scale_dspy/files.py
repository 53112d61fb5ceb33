"""Files that are written whole or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def write_whole(path: Path) -> Iterator[Path]:
    """A draft's path to write to; it becomes `path` where the block ends well, else it goes.

    The draft has the suffix of `path`, as some writers look at it.
    """
    draft = path.with_name(f"{path.stem}.draft{path.suffix}")
    try:
        yield draft
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
