"""Reading a prompt: which stage asks, about which problem, with which inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import dspy

from scale_dspy.stages.assess import RateDifficulty, ReviewDraft
from scale_dspy.stages.decompose import ProposeSubproblems, SelectCandidate
from scale_dspy.stages.solve import SolveDirectly, SolveThoroughly
from tests.world import Problem, World

OTHER = "other"


def ending(signature: type[dspy.Signature]) -> str:
    """The last line of every prompt of a stage, which tuning leaves alone."""
    (output,) = signature.output_fields.values()
    return f"Reply with {str(output.json_schema_extra['desc']).rstrip('.')}."


_STAGES = {
    ending(ProposeSubproblems): ("decompose", ProposeSubproblems),
    ending(SelectCandidate): ("select", SelectCandidate),
    ending(RateDifficulty): ("assess", RateDifficulty),
    ending(ReviewDraft): ("review", ReviewDraft),
    ending(SolveDirectly): ("solve", SolveDirectly),
    ending(SolveThoroughly): ("solve", SolveThoroughly),
}


@dataclass(frozen=True)
class Prompt:
    """What a chat request asks.

    Attributes:
        stage: decompose, select, assess, solve, whole or other.
        thorough: whether it is asked in the words of System 2 (for a model that cannot think).
        inputs: by the Signature's field name; empty for whole and other.
        text: all messages.
        demos: worked examples among the messages.
    """

    stage: str
    thorough: bool
    problem: Problem | None
    inputs: Mapping[str, str]
    text: str
    demos: int


def read_prompt(messages: Sequence[Mapping[str, Any]], world: World) -> Prompt:
    """Recognise the stage by the last line, which stays when instructions are tuned."""
    texts = [read_content(message) for message in messages]
    last = texts[-1] if texts else ""
    stage, signature = _STAGES.get(last.rstrip().rpartition("\n")[2].strip(), (OTHER, None))
    inputs = _read_sections(signature, last) if signature else {}
    problem = world.find(inputs.get("problem", last)) or world.find("\n".join(texts))
    if problem is None:
        stage = OTHER
    elif stage == OTHER:
        stage = "whole"
    return Prompt(
        stage=stage,
        thorough=signature is SolveThoroughly or stage == "whole",
        problem=problem,
        inputs=inputs,
        text="\n".join(texts),
        demos=sum(message.get("role") == "assistant" for message in messages),
    )


def count_tokens(text: str | None) -> int:
    """Tokens of a text: its words."""
    return len((text or "").split())


def read_content(message: Mapping[str, Any]) -> str:
    content = message.get("content") or ""
    if isinstance(content, str):
        return content
    return "\n".join(str(part.get("text", "")) for part in content)


def _read_sections(signature: type[dspy.Signature], text: str) -> dict[str, str]:
    """The inputs as PlainAdapter writes them: each under its title, the instructions after them.

    What ends the last input cannot be seen, so it is taken to have no blank line, except that
    candidates run on as long as they are candidates.
    """
    places = []
    position = 0
    for name, input_field in signature.input_fields.items():
        title = f"{input_field.json_schema_extra['desc']}:\n"
        at = 0 if not places and text.startswith(title) else text.find(f"\n\n{title}", position)
        if at >= 0:
            position = text.index(title, at) + len(title)
            places.append((name, at, position))
    ends = [start for _, start, _ in places[1:]]
    inputs = {
        name: text[begin:end] for (name, _, begin), end in zip(places, [*ends, None], strict=False)
    }
    if places:
        name = places[-1][0]
        blocks = inputs[name].split("\n\n")
        more = "Candidate " if name == "candidates" else None
        kept = 1
        while more and kept < len(blocks) and blocks[kept].startswith(more):
            kept += 1
        inputs[name] = "\n\n".join(blocks[:kept])
    return inputs
