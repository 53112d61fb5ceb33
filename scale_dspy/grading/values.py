r"""Find values in a line of prose: formulas between dollar signs, and numbers that stand bare.

A formula is taken whole or not at all: the 3 of `4\sqrt{3}`, of `(3, 4)` or of `3:8` is no answer.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from scale_dspy.grading.characters import to_latex
from scale_dspy.grading.scales import SCALES_PATTERN

DRESS = "$*`✓✔✅☑➡➜→⇒∴\ufe0f" + "".join(filter(str.isspace, map(chr, range(0x3001))))
"""Characters that are stripped from both ends of an answer."""

# As pandoc reads dollars: no blank behind the first or before the second, no digit behind the
# second; or blanks on both sides. Other dollars are currency.
FORMULA = re.compile(
    r"\$\$(?P<display>[^$]+)\$\$|\\\[(?P<bracket>.+?)\\\]|\\\((?P<paren>.+?)\\\)"
    r"|(?<!\\)\$(?P<inline>(?![?!.,;:])[^\s$](?:(?:[^$\n\\]|\\.)*(?:[^\s$\\]|\\[^\s$]))?)\$(?![0-9])"
    r"|(?<!\\)\$(?P<spaced>[ \t](?:[^$\n\\]|\\.)*[ \t])\$"
    r"|(?<!\\)\$(?P<loose>[^\s$](?:[^$\n\\]|\\.){0,200}(?<![-+=*/ ])[ \t])\$(?![0-9])",
    re.DOTALL,
)
_PROSE = re.compile(r"[ ,.;](?!\\)[A-Za-z]{4,}[ ,.;](?:[^\\]*[ ,.;][A-Za-z]{2,}[ ,.;]|$)")
_BASE = 0xE000
_PLACE = re.compile(r"[\ue000-\uf8ff]")
_BLANKS = re.compile(r"[^\S\n]{2,}")
_AND = re.compile(r"(?<=[\ue000-\uf8ff])\s+(?:und|et|y|e|и)\s+(?=[\ue000-\uf8ff])")
_OR = re.compile(r"(?<=[\ue000-\uf8ff])\s+(?:oder|ou|o|или)\s+(?=[\ue000-\uf8ff])")
_BOLD = re.compile(
    r"(?<![\w)*])[*]{1,3}(?=[\w$(\\\ue000-\uf8ff√.+-])|(?<=[^\W0-9_a-zA-Z])[*]{2,3}(?=[^\W_a-zA-Z])|(?<=[\w.)%!$:\ue000-\uf8ff}])[*]{1,3}(?![\w(*])|`|__"
)


class Line(NamedTuple):
    """Prose in which each formula is replaced by a private-use character."""

    prose: str
    formulas: list[str]

    def spell(self, part: str) -> str:
        """Return a part of the prose with its formulas restored."""
        part = _OR.sub(" or ", _AND.sub(" and ", part))
        return _PLACE.sub(lambda match: self.formulas[ord(match[0]) - _BASE], part)


def hide_formulas(text: str) -> Line:
    """Replace each formula by a private-use character, so that prose can be cut anywhere."""
    text = _BLANKS.sub(" ", _PLACE.sub(" ", text))
    formulas: list[str] = []

    def hide(match: re.Match[str]) -> str:
        content = next(filter(None, match.groups()), "")
        if ((match["inline"] or match["loose"]) and _PROSE.search(content)) or len(formulas) > 6000:
            return match[0]
        formulas.append(content.strip())
        return chr(_BASE + len(formulas) - 1)

    prose = _BOLD.sub("", FORMULA.sub(hide, text))
    return Line(prose, formulas)


# ---- spans of numbers and signs -------------------------------------------------------------

_TOKEN = re.compile(
    r"(?P<place>[\ue000-\uf8ff])|(?P<number>[0-9]+(?:[,'][0-9]{3}(?![0-9]))*(?:\.[0-9]+)?|\.[0-9]+)"
    r"|(?P<command>\\(?:[A-Za-z]+|.))|(?P<word>[^\W\d_]+)|(?P<blank>[\s\u00a0\u202f\u2009]+)"
    r"|(?P<bracket>[(\[{}\])|])|(?P<sign>[-+*/^=<>:%!_−–—×·÷√²³⁴½¼¾⅓⅔≤≥±°∞]|\.(?=[0-9])|,(?=[0-9]))"
    r"|(?P<currency>[$€£¥₹])|(?P<other>.)"
)
_LIST_MARK = re.compile(r"\A\s*(?:[-*•]\s+)?(?:\(?[0-9]{1,2}[.)]\s+(?=\S)|#{1,6}\s+)")
_FOLLOWING = re.compile(
    r"\s*(?:(?:hundred|thousand|million|billion|trillion|dozen|percent(?:age)?|pct|per\s+cent)\b|and\s+a\s+half\b"
    r"|[ap]\.?m\b\.?|(?:st|nd|rd|th)\b|or\s+(?:more|fewer|less)\b)"
    rf"|\s*(?:{SCALES_PATTERN})",
    re.IGNORECASE,
)
_QUANTITY = (
    r"(?:Stunden?|Minuten?|Sekunden?|Tage?|heures?|jours?|horas?|minutos?|días?|euros?|céntimos?"
    r"|час(?:а|ов)?|минут[аы]?|секунд[аы]?|рубл(?:ь|я|ей)|копе(?:йка|йки|ек)"
    r"|个?小时|分钟?|秒|天|個?月|年|米|厘米|公斤|克|元|角|時間|円|hours?|hrs?|minutes?|mins?|seconds?|secs?|days?|weeks?|months?|years?|feet|foot|ft|inch(?:es)?"
    r"|in|yards?|miles?|pounds?|lbs?|ounces?|oz|dollars?|cents?|degrees?|meters?|cm|km|kg|grams?)"
)
_BOTH = r"(?:and|or|und|oder|et|ou|y|o|e|и|или|和|或|と)"
_COMPOUND = re.compile(rf"\s*{_QUANTITY}\.?,?\s*(?:{_BOTH}\s+)?", re.IGNORECASE)
_JOINED = re.compile(rf"\s*(?:,\s*{_BOTH}|,|{_BOTH})\s*", re.IGNORECASE)
_BOUND = re.compile(  # what is bounded by a number is not that number
    r"(?:\b(?:at\s+(?:least|most)|(?:more|less|fewer|greater|larger|smaller|higher|lower|bigger)\s+than"
    r"|up\s+to|mindestens|höchstens|mehr\s+als|weniger\s+als|au\s+(?:moins|plus)|(?:plus|moins)\s+de"
    r"|al\s+menos|como\s+(?:mínimo|máximo)|más\s+de|menos\s+de|(?:не\s+)?(?:менее|более|больше|меньше))"
    r"\s|至少|至多|最多|最少|超过|少于|少なくとも)\s*\Z",
    re.IGNORECASE,
)
_RANGE = re.compile(
    r"\s+(?:to|out\s+of(?:\s+the)?|of|bis|von|à|sur|de|a|из|до)\s+|\s*的\s*", re.IGNORECASE
)
_ENDS_IN_UNIT = re.compile(r"[0-9](?:h|d|m|ft|lb)\Z")  # 2h 30min
_DENIED = re.compile(
    r"(?:\b(?:(?:not|cannot|\w{2,6}n't)(?:\s+be)?|rather\s+than|instead\s+of|other\s+than|nicht|statt|не)\s|不是|而不是|而非)\s*[$(]?\Z",
    re.IGNORECASE,
)


class ValueSpan(NamedTuple):
    """The position of a value in the prose."""

    start: int
    end: int


def find_last_value(text: str) -> str | None:
    """The last formula or number of a line, whole; None where it has none."""
    line = hide_formulas(text)
    prose = _drop_mark(line.prose)
    spans = [
        span
        for span in find_value_spans(prose)
        if _is_value(line.spell(prose[span.start : span.end]))
        and not _DENIED.search(prose, max(0, span.start - 20), span.start)
    ]
    if not spans:
        return None
    start, end = spans[-1]
    for span in reversed(spans[:-1]):
        between = prose[span.end : start]
        both_places = _PLACE.match(prose[span.start]) is not None
        compound = _COMPOUND.fullmatch(between)
        if (
            compound
            or _RANGE.fullmatch(between)
            or (between.isspace() and _ENDS_IN_UNIT.search(prose, span.start, span.end))
            or (_JOINED.fullmatch(between) and (both_places or between.strip() != ","))
        ):
            start = span.start
        else:
            break
    bound = _BOUND.search(prose, max(0, start - 20), start)
    if bound:
        start = bound.start()
    following = _FOLLOWING.match(prose, end)
    if following:
        end = following.end()
    elif start != spans[-1].start:
        unit = re.compile(rf"\s*{_QUANTITY}\b", re.IGNORECASE).match(prose, end)
        end = unit.end() if unit else end
    return line.spell(prose[start:end]).strip() or None


def _drop_mark(prose: str) -> str:
    mark = _LIST_MARK.match(prose)
    return (
        prose[mark.end() :]
        if mark and re.search(r"[\w\ue000-\uf8ff]", prose[mark.end() :])
        else prose
    )


def _is_value(text: str) -> bool:
    """Whether a text holds a digit or a formula that is more than a name."""
    return bool(re.search(r"[0-9½¼¾⅓⅔√∞]|\\(?:pi|sqrt|frac|infty|emptyset|text)(?![A-Za-z])", text))


def find_value_spans(prose: str) -> list[ValueSpan]:
    """Find stretches of numbers, signs, brackets, formulas and single letters between words."""
    spans: list[ValueSpan] = []
    start = end = -1
    last = ""  # kind of the last token of the span
    opened = 0  # brackets of the span that are not closed
    tokens = list(_TOKEN.finditer(prose))
    for index, token in enumerate(tokens):
        kind = str(token.lastgroup)
        after = tokens[index + 1] if index + 1 < len(tokens) else None
        if last == "number" and _is_cross(token[0], prose, token.end()):
            kind = "sign"
        elif kind == "word" and _is_variable(prose, token, last, after):
            kind = "letter"
        if kind == "currency":
            if start < 0:
                continue
            kind = "sign"
        if kind == "bracket":
            opened += 1 if token[0] in "([{" else -1
        if token[0] == "," and start >= 0 and opened > 0:
            kind = "sign"
        if kind == "blank" and start >= 0:
            if last == "sign" and prose[end - 1] == "," and opened > 0:
                continue
            if after is None or not _continues(
                last, str(after.lastgroup), after[0], prose, after.end()
            ):
                start = _close(spans, prose, start, end)
            continue
        if kind in ("word", "other", "blank") or (
            kind == "sign" and token[0] == "!" and _exclaims(prose, token)
        ):
            start = _close(spans, prose, start, end)
            last, opened = "", 0
            continue
        if kind == "place" and last == "place":
            start = _close(spans, prose, start, end)
        if start < 0:
            start, opened = token.start(), int(token[0] in "([{")
        end, last = token.end(), kind
    _close(spans, prose, start, end)
    return spans


def _is_cross(token: str, prose: str, end: int) -> bool:
    """Whether a letter is the sign of multiplication, as in `4 x 5`."""
    return token in ("x", "X") and bool(re.match(r"\s+[0-9]", prose[end : end + 4]))


def _is_variable(prose: str, token: re.Match[str], last: str, after: re.Match[str] | None) -> bool:
    """Whether letters belong to a formula: `2n`, `x = 3`, `f(3)`, `sqrt(2)`."""
    if len(token[0]) > 2 and token[0] not in ("sqrt", "sin", "cos", "tan", "log"):
        return False
    follows = (
        after is not None
        and after.lastgroup in ("sign", "bracket", "number")
        and after[0] not in ":!"
    )
    if after is not None and after.lastgroup == "blank":
        follows = bool(
            re.match(r"\s*(?:=|<|>|\+|\*|/|\^|≤|≥)", prose[after.start() : after.start() + 8])
        )
    touching = (
        last in ("number", "sign", "bracket", "command") and prose[token.start() - 1] not in " \t"
    )
    signed = last == "sign"
    return follows or touching or signed


def _continues(last: str, kind: str, token: str, prose: str, end: int) -> bool:
    """Whether a span continues after a blank: next to a sign, or between parts of `12 1/2`."""
    if kind == "sign" and token not in "!:%,":
        return not (token in "-–−" and prose[end : end + 1].isspace() and last == "")
    if last == "sign" and prose[:end].rstrip()[-1:] not in "!%:":
        return kind in ("number", "command", "bracket", "place", "currency") or (kind == "word")
    if last == "number" and (kind == "number" or _is_cross(token, prose, end)):
        return True
    return kind == "command" and last == "command"


def _exclaims(prose: str, token: re.Match[str]) -> bool:
    return not re.match(r"\s*[a-z*/+=)-]", prose[token.end() : token.end() + 4])


def _close(spans: list[ValueSpan], prose: str, start: int, end: int) -> int:
    """End a span, and trim signs and unmatched brackets from its ends."""
    if start < 0:
        return -1
    text = prose[start:end]
    trimmed = text.rstrip(" :=<>*/,_([{|-+–−")
    while (
        trimmed
        and trimmed[-1] in ")]}"
        and trimmed.count(trimmed[-1]) > trimmed.count({")": "(", "]": "[", "}": "{"}[trimmed[-1]])
    ):
        trimmed = trimmed[:-1]
    lead = len(trimmed) - len(trimmed.lstrip(" :=*/,)]}"))
    if lead < len(trimmed) and trimmed[lead] in "(" and ")" not in trimmed:
        lead += 1
    if len(trimmed) > lead and re.search(r"[0-9\ue000-\uf8ff\\½√∞]", to_latex(trimmed)):
        spans.append(ValueSpan(start + lead, start + len(trimmed)))
    return -1
