"""The shapes of answers: a value, a word, a list, a set, a point, an interval, a relation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Union

import sympy

from scale_dspy.grading.units import Unit


@dataclass(frozen=True)
class Number:
    """A formula, with its unit and whether a per cent sign stood behind it.

    `double` is its text where it has the digits of a binary double, and may be one that was
    printed. It is `compound` where it was summed up from several units, so that it has none.
    """

    value: sympy.Expr
    unit: Unit | None = None
    percent: bool = False
    double: str = ""
    compound: bool = False


@dataclass(frozen=True)
class Word:
    """A text that is compared character by character."""

    text: str


@dataclass(frozen=True)
class Several:
    """Values side by side: `brackets` is "" for a list, "{}" for a set, else as written."""

    items: tuple[Shape, ...]
    brackets: str = ""
    joined: Literal["", "and", "or"] = ""


@dataclass(frozen=True)
class Named:
    """A value with its name, as in `x = 3`."""

    name: str
    value: Shape


@dataclass(frozen=True)
class Relation:
    """An equation or a chain of inequalities: one more side than signs."""

    sides: tuple[sympy.Expr, ...]
    signs: tuple[str, ...]


@dataclass(frozen=True)
class Region:
    """A set of real numbers."""

    points: sympy.Set


@dataclass(frozen=True)
class Ratio:
    """`3:5`, or a time of day."""

    parts: tuple[sympy.Expr, ...]
    clock: bool = False
    unit: Unit | None = None


@dataclass(frozen=True)
class Based:
    """A numeral with its base."""

    digits: str
    base: int


@dataclass(frozen=True)
class Modular:
    """A residue with its modulus."""

    value: sympy.Expr
    modulus: sympy.Expr


@dataclass(frozen=True)
class Grid:
    """A matrix."""

    rows: tuple[tuple[Shape, ...], ...]


Shape = Union[Number, Word, Several, Named, Relation, Region, Ratio, Based, Modular, Grid]  # noqa: UP007
