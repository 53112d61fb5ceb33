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
        "0. Find a.\n1. Find b.",
        "0) Find a.\n1) Find b.",
        "01. Find a.\n02. Find b.",
        "1. Find a. 2. Find b.",
        "Plan: 1. Find a. 2. Find b.",
        "0. Find a. 1. Find b.",
        "(1) Find a. (2) Find b.",
        "Step 1: Find a. Step 2: Find b.",
        "① Find a.\n② Find b.",
        "①Find a. ②Find b.",
        "a) Find a.\nb) Find b.",
        "(a) Find a.\n(b) Find b.",
        "A. Find a.\nB. Find b.",
        "a) Find a. b) Find b.",
        "(i) Find a.\n(ii) Find b.",
        "I. Find a.\nII. Find b.",
        "**Step 1:** Find a.\n**Step 2:** Find b.",
        "**Step 1: Find a.**\n**Step 2: Find b.**",
        "**Step 1** Find a.\n**Step 2** Find b.",
        "### Step 1\nFind a.\n\n### Step 2\nFind b.",
        "### Step 1\n\nFind a.\n\n### Step 2\n\nFind b.\n\nThis is enough.",
        "Step One: Find a.\nStep Two: Find b.",
        "First, Find a.\nSecond, Find b.",
        "Subproblem #1: Find a.\nSubproblem #2: Find b.",
        "Sub problem 1 - Find a.\nSub problem 2 - Find b.",
        "Task 1: Find a.\nTask 2: Find b.",
        "Step (1): Find a.\nStep (2): Find b.",
        "| # | Sub-problem |\n|---|---|\n| 1 | Find a. |\n| 2 | Find b. |",
        "| 1 | Find a. | easy |\n| 2 | Find b. | hard |",
        "1、Find a.\n2、Find b.",
        "１．Find a.\n２．Find b.",
        "步骤1：Find a.\n步骤2：Find b.",
        "第1步：Find a.\n第2步：Find b.",
        "1\ufe0f\u20e3 Find a.\n2\ufe0f\u20e3 Find b.",
        "1\\. Find a.\n2\\. Find b.",
        "[1] Find a.\n[2] Find b.",
        "1 - Find a.\n2 - Find b.",
        "1 – Find a.\n2 – Find b.",
        "1: Find a.\n2: Find b.",
        "- Step 1: Find a.\n- Step 2: Find b.",
        "- 1. Find a.\n- 2. Find b.",
        "> 1. Find a.\n> 2. Find b.",
        "**1) Find a.**\n**2) Find b.**",
        "1.\tFind a.\r\n2.\tFind b.\r\n",
        '["Find a.", "Find b."]',
        '```json\n["1. Find a.",\n "2. Find b."]\n```',
        "• Find a.\n• Find b.",
        "+ Find a.\n+ Find b.",
        "- Find a.\n- Find b.\n\nThis is enough.",
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


@pytest.mark.parametrize(
    ("reply", "items"),
    [
        ("1.5 2. 3.", []),
        ("Let x = 1. 2. 3.", []),
        ("The terms are 0. 1. 2. and so on.", []),
        ("1. Find the sum of 1. 2. 3.", ["Find the sum of 1. 2. 3."]),
        ("1. Find f at 1, 2. Then find b.", ["Find f at 1, 2. Then find b."]),
        ("1. Use (1) and (2) to find b.", ["Use (1) and (2) to find b."]),
        ("1. Let n = 1. 2. and 3.", ["Let n = 1. 2. and 3."]),
        ("1. Find x if f(x) = 1. 2. Find y.", ["Find x if f(x) = 1.", "Find y."]),
        ("1. Find x:\n a) for n = 1\n b) for n = 2", ["Find x:\na) for n = 1\nb) for n = 2"]),
        ("1. Find\n1 - cos x.\n2. Find y.", ["Find\n1 - cos x.", "Find y."]),
        ("A. Smith said so.", []),
        ("I. e. nothing", []),
        ("[0, 1] is the interval", []),
        ("[[[1]]]", []),
    ],
)
def test_mathematics_is_no_list(reply: str, items: list[str]) -> None:
    assert read_list(reply) == items


sentences = st.sampled_from(
    ["Find $a_{1.5}$ now.", r"Let \(x\) be 2. Find y.", "Compute 3.5 + 2!", "Is it (2) or (3)?"]
)


@given(st.lists(sentences, min_size=2, max_size=4, unique=True), st.sampled_from([0, 1]))
def test_a_list_on_one_line_is_read_as_it_is_on_several(chosen: list[str], first: int) -> None:
    numbered = [f"({number}) {text}" for number, text in enumerate(chosen, first)]
    assert read_list(" ".join(numbered)) == read_list("\n".join(numbered)) == chosen


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
        ("3\n\nBecause candidate 1 leaves out b.", 3),
        ("**3**\nCandidate 2 is worse.", 3),
        ("Candidate 3\nIt has 4 sub-problems.", 3),
        ("The best candidate is 3. Candidates 1 and 2 leave out b.", 3),
        ("Candidate 3 is the best; 1 is not.", 3),
        ("Best candidate: **3**, not 4", 3),
        ("I choose candidate 3 over candidate 1.", 3),
        ("After comparing 1 and 2, the answer is 3.", 3),
        (r"Of 8 candidates: \boxed{3}", 3),
        ("Choice: 3 (of 8)", 3),
        ('{"choice": 3, "of": 8}', 3),
        ("Option 3", 3),
        ("#3", 3),
        ("The best is 1 or 2.", None),
        ("Best: 1\nBest: 2", None),
        ("I would not choose 3, but 4.", None),
        ("", None),
        ("the first", None),
        ("99999999999", None),
    ],
)
def test_choices(reply: str, choice: int | None) -> None:
    assert read_choice(reply, 8) == choice
