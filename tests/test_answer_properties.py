"""What holds of every comparison: it is symmetric and reflexive, and ends in time on any text."""

from __future__ import annotations

import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scale_dspy.grading import math_verify_worker
from scale_dspy.grading.answers import LONGEST, equal, find_answer, normalise, read_integer
from scale_dspy.grading.comparison import compare, same
from scale_dspy.grading.functions import UnreadableError
from scale_dspy.grading.shape_reader import read_shape
from scale_dspy.grading.shapes import Shape
from scale_dspy.grading.spelling import prepare
from tests.ugly import PIECES

# ---- answers that mean something ------------------------------------------------------------

numbers = st.one_of(
    st.integers(-999, 999).map(str),
    st.builds(r"\frac{{{}}}{{{}}}".format, st.integers(-30, 30), st.integers(1, 30)),
    st.builds(r"{}\sqrt{{{}}}".format, st.integers(2, 9), st.integers(2, 30)),
    st.builds("{}.{}".format, st.integers(0, 99), st.integers(1, 99)),
    st.sampled_from([r"\pi", r"2^{10}", "e^2", r"\log_2 8", "3i", r"\binom{5}{2}"]),
)
formulas = st.one_of(
    numbers,
    st.builds("{}x^2 + {}x".format, st.integers(2, 9), st.integers(2, 9)),
    st.builds(r"\frac{{x+{}}}{{y}}".format, st.integers(1, 9)),
)
meaningful = st.one_of(
    formulas,
    st.lists(numbers, min_size=2, max_size=4).map(", ".join),
    st.lists(numbers, min_size=2, max_size=4).map(lambda items: rf"\{{{', '.join(items)}\}}"),
    st.builds("({}, {})".format, formulas, formulas),
    st.builds("[{}, {})".format, st.integers(-9, 0), st.integers(1, 9)),
    st.builds(r"{} < x \le {}".format, st.integers(-9, 0), st.integers(1, 9)),
    st.builds("x = {}".format, numbers),
    st.builds("y = {}x + {}".format, st.integers(2, 9), st.integers(1, 9)),
    st.builds("{} {}".format, st.integers(1, 99), st.sampled_from(["cm", "hours", "clips", "元"])),
    st.builds("{}:{}".format, st.integers(1, 9), st.integers(1, 9)),
    st.sampled_from([r"\text{even}", "no solution", r"\mathbb{R}", "(B)", "1101_2"]),
)
DRESSES = [
    "$@$",
    r"\(@\)",
    r"\boxed{@}",
    "**@**",
    r" @ ",
    r"\displaystyle @",
    "@.",
    r"\left.@\right.",
]


def read_or_none(text: str) -> Shape | None:
    try:
        return read_shape(prepare(text))
    except UnreadableError:
        return None


@given(meaningful, st.sampled_from(DRESSES))
def test_a_dress_changes_nothing(answer: str, dress: str) -> None:
    dressed = dress.replace("@", answer)
    assert equal(dressed, answer)
    assert equal(answer, dressed)


@given(meaningful, meaningful)
def test_equality_is_symmetric(one: str, other: str) -> None:
    assert equal(one, other) == equal(other, one)


@given(meaningful)
def test_every_shape_is_equal_to_itself(answer: str) -> None:
    shape = read_or_none(answer)
    assert shape is not None
    assert same(shape, shape)


# ---- any text at all ------------------------------------------------------------------------

hostile = st.lists(
    st.one_of(st.sampled_from([*PIECES, "{", "}", "^", "_", r"\frac", "9" * 50, "½", "元", ", "])),
    max_size=60,
).map("".join)


@given(hostile, hostile)
def test_no_text_makes_reading_fail_or_last(one: str, other: str) -> None:
    """What can't be read is unequal; nothing but `UnreadableError` comes out of the reader."""
    begun = time.process_time()
    shape = read_or_none(one[:LONGEST])
    normalise(one)
    read_integer(other)
    assert time.process_time() - begun < 2
    if shape is not None:
        assert same(shape, shape) or "nan" in repr(shape) or "zoo" in repr(shape)


DEEP = 300
STARTING = 10.0  # processor seconds that the process may take to start, which are not limited
HOSTILE = {
    "open braces": "{" * 1900,
    "nested braces": "{" * 900 + "7" + "}" * 900,
    "nested boxes": r"\boxed{" * 200 + "7" + "}" * 200,
    "nested fractions": r"\frac{1}{" * DEEP + "7" + "}" * DEEP,
    "nested roots": r"\sqrt{" * DEEP + "7" + "}" * DEEP,
    "nested sets": r"\{" * DEEP + "7" + r"\}" * DEEP,
    "nested lists": "(" * DEEP + "7,8" + ")" * DEEP,
    "a million digits": "9" * 10**6,
    "a long fraction": r"\frac{" + "9" * 900 + "}{" + "7" * 900 + "}",
    "tower": "9^{9^{9^{9}}}",
    "huge exponent": "10^{999999999}",
    "tiny": "10^{-999999999}",
    "scientific": "1e9999",
    "factorials": "9!!!!!!!!",
    "huge factorial": "999999!",
    "binomial": r"\binom{99999}{49999}",
    "expansion": "(" + "+".join("abcdfghjklmn") + ")^{99}",
    "many roots": "+".join(rf"\sqrt{{{n}}}" for n in range(2, 120)),
    "tower of roots": r"\sqrt{2+" * 60 + "2" + "}" * 60,
    "sum": r"\sum_{n=1}^{10^{9}} \frac{1}{n^2+n+1}",
    "product": r"\prod_{n=1}^{999999} (1+\frac{1}{n^3})",
    "integral": r"\int_0^1 \frac{\sin(x^x)}{\ln(1+x^5)} dx",
    "commas": ",7" * 900,
    "plus-minus": r"\pm 1" * 300,
    "plus-minus in lists": ", ".join([r"1 \pm 2"] * 150),
    "unions": r" \cup ".join(f"({n},{n + 1})" for n in range(150)),
    "inequality": "x^{11} - 4x^{7} + 3x^5 - 17x^2 + 1 > 0",
    "matrix": r"\begin{pmatrix}" + r"1 & 2 \\ " * 90 + r"\end{pmatrix}",
    "mixed scripts": "７½²√٣万º∞≤元й" * 100,
    "private characters": "\ue000\uf8ff" * 300,
    "surrogates": "\ud800\udfff7",
    "letters after an estimate": r"\frac{1}{2} \approx " + "a" * 1500,
    "texts before an estimate": "1" + r"\text{ " * 400 + r"\approx 2",
    "blanks inside": "1" + " " * 1900 + "x",
    "commas and ties": "1" + ",~" * 900,
    "zero bytes": "\x007\x00" * 300,
}


LONG = ("sum", "product", "integral", "inequality")  # these take all the time that they may


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name in LONG)) for name in HOSTILE]
)
def test_hostile_answers_end_within_the_limit(name: str) -> None:
    """In processor time: reading here and the comparison in its process, each way round."""
    text = HOSTILE[name]
    begun, waited = time.process_time(), time.monotonic()
    find_answer(text)
    find_answer(f"The answer is {text[:5000]}.")
    normalise(text)
    read_integer(text)
    assert time.process_time() - begun < 2
    assert isinstance(equal(text, "7"), bool)
    assert isinstance(equal("7", text), bool)
    assert equal(text, text)
    assert time.monotonic() - waited < 4 * math_verify_worker.PATIENCE
    assert equal(r"\frac{14}{2}", "7")  # the next question is answered


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX timers")
def test_the_limit_counts_the_processor_time_of_the_worker() -> None:
    """However busy the machine, the process is ended after as much of its own time."""
    import resource

    math_verify_worker._stop_worker()
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert not equal(HOSTILE["sum"], r"7\sqrt{2}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    limit = math_verify_worker.TIME_LIMIT
    assert limit * 0.9 < spent < limit + STARTING


@pytest.mark.parametrize("name", ["nested fractions", "tower", "plus-minus", "nested sets"])
def test_what_is_too_deep_or_too_large_is_unequal_at_once(name: str) -> None:
    begun = time.process_time()
    assert not compare(prepare(HOSTILE[name]), "7")
    assert time.process_time() - begun < 1
