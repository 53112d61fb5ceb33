"""The cache of replies: one SQLite file of JSON, from which a run resumes.

Each reply is written as it comes, in a transaction of its own, so that a killed process loses none.
Nothing read from the file is executed: values are JSON, and a damaged one counts as missing.

A reply is found again only for the server that gave it and the run that drew it; see `make_keys`.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import sqlite3
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import platformdirs

logger = logging.getLogger(__name__)

FILE = "replies.sqlite3"
PATIENCE = 2.0  # seconds to wait for another process that writes, once
MOST_BYTES = 10_000_000_000  # above this size at opening, the oldest replies are dropped
LEFT = 0.75  # share of MOST_BYTES that is kept then
FRESH = 86_400.0  # seconds for which a reply is always kept: a run may still need it
_SCHEMA = """
CREATE TABLE IF NOT EXISTS replies (
    number INTEGER PRIMARY KEY, draw BLOB UNIQUE, question BLOB, reply BLOB, at REAL);
CREATE INDEX IF NOT EXISTS by_question ON replies (question);
"""
_DROP = """
DELETE FROM replies WHERE at < ? AND number <= (
    SELECT number FROM replies ORDER BY number
    LIMIT 1 OFFSET (SELECT COUNT(*) / 20 FROM replies))
"""


@dataclass(frozen=True)
class Keys:
    """Two digests: `question` of the request and its server, `draw` of the run as well."""

    question: bytes
    draw: bytes


def make_keys(server: str, run: str, rollout: Any, body: dict[str, Any]) -> Keys:
    """The keys of a reply. Addresses are part of them, and cannot be read from the digests.

    Args:
        server: identifies this server and all its replicas.
        run: identifies the run that draws, or "" for a call that takes what any run has drawn.
        rollout: the rollout id; another id is another sample.
        body: the request's parameters and messages.
    """
    asked = orjson.dumps([server, rollout, body], option=orjson.OPT_SORT_KEYS)
    question = hashlib.sha256(asked).digest()
    return Keys(question, hashlib.sha256(question + run.encode()).digest() if run else question)


def find_folder() -> Path | None:
    """The cache's folder: SCALE_CACHE, or the user's cache folder; None if SCALE_CACHE=off."""
    given = os.environ.get("SCALE_CACHE", "")
    if given.lower() == "off":
        return None
    if given:
        return Path(given).expanduser()
    base = os.environ.get("SCALE_CACHE_DIR") or platformdirs.user_cache_dir("scale-dspy")
    return Path(base) / "replies"


class Store:
    """An open cache file, shared by all threads of a process. A cache in memory has no path.

    Raises:
        OSError: the file cannot be opened, or a link has its name.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.lock = threading.Lock()
        self.broken = False  # since the last write failed
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            if path.is_symlink():
                raise OSError(f"{path} is a link, and links are not followed")
        try:
            self.connection = self._open_patiently()
        except sqlite3.OperationalError as error:
            raise OSError(_explain(error)) from None
        except sqlite3.DatabaseError:
            self.connection = self._open_anew()
        if path is not None:
            self.drop_oldest()

    def _open_patiently(self) -> sqlite3.Connection:
        """Processes that make the file at the same moment refuse each other at once: SQLite does
        not wait for the lock that the change to WAL needs."""
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                return self._open()
            except sqlite3.OperationalError as error:
                if "locked" not in str(error) or time.monotonic() > deadline:
                    raise
                time.sleep(0.02)

    def _open(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self.path or ":memory:",
            timeout=PATIENCE,
            isolation_level=None,
            check_same_thread=False,
        )
        # A write survives the end of the process, but not a power failure: it does not wait for the
        # disk.
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=OFF")
        connection.executescript(_SCHEMA)
        return connection

    def _open_anew(self) -> sqlite3.Connection:
        """Set a damaged file aside and open a new one; its replies are asked for again."""
        assert self.path is not None
        aside = self.path.with_suffix(f".damaged-{time.time():.0f}")
        logger.warning("the cache %s is damaged: it is set aside as %s", self.path, aside.name)
        self.path.rename(aside)
        for tail in ("-wal", "-shm"):
            self.path.with_name(self.path.name + tail).unlink(missing_ok=True)
        return self._open()

    def get(self, keys: Keys) -> Any:
        """The JSON value of a reply, or None. Of several draws it is the first, so that the walks
        that share them always get the same one."""
        column, key = ("question", keys.question)
        if keys.draw != keys.question:
            column, key = "draw", keys.draw
        rows = self._run(f"SELECT number, reply FROM replies WHERE {column}=? ORDER BY number", key)
        for number, reply in rows or ():
            try:
                return orjson.loads(reply)
            except (ValueError, TypeError):
                self._run("DELETE FROM replies WHERE number=?", number)
        return None

    def put(self, keys: Keys, value: Any) -> None:
        """Keep a reply; an earlier one under these keys is replaced."""
        row = (keys.draw, keys.question, orjson.dumps(value), time.time())
        statement = "INSERT OR REPLACE INTO replies (draw, question, reply, at) VALUES (?,?,?,?)"
        if self._run(statement, *row) is not None and self.broken:
            self._wait_at_most(PATIENCE)
            self.broken = False

    def drop(self, keys: Keys) -> None:
        """Forget a reply that turned out to be unreadable."""
        self._run("DELETE FROM replies WHERE draw=? OR question=?", keys.draw, keys.question)

    def drop_oldest(self) -> None:
        """Forget the oldest replies of a file that has grown beyond MOST_BYTES. The file does not
        shrink, but new replies fill the space that became free in it."""
        dropped, before, most = 0, self._count_bytes(), MOST_BYTES
        while self._count_bytes() > most:
            most = int(LEFT * MOST_BYTES)
            self._run(_DROP, time.time() - FRESH)
            ((gone,),) = self._run("SELECT changes()") or [(0,)]
            if not gone:
                break
            dropped += gone
        if dropped:
            logger.warning(
                "the cache %s held %.1f GB: its %d oldest replies were dropped",
                self.path, before / 1e9, dropped,
            )  # fmt: skip

    def _count_bytes(self) -> int:
        """Bytes of the file that are in use; 0 where they cannot be read."""
        names = ("page_count", "freelist_count", "page_size")
        rows = [self._run(f"PRAGMA {name}") or [(0,)] for name in names]
        held, free, size = (int(row[0][0]) for row in rows)
        return (held - free) * size

    def measure(self) -> tuple[int, int]:
        """(replies, bytes).

        Raises:
            OSError: the file cannot be read.
        """
        rows = self._run("SELECT COUNT(*), COALESCE(SUM(LENGTH(reply)), 0) FROM replies")
        if not rows:
            raise OSError(f"the cache {self.path} cannot be read")
        return int(rows[0][0]), int(rows[0][1])

    def clear(self) -> None:
        """Forget every reply and shrink the file.

        Raises:
            OSError: another process writes, or the file cannot be written.
        """
        for statement in ("DELETE FROM replies", "VACUUM"):
            if self._run(statement) is None:
                raise OSError(f"the cache {self.path} was not cleared")

    def _run(self, statement: str, *values: Any) -> list[Any] | None:
        """The rows of a statement; None if it fails. The first failure is logged, and until a write
        succeeds again no statement waits for a lock: the program can work without a cache."""
        try:
            with self.lock:
                return self.connection.execute(statement, values).fetchall()
        except sqlite3.Error as error:
            if not self.broken:
                self.broken = True
                self._wait_at_most(0)
                logger.warning(
                    "the cache %s fails (%s): until it works again, replies are not kept",
                    self.path,
                    _explain(error),
                )
            return None

    def _wait_at_most(self, seconds: float) -> None:
        """How long a statement waits for another process that writes."""
        with self.lock, contextlib.suppress(sqlite3.Error):
            self.connection.execute(f"PRAGMA busy_timeout = {int(1000 * seconds)}")


def _explain(error: sqlite3.Error) -> str:
    said = str(error)
    return "another process holds it locked" if "locked" in said else said


_lock = threading.Lock()
_stores: dict[tuple[Path, int], Store] = {}
_chosen: list[Store | None] = []


def use(store: Store | None) -> None:
    """Make this the cache of the process from now on, whatever the environment says."""
    _chosen[:] = [store]


def open_store() -> Store | None:
    """The cache of this process; None where SCALE_CACHE=off.

    Raises:
        OSError: its folder cannot be used.
    """
    if _chosen:
        return _chosen[0]
    folder = find_folder()
    if folder is None:
        return None
    with _lock:
        own = folder, os.getpid()  # a forked process must not use its parent's connection
        if own not in _stores:
            try:
                _stores[own] = Store(folder / FILE)
            except OSError as error:
                raise OSError(
                    f"the cache folder {folder} cannot be used: {error}; set SCALE_CACHE to a "
                    "folder that can be written, or to off"
                ) from None
        return _stores[own]
