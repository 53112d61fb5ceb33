"""Fuzz the readers of answers with atheris, guided by coverage.

    python -m tests.fuzz.answers -max_total_time=600

Every input is read by `find_answer`, `normalise`, `read_integer`, `vote`, `equal` on integers and,
beside them, by the readers of lists, scores and thinking. An exception, a slow input (libFuzzer's
-timeout, set to 5 seconds here) or a broken promise stops it with the input.

Needs `pip install atheris`, which has wheels for Linux only; the fast tests do without it.
"""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(
    include=["scale_dspy.grading.answers", "scale_dspy.stages.decompose"]
):
    from scale_dspy.grading import answers
    from scale_dspy.grading.answers import equal, find_answer, normalise, read_integer, vote
    from scale_dspy.lm.adapter import split_thinking
    from scale_dspy.stages.assess import read_score
    from scale_dspy.stages.decompose import read_choice
    from scale_dspy.utils.lists import MAX_SUBPROBLEMS, read_list
    from tests.ugly import PIECES, REPLIES

WORDS = [*PIECES, *(reply[:200] for reply in REPLIES)]


def make_text(data: bytes) -> str:
    """A text: bytes up to 127 are characters, the others are pieces that readers look for."""
    if data[:1] == b"\xff":
        return data[1:].decode("utf-8", "surrogatepass" if data[1:2] == b"\xed" else "replace")
    return "".join(chr(byte) if byte < 128 else WORDS[(byte - 128) % len(WORDS)] for byte in data)


def try_input(data: bytes) -> None:
    """Read one text with every reader and hold each to what it promises."""
    try:
        text = make_text(data)
    except UnicodeDecodeError:
        return
    found = find_answer(text)
    if found is not None:
        assert found, "an answer is never empty"
        assert found == found.strip(), repr(found)
    for answer in {found or "", text}:
        spelled = normalise(answer)
        assert normalise(spelled) == spelled, (answer, spelled)
        integer = read_integer(answer)
        assert integer is None or equal(answer, str(integer), kind="integer"), answer
        assert vote([answer, None, answer]) in (answer, None)
    answers.accepts(found, ["1", text], kind="integer")
    items = read_list(text)
    assert len(items) <= MAX_SUBPROBLEMS
    assert all(items)
    score = read_score(text)
    assert score is None or 0 <= score <= 1
    assert read_choice(text, 8) in (None, *range(1, 9))
    spoken, thought = split_thinking(text)
    assert len(spoken) + len(thought) <= len(text)


if __name__ == "__main__":
    atheris.Setup([*sys.argv, "-timeout=5", "-max_len=128", "-len_control=0"], try_input)
    atheris.Fuzz()
