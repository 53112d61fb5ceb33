"""Records: JSON read into frozen dataclasses, every value checked against the type of its field.

A missing field takes its default, so that a file from before the field was added can still be read;
an unknown field is ignored. Numbers must be from 0 to LARGEST, unless an `Interval` says otherwise;
NaN and infinities are refused.
"""

from __future__ import annotations

import json
import types
from collections.abc import Callable, Mapping
from dataclasses import MISSING, asdict, fields, is_dataclass
from functools import cache
from typing import Annotated, Any, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from annotated_types import Interval

LARGEST = 2**53  # up to here a float holds every whole number

R = TypeVar("R")


Share = Annotated[float, Interval(ge=0, le=1)]


class WrongFieldError(ValueError):
    """A field's value is not of the kind that its record needs.

    Attributes:
        field: its path from the outermost record inwards: `steps[2].system`.
        must: what it has to be.
    """

    def __init__(self, field: str, must: str, found: str) -> None:
        what = f"field {field!r}" if field else "it"
        super().__init__(f"{what} must be {must}, and is {found}")
        self.field, self.must, self.found = field, must, found

    def inside(self, place: str) -> WrongFieldError:
        """The same error as seen from the record or list around this one."""
        joint = "" if not self.field or self.field.startswith("[") else "."
        return WrongFieldError(f"{place}{joint}{self.field}", self.must, self.found)


def read_record(kind: type[R], value: Any) -> R:
    """A record from parsed JSON.

    Args:
        kind: a dataclass. Its fields are text, numbers, bools, tuples (named ones too), dicts
            with text as keys, other such dataclasses, or any of these or None.

    Raises:
        WrongFieldError: a field is missing, or has a value of another kind.
    """
    return cast(R, _make_reader(cast(Any, kind))(value))


def parse_record(kind: type[R], line: bytes | str, where: str, noun: str) -> R:
    """A record from a line of JSON.

    Args:
        where: file and line, for the message.
        noun: what the record is called there.

    Raises:
        ValueError: the line is no such record; the message says in one line where and why.
    """
    try:
        value = parse_json(line)
    except ValueError:
        raise ValueError(f"{where} is no {noun}: {line[:60]!r}") from None
    try:
        return read_record(kind, value)
    except ValueError as error:
        raise ValueError(f"{where} is no {noun}: {error}") from None


def parse_json(text: bytes | str) -> Any:
    """Parsed JSON; ValueError if the text is no JSON, nested too deeply or not UTF-8."""
    try:
        return json.loads(text.decode("utf-8") if isinstance(text, bytes) else text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def write_record(record: Any) -> str:
    """A record as a line of JSON, which `parse_record` can read."""
    return json.dumps(asdict(record), ensure_ascii=False) + "\n"


Reader = Callable[[Any], Any]


@cache
def _make_reader(hint: Any) -> Reader:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        span: Any = next(each for each in arguments[1:] if isinstance(each, Interval))
        read = _read_whole if arguments[0] is int else _read_number
        return read(span.ge, span.le)
    if origin in (Union, types.UnionType):
        (inner,) = (each for each in arguments if each is not type(None))
        return _read_optional(_make_reader(inner))
    if origin is tuple:
        if arguments[-1] is ...:
            return _read_list(_make_reader(arguments[0]))
        return _read_items(tuple(map(_make_reader, arguments)))
    if origin in (dict, Mapping):
        return _read_object(_make_reader(arguments[1]))
    if is_dataclass(hint):
        return _read_dataclass(cast(type, hint))
    if hasattr(hint, "_fields"):
        return _read_named_tuple(hint)
    return _PLAIN[hint]


def _read_text(value: Any) -> str:
    if not isinstance(value, str):
        raise _refuse(value, "a text")
    return value


def _read_flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise _refuse(value, "true or false")
    return value


def _read_whole(low: float, high: float) -> Reader:
    must = f"a whole number from {low:g} to {high:g}"

    def read(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise _refuse(value, must)
        if not low <= value <= high:
            raise _refuse(value, must)
        return value

    return read


def _read_number(low: float, high: float) -> Reader:
    must = f"a number from {low:g} to {high:g}"

    def read(value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise _refuse(value, must)
        if not low <= value <= high:
            raise _refuse(value, must)
        return float(value)

    return read


def _read_scalar(value: Any) -> Any:
    """The value of a field of type Any: anything but a list or an object."""
    if isinstance(value, (int, float)) and not abs(value) <= LARGEST:
        raise _refuse(value, f"at most {LARGEST}")
    if isinstance(value, (list, dict)):
        raise _refuse(value, "a text, a number, true, false or null")
    return value


def _read_optional(inner: Reader) -> Reader:
    return lambda value: None if value is None else inner(value)


def _read_list(inner: Reader) -> Reader:
    def read(value: Any) -> tuple[Any, ...]:
        if value is None:
            return ()
        if not isinstance(value, list):
            raise _refuse(value, "a list")
        items = []
        for place, item in enumerate(value):
            try:
                items.append(inner(item))
            except WrongFieldError as error:
                raise error.inside(f"[{place}]") from None
        return tuple(items)

    return read


def _read_items(inner: tuple[Reader, ...]) -> Reader:
    def read(value: Any) -> tuple[Any, ...]:
        if not isinstance(value, list) or len(value) != len(inner):
            raise _refuse(value, f"a list of {len(inner)}")
        items = []
        for place, (reader, item) in enumerate(zip(inner, value, strict=True)):
            try:
                items.append(reader(item))
            except WrongFieldError as error:
                raise error.inside(f"[{place}]") from None
        return tuple(items)

    return read


def _read_named_tuple(kind: Any) -> Reader:
    hints = get_type_hints(kind, include_extras=True)
    read = _read_items(tuple(_make_reader(hints[name]) for name in kind._fields))
    late = tuple(kind._field_defaults.values())  # fields with a default stand last

    def fill(value: Any) -> Any:
        missing = len(kind._fields) - len(value) if isinstance(value, list) else 0
        filled = [*value, *late[-missing:]] if 0 < missing <= len(late) else value
        return kind._make(read(filled))

    return fill


def _read_object(inner: Reader) -> Reader:
    def read(value: Any) -> dict[str, Any]:
        if value is None:
            return {}
        if not isinstance(value, dict):
            raise _refuse(value, "an object")
        items = {}
        for name, item in value.items():
            try:
                items[name] = inner(item)
            except WrongFieldError as error:
                raise error.inside(_shorten(name)) from None
        return items

    return read


def _read_dataclass(kind: type) -> Reader:
    hints = get_type_hints(kind, include_extras=True)
    wanted = [
        (each.name, _make_reader(hints[each.name]), _is_required(each)) for each in fields(kind)
    ]

    def read(value: Any) -> Any:
        if not isinstance(value, dict):
            raise _refuse(value, "an object")
        found = {}
        for name, reader, required in wanted:
            if name not in value:
                if required:
                    raise WrongFieldError(name, "there", "missing")
                continue
            try:
                found[name] = reader(value[name])
            except WrongFieldError as error:
                raise error.inside(name) from None
        return kind(**found)

    return read


def _is_required(each: Any) -> bool:
    return each.default is MISSING and each.default_factory is MISSING


def _refuse(value: Any, must: str) -> WrongFieldError:
    return WrongFieldError("", must, _show(value))


def _show(value: Any) -> str:
    """A value of a file in a few characters; of a list or an object only its kind."""
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return f"a list of {len(value)}"
    return _shorten(json.dumps(value)) if not isinstance(value, str) else repr(_shorten(value))


def _shorten(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:39]}…"


_PLAIN: dict[Any, Reader] = {
    str: _read_text,
    bool: _read_flag,
    Any: _read_scalar,
    int: _read_whole(0, LARGEST),
    float: _read_number(0, LARGEST),
}
