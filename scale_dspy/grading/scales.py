r"""Number words after a numeral: `5 million`, `3万`, `2 Millionen`, `4 dozen`."""

from __future__ import annotations

import re

from scale_dspy.grading.characters import Rules, apply_rules, compile_rules

_SCALES = {
    name: zeros
    for zeros, names in {
        3: "thousand thousands tausend mille mil mila тысяча тысячи тысяч 千 k",
        4: "万 萬",
        6: "million millions mio millionen millón millones milhão milhões milione milioni 百万"
        " миллион миллиона миллионов",
        8: "亿 億",
        9: "billion billions milliarde milliarden milliard milliards миллиард миллиарда миллиардов",
        12: "trillion trillions",
    }.items()
    for name in names.split()
}
"""The power of ten for each number word, in the languages that models reply in."""

SCALES_PATTERN = (
    "(?:" + "|".join(sorted(_SCALES.keys() - {"k"}, key=len, reverse=True)) + ")"
    r"(?:(?<=[千万萬亿億])(?![米克瓦卡])|(?<![千万萬亿億])(?![^\W\d_]))"
)
"""A pattern for these words; match it with `re.IGNORECASE`."""

SCALE_START = re.compile(
    rf"(?:{'|'.join(sorted(_SCALES, key=len, reverse=True))}|hundert|百|тыс|млн|млрд)"
    r"(?:(?![^\W\d_])|(?<=[千万萬亿億百])(?![米克瓦卡])|\b)"
)
_SCALE = re.compile(
    r"(?<=[0-9}])(?:\s|\\[,;:! ]|~)*(?:\\text\s*\{\s*)?"
    rf"(?P<scale>{SCALES_PATTERN})(?P<rest>[^{{}}]*)(?:\}})?",
    re.IGNORECASE,
)
_HALF = re.compile(r"\A([0-9]+)\s*(?:\\text\s*\{\s*)?and\s+a\s+half\s*\}?")

_NUMBER_WORDS: Rules = compile_rules(
    [
        (_HALF.pattern, r"\1\\frac{1}{2} "),
        (r"(?<=[0-9])\s*(?:\\text\s*\{\s*)?dozen(?![A-Za-z])\s*\}?", r"\\cdot 12 "),
    ]
)


def spell_scales(text: str) -> str:
    r"""Write `5 million` as `5\cdot 10^{6}`, and `3 and a half` as a mixed number."""
    text = apply_rules(_NUMBER_WORDS, text)
    return _SCALE.sub(_write_scale, text)


def _write_scale(match: re.Match[str]) -> str:
    rest = match["rest"].strip()
    if rest[:1].isdigit():  # 3 million 200 thousand
        rest = f"+{spell_scales(rest)}"
    noun = f" \\text{{{rest}}}" if re.search(r"[A-Za-z]{2}", rest) else rest
    return rf"\cdot 10^{{{_SCALES[match['scale'].casefold()]}}}{noun}"
