"""Weights from the Hugging Face hub: a publisher's GGUF file at a pinned revision, checked.

The file is kept beside the joined weights. HF_ENDPOINT, HF_HUB_OFFLINE and HF_TOKEN work as in all
of the hub's programs.
"""

from __future__ import annotations

import hashlib
import io
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from scale_dspy.lm.embedded.weights import (
    CHUNK,
    ByteProgress,
    EmbeddedError,
    cache_folder,
    copy_parts,
    make_cache_folder,
    name_partial,
    open_or_write,
    write_digest,
)
from scale_dspy.utils.files import create_file


@dataclass(frozen=True)
class HubFile:
    """A GGUF file of a repository on the hub."""

    name: str  # for --model
    repo: str
    revision: str  # a commit, which cannot change
    file: str
    bytes: int
    sha256: str


# Qwen's own conversions, Apache-2.0. Revisions, sizes and digests are quoted from the hub's listing
# by several public repositories, read in 2026-11; the hub itself could not be reached.
HUB: dict[str, HubFile] = {
    each.name: each
    for each in (
        HubFile(
            "qwen3-0.6b",
            "Qwen/Qwen3-0.6B-GGUF",
            "23749fefcc72300e3a2ad315e1317431b06b590a",
            "Qwen3-0.6B-Q8_0.gguf",
            639_446_688,
            "9465e63a22add5354d9bb4b99e90117043c7124007664907259bd16d043bb031",
        ),
        HubFile(
            "qwen3-1.7b",
            "Qwen/Qwen3-1.7B-GGUF",
            "90862c4b9d2787eaed51d12237eafdfe7c5f6077",
            "Qwen3-1.7B-Q8_0.gguf",
            1_834_426_016,
            "061b54daade076b5d3362dac252678d17da8c68f07560be70818cace6590cb1a",
        ),
        HubFile(
            "qwen3-4b",
            "Qwen/Qwen3-4B-GGUF",
            "bc640142c66e1fdd12af0bd68f40445458f3869b",
            "Qwen3-4B-Q4_K_M.gguf",
            2_497_280_256,
            "7485fe6f11af29433bc51cab58009521f205840f5b4ae3a32fa7f92e8534fdf5",
        ),
    )
}


def open_fetched(wanted: HubFile, progress: ByteProgress | None = None) -> int:
    """The file in the cache, open for reading, after all its bytes were checked; downloaded if it
    is not there. An interrupted download is continued.

    Processes that ask at the same time download it once. If the hub's own cache holds the file, it
    is copied from there.

    Raises:
        EmbeddedError: it cannot be fetched, or it is not the expected file and was removed.
    """
    target = name_fetched(wanted)
    try:
        make_cache_folder(target.parent)
        return open_or_write(target, wanted, lambda: _fetch_whole(target, wanted, progress))
    except EmbeddedError:
        raise
    except Exception as error:  # errors of the hub's library, of httpx and of the disk
        raise EmbeddedError(_explain(error, wanted)) from error


def name_fetched(wanted: HubFile) -> Path:
    """The path of the file once it is complete."""
    return cache_folder() / "weights" / f"{wanted.name}.gguf"


def _fetch_whole(target: Path, wanted: HubFile, progress: ByteProgress | None) -> None:
    """Write `target`, which appears only when it is complete and checked."""
    from huggingface_hub import try_to_load_from_cache

    partial = name_partial(target)
    there = try_to_load_from_cache(wanted.repo, wanted.file, revision=wanted.revision)
    if isinstance(there, str):
        copy_parts([Path(there)], partial, wanted.bytes, progress)
    else:
        _download(partial, wanted, progress)
    with partial.open("rb") as file:
        digest = hashlib.sha256()
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    size, found = partial.stat().st_size, digest.hexdigest()
    if (size, found) != (wanted.bytes, wanted.sha256):
        partial.unlink()
        raise EmbeddedError(
            f"the hub's {wanted.name} is not the expected file: {size} bytes of sha256 "
            f"{found} instead of {wanted.bytes} of {wanted.sha256}; it is removed"
        )
    partial.replace(target)
    write_digest(target, found)  # for people; the program itself checks the file again


def _download(partial: Path, wanted: HubFile, progress: ByteProgress | None) -> None:
    """Download to `partial`, from where an earlier download stopped. The hub's own function for a
    whole file would start again."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

    url = hf_hub_url(wanted.repo, wanted.file, revision=wanted.revision)
    headers = build_hf_headers(library_name="scale-dspy")
    location = get_hf_file_metadata(url, headers=headers).location
    if urlsplit(location).netloc != urlsplit(url).netloc:
        headers.pop("authorization", None)  # the hub's token is for no other host
    # Only a plain file is continued: a link could lead anywhere.
    if partial.is_symlink() or not partial.is_file() or partial.stat().st_size > wanted.bytes:
        os.close(create_file(partial, 0o644))
    flags = os.O_RDWR | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    with os.fdopen(os.open(partial, flags), "r+b") as file:
        done = file.seek(0, io.SEEK_END)
        http_get(
            location,
            file,
            resume_size=done,
            headers=headers,
            expected_size=wanted.bytes,
            displayed_filename=wanted.file,
            tqdm_class=_make_bar(progress),
        )


def _explain(error: Exception, wanted: HubFile) -> str:
    """Why a file could not be fetched, and what to do, in one line. A partial file is kept."""
    import httpx
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    again = f"the same command goes on where this one stopped ({wanted.bytes / 1e9:.2f} GB in all)"
    if isinstance(error, (OfflineModeIsEnabled, httpx.ConnectError)):
        return (
            f"{wanted.name} is not on this machine and the hub cannot be reached "
            f"({_shorten(error)}): fetch it where there is a network, set HF_ENDPOINT to a mirror, "
            "or leave --model out for the model that needs no hub"
        )
    if isinstance(error, HfHubHTTPError):
        return f"the hub does not give {wanted.name}: {_shorten(error)}; {again}"
    return f"the download of {wanted.name} was interrupted: {_shorten(error)}; {again}"


def _make_bar(progress: ByteProgress | None) -> Any:
    """A tqdm class for the hub's downloads that shows nothing itself and reports their progress."""
    from tqdm.std import tqdm

    class Bar(tqdm):  # the hub wants a class
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            kwargs.pop("name", None)
            super().__init__(*args, **{**kwargs, "file": io.StringIO(), "disable": False})

        def update(self, n: float | None = 1) -> Any:
            shown = super().update(n)
            if progress and self.total:
                progress(int(self.n), int(self.total))
            return shown

    return Bar


def _shorten(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"[:200]
