r"""Part a value from the words beside it: a unit, a noun, a sentence, an estimate.

There is no list of nouns. Words after a number are dropped unless they are mathematics or change
the number (`5 million`, `3 and a half`, `5 or more`).
"""

from __future__ import annotations

import re
from typing import NamedTuple

from scale_dspy.grading.characters import find_closing_brace
from scale_dspy.grading.scales import SCALE_START
from scale_dspy.grading.units import BARE_UNITS, UNITS, Unit, read_unit

# Words that continue the number before them, or change what it says.
_NO_NOUN = frozenset(
    "hundred thousand million billion trillion lakh crore dozen score half halves third thirds"
    " fourth fourths fifth fifths sixth sixths seventh sevenths eighth eighths ninth ninths tenth"
    " tenths hundredth hundredths thousandth thousandths millionth millionths percent percentage"
    " or and to plus minus over mod modulo base choose squared cubed factorial divided"
    " multiplied raised less fewer pi not but through until sqrt sin cos tan log ln"
    " am pm a.m p.m a.m. p.m. point up down above below between one two three four five six seven"
    " eight nine ten eleven twelve twenty thirty forty fifty sixty seventy eighty "
    "ninety st nd rd th"
    " drittel viertel fünftel hälften tiers quarts cinquièmes tercios cuartos quintos medios"
    " третьих четвертых пятых"
    " million.".split()
)

# ---- words before a value -------------------------------------------------------------------

_LEAD = re.compile(
    r"\A(?:\\text\s*\{)?(?P<words>[^\W\d_](?:[^0-9\\${}=<>^_()|]|\\ )*)\}?(?:\s|\\[,;: ]|~)*"
    r"(?<!\s[-+])(?=[-+]?(?:[0-9$€£¥₹]|\.[0-9])|\\(?!text)|\(|\{(?=[^A-Za-z{}]*\})|[A-Za-z]\s*=|\\text\s*\{[-+]?[0-9])"
)
_LEAD_END = re.compile(
    r"(?:\b(?:is|are|be|was|were|equals?|equal\s+to|has|have|had|gives?|gets?|got|totals?|total\s+of"
    r"|about|approximately|approx\.?|roughly|around|exactly|only|just|precisely|nearly|almost"
    r"|the|all|both|either|set|interval|point|pair|triple|vector|matrix|expression|polynomial|fraction|number"
    r"|reste(?:nt)?|hat|haben|bleiben|verbleiben|gibt|kostet|braucht|verdient|coûte(?:nt)?"
    r"|queda[n]?|hay|tiene[n]?|cuesta[n]?|gana|necesita|осталось|останется|составляет|стоит"
    r"|answer|ans\.?|result|sum|value|therefore|thus|hence|so|namely|rs\.?|usd|eur|gbp|us|inr|cad"
    r"|est|es|ist|sont|sind|beträgt|vale|son|é|è|lautet|равно|равен|ответ)|[:：是为有共はがも]|[Rr]p\.?)"
    r"[\s,]*(?:\\ )?\Z",
    re.IGNORECASE,
)
_CHOICE_LETTER = re.compile(r"[A-J]\s*[:：]\s*")
_SUBJECT = re.compile(  # It takes 12 days
    r"(?:(?i:he|she|it|they|we|you|there|this|that)|[A-Z][a-z]+)\s+(?:(?:will|must|still|now|then|can|only)\s+)?"
    r"(?!(?:exceeds|divides|times|plus|past|over|to|of|for|with|without)\b)[a-z]+(?:s|ed|[^s])\s*",
)
_LEAD_BAR = re.compile(
    r"\b(?:not|least|most|more|less|fewer|greater|larger|smaller|below|above|under|between|or"
    r"|cannot|than|neither|if|unless|no"
    r"|moins|menos|mínimo|máximo|mindestens|höchstens|менее|более)\b|n't",
    re.IGNORECASE,
)
_SIGN_WORD = re.compile(r"\A(?:negative|minus)\s+(?=[0-9.])", re.IGNORECASE)
_SAID_TWICE = re.compile(
    r"(?:\\text\s*\{)?\s*(?:(?:zero|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|thir|fif"
    r"|eigh|twenty|thirty|forty|fifty|sixty|seventy|eighty|ninety|hundred|thousand|million"
    r"|teen|and)[\s-]*)+\(([0-9][0-9,]*)\)\s*\}?",
    re.IGNORECASE,
)
_ABOUT = re.compile(r"\A\s*(?:\\approx|\\simeq|\\cong|\\sim(?![A-Za-z])|~|≈)\s*(?=\S)")
_CURRENCY_BEFORE = re.compile(
    r"\A(?:(?P<minus>-)\s*)?(?:\\text\s*\{\s*)?(?:US\s*|AU\s*|CA\s*|HK\s*)?"
    r"(?P<sign>\\\$|\$|€|£|¥|₹|₩|₽|\\pounds?|\\euro|\\yen|\\text\s*\{\s*[€£¥₹]\s*\})\s*\}?\s*"
    r"(?=[-+0-9.\\])"
)
_CURRENCIES = {"$": "dollar", "€": "euro", "£": "pound sterling", "¥": "yuan", "₹": "rupee"}


def drop_lead(text: str) -> str:
    r"""Drop a sentence before a value: `\text{The answer is } 460`, `There are 70`, `Rs. 6`.

    Only one that ends in a verb, a colon or the like: `row 3` stays, and so does `at least 3`.
    """
    said_twice = _SAID_TWICE.fullmatch(text.strip())
    if said_twice:
        return said_twice[1]
    text = _ABOUT.sub("", _SIGN_WORD.sub("-", text.strip()))
    match = _LEAD.match(text)
    if match is None:
        return text
    words = match["words"].replace("\\ ", " ")
    if _LEAD_BAR.search(words) or _CHOICE_LETTER.fullmatch(words):
        return text
    if not (_LEAD_END.search(words) or _SUBJECT.fullmatch(words)):
        return text
    rest = text[match.end() :]
    if match[0].startswith("\\text") and "}" not in match[0]:  # the value stands in it
        rest = "\\text{" + rest
        rest = re.sub(r"\A\\text\{([^{}A-Za-z]*)\}", r"\1", rest)
    return rest.strip()


# ---- words after a value --------------------------------------------------------------------

_ESTIMATE = re.compile(
    r"\\approx(?![A-Za-z])|\\simeq(?![A-Za-z])|\\sim(?![A-Za-z])|≈"
    r"|\b(?:about|approximately|approx|roughly)\b\.?"
)
_BEFORE_ESTIMATE = re.compile(
    r"(?:[\s(\[,;~]|\\[,;:! ]|\\q?quad(?![A-Za-z])"
    r"|\\text\s*\{(?:[\s(,]*(?:or|i\.e\.,?|which\s+is))?"
    r"|\b(?:or|i\.e\.|which\s+is)|\\\()+\Z"
)
_ESTIMATED = re.compile(
    r"(?:[-+0-9.,\s(){}\[\]%$]|\\(?:text\s*\{[^{}]*\}|times|cdot|[,;:! )])|\^"
    r"|[^\W\d_]{3,}(?![^\W\d_]))+\Z"
)
_DECIMAL = re.compile(r"[-+]?[0-9]*\.[0-9]+(?:\\ldots|\.\.\.)?")
_EXPLANATION = re.compile(
    r"(?:[\s,;(]|\\[,;:! ]|\\q?quad(?![A-Za-z])|\\text\s*\{)*(?<![A-Za-z\\])"
    r"(?:which|since|because|where|for\s+(?:all|any|every|each|some)|altogether|in\s+total|in\s+all)"
    r"(?![A-Za-z]).*\Z",
    re.DOTALL,
)
_RESTATED = re.compile(
    r"(?P<value>[-+]?[0-9.,]{1,20}\s?(?P<unit>[^\W\d_]{2,20}))\s?"
    r"\((?:i\.e\.,? |that is,? |which is |= ?|about )?[0-9][^()]{0,80}\)"
)
_VALUE_LIKE = re.compile(r"[0-9]|\\(?:pi|sqrt|frac|infty|emptyset)|\A[A-Za-z](?:\([a-z]\))?\s*=")


def drop_estimate(text: str) -> str:
    r"""Drop an approximate value beside the exact one: `\frac{737}{39} \approx 18.9`."""
    match = _ESTIMATE.search(text, 1)
    if match is None:
        return text
    head = _BEFORE_ESTIMATE.sub("", text[: match.start()])
    tail = text[match.end() :].strip()
    if not _VALUE_LIKE.search(head):
        return text
    if _DECIMAL.fullmatch(head.strip()) and tail and not _ESTIMATED.match(tail):
        return tail
    return head.strip() if _ESTIMATED.match(tail) else text


def drop_explanation(text: str) -> str:
    """Drop what is said of a value behind it: `18, which is even`, `90 minutes (1.5 hours)`."""
    restated = _RESTATED.fullmatch(text)
    if restated and restated["unit"].casefold() not in _NO_NOUN:
        return restated["value"]
    match = _EXPLANATION.search(text)
    if match is None or not _VALUE_LIKE.search(text[: match.start()]):
        return text
    return text[: match.start()].strip()


class Value(NamedTuple):
    """A value without the words beside it, and its unit."""

    text: str
    unit: Unit | None = None
    percent: bool = False


_PERCENT = re.compile(
    r"(?:\s|\\[,;:! ]|~)*(?:%|\\text\s*\{\s*(?:per\s?cent(?:age)?(?:\s+points?)?|pct|%)\s*\}"
    r"|(?<![A-Za-z])(?:per\s?cent(?:age)?(?:\s+points?)?|pct))\s*\}?\s*\Z",
    re.IGNORECASE,
)
_ORDINAL = re.compile(
    r"\A([0-9]+)\s*(?:\^\s*)?(?:\{\s*)?(?:\\text\s*\{\s*)?(?:st|nd|rd|th)\s*\}?\s*\}?\Z", re.I
)
_CURRENCY_AFTER = re.compile(
    r"(?<=[0-9}])\s*(?:\\text\s*\{\s*)?(?P<sign>€|£|¥|₹|₽|₩|¢|\\cents?|\\euro|\\pounds?|\\yen)"
    r"(?![A-Za-z])\s*\}?\s*\Z"
)
_FEET_SIGN = re.compile(r"(?<=[0-9])\s*(?:'{1,2}|\"|\\prime)\Z")
_PER = re.compile(r"(?<=[0-9])\s*(?:/\s*[A-Za-z]{3,12}|o'clock)\Z")
_TEMPERATURE = re.compile(
    r"(?<=[0-9])(?:\s|\\[,; ]|~|\{\})*\^\s*(?:\\circ|\{\s*\\circ\s*\})"
    r"(?:\s|\\[,; ]|~)*(?:\\text\s*\{)?[CF]\}?\Z"
)
_WORD_START = re.compile(r"\\text\s*\{|\\[A-Za-z]+|\\.|[^\W\d_]+(?:\.?/[a-z]+)?")
_POWER = re.compile(r"\s*\^\s*(?:\{\s*([23])\s*\}|([23]))")
_TAIL_BAR = frozenset("or and half million billion thousand trillion percent".split())
_SHORT_WORDS = frozenset(
    "of in at by as if is we on so he us my to per sq cu km cm mm kg ft lb lbs oz yd".split()
)
_WORDS = re.compile(r"[^\W\d_]+(?:\.[a-z]\.?)?")
_FUNCTIONS = frozenset(
    "sqrt cbrt sin cos tan cot sec csc log exp arcsin arccos arctan theta alpha beta gamma binom"
    " frac mod infinity inf max min gcd lcm det abs floor ceil choose".split()
)
_VOWEL = re.compile(r"[aeiou]", re.I)


def split_value(text: str) -> Value:
    r"""Part a value from its unit, noun, currency and per cent sign.

    >>> split_value(r"72 \text{ clips}").text, split_value("45 miles per hour").text
    ('72', '45')
    >>> split_value(r"28\%").percent, split_value(r"5\text{ million}").text
    (True, '5\\text{ million}')
    """
    text = text.strip()
    before = _CURRENCY_BEFORE.match(text)
    unit = None
    if before:
        unit = UNITS.get(_CURRENCIES.get(re.sub(r"[\\{}\s]|text", "", before["sign"]), ""))
        text = (before["minus"] or "") + text[before.end() :]
    stripped = _PERCENT.sub("", text)
    if stripped != text and stripped:
        return Value(stripped.removesuffix("\\"), unit, True)
    ordinal = _ORDINAL.match(text)
    if ordinal:
        return Value(ordinal[1], unit)
    after = _CURRENCY_AFTER.search(text)
    if after:
        cents = after["sign"] in ("¢", "\\cent", "\\cents")
        found = UNITS.get("cent" if cents else _CURRENCIES.get(after["sign"], ""))
        return Value(text[: after.start()].strip(), found)
    text = _PER.sub("", text)
    text = _TEMPERATURE.sub("", _FEET_SIGN.sub("", text))
    start = _find_words(text)
    if start is None:
        return Value(text, unit)
    opening = re.search(r"\([\s~]*\Z", text[:start])
    start = opening.start() if opening else start
    head, tail = text[:start], text[start:]
    head = re.sub(r"(?:\s|\\[,;:! ]|~|\\q?quad|,|\()+\Z", "", head)
    spoken, power = _speak(tail)
    if not head or not re.search(r"[0-9]|\\(?:pi|frac|sqrt)", head) or not _droppable(spoken, tail):
        return Value(text, unit)
    return Value(head, read_unit(spoken, power) or unit)


def _find_words(text: str) -> int | None:
    """The position of the first word that is no function, name or product of variables."""
    depth_ends: int = 0
    for match in _WORD_START.finditer(text):
        word = match[0]
        if match.start() < depth_ends or match.start() == 0:
            continue
        if word.startswith("\\text"):
            end = find_closing_brace(text, match.end())
            if end is None:
                return None
            if re.search(r"[^\W\d_]", text[match.end() : end]):
                return match.start()
            continue
        if word.startswith("\\"):
            continue
        lower = word.casefold()
        if lower in _FUNCTIONS and not (word == "min" and match.end() == len(text)):
            return None
        spaced = text[match.start() - 1] in " ~}(" or text[match.start() - 2 : match.start()] in (
            "\\ ",
            "\\,",
            "\\;",
            "\\:",
        )
        if lower in BARE_UNITS or not word.isascii():
            return match.start()
        if spaced and (lower in _SHORT_WORDS or (lower in UNITS and len(lower) > 1)):
            return match.start()
        if _VOWEL.search(word) and len(word) >= (3 if spaced else 5):
            return match.start()
    return None


def _speak(tail: str) -> tuple[str, int]:
    """Return the words of a tail without LaTeX, and the power (2 or 3) after them."""
    power = 1
    match = _POWER.search(tail)
    if match:
        power = int(match[1] or match[2])
        tail = tail[: match.start()] + tail[match.end() :]
    tail = re.sub(r"\\text\s*\{|\\[,;:! ]|[{}~]|\\q?quad", " ", tail)
    return " ".join(tail.casefold().split()), power


def _droppable(spoken: str, tail: str) -> bool:
    words = _WORDS.findall(spoken)
    if not words or re.search(r"[0-9=<>+*^_|\\]", spoken) or SCALE_START.match(spoken):
        return False
    if spoken.startswith("(") or tail.startswith("("):
        return not {"or", "mod", "base", "and"}.intersection(words)
    if len(words) == 1 and len(words[0]) == 1 and words[0].isascii():
        return words[0] in UNITS
    first = words[0].rstrip(".")
    if spoken.strip(" .") in UNITS or (first in ("in",) and len(words) == 1):
        return (
            UNITS[spoken.strip(" .")].quantity != "before or after noon"
            if spoken.strip(" .") in UNITS
            else True
        )
    if first == "times" and _NO_NOUN.intersection(words[1:]):
        return False
    return first not in _NO_NOUN and not _TAIL_BAR.intersection(words[1:])
