r"""The functions of formulas, and powers, factorials and binomials of bounded size."""

from __future__ import annotations

from collections.abc import Callable

import sympy
from sympy import I, Integer


class UnreadableError(ValueError):
    """A text cannot be read as mathematics."""


LARGEST = 300_000
"""Bits of the largest number that a power or a factorial may make."""

FUNCTIONS: dict[str, Callable[..., sympy.Expr]] = {
    "sin": sympy.sin,
    "cos": sympy.cos,
    "tan": sympy.tan,
    "cot": sympy.cot,
    "sec": sympy.sec,
    "csc": sympy.csc,
    "arcsin": sympy.asin,
    "arccos": sympy.acos,
    "arctan": sympy.atan,
    "arccot": sympy.acot,
    "asin": sympy.asin,
    "acos": sympy.acos,
    "atan": sympy.atan,
    "sinh": sympy.sinh,
    "cosh": sympy.cosh,
    "tanh": sympy.tanh,
    "ln": sympy.log,
    "exp": sympy.exp,
    "max": sympy.Max,
    "min": sympy.Min,
    "gcd": sympy.gcd,
    "lcm": sympy.lcm,
    "abs": sympy.Abs,
    "floor": sympy.floor,
    "ceil": sympy.ceiling,
    "Re": sympy.re,
    "Im": sympy.im,
    "cis": lambda angle: sympy.cos(angle) + I * sympy.sin(angle),
}
INVERSES = {"sin": "arcsin", "cos": "arccos", "tan": "arctan", "cot": "arccot"}


def raise_to(base: sympy.Expr, exponent: sympy.Expr) -> sympy.Expr:
    """Raise to a power; refuse a number of more than `LARGEST` bits."""
    if base.is_Rational and exponent.is_Rational and base not in (0, 1, -1):
        bits = max(int(base.p).bit_length(), int(base.q).bit_length())
        if abs(exponent) * bits > LARGEST:
            raise UnreadableError("too large a power")
    if base == 0 and exponent.is_number and exponent.is_nonpositive:
        return sympy.nan if exponent != 0 else Integer(1)
    return base**exponent


def make_factorial(of: sympy.Expr) -> sympy.Expr:
    """A factorial; refuse one that is too large."""
    if of.is_Integer and of > 20_000:
        raise UnreadableError("too large a factorial")
    return sympy.factorial(of)


def make_binomial(over: sympy.Expr, under: sympy.Expr) -> sympy.Expr:
    """A binomial coefficient; refuse one that is too large."""
    if over.is_Integer and abs(over) > 100_000:
        raise UnreadableError("too large a binomial coefficient")
    return sympy.binomial(over, under)
