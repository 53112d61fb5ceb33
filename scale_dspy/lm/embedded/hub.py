"""Weights from the Hugging Face hub: a publisher's GGUF file at a pinned revision, checked.

The file lies in the hub's own cache, where other programs find it too. HF_ENDPOINT, HF_HUB_CACHE,
HF_HUB_OFFLINE and HF_TOKEN mean what they mean everywhere.
"""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scale_dspy.lm.embedded.weights import CHUNK, EmbeddedError, Progress, cache_folder


@dataclass(frozen=True)
class HubFile:
    """A GGUF file of a repository on the hub."""

    name: str  # for --model
    repo: str
    revision: str  # a commit, which cannot change
    file: str
    bytes: int
    sha256: str


# Qwen's own conversions, Apache-2.0. Revisions, sizes and digests as several public repositories
# quote them from the hub's own listing, read in 2026-11; the hub itself could not be asked.
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


def fetch(wanted: HubFile, progress: Progress | None = None) -> Path:
    """The file in the hub's cache, downloaded if it isn't there; one that was cut off goes on.

    Raises:
        EmbeddedError: it cannot be had, or it is not the expected one; then it is removed.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        path = Path(
            hf_hub_download(
                wanted.repo,
                wanted.file,
                revision=wanted.revision,
                library_name="scale-dspy",
                tqdm_class=_make_bar(progress),
            )
        )
    except LocalEntryNotFoundError as error:
        raise EmbeddedError(
            f"{wanted.name} is not on this machine and the hub cannot be reached "
            f"({_shorten(error.__cause__ or error)}): fetch it where there is a network, set "
            "HF_ENDPOINT to a mirror, or leave --model out for the model that needs no hub"
        ) from None
    except HfHubHTTPError as error:
        raise EmbeddedError(f"the hub does not give {wanted.name}: {_shorten(error)}") from None
    except Exception as error:  # httpx's and the disk's; whatever is there stays, to go on from
        raise EmbeddedError(
            f"{wanted.name} was not fetched to its end: {_shorten(error)}; the same command goes "
            f"on where this one stopped ({wanted.bytes / 1e9:.2f} GB in all)"
        ) from error
    if not _is_checked(path, wanted):
        _check(path, wanted)
    return path


def _check(path: Path, wanted: HubFile) -> None:
    """Compare size and digest, and note that they are right; EmbeddedError where they are not."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    size, found = path.stat().st_size, digest.hexdigest()
    if (size, found) != (wanted.bytes, wanted.sha256):
        path.resolve().unlink(missing_ok=True)
        path.unlink(missing_ok=True)
        raise EmbeddedError(
            f"what the hub gave for {wanted.name} is not the expected file: {size} bytes of sha256 "
            f"{found} instead of {wanted.bytes} of {wanted.sha256}; it is removed"
        )
    record = _find_record(wanted)
    record.parent.mkdir(parents=True, exist_ok=True)
    record.write_text(_stamp(path) + "\n", encoding="ascii")


def _is_checked(path: Path, wanted: HubFile) -> bool:
    """Whether this very file was checked before."""
    try:
        return _find_record(wanted).read_text(encoding="ascii").strip() == _stamp(path)
    except (OSError, UnicodeDecodeError):
        return False


def _stamp(path: Path) -> str:
    there = path.stat()
    return f"{there.st_size} {there.st_mtime_ns}"


def _find_record(wanted: HubFile) -> Path:
    return cache_folder() / "weights" / f"{wanted.sha256}.checked"


def _make_bar(progress: Progress | None) -> Any:
    """A bar for the hub's downloads that shows nothing itself and hands on how far they are."""
    from tqdm.std import tqdm

    class Bar(tqdm):  # a class is what the hub wants
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
