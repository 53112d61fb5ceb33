r"""Split a formula into tokens: numbers, commands, letters, brackets and signs.

Before that, notations that span several tokens are rewritten: repeating decimals, mixed numbers,
`1e10`, `6C2` and degrees.
"""

from __future__ import annotations

import re
from collections import deque

from scale_dspy.grading.functions import FUNCTIONS, UnreadableError

Tokens = deque[str]

_TOKEN = re.compile(r"\s+|[0-9]+(?:\.[0-9]+)?|\.[0-9]+|\\[A-Za-z]+|\\.|[A-Za-z]+|.", re.S)
NUMBER = re.compile(r"[0-9]*\.?[0-9]+")
_TYPED = frozenset(
    {*FUNCTIONS, "sqrt", "cbrt", "log", "lg", "pi", "theta", "alpha", "beta", "binom", "infty"}
)
_SPACES = frozenset(["\\,", "\\;", "\\:", "\\!", "\\ ", "~", "\\quad", "\\qquad"])
TIMES = frozenset(["*", "\\cdot", "\\times", "\\ast"])
OVER = frozenset(["/", "\\div"])
_TAKE_WORDS = frozenset(["\\text", "\\begin", "\\end"])
_REPEATING = re.compile(
    r"([0-9]*)\.([0-9]*)(?:\\overline\{([0-9]+)\}|\(([0-9]+)\)"
    r"|\\dot\{?([0-9])\}?(?:([0-9]*)\\dot\{?([0-9])\}?)?)"
)
_TRAILING_DOTS = re.compile(r"\A([-+]?[0-9]*)\.([0-9]{3,})(?:\.\.\.|\\ldots)\s*\Z")
_SCIENTIFIC = re.compile(
    r"(?<![0-9A-Za-z.])([0-9]+(?:\.[0-9]+)?)[eE]([-+]?[0-9]{1,4})(?![0-9A-Za-z.])"
)
_MIXED = re.compile(
    r"(?<![0-9.^_{}A-Za-z])([0-9]+)\s*(?:\\frac\{([0-9]+)\}\{([0-9]+)\}|\s([0-9]+)/([0-9]+)(?![0-9]))"
)
_CHOOSE = re.compile(
    r"(?<![0-9A-Za-z}])(?:\{\})?_?\{?([0-9]{1,6})\}?\s?C\s?_?\{?([0-9]{1,6})\}?(?![0-9A-Za-z])"
)
_CHOOSE_INDEXED = re.compile(
    r"(?<![A-Za-z])C_(?:\{([0-9]{1,6})\}|([0-9]))\s*\^(?:\{([0-9]{1,6})\}|([0-9]))"
)
_TIMES_TEN = re.compile(r"(?<=[0-9])\s*[xX]\s*(?=10\s*\^)")
_DEGREE = re.compile(r"\s*\^\s*(?:\\circ(?![A-Za-z])|\{\s*\\circ\s*\})")
_TRIGONOMETRIC = re.compile(r"\\?(?:sin|cos|tan|cot|sec|csc|cis)")


def prepare_formula(text: str) -> str:
    """Rewrite repeating decimals, mixed numbers, `1e10` and degrees before tokenising."""
    text = _TRAILING_DOTS.sub(_repeat_last, text)
    text = _REPEATING.sub(_write_repeating, text)
    text = _SCIENTIFIC.sub(r"(\1\\cdot 10^{\2})", text)
    text = _MIXED.sub(lambda m: rf"({m[1]}+\frac{{{m[2] or m[4]}}}{{{m[3] or m[5]}}})", text)
    text = _CHOOSE.sub(r"\\binom{\1}{\2}", text)
    text = _CHOOSE_INDEXED.sub(lambda m: rf"\binom{{{m[1] or m[2]}}}{{{m[3] or m[4]}}}", text)
    text = _TIMES_TEN.sub(r"\\cdot ", text.replace("**", "^"))
    if _TRIGONOMETRIC.search(text):
        return _DEGREE.sub(r"\\degree ", text)
    return _DEGREE.sub("", text)


def _repeat_last(match: re.Match[str]) -> str:
    """Read 0.333... as 1/3, by the shortest period that fills the decimals to their end."""
    digits = match[2]
    for size in range(1, len(digits) // 2 + 1):
        for start in range(len(digits) - 2 * size + 1):
            period = digits[start : start + size]
            rest = digits[start:]
            if (period * len(rest))[: len(rest)] == rest and len(rest) >= max(3, 2 * size):
                return _sum_decimal(match[1], digits[:start], period)
    raise UnreadableError("decimals without a period")


def _write_repeating(match: re.Match[str]) -> str:
    period = match[3] or match[4] or (match[5] + (match[6] or "") + (match[7] or ""))
    return _sum_decimal(match[1], match[2], period)


def _sum_decimal(whole: str, before: str, period: str) -> str:
    sign = "-" if whole.startswith("-") else ""
    whole = whole.lstrip("+-") or "0"
    scale = 10 ** len(before)
    top = int(whole + before) * (10 ** len(period) - 1) + int(period)
    return f"({sign}{top}/{scale * (10 ** len(period) - 1)})"


def tokenise(text: str) -> Tokens:
    tokens: Tokens = deque()
    opened = 0
    for match in _TOKEN.finditer(text):
        token = match[0]
        if token.isspace() or token in _SPACES:
            if tokens and tokens[-1] != " ":
                tokens.append(" ")
        elif token.isalpha() and len(token) > 1 and token.isascii():
            whole = len(tokens) > 1 and tokens[-1] == "{" and tokens[-2] in _TAKE_WORDS
            tokens.extend([token] if whole else _split_word(token))
        elif token in ("|", "\\|"):
            before = next((one for one in reversed(tokens) if one != " "), "+")
            opens = not opened or before in ("+", "-", "|:", "(", *TIMES, *OVER)
            opened += 1 if opens else -1
            tokens.append("|:" if opens else ":|")
        else:
            tokens.append(token)
    spaced = tokens
    tokens = deque()
    for token in spaced:  # a space counts only between two numerals
        if token != " ":
            if tokens and tokens[-1] == " ":
                tokens.pop()
                index = len(tokens) > 1 and tokens[-2] == "_"  # \\log_2 8
                if not index and NUMBER.fullmatch(tokens[-1]) and NUMBER.fullmatch(token):
                    raise UnreadableError("two numbers side by side")
            tokens.append(token)
        elif tokens:
            tokens.append(token)
    while tokens and tokens[-1] == " ":
        tokens.pop()
    return tokens


def _split_word(word: str) -> list[str]:
    """Turn typed functions and constants into commands, and up to three letters into variables."""
    if word in _TYPED:
        return ["\\" + word]
    for name in ("sqrt", "sin", "cos", "tan", "log", "ln", "pi"):
        if word.startswith(name) and len(word) <= len(name) + 2:
            return ["\\" + name, *word[len(name) :]]
        if word.endswith(name) and len(word) <= len(name) + 2:
            return [*word[: -len(name)], "\\" + name]
    if len(word) > 3 and not word.isupper():
        raise UnreadableError(f"a word: {word!r}")
    return list(word)
