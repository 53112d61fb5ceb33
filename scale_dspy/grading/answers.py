r"""Find the answer in a model's text and decide whether two answers are equal.

The front of grading; each step behind it has a file of its own, and examples:

1. `reading` finds the answer in a text: `find_answer`.
2. `characters`, `words` and `names` strip an answer of formatting and of words around it.
3. `spelling` applies these in order: `normalise` (what majority voting counts), `read_integer`.
4. Where the spelling does not settle it, `shape_reader` and `formula` parse what is left, and
   `comparison` compares it exactly, in a worker process (`math_verify_worker`): `equal`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Literal

from scale_dspy.grading.characters import find_closing_brace
from scale_dspy.grading.math_verify_worker import ask_worker
from scale_dspy.grading.names import spell_words
from scale_dspy.grading.reading import find_answer
from scale_dspy.grading.spelling import (
    LONGEST,
    normalise,
    prepare,
    read_integer,
    respell,
    split_choice,
)

__all__ = [
    "GRADER",
    "LONGEST",
    "accepts",
    "equal",
    "find_answer",
    "find_closing_brace",
    "normalise",
    "read_integer",
    "vote",
]

GRADER = 3
"""Version of the grader, raised by every change that alters a verdict or the answer read."""


def vote(answers: Sequence[str | None]) -> str | None:
    """Find the most frequent answer, counted by canonical spelling.

    Args:
        answers: One answer a voter; None and blank ones abstain.

    Returns:
        The first answer given of the largest group, of equal groups the one begun first; None where
        all abstain.
    """
    given = [(normalise(answer), answer) for answer in answers if answer]
    counts = Counter(spelling for spelling, _ in given if spelling)
    if not counts:
        return None
    [(winner, _)] = counts.most_common(1)
    return next(answer for spelling, answer in given if spelling == winner)


_PLAIN = re.compile(r"-?[0-9]+(?:\.[0-9]+)?")
_COMMA_DECIMAL = re.compile(r"([^0-9()\[\]]{0,9}[0-9]+),([0-9]+[^0-9()\[\],]{0,20})")
_DECIMAL = re.compile(r"[^0-9()\[\]]{0,9}[0-9]+\.[0-9]+[^0-9()\[\],]{0,20}")
_LETTER = re.compile(r"(?:\\text\s*\{)?\(?[A-J]\)?\}?")
_DIGIT = re.compile(r"[0-9]")


def equal(pred: str | None, gold: str, *, kind: Literal["integer", "math"] = "math") -> bool:
    r"""Decide whether two answers are equal.

    Where spelling does not settle it, this blocks its thread while another process computes: for
    milliseconds, at most for `math_verify_worker.TIME_LIMIT` seconds of that process's own time,
    and longer the first time, which starts it.

    Args:
        pred: The answer to judge; None or a blank one is never equal.
        gold: The accepted answer.
        kind: "integer" compares what `read_integer` reads; arithmetic that is no integer as it
            stands is worked out. "math" compares the canonical spelling, then the mathematics,
            exactly: `\frac{1}{2}` is `0.5`, sets have no order, a list with other multiplicities
            is another, `x < 3` is `(-\infty, 3)`. `2x + y - 4 = 0` is an equation, not its right
            side. The rules are in docs/what_counts_as_equal.md. What cannot be read or finished in
            time is not equal.

    Returns:
        Whether they are equal. Where the worker process cannot be started, a warning is logged and
        answers that are spelled differently count as different.

    Raises:
        ValueError: `kind` is neither of the two.
    """
    if kind not in ("integer", "math"):
        raise ValueError(f"kind must be 'integer' or 'math', not {kind!r}")
    if not pred or not pred.strip():
        return False
    if kind == "integer":
        return _equal_integers(pred, gold)
    return _equal_choices(prepare(pred), prepare(gold))


def accepts(
    pred: str | None, golds: Sequence[str], *, kind: Literal["integer", "math"] = "math"
) -> bool:
    """Decide whether an answer equals any of several accepted ones.

    Args:
        pred: The answer to judge.
        golds: The accepted answers: a sequence, not one string.
        kind: As for `equal`.

    Returns:
        Whether it equals one of them.

    Raises:
        ValueError: `kind` is not one that `equal` knows.
    """
    return any(equal(pred, gold, kind=kind) for gold in golds)


def _equal_integers(pred: str, gold: str) -> bool:
    wanted, value = read_integer(gold), read_integer(pred)
    if wanted is None or value is not None or len(pred) > LONGEST:
        return value is not None and value == wanted
    prepared = prepare(pred)
    return bool(_DIGIT.search(prepared)) and ask_worker(split_choice(prepared)[1], str(wanted))


def _equal_choices(pred: str, gold: str) -> bool:
    """Compare choice letters where both answers have one or one is only a letter, else values."""
    (letter, value), (wanted, answer) = split_choice(pred), split_choice(gold)
    if letter is None and wanted is None and not (_LETTER.fullmatch(gold) and len(pred) <= 3):
        return _equal_prepared(pred, gold)
    letters = letter or normalise(pred), wanted or normalise(gold)
    if all(len(each) == 1 and each.isalpha() for each in letters):
        return letters[0].casefold() == letters[1].casefold()
    return _equal_prepared(value, answer)


def _equal_prepared(pred: str, gold: str) -> bool:
    pred, gold = _point_decimal(pred, gold), _point_decimal(gold, pred)
    verdict = _compare_spelling(pred, gold)
    return ask_worker(pred, gold) if verdict is None else verdict


def _compare_spelling(pred: str, gold: str) -> bool | None:
    """Compare the spellings; None where only parsing can decide."""
    if not pred or not gold:
        return False
    if pred == gold:
        return True
    if max(len(pred), len(gold)) > LONGEST:
        return False
    words = spell_words(pred), spell_words(gold)
    if None not in words and words[0] == words[1]:
        return True
    spelled = respell(pred), respell(gold)
    if not all(spelled):
        return False
    if spelled[0] == spelled[1] and words == (None, None) and not _differ_in_unit(pred, gold):
        return True
    return False if all(map(_PLAIN.fullmatch, spelled)) else None


def _differ_in_unit(pred: str, gold: str) -> bool:
    """Whether one answer is in degrees and the other in dollars; `respell` drops both units."""
    return ("$" in pred and "\\circ" in gold) or ("$" in gold and "\\circ" in pred)


def _point_decimal(text: str, other: str) -> str:
    """Write the comma of `1,22` as a point where the other answer is a decimal, not a list."""
    if _COMMA_DECIMAL.fullmatch(text) and _DECIMAL.fullmatch(other):
        return _COMMA_DECIMAL.sub(r"\1.\2", text)
    return text
