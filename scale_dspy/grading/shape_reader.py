r"""Read an answer into its shape: a value, a word, a list, a set, a point, an interval, a relation.

`read_shape` splits a text at what joins its parts, from the outside in, and hands the leaves to
`words` (units, nouns) and `formula` (mathematics). What it makes, `comparison` compares.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from fractions import Fraction
from typing import Literal

import sympy
from sympy import S

from scale_dspy.grading.answer_words import read_word
from scale_dspy.grading.formula import read_formula
from scale_dspy.grading.functions import UnreadableError
from scale_dspy.grading.names import is_name, spell_name
from scale_dspy.grading.regions import as_region, join_regions, read_points
from scale_dspy.grading.scales import spell_scales
from scale_dspy.grading.shapes import (
    Based,
    Grid,
    Modular,
    Named,
    Number,
    Ratio,
    Region,
    Relation,
    Several,
    Shape,
    Word,
)
from scale_dspy.grading.splitting import encloses, split, strip, turn_brackets
from scale_dspy.grading.units import UNITS, Unit, read_compound
from scale_dspy.grading.words import drop_estimate, drop_explanation, drop_lead, split_value

DEEPEST = 12
"""Nesting depth beyond which an answer is refused."""


def read_shape(text: str, depth: int = 0) -> Shape:
    """Read an answer.

    Args:
        text: as `spelling.prepare` gives it.
        depth: how many shapes it is nested in.

    Raises:
        UnreadableError: it can only be compared letter by letter.
    """
    text = turn_brackets(strip(text))
    if depth > DEEPEST or not text:
        raise UnreadableError("there is nothing, or too deep")
    word = read_word(text)
    if word is not None:
        return word
    for read in (
        _read_list,
        _read_relation,
        _read_region,
        _read_plus_minus,
        _read_brackets,
        _read_based,
        _read_ratio,
    ):
        shape = read(text, depth)
        if shape is not None:
            return shape
    return _read_leaf(text, depth)


# ---- lists and brackets ---------------------------------------------------------------------


def _read_list(text: str, depth: int) -> Shape | None:
    for kinds_first in (("semi",), ("and", "or")):  # x=1, y=2; x=2, y=1
        groups, joints = split(text, kinds_first)
        if joints and len(groups) > 1 and all("=" in each and "," in each for each in groups):
            return Several(tuple(read_shape(group, depth + 1) for group in groups))
    parts, joints = split(text, ("comma", "semi", "and", "or"))
    if not joints:
        return None
    if (joints[-1][0] in ("and", "or") and not parts[-1]) or (
        joints[0][0] == "or" and not parts[0]
    ):
        raise UnreadableError("a part is missing")
    kept = [part for part in map(strip, parts) if part]
    if len(kept) == 1:
        return read_shape(kept[0], depth + 1)
    kinds = {kind for kind, _ in joints} - {"comma", "semi"}
    items = list(_read_items(kept, depth))
    joined: Literal["", "and", "or"] = "or" if "or" in kinds else "and" if "and" in kinds else ""
    return _gather(items, joined)


def _read_items(parts: list[str], depth: int) -> Iterator[Shape]:
    for part in parts:
        if part in ("\\ldots", "..."):
            yield Word("...")
        else:
            shape = read_shape(part, depth + 1)
            if isinstance(shape, Several) and shape.joined == "or" and not shape.brackets:
                yield from shape.items  # of a plus-minus
            else:
                yield shape


def _gather(items: list[Shape], joined: Literal["", "and", "or"]) -> Shape:
    """Make a list; join regions to one, and a list under one name to a named list."""
    if all(isinstance(item, Region) for item in items):
        return join_regions([item.points for item in items if isinstance(item, Region)], joined)
    regions = [as_region(item) if isinstance(item, Relation) else None for item in items]
    if all(region is not None for region in regions):
        return join_regions([region for region in regions if region is not None], joined)
    names = [item.name for item in items if isinstance(item, Named)]
    first = items[0]
    if isinstance(first, Named):
        bases = {re.sub(r"_\{?\w+\}?\Z", "", name) for name in names}
        if len(bases) == 1 and (len(set(names)) == 1 or len(names) == len(items)):
            values: list[Shape] = []
            for item in items:
                value = item.value if isinstance(item, Named) else item
                spread = isinstance(value, Several) and value.joined == "or" and not value.brackets
                values.extend(value.items if isinstance(value, Several) and spread else [value])
            return Named(bases.pop(), Several(tuple(values), "", joined))
    return Several(tuple(items), "", joined)


_PAIRS = {"(": ")", "[": "]", "\\{": "\\}", "\\langle": "\\rangle"}
_BRACKETED = re.compile(r"(\\\{|\\langle(?![A-Za-z])|[(\[\]])(.*)(\\\}|\\rangle|[)\]\[])", re.S)
_MATRIX = re.compile(
    r"\\begin\{(?P<kind>[pbvBV]?matrix|smallmatrix|array)\}\s*(?:\{[lcr"
    r"| ]*\})?(?P<body>(?:(?!\\begin).)*)\\end\{(?P=kind)\}",
    re.S,
)


def _read_brackets(text: str, depth: int) -> Shape | None:
    matrix = _MATRIX.fullmatch(text)
    if matrix:
        return _read_matrix(matrix, depth)
    match = _BRACKETED.fullmatch(text)
    if match is None or not encloses(text, match):
        return None
    opening, inside, closing = match[1], match[2].strip(), match[3]
    if opening == "\\{":
        return _read_set(inside, depth)
    if not inside:
        return None
    parts, joints = split(inside, ("comma", "semi"))
    if not joints:
        if opening + closing in ("()", "[]") and (
            _MATRIX.fullmatch(inside) or not _is_formula(text)
        ):
            return read_shape(inside, depth + 1)
        return None
    brackets = "()" if opening == "\\langle" else opening + closing
    items = tuple(read_shape(part, depth + 1) for part in parts)
    if brackets == "][" or brackets == "](" or brackets == ")[":
        brackets = {"][": "()"}.get(brackets, brackets)
    return Several(items, brackets)


def _is_formula(text: str) -> bool:
    try:
        read_formula(text)
    except UnreadableError:
        return False
    return True


def _read_set(inside: str, depth: int) -> Shape:
    if not inside:
        return Region(S.EmptySet)
    if re.search(r"\||(?<![0-9\s]):(?![0-9])|\s:\s", inside) and _SET_BUILDER.match(inside):
        condition = inside.replace(":", "|", 1).partition("|")[2]
        shape = read_shape(condition, depth + 1)
        if isinstance(shape, (Relation, Named, Region)):
            return shape
    parts, _ = split(inside, ("comma", "semi"))
    return Several(tuple(_read_items([part for part in parts if part], depth)), "{}")


_SET_BUILDER = re.compile(r"\s*[A-Za-z](?:\s*\\in\s*\\mathbb\{R\})?\s*[|:]")


def _read_matrix(match: re.Match[str], depth: int) -> Grid:
    rows = []
    for row in re.split(r"\\\\(?:\[[^\]]*\])?", match["body"].replace("\\hline", "")):
        if row.strip():
            rows.append(tuple(read_shape(cell, depth + 1) for cell in row.split("&")))
    if not rows or len({len(row) for row in rows}) > 1 or match["kind"] in ("vmatrix", "Vmatrix"):
        raise UnreadableError("no matrix")
    return Grid(tuple(rows))


# ---- relations ------------------------------------------------------------------------------

_TUPLE_NAME = re.compile(r"\(\s*[A-Za-z]\w*(?:_\{?\w+\}?)?(?:\s*,\s*[A-Za-z](?:_\{?\w+\}?)?)+\s*\)")
_MODULUS = re.compile(
    r"(?:\\[,;: ]|\s|~)*(?:\\pmod\s*\{?\s*|\(?\s*(?:\\bmod|\\mod"
    r"|\\text\s*\{\s*\(?mod(?:ulo)?\s*\}?"
    r"|mod(?:ulo)?(?![a-z]))\s*)(?P<modulus>\w+)\s*[)}]*\Z"
)


def _read_relation(text: str, depth: int) -> Shape | None:
    modulus = _MODULUS.search(text)
    if modulus:
        rest = text[: modulus.start()]
        left, _, right = rest.rpartition("\\equiv")
        if left and not is_name(left):
            raise UnreadableError("a congruence")
        return Modular(read_formula(strip(right)), read_formula(modulus["modulus"]))
    parts, joints = split(text, ("sign",))
    signs = [sign for _, sign in joints]
    if not signs:
        return None
    if signs == ["\\in"]:
        if not is_name(parts[0]):
            raise UnreadableError("membership of no name")
        return Named(spell_name(parts[0]), read_shape(parts[1], depth + 1))
    if set(signs) == {"="}:
        return _read_equation(parts, depth)
    if signs == ["\\approx"] and is_name(parts[0]):
        return Named(spell_name(parts[0]), read_shape(parts[1], depth + 1))
    if signs[0] == "=" and is_name(parts[0]) and "\\approx" in signs:
        return read_shape(text[: text.rindex("\\approx")], depth + 1)
    if set(signs) <= {"<", ">", "\\le", "\\ge", "\\ne"}:
        if not all(parts):
            raise UnreadableError("a side is missing")
        return Relation(tuple(read_formula(_drop_words(part)) for part in parts), tuple(signs))
    raise UnreadableError("a relation of another kind")


def _drop_words(text: str) -> str:
    return split_value(strip(text)).text


def _read_equation(parts: list[str], depth: int) -> Shape:
    if not all(parts):
        if not parts[0] and len(parts) == 2:
            return read_shape(parts[1], depth + 1)
        raise UnreadableError("a side is missing")
    names = [part for part in parts[:-1] if is_name(part)]
    if _TUPLE_NAME.fullmatch(parts[0]) and len(parts) == 2:
        return read_shape(parts[1], depth + 1)
    if is_name(parts[0]):
        values = (
            [read_shape(part, depth + 1) for part in parts[len(names) :]]
            if parts[: len(names)] == names
            else []
        )
        if not values:
            raise UnreadableError("a chain with names inside")
        return Named(spell_name(parts[0]), _settle_chain(values))
    if len(parts) == 2 and is_name(parts[1]) and not is_name(parts[0]):
        shape = read_shape(parts[0], depth + 1)
        if isinstance(shape, Number) and not shape.value.free_symbols:
            return Named(spell_name(parts[1]), shape)
    if len(parts) > 2 and is_name(parts[-2]):  # AB + BC = x = 12
        return Named(spell_name(parts[-2]), read_shape(parts[-1], depth + 1))
    sides = [read_shape(part, depth + 1) for part in parts]
    if all(isinstance(side, (Number, Ratio)) for side in sides):
        numbers = [side.value for side in sides if isinstance(side, Number)]
        if len(numbers) == len(sides) and all(not number.free_symbols for number in numbers):
            return _settle_chain(sides)
    ratios = [side for side in sides if isinstance(side, Ratio)]
    if len(ratios) == 2 and not any(part.free_symbols for part in ratios[1].parts):
        return ratios[1]
    if len(sides) != 2:
        raise UnreadableError("a chain of equations")
    return Relation((read_formula(parts[0]), read_formula(parts[1])), ("=",))


def _settle_chain(values: list[Shape]) -> Shape:
    """The value of `a = b = c`: the last, or the first if the last is a rounded decimal."""
    if len(values) == 1 or not all(isinstance(value, Number) for value in values):
        return values[-1]
    numbers = [value for value in values if isinstance(value, Number)]
    first, last = numbers[0], numbers[-1]
    if any(number.value.free_symbols for number in numbers):
        return last
    apart = abs(sympy.N(first.value - last.value, 15))
    scale = 100 if first.percent != last.percent else 1
    if first.percent != last.percent or apart == 0 or first.value == last.value:
        return last
    if last.value.is_Rational and apart < abs(sympy.N(first.value)) / 100 * scale:
        return first
    return last


# ---- sets of real numbers -------------------------------------------------------------------

_NUMBER_SETS = {"R": S.Reals, "Z": S.Integers, "N": S.Naturals, "Q": S.Rationals, "C": S.Complexes}
_NUMBER_SET = re.compile(r"\\mathbb\{([RZNQC])\}")


def _read_region(text: str, depth: int) -> Shape | None:
    parts, joints = split(text, ("setsign",))
    if not joints:
        match = _NUMBER_SET.fullmatch(text)
        if match:
            return Region(_NUMBER_SETS[match[1]])
        return Region(S.EmptySet) if text == "\\emptyset" else None
    region = read_points(read_shape(parts[0], depth + 1))
    for (_, sign), part in zip(joints, parts[1:], strict=True):
        other = read_points(read_shape(part, depth + 1))
        if region is None or other is None:
            raise UnreadableError("no set of numbers")
        if sign == "\\cup":
            region = sympy.Union(region, other)
        elif sign == "\\cap":
            region = sympy.Intersection(region, other)
        else:
            region = region - other
    return Region(region)


# ---- numerals, ratios, formulas -------------------------------------------------------------


def _read_plus_minus(text: str, depth: int) -> Shape | None:
    if not re.search(r"\\[pm]p?m?(?![A-Za-z])", text) or not re.search(
        r"\\(?:pm|mp)(?![A-Za-z])", text
    ):
        return None
    upper = re.sub(r"\\mp(?![A-Za-z])", " - ", re.sub(r"\\pm(?![A-Za-z])", " + ", text))
    lower = re.sub(r"\\mp(?![A-Za-z])", " + ", re.sub(r"\\pm(?![A-Za-z])", " - ", text))
    return Several((read_shape(upper, depth + 1), read_shape(lower, depth + 1)), "", "or")


_BASE_NAMES = {
    name: number
    for number, name in enumerate(
        "two three four five six seven eight nine ten eleven twelve thirteen fourteen "
        "fifteen sixteen".split(),
        2,
    )
}
_BASED = re.compile(
    r"(?:\\text\s*\{)?\(?(?:\\overline\s*\{|\\underline\s*\{)?\(?(?P<digits>[0-9A-Z]+(?:\.[0-9A-Z]+)?)\)?\}?\)?\}?\s*"
    r"(?:(?:\\[,!; ])*_\s*\{?\s*\(?(?:\\text\s*\{)?\s*(?P<base>[0-9]{1,2}|[a-z]+)\s*\}?\)?\}?"
    r"|(?:\\[,; ]|\s|\\text\s*\{|\()*(?:in\s+)?base[\s~-]*(?P<said>[0-9]{1,2}|[a-z]+)[)}\s]*)"
)


def _read_based(text: str, depth: int) -> Shape | None:
    match = _BASED.fullmatch(text)
    if match is None:
        return None
    name = match["base"] or match["said"]
    base = int(name) if name.isdigit() else _BASE_NAMES.get(name)
    if base is None or (len(match["digits"]) == 1 and match["digits"].isalpha() and match["base"]):
        return None
    return Based(match["digits"].lstrip("0") or "0", base)


_CLOCK = re.compile(r"(?P<hour>[0-9]{1,2}):(?P<minute>[0-5][0-9])(?::(?P<second>[0-5][0-9]))?")


def _read_ratio(text: str, depth: int) -> Shape | None:
    value = split_value(text)
    text = re.sub(r"\\text\s*\{\s*([ap])\.?m\.?\s*\}\Z", r"\1m", text)
    noon = re.search(r"\s*(?:\\[,; ])*\s*([ap])\.?m\.?\Z", text, re.I)
    unit = value.unit
    bare = value.text
    if noon and ":" in text:
        bare = text[: noon.start()]
        unit = Unit("before or after noon", Fraction(1 if noon[1].lower() == "a" else 2))
    parts, joints = split(bare, ("colon",))
    if not joints:
        return None
    spoken = [re.sub(r"\A\\[,!;: ]|\\[,!;: ]\Z", "", part).strip() for part in parts]
    clock = bool(_CLOCK.fullmatch(":".join(spoken)))
    return Ratio(tuple(read_formula(part) for part in spoken), clock, unit)


_DOUBLE = re.compile(r"-?(?=[0-9.]{16,20}\Z)(?:0\.0{0,3}[1-9][0-9]{14,}|[1-9][0-9]*\.[0-9]+)")


_IN_DEGREES = re.compile(r"[-+]?[0-9.]+\s*\^\s*(?:\\circ|\{\s*\\circ\s*\})\s*")


def _read_worked_matrix(text: str) -> Shape:
    try:
        matrix = read_formula(text)
    except (TypeError, ValueError, AttributeError) as error:  # shapes that don't go together
        raise UnreadableError(str(error)) from error
    if not isinstance(matrix, sympy.MatrixBase):
        raise UnreadableError("no matrix")
    return Grid(tuple(tuple(Number(cell) for cell in row) for row in matrix.tolist()))


def _read_leaf(text: str, depth: int) -> Shape:
    compound = read_compound(text)
    if compound:
        return Number(
            sympy.Rational(compound[0].numerator, compound[0].denominator),
            compound[1],
            compound=True,
        )
    if "matrix}" in text:
        return _read_worked_matrix(text)
    text = spell_scales(drop_lead(drop_explanation(drop_estimate(text))))
    value = split_value(text)
    inner = strip(value.text)
    if _DOUBLE.fullmatch(inner):
        return Number(read_formula(inner), value.unit, value.percent, inner)
    if (
        inner != text
        and depth < DEEPEST
        and re.search(r"[=<>,;]|\\(?:cup|in|pm)(?![A-Za-z])", inner)
    ):
        shape = read_shape(inner, depth + 1)
        if isinstance(shape, Number):
            return Number(shape.value, shape.unit or value.unit, shape.percent or value.percent)
    unit = value.unit or (UNITS["degree"] if _IN_DEGREES.fullmatch(inner) else None)
    return Number(read_formula(inner), unit, value.percent)
