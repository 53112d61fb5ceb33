"""Lists and choices in a model's replies."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from scale_dspy.stages.decompose import read_choice
from scale_dspy.utils.lists import MAX_SUBPROBLEMS, read_list, render_list

LATEX = [r"\frac{a}{b}", r"\theta", r"\boxed{}", r"\boxed{\frac{1}{2}}", "{", "}", r"\begin{cases}"]
items = st.lists(
    st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1).flatmap(
        lambda word: st.sampled_from(LATEX).map(lambda latex: f"Find {latex} from ${word}$ now")
    ),
    min_size=1,
    max_size=MAX_SUBPROBLEMS,
    unique=True,
)


@given(items)
@example([r"Find \frac{\theta}{2} \text{ and } \nu \rho \to \beta now"])
def test_latex_survives_rendering_and_reading(subproblems: list[str]) -> None:
    assert read_list(render_list(subproblems)) == subproblems


@given(st.text())
@example("1. " + "[" * 5000)
@example("1.\n2.\n3.")
def test_any_reply_gives_a_bounded_list_of_texts(reply: str) -> None:
    found = read_list(reply)
    assert len(found) <= MAX_SUBPROBLEMS
    assert all(item == item.strip() and item for item in found)


@pytest.mark.parametrize(
    "reply",
    [
        "1. Find a.\n2. Find b.",
        "1) Find a.\n2) Find b.",
        "(1) Find a.\n(2) Find b.",
        "Here is my plan:\n\n1. Find a.\n\n2. Find b.\n\nThis will lead to the answer.",
        "```\n1. Find a.\n2. Find b.\n```",
        "**1.** Find a.\n**2.** Find b.",
        "Step 1: Find a.\nStep 2: Find b.",
        "Sub-problem 1: Find a.\nSub-problem 2: Find b.",
        "### Subproblem 1. Find a.\n### Subproblem 2. Find b.",
        "1. **Find a.**\n2. **Find b.**",
        "- Find a.\n- Find b.",
        "* Find a.\n* Find b.",
        "1. Find a.\n2. Find b.\n3. Find a.",
        "1.Find a.\n2.Find b.",
    ],
)
def test_list_styles(reply: str) -> None:
    assert read_list(reply) == ["Find a.", "Find b."]


def test_number_opens_an_item_only_if_it_continues_the_count() -> None:
    assert read_list("1. Find the sum\n7. of these.\n2. Find b.") == [
        "Find the sum\n7. of these.",
        "Find b.",
    ]
    assert read_list("1. Find x with\n2.5 < x.\n2. Find b.") == ["Find x with\n2.5 < x.", "Find b."]


def test_nested_lists_stay_inside_their_item() -> None:
    assert read_list("1. Find a:\n    - first\n    - then\n2. Find b.") == [
        "Find a:\n- first\n- then",
        "Find b.",
    ]


def test_endless_list_is_cut() -> None:
    reply = "\n".join(f"{number}. Find $x_{{{number}}}$." for number in range(1, 301))
    assert len(read_list(reply)) == MAX_SUBPROBLEMS


@pytest.mark.parametrize("reply", ["", "I cannot do that.", "```\n```", "\n\n"])
def test_no_list(reply: str) -> None:
    assert read_list(reply) == []


@pytest.mark.parametrize(
    ("reply", "choice"),
    [
        ("3", 3),
        ("**3**", 3),
        ("Candidate 3 is best.", 3),
        ("3, because candidate 3 is sound", 3),
        ("0", None),
        ("9", None),
        ("1 or 2", None),
        ("", None),
        ("the first", None),
        ("99999999999", None),
    ],
)
def test_choices(reply: str, choice: int | None) -> None:
    assert read_choice(reply, 8) == choice
