"""Write files completely or not at all, in folders that one process at a time may use."""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, TextIO

from filelock import FileLock, Timeout

LOCK = ".lock"
MOST_FILES = 8192  # the limit of open files that is asked for, where the system allows it
LIKELY_FILES = 1024  # the limit that is assumed where the system reports none
GLANCE = 0.5  # seconds to wait for a lock: `is_held` takes it for a moment to look at it


def allow_files() -> int:
    """Raise the limit of open files (connections count as files) of this process to MOST_FILES, if
    the system allows it; returns the limit that then holds."""
    try:
        import resource
    except ImportError:  # Windows
        return LIKELY_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 0 <= soft < MOST_FILES:
        wanted = MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, MOST_FILES)
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            soft = wanted
    return int(min(soft, MOST_FILES)) if soft > 0 else LIKELY_FILES


def create_file(path: Path, mode: int = 0o666) -> int:
    """A new, empty file, open for writing. A file of that name is removed, and a link is not
    followed.

    Args:
        mode: its permissions, less the umask.
    """
    path.unlink(missing_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0)
    return os.open(path, flags | getattr(os, "O_BINARY", 0), mode)


def open_file(path: Path) -> BinaryIO:
    """A file of a run, open for reading.

    Raises:
        FileNotFoundError: there is no such file.
        OSError: it cannot be read, or it is no regular file: reading a pipe would wait for its
            writer, and a device may have no end.
    """
    file = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise OSError(errno.EINVAL, "it is no regular file", str(path))
    return os.fdopen(file, "rb")


def read_file(path: Path) -> bytes:
    """The content of a file of a run; see `open_file`."""
    with open_file(path) as file:
        return file.read()


@contextmanager
def append_lines(path: Path) -> Iterator[TextIO]:
    """A text file, open for appending. It is made if it is missing; a link is not followed.

    A lone surrogate, which UTF-8 cannot encode, is written as its JSON escape.

    Raises:
        OSError: the file cannot be opened, or a link has its name.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_NOFOLLOW", 0)
    file = os.open(path, flags, 0o666)
    with os.fdopen(file, "a", encoding="utf-8", errors="backslashreplace") as lines:
        yield lines


def check_in_place(path: Path, file: TextIO) -> None:
    """Raise RuntimeError if `path` is no longer the open file: it was removed or replaced."""
    try:
        there = os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except OSError:
        there = False
    if not there:
        raise RuntimeError(f"{path} was removed while it was written, so the run stops here")


@contextmanager
def write_whole(path: Path) -> Iterator[Path]:
    """Give the path of a draft to write to. It becomes `path` if the block ends without an error,
    and is removed otherwise.

    The draft keeps the suffix of `path`, which some writers look at. Its name is unique to this
    process: if two write the same file at once, each writes a complete one and the later one stays.
    The name cannot be guessed, so nobody can plant a link there.
    """
    own = f"{os.getpid()}-{secrets.token_hex(4)}"
    draft = path.with_name(f"{path.stem}.draft{own}{path.suffix}")
    os.close(create_file(draft))
    try:
        yield draft
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def make_folder(folder: Path) -> None:
    """Make a folder and its parents, as far as they are missing.

    Raises:
        ValueError: there is a file of its name, or of a parent's.
        OSError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise ValueError(f"{folder} cannot be a folder: there is a file of that name") from None


@contextmanager
def hold_folder(folder: Path) -> Iterator[None]:
    """Make a folder if it is missing, and lock it against other processes that call this.

    Raises:
        ValueError: another process holds it.
    """
    make_folder(folder)
    try:
        with FileLock(folder / LOCK, timeout=GLANCE):
            yield
    except Timeout:
        raise ValueError(f"{folder} is in use by another run") from None


def is_held(folder: Path) -> bool:
    """Whether a process holds the folder at this moment."""
    if not (folder / LOCK).exists():
        return False
    try:
        with FileLock(folder / LOCK, timeout=0):
            return False
    except Timeout:
        return True
