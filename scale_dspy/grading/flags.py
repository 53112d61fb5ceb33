"""Two flags for wrong rollouts: the right answer was there but not read; the model was cut off.

The two flags of MathArena's pages (arXiv 2505.23281): "the right value stands in the text, but was
not read as the answer", and "hit the token limit".
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from scale_dspy.grading.characters import find_closing_brace
from scale_dspy.grading.spelling import normalise
from scale_dspy.grading.values import FORMULA, find_value_spans

END = 1000
"""Characters at the end of a text in which a value is looked for: most hold every small number."""

CUT_OFF = "cut off"
"""The note on a rollout whose reply was ended by the token limit."""

_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{")


def stands_unread(text: str, golds: Sequence[str], *, right: bool) -> bool:
    """Whether a gold answer stands near the end of a text whose answer counts as wrong.

    Values are compared by spelling alone, so that no page waits for mathematics.

    Args:
        text: of the last step.
        golds: all accepted answers.
        right: whether the rollout counts as right; then nothing is amiss.
    """
    if right:
        return False
    wanted = {normalise(gold) for gold in golds} - {""}
    return bool(wanted) and any(normalise(value) in wanted for value in _list_values(text[-END:]))


def hit_limit(notes: Iterable[str]) -> bool:
    """Whether the token limit ended a reply of a rollout, as its notes (`replaced`) say."""
    return any(CUT_OFF in note for note in notes)


def _list_values(text: str) -> Iterator[str]:
    """Boxes, formulas and what stands behind their equals signs, and bare numbers."""
    for box in _BOX.finditer(text):
        end = find_closing_brace(text, box.end())
        yield text[box.end() : end]
    for formula in FORMULA.finditer(text):
        content = next(filter(None, formula.groups()), "")
        yield from {content, content.rpartition("=")[2]}
    for line in text.splitlines():
        yield from (line[span.start : span.end] for span in find_value_spans(line))
