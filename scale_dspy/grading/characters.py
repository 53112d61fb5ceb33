r"""Write every character of mathematics as plain LaTeX, and remove what only formats a formula.

The first steps of reading an answer: `½` is `\frac{1}{2}`, a full-width `１２` is `12`, `\dfrac` is
`\frac`, a colour, a size or a thin space is nothing. Each step is a function from text to text and
says what it is for; `spelling.py` and `shapes.py` put them in their order.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable

Replacement = str | Callable[[re.Match[str]], str]
Rules = list[tuple[re.Pattern[str], Replacement]]


def compile_rules(rules: Iterable[tuple[str, Replacement]]) -> Rules:
    """Compile rewriting rules, which `apply_rules` applies in their order."""
    return [(re.compile(pattern), replacement) for pattern, replacement in rules]


def apply_rules(rules: Rules, text: str) -> str:
    """Replace all that matches, rule by rule."""
    for pattern, replacement in rules:
        text = pattern.sub(replacement, text)
    return text


# ---- characters -----------------------------------------------------------------------------

# JSON reads \b and \f as control characters, and so corrupts \boxed, \fbox and \frac.
_CORRUPTED = re.compile(r"\x08(?=oxed|inom)|\x0c(?=box|rac)")
# A backslash that was escaped twice; a row of a matrix starts with no such word.
_DOUBLED = re.compile(
    r"(?<!\\)\\\\(?=(?:left|right|[dt]?frac|sqrt|pi|text|le|ge|leq|geq|cdot|times|infty|in|cup|cap|pm|boxed"
    r"|begin|end|sin|cos|tan|log|ln|quad|binom|circ|approx|theta|alpha|beta)(?![A-Za-z]))"
)

_GREEK = {
    unicodedata.lookup(f"GREEK SMALL LETTER {name.upper()}"): rf"\{name} "
    for name in "alpha beta gamma delta epsilon zeta eta theta iota kappa mu nu xi pi rho sigma tau"
    " phi chi psi omega".split()
} | {"λ": r"\lambda ", "ϕ": r"\phi ", "Δ": r"\Delta ", "Ω": r"\Omega ", "Σ": r"\Sigma "}

_SIGNS = {
    **dict.fromkeys("−‐‑‒–—﹣", "-"),
    **dict.fromkeys("×✕✖", r"\times "),
    **dict.fromkeys("·∙⋅•", r"\cdot "),
    **dict.fromkeys("‘’′ʹ", "'"),
    **dict.fromkeys("“”″", '"'),
    **dict.fromkeys("\u2009\u202f\u2006\u2008\u200a", r"\,"),
    **dict.fromkeys("\u00a0\u3000\u2002\u2003\u2004\u2005\u2007", " "),
    **dict.fromkeys("\u200b\u200c\u200d\u2060\ufeff\u2061\u2062\u00ad\u202a\u202c\u200e\u200f", ""),
    "÷": r"\div ",
    "∞": r"\infty ",
    "≤": r"\le ",
    "⩽": r"\le ",
    "≥": r"\ge ",
    "⩾": r"\ge ",
    "≠": r"\ne ",
    "≈": r"\approx ",
    "≡": r"\equiv ",
    "±": r"\pm ",
    "∓": r"\mp ",
    "∪": r"\cup ",
    "∩": r"\cap ",
    "∖": r"\setminus ",
    "∅": r"\emptyset ",
    "∈": r"\in ",
    "ℝ": r"\mathbb{R}",
    "ℤ": r"\mathbb{Z}",
    "ℕ": r"\mathbb{N}",
    "ℚ": r"\mathbb{Q}",
    "⟨": r"\langle ",
    "⟩": r"\rangle ",
    "∠": r"\angle ",
    "△": r"\triangle ",
    "⌊": r"\lfloor ",
    "⌋": r"\rfloor ",
    "⌈": r"\lceil ",
    "⌉": r"\rceil ",
    "°": r"^\circ ",
    "º": r"^\circ ",
    "…": r"\ldots ",
    "⋯": r"\ldots ",
    "∕": "/",
    "∶": ":",
    "、": ", ",
    "。": ". ",
    "，": ",",
    "；": ";",
}
_TABLE = str.maketrans(_SIGNS | _GREEK)

_SUPERSCRIPTS = dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁽⁾ⁿⁱ", "0123456789+-()ni", strict=True))
_SUBSCRIPTS = dict(zip("₀₁₂₃₄₅₆₇₈₉₊₋₍₎ₙ", "0123456789+-()n", strict=True))
_RAISED = re.compile(f"[{''.join(_SUPERSCRIPTS)}]+")
_LOWERED = re.compile(f"[{''.join(_SUBSCRIPTS)}]+")
_VULGAR = re.compile(r"[¼-¾⅐-⅞↉]")
_ROOT = re.compile(r"([√∛∜])\s*(\([^()]*\)|\d+(?:\.\d+)?|[A-Za-z]|\\[A-Za-z]+ ?)?")
_ROOTS = {"√": r"\sqrt", "∛": r"\sqrt[3]", "∜": r"\sqrt[4]"}
_RANGE = re.compile(r"(?<=[0-9])[–—](?=[0-9])")
_SQUARE_UNIT = re.compile(r"(?<=[0-9])\s*([ckmd]?m)([²³])")
_WIDE = re.compile(r"[\uff01-\uff5e]|[\U0001d400-\U0001d7ff]")


def repair(text: str) -> str:
    r"""Give `\boxed`, `\fbox` and `\frac` back the backslash that JSON read as an escape."""
    text = _DOUBLED.sub(r"\\", text)
    return _CORRUPTED.sub(lambda match: "\\b" if match[0] == "\x08" else "\\f", text)


def to_latex(text: str) -> str:
    r"""Write the characters of mathematics as LaTeX: `2√3`, `5²`, `½`, `−`, `１２`, `θ`.

    >>> to_latex("x² − ½"), to_latex("（１，２）"), to_latex("2√3")
    ('x^{2} - \\frac{1}{2}', '(1,2)', '2\\sqrt{3}')
    """
    if text.isascii():
        return text
    text = _WIDE.sub(lambda match: unicodedata.normalize("NFKC", match[0]), text)
    text = _SQUARE_UNIT.sub(lambda m: rf" \\text{{{m[1]}}}^{_SUPERSCRIPTS[m[2]]}", text)
    text = _RANGE.sub(r" \\text{to} ", text)
    text = _VULGAR.sub(_write_fraction, text)
    text = _RAISED.sub(lambda run: "^{" + "".join(map(_SUPERSCRIPTS.get, run[0])) + "}", text)  # type: ignore[arg-type]
    text = _LOWERED.sub(lambda run: "_{" + "".join(map(_SUBSCRIPTS.get, run[0])) + "}", text)  # type: ignore[arg-type]
    text = text.replace("⁄", "/").translate(_TABLE)
    return _ROOT.sub(_write_root, text)


def _write_fraction(match: re.Match[str]) -> str:
    numerator, _, denominator = unicodedata.normalize("NFKC", match[0]).partition("\u2044")
    return rf"\frac{{{numerator}}}{{{denominator}}}"


def _write_root(match: re.Match[str]) -> str:
    under = match[2]
    if under is None:
        return _ROOTS[match[1]]
    return f"{_ROOTS[match[1]]}{{{under[1:-1] if under.startswith('(') else under}}}"


# ---- dress ----------------------------------------------------------------------------------

_BRACE = re.compile(r"\\\\|\\[{}]|[{}]")
_COMMAND_END = re.compile(r"\\[A-Za-z]+\Z")

_FONT = re.compile(
    r"\\(?:text(?:bf|it|rm|sf|tt|normal|up|sc)|math(?:bf|rm|it|sf|tt|normal|cal|scr|frak)"
    r"|bold(?:symbol)?|bm|pmb|emph|underline|mbox|hbox|textnormal|ensuremath)\s*\{"
)
_UPRIGHT_UNIT = re.compile(
    r"(?<=[0-9}])((?:\\[,; ]|~|\s){0,5})\\(?:mathrm|rm)\s*\{\s*([NJWVmgshL])\s*\}"
)
_BOX = re.compile(r"\\(?:boxed|fbox|framebox|displaylines|bbox)\s*\{")

_AND_SIGN = re.compile(r"(?<=[0-9)}])\s+\\?&\s+(?=[-0-9(])")
_TABLE_LIKE = re.compile(r"matrix|array|cases")

_DRESS = compile_rules(
    [
        (r"<\|(?:begin|end)_of_box\|>", ""),
        (r"\\(?:text)?color\s*(?:\[[^\]{}]*\])?\{[^{}]*\}|\\definecolor\{[^{}]*\}", ""),
        (r"\\(?:[hv]space|phantom|[hv]phantom|label|tag|kern)\*?\s*\{[^{}]*\}", " "),
        (r"\\(?:display|text|script|scriptscript)style(?![A-Za-z])", ""),
        (
            r"\\(?:tiny|scriptsize|footnotesize|small|normalsize|large|Large|LARGE|huge|Huge"
            r"|bf|it|rm|sf|tt|limits|nolimits|bfseries|itshape|centering|strut|null|relax)"
            r"(?![A-Za-z])",
            "",
        ),
        (
            r"\\(?:begin|end)\s*\{(?:aligned|align|alignat|gathered|gather|split|equation|multline"
            r"|center|displaymath|math|flalign|eqnarray)\*?\}",
            "",
        ),
        (
            r"\\(?:left|right)(?![A-Za-z])\s*\.?|\\[bB]igg?[lrm]?(?![A-Za-z])|\\middle(?![A-Za-z])",
            "",
        ),
        (r"\\(?:[dtc]|nice|s|x)frac(?![A-Za-z])", r"\\frac"),
        (r"\\[dt]binom(?![A-Za-z])", r"\\binom"),
        (r"\\operatorname\*?\s*\{([A-Za-z]+)\}", r"\\\1 "),
        (r"\\(?:leq|leqslant|leqq)(?![A-Za-z])", r"\\le"),
        (r"\\(?:geq|geqslant|geqq)(?![A-Za-z])", r"\\ge"),
        (r"\\(?:neq)(?![A-Za-z])|\\not\s*=", r"\\ne"),
        (r"\\lt(?![A-Za-z])|&lt;", "<"),
        (r"\\gt(?![A-Za-z])|&gt;", ">"),
        (r"\\(q?quad)(?=[A-Za-z])", r"\\\1 "),
        (r"<=", r"\\le "),
        (r">=", r"\\ge "),
        (r"!=(?!=)", r"\\ne "),
        (r"\\colon(?![A-Za-z])", ":"),
        (r":=", "="),
        (r"==", "="),
        (r"\\(?:varnothing|O)(?![A-Za-z])", r"\\emptyset"),
        (r"\\(?:l|r)brace(?![A-Za-z])", lambda m: "\\{" if m[0][1] == "l" else "\\}"),
        (r"\\lbrack(?![A-Za-z])", "["),
        (r"\\rbrack(?![A-Za-z])", "]"),
        (r"\\(?:lvert|rvert|vert|mid)(?![A-Za-z])", "|"),
        (r"\\(?:dots|cdots|dotsc|dotsb)(?![A-Za-z])", r"\\ldots"),
        (r"\\backslash(?![A-Za-z])|\\smallsetminus(?![A-Za-z])", r"\\setminus"),
        (r"\\over(?:right)?arrow(?![A-Za-z])", r"\\vec"),
        (r"\\varphi(?![A-Za-z])", r"\\phi"),
        (r"\\degrees?(?![A-Za-z])", r"^\\circ"),
        (r"\{\s*\\circ\s*\}", r"\\circ "),
        (r"\\mathbb\s+([A-Z])", r"\\mathbb{\1}"),
        (r"\\%", "%"),
        (r"(?<=[0-9]) +x +(?=[0-9])", r" \\times "),
    ]
)


def undress(text: str) -> str:
    r"""Remove sizes, colours, fonts, boxes and environments, and write synonyms one way.

    `\text{...}` stays: it shows whether letters are a word or variables.
    """
    text = _UPRIGHT_UNIT.sub(r"\1\\text{ \2}", text)
    text = unwrap(_FONT, unwrap(_BOX, text), mark=True)
    text = apply_rules(_DRESS, text)
    if "&" not in text or _TABLE_LIKE.search(text):
        return text
    return _AND_SIGN.sub(" and ", text).replace("&", "")


def unwrap(opening: re.Pattern[str], text: str, *, mark: bool = False) -> str:
    """Replace every `opening...}` by what stands inside, up to one that is never closed.

    With `mark`, what was around words becomes `\\text`, as letters in it are no variables.
    """
    done, rest = [], text
    while match := opening.search(rest):
        end = find_closing_brace(rest, match.end())
        if end is None:
            break
        inside = rest[match.end() : end]
        before = rest[: match.start()]
        if mark and re.search(r"[A-Za-z]{2}", re.sub(r"\\[A-Za-z]+", "", inside)):
            inside = f"\\text{{{inside}}}"
        done.append(before + (" " if _COMMAND_END.search(before) else ""))
        rest = inside + rest[end + 1 :]
    return "".join(done) + rest


def find_closing_brace(text: str, start: int) -> int | None:
    """Where the brace closes that was opened just before `start`."""
    depth = 1
    for match in _BRACE.finditer(text, start):
        depth += {"{": 1, "}": -1}.get(match[0], 0)
        if depth == 0:
            return match.start()
    return None


# ---- fractions and separators ---------------------------------------------------------------

_FRACTIONS = compile_rules(
    [
        (r"\\frac\s*([0-9])\s*([0-9])(?![0-9]*\})", r"\\frac{\1}{\2}"),
        (r"\\frac\s*([0-9a-zA-Z])\s*\{", r"\\frac{\1}{"),
        (r"\\frac\s*(\{[^{}]*\})\s*([0-9a-zA-Z])", r"\\frac\1{\2}"),
        (r"\\frac\s*(\\[A-Za-z]+|[0-9a-zA-Z])\s*(\\[A-Za-z]+|[0-9a-zA-Z])", r"\\frac{\1}{\2}"),
        (r"\\frac\s*(\{[^{}]*\})\s*(\\pi)", r"\\frac\1{\2}"),
        (r"\\frac\s*(\\pi)\s*\{", r"\\frac{\1}{"),
        (r"\\binom\s*([0-9])\s*([0-9])(?![0-9]*\})", r"\\binom{\1}{\2}"),
        (r"\{([^{}]*)\\over(?![A-Za-z])([^{}]*)\}", r"\\frac{\1}{\2}"),
        (r"\A([^{}]*)\\over(?![A-Za-z])([^{}]*)\Z", r"\\frac{\1}{\2}"),
        (r"\{([^{}]*)\\choose(?![A-Za-z])([^{}]*)\}", r"\\binom{\1}{\2}"),
        (r"\A([^{}]*)\\choose(?![A-Za-z])([^{}]*)\Z", r"\\binom{\1}{\2}"),
        (r"\^\{?([0-9]+)\}?\s*/\s*_\{?([0-9]+)\}?", r"\\frac{\1}{\2}"),
    ]
)

_GAP = r"(?:\\[,;:! ]|~|['`]|\\thinspace(?![A-Za-z]))"
_THOUSANDS = compile_rules(
    [
        (
            r"(?<=[0-9])(?:,(?:\\!\s*)+|\s*\{\s*,\s*(?:\\!)?\}\s*"
            r"|\\text\{[ ,]\})(?=[0-9]{3}(?![0-9]))",
            "",
        ),
        (rf"(?<=[0-9])\s*(?:{_GAP}\s*)+(?=[0-9]{{3}}(?![0-9]))", ""),
        (
            r"(?<![0-9.,\\^_/])\b([1-9][0-9]{0,2})((?: [0-9]{3})+)(?![0-9:/]|[.,][0-9]|\s*[0-9])",
            lambda match: match[1] + match[2].replace(" ", ""),
        ),
        (
            r"(?<![0-9.,\w])[1-9][0-9]{0,2}(?:_[0-9]{3})+(?![0-9._,])",
            lambda match: match[0].replace("_", ""),
        ),
        (  # as it is written in German and in Spanish; one group alone is a decimal
            r"(?<![0-9.,])[1-9][0-9]{0,2}(?:\.[0-9]{3}){2,}(?![0-9.]|,[0-9])",
            lambda match: match[0].replace(".", ""),
        ),
        (
            r"(?<![0-9.,])([1-9][0-9]{0,2}(?:\.[0-9]{3})+),([0-9]+)(?![0-9.,])",
            lambda match: f"{match[1].replace('.', '')}.{match[2]}",
        ),
    ]
)


def spell_fractions(text: str) -> str:
    r"""Write `\frac12`, `{1 \over 2}`, `^1/_2` and `{5 \choose 2}` with their braces."""
    return apply_rules(_FRACTIONS, text)


def join_thousands(text: str) -> str:
    r"""Join groups of three digits that anything but a bare comma separates.

    >>> join_thousands(r"70\,000"), join_thousands("70 000"), join_thousands("70'000")
    ('70000', '70000', '70000')
    """
    return apply_rules(_THOUSANDS, text)
