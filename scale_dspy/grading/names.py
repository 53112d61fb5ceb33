r"""Tell names and words from formulas: `AB`, `f(x)`, `m + n`; `on` is a word, `\text{HT}` too."""

from __future__ import annotations

import re

# ---- words ----------------------------------------------------------------------------------

_WORDS_ONLY = re.compile(r"[^\W\d_](?:[^\W\d_]|[\s'.,!?:;/()-])*")
_POINTS_IN_A_ROW = frozenset("abc abd abe ace ade".split())
_PAIRED = frozenset(
    "is si up pu to ot no on it at in of or by we he me my us go do if so as an am be ok hi".split()
)


def spell_words(text: str) -> str | None:
    r"""The words of an answer that is nothing but words, in lower case; None for any other.

    Two capitals without `\text` are no word but a segment, `AB`.
    """
    marked = "\\text" in text
    plain = re.sub(r"\\text\s*\{", "{", text).replace("{", "").replace("}", "")
    plain = re.sub(r"\\[ ,;:!]|~|\\q?quad(?![A-Za-z])", " ", plain).strip(" .,;!\"'")
    if not _WORDS_ONLY.fullmatch(plain):
        return None
    letters = re.sub(r"[^\w]", "", plain)
    lower = " ".join(plain.casefold().split())
    if len(letters) == 1 and letters.isascii():
        return None
    capitals = len(letters) == 3 and plain.isupper()
    if not marked and letters.isascii() and plain.isalpha() and len(letters) <= 3 and not capitals:
        spoken = len(letters) == 3 and re.search(r"[aeiou]", lower) and not plain.isupper()
        if lower not in _PAIRED and (not spoken or lower in _POINTS_IN_A_ROW):
            return None
    if not marked and re.search(r"(?<![A-Za-z])[a-zA-Z](?![A-Za-z'])", plain) and "," in plain:
        return None  # a list of letters
    if not marked and re.fullmatch(r"(?:[A-Za-z](?![A-Za-z])[\s'.,!?:;/()-]*)+", plain):
        return None  # a/b/c
    if (
        not marked
        and re.fullmatch(r"(?:[A-Za-z]\s*(?:,|and|or)?\s*)+", plain)
        and re.search(r"(?<![A-Za-z])[A-Za-z](?![A-Za-z])", plain)
    ):
        return None
    if re.match(r"(?:sqrt|sin|cos|tan|log|ln|exp|pi)\b", lower):
        return None
    return lower


# ---- names ----------------------------------------------------------------------------------

_SYMBOL = (
    r"(?:[A-Za-z]|\\(?:alpha|beta|gamma|delta|theta|phi|psi|omega|lambda|mu|rho|sigma|tau|ell"
    r"|Delta|epsilon)(?![A-Za-z]))"
)
_INDEX = (
    r"(?:\s*_\s*(?:\w|\{[^{}]*\}|\\[A-Za-z]+))?'{0,3}(?:\s*\^\s*\{?(?:\\prime|\(\w\)|\\ast|\*)\}?)?"
)
_POINTS = r"(?:[A-Z]'?(?:_\{?\w\}?)?){2,6}"
_NAME = re.compile(
    rf"(?:{_SYMBOL}{_INDEX}"
    rf"|{_POINTS}"
    rf"|(?:\\angle|\\triangle|m\s*\\angle|\\measuredangle|\\arc|\\overarc)\s*(?:[A-Z]+|\{{[A-Z]+\}}|{_SYMBOL})"
    rf"|[A-Za-z](?:_\{{?\w+\}}?)?'{{0,3}}(?:\s*\^\s*\{{\s*-\s*1\s*\}})?\s*\([^()=]*(?:\([^()]*\))?[^()=]*\)"
    rf"|\\mathbb\{{[LS]\}}|\\?(?:mathbb|operatorname)?\{{?[PEV]\}}?\s*[\[(][^=]*[\])]"
    rf"|\|(?:[A-Z]{{2,}}|[^|]*\\over\w+\{{[^|]*)\||\[[A-Z]{{3,}}\]"
    rf"|\\(?:overline|vec|hat|bar|tilde|overrightarrow|widehat|mathbf|text|det|dim|deg|Re|Im|arg)\s*(?:\{{[^{{}}]*\}}|\s*[A-Z]|\([^()]*\))\s*{_INDEX}(?:\s*\([^()]*\))?"
    rf"|\\(?:text|mathrm)\{{[^{{}}]*\}}(?:\s*\([^()]*\)|\s*_\{{?\w+\}}?)?"
    rf"|\\(?:lim|max|min|sup|inf)(?![A-Za-z])\s*(?:_\s*\{{[^{{}}]*(?:\{{[^{{}}]*\}}[^{{}}]*)*\}})?[^=]*"
    rf"|\\frac\{{d\^?[2-9]?\w?\}}\{{d\w(?:\^[2-9])?\}}(?:\s*\w)?"
    rf"|\\frac\{{[A-Z]{{2,}}\}}\{{[A-Z]{{2,}}\}}"
    rf"|\\(?:sin|cos|tan|cot|sec|csc)(?![A-Za-z])\s*(?:\\angle\s*)?(?:\(?(?:{_SYMBOL}|[A-Z]{{1,3}})\)?)"
    rf"|[^\W\d_](?:[a-z]|[^\W\d_A-Za-z]){{3,}}(?:\s+[^\W\d_]+){{0,4}}|[^\W\d_A-Za-z][^\W\d_]{{1,20}}(?:\s+[^\W\d_]+){{0,4}}"
    r")"
)
# What a problem asks for, as `m + n` of a fraction; x, y and z are coordinates in an equation.
_ASKED = re.compile(
    r"(?:[A-Za-z](?:_\{?\w\}?)?(?:\s*[+*-]\s*[A-Za-z](?:_\{?\w\}?)?)+|[a-wA-W]{2,5}|[A-Z]{2}(?:\s*[+*-]\s*[A-Z]{2})+)"
)
_COORDINATES = frozenset("xyz")


def is_name(text: str) -> bool:
    """Whether a left side is a name, or a sum of names whose value a problem asks for."""
    text = text.strip()
    if _NAME.fullmatch(text):
        return True
    return bool(_ASKED.fullmatch(text)) and not _COORDINATES.issuperset(
        re.findall("[A-Za-z]", text)
    )


def spell_name(text: str) -> str:
    """Give a name one spelling."""
    text = re.sub(r"\\text\s*\{|[{}\s|]|\\[,;: ]|\\overline|\\m?angle", "", text)
    return re.sub(r"\A([A-Za-z])\(\w\)\Z", r"\1", text).replace("\\prime", "'")
