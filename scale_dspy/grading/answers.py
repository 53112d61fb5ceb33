r"""Find the answer in a model's text and decide whether two answers are equal.

Three layers, each usable alone: `find_answer` reads a text, `normalise` gives an answer one
spelling (what majority voting counts), `equal` compares two answers. Only the last asks math-
verify, in a process of its own (`math_verify_worker.py`), where spelling does not settle it.
"""

from __future__ import annotations

import re
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from typing import Literal

from scale_dspy.grading.math_verify_worker import ask_worker

LONGEST = 2000
"""Characters of the longest answer that is normalised and parsed."""

# ---- find_answer ----------------------------------------------------------------------------

# JSON reads \b and \f as control characters, and so corrupts \boxed, \fbox and \frac.
_CORRUPTED = re.compile(r"\x08(?=oxed)|\x0c(?=box|rac)")

_BOX_OR_BRACE = re.compile(
    r"\\(?:boxed|fbox)(?![A-Za-z])\s*(?:(?P<box>\{)|(?P<bare>[-+]?\.?[0-9]+(?:[.,/][0-9]+)*))?"
    r"|\\\\(?!boxed|fbox)|\\[{}]|(?P<brace>[{}])"
)

_BOX = re.compile(r"\\(?:boxed|fbox)(?![A-Za-z])")

_VISIBLE = re.compile(r"\S")

_PHRASE = re.compile(
    r"(?i:\b(?:the|final|correct|my|our)[ \t]{1,8}answer[*_ \t]{0,8}\bis\b"
    r"|\banswer[*_ \t]{0,8}:|####)[\s*_:]{0,16}"
)

_DRESS = "$*" + "".join(filter(str.isspace, map(chr, range(0x3001))))

_VALUE = re.compile(r"\$([^$\n]+)\$|\\\(([^\n]+?)\\\)|([^\n]*?)(?=\.(?:[\s$*\"')]|\Z)|\n|\Z)")

_NUMBER = re.compile(r"(?:(?<![\w)\]}])-)?[0-9]+(?:,[0-9]{3}(?![0-9]))*(?:\.[0-9]+)?(?:/[0-9]+)?")


def find_answer(text: str) -> str | None:
    r"""Find the answer that a model's text ends in.

    In this order: the last complete, non-empty `\boxed{...}` (or `\fbox{...}`, or `\boxed 73`), of
    nested boxes the outer one; what follows the last "the answer is", "answer:" or "####", up to
    the end of its formula, sentence or line; the last number. A box that the text breaks off in
    does not count. What comes before a `</think>` is read only where nothing follows it.

    Args:
        text: What the model wrote: any string, of any length; the time is linear in it.

    Returns:
        The answer as written, without blanks around it, or None where there is none.
    """
    spoken = text.rpartition("</think>")[2]
    spoken = _repair(spoken if spoken.strip() else text)
    return _last_box(spoken) or _last_phrase(spoken) or _last_number(spoken)


def _repair(text: str) -> str:
    return _CORRUPTED.sub(lambda match: "\\b" if match[0] == "\x08" else "\\f", text)


def _last_box(text: str) -> str | None:
    found: tuple[int, int] | None = None
    opened: list[int | None] = []  # of every open brace: where its box's content starts
    first = _BOX.search(text)
    for match in _BOX_OR_BRACE.finditer(text, first.start() if first else len(text)):
        if match["box"]:
            opened.append(match.end())
        elif match["bare"]:
            found = match.span("bare")
        elif match["brace"] == "{":
            opened.append(None)
        elif match["brace"] and opened:
            start = opened.pop()
            if start is not None and _VISIBLE.search(text, start, match.start()):
                found = (start, match.start())
    return text[slice(*found)].strip() if found else None


def _last_phrase(text: str) -> str | None:
    end = len(text)
    for phrase in reversed(list(_PHRASE.finditer(text))):
        value = _VALUE.match(text, phrase.end(), end)
        stripped = next(filter(None, value.groups()), "").strip(_DRESS) if value else ""
        if stripped and not _BOX.search(stripped):  # a box here is empty or broken off
            return stripped
        end = phrase.start()
    return None


def _last_number(text: str) -> str | None:
    last = deque(_NUMBER.finditer(text), maxlen=1)
    return last[0][0] if last else None


# ---- normalise ------------------------------------------------------------------------------

_Replacement = str | Callable[[re.Match[str]], str]
_Rules = list[tuple[re.Pattern[str], _Replacement]]

_COMMAND_END = re.compile(r"\\[A-Za-z]+\Z")
_BRACE = re.compile(r"\\\\|\\[{}]|[{}]")
_BRACKET = re.compile(r"[(\[]|\\\{")

_LEFT_SIDE = re.compile(
    r"\A(?:[A-Za-z]|[A-Z]{2,4}|\\[A-Za-z]+|\\angle ?[A-Z]+|[A-Za-z]\([A-Za-z0-9]+\))"
    r"(?:_(?:\w|\{\w+\}))?(?:=|\\in(?![A-Za-z]))(?=[^=<>]+\Z)"
)

_INTEGER = re.compile(r"-?[0-9]{1,2000}%?")
_CHOICE = re.compile(r"\A\([A-E]\)(?=-?[0-9])")
_SEVERAL = re.compile(r"[,;]|(?<![a-z])(?:or|and)(?![a-z])")

_WRAPPER = re.compile(
    r"\\(?:text(?:bf|it|rm|sf|tt|normal)?|math(?:bf|rm|it|sf|tt|normal)|bold(?:symbol)?|bm|mbox|hbox"
    r"|boxed|fbox)\s*\{"
)

# Unit words are safe to drop after a number; signs that could be variables only inside \text{}.
_UNIT_WORD = (
    r"(?:(?:square|sq\.?|cubic|cu\.?)\s+)?(?:degrees?|inch(?:es)?|feet|foot|yards?|miles?"
    r"|(?:kilo|centi|milli)?met(?:er|re)s?|(?:kilo|milli)?grams?|pounds?|ounces?|lit(?:er|re)s?"
    r"|gallons?|seconds?|minutes?|hours?|days?|weeks?|months?|years?|dollars?|cents?|units?"
    r"|[ckm]m|kg|ft|mph)"
)
_UNIT_SIGN = r"(?:(?:sq\.?\s+)?(?:m|in|yd|mi)|g|mg|lbs?|oz|m?L|s|sec|min|hrs?|km/h|m/s)"
_POWER = r"(?:\s*\^\s*(?:[23]|\{[23]\}))?"
_UNIT = (
    rf"(?:(?<=[0-9}})])|(?<=\\pi))\s*(?:{_UNIT_WORD}{_POWER}"
    rf"|\\(?:text|mbox|mathrm)\s*\{{\s*(?:{_UNIT_WORD}|{_UNIT_SIGN})\.?{_POWER}\s*\}}{_POWER})\Z"
)


def _join_thousands(match: re.Match[str]) -> str:
    return match[0] if _BRACKET.search(match.string) else match[0].replace(",", "")


def _shorten_decimal(match: re.Match[str]) -> str:
    fraction = match[2].rstrip("0")
    return f"{match[1]}.{fraction}" if fraction else match[1]


def _compile(rules: Iterable[tuple[str, _Replacement]]) -> _Rules:
    return [(re.compile(pattern), replacement) for pattern, replacement in rules]


# In this order: marks and spaces first, then numbers and fractions, commas last.
_TYPOGRAPHY = _compile(
    [
        ("−", "-"),
        ("×", r"\\times "),
        ("π", r"\\pi "),
        ("∞", r"\\infty "),
        (r"(?<=[0-9])(?:,(?:\\!\s*)+|\{,\}|\\,)(?=[0-9]{3}(?![0-9]))", ""),
        (r"\{,\}", ","),
        (r"\\!", ""),
        (r"(?<!\\)\\[,;:> ]|~|\\q?quad(?![A-Za-z])", " "),
        (r"\\?\$|(?<!\\)\\[()\[\]]", ""),
        (r"\\(?:left|right)(?![A-Za-z])\s*\.?|\\[bB]igg?[lrm]?(?![A-Za-z])", ""),
        (r"\\(?:display|text|script)style(?![A-Za-z])", ""),
        (r"\\[dtc]frac(?![A-Za-z])", r"\\frac"),
        (r"\\%", "%"),
        (r"\s*(?:\^\s*(?:\\circ(?![A-Za-z])|\{\s*\\circ\s*\})|\\degree(?![A-Za-z])|°)", " "),
        (r"\A(?:\s|\*\*)+|(?:[\s,;]|\*\*)+\Z", ""),
        (r"(?<!\.)\.\Z", ""),
        (r"\A\+(?=[0-9.])", ""),
        (r"(?<![0-9.,])[0-9]{1,3}(?:,[0-9]{3})+(?![0-9]|,[0-9])", _join_thousands),
        (r"(?<![\w.])\.(?=[0-9])", "0."),
        (r"(?<![\w.,])(?<!, )0+(?=[0-9])", ""),
        (r"(?<![\w.])([0-9]+)\.([0-9]*0)(?![0-9.])", _shorten_decimal),
        (r"\\frac\s*([0-9])\s*([0-9])", r"\\frac{\1}{\2}"),
        (r"\\frac\s*([0-9])\s*\{", r"\\frac{\1}{"),
        (r"\\frac\s*(\{[^{}]*\})\s*([0-9])", r"\\frac\1{\2}"),
        (_UNIT, ""),
        (r"\s+", " "),
        (r"(?<=[\W_]) | (?=[\W_])|(?<=[0-9]) (?=[A-Za-z])|(?<=[A-Za-z]) (?=[0-9])", ""),
        (",", ", "),
    ]
)

_SPELLING = _compile(
    [
        (_LEFT_SIDE.pattern, ""),
        (r"\A\((-?[0-9]+(?:\.[0-9]+)?|[A-Z])\)\Z", r"\1"),
        (r"(?<=[\^_])\{(\w)\}(?!\w)", r"\1"),
        (r"\A(-?)([0-9]+)/([0-9]+)\Z", r"\1\\frac{\2}{\3}"),
        (r"\A\\frac\{-([0-9]+)\}", r"-\\frac{\1}"),
    ]
)


def normalise(answer: str) -> str:
    r"""Give an answer its canonical spelling, for votes and for fast comparison.

    Drops what does not change an answer: dollar signs, boxes, `\text` and fonts, `\left` and
    `\right`, thin spaces, degree marks, punctuation at the end, bold, blanks. Writes `1,000` and
    `1{,}000` as `1000` (proper groups of three only, and a bare comma only outside of brackets,
    where it may separate coordinates), `073` as `73`, `27.0` as `27`, `.5` as `0.5`, `\dfrac12` and
    `1/2` as `\frac{1}{2}`. Drops a left side that is one name (`x = 73`, `x \in [1, 2]`), and a
    unit after a number where it cannot be a variable: words (`degrees`, `square inches`, `cm`)
    always, signs such as `m` or `s` only within `\text{}` or `\mathrm{}`; other words stay.

    The text is not parsed: `0.5` and `1/2` stay different. Doing it twice changes nothing.

    Args:
        answer: An answer as `find_answer` returns it. One of more than `LONGEST` characters is only
            freed of blanks around it.

    Returns:
        The canonical spelling; empty where nothing is left.
    """
    return _settle(_respell, answer)


def read_integer(answer: str) -> int | None:
    r"""Read an answer that is an integer, however it is dressed.

    Reads all that `normalise` reduces to an integer, a percentage without its sign, and the right
    side of a single equation (`m + n = 73`) or of a choice (`(B) 27`).

    Args:
        answer: An answer as `find_answer` returns it.

    Returns:
        The integer, or None for anything else: a fraction, a word, several answers.
    """
    left, _, right = _CHOICE.sub("", normalise(answer)).rpartition("=")
    if _SEVERAL.search(left) or not _INTEGER.fullmatch(right):
        return None
    return int(right.rstrip("%"))


def vote(answers: Sequence[str | None]) -> str | None:
    """Find the answer that most agree on, counted by canonical spelling.

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


def _settle(rewrite: Callable[[str], str], text: str) -> str:
    """Rewrite until nothing changes."""
    text = text.strip()
    for _ in range(LONGEST):
        rewritten = rewrite(text) if len(text) <= LONGEST else text
        if rewritten == text:
            break
        text = rewritten
    return text


def _tidy(text: str) -> str:
    """Free an answer of typography; the mathematics, and a left side, stay as they are."""
    return _unbrace(_unwrap(_apply(_TYPOGRAPHY, _repair(text))))


def _respell(text: str) -> str:
    return _apply(_SPELLING, _tidy(text))


def _apply(rules: _Rules, text: str) -> str:
    for pattern, replacement in rules:
        text = pattern.sub(replacement, text)
    return text


def _unwrap(text: str) -> str:
    r"""Replace every `\text{...}`, `\boxed{...}` or the like by its content, up to an open one.

    All at once: with one a round of all rules, an answer of nothing else would take seconds.
    """
    while wrapper := _WRAPPER.search(text):
        end = find_closing_brace(text, wrapper.end())
        if end is None:
            break
        before = text[: wrapper.start()]
        gap = " " if _COMMAND_END.search(before) else ""
        text = before + gap + text[wrapper.end() : end] + text[end + 1 :]
    return text


def _unbrace(text: str) -> str:
    while text.startswith("{") and find_closing_brace(text, 1) == len(text) - 1:
        text = text[1:-1]
    return text


def find_closing_brace(text: str, start: int) -> int | None:
    """Where the brace closes that was opened just before `start`."""
    depth = 1
    for match in _BRACE.finditer(text, start):
        depth += {"{": 1, "}": -1}.get(match[0], 0)
        if depth == 0:
            return match.start()
    return None


# ---- equal ----------------------------------------------------------------------------------

_NUMERAL = re.compile(r"-?[0-9]+(?:\.[0-9]+)?|-?[0-9A-Z]+_(?:[0-9]|\{[0-9]+\})")
_WORD = re.compile(r"[A-Za-z][A-Za-z' -]{2,}")
# The equation of a line or a plane. math-verify takes it for its right side: the number 0.
_EQUATION = re.compile(r"(?=.*[0-9][a-z])[^=<>]*[+-][^=<>]*=0")


def equal(pred: str | None, gold: str, *, kind: Literal["integer", "math"] = "math") -> bool:
    r"""Decide whether two answers are equal.

    Where `kind` is "math" and spelling does not settle it, this blocks its thread for up to
    `mathworker.TIME_LIMIT` seconds, and longer the first time, which starts the worker process.

    Args:
        pred: The answer to judge; None or a blank one is never equal.
        gold: The accepted answer.
        kind: "integer" compares what `read_integer` reads and nothing else. "math" compares the
            canonical spelling, then asks math-verify: `\frac{1}{2}` is `0.5`, sets have no order,
            an open interval may be a pair. Two words, and two numerals (decimals, or digits with a
            base), are compared exactly. `2x + y - 4 = 0` is an equation, not its right side. What
            math-verify cannot read or finish in time is not equal.

    Returns:
        Whether they are equal. Where the worker process cannot be started, a warning is logged and
        answers that are spelled differently count as different.

    Raises:
        ValueError: `kind` is neither of the two.
    """
    if kind not in ("integer", "math"):
        raise ValueError(f"kind must be 'integer' or 'math', not {kind!r}")
    if not pred:
        return False
    if kind == "integer":
        value = read_integer(pred)
        return value is not None and value == read_integer(gold)
    pair = _comparable(pred, gold)
    verdict = _compare_spelling(*pair)
    return ask_worker(*pair) if verdict is None else verdict


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


def _comparable(pred: str, gold: str) -> tuple[str, str]:
    """Spell both alike. A left side counts only where both are equations, with different ones."""
    tidy = _settle(_tidy, pred), _settle(_tidy, gold)
    names = {match[0] if match else "" for match in map(_LEFT_SIDE.match, tidy)}
    if "=" in tidy[0] and "=" in tidy[1] and len(names) > 1:
        return tidy
    return normalise(pred), normalise(gold)


def _compare_spelling(pred: str, gold: str) -> bool | None:
    """Compare without parsing; None where that leaves it open."""
    if not pred or not gold:
        return False
    if pred == gold:
        return True
    if _WORD.fullmatch(pred) and _WORD.fullmatch(gold):
        return pred.casefold() == gold.casefold()
    if max(len(pred), len(gold)) > LONGEST:
        return False
    for one, other in ((pred, gold), (gold, pred)):
        if _EQUATION.fullmatch(one) and "=" not in other:
            return False
    return False if _NUMERAL.fullmatch(pred) and _NUMERAL.fullmatch(gold) else None
