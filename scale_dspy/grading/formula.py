r"""Read one formula, in LaTeX or as it is typed, into an exact SymPy expression.

A recursive descent over the tokens (Wirth 1976), since what models write is a mixture of LaTeX and
plain text in which case, primes and decimals count: `0.1` is 1/10, `B` is not `b`, `x'` not `x`.
Numbers are made only up to `functions.LARGEST` bits, so `9^{9^{9}}` is refused at once. Sums,
integrals and limits are left to latex2sympy.
"""

from __future__ import annotations

import re

import sympy
from sympy import I, Integer, Rational, Symbol, pi

from scale_dspy.grading.functions import (
    FUNCTIONS,
    INVERSES,
    UnreadableError,
    make_binomial,
    make_factorial,
    raise_to,
)
from scale_dspy.grading.tokens import NUMBER, OVER, TIMES, Tokens, prepare_formula, tokenise

DEEPEST = 60
"""Nesting depth beyond which a formula is refused."""


_GREEK = frozenset(
    "alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa lambda mu nu xi"
    " rho sigma tau phi chi psi omega Gamma Delta Theta Lambda Xi Pi Sigma Phi Psi Omega ell hbar"
    " aleph angle triangle".split()
)
_CELL_ENDS = frozenset(["\\\\", "\\end"])
_CLOSERS = {"(": ")", "[": "]", "{": "}", "\\lfloor": "\\rfloor", "\\lceil": "\\rceil", "|:": ":|"}
_APPLIED = frozenset("f g h F G H P T C".split())
_ADVANCED = re.compile(r"\\(?:sum|prod|int|lim)(?![A-Za-z])")


def read_formula(text: str) -> sympy.Expr:
    r"""Read a formula.

    Args:
        text: LaTeX or typed mathematics, cleaned by `characters`.

    Returns:
        The expression, exact: no float is in it but those of latex2sympy.

    Raises:
        UnreadableError: the text is no formula, or makes a number that is too large.
    """
    if _ADVANCED.search(text):
        return _read_advanced(text)
    tokens = tokenise(prepare_formula(text))
    if not tokens:
        raise UnreadableError("there is nothing")
    expression = _read_sum(tokens, 0)
    if tokens:
        raise UnreadableError(f"not understood: {tokens[0]!r}")
    return expression


def _read_sum(tokens: Tokens, depth: int) -> sympy.Expr:
    if depth > DEEPEST:
        raise UnreadableError("too deep")
    total = _read_signed(tokens, depth)
    while tokens and tokens[0] in ("+", "-"):
        sign = tokens.popleft()
        term = _read_signed(tokens, depth)
        total = total + term if sign == "+" else total - term
    return total


def _read_signed(tokens: Tokens, depth: int) -> sympy.Expr:
    sign = 1
    while tokens and tokens[0] in ("+", "-"):
        sign *= -1 if tokens.popleft() == "-" else 1
    product = _read_product(tokens, depth)
    return product if sign == 1 else -product


def _read_product(tokens: Tokens, depth: int) -> sympy.Expr:
    product = _read_juxtaposed(tokens, depth)
    while tokens and (tokens[0] in TIMES or tokens[0] in OVER):
        operator = tokens.popleft()
        sign = 1
        while tokens and tokens[0] in ("+", "-"):
            sign *= -1 if tokens.popleft() == "-" else 1
        if operator in TIMES:
            product = sign * product * _read_juxtaposed(tokens, depth)
        else:
            under = _read_divisor(tokens, depth, product)
            product = sign * _divide(product, under)
            if tokens and _starts_factor(tokens):
                product = product * _read_juxtaposed(tokens, depth)
    return product


def _read_divisor(tokens: Tokens, depth: int, over: sympy.Expr) -> sympy.Expr:
    """Read a divisor: `1/2x` is half of x, as writers mean it; `a/bc` is a over bc."""
    if over.is_number and tokens and NUMBER.fullmatch(tokens[0]):
        return _read_power(tokens, depth)
    if tokens and tokens[0] in ("(", "\\sqrt", "\\text"):
        return _read_power(tokens, depth)
    return _read_juxtaposed(tokens, depth)


def _divide(over: sympy.Expr, under: sympy.Expr) -> sympy.Expr:
    return over / under if under != 0 else sympy.nan


def _read_juxtaposed(tokens: Tokens, depth: int) -> sympy.Expr:
    product = _read_power(tokens, depth)
    while tokens and _starts_factor(tokens):
        product = product * _read_power(tokens, depth)
    return product


def _starts_factor(tokens: Tokens) -> bool:
    token = tokens[0]
    if token == "\\degree":
        return True
    if token.startswith("\\") and len(token) > 1:
        return token not in TIMES | OVER | _CELL_ENDS and token not in (*_CLOSERS.values(), "\\%")
    return token in ("(", "[", "{", "|:") or token.isalnum() or bool(NUMBER.fullmatch(token))


def _read_power(tokens: Tokens, depth: int) -> sympy.Expr:
    base = _read_postfix(_read_atom(tokens, depth), tokens, depth)
    if tokens and tokens[0] == "^":
        tokens.popleft()
        exponent = _read_exponent(tokens, depth)
        base = _read_postfix(raise_to(base, exponent), tokens, depth)
    return base


def _read_postfix(base: sympy.Expr, tokens: Tokens, depth: int) -> sympy.Expr:
    while tokens and tokens[0] in ("!", "%", "\\%", "\\degree"):
        mark = tokens.popleft()
        if mark == "!":
            if tokens and tokens[0] == "!":
                raise UnreadableError("a double factorial")
            base = make_factorial(base)
        else:
            base = base * (pi / 180 if mark == "\\degree" else Rational(1, 100))
    return base


def _read_exponent(tokens: Tokens, depth: int) -> sympy.Expr:
    sign = 1
    while tokens and tokens[0] in ("+", "-"):
        sign *= -1 if tokens.popleft() == "-" else 1
    if not tokens:
        raise UnreadableError("no exponent")
    if tokens[0] == "{":
        return sign * _read_group(tokens, depth)
    atom = _read_atom(tokens, depth)
    if tokens and tokens[0] == "^":
        tokens.popleft()
        atom = raise_to(atom, _read_exponent(tokens, depth + 1))
    return sign * atom


def _read_group(tokens: Tokens, depth: int) -> sympy.Expr:
    closer = _CLOSERS[tokens.popleft()]
    inside = _read_sum(tokens, depth + 1)
    if not tokens or tokens.popleft() != closer:
        raise UnreadableError(f"no {closer!r}")
    return inside


def _read_atom(tokens: Tokens, depth: int) -> sympy.Expr:
    if not tokens or depth > DEEPEST:
        raise UnreadableError("it breaks off")
    token = tokens[0]
    if token in _CLOSERS:
        inside = _read_group(tokens, depth)
        wrap = {"|:": sympy.Abs, "\\lfloor": sympy.floor, "\\lceil": sympy.ceiling}.get(token)
        return wrap(inside) if wrap else inside
    tokens.popleft()
    if NUMBER.fullmatch(token):
        return Rational(token)
    if token.startswith("\\"):
        return _read_command(token[1:], tokens, depth)
    if token.isalpha() and len(token) == 1:
        return _read_letter(token, tokens, depth)
    raise UnreadableError(f"not understood: {token!r}")


def _read_letter(letter: str, tokens: Tokens, depth: int) -> sympy.Expr:
    name = letter + _read_marks(tokens)
    if name == "e":
        return sympy.E
    if name == "i":
        return I
    if letter in _APPLIED and tokens and tokens[0] == "(":
        return sympy.Function(name)(*_read_arguments(tokens, depth))
    return Symbol(name)


def _read_marks(tokens: Tokens) -> str:
    """A subscript and primes behind a name."""
    marks = ""
    while tokens and tokens[0] in ("_", "'", "\\prime"):
        if tokens.popleft() != "_":
            marks += "'"
        elif tokens and tokens[0] == "{":
            marks += "_" + _take_group(tokens)
        elif tokens:
            marks += "_" + tokens.popleft()
    return marks


def _take_group(tokens: Tokens) -> str:
    """The text of a group in braces."""
    if not tokens or tokens.popleft() != "{":
        raise UnreadableError("no '{'")
    depth = 1
    inside: list[str] = []
    while tokens:
        token = tokens.popleft()
        depth += {"{": 1, "}": -1}.get(token, 0)
        if depth == 0:
            return "".join(inside)
        inside.append(token)
    raise UnreadableError("no '}'")


def _read_arguments(tokens: Tokens, depth: int) -> list[sympy.Expr]:
    closer = _CLOSERS[tokens.popleft()]
    arguments = [_read_sum(tokens, depth + 1)]
    while tokens and tokens[0] == ",":
        tokens.popleft()
        arguments.append(_read_sum(tokens, depth + 1))
    if not tokens or tokens.popleft() != closer:
        raise UnreadableError(f"no {closer!r}")
    return arguments


def _read_command(name: str, tokens: Tokens, depth: int) -> sympy.Expr:
    if name == "frac":
        return _divide(_read_argument(tokens, depth), _read_argument(tokens, depth))
    if name in ("sqrt", "cbrt"):
        return _read_root(name, tokens, depth)
    if name == "binom":
        return make_binomial(_read_argument(tokens, depth), _read_argument(tokens, depth))
    if name == "begin":
        return _read_matrix(tokens, depth)
    if name == "pi":
        return pi
    if name == "infty":
        return sympy.oo
    if name == "log":
        return _read_logarithm(tokens, depth)
    if name == "lg":
        return sympy.log(_read_operand(tokens, depth), 10)
    if name in FUNCTIONS:
        return _apply(name, tokens, depth)
    if name == "text":
        return Symbol("text " + _take_group(tokens).casefold().strip())
    if name in ("overline", "bar", "vec", "hat", "tilde", "widehat", "overrightarrow", "mathbb"):
        return Symbol(f"{name} {_take_group(tokens)}")
    if name in _GREEK:
        return Symbol(name + _read_marks(tokens))
    raise UnreadableError(f"not understood: \\{name}")


def _read_matrix(tokens: Tokens, depth: int) -> sympy.Expr:
    """Read a matrix inside a formula."""
    if "matrix" not in _take_group(tokens):
        raise UnreadableError("an environment")
    rows: list[list[sympy.Expr]] = [[]]
    while tokens:
        rows[-1].append(_read_sum(tokens, depth + 1))
        mark = tokens.popleft() if tokens else ""
        if mark == "\\\\" and tokens and tokens[0] != "\\end":
            rows.append([])
        elif mark != "&":
            break
    if mark == "\\\\" and tokens:
        mark = tokens.popleft()
    if mark != "\\end" or not _take_group(tokens) or len({len(row) for row in rows}) > 1:
        raise UnreadableError("no matrix")
    return sympy.ImmutableMatrix(rows)


def _read_argument(tokens: Tokens, depth: int) -> sympy.Expr:
    r"""What a command takes: a group, or one token, as in `\frac{1}2` and `\sqrt3`."""
    if tokens and tokens[0] == "{":
        return _read_group(tokens, depth)
    return _read_atom(tokens, depth + 1)


def _read_root(name: str, tokens: Tokens, depth: int) -> sympy.Expr:
    index: sympy.Expr = Integer(3 if name == "cbrt" else 2)
    if tokens and tokens[0] == "[":
        index = _read_group(tokens, depth)
    if index == 0:
        return sympy.nan
    under = _read_argument(tokens, depth)
    if index.is_Integer and index % 2 and under.is_negative:
        return -raise_to(-under, 1 / index)
    return raise_to(under, 1 / index)


def _read_logarithm(tokens: Tokens, depth: int) -> sympy.Expr:
    base: sympy.Expr = Integer(10)
    if tokens and tokens[0] == "_":
        tokens.popleft()
        base = _read_argument(tokens, depth)
    power = _read_function_power(tokens, depth)
    value = sympy.log(_read_operand(tokens, depth), base)
    return value if power is None else raise_to(value, power)


def _read_function_power(tokens: Tokens, depth: int) -> sympy.Expr | None:
    if not tokens or tokens[0] != "^":
        return None
    tokens.popleft()
    return _read_exponent(tokens, depth)


def _apply(name: str, tokens: Tokens, depth: int) -> sympy.Expr:
    power = _read_function_power(tokens, depth)
    if power == -1 and name in INVERSES:
        name, power = INVERSES[name], None
    if tokens and tokens[0] == "(":
        arguments = _read_arguments(tokens, depth)
    elif tokens and tokens[0] == "\\{":
        raise UnreadableError("a set")
    else:
        arguments = [_read_operand(tokens, depth)]
    if len(arguments) > 1 and name not in ("max", "min", "gcd", "lcm"):
        raise UnreadableError("too many arguments")
    value = FUNCTIONS[name](*arguments)
    return value if power is None else raise_to(value, power)


def _read_operand(tokens: Tokens, depth: int) -> sympy.Expr:
    r"""What a function without parentheses is of: `2x` in `\sin 2x`, `\pi/26` in `\sin\pi/26`."""
    if tokens and tokens[0] in ("(", "{", "|:"):
        return _read_power(tokens, depth + 1)
    sign = -1 if tokens and tokens[0] == "-" and tokens.popleft() else 1
    product = _read_power(tokens, depth + 1)
    while (
        tokens
        and _starts_factor(tokens)
        and tokens[0][1:] not in (*FUNCTIONS, "log", "lg")
        and tokens[0] not in ("(", "[")
    ):
        product = product * _read_power(tokens, depth + 1)
    if len(tokens) > 1 and tokens[0] == "/" and NUMBER.fullmatch(tokens[1]):
        tokens.popleft()
        product = _divide(product, _read_power(tokens, depth + 1))
    return sign * product


def _read_advanced(text: str) -> sympy.Expr:
    """Let latex2sympy parse a sum, a product, an integral or a limit, and evaluate it."""
    from latex2sympy2_extended import latex2sympy

    try:
        return latex2sympy(text).doit()
    except Exception as error:  # its parser raises bare Exceptions
        raise UnreadableError(str(error)) from error
