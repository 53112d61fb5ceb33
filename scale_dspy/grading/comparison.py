r"""Decide whether two shapes are equal, exactly.

Rational numbers are compared as such, other numbers by a thousand digits where forty agree, and
formulas with variables by their values at random rational points (Schwartz 1980; Zippel 1979).
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence

import sympy
from sympy import Rational, S, Symbol

from scale_dspy.grading.functions import UnreadableError
from scale_dspy.grading.regions import read_points
from scale_dspy.grading.shape_reader import read_shape
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
from scale_dspy.grading.units import UNITS

DIGITS = 40
"""Digits of the first comparison; numbers that differ in them are different."""

CERTAIN = 1000
"""Digits of the second comparison; numbers that agree in them are equal."""

POINTS = 24
"""Random points at which two formulas are evaluated, at most."""

ENOUGH = 4
"""Points that suffice: both formulas have a value there, and the values agree."""


def compare(pred: str, gold: str) -> bool:
    """Whether two answers from `spelling.prepare` are equal; False if either cannot be read."""
    try:
        return same(read_shape(pred), read_shape(gold))
    except UnreadableError:
        return False


def same(pred: Shape, gold: Shape) -> bool:
    """Whether two shapes are equal."""
    pred, gold = _settle_alternatives(pred), _settle_alternatives(gold)
    if isinstance(pred, Named) or isinstance(gold, Named):
        return _same_named(pred, gold)
    for compared in (_same_regions, _same_alike):
        verdict = compared(pred, gold)
        if verdict is not None:
            return verdict
    return False


def _settle_alternatives(shape: Shape) -> Shape:
    """Reduce `3/4 or 75%`, whose alternatives are equal, to one of them."""
    if not isinstance(shape, Several) or shape.joined != "or" or shape.brackets:
        return shape
    numbers = [item for item in shape.items if isinstance(item, Number)]
    if len(numbers) < len(shape.items):
        return shape
    alike = all(_same_numbers(numbers[0], other) for other in numbers[1:])
    return numbers[0] if alike else shape


def _same_named(pred: Shape, gold: Shape) -> bool:
    """Compare names only where both sides have one; `y = 2x` is also read as an equation."""
    if isinstance(pred, Named) and isinstance(gold, Named):
        if pred.name == gold.name or not (_is_symbol(pred.name) and _is_symbol(gold.name)):
            return same(pred.value, gold.value)
        equations = _as_equation(pred), _as_equation(gold)
        if None not in equations and _has_symbols(pred) and _has_symbols(gold):
            return _same_relations(*equations)  # type: ignore[arg-type]
        return False
    named, other = (pred, gold) if isinstance(pred, Named) else (gold, pred)
    assert isinstance(named, Named)
    if isinstance(other, Relation):
        equation = _as_equation(named)
        if equation is not None and other.signs == ("=",):
            return _same_relations(equation, other)
    value = named.value
    return same(value, other) if named is pred else same(other, value)


def _is_symbol(name: str) -> bool:
    return bool(re.fullmatch(r"\\?[A-Za-z]+(?:_\w+)?'*(?:\(\w+\))?", name)) and (
        len(name.split("_")[0].lstrip("\\").rstrip("'")) <= 2
        or name.startswith("\\")
        or name.isupper()
    )


def _has_symbols(named: Named) -> bool:
    return isinstance(named.value, Number) and bool(named.value.value.free_symbols)


def _as_equation(named: Named) -> Relation | None:
    if isinstance(named.value, Number) and re.fullmatch(r"\\?[A-Za-z]+'*", named.name):
        return Relation((Symbol(named.name.lstrip("\\")), named.value.value), ("=",))
    return None


def _same_regions(pred: Shape, gold: Shape) -> bool | None:
    """Compare as sets of real numbers; None where neither is a region or a relation."""
    kinds = (Region, Relation)
    if not (isinstance(pred, kinds) or isinstance(gold, kinds)):
        return None
    if isinstance(pred, Relation) and isinstance(gold, Relation) and _same_relations(pred, gold):
        return True
    regions = read_points(pred), read_points(gold)
    if (isinstance(pred, Several) and not pred.brackets) or (
        isinstance(gold, Several) and not gold.brackets
    ):
        regions = _list_points(pred), _list_points(gold)
    if regions[0] is None or regions[1] is None:
        return False
    return bool(regions[0] == regions[1]) or _same_sets(*regions)


def _list_points(shape: Shape) -> sympy.Set | None:
    if (
        isinstance(shape, Several)
        and not shape.brackets
        and all(isinstance(i, Number) for i in shape.items)
    ):
        return sympy.FiniteSet(*(item.value for item in shape.items if isinstance(item, Number)))
    return read_points(shape)


def _same_sets(one: sympy.Set, other: sympy.Set) -> bool:
    try:
        return bool((one - other) is S.EmptySet and (other - one) is S.EmptySet)
    except (TypeError, NotImplementedError):
        return False


def _same_alike(pred: Shape, gold: Shape) -> bool | None:
    """Compare two shapes of one kind, or of two kinds that can mean the same."""
    if isinstance(pred, Number) and isinstance(gold, Number):
        return _same_numbers(pred, gold)
    if isinstance(pred, Word) and isinstance(gold, Word):
        return pred.text == gold.text
    if isinstance(pred, Based) and isinstance(gold, Based):
        return pred == gold
    if isinstance(pred, Ratio) or isinstance(gold, Ratio):
        return _same_ratios(pred, gold)
    if isinstance(pred, Modular) or isinstance(gold, Modular):
        return _same_residues(pred, gold)
    if isinstance(pred, Grid) or isinstance(gold, Grid):
        return _same_grids(pred, gold)
    if isinstance(pred, Several) or isinstance(gold, Several):
        return _same_several(pred, gold)
    return None


# ---- numbers --------------------------------------------------------------------------------


def _read_letter_unit(number: Number, other: Number) -> Number:
    """Read the letter of `5000 g` as a unit where the other number has a unit of its quantity."""
    factor, letter = number.value.as_coeff_Mul()
    unit = UNITS.get(str(letter).lower()) if letter.is_Symbol and not number.unit else None
    if unit and other.unit and unit.quantity == other.unit.quantity:
        return Number(factor, unit)
    return number


_STERLING = {UNITS["pound"], UNITS["pound sterling"]}


def _same_numbers(pred: Number, gold: Number) -> bool:
    pred, gold = _read_letter_unit(pred, gold), _read_letter_unit(gold, pred)
    if pred.unit and gold.unit and pred.unit != gold.unit and {pred.unit, gold.unit} != _STERLING:
        if pred.unit.quantity != gold.unit.quantity or not pred.unit.size or not gold.unit.size:
            return False
        sizes = [
            Rational(n.unit.size.numerator, n.unit.size.denominator) for n in (pred, gold) if n.unit
        ]
        return same_value(pred.value * sizes[0], gold.value * sizes[1])
    if pred.compound != gold.compound and not (pred.unit and gold.unit):
        return False
    if same_value(pred.value, gold.value):
        return True
    if (pred.double or gold.double) and _same_doubles(pred, gold):
        return True
    if pred.percent != gold.percent:
        percent, plain = (pred, gold) if pred.percent else (gold, pred)
        return same_value(percent.value / 100, plain.value)
    return False


def _same_doubles(pred: Number, gold: Number) -> bool:
    """Whether one is the other printed as a binary double: all of its 15 to 17 digits agree."""
    printed, exact = (pred, gold) if pred.double else (gold, pred)
    if exact.double or exact.value.free_symbols or not exact.value.is_real:
        return False
    last = Rational(1, 10 ** len(printed.double.partition(".")[2]))
    return bool(abs(sympy.N(exact.value - printed.value, 30)) <= last * Rational(6, 10))


def same_value(one: sympy.Expr, other: sympy.Expr) -> bool:
    """Whether two formulas have the same value, wherever both have one."""
    if one.has(sympy.nan, sympy.zoo) or other.has(sympy.nan, sympy.zoo):
        return False
    if one == other:
        return True
    if one.has(sympy.oo, -sympy.oo) or other.has(sympy.oo, -sympy.oo):
        return False
    symbols = one.free_symbols | other.free_symbols
    words = [symbol for symbol in symbols if symbol.name.startswith("text ")]
    if symbols != one.free_symbols and words:
        return False
    if symbols:
        return _same_at_points(one, other) or _same_but_constant(one, other)
    if one.is_Rational and other.is_Rational:
        return False
    return _agree(one, other, DIGITS) and _agree(one, other, CERTAIN)


def _agree(one: sympy.Expr, other: sympy.Expr, digits: int) -> bool:
    """Whether two numbers agree in nine tenths of this many digits."""
    values = [sympy.N(value, digits + 10) for value in (one, other)]
    if not all(value.is_number and value.is_finite for value in values):
        return False
    largest = max(abs(value) for value in values)
    return bool(abs(values[0] - values[1]) <= largest * Rational(1, 10) ** (digits * 9 // 10))


def _same_at_points(one: sympy.Expr, other: sympy.Expr) -> bool:
    difference = one - other
    if difference == 0:
        return True
    counted = complex_ones = 0
    for values in _evaluate((one, other)):
        real = [abs(sympy.im(value)) <= abs(value) * 1e-30 for value in values]
        apart = abs(values[0] - values[1]) > max(abs(value) for value in values) * 1e-30
        if all(real):
            if apart:
                return False
            counted += 1
        elif not any(real) and not apart:
            complex_ones += 1
        elif not any(real):
            return False
        if counted >= ENOUGH * 2:
            break
    return counted >= ENOUGH or counted + complex_ones >= ENOUGH


def _evaluate(formulas: Sequence[sympy.Expr]) -> Iterator[list[sympy.Expr]]:
    """Values of formulas at random points at which all of them have one."""
    symbols = sorted(set().union(*(each.free_symbols for each in formulas)), key=str)
    applied = sorted(
        set().union(*(each.atoms(sympy.core.function.AppliedUndef) for each in formulas)), key=str
    )
    dice = random.Random(20)
    for turn in range(POINTS):
        point = {one: _draw(dice, turn) for one in [*applied, *symbols]}
        values = [sympy.N(each.subs(point), 50) for each in formulas]
        if all(
            value.is_number and value.is_finite and not value.has(sympy.nan) for value in values
        ):
            yield values


def _draw(dice: random.Random, turn: int) -> sympy.Rational:
    """Draw a rational coordinate; every third turn draws negative ones."""
    size = Rational(dice.randint(1, 10**6), dice.choice([10**6, 10**5, 333_333]))
    return -size if turn % 3 == 2 else size


def _same_but_constant(one: sympy.Expr, other: sympy.Expr) -> bool:
    """Whether they differ only in the letter of the constant of integration, c or C."""
    constants = {Symbol("c"), Symbol("C")}
    ends = [constants.intersection(sympy.Add.make_args(each)) for each in (one, other)]
    if len(ends[0]) != 1 or len(ends[1]) != 1 or ends[0] == ends[1]:
        return False
    ((first,), (second,)) = ends
    return _same_at_points(one.subs(first, second), other)


# ---- relations ------------------------------------------------------------------------------

_ORIENTED = {"<": ("<", 1), ">": ("<", -1), "\\le": ("\\le", 1), "\\ge": ("\\le", -1)}


def _same_relations(pred: Relation, gold: Relation) -> bool:
    """Whether one is the other times a constant, which is positive for an inequality."""
    if len(pred.signs) != 1 or len(gold.signs) != 1:
        return pred == gold
    kinds = [_ORIENTED.get(each.signs[0], (each.signs[0], 1)) for each in (pred, gold)]
    if kinds[0][0] != kinds[1][0]:
        return False
    terms = [
        (each.sides[0] - each.sides[1]) * sign
        for each, (_, sign) in zip((pred, gold), kinds, strict=True)
    ]
    symmetric = kinds[0][0] in ("=", "\\ne")
    if symmetric:
        terms = [sympy.fraction(sympy.together(term))[0] for term in terms]
    if not terms[0].free_symbols or terms[0].free_symbols != terms[1].free_symbols:
        return False
    ratios = [values[0] / values[1] for values in _evaluate(terms) if values[1] != 0]
    if len(ratios) < ENOUGH:
        return False
    first = ratios[0]
    constant = all(abs(ratio - first) <= abs(first) * 1e-30 for ratio in ratios)
    if not constant or first == 0 or abs(sympy.im(first)) > 1e-30:
        return False
    return symmetric or bool(sympy.re(first) > 0)


# ---- lists ----------------------------------------------------------------------------------


def _same_several(pred: Shape, gold: Shape) -> bool:
    if not isinstance(pred, Several) or not isinstance(gold, Several):
        several, other = (pred, gold) if isinstance(pred, Several) else (gold, pred)
        assert isinstance(several, Several)
        return (
            several.brackets == "{}" and len(several.items) == 1 and same(several.items[0], other)
        )
    ordered = [bool(each.brackets) and each.brackets != "{}" for each in (pred, gold)]
    if all(ordered):
        return _same_brackets(pred, gold) and _same_in_order(pred.items, gold.items)
    if any(ordered):
        plain = gold if ordered[0] else pred
        if plain.brackets == "{}" or plain.joined == "or":
            return False
        points = _as_point(plain)
        return _same_in_order(points, (pred if ordered[0] else gold).items)
    if Word("...") in pred.items or Word("...") in gold.items:
        return _same_in_order(pred.items, gold.items)
    return _same_in_any_order(_drop_repeated(pred.items), _drop_repeated(gold.items))


def _as_point(several: Several) -> Sequence[Shape]:
    """The values of `x = 2, y = 1` in the order of their names."""
    if all(isinstance(item, Named) for item in several.items):
        named = sorted(
            (i for i in several.items if isinstance(i, Named)), key=lambda item: item.name
        )
        return [item.value for item in named]
    return several.items


def _same_brackets(pred: Several, gold: Several) -> bool:
    return pred.brackets == gold.brackets or len(pred.items) > 2


def _same_in_order(pred: Sequence[Shape], gold: Sequence[Shape]) -> bool:
    return len(pred) == len(gold) and all(map(same, pred, gold))


def _drop_repeated(items: Sequence[Shape]) -> Sequence[Shape]:
    """Drop repeated points: a solution that is listed twice is still one solution."""
    if not all(isinstance(item, Several) and item.brackets for item in items):
        return items
    return list(dict.fromkeys(items))


def _same_in_any_order(pred: Sequence[Shape], gold: Sequence[Shape]) -> bool:
    """Whether the items pair off one to one.

    Pairing greedily is enough, as equality is transitive but for names.
    """
    left = list(gold)
    if len(left) != len(pred):
        return False
    for item in pred:
        place = next((i for i, other in enumerate(left) if same(item, other)), None)
        if place is None:
            return False
        del left[place]
    return not left


# ---- other kinds ----------------------------------------------------------------------------


def _same_ratios(pred: Shape, gold: Shape) -> bool:
    if isinstance(pred, Ratio) and isinstance(gold, Ratio):
        if (pred.unit and gold.unit and pred.unit != gold.unit) or len(pred.parts) != len(
            gold.parts
        ):
            return False
        if pred.parts == gold.parts:
            return True
        if (pred.clock and gold.clock) or 0 in pred.parts or 0 in gold.parts:
            return False
        pairs = list(zip(pred.parts, gold.parts, strict=True))
        return all(same_value(one * pairs[0][1], other * pairs[0][0]) for one, other in pairs[1:])
    ratio, other = (pred, gold) if isinstance(pred, Ratio) else (gold, pred)
    if not isinstance(ratio, Ratio) or not isinstance(other, Number) or len(ratio.parts) != 2:
        return False
    if other.value.is_Integer or ratio.parts[1] == 0:
        return ratio.parts[1] == 1 and same_value(ratio.parts[0], other.value)
    return same_value(ratio.parts[0] / ratio.parts[1], other.value)


def _same_residues(pred: Shape, gold: Shape) -> bool:
    if isinstance(pred, Modular) and isinstance(gold, Modular):
        same_modulus = same_value(pred.modulus, gold.modulus)
        difference = pred.value - gold.value
        return same_modulus and (difference == 0 or bool((difference / gold.modulus).is_integer))
    residue, other = (pred, gold) if isinstance(pred, Modular) else (gold, pred)
    assert isinstance(residue, Modular)
    value = residue.value
    if value.is_Integer and residue.modulus.is_Integer and residue.modulus > 0:
        value %= residue.modulus
    return isinstance(other, Number) and same_value(value, other.value)


def _same_grids(pred: Shape, gold: Shape) -> bool:
    rows = _as_rows(pred), _as_rows(gold)
    if rows[0] is None or rows[1] is None:
        return False
    return len(rows[0]) == len(rows[1]) and all(
        _same_in_order(one, other) for one, other in zip(rows[0], rows[1], strict=True)
    )


def _as_rows(shape: Shape) -> Sequence[Sequence[Shape]] | None:
    """The rows of a matrix; a point is a column, and a list of lists has one row a list."""
    if isinstance(shape, Grid):
        return shape.rows
    if not isinstance(shape, Several) or shape.brackets not in ("()", "[]"):
        return None
    if all(isinstance(item, Several) for item in shape.items):
        return [item.items for item in shape.items if isinstance(item, Several)]
    return [[item] for item in shape.items]
