r"""Read what is said after "the answer is": the value of a sentence, without its reasons."""

from __future__ import annotations

import re
from typing import NamedTuple

from scale_dspy.grading.values import DRESS, find_value_spans, hide_formulas

MARKER = "####"
"""The mark before an answer of gsm8k. In Markdown it starts a heading."""

PHRASES = re.compile(
    r"(?i:\b(?:the|final|correct|my|our|your)[ \t]{1,8}(?:final[ \t]{1,4}"
    r"|correct[ \t]{1,4})?answer[*_ \t]{0,8}"
    r"(?:is|should[ \t]be|would[ \t]be|must[ \t]be|will[ \t]be|equals|was"
    r"|comes[ \t](?:out[ \t])?to|=)(?!\w)"
    r"|\b(?:answer|final[ \t]{1,4}result)[*_ \t]{0,8}[:：]"
    r"|\bfinal[ \t]{1,4}(?:result|value)[ \t]{1,4}is\b"
    r"|^[ \t]{0,8}[*_#]{0,6}[ \t]{0,4}(?:final[ \t]{1,4})?(?:answer|result)[*_ \t]{0,8}(?:[:：]|$)"
    r"|答案(?:就?是|为|為|：|:)|答えは|정답[은:]|(?:la|the)[ \t]respuesta[ \t](?:final[ \t])?es\b"
    r"|respuesta[ \t]?:"
    r"|\bla[ \t]réponse(?:[ \t]finale)?[ \t]est\b|\bréponse[ \t]?:"
    r"|\bdie[ \t]antwort[ \t](?:ist|lautet)\b|\bantwort[ \t]?:"
    r"|ответ[ \t]?:|\bresposta[ \t](?:final[ \t])?(?:é\b|:)|\bla[ \t]risposta[ \t]è\b"
    r"|\brisposta[ \t]?:)"
    r"[\s*_:]{0,16}|^[ \t]{0,8}####(?!#)[ \t]{0,16}",
    re.MULTILINE,
)


class Statement(NamedTuple):
    """The answer that a sentence states, and whether it holds a value or only words."""

    answer: str
    value: bool


_STOP = re.compile(r"[.?](?=\s|\Z|[*\"')\]])|[。！？]|!(?=\s*\Z|\s*\n|\s+[A-Z]|[*\"])|\n|\Z")
_HEADING = re.compile(
    r"\A\s*[0-9]+[.):]\s+\S|\A\s*(?:step|part|case|verification|check|solution|note|schritt|teil|étape|etape|partie|paso"
    r"|parte|passo|шаг|часть)\b|\A\s*(?:步骤|第|方法|情况|验证|ステップ)",
    re.IGNORECASE,
)
_BULLET = re.compile(r"\A[\s:]*(?:[-•*]\s+)+")
_OPENING = re.compile(
    r"\A(?:[\s,:*_]|(?:therefore|thus|hence|then|simply|just|indeed|clearly|obviously|of\s+course|now|also"
    r"|for\s+sure|definitely|certainly|equal\s+to|given\s+by|as\s+follows|approximately|about|exactly|option|choice|that)\b)+",
    re.IGNORECASE,
)
_REASON = re.compile(
    r"[,;]?\s+\(?(?:since|because|as|which|where|when|given|with|after|if|for|while|using|assuming|obtained"
    r"|representing|meaning|considering|due)\b.*",
    re.IGNORECASE | re.DOTALL,
)
_COMPUTED = re.compile(  # 1/2 of 30, which is 15
    r"[0-9\ue000-\uf8ff][^.]{0,40}\b(?:of|times|plus|minus)\s[^.]{0,20}?[0-9\ue000-\uf8ff][^.]{0,20}?,\s+"
    r"which\s+(?:is|equals|gives|makes)\s+(?=[-$]?[0-9\ue000-\uf8ff])",
    re.IGNORECASE,
)
_NOT_THAT = re.compile(
    r"(?:,|\s)\s*(?:(?:and|but)\s+)?(?:not|rather\s+than|instead\s+of)\s+[^,;]*\Z", re.IGNORECASE
)
_DENIAL = re.compile(
    r"(?:[,;]|\s)\s*(?:it|this|that|which|we|they|there|not|never)\b[^,;]*"
    r"(?:\bnot\b|n't\b|\bcannot\b|\bsense\b).*",
    re.IGNORECASE | re.DOTALL,
)
_CONCLUSION = re.compile(
    r"(?:[,;]|\s)\s*\b(?:so|therefore|thus|hence|but|i\.e\.|that\s+is|giving|namely|rather)\b,?\s+",
    re.IGNORECASE,
)
_COPULA = re.compile(
    r"\s(?:is|are|equals|equal|be|es|est|ist)\s+(?:equal\s+to\s+|exactly\s+)?", re.IGNORECASE
)
_VALUE = re.compile(
    r"[0-9\ue000-\uf8ff½√∞]|\b[A-Z]\b|\b[a-z]\s*[-+*/^]\s*[a-z]\b"
    r"|\\(?:frac|sqrt|pi|text|sin|cos|tan|cot|sec|csc|log|ln|infty|emptyset|mathbb)"
)
_CHOICE = re.compile(r"\(?([A-Za-z])\)?[.:]?")
_VERDICTS = frozenset(
    "right correct wrong incorrect verified confirmed reasonable consistent clear "
    "obvious simple unique"
    " found given below above follows valid invalid unclear unknown here this that yes".split()
) - {"yes"}
_JOINT = re.compile(
    r"\A\s*(?:,|or\b|and\b|oder\b|und\b|ou\b|et\b|y\b|или\b|и\b|[或和及、]|times|plus|minus|to|[-+*/^:=<>%!×·±°'\"(]|\\|million|billion|thousand|hundred|percent|per|half|dozen|st|nd|rd|th|mod|a\.?m|p\.?m)",
    re.IGNORECASE,
)
WORDS = 6
"""Most words of an answer that holds no value."""


def read_statement(window: str, *, marker: bool = False) -> Statement | None:
    """Read what follows a phrase, up to the end of its sentence.

    Args:
        window: the text behind the phrase.
        marker: the phrase was `####`: a heading is no answer.

    Returns:
        The answer, or None where the sentence gives none (`the answer is right`).
    """
    line = hide_formulas(_BULLET.sub("", window))
    prose = line.prose
    prose = (
        prose[len(prose) - len(prose.lstrip(" \t\r\n*_:>")) :]
        if not marker
        else prose.lstrip(" \t*_")
    )
    if marker and _HEADING.match(prose):
        return None
    stop = _STOP.search(prose)
    sentence = prose[: stop.start()] if stop else prose
    if marker and stop and prose[stop.end() :].strip() and not _is_bare(sentence):
        return None
    answer = _find_value(_OPENING.sub("", " " + sentence))
    if answer is None:
        return None
    spelled = line.spell(answer).strip(DRESS).strip(",;:").strip(DRESS)
    if not spelled:
        return None
    if _VALUE.search(answer) or _CHOICE.fullmatch(answer):
        return Statement(spelled, True)
    words = spelled.casefold().split()
    if marker or words[0].strip(".,!") in _VERDICTS or len(words) > WORDS or words[0] == "not":
        return None
    return Statement(spelled, False)


def _is_bare(sentence: str) -> bool:
    """Whether a line is only a number, like the last line of a gsm8k solution."""
    spans = find_value_spans(sentence)
    return len(spans) == 1 and not re.search(r"[^\W\d_]{3,}", sentence)


def _find_value(sentence: str) -> str | None:
    """Cut off the reasons in a sentence and return what it concludes."""
    sentence = sentence.strip()
    if not sentence:
        return None
    if re.match(r"not\b", sentence, re.IGNORECASE) and not _CONCLUSION.search(sentence):
        return None
    computed = _COMPUTED.match(sentence)
    if computed:
        sentence = sentence[computed.end() :]
    not_that = _NOT_THAT.search(sentence)
    if not_that and _VALUE.search(sentence[: not_that.start()]):
        sentence = sentence[: not_that.start()]
    denied = _DENIAL.search(sentence)
    if denied and _VALUE.search(sentence[: denied.start()]):
        sentence = sentence[: denied.start()]
    shorter = _REASON.sub("", sentence)
    if _VALUE.search(shorter):
        sentence = shorter
    parts = [part for part in _CONCLUSION.split(sentence) if _VALUE.search(part)]
    if len(parts) > 1:
        sentence = parts[-1]
    parts = _COPULA.split(" " + sentence)
    if len(parts) > 1 and _VALUE.search(parts[-1]):
        sentence = parts[-1].strip()
    if "\ue000" <= sentence[:1] <= "\uf8ff" and not _JOINT.match(sentence[1:]):
        return sentence[0]
    return _take_only(_drop_aside(sentence))


def _take_only(sentence: str) -> str:
    """Reduce a long sentence with one value to that value and what follows it."""
    spans = find_value_spans(sentence)
    if len(spans) == 1 and len(sentence[: spans[0].start].split()) >= 4:
        return sentence[spans[0].start :]
    return sentence


_ASIDE = re.compile(r",\s+(?:[a-z]+\s*){1,8}\Z")


def _drop_aside(sentence: str) -> str:
    """Drop `, altogether` behind a value."""
    match = _ASIDE.search(sentence)
    if (
        match
        and _VALUE.search(sentence[: match.start()])
        and not re.match(r",\s+(?:or|and)\b", match[0])
    ):
        return sentence[: match.start()]
    return sentence
