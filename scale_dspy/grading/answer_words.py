r"""Read an answer that is nothing but words: `no solution`, `all real numbers`, `May 5`, `even`."""

from __future__ import annotations

import re

import sympy
from sympy import S

from scale_dspy.grading.names import spell_words
from scale_dspy.grading.shapes import Number, Region, Shape, Word

EMPTY = frozenset(
    "no solution|no solutions|no real solution|no real solutions|no such numbers|none exist"
    "|there is no solution|there are no solutions|empty set|the empty set|no roots|no real roots"
    "|no integer solutions|no values|no real numbers|there are no real solutions"
    "|no such values|keine lösung|keine lösungen|keine reelle lösung|keine reellen lösungen"
    "|pas de solution|aucune solution|aucune solution réelle|sin solución|no hay solución"
    "|no tiene solución|sem solução|nessuna soluzione|нет решений|решений нет|нет корней"
    "|нет действительных корней|无解|無解|无实数解|无实根|空集|解なし|解は存在しない".split("|")
)
UNDEFINED = frozenset(
    "undefined|does not exist|dne|not defined|doesn't exist|limit does not exist"
    "|diverges|divergent".split("|")
)
_REALS = frozenset(
    "all real numbers|all reals|all real|every real number|any real number"
    "|all real values|the real numbers"
    "|all real values of x|all real x|real numbers|the set of all real numbers|all x"
    "|all real numbers x".split("|")
)
_INFINITE = frozenset(["infinity", "inf", "oo", "+infinity", "positive infinity"])
_MONTHS = (
    "january february march april may june july august september october november december".split()
)
_MONTH = "|".join(f"{name}|{name[:3]}" for name in _MONTHS)
_DATE = re.compile(
    rf"(?:(?P<a>\d{{1,2}})(?:st|nd|rd|th)?\s+(?:of\s+)?)?(?P<month>{_MONTH})\.?(?:\s+(?P<b>\d{{1,2}})(?:st|nd|rd|th)?)?(?:,?\s+(?P<year>\d{{4}}))?",
    re.I,
)
_AGREEMENT = re.compile(r"\A(yes|no|true|false)\s*[,.;:!](?!\S)", re.I)


def read_word(text: str) -> Shape | None:
    date = _DATE.fullmatch(re.sub(r"\\text\s*\{|[{}]", " ", text).strip())
    if date and (date["a"] or date["b"]):
        month = next(
            i for i, name in enumerate(_MONTHS) if name.startswith(date["month"].lower()[:3])
        )
        return Word(f"{month + 1}-{int(date['a'] or date['b'])}-{date['year'] or ''}")
    words = spell_words(text)
    if words is None:
        return None
    if words in _REALS:
        return Region(S.Reals)
    if words in _INFINITE:
        return Number(sympy.oo)
    if words in EMPTY:
        return Region(S.EmptySet)
    if words in UNDEFINED:
        return Word("undefined")
    agreement = _AGREEMENT.match(words)
    return Word(agreement[1] if agreement else words)
