"""Prompts, leaked thinking, and what is said of bad replies."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scale_dspy.lm.adapter import PlainAdapter, mend, split_thinking
from scale_dspy.stages.assess import RateDifficulty
from scale_dspy.stages.solve import SolveDirectly, SolveThoroughly

INPUTS = {"problem": "P", "context": "1. a\nb", "subproblem": "s"}


def render(signature: type, inputs: dict[str, str]) -> str:
    (message,) = PlainAdapter().format(signature, [], inputs)
    assert message["role"] == "user"
    return str(message["content"])


def test_prompt_is_inputs_then_instructions_then_form() -> None:
    assert render(RateDifficulty, INPUTS) == (
        "Problem:\nP\n\nKnown so far:\n1. a\nb\n\nSub-problem:\ns\n\n"
        f"{RateDifficulty.instructions}\n\nReply with one number from 0 to 1 and nothing else."
    )


def test_stages_share_everything_before_their_instructions() -> None:
    shared = "Problem:\nP\n\nKnown so far:\n1. a\nb\n\nSub-problem:\ns\n\n"
    for signature in (RateDifficulty, SolveDirectly, SolveThoroughly):
        assert render(signature, INPUTS).startswith(shared)


def test_empty_inputs_are_left_out() -> None:
    assert "Known so far" not in render(SolveDirectly, {**INPUTS, "context": "", "draft": ""})


def test_demos_come_first_and_without_instructions() -> None:
    demo = {**INPUTS, "difficulty": "0.3"}
    messages = PlainAdapter().format(RateDifficulty, [demo], INPUTS)
    assert [message["role"] for message in messages] == ["user", "assistant", "user"]
    assert messages[0]["content"] == "Problem:\nP\n\nKnown so far:\n1. a\nb\n\nSub-problem:\ns"
    assert messages[1]["content"] == "0.3"


@given(st.text())
def test_a_reply_is_its_own_value(text: str) -> None:
    assert PlainAdapter().parse(SolveDirectly, text) == {"solution": text}


@given(st.text(), st.text())
def test_inputs_reach_the_prompt_unharmed(problem: str, context: str) -> None:
    content = render(SolveDirectly, {"problem": problem, "context": context, "subproblem": "s"})
    assert mend(problem) in content
    assert mend(context) in content


@pytest.mark.parametrize(
    ("text", "content", "thinking"),
    [
        ("plain", "plain", ""),
        ("<think>a</think>b", "b", "a"),
        ("<think>a\n</think>\n\nb", "b", "a"),
        ("a</think>b", "b", "a"),
        ("<think>never closed", "", "never closed"),
        ("before <think>a</think> after", "before  after", "a"),
        ("<think>a</think>b<think>c</think>d", "d", "a</think>b<think>c"),
        ("<think></think>b", "b", ""),
    ],
)
def test_leaked_thinking(text: str, content: str, thinking: str) -> None:
    assert split_thinking(text) == (content, thinking)
