r"""Give an answer one spelling: `prepare` for comparing, `normalise` for votes, `read_integer`.

A pipeline of named steps, each from text to text; nothing is parsed here, so `0.5` and `1/2` stay
different.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache

from scale_dspy.grading.characters import (
    apply_rules,
    compile_rules,
    find_closing_brace,
    join_thousands,
    repair,
    spell_fractions,
    to_latex,
    undress,
    unwrap,
)
from scale_dspy.grading.names import is_name
from scale_dspy.grading.units import UNITS
from scale_dspy.grading.words import (
    drop_estimate,
    drop_explanation,
    drop_lead,
    split_value,
)

LONGEST = 2000
"""Characters of the longest answer that is normalised and parsed."""

REMEMBERED = 2048
"""Answers whose spelling is cached, since a gold is compared with many predictions."""

_BRACKET = re.compile(r"[(\[]|\\\{")
_MARKS = compile_rules(
    [
        (r"\s{3,}", lambda blanks: "\n" if "\n" in blanks[0] else " "),
        (r'\\"', '"'),
        (r"(?<=.)\\\$", ""),
        (r"\\[()\[\]](?!\d*(?:pt|em|mm)\])|(?<!\\)\$", ""),
        (r"\A(?:\s|\*\*|`|\"|'(?=.*'\Z))+", ""),
        (
            r"(?:\s|(?<=\s),|;|\*\*\.?|`|\"|(?<!\\)~|\\[,;:! ]|\\q?quad"
            r"|(?<!\.)\.(?!\.)|,(?=[\s,]*\Z))+\Z",
            "",
        ),
        (r"(?<=[0-9])['?]\Z", ""),
        (r"(?<=[^\\])\\\Z", ""),
    ]
)


@lru_cache(REMEMBERED)
def prepare(answer: str) -> str:
    r"""Strip an answer of formatting and of words around it; mathematics, names and units stay.

    >>> prepare(r"$\boxed{\text{The answer is } \dfrac12}$."), prepare("１２ clips")
    ('\\frac{1}{2}', '12 clips')
    """
    return settle(_prepare, answer)


def _prepare(text: str) -> str:
    for step in (
        repair,
        to_latex,
        _strip_marks,
        undress,
        _strip_braces,
        spell_fractions,
        join_thousands,
        _join_commas,
        drop_explanation,
        drop_estimate,
        drop_lead,
    ):
        text = step(text)
    return text.strip()


def _strip_marks(text: str) -> str:
    """Strip dollar signs, bold, quotes and full stops around an answer."""
    return apply_rules(_MARKS, text)


def _strip_braces(text: str) -> str:
    while text.startswith("{") and find_closing_brace(text, 1) == len(text) - 1:
        text = text[1:-1]
    return text


_COMMAS = re.compile(r"(?<![0-9.,])[0-9]{1,3}(?:,[0-9]{3})+(?![0-9]|,[0-9])")


def _join_commas(text: str) -> str:
    """Join `1,000`, but not in brackets, where a comma may part coordinates."""
    if _BRACKET.search(text):
        return text
    return _COMMAS.sub(lambda m: m[0] if m[0].startswith("0") else m[0].replace(",", ""), text)


def settle(rewrite: Callable[[str], str], text: str) -> str:
    """Rewrite until nothing changes; a text that is too long is only stripped."""
    text = text.strip()
    for _ in range(LONGEST):
        rewritten = rewrite(text) if len(text) <= LONGEST else text
        if rewritten == text:
            break
        text = rewritten
    return text


# ---- one spelling ---------------------------------------------------------------------------

_TEXT = re.compile(r"\\(?:text|mathrm)\s*\{")
_CHOICE = re.compile(
    r"\A(?:\\text\s*\{)?\s*(?:\(([A-Z])\)|([A-J])[.):])\s*\}?(?:\s|\\[ ,;:]|\\q?quad|~"
    r"|\\text\s*\{\s*\})*(?=\S)(?![A-Z]\Z|\.\Z|\}|[,;]|=|\\(?:cup|cap|to)|and|or)"
)


def _shorten_decimal(match: re.Match[str]) -> str:
    fraction = match[2].rstrip("0")
    return f"{match[1]}.{fraction}" if fraction else match[1]


# In this order: spaces first, then numbers and fractions, commas last.
_SPELLING = compile_rules(
    [
        (r"\{,\}", ","),
        (r"(?<!\\)\\[,;:!> ]|~|\\q?quad(?![A-Za-z])", " "),
        (r"\\\$", ""),
        (r"\s*(?:\^\s*(?:\\circ(?![A-Za-z])|\{\s*\\circ\s*\}))", " "),
        (r"\A(?:\s|\*\*)+|(?:[\s,;]|\*\*)+\Z", ""),
        (r"(?<!\.)\.\Z", ""),
        (r"\A\+(?=[0-9.])", ""),
        (r"(?<![\w.])\.(?=[0-9])", "0."),
        (r"(?<![\w.,:])(?<!, )0+(?=[0-9])", ""),
        (r"(?<![\w.])([0-9]+)\.([0-9]*0)(?![0-9.])", _shorten_decimal),
        (r"\A-(?=0(?:\.0*)?\Z)", ""),
        (r"\s+", " "),
        (
            r"(?<=[\W_]) | (?=[\W_])|(?<=[0-9]) (?=[A-Za-z])|(?<=[A-Za-z]) (?=[0-9])",
            "",
        ),
        (",", ", "),
        (r"\A\((-?[0-9]+(?:\.[0-9]+)?|[A-Z])\)\Z", r"\1"),
        (r"(?<=[\^_])\{(\w)\}(?!\w)", r"\1"),
        (r"\A(-?)([0-9]+)/([0-9]+)\Z", r"\1\\frac{\2}{\3}"),
        (r"\A\\frac\{-([0-9]+)\}", r"-\\frac{\1}"),
    ]
)
_LEFT_SIDE = re.compile(
    r"\A(?:[A-Za-z]|[A-Z]{2,4}|\\[A-Za-z]+|\\angle ?[A-Z]+|[A-Za-z]\([A-Za-z0-9]+\))"
    r"(?:_(?:\w|\{\w+\}))?(?:=|\\in(?![A-Za-z]))(?=[^=<>]+\Z)"
)


def respell(answer: str) -> str:
    """One spelling of a prepared answer, with its name and its unit."""
    text = _strip_braces(unwrap(_TEXT, answer)) if _TEXT.search(answer) else answer
    return apply_rules(_SPELLING, text)


_NAMED_CHOICE = re.compile(
    r"(?:\\text\s*\{)?\s*(?:(?:[Oo]ption|[Cc]hoice|选项?|答案)\s*(?:\\text\s*\{)?\(?(?P<letter>[A-J])\)?|(?P<before>[A-J])项)\s*\}?"
)


def split_choice(answer: str) -> tuple[str | None, str]:
    r"""Part the letter of a multiple-choice answer from its value: `(B) 27`, `B. 27`."""
    named = _NAMED_CHOICE.fullmatch(answer)
    if named:
        return named["letter"] or named["before"], ""
    match = _CHOICE.match(answer)
    return ((match[1] or match[2]), answer[match.end() :]) if match else (None, answer)


@lru_cache(REMEMBERED)
def normalise(answer: str) -> str:
    r"""Give an answer its canonical spelling, for votes and for fast comparison.

    Drops what does not change an answer: dollar signs, boxes, `\text` and fonts, sizes, colours,
    `\left` and `\right`, thin spaces, degree marks, punctuation at the end, bold, blanks, a
    sentence before the value, and a noun or a unit behind it (`72 clips`, `5 cm`; a single letter
    only in `\text{}`, as it may be a variable). Writes `1,000` and `1{,}000` as `1000` (proper
    groups of three only, and a bare comma only outside of brackets, where it may separate
    coordinates), `073` as `73`, `27.0` as `27`, `.5` as `0.5`, `\dfrac12`, `½` and `1/2` as
    `\frac{1}{2}`. Drops a left side that is one name (`x = 73`, `x \in [1, 2]`).

    The text is not parsed: `0.5` and `1/2` stay different. Doing it twice changes nothing.

    Args:
        answer: An answer as `find_answer` returns it. One of more than `LONGEST` characters is only
            freed of blanks around it.

    Returns:
        The canonical spelling; empty where nothing is left.
    """
    return settle(_normalise, answer)


def _normalise(text: str) -> str:
    text = _prepare(text)
    value = split_value(text)
    if value.percent:
        text = value.text + "%"
    elif value.unit is None or value.unit.quantity != UNITS["am"].quantity:
        text = value.text
    return _LEFT_SIDE.sub("", respell(text))


_INTEGER = re.compile(r"-?[0-9]{1,2000}%?")
_ARITHMETIC = re.compile(
    r"[-+*/^0-9.,()\s{}!%$]*(?:\\(?:cdot|times|div|frac)[-+*/^0-9.,()\s{}!%$]*)*"
)
_SUM = re.compile(r"[A-Za-z](?:_\w)?(?:\s*[-+]\s*[A-Za-z](?:_\w)?)*")


@lru_cache(REMEMBERED)
def read_integer(answer: str) -> int | None:
    r"""Read an answer that is an integer, however it is dressed.

    Reads all that `normalise` reduces to an integer, a percentage without its sign, the right side
    of an equation whose left side is a name, a sum of names or arithmetic (`m + n = 73`,
    `48/2 + 48 = 72`), and the value of a choice (`(B) 27`).

    Args:
        answer: An answer as `find_answer` returns it.

    Returns:
        The integer, or None for anything else: a fraction, a word, several answers, an inequality.
    """
    if len(answer) > LONGEST:
        plain = answer.strip()
        return int(plain) if _INTEGER.fullmatch(plain) else None
    *left, right = split_choice(prepare(answer))[1].split("=")
    if not all(_is_left_side(side) for side in left):
        return None
    spelled = normalise(right)
    return int(spelled.rstrip("%")) if _INTEGER.fullmatch(spelled) else None


def _is_left_side(text: str) -> bool:
    text = text.strip()
    if not text or (re.search(r"[<>!]\Z|,", text) and not _ARITHMETIC.fullmatch(text)):
        return False
    return bool(is_name(text) or _SUM.fullmatch(text) or _ARITHMETIC.fullmatch(text))
