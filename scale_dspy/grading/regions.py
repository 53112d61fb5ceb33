"""Read intervals, inequalities and sets of numbers as regions of the real line."""

from __future__ import annotations

import sympy
from sympy import Interval, S, Symbol
from sympy.core.function import AppliedUndef

from scale_dspy.grading.functions import UnreadableError
from scale_dspy.grading.shapes import Number, Region, Relation, Several, Shape


def join_regions(regions: list[sympy.Set], joined: str) -> Region:
    if joined == "or":
        return Region(sympy.Union(*regions))
    both = sympy.Intersection(*regions)
    if joined == "and" and both is not S.EmptySet:
        return Region(both)
    if joined == "" and both is not S.EmptySet:
        return Region(both)
    return Region(sympy.Union(*regions))


def read_points(shape: Shape) -> sympy.Set | None:
    """A shape as a set of real numbers, where a pair in brackets is an interval; else None."""
    if isinstance(shape, Region):
        return shape.points
    if isinstance(shape, Relation):
        return as_region(shape)
    if not isinstance(shape, Several) or not all(isinstance(item, Number) for item in shape.items):
        return None
    values = [item.value for item in shape.items if isinstance(item, Number)]
    if shape.brackets == "{}":
        return sympy.FiniteSet(*values)
    if len(values) != 2 or not shape.brackets:
        return None
    if not all(value.is_extended_real for value in values):
        return None
    if (values[0] < values[1]) is not S.true:
        return None
    opened = shape.brackets[0] == "(" or values[0] == -sympy.oo
    return Interval(*values, opened, shape.brackets[1] == ")" or values[1] == sympy.oo)


_FLIPPED = {"<": ">", ">": "<", "\\le": "\\ge", "\\ge": "\\le", "\\ne": "\\ne", "=": "="}
_RELATIONS = {"<": sympy.Lt, ">": sympy.Gt, "\\le": sympy.Le, "\\ge": sympy.Ge, "\\ne": sympy.Ne}


def as_region(relation: Relation) -> sympy.Set | None:
    """The solution set of an inequality in one variable; None for any other relation."""
    applied = set().union(*(side.atoms(AppliedUndef) for side in relation.sides))
    if len(applied) == 1:  # 0 < f(x) < 1
        (function,) = applied
        sides = tuple(side.subs(function, Symbol("f")) for side in relation.sides)
        return as_region(Relation(sides, relation.signs))
    symbols = set().union(*(side.free_symbols for side in relation.sides))
    if len(symbols) != 1 or "=" in relation.signs:
        return None
    (symbol,) = symbols
    real = Symbol("x", real=True)
    region: sympy.Set = S.Reals
    for left, sign, right in zip(
        relation.sides[:-1], relation.signs, relation.sides[1:], strict=True
    ):
        pair = left.subs(symbol, real), right.subs(symbol, real)
        if pair[0] == real and not pair[1].has(real):
            region = region & _ray(sign, pair[1])
        elif pair[1] == real and not pair[0].has(real):
            region = region & _ray(_FLIPPED[sign], pair[0])
        else:
            held = _RELATIONS[sign](*pair)
            if held in (True, False):
                return None
            try:
                region = region & sympy.solve_univariate_inequality(held, real, relational=False)
            except NotImplementedError:
                return None
    return region


def _ray(sign: str, end: sympy.Expr) -> sympy.Set:
    if not end.is_extended_real:
        raise UnreadableError("no real number")
    if sign == "\\ne":
        return S.Reals - sympy.FiniteSet(end)
    if sign in ("<", "\\le"):
        return Interval(-sympy.oo, end, True, sign == "<" or end == sympy.oo)
    return Interval(end, sympy.oo, sign == ">" or end == -sympy.oo, True)
