"""Finding answers, reading them and comparing them."""

from __future__ import annotations

import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from scale_dspy.grading.answers import accepts, equal, find_answer, normalise, read_integer, vote

# ---- find_answer ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"so \boxed{73}", "73"),
        (r"first \boxed{1}, then \boxed{2}.", "2"),
        (r"so \fbox{73}", "73"),
        (r"so $\boxed 73$.", "73"),
        (r"so $\boxed{\frac{1}{2}}$", r"\frac{1}{2}"),
        (r"\boxed{ \{1, 2\} }", r"\{1, 2\}"),
        (r"\boxed{\left\{1\right.}", r"\left\{1\right."),
        (r"\boxed {5}", "5"),
        (r"\\boxed{5}", "5"),
        (r"\boxed{\begin{pmatrix} 1 \\ 2 \end{pmatrix}}", r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}"),
        (r"\boxed{\boxed{5}}", r"\boxed{5}"),
        ("\x08oxed{\x0crac{1}{2}}", r"\frac{1}{2}"),
        (r"{\boxed{5}", "5"),
        (r"}\boxed{5}}", "5"),
    ],
)
def test_the_last_box_is_the_answer(text: str, answer: str) -> None:
    assert find_answer(text) == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"\boxed{7} and then \boxed{}", "7"),
        (r"\boxed{7} and then \boxed{  }", "7"),
        (r"\boxed{7} and then \boxed{\frac{1}{2}", "7"),
        (r"\boxed{7} and then \boxed{12", "7"),
        (r"\boxed{cut off \boxed{7}", "7"),
        (r"I put it within \boxed notation: 7", "7"),
    ],
)
def test_an_empty_or_broken_off_box_does_not_count(text: str, answer: str) -> None:
    assert find_answer(text) == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"<think>\boxed{1}</think> It is \boxed{2}.", "2"),
        (r"\boxed{1}</think> The answer is 2.", "2"),
        (r"<think>\boxed{1}</think>", "1"),
        ("<think>\\boxed{1}</think>\n ", "1"),
        (r"<think>\boxed{1}</think> I do not know.", None),
        (r"<think>\boxed{1}", "1"),
    ],
)
def test_thinking_is_read_only_where_nothing_follows(text: str, answer: str | None) -> None:
    assert find_answer(text) == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("The final answer is 73.", "73"),
        ("The answer is $73$. That took 5 steps.", "73"),
        (r"The answer is $\frac{1}{2}$, as 2 says.", r"\frac{1}{2}"),
        (r"The answer is \(x + 1\).", "x + 1"),
        ("**Final Answer:** 73\n", "73"),
        ("Final answer:\n\n73\nI hope it is correct.", "73"),
        ("The correct answer is: **east**.", "east"),
        ("2 + 2\n#### 1,234", "1,234"),
        ("The answer is 3.5. Done", "3.5"),
        ("Answer: 1. No: the answer is 2", "2"),
        ("The answer is 5. Answer:", "5"),
        (r"The answer is 5. The answer is \boxed{}", "5"),
        ("We get 3 and then 1,234.", "1,234"),
        ("It costs -4", "-4"),
        ("so 9-4", "9-4"),
        ("half of it: 1/2.", "1/2"),
        ("nothing here", None),
        ("", None),
        (" \n ", None),
    ],
)
def test_without_a_box_a_phrase_then_the_last_number(text: str, answer: str | None) -> None:
    assert find_answer(text) == answer


HUGE = [
    " " * 10**6,
    "{" * 10**5,
    "}" * 10**5,
    r"\boxed{" * 10**5,
    r"\boxed{" * 10**5 + "5" + "}" * 10**5,
    r"\boxed{ " * 10**5 + "}" * 10**5,
    r"\boxed" + " " * 10**6,
    r"\boxed{" + " " * 10**6 + "}",
    "answer" + " " * 10**6,
    "answer:" * 10**5,
    "the answer is " * 70_000,
    "answer: $" * 10**5,
    "the answer is " + "." * 10**6,
    "1," * 10**5,
    "9" * 10**6,
    "-" * 10**6,
    "</think>" * 10**5,
]


@pytest.mark.parametrize("text", HUGE, ids=lambda text: repr(text[:10]))
def test_time_is_linear_in_the_text(text: str) -> None:
    begun = time.process_time()
    find_answer(text)
    normalise(text)
    read_integer(text)
    assert time.process_time() - begun < 2


def test_a_box_at_the_end_of_a_megabyte_is_found() -> None:
    assert find_answer("blah {x} " * 110_000 + r"\boxed{7}") == "7"


balanced = st.recursive(
    st.text("abc123 +-=.,()", min_size=1, max_size=6),
    lambda inner: st.one_of(
        inner.map(lambda text: "{" + text + "}"),
        inner.map(lambda text: r"\text{" + text + "}"),
        inner.map(lambda text: r"\{" + text + r"\}"),
        inner.map(lambda text: r"\boxed{" + text + "}"),
        st.tuples(inner, inner).map("".join),
    ),
    max_leaves=8,
)


@given(
    prefix=st.text("ab1 {}$\\\n", max_size=30),
    content=balanced.filter(str.strip),
    suffix=st.text("ab1 {}$.\n", max_size=30),
)
def test_a_complete_box_is_found_wherever_it_stands(prefix: str, content: str, suffix: str) -> None:
    assert find_answer(prefix + r"\boxed{" + content + "}" + suffix) == content.strip()


FRAGMENTS = (
    r"\ { } $ % ^ _ , . = - + ( ) [ ] / ** 0 1 073 1,000 {,} x cm π − ° × #### Answer: </think> "
    r"\boxed{ \boxed \text{ \mathrm{ \frac \dfrac \left \right \, \! \; \circ ^\circ \{ \} \\ \$"
)
fragments = st.sampled_from(
    [*FRAGMENTS.split(" "), " ", "\n", "\x08", "\x0c", " degrees", "answer is"]
)
texts = st.one_of(st.text(), st.lists(fragments, max_size=12).map("".join))


@given(texts)
@example("\ud800")
@example("\x00")
@example("1" * 5000)
def test_no_text_raises(text: str) -> None:
    answer = find_answer(text)
    assert answer is None or (answer and answer == answer.strip())
    normalise(text)
    read_integer(text)
    equal(text, "5", kind="integer")


# ---- normalise and read_integer -------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "spelling"),
    [
        ("073", "73"),
        ("73.", "73"),
        ("$$\\boxed{70}$$", "70"),
        (r"\boxed{\text{70}}", "70"),
        (r"\mathbf{073}", "73"),
        (r"\textbf{(540) }", "540"),
        (r"\text{(C)}", "C"),
        ("{73}", "73"),
        ("**73**", "73"),
        ("+5", "5"),
        ("−5", "-5"),
        ("27.0", "27"),
        ("18.90", "18.9"),
        (".5", "0.5"),
        ("0.05", "0.05"),
        ("100", "100"),
        ("1.2.3", "1.2.3"),
        ("x=73", "73"),
        ("n = 540^\\circ", "540"),
        (r"x \in [-2,7]", "[-2, 7]"),
        ("AB = 5", "5"),
        ("f(x) = 2x", "2x"),
        ("2x + y = 0", "2x+y=0"),
        ("x = 3, y = 4", "x=3, y=4"),
        (r"\dfrac{1}{2}", r"\frac{1}{2}"),
        (r"\tfrac12", r"\frac{1}{2}"),
        (r"\frac 59", r"\frac{5}{9}"),
        (r"\frac9{19}", r"\frac{9}{19}"),
        ("-1/2", r"-\frac{1}{2}"),
        (r"\frac{-1}{2}", r"-\frac{1}{2}"),
        (r"\left( 3, \frac{\pi}{2} \right)", r"(3, \frac{\pi}{2})"),
        (r"\left[1,2\right)", "[1, 2)"),
        (r"1 \pm \sqrt{19}", r"1\pm\sqrt{19}"),
        (r"\pi r", r"\pi r"),
        (r"\pi\mathrm{r}", r"\pi r"),
        ("x^{2} + 1", "x^2+1"),
        ("x^{2}3", "x^{2}3"),
        ("4210_{5}", "4210_5"),
        (r"\text{no  solution}", "no solution"),
        (r"\$18.90", "18.9"),
        (r"50\%", "50%"),
        ("", ""),
        ("$", ""),
    ],
)
def test_normalise_gives_one_spelling(answer: str, spelling: str) -> None:
    assert normalise(answer) == spelling


@pytest.mark.parametrize(
    ("answer", "spelling"),
    [
        ("1,000", "1000"),
        ("-1,234,567", "-1234567"),
        (r"1{,}000", "1000"),
        (r"\$32,\!348", "32348"),
        (r"11,\! 111,\! 111,\! 100", "11111111100"),
        (r"1\,000", "1000"),
        (r"\(1,000\)", "1000"),
        ("1,234.50", "1234.5"),
        ("1,2,3", "1, 2, 3"),
        ("1, 234", "1, 234"),
        ("10,07", "10, 07"),
        ("1,0000", "1, 0000"),
        ("1,234,5", "1, 234, 5"),
        ("(1,000)", "(1, 000)"),
        ("[1,234]", "[1, 234]"),
        (r"\{1,234\}", r"\{1, 234\}"),
        (r"(1{,}000, 5)", "(1000, 5)"),
    ],
)
def test_only_proper_thousands_are_joined(answer: str, spelling: str) -> None:
    assert normalise(answer) == spelling


@pytest.mark.parametrize(
    ("answer", "spelling"),
    [
        (r"73 \text{ cm}", "73"),
        ("73 cm", "73"),
        (r"73\text{ m}^2", "73"),
        (r"864 \mbox{ inches}^2", "864"),
        (r"\frac{270}7\text{ degrees}", r"\frac{270}{7}"),
        (r"12\pi \text{ square units}", r"12\pi"),
        (r"12\pi square units", r"12\pi"),
        ("18 dollars", "18"),
        ("90°", "90"),
        (r"90^{\circ}", "90"),
        ("73 m", "73m"),
        ("two days", "two days"),
        (r"5\text{ million}", "5million"),
        (r"9\text{ a.m.}", "9a.m"),
        (r"f\circ g", r"f\circ g"),
    ],
)
def test_units_go_only_where_they_cannot_be_a_variable(answer: str, spelling: str) -> None:
    assert normalise(answer) == spelling


@given(texts)
@example("1,\\! 234")
@example("x=\\boxed{y=5}")
@example("5,.")
@example("{" * 300 + "}" * 300)
def test_normalising_twice_changes_nothing(text: str) -> None:
    once = normalise(text)
    assert normalise(once) == once


@pytest.mark.parametrize(
    ("answer", "value"),
    [
        ("073", 73),
        ("73.", 73),
        (r"73^\circ", 73),
        (r"\text{73}", 73),
        (r"\mathbf{073}", 73),
        (r"$$\boxed{70}$$", 70),
        ("1,000", 1000),
        ("27.0", 27),
        ("-5", -5),
        ("-0", 0),
        ("x = 73", 73),
        ("m + n = 073", 73),
        (r"73 \text{ cm}", 73),
        (r"50\%", 50),
        (r"\textbf{(B) } 27", 27),
        ("9" * 1000, int("9" * 1000)),
        ("3.5", None),
        ("7/2", None),
        ("two", None),
        ("", None),
        ("73 or 74", None),
        ("73, 74", None),
        ("x = 73, y = 74", None),
        ("73 or x = 74", None),
        ("7 3", None),
        ("(1,000)", None),
        ("7^2", None),
        ("5²", None),
        ("9" * 10_000, None),
    ],
)
def test_read_integer(answer: str, value: int | None) -> None:
    assert read_integer(answer) == value


@given(st.integers(-(10**40), 10**40), st.sampled_from(["{}", "${}$", "{}.", "x = {}", "{}.0"]))
def test_an_integer_in_any_dress_is_read(value: int, dress: str) -> None:
    assert read_integer(dress.format(value)) == value
    assert read_integer(dress.format(f"{value:,}")) == value


# ---- vote -----------------------------------------------------------------------------------


def test_vote_counts_spellings_and_returns_the_first_raw_answer() -> None:
    assert vote(["5", "073", None, "$73$", ""]) == "073"
    assert vote(["1", "2", "2", "1"]) == "1"
    assert vote([None, "", "$"]) is None
    assert vote([]) is None


@given(st.lists(st.none() | st.sampled_from(["1", "01", "2", "2.0", "$3$", "", "x"])))
def test_the_winner_has_the_most_votes_and_nobody_else_matters(votes: list[str | None]) -> None:
    winner = vote(votes)
    given_ = [normalise(answer) for answer in votes if answer]
    if winner is None:
        assert not given_
    else:
        assert winner in votes
        assert given_.count(normalise(winner)) == max(map(given_.count, given_))
        assert vote([None, *votes, None]) == winner
        assert vote([*votes, winner]) == winner


# ---- equal ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["integer", "math"])
@pytest.mark.parametrize("pred", [None, "", "  ", "$"])
def test_nothing_is_never_equal(pred: str | None, kind: str) -> None:
    assert not equal(pred, "5", kind=kind)  # type: ignore[arg-type]
    assert not equal(pred, "", kind=kind)  # type: ignore[arg-type]


def test_integers_are_compared_whole() -> None:
    assert equal("073", "73", kind="integer")
    assert equal("1,000", "1000.0", kind="integer")
    assert not equal("711", "11", kind="integer")
    assert not equal("11", "711", kind="integer")
    assert not equal("two", "two", kind="integer")


@given(st.integers())
def test_equal_is_reflexive_on_integers(value: int) -> None:
    assert equal(str(value), str(value), kind="integer")
    assert equal(str(value), str(value))
    assert not equal(str(value), str(value + 1), kind="integer")
    assert not equal(str(value), str(value + 1))


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="kind"):
        equal("1", "1", kind="float")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("pred", "gold"),
    [
        (r"\frac{1}{2}", "0.5"),
        (r"\frac{1}{2}", "1/2"),
        ("0.5", "1/2"),
        ("(1,2)", "(1, 2)"),
        ("[0,1)", r"\left[0, 1\right)"),
        (r"\{1,2\}", r"\{2, 1\}"),
        ("3, 5, 7", "7,5,3"),
        (r"1\pm\sqrt{19}", r"1+\sqrt{19}, 1-\sqrt{19}"),
        (r"\frac{\sqrt3}{2}", r"\frac{1}{2}\sqrt{3}"),
        ("x^{2}+1", "1 + x^2"),
        ("6 - 5i", "-5i + 6"),
        ("2x + y = 0", "y = -2x"),
        ("2x + y - 4 = 0", "y + 2x - 4 = 0"),
        ("m + n = 0", "0"),
        ("40_9", "40_{9}"),
        ("x = 5", "5"),
        (r"x \in [-2,7]", "[-2, 7]"),
        (r"1\frac45", "9/5"),
        (r"50\%", "0.5"),
        ("18π", r"18\pi"),
        (r"\text{even}", "Even"),
        ("(C)", r"\text{C}"),
        (r"12\pi\text{ cm}^2", r"12\pi"),
    ],
)
def test_equal_as_mathematics(pred: str, gold: str) -> None:
    assert equal(pred, gold)
    assert equal(gold, pred)


@pytest.mark.parametrize(
    ("pred", "gold"),
    [
        ("711", "11"),
        ("0.0000673", "0.0000672"),
        ("[0,1]", "[0,1)"),
        ("(2,1)", "(1,2)"),
        ("x = 5", "y = 5"),
        ("52_7", "52_8"),
        ("40_9", "40"),
        ("5x - 7y + 11z + 4 = 0", "0"),
        ("even", "odd"),
        ("7 or 8", "7"),
        (r"7 \foo{8}", "7"),
        (r"\infty", r"-\infty"),
        ("3" * 3000, "3" * 3001),
    ],
)
def test_different_as_mathematics(pred: str, gold: str) -> None:
    assert not equal(pred, gold)
    assert not equal(gold, pred)


def test_any_accepted_answer_will_do() -> None:
    assert accepts("081", ["80", "81"], kind="integer")
    assert accepts("0.5", ["1/3", "1/2"])
    assert not accepts("82", ["80", "81"], kind="integer")
    assert not accepts("82", [])
