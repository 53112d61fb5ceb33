r"""Split an answer at what joins its parts outside of brackets: commas, "or", `=`, unions."""

from __future__ import annotations

import re

from scale_dspy.grading.characters import find_closing_brace
from scale_dspy.grading.functions import UnreadableError

_JOINT = (
    r"(?P<semi>;)"
    r"|(?P<and>\\text\s*\{\s*,?\s*(?:and|&|und|et|y|e|и|和)\s*,?\s*\}"
    r"|(?<![A-Za-z\\])and(?![A-Za-z])|(?<=\s)(?:und|et|и)(?=\s)|(?<=[0-9] )[ye](?= [0-9])"
    r"|\\land(?![A-Za-z])|\\wedge(?![A-Za-z])|和|及|と)"
    r"|(?P<or>\\text\s*\{\s*,?\s*(?:or|oder|ou|o|или|或)\s*,?\s*\}"
    r"|(?<![A-Za-z\\])or(?![A-Za-z])(?:\s+(?:equivalently|simply|just)\b)?"
    r"|(?<=[0-9)}\]])or(?=[A-Z(\\0-9-])|\\lor(?![A-Za-z])|\\vee(?![A-Za-z])"
    r"|(?<=\s)(?:oder|ou|или)(?=\s)|(?<=[0-9] )o(?= [0-9])|或|または)"
    r"|(?P<comma>,|\\\\(?!text)|\n)"
)
_OPEN = r"(?P<open>\\\{|\\langle(?![A-Za-z])|\\[lb]egin\{\w+\*?\}|[({\[])"
_CLOSE = r"(?P<close>\\\}|\\rangle(?![A-Za-z])|\\end\{\w+\*?\}|[)}\]])"
_SIGN = (
    r"(?P<sign>\\(?:le|ge|ne|in|approx|equiv|neq|subset|to|rightarrow|mapsto|Rightarrow|implies|iff"
    r"|Leftrightarrow|sim|cong|propto|perp|parallel)(?![A-Za-z])|[=<>])"
)
_SET_SIGN = r"(?P<setsign>\\(?:cup|cap|setminus)(?![A-Za-z])|(?<=\})\s*-\s*(?=\\\{))"
_SCAN = re.compile(
    "|".join((_OPEN, _CLOSE, _JOINT, _SIGN, _SET_SIGN, r"(?P<colon>:)", r"\\[A-Za-z]+|\\."))
)


def split(text: str, kinds: tuple[str, ...]) -> tuple[list[str], list[tuple[str, str]]]:
    """Split at the top level: the parts, and between them the kind and the text of each joint.

    Raises:
        UnreadableError: brackets don't match, whatever their kind: an interval may be half open.
    """
    parts, joints, depth, start = [], [], 0, 0
    for match in _SCAN.finditer(text):
        kind = match.lastgroup
        if kind == "open":
            depth += 1
        elif kind == "close":
            depth -= 1
            if depth < 0:
                raise UnreadableError("brackets don't match")
        elif kind in kinds and depth == 0:
            parts.append(text[start : match.start()].strip())
            joints.append((str(kind), match[0]))
            start = match.end()
    if depth:
        raise UnreadableError("brackets don't match")
    return [*parts, text[start:].strip()], joints


_OUTWARD = re.compile(r"([\[\]])([^\[\]]*[;,][^\[\]]*)([\[\]])")


def turn_brackets(text: str) -> str:
    """Write the French and German interval `]1;2]` as `(1;2]`."""
    if not (text.startswith("]") or text.endswith("[")):
        return text
    return _OUTWARD.sub(
        lambda m: ("(" if m[1] == "]" else "[") + m[2] + (")" if m[3] == "[" else "]"), text
    )


_SPACING = re.compile(
    r"\A(?:\s|\\[,;:! ]|~|\\q?quad(?![A-Za-z]))+|(?:\s|(?<!\\)\\[,;:! ]|~|\\q?quad(?![A-Za-z]))+\Z"
)


def strip(text: str) -> str:
    before = None
    while before != text:
        before = text
        text = _SPACING.sub("", text).strip()
        if text.startswith("{") and find_closing_brace(text, 1) == len(text) - 1:
            text = text[1:-1]
        match = re.match(r"\\text\s*\{", text)
        if match and find_closing_brace(text, match.end()) == len(text) - 1:
            inside = text[match.end() : -1]
            if not re.search(r"[^\W\d_]{2}", re.sub(r"\\[A-Za-z]+", "", inside)) or re.search(
                r"[0-9$]", inside
            ):
                text = inside
    return text


def encloses(text: str, match: re.Match[str]) -> bool:
    """Whether the first bracket closes at the very end."""
    depth = 0
    for bracket in _SCAN.finditer(text):
        if bracket.lastgroup == "open":
            depth += 1
        elif bracket.lastgroup == "close":
            depth -= 1
            if depth == 0:
                return bracket.end() == len(text)
    return False
