"""Turn a LaTeX formula into MathML.

The converter passes HTML, links and styles in a formula on as they are. So its elements, not its
output, are taken, and only known elements and attributes are written, with every text escaped.
"""

from __future__ import annotations

import html
import re
import unicodedata
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

LONGEST = 2000
"""Characters of the longest formula that is converted; a longer one is shown as written."""

_DEFINITION = re.compile(
    r"\\(?:newcommand|renewcommand|newenvironment|def|DeclareMathOperator|href|class|style)(?![a-z])"
)
_RESPELLED = [
    (re.compile(r"\\(?:nonumber|notag)(?![A-Za-z])|\\(?:label|tag)\*?\{[^{}]*\}"), ""),
    (re.compile(r"(?<=\\)(begin|end)\{(?:aligned|align|eqnarray|split)\*?\}"), r"\1{align*}"),
    (re.compile(r"\\begin\{alignat(?:ed)?\*?\}\s*\{\d+\}"), r"\\begin{align*}"),
    (re.compile(r"\\end\{alignat(?:ed)?\*?\}"), r"\\end{align*}"),
    (re.compile(r"(?<=\\)(begin|end)\{(?:gather|gathered|multline)\*?\}"), r"\1{matrix}"),
    (re.compile(r"(?<=\\)(begin|end)\{dcases\}"), r"\1{cases}"),
]

ELEMENTS = frozenset(
    (
        "math mrow mi mn mo ms mspace mtext mfrac msqrt mroot mstyle mpadded mphantom menclose "
        "msub msup msubsup munder mover munderover mmultiscripts mprescripts mtable mtr mtd"
    ).split()
)
ATTRIBUTES = frozenset(
    (
        "accent accentunder columnalign columnlines columnspacing depth display displaystyle "
        "fence form height largeop linethickness lspace mathvariant maxsize minsize movablelimits "
        "notation rowlines rowspacing rspace scriptlevel separator stretchy symmetric voffset width"
    ).split()
)
_VALUE = re.compile(r"[\w .%+-]{1,60}", re.ASCII)


def render_answer(answer: str) -> str:
    """Render an answer: a formula where it looks like one, whether or not it has delimiters."""
    bare = answer.strip().strip("$")
    return render_formula(bare) if re.search(r"[\\^_]", bare) else html.escape(answer)


@lru_cache(maxsize=4096)
def render_formula(latex: str, *, block: bool = False, source: str | None = None) -> str:
    """Render one formula as MathML, or as its source where it cannot be converted.

    Args:
        latex: the formula without its delimiters.
        block: whether it stands on a line of its own.
        source: shown where `latex` cannot be converted; by default `latex`.
    """
    from latex2mathml.converter import convert_to_element

    try:
        if len(latex) > LONGEST or _DEFINITION.search(latex):
            raise ValueError("not converted")
        element = convert_to_element(_respell(latex), display="block" if block else "inline")
        return _write(element)
    except Exception:  # the converter raises its own, IndexError and more: all mean the same
        return f"<code>{html.escape(source or latex)}</code>"


def _respell(latex: str) -> str:
    """Rewrite what the converter does not know in commands that it knows."""
    for pattern, replacement in _RESPELLED:
        latex = pattern.sub(replacement, latex)
    if r"\\" in latex and r"\begin" not in latex:
        return rf"\begin{{matrix}}{latex}\end{{matrix}}"
    return latex


def _write(element: Element) -> str:
    """Write an element and what is in it.

    Raises:
        ValueError: it is none of the known ones, or a command that the converter did not know.
    """
    name, text = element.tag, html.unescape(element.text or "")
    if name not in ELEMENTS or (name == "mi" and text.startswith("\\")):
        raise ValueError("unknown element or command")
    if name == "mi" and (text == ":" or _category(text) in ("Sm", "Ps", "Pe")):
        name = "mo"
    inner = html.escape(text) + "".join(_write(child) for child in element)
    if name == "mrow" and len(element) == 1:
        return inner
    attributes = "".join(
        f' {key}="{value}"'
        for key, value in element.attrib.items()
        if key in ATTRIBUTES and _VALUE.fullmatch(value)
    )
    return f"<{name}{attributes}>{inner}</{name}>"


def _category(text: str) -> str:
    return unicodedata.category(text) if len(text) == 1 else ""
