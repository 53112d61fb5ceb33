"""Read lists in the many styles in which models write them, and write them in one style."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

MAX_SUBPROBLEMS = 12
MAX_READ = 100_000  # characters of a reply that are read; a list is never longer


def render_list(items: Sequence[str]) -> str:
    """Items as a numbered list, as `read_list` reads it."""
    return "\n".join(f"{number}. {item}" for number, item in enumerate(items, 1))


@dataclass(frozen=True)
class ListStyle:
    """One way in which models write a list.

    Attributes:
        opening: a pattern for what opens an item, ignoring case; the item's text follows it.
        ordinals: what group 1 matches for the first item, the second and so on. Empty: a number in
            digits, 0 or 1 for the first item. None: items are not counted, and there is no group.
        least: how many items a text must have to be a list of this style.
        sentences: whether every item must begin as SENTENCE says.
        cells: whether an item is one cell of a table's row, up to CELL_END.
    """

    opening: str
    ordinals: tuple[str, ...] | None = ()
    least: int = 2
    sentences: bool = False
    cells: bool = False


# What may come on a line before an ordinal: a bullet or a quote mark, bold type or a heading, and
# the name of what is counted.
_BEFORE = r"^[ \t]{0,3}(?:[-*•>][ \t]+)?(?:[*_#]{1,4}[ \t]*)?"
_NAME = (
    r"(?:(?:sub[- ]?(?:problem|question|task|goal)|step|task|part|question|problem)"
    r"[ \t]*(?:no\.?|number|#)?|步骤|子问题|第)[ \t]*[*_]{0,3}"
)
_AFTER = (
    r"(?:\\?[.)\]:、．。：）](?!\d)|\ufe0f?\u20e3|[ \t]{1,3}[–—](?=[ \t])"
    r"|[ \t]{1,3}-[ \t]{1,3}(?=[a-z]{4}))(?:[*_]{1,3})?"
)
_AFTER_NAMED = (
    r"[步个]?(?:[)\]]?[*_]{0,3}[ \t]{0,3}(?:[.:、：](?!\d)|[-–—](?=[ \t]))|\)|[*_]{2,3}[ \t]"
    r"|[*_]{0,3}[ \t]*$)"
    r"(?:[*_]{1,3})?"
)
# Within a line an ordinal follows a sentence; after a comma it must be in parentheses, because
# plain numbers follow commas too.
_WITHIN = (
    r"(?:^|(?<=[.?!;:。；？！])|(?<=,)(?=[ \t]{0,3}(?:and[ \t]{1,3})?\())"
    r"[ \t]{0,3}(?:and[ \t]{1,3})?"
)
NUMBERED = rf"{_BEFORE}(?:{_NAME})?[(\[#（]{{0,2}}(\d{{1,3}}){_AFTER}"
_NAMED = rf"{_BEFORE}{_NAME}[(\[]?(\d{{1,3}}){_AFTER_NAMED}"
_LETTERS = tuple("abcdefghijkl")
_CIRCLES = tuple("①②③④⑤⑥⑦⑧⑨⑩⑪⑫")
_ROMAN = tuple("i ii iii iv v vi vii viii ix x xi xii".split())
_ONE = tuple("one two three four five six seven eight nine ten eleven twelve".split())
_FIRST = tuple("first second third fourth fifth sixth seventh eighth".split())

STYLES = (
    ListStyle(_NAMED),
    ListStyle(NUMBERED),
    ListStyle(rf"{_WITHIN}(?:{_NAME})?[(（]?(\d{{1,2}})[.):）](?=[ \t]{{1,3}}\S)", sentences=True),
    ListStyle(NUMBERED, least=1),
    ListStyle(_NAMED, least=1),
    ListStyle(rf"{_BEFORE}([①-⑫])[.:)]?(?:[*_]{{1,3}})?", _CIRCLES),
    ListStyle(r"[ \t]{0,3}([①-⑫])(?=[ \t]{0,3}\S)", _CIRCLES, sentences=True),
    ListStyle(
        rf"^[ \t]{{0,3}}\|[ \t]*(?:{_NAME})?[*_]{{0,3}}(\d{{1,2}})[.)]?[*_]{{0,3}}[ \t]*\|",
        cells=True,
    ),
    ListStyle(rf"{_BEFORE}(?:{_NAME})?\(?([a-l])[.):](?![a-z0-9.])(?:[*_]{{1,3}})?", _LETTERS),
    ListStyle(rf"{_WITHIN}\(?([a-l])\)(?=[ \t]{{1,3}}\S)", _LETTERS, sentences=True),
    ListStyle(rf"{_BEFORE}(?:{_NAME})?\(?([ivx]{{1,4}})[.):](?![a-z0-9.])(?:[*_]{{1,3}})?", _ROMAN),
    ListStyle(rf"{_BEFORE}{_NAME}({'|'.join(_ONE)})[*_]{{0,3}}[.:](?:[*_]{{1,3}})?", _ONE),
    ListStyle(rf"{_BEFORE}({'|'.join(_FIRST)})(?:ly)?[*_]{{0,3}}[,:](?:[*_]{{1,3}})?", _FIRST),
    ListStyle(r"^[ \t]{0,3}[-*•‣◦–—+][ \t]+", None, least=1),
)
"""The styles, in the order in which they are tried; the first one that finds a list is used."""

SENTENCE = r"[*_$]{0,3}(?:[A-Z][a-z]+[ \t]+\S|[^\W\d_]\S*[ \t]+\S{0,20}?(?:[^\W\d_]|[$\\]))"
"""The beginning of an item that is a sentence: a word, then another word or a formula."""

CELL_END = r"[ \t]\|.*$|\|[ \t]*$"
"""The end of an item that is the first cell of a table's row."""


def read_list(text: str) -> list[str]:
    r"""The items of a list in a model's reply: numbered, or in another of STYLES.

    An item may run over several lines; LaTeX is left as it is. A number opens an item only where
    it continues the count, so a line of mathematics that begins with "3." does not. Repeated items
    count once. At most MAX_SUBPROBLEMS are kept. Text before the list and code fences are dropped.

    >>> read_list("Plan:\n1. Find $\\frac{a}{b}$.\n2) Find its square.")
    ['Find $\\frac{a}{b}$.', 'Find its square.']
    >>> read_list("1. Add the digits. 2. Square the sum.")
    ['Add the digits.', 'Square the sum.']
    """
    kept = (line for line in text[:MAX_READ].splitlines() if not line.lstrip().startswith("```"))
    text = "\n".join(kept)
    items = _read_json(text)
    for style in () if items else STYLES:
        items = _collect(style, text)
        if items:
            break
    return list(dict.fromkeys(items))[:MAX_SUBPROBLEMS]


def _collect(style: ListStyle, text: str) -> list[str]:
    """The items of a text in one style; none if there are fewer than the style needs."""
    places: list[tuple[int, int]] = []
    count = 0
    for match in re.finditer(style.opening, text, re.IGNORECASE | re.MULTILINE):
        number = count + 1 if style.ordinals is None else _read_ordinal(style.ordinals, match[1])
        if number == count + 1 or (number == 0 and not places):
            places.append(match.span())
            count = number
    if len(places) < style.least:
        return []
    ends = [start for start, _ in places[1:]] + [len(text)]
    items = [
        _tidy(text[start:end], style.cells) for (_, start), end in zip(places, ends, strict=True)
    ]
    if style.sentences and not all(re.match(SENTENCE, item) for item in items):
        return []
    return [item for item in items if item]


def _read_ordinal(ordinals: tuple[str, ...], found: str) -> int:
    """The number of the item that an ordinal opens, from 1; -1 if it is none."""
    if not ordinals:
        return int(found)
    return ordinals.index(found.lower()) + 1 if found.lower() in ordinals else -1


def _read_json(text: str) -> list[str]:
    """The items of a text that is one JSON array of strings, without any numbering inside them."""
    if not text.lstrip().startswith("["):
        return []
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return []
    if not isinstance(found, list) or not all(isinstance(item, str) for item in found):
        return []
    numbers = (re.match(NUMBERED, item, re.IGNORECASE) for item in found)
    return [
        cleaned
        for item, number in zip(found, numbers, strict=True)
        if (cleaned := _tidy(item[number.end() if number else 0 :]))
    ]


def _tidy(item: str, cell: bool = False) -> str:
    """An item up to its first blank line (a remark after the list is not part of the last item),
    without the bold type around it or the rest of a table's row."""
    if cell:
        item = re.split(CELL_END, item.partition("\n")[0], maxsplit=1)[0]
    lines = [line.strip() for line in item.strip().split("\n")]
    text = "\n".join(lines[: lines.index("")] if "" in lines else lines)
    bold = re.fullmatch(r"\*\*(.+?)\*\*", text)
    if bold:
        return bold.group(1).strip()
    unopened = text.endswith("**") and text.count("**") % 2
    return text[:-2].strip() if unopened else text
