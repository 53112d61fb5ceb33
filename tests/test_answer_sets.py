"""Over whole problem sets: no gold answer passes for another one, and each is read in any style."""

from __future__ import annotations

import functools
import os
from itertools import combinations

import pytest

from scale_dspy.data.load import load
from scale_dspy.grading import answers, comparison
from scale_dspy.grading.answers import equal, find_answer

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not os.environ.get("SCALE_DATA_DIR"),
        reason="SCALE_DATA_DIR names no folder of local copies",
    ),
]

SETS = ("aime24", "aime25", "aime", "amc23", "gsm8k", "math500")

STYLES = {
    "Qwen2.5": "### Step 1\nWe count.\n\nThus, the final answer is:\n\n\\[\n\\boxed{@}\n\\]",
    "Qwen3": "<think>\nMaybe 3? No.\n</think>\n\n**Step 2:** Add.\n\n"
    "**Answer:**\n$$\n\\boxed{@}\n$$",
    "R1": "<think>It might be \\boxed{3}.</think>\nHence the result is \\(\\boxed{@}\\).",
    "R1, thinking cut": "It is 3, wait.\n</think>\n\n**Final Answer**\n\\boxed{@}",
    "Llama": "## Step 1: Read\nWe read.\n\nThe final answer is: $\\boxed{@}$<|eot_id|>",
    "Llama, words": "We know 2 + 2 = 4.\n\nTherefore, the final answer is $@$.",
    "Gemma": "We have 2 cases.\n\nFinal Answer: The final answer is $\\boxed{@}$<end_of_turn>",
    "GLM": "<think>3?</think>The total is\n<|begin_of_box|>@<|end_of_box|>",
    "gpt-oss": "<|channel|>analysis<|message|>3?<|end|><|start|>assistant<|channel|>final"
    "<|message|>The result is **\\(\\boxed{@}\\)**.<|return|>",
    "Mistral": "[THINK]3?[/THINK]So the answer is $\\boxed{@}$.</s>",
    "tags": "<reasoning>2 + 2 = 4</reasoning>\n<answer>\n@\n</answer>",
    "few-shot": "There are 2 of 4.\n#### @",
    "Chinese": "我们先算 2 + 2 = 4。\n\n因此，答案是 $@$。",
    "German": "Zuerst 2 + 2 = 4. Die Antwort lautet $@$.",
    "French": "On a 2 + 2 = 4. La réponse finale est $\\boxed{@}$.",
    "Spanish": "Tenemos 2 + 2 = 4. La respuesta es $@$.",
    "Russian": "Имеем 2 + 2 = 4.\n\nОтвет: $@$.",
    "Japanese": "2 + 2 = 4 です。したがって、答えは $@$ です。",
}
"""How models end their replies; `@` stands for the answer."""

INTEGER_STYLES = {
    "bold": "Step 1: 2 + 2 = 4.\n\nSo she has **@** apples left.",
    "dollars": "Step 1: 2 + 2 = 4.\n\nJanet makes **$@** every day.",
    "equation": "2 + 2 = 4\n\nThe total is 2 * 4 = $@.",
    "noun in the box": "So \\boxed{@ \\text{ clips}}",
    "sentence in the box": "\\boxed{\\text{The total is @ dollars.}}",
    "full-width": "所以一共需要 @ 元。",
    "heading": "#### 1. Add\n2 + 2 = 4\n\n#### 2. Result\nThe total is @ miles.",
}

ALIKE = {
    ("(-2,1)", "-2,1"),  # a pair with and without its brackets
    ("-2,1", "1,-2"),
    ("10,\\!080", "10080"),
    ("120", "120^\\circ"),
    ("15", "15\\mbox{ cm}^2"),
    ("2 \\sqrt{5}", "2\\sqrt{5}"),
    ("30", "30^\\circ"),
    ("36", "36^\\circ"),
    ("36", "\\$36"),
    ("5", "x=5"),
    ("90", "90^\\circ"),
    ("\\frac14", "\\frac{1}{4}"),
}
"""Golds of MATH-500 that say the same in other words."""


@pytest.mark.parametrize("name", SETS)
def test_every_gold_equals_itself(name: str) -> None:
    for example in load(name):
        for gold in example.answers:
            assert equal(gold, gold, kind=example.kind), gold


def test_no_two_golds_are_equal_as_mathematics(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every pair of MATH-500's golds in both directions, compared here and not in the worker."""
    monkeypatch.setattr(comparison, "read_shape", functools.cache(comparison.read_shape))
    monkeypatch.setattr(answers, "ask_worker", comparison.compare)
    golds = sorted({gold for example in load("math500") for gold in example.answers})
    verdicts = {
        (one, other): (equal(one, other), equal(other, one))
        for one, other in combinations(golds, 2)
    }
    assert [pair for pair, both in verdicts.items() if both[0] != both[1]] == []
    assert {pair for pair, both in verdicts.items() if both[0]} == ALIKE


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("name", SETS)
def test_every_gold_is_read_in_every_style(name: str, style: str) -> None:
    for example in load(name):
        for gold in example.answers:
            reply = STYLES[style].replace("@", gold)
            assert equal(find_answer(reply), gold, kind=example.kind), (find_answer(reply), gold)


@pytest.mark.parametrize("style", INTEGER_STYLES)
@pytest.mark.parametrize("name", ["gsm8k", "aime"])
def test_every_integer_is_read_in_prose(name: str, style: str) -> None:
    for example in load(name):
        for gold in example.answers:
            for spelled in {gold, f"{int(gold):,}"}:
                reply = INTEGER_STYLES[style].replace("@", spelled)
                assert equal(find_answer(reply), gold, kind="integer"), (reply, find_answer(reply))
