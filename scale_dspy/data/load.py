"""Turn named math sets, sets of the Hugging Face hub and JSON Lines files into `dspy.Example`s.

Whatever a set calls its columns and however it writes its answers, the examples come out alike.
The known sets are in `registry.py`.
"""

from __future__ import annotations

import codecs
import hashlib
import json
import logging
import math
import os
import re
from collections.abc import Iterable, Mapping
from decimal import Decimal
from functools import cache
from pathlib import Path
from types import NoneType
from typing import Any, NamedTuple

import dspy
import httpx

from scale_dspy.data.registry import SOURCES, Kind, Source
from scale_dspy.grading.answers import find_answer, normalise

logger = logging.getLogger(__name__)

DATA_DIR_VARIABLE = "SCALE_DATA_DIR"
PATIENCE = 5.0  # seconds that the hub may take to answer at all


class DataError(ValueError):
    """A set cannot be loaded; the message is one line saying what is wrong, where, what to do."""


class Row(NamedTuple):
    """One problem as it was read: where, and the fields that have a value, by lower-case name."""

    where: str
    fields: Mapping[str, Any]


def load(name: str, *, limit: int | None = None) -> list[dspy.Example]:
    """Load a set of problems.

    Args:
        name: A name of `SOURCES`, a hub path `owner/name[/config][:split]`, or the path of a JSON
            Lines file (`.jsonl` or `.json`) with `problem` and `answer`. A copy `NAME.jsonl` in
            the folder that the environment variable SCALE_DATA_DIR names wins over the hub.
        limit: Take at most this many, from the front.

    Returns:
        Examples whose only input is `problem`, with `id` (unique in the set), `problem`, `answer`
        (the gold, canonical), `answers` (all that are accepted, the gold first), `kind`
        ("integer" where every answer of the set is one, else "math"), `source` (the set's name)
        and, where the set has them, `solution` and those of `GROUPS`, all text; `steps` is how
        many lines of working a gsm8k problem takes.

    Raises:
        DataError: The set cannot be found or read, a problem of it is malformed, or `limit` is
            below 1.
    """
    if limit is not None and limit < 1:
        raise DataError(f"limit is {limit}; it must be at least 1")
    source, rows = _read_set(name)
    if source.until is not None:
        rows = [row for row in rows if str(row.fields.get("year", "")) <= str(source.until)]
    if not rows:
        raise DataError(f"{_shorten(name)} holds no problems")
    examples = _make_examples(source, rows)
    return examples[:limit]


def load_local(name: str) -> list[dspy.Example] | None:
    """`load` a set that needs no network: `mini`, a file, or one with a local copy; else None.

    Raises:
        DataError: as for `load`.
    """
    local = name == "mini" or name.endswith((".jsonl", ".json"))
    if not local and _find_local_copy(SOURCES.get(name) or _parse_name(name)) is None:
        return None
    return load(name)


def digest(examples: Iterable[dspy.Example]) -> str:
    """Fingerprint what is asked and what is accepted, so that two runs can be seen to match.

    Returns the first 16 hexadecimal digits of the SHA-256 of `[[id, problem, answers], ...]`, in
    the order given, as JSON in ASCII without spaces.
    """
    content = [[example.id, example.problem, example.answers] for example in examples]
    text = json.dumps(content, separators=(",", ":"))
    return hashlib.sha256(text.encode("ascii")).hexdigest()[:16]


# ---- where a set is -------------------------------------------------------------------------


def drop_folder(name: str) -> str:
    """The name of a set without the folder of its file, which may tell who a user is.

    >>> drop_folder("home/me/mine.jsonl"), drop_folder("owner/set:test")
    ('mine.jsonl', 'owner/set:test')
    """
    return Path(name).name if ".json" in name else name


_HUB_PATH = re.compile(r"(\w[\w.-]*/\w[\w.-]*)(?:/(\w[\w.-]*))?(?::(.+))?", re.ASCII)


def _read_set(name: str) -> tuple[Source, list[Row]]:
    """Find out what `name` means, and read it."""
    if name == "mini":
        return SOURCES[name], _read_file(Path(__file__).with_name("mini.jsonl"))
    if name.endswith((".jsonl", ".json")):
        return Source(Path(name).stem), _read_file(Path(name))
    source = SOURCES.get(name) or _parse_name(name)
    copy = _find_local_copy(source)
    if copy is not None:
        logger.info("%s is read from %s", name, copy)
        return source, _read_file(copy)
    if source.hub is None:
        raise DataError(
            f"no set is called {_shorten(name)}: give one of {', '.join(SOURCES)}, a hub path"
            " (owner/name, owner/name/config, owner/name:split) or a file NAME.jsonl"
        )
    return source, _read_hub(source)


def _parse_name(name: str) -> Source:
    """Read a hub path; any other name can only be that of a local copy."""
    match = _HUB_PATH.fullmatch(name)
    return Source(name, match[1], match[2], match[3]) if match else Source(name)


def _find_local_copy(source: Source) -> Path | None:
    folder = os.environ.get(DATA_DIR_VARIABLE)
    if not folder:
        return None
    if not Path(folder).is_dir():
        raise DataError(f"{DATA_DIR_VARIABLE} is {_shorten(folder)}, which is not a folder")
    copies = {path.stem: path for path in Path(folder).glob("*.jsonl")}
    return next((copies[name] for name in (source.name, *source.files) if name in copies), None)


# ---- sets of the hub ------------------------------------------------------------------------


def _load_dataset(hub: str, config: str | None, split: str | None) -> Any:
    """Call `datasets.load_dataset`. Only this function imports `datasets`."""
    reached = reach_hub()
    import datasets
    import huggingface_hub

    if not reached:  # what is in its cache is still there, and nothing is tried for minutes
        datasets.config.HF_HUB_OFFLINE = True
        huggingface_hub.constants.HF_HUB_OFFLINE = True
    try:
        return datasets.load_dataset(hub, config, split=split)
    except Exception:
        if reached:
            raise
        told = f"it did not answer in {PATIENCE:g} seconds, and its cache does not hold {hub}"
        raise ConnectionError(told) from None


@cache
def reach_hub() -> bool:
    """Whether the hub answers at all, asked once a process; its own client tries for minutes."""
    address = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    try:
        httpx.head(address, timeout=PATIENCE)
    except (httpx.HTTPError, httpx.InvalidURL, OSError):
        return False
    return True


def _read_hub(source: Source) -> list[Row]:
    if source.note:
        logger.warning("%s: %s", source.name, source.note)
    try:
        found = _load_dataset(str(source.hub), source.config, source.split)
    except Exception as error:  # the hub, the network and the parsers raise a dozen kinds
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        remedy = (
            f"put a copy {source.name}.jsonl into a folder and set {DATA_DIR_VARIABLE} to it"
            if source.name in SOURCES
            else "check owner/name, /config and :split"
        )
        raise DataError(
            f"cannot load {source.hub} from the hub: {remedy}, or give a JSON Lines file ({reason})"
        ) from error
    rows = _choose_split(source, found) if isinstance(found, dict) else found
    return [_make_row(f"{source.name}, row {i}", fields) for i, fields in enumerate(rows)]


def _choose_split(source: Source, splits: Mapping[str, Any]) -> Any:
    """Take the only split, or `test`; a set with neither leaves the choice to the user."""
    if len(splits) > 1 and "test" not in splits:
        raise DataError(
            f"{source.name} has the splits {', '.join(splits)}: choose one as {source.name}:SPLIT"
        )
    return splits.get("test", next(iter(splits.values())))


# ---- JSON Lines files -----------------------------------------------------------------------


def _read_file(path: Path) -> list[Row]:
    """Read the objects of a JSON Lines file; a byte order mark, blank lines and CRLF may occur."""
    try:
        content = path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"the file {_shorten(str(path))} cannot be read: {reason}") from error
    lines = content.removeprefix(codecs.BOM_UTF8).split(b"\n")
    return [
        _make_row(f"{path}:{number}", _parse_line(line, f"{path}:{number}"))
        for number, line in enumerate(lines, start=1)
        if line.strip()
    ]


def _parse_line(line: bytes, where: str) -> dict[str, Any]:
    try:
        value = json.loads(line.decode())
    except json.JSONDecodeError as error:
        raise DataError(f"{where}: not valid JSON: {error.msg} (column {error.colno})") from error
    except (ValueError, RecursionError) as error:  # not UTF-8, thousands of digits, nested too deep
        raise DataError(f"{where}: not valid JSON: {str(error).partition(';')[0]}") from error
    if not isinstance(value, dict):
        raise DataError(f"{where}: not a JSON object (one a line is needed)")
    return value


# ---- from rows to examples ------------------------------------------------------------------

_PROBLEM_NAMES = ("problem", "question", "prompt", "input")
_ANSWER_NAMES = ("answer", "final_answer", "expected_answer", "gold", "ground_truth", "target")
_SOLUTION_NAMES = ("solution", "rationale")
_ID_NAMES = ("unique_id", "id", "problem_idx", "problem_id", "question_id", "uid")
_HOLLOW = re.compile(r"[\s$#.{}*]*(?:\\(?:boxed|fbox|text)\s*\{[\s$]*\}[\s$.]*)*")
_GSM8K_MARK = "####"  # stands between the working and the answer, both in the answer's column


def _make_row(where: str, fields: Mapping[str, Any]) -> Row:
    return Row(where, {name.lower(): value for name, value in fields.items() if value is not None})


def _pick(row: Row, names: Iterable[str]) -> Any:
    """Take the first of these fields that has a value; None where none has."""
    return next((row.fields[name] for name in names if name in row.fields), None)


def _make_examples(source: Source, rows: list[Row]) -> list[dspy.Example]:
    ids = _assign_ids(source, rows)
    problems = [_read_problem(row) for row in rows]
    golds = [_read_golds(source, row, id_) for row, id_ in zip(rows, ids, strict=True)]
    kind = _find_kind(source, rows, golds)
    if kind == "integer":
        golds = [list(dict.fromkeys(map(_write_integer, gold))) for gold in golds]
    return [
        dspy.Example(
            id=id_,
            problem=problem,
            answer=gold[0],
            answers=gold,
            kind=kind,
            source=source.name,
            **_read_extras(row),
        ).with_inputs("problem")
        for row, id_, problem, gold in zip(rows, ids, problems, golds, strict=True)
    ]


def _assign_ids(source: Source, rows: list[Row]) -> list[str]:
    """Take each row's id, or make one from its index; no two may be the same."""
    seen: dict[str, str] = {}
    for index, row in enumerate(rows):
        value = _pick(row, _ID_NAMES)
        id_ = f"{source.name}-{index}" if value is None else _require_text(row, "id", value)
        if id_ in seen:
            raise DataError(f"{row.where}: field 'id' repeats {seen[id_]}: {_shorten(id_)}")
        seen[id_] = row.where
    return list(seen)


def _read_problem(row: Row) -> str:
    value = _pick(row, _PROBLEM_NAMES)
    text = _clean(value) if isinstance(value, str) else ""
    if not text:
        raise _refuse(row, "problem", "text", value)
    return text


def _read_golds(source: Source, row: Row, id_: str) -> list[str]:
    """Read every answer that counts as right: a correction wins over what was published."""
    correction = _pick(row, ["corrected_answer"])
    if correction is not None:
        return [_require_text(row, "corrected_answer", correction)]
    published = _read_published_answer(row)
    wrong, right = source.corrected.get(id_, (None, ""))
    if published == wrong:
        return [right]
    accepted = _pick(row, ["accepted_answers"])
    if accepted is None:
        both = _BOTH.fullmatch(published)
        return list(both.groups()) if both else [published]
    if not isinstance(accepted, list):
        raise _refuse(row, "accepted_answers", "a list", accepted)
    others = [_require_text(row, "accepted_answers", value) for value in accepted]
    return list(dict.fromkeys([published, *others]))


def _read_published_answer(row: Row) -> str:
    """Read the answer's column, or the end of the solution in a set that has no such column."""
    value = _pick(row, _ANSWER_NAMES)
    solution = _pick(row, _SOLUTION_NAMES)
    blank = isinstance(value, str) and not _clean(value) and isinstance(solution, str)
    if value is not None and not blank:
        text = _require_text(row, "answer", value)
        return _require_answer(row, value, _find_marked_answer(text) or text)
    final = _find_marked_answer(_clean(solution)) if isinstance(solution, str) else None
    return _require_text(row, "answer", final)


def _require_answer(row: Row, value: Any, answer: str) -> str:
    r"""The gold answer, which must not be empty: neither `\boxed{}` nor `####` alone."""
    if normalise(answer) in ("", _GSM8K_MARK) or _HOLLOW.fullmatch(answer):
        raise _refuse(row, "answer", "an answer", value)
    return answer


def _read_extras(row: Row) -> dict[str, Any]:
    """Read what a set may have besides; a value that is no text is left out."""
    solution = _pick(row, _SOLUTION_NAMES)
    if solution is None:
        working, mark, _ = str(_pick(row, _ANSWER_NAMES)).rpartition(_GSM8K_MARK)
        solution = working if mark else None
    extras = {
        "solution": _as_text(solution),
        "level": _as_text(_pick(row, ["level", "difficulty"])),
        "subject": _as_text(_pick(row, ["subject", "type"])),
        "year": _as_text(_pick(row, ["year"])),
        "steps": _count_lines(solution) if "<<" in str(solution) else None,
    }
    return {name: text for name, text in extras.items() if text}


def _count_lines(working: Any) -> str:
    """How many lines of a gsm8k working calculate something, between `<<` and `>>`."""
    return str(sum("<<" in line for line in str(working).splitlines()))


# ---- how answers are written ----------------------------------------------------------------

_INTEGER = re.compile(r"([+-]|\N{MINUS SIGN})?([0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.0*)?")
_BOTH = re.compile(r"([0-9]+) or ([0-9]+) \(both were accepted\)")  # as the AIME's key has it


def _find_marked_answer(text: str) -> str | None:
    """Find what stands in the last box or after the last ####; None where neither occurs."""
    start = max(text.rfind(r"\boxed"), text.rfind(_GSM8K_MARK))
    answer = find_answer(text[start:]) if start >= 0 else None
    return _write_integer(answer) if answer else None


def _find_kind(source: Source, rows: list[Row], golds: list[list[str]]) -> Kind:
    """Find whether every answer is an integer; a set whose answers must be may have no others."""
    if source.kind == "math":
        return "math"
    for row, gold in zip(rows, golds, strict=True):
        if not all(map(_INTEGER.fullmatch, gold)):
            if source.kind is None:
                return "math"
            raise DataError(
                f"{row.where}: field 'answer' is {_shorten(' or '.join(gold))}, which is not an"
                f" integer as the answers of {source.name} are"
            )
    return "integer"


def _write_integer(text: str) -> str:
    """Write 025, 27.0, +5 and 1,234 as 25, 27, 5 and 1234; leave what is no integer."""
    match = _INTEGER.fullmatch(text)
    if match is None:
        return text
    digits = match[2].replace(",", "").lstrip("0") or "0"
    return digits if match[1] in (None, "+") or digits == "0" else f"-{digits}"


# ---- how text and numbers are written -------------------------------------------------------

# JSON reads the \f of \frac as a form feed, the \b of \binom as a backspace and the \t of \times as
# a tab. Tabs may be meant, so only known commands are restored there.
_BROKEN_COMMAND = re.compile(
    r"[\x08\x0c](?=[A-Za-z])"
    r"|\t(?=(?:au|binom|dots|ext(?:bf|it|rm)?|frac|heta|herefore|ilde|imes|o|riangle)(?![A-Za-z]))"
)
_LETTERS = {"\x08": "b", "\x0c": "f", "\t": "t"}
_UNPRINTABLE = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


def _clean(text: str) -> str:
    """Restore broken LaTeX commands; leave no control character but the newline."""
    text = _BROKEN_COMMAND.sub(lambda found: "\\" + _LETTERS[found[0]], text)
    return _UNPRINTABLE.sub(" ", text.replace("\r\n", "\n")).strip()


def _as_text(value: Any) -> str | None:
    """Write text or a number as text, a whole float without its `.0`; None for anything else."""
    if isinstance(value, str):
        return _clean(value)
    if isinstance(value, float) and math.isfinite(value):
        return str(int(value)) if value.is_integer() else _write_decimal(value)
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else None


def _write_decimal(value: float) -> str:
    """Write 1e-05 as 0.00001, as a set's author meant it."""
    return format(Decimal(repr(value)), "f")


def _require_text(row: Row, name: str, value: Any) -> str:
    text = _as_text(value)
    if not text:
        several = " (other right answers go into 'accepted_answers')"
        must = "text or a number" + (several if isinstance(value, list) else "")
        raise _refuse(row, name, must, value)
    return text


def _refuse(row: Row, name: str, must: str, value: Any) -> DataError:
    found = {list: "a list", dict: "an object", str: "empty", NoneType: "missing"}.get(type(value))
    fields = ", ".join(_shorten(key) for key in list(row.fields)[:10]) or "nothing"
    return DataError(
        f"{row.where}: field '{name}' must be {must}, and is {found or value}; the row has {fields}"
    )


def _shorten(text: str) -> str:
    """Quote a text of unknown content in a message: escaped, and shortened."""
    return repr(text if len(text) <= 60 else f"{text[:57]}...")
