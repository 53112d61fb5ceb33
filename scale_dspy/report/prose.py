r"""Turn a reply into HTML: Markdown by markdown-it, its formulas as MathML, all else escaped.

Formulas in dollars are found by the plugin dollarmath. Those in `\(...\)`, `\[...\]`, environments
and bare `\boxed{...}` are found here, as no plugin finds them in time that is linear in the text.
"""

from __future__ import annotations

import html
import re
from collections.abc import MutableMapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from scale_dspy.report.mathml import render_formula

if TYPE_CHECKING:
    from markdown_it import MarkdownIt
    from markdown_it.rules_block import StateBlock
    from markdown_it.rules_inline import StateInline
    from markdown_it.token import Token

_ENVIRONMENT = re.compile(
    r"\\begin\{((?:align|aligned|alignat|equation|gather|gathered|multline|eqnarray|cases|array"
    r"|[pbvBV]?matrix)\*?)\}"
)
_BRACE = re.compile(r"[{}]")
ELEMENTS = frozenset(
    "p br h5 strong em ul ol li blockquote hr pre code table thead tbody tr th td s".split()
)
"""What `render_text` writes beside formulas."""

_NOT_MARKDOWN = ("link", "image", "autolink", "reference", "html_block", "html_inline", "code")
"""Of CommonMark, what a reply may not do, and indented code, which indented prose is taken for."""


@lru_cache(maxsize=512)
def render_text(text: str) -> str:
    """Render a text as HTML without links, images, styles or classes."""
    return str(_make_parser().render(text))


@lru_cache(maxsize=1)
def _make_parser() -> MarkdownIt:
    from markdown_it import MarkdownIt
    from mdit_py_plugins.dollarmath import dollarmath_plugin

    parser = MarkdownIt("commonmark", {"html": False, "breaks": True})
    parser.enable("table").disable(list(_NOT_MARKDOWN))
    parser.use(dollarmath_plugin, allow_space=False, allow_digits=False, double_inline=True)
    parser.inline.ruler.before("escape", "tex", _read_inline)
    parser.block.ruler.before("fence", "tex", _read_block, {"alt": ["paragraph", "list"]})
    for kind, block in (("tex", False), ("math_inline", False), ("math_inline_double", True)):
        parser.add_render_rule(kind, _make_formula_rule(block))
    for kind in ("tex_block", "math_block"):
        parser.add_render_rule(kind, _make_formula_rule(True))
    parser.add_render_rule("fence", _write_fence)
    parser.add_render_rule("heading_open", lambda *_: "<h5>")
    parser.add_render_rule("heading_close", lambda *_: "</h5>")
    for kind in ("th_open", "td_open"):  # alignment would be a style
        parser.add_render_rule(kind, _make_tag_rule(kind[:2]))
    return parser


def _make_formula_rule(block: bool) -> Any:
    def write(_: Any, tokens: Sequence[Token], place: int, *__: Any) -> str:
        token = tokens[place]
        source = token.meta.get("source") or f"{token.markup}{token.content}{token.markup}"
        shown = block or bool(token.meta.get("block"))
        return render_formula(token.content.strip(), block=shown, source=source)

    return write


def _make_tag_rule(name: str) -> Any:
    return lambda *_: f"<{name}>"


def _write_fence(_: Any, tokens: Sequence[Token], place: int, *__: Any) -> str:
    return f"<pre><code>{html.escape(tokens[place].content)}</code></pre>"


def _read_inline(state: StateInline, silent: bool) -> bool:
    r"""Take a formula that begins with a backslash at the current place."""
    if state.src[state.pos] != "\\":
        return False
    found = _find_formula(state.src, state.pos, state.posMax, state.env)
    if found is None:
        return False
    inner, end, block = found
    if not silent:
        token = state.push("tex", "math", 0)
        token.content, token.meta = inner, {"block": block, "source": state.src[state.pos : end]}
    state.pos = end
    return True


def _read_block(state: StateBlock, first: int, last: int, silent: bool) -> bool:
    r"""Take a formula that begins a line and ends one, so that no line in it is a list's."""
    start = state.bMarks[first] + state.tShift[first]
    if not state.src.startswith(("\\[", "\\begin{"), start):
        return False
    found = _find_formula(state.src, start, state.eMarks[last - 1], state.env)
    if found is None:
        return False
    inner, end, _ = found
    line = next(number for number in range(first, last) if end <= state.eMarks[number])
    if state.src[end : state.eMarks[line]].strip():
        return False
    if not silent:
        token = state.push("tex_block", "math", 0)
        token.block, token.content = True, inner
        token.map, token.meta = [first, line + 1], {"source": state.src[start:end]}
        state.line = line + 1
    return True


def _find_formula(
    text: str, start: int, stop: int, known: MutableMapping[str, Any]
) -> tuple[str, int, bool] | None:
    """(what is in it, where it ends, whether it has a line of its own) of the formula at `start`.

    `known` keeps from where on an end occurs no more, so that each is looked for once.
    """
    if text.startswith(("\\[", "\\("), start):
        closing = "\\]" if text[start + 1] == "[" else "\\)"
        end = _find_end(text, closing, start + 2, stop, known)
        return None if end < 0 else (text[start + 2 : end], end + 2, closing == "\\]")
    if text.startswith("\\boxed{", start):
        end = _close_brace(text, start + 6, min(stop, start + 1000))
        return None if end < 0 else (text[start : end + 1], end + 1, False)
    environment = _ENVIRONMENT.match(text, start, stop)
    if environment is None:
        return None
    closing = f"\\end{{{environment[1]}}}"
    end = _find_end(text, closing, environment.end(), stop, known)
    after = end + len(closing)
    return None if end < 0 else (text[start:after], after, True)


def _find_end(
    text: str, closing: str, start: int, stop: int, known: MutableMapping[str, Any]
) -> int:
    """Where `closing` is next, or -1; a blank line ends the search, as it ends a paragraph."""
    if known.get(closing, (stop + 1, stop))[0] <= start and known[closing][1] == stop:
        return -1
    end = text.find(closing, start, stop)
    if end < 0:
        known[closing] = (start, stop)
    elif "\n\n" in text[start:end]:
        return -1
    return end


def _close_brace(text: str, start: int, stop: int) -> int:
    """Where the brace at `start` is closed, or -1."""
    depth = 0
    for brace in _BRACE.finditer(text, start, stop):
        depth += 1 if brace[0] == "{" else -1
        if depth == 0:
            return brace.start()
    return -1
