r"""Find the final answer of a reply: in tags, in a box, after a phrase, or the last value.

Everything but the search for boxes, tags and phrases, which is linear, looks at a window of
`WINDOW` characters.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from scale_dspy.grading.characters import repair
from scale_dspy.grading.phrases import MARKER, PHRASES, Statement, read_statement
from scale_dspy.grading.values import DRESS, find_last_value

WINDOW = 3000
"""Characters after a phrase, or of a line, that are searched for a value."""

TRIES = 50
"""Phrases, tags or lines that are searched for a value, counted from the end."""


class Span(NamedTuple):
    """The positions of a box and of its content."""

    start: int
    end: int
    content: tuple[int, int]


def find_answer(text: str) -> str | None:
    r"""Find the answer that a model's text ends in.

    In this order: the last `<answer>...</answer>`; the last complete, non-empty `\boxed{...}` (or
    `\fbox{...}`, or `\boxed 73`), of nested boxes the outer one, and with it those before it that
    "and", "or" or a comma join to it; what an explicit "the answer is", "answer:" or "#### " says
    after it, or else the last one of these says; the last formula or number, whole. A box that the
    text breaks off in does not count. What comes before the end of thinking (`</think>` and the
    like) is read only where nothing follows it.

    Args:
        text: What the model wrote: any string, of any length; the time is linear in it.

    Returns:
        The answer as written, without blanks around it, or None where there is none.
    """
    spoken = repair(drop_stops(drop_thinking(text)))
    found = (
        _find_tagged(spoken) or _find_explicit(spoken) or _find_bare(spoken) or _find_last(spoken)
    )
    return (found.strip().strip(DRESS) or None) if found else None


# ---- thinking and stop tokens ---------------------------------------------------------------

_THOUGHT = re.compile(
    r"</(?:\w{0,20}(?:reason|think|thought)\w{0,20}|think|thinking|thought|thoughts|reasoning|reason|analysis|reflection|scratchpad"
    r"|seed:think|internal_monologue|longcat_think|ponder|plan)>|\[/THINK\]|◁/think▷"
    r"|<\|(?:END_THINKING|end_of_thought|end_of_think|thought_end)\|>|<channel\|>"
    r"|<\|channel\|>final[^<>|]{0,40}<\|message\|>",
    re.IGNORECASE,
)
_STOP = re.compile(
    r"<\|(?!begin_of_box|end_of_box)[A-Za-z_/▁]{1,30}\|>|<｜[^<>｜\n]{1,30}｜>|</?s>|<end_of_turn>"
    r"|<start_of_turn>|<eos>|<turn\|>|\[/?INST\]|<\|im_end\Z|\[EOS\]"
)


def drop_thinking(text: str) -> str:
    """Return what follows the end of thinking, or the whole text if nothing does."""
    end = 0
    for match in _THOUGHT.finditer(text):
        end = match.end()
    spoken = text[end:]
    return spoken if _STOP.sub("", spoken).strip() else text


def drop_stops(text: str) -> str:
    """Drop the tokens that end a turn where a server left them in the text."""
    return _STOP.sub(" ", text) if "<" in text or "[" in text else text


# ---- tags -----------------------------------------------------------------------------------

_TAG = re.compile(r"<(?P<end>/?)(?P<name>answer|final_answer|final|solution)>", re.IGNORECASE)


def _find_tagged(text: str) -> str | None:
    """Return the content of the last pair of answer tags, unless a box follows it."""
    tags = deque(_TAG.finditer(text), maxlen=TRIES)
    while tags:
        closing = tags.pop()
        content = closing.end() if not closing["end"] else None
        end = closing.start()
        if content is None:
            opening = next((tag for tag in reversed(tags) if not tag["end"]), None)
            if opening is None:
                continue
            start = opening.end()
        else:
            start, end = content, len(text)
            if closing["name"].lower() != "answer":
                continue
        inside = text[start:end].strip()
        if not inside:
            continue
        if _find_boxes(text[end:]):
            return None
        if (
            "\n" not in inside
            and len(inside) <= WINDOW
            and not _BOX.search(inside)
            and not PHRASES.search(inside)
        ):
            return inside
        return _find_explicit(inside) or _find_last(inside)
    return None


# ---- boxes ----------------------------------------------------------------------------------

_BOX_OR_BRACE = re.compile(
    r"(?:\\|(?<![A-Za-z\\]))(?:boxed|fbox)(?![A-Za-z])\s*"
    r"(?:(?P<box>\{)|(?P<bare>[-+]?\.?[0-9]+(?:[.,/][0-9]+)*))?"
    r"|(?P<glm><\|begin_of_box\|>)|(?P<glm_end><\|end_of_box\|>)"
    r"|\\\\(?!boxed|fbox)|\\[{}]|(?P<brace>[{}])"
)
_BOX = re.compile(r"(?:\\|(?<![A-Za-z\\]))(?:boxed|fbox)(?![A-Za-z])|<\|begin_of_box\|>")
_VISIBLE = re.compile(r"\S")
_CURRENCY_PAIR = re.compile(r"\$[0-9][^$]*\$[0-9]")
_BOTH = r"\b(?:and|or|und|oder|et|ou|y|o|e|и|или)\b"
_ADJACENT = re.compile(  # nothing between, or the label of the next part of the question
    r"(?:[ \t$]|\\[,;:! ]|\\q?quad(?![A-Za-z]))*"
    r"|[\s$*.,;)\]\\]*(?:\(?(?:[b-h]|i{2,3}|iv)\)|(?:Part|Teil|Partie|Parte)\s+\(?(?:[B-Hb-h]|[2-9])\)?)[\s$*:.(\[\\]*"
)
_JOINER = re.compile(
    r"(?:\s*(?:\\text\s*\{)?\s*for\s+(?:part\s+|case\s+)?\(?\w{1,8}\)?\s"
    rf"|(?:\s[a-z]{{2,15}}){{1,2}}(?=\s+{_BOTH}\s))?(?:[\s$,;()*]|\\[()\[\],;:! ]"
    r"|\\q?quad(?![A-Za-z])|\\text\s*\{|[{}])*"
    rf"(?P<joint>,|;|{_BOTH}|&|[和或及與与、と]|または)"
    rf"(?:[\s$,;()*]|\\[()\[\],;:! ]|\\q?quad(?![A-Za-z])|{_BOTH}|[{{}}])*"
    r"(?:(?:the|its|their)\s(?:[a-z]{1,15}\s){1,4}(?:is|are)\s*)?"
    r"(?P<name>[A-Za-z](?:_\{?\w\}?)?\s*=\s*)?[\s$]*"
)
_NAME_BEFORE = re.compile(r"(?<![\w\\])(?P<name>[A-Za-z](?:_\{?\w\}?)?\s*=)\s*\Z")


def _find_boxes(text: str) -> list[Span]:
    """List the complete, non-empty boxes in order; of nested ones the outermost."""
    found: list[Span] = []
    opened: list[int | None] = []  # of every open brace: where its box's content starts
    starts: list[int] = []
    glm: int | None = None
    first = _BOX.search(text)
    for match in _BOX_OR_BRACE.finditer(text, first.start() if first else len(text)):
        if match["box"]:
            opened.append(match.end())
            starts.append(match.start())
        elif match["bare"]:
            _add_box(found, text, match.start(), match.start("bare"), match.end("bare"))
        elif match["glm"]:
            glm = match.start()
        elif match["glm_end"] and glm is not None:
            _add_box(found, text, glm, glm + len("<|begin_of_box|>"), match.start(), match.end())
            glm = None
        elif match["brace"] == "{":
            opened.append(None)
        elif match["brace"] and opened:
            content = opened.pop()
            if content is not None:
                _add_box(found, text, starts.pop(), content, match.start(), match.end())
    return found


def _add_box(
    found: list[Span], text: str, start: int, content: int, end: int, after: int | None = None
) -> None:
    if not _VISIBLE.search(text, content, end):
        return
    while found and found[-1].start >= start:  # it stands inside
        found.pop()
    found.append(Span(start, end if after is None else after, (content, end)))


def _join_last(text: str, boxes: Sequence[Span]) -> str:
    """Return the content of the last box, with the boxes that are joined to it."""
    group = [boxes[-1]]
    named = []
    for box in reversed(boxes[:-1]):
        between = text[box.end : group[0].start]
        match = _JOINER.fullmatch(between) if len(between) < 60 else None
        if match is None and not _ADJACENT.fullmatch(between):
            break
        named.append(match["name"] or "" if match else "")
        group.insert(0, box)
    answers = [text[slice(*box.content)].strip() for box in group]
    if len(group) == 1 or len(set(answers)) == 1:
        return answers[-1]
    if any(named):
        before = _NAME_BEFORE.search(text, max(0, group[0].start - 20), group[0].start)
        names = [before["name"] if before else "", *reversed(named)]
        answers = [name + answer for name, answer in zip(names, answers, strict=True)]
    return ", ".join(dict.fromkeys(answers))


# ---- phrases and the last value -------------------------------------------------------------

_DOUBT = re.compile(
    r"\b(?:if|when|were|suppose|unless|whether|not|wrong|incorrect|instead|might|someone|students?"
    r"|would|could|check|why|because|says?|said|other|original)\b",
    re.IGNORECASE,
)


def _find_explicit(text: str) -> str | None:
    boxes = _find_boxes(text)
    if not boxes:
        return _find_phrase(text)
    rest = text[boxes[-1].end :]
    for start, statement in _read_statements(rest):
        line = rest[max(0, rest.rfind("\n", 0, start) + 1, start - 120) : start]
        sentence = re.split(r"[.!?:]\s", line)[-1]
        if statement.value and not _DOUBT.search(sentence):
            return statement.answer
    return _join_last(text, boxes)


def _find_phrase(text: str) -> str | None:
    wordy = None
    for _, statement in _read_statements(text):
        if statement.value:
            return statement.answer
        wordy = wordy or statement.answer
    return wordy


def _read_statements(text: str) -> Iterator[tuple[int, Statement]]:
    """Yield what follows each phrase, from last to first, with the start of the phrase."""
    end = len(text)
    for phrase in reversed(deque(PHRASES.finditer(text), maxlen=TRIES)):
        window = text[phrase.end() : min(end, phrase.end() + WINDOW)]
        statement = read_statement(window, marker=phrase[0].lstrip().startswith(MARKER))
        if statement is not None and not _BOX.search(statement.answer):  # empty or broken off
            yield phrase.start(), statement
        end = phrase.start()


_PROSE = re.compile(
    r"(?<![\\A-Za-z])(?!(?:sqrt|sin|cos|tan|log|and|or[A-Z]?|pi)(?![A-Za-z]))[^\W\d_]{2,}|[.?!]\s|\n|[–—#]"
)
_MATHEMATICS = re.compile(r"[0-9\\$]")
_ONE_FORMULA = re.compile(r"\s*(\${1,2})([^$\n]+)\1\s*\.?\s*")
_TEXT = re.compile(r"\\(?:text|mathrm|mathbf|textbf|operatorname|begin|end)\s*\{[^{}]*\}")


def _find_bare(text: str) -> str | None:
    """Return the whole text if it is one formula without prose."""
    if len(text) > WINDOW or not _MATHEMATICS.search(text):
        return None
    one = _ONE_FORMULA.fullmatch(text)
    if one:
        return one[2]
    bare = text.strip().removeprefix("=>").strip(DRESS).rstrip(". ")
    if _PROSE.search(_TEXT.sub("", bare)) or "$" in bare or _CURRENCY_PAIR.search(text):
        return None
    return bare


_MARKUP = re.compile(r"</?[A-Za-z_]{3,30}>|</[A-Za-z]{1,2}>")


def _find_last(text: str) -> str | None:
    text = _MARKUP.sub(" ", text)
    end = len(text)
    for _ in range(TRIES):
        place = max(text.rfind(sign, 0, end) for sign in "0123456789\\√½")
        if place < 0:
            return None
        start = text.rfind("\n", 0, place) + 1
        stop = text.find("\n", place, end)
        stop = end if stop < 0 else stop
        value = find_last_value(text[max(start, stop - WINDOW) : stop])
        if value:
            return value
        end = start
    return None
