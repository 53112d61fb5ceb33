"""The model: what it replies to a prompt, as its world and the sampling have it."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass, replace

from scale_dspy.utils.lists import read_list
from tests.fake.orders import Options
from tests.fake.prompts import Prompt, count_tokens
from tests.world import (
    Problem,
    World,
    babble,
    draw,
    read_boxed,
    read_known,
    read_target,
    write_solution,
)


@dataclass(frozen=True)
class Choice:
    """One choice of a reply, before and after it is cut to its room."""

    content: str | None
    reasoning: str = ""
    finish_reason: str = "stop"
    surprise: float = 0.1  # nats a token, where log-probabilities are asked for

    @property
    def tokens(self) -> int:
        return count_tokens(self.content) + count_tokens(self.reasoning)


@dataclass(frozen=True)
class Sampling:
    """What decides a reply beside the prompt.

    Attributes:
        thinking: whether this reply starts with reasoning.
        aloud: whether the model has no thinking mode, so that System 2 reasons in its reply.
        room: the most tokens of a choice.
    """

    thinking: bool
    aloud: bool
    n: int
    seed: object
    room: int
    think_at_most: int | None
    allowed: tuple[str, ...]


def make_choices(
    prompt: Prompt, sampling: Sampling, world: World, options: Options
) -> list[Choice]:
    """What the model replies."""
    choices = []
    for number in range(1 if options.ignore_n else sampling.n):
        chance = draw(
            world.seed,
            prompt.problem.id if prompt.problem else prompt.text,
            prompt.inputs.get("subproblem"),
            prompt.stage,
            sampling.thinking,
            sampling.seed,
            number,
        )
        choice = _think_and_reply(prompt, sampling, world, options, chance)
        if sampling.allowed and choice.content not in sampling.allowed:
            choice = replace(choice, content=chance.choice(sampling.allowed))
        choices.append(cut(choice, sampling.room))
    return choices


def _think_and_reply(
    prompt: Prompt, sampling: Sampling, world: World, options: Options, chance: random.Random
) -> Choice:
    magic = bool(world.magic) and world.magic in prompt.text
    if prompt.problem is None:
        content = babble(40, chance) if not isinstance(options.other, str) else options.other
        wanted = 30
    elif prompt.stage in ("solve", "whole"):
        return _solve(prompt, prompt.problem, sampling, world, chance, magic)
    else:
        content = _plan(prompt, prompt.problem, world, chance, magic)
        wanted = world.tokens_2 // 2
    return Choice(content, _reason(wanted, sampling, chance))


def _plan(
    prompt: Prompt, problem: Problem, world: World, chance: random.Random, magic: bool
) -> str:
    """A reply of the stages that solve nothing."""
    if prompt.stage == "decompose":
        items = world.split(problem, chance, magic=magic)
        return "\n".join(f"{number}. {item}" for number, item in enumerate(items, 1))
    if prompt.stage == "select":
        blocks = re.split(r"(?m)^Candidate \d+\n", prompt.inputs.get("candidates", ""))[1:]
        candidates = [read_list(block) for block in blocks] or [[]]
        return str(world.choose(problem, candidates, chance, magic=magic))
    subproblem = prompt.inputs.get("subproblem", "")
    if prompt.stage == "review":
        asked = read_target(problem, subproblem)
        right = bool(asked) and read_boxed(prompt.inputs.get("draft", "")) == problem.values[asked]
        return f"{world.rate(0.2 if right else 0.8, chance, magic=magic):g}"
    known = read_known(problem, prompt.inputs.get("context", ""))
    target = read_target(problem, subproblem)
    difficulty = world.measure(problem, target, known) if target else 0.2
    return f"{world.rate(difficulty, chance, magic=magic):g}"


def _solve(
    prompt: Prompt,
    problem: Problem,
    sampling: Sampling,
    world: World,
    chance: random.Random,
    magic: bool,
) -> Choice:
    """A solution of a sub-problem, or of the problem whole."""
    known = read_known(problem, prompt.inputs.get("context", ""))
    target = len(problem.parts)
    if prompt.stage == "solve":
        target = read_target(problem, prompt.inputs.get("subproblem", "")) or 0
    words, thoughts = world.count_words(problem, target, known, chance)
    if world.brief and world.brief in prompt.text:
        words, thoughts = words // 2, thoughts // 2
    reasoning = _reason(thoughts, sampling, chance)
    draft = count_tokens(prompt.inputs.get("draft"))
    if sampling.thinking:
        system = 1 + count_tokens(reasoning) / max(1, thoughts)
    elif prompt.thorough and sampling.aloud:
        system, words = 2.0, words + thoughts
    else:
        system = 1 + min(1.0, draft / max(1, thoughts))
    if target == 0:
        return Choice(write_solution("r", chance.randrange(30), words, chance), reasoning)
    gain = world.demo_gain * min(4, prompt.demos)
    value = world.solve(problem, target, known, system, chance, gain=gain, magic=magic)
    text = write_solution(f"q_{{{target}}}", value, words, chance)
    surprise = world.show(value == problem.values[target], chance)
    return Choice(text, reasoning, surprise=surprise)


def _reason(words: int, sampling: Sampling, chance: random.Random) -> str:
    if not sampling.thinking:
        return ""
    most = words if sampling.think_at_most is None else min(words, sampling.think_at_most)
    return babble(most, chance)


def cut(choice: Choice, room: int) -> Choice:
    """The choice as far as `room` tokens go; cut off while thinking it has no content."""
    if choice.tokens <= room:
        return choice
    left = room - count_tokens(choice.reasoning)
    if left > 0:
        kept = _first_words(choice.content or "", left)
        return replace(choice, content=kept, finish_reason="length")
    thought = _first_words(choice.reasoning, room)
    return replace(choice, content=None, reasoning=thought, finish_reason="length")


def _first_words(text: str, count: int) -> str:
    for number, match in enumerate(re.finditer(r"\S+", text), 1):
        if number == count:
            return text[: match.end()]
    return text
