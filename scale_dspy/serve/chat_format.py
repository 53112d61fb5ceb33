"""A conversation as a problem, and a prediction as a chat model's reply."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import dspy
from dspy.utils.callback import BaseCallback

from scale_dspy.stages.assess import Assess
from scale_dspy.stages.decompose import Decompose
from scale_dspy.stages.solve import Solve
from scale_dspy.step import show_step

LONGEST_QUESTION = 100_000  # characters, with all its context


def join_messages(messages: Sequence[Mapping[str, Any]]) -> str:
    """A conversation as one problem. The last message is the question. The earlier ones come before
    it, with blank lines between: system text as it is, turns as "User: ..." and "Assistant: ...".

    Raises:
        ValueError: the last message is not the user's, is empty, or something is not text.
    """
    if not messages or messages[-1].get("role") != "user":
        raise ValueError("the last message is the question and has the role 'user'")
    question = _read_text(messages[-1])
    if not question:
        raise ValueError("the question is empty")
    parts = []
    for message in messages[:-1]:
        role, text = message.get("role"), _read_text(message)
        if role not in ("system", "developer", "user", "assistant"):
            raise ValueError(f"a message has the role system, user or assistant, not {role!r:.100}")
        if text:
            spoken = role in ("user", "assistant")
            parts.append(f"{str(role).capitalize()}: {text}" if spoken else text)
    problem = "\n\n".join([*parts, question])
    if len(problem) > LONGEST_QUESTION:
        raise ValueError(
            f"the question has {len(problem):,} characters with its context, and "
            f"{LONGEST_QUESTION:,} are the most"
        )
    return problem


def write_content(prediction: dspy.Prediction) -> str:
    r"""The last step's solution; an answer that it does not box is added in a \boxed{}."""
    solution: str = prediction.steps[-1].solution.strip() if prediction.steps else ""
    answer = prediction.answer
    if answer is None or r"\boxed" in solution:
        return solution
    return f"{solution}\n\n$\\boxed{{{answer}}}$".strip()


def name_finish(prediction: dspy.Prediction) -> str:
    """`stop`, or `length` where tokens ran out before there was an answer."""
    return "stop" if prediction.answer is not None else "length"


def add_usage(usage: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """OpenAI's usage: the sums over all stages."""
    prompt, response, reasoning = (
        sum(int(tally[key]) for tally in usage.values())
        for key in ("prompt_tokens", "completion_tokens", "reasoning_tokens")
    )
    return {
        "prompt_tokens": prompt,
        "completion_tokens": response,
        "total_tokens": prompt + response,
        "completion_tokens_details": {"reasoning_tokens": reasoning},
    }


def list_fields(prediction: dspy.Prediction) -> dict[str, Any]:
    """What a reply carries beside OpenAI's fields."""
    return {
        "scale_steps": [show_step(step) for step in prediction.steps],
        "scale_usage": prediction.usage,
        "scale_replaced": list(prediction.replaced),
    }


def write_rest(prediction: dspy.Prediction, told: Sequence[str]) -> list[str]:
    """The reasoning of a method whose work was not reported as it happened."""
    if told:
        return []
    return [step.reasoning for step in prediction.steps if step.reasoning]


class Narrator(BaseCallback):
    """A DSPy callback that reports a SCALE program's work as text, step by step."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self.tell = tell
        self._calls: dict[str, tuple[Any, dict[str, Any]]] = {}
        self._solved = 0

    def on_module_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        arguments = inputs.get("kwargs", inputs)
        if isinstance(instance, (Decompose, Assess, Solve)):
            self._calls[call_id] = (instance, arguments)
        if isinstance(instance, Solve):
            whole = arguments["subproblem"] == arguments["problem"]
            title = "The question itself" if whole else arguments["subproblem"]
            draft = arguments.get("draft")
            measured = draft is not None and draft.difficulty is not None
            how = f"difficulty {draft.difficulty:.2f}, " if measured else ""
            self.tell(f"\n{self._solved + 1}. {title}\n({how}System {arguments['system']})\n")

    def on_module_end(
        self, call_id: str, outputs: Any, exception: BaseException | None = None
    ) -> None:
        instance, arguments = self._calls.pop(call_id, (None, {}))
        if instance is None or exception is not None:
            return
        if isinstance(instance, Decompose):
            count = len(outputs.subproblems)
            listed = "".join(f"- {text}\n" for text in outputs.subproblems)
            self.tell(f"{count} sub-problem{'' if count == 1 else 's'}:\n{listed}")
        elif isinstance(instance, Assess):
            self.tell(f"\nDifficulty {outputs.difficulty:.2f}: {_shorten(arguments)}\n")
        else:
            self._solved += 1
            passes = sum(vote.system == 2 for vote in outputs.votes)
            voted = f"{passes} passes, " if passes > 1 else ""
            self.tell(f"{outputs.solution}\n[{voted}{outputs.tokens:,} tokens]\n")


def _read_text(message: Mapping[str, Any]) -> str:
    content = message.get("content")
    if content is None:
        return ""
    if isinstance(content, str):
        return content.strip()
    parts = content if isinstance(content, list) else [content]
    if not all(isinstance(part, Mapping) and isinstance(part.get("text"), str) for part in parts):
        raise ValueError("a message's content is text, or parts of text")
    return "\n".join(part["text"] for part in parts).strip()


def _shorten(arguments: Mapping[str, Any], limit: int = 80) -> str:
    text = " ".join(str(arguments.get("subproblem", "")).split())
    return text if len(text) <= limit else f"{text[: limit - 1]}…"
