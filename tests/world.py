r"""A world of synthetic problems whose truth is known: values, difficulties, who solves what.

A problem is a chain of parts: $q_1$ follows from $q_0$, $q_2$ from $q_1$, and so on to $q_n$. Its
text carries a marker such as `[world 3 problem 17]`, from which everything about it is computed
again. All chance is drawn by hashing, so the same question under the same seed has the same reply
in every process.
"""

from __future__ import annotations

import json
import math
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import dspy

MODULUS = 997  # prime, so that a wrong value never leads back to the right one

MARKER = re.compile(r"\[world (\d+) problem (\d+)\]")
_ENTRY = re.compile(r"(?m)^\d+\. ")
_TARGET = re.compile(r"\$(q|r)_\{(\d+)\}\$")
_BOXED = re.compile(r"\\boxed\{(-?\d{1,18})\}")

_VERBS = ("Find", "Determine", "Compute", "Work out", "Calculate", "Obtain", "Establish", "Give")
_TALK = (
    "so we check that this term is small and then reduce it once more because the remainder "
    "must lie below the modulus which gives a new residue whose inverse exists since no factor "
    "divides both numbers hence by substitution one more line of algebra settles the case"
)
_VOCABULARY = _TALK.split()


@dataclass(frozen=True)
class Part:
    """One link of the chain: q_j = (a q_{j-1} + b) mod 997, and how difficult that truly is."""

    a: int
    b: int
    difficulty: float

    def apply(self, value: int) -> int:
        return (self.a * value + self.b) % MODULUS


@dataclass(frozen=True)
class Problem:
    """A problem with its truth.

    Attributes:
        values: q_0, q_1, ..., q_n; the last is the gold answer.
    """

    world: int
    number: int
    parts: tuple[Part, ...]
    values: tuple[int, ...]

    @property
    def id(self) -> str:
        return f"world-{self.world}-{self.number}"

    @property
    def answer(self) -> str:
        return str(self.values[-1])

    @property
    def difficulties(self) -> tuple[float, ...]:
        return tuple(part.difficulty for part in self.parts)

    @property
    def text(self) -> str:
        rules = ", ".join(
            f"${_name(j)} = {_write_rule(part, j)}$" for j, part in enumerate(self.parts, 1)
        )
        return (
            f"[world {self.world} problem {self.number}] Let ${_name(0)} = {self.values[0]}$ and "
            f"define {rules}. What is ${_name(len(self.parts))}$?"
        )


@dataclass(frozen=True)
class World:
    r"""All that decides how well the model of this world does; the defaults are free of chance.

    As it stands, System 1 solves exactly the parts up to difficulty 0.5, System 2 all of them, and
    every rating, list and choice is right: SCALE at tau 0.5 is always right. `World.noisy()` is one
    where every stage errs.

    Attributes:
        seed: another seed, other problems.
        parts: fewest and most parts of a problem.
        hard_share: share of parts whose difficulty lies in `hard`; the others lie in `easy`.
        ability_1: System 1 solves a part right if and only if its difficulty is at most this.
        ability_2: the same for System 2.
        softness: above 0, the chance of success falls from 1 to 0 around the ability, the more
            gradually the larger it is (a logistic curve of this width).
        slip: chance that something well within ability goes wrong all the same.
        merge: what each further part adds to the difficulty when several are solved in one go,
            for want of a sub-problem; below 0 splitting a problem makes it harder.
        whole_1: chance that System 1 solves a problem whole, with nothing known before;
            None: it follows from the parts and `merge`.
        whole_2: the same for System 2.
        tokens_1: response tokens of System 1 for a part of difficulty 0.5.
        tokens_2: reasoning tokens of System 2 for it. Both grow with difficulty.
        noise: standard deviation of a rating around the true difficulty.
        lacking: share of candidate lists that lack a part.
        superfluous: share of candidate lists that have a part too many.
        select_skill: chance that the choice falls on a best candidate; otherwise on any.
        magic: a phrase; a stage whose instructions contain it does better: it solves with
            `magic_gain` more ability and without slips, rates without noise, and its lists and
            choices are right.
        brief: a phrase; solutions whose instructions contain it take half the tokens.
        tells: nats a token by which a wrong solution is less sure of itself than a right one; at 0
            its log-probabilities tell nothing.
        demo_gain: ability gained by each worked example in the prompt, up to four.
    """

    seed: int = 0
    parts: tuple[int, int] = (2, 8)
    hard_share: float = 0.4
    easy: tuple[float, float] = (0.05, 0.45)
    hard: tuple[float, float] = (0.55, 0.95)
    ability_1: float = 0.5
    ability_2: float = 1.0
    softness: float = 0.0
    slip: float = 0.0
    merge: float = 0.1
    whole_1: float | None = None
    whole_2: float | None = None
    tokens_1: int = 30
    tokens_2: int = 300
    noise: float = 0.0
    lacking: float = 0.0
    superfluous: float = 0.0
    select_skill: float = 1.0
    magic: str = ""
    magic_gain: float = 0.2
    brief: str = ""
    demo_gain: float = 0.0
    tells: float = 0.5

    @classmethod
    def noisy(cls, seed: int = 0, **knobs: object) -> World:
        """A world where every stage errs now and then, for evaluation and tuning."""
        errors = {
            "softness": 0.05,
            "slip": 0.02,
            "noise": 0.1,
            "lacking": 0.25,
            "superfluous": 0.15,
            "select_skill": 0.8,
        }
        return cls(seed, **{**errors, **knobs})  # type: ignore[arg-type]

    def problem(self, number: int) -> Problem:
        """Problem `number` of this world."""
        return _make_problem(self.seed, number, self.parts, self.hard_share, self.easy, self.hard)

    def problems(self, count: int, start: int = 0) -> list[dspy.Example]:
        """Problems `start` to `start + count - 1` as Examples, as evaluation reads them."""
        return [
            dspy.Example(
                id=problem.id,
                problem=problem.text,
                answer=problem.answer,
                answers=[problem.answer],
                kind="integer",
            ).with_inputs("problem")
            for problem in map(self.problem, range(start, start + count))
        ]

    def find(self, text: str) -> Problem | None:
        """The problem that a text speaks of: its last marker, in a world with these knobs."""
        markers = MARKER.findall(text)
        if not markers:
            return None
        world, number = map(int, markers[-1])
        return replace(self, seed=world).problem(number)

    def split(self, problem: Problem, chance: random.Random, *, magic: bool = False) -> list[str]:
        """A candidate list of sub-problems."""
        verbs = [chance.choice(_VERBS) for _ in problem.parts]
        items = [write_subproblem(problem, j, verb) for j, verb in enumerate(verbs, 1)]
        kind, place = chance.random(), chance.randrange(max(1, len(items) - 1))
        if magic or len(items) == 1:
            return items
        if kind < self.lacking:
            del items[place]
        elif kind < self.lacking + self.superfluous:
            items.insert(place + 1, write_superfluous(place + 1))
        return items

    def choose(
        self,
        problem: Problem,
        candidates: Sequence[Sequence[str]],
        chance: random.Random,
        *,
        magic: bool = False,
    ) -> int:
        """The number of the chosen candidate, from 1."""
        merits = [judge_list(problem, items) for items in candidates]
        best = [place for place, merit in enumerate(merits, 1) if merit == max(merits)]
        skilled = chance.random() < self.select_skill
        return best[0] if magic or skilled else chance.randint(1, len(candidates))

    def rate(self, difficulty: float, chance: random.Random, *, magic: bool = False) -> float:
        """The score that the model gives to something of this true difficulty."""
        seen = difficulty if magic else chance.gauss(difficulty, self.noise)
        return round(min(1.0, max(0.0, seen)), 2)

    def show(self, right: bool, chance: random.Random) -> float:
        """How surprised the model is by its own tokens, in nats, in a right or a wrong solution."""
        return round(0.1 + (0.0 if right else self.tells) + chance.uniform(0.0, 0.05), 3)

    def measure(self, problem: Problem, target: int, known: Mapping[int, int | None]) -> float:
        """The true difficulty of finding q_target when the parts in `known` have been solved."""
        todo = problem.parts[_last_known(target, known) : target]
        if not todo:
            return 0.05
        return max(part.difficulty for part in todo) + self.merge * (len(todo) - 1)

    def solve(
        self,
        problem: Problem,
        target: int,
        known: Mapping[int, int | None],
        system: float,
        chance: random.Random,
        *,
        gain: float = 0.0,
        magic: bool = False,
    ) -> int:
        """The value that the model finds for q_target, building on `known`, be that right or wrong.

        Args:
            known: values found before, by part; None where a solution showed none.
            system: 1 or 2; between them, a System 2 that had to stop thinking early.
            gain: ability on top.
        """
        start = _last_known(target, known)
        value = problem.values[0] if start == 0 else known[start]
        if value is None:
            value = chance.randrange(MODULUS)
        for part in problem.parts[start:target]:
            value = part.apply(value)
        if chance.random() < self._find_chance(problem, target, known, system, gain, magic):
            return value
        return (value + chance.randint(1, MODULUS - 1)) % MODULUS

    def _find_chance(
        self,
        problem: Problem,
        target: int,
        known: Mapping[int, int | None],
        system: float,
        gain: float,
        magic: bool,
    ) -> float:
        start = _last_known(target, known)
        if start >= target:
            return 1.0
        share = min(1.0, max(0.0, system - 1))
        if start == 0 and target == len(problem.parts) and target > 1:
            whole_1, whole_2 = self.whole_1, self.whole_2
        else:
            whole_1 = whole_2 = None
        difficulty = self.measure(problem, target, known)
        gain += self.magic_gain if magic else 0.0
        chances = [
            self._succeed(ability + gain, difficulty) if whole is None else whole
            for ability, whole in ((self.ability_1, whole_1), (self.ability_2, whole_2))
        ]
        slip = 0.0 if magic else self.slip
        return (chances[0] + (chances[1] - chances[0]) * share) * (1 - slip)

    def _succeed(self, ability: float, difficulty: float) -> float:
        if self.softness <= 0:
            return 1.0 if difficulty <= ability + 1e-9 else 0.0
        return 1 / (1 + math.exp(min(50.0, (difficulty - ability) / self.softness)))

    def count_words(
        self, problem: Problem, target: int, known: Mapping[int, int | None], chance: random.Random
    ) -> tuple[int, int]:
        """(words of a solution of q_target, words of reasoning that System 2 needs for it)."""
        todo = problem.parts[_last_known(target, known) : target]
        effort = sum(0.5 + part.difficulty for part in todo) or 0.5
        return (
            round(self.tokens_1 * effort * chance.uniform(0.8, 1.2)),
            round(self.tokens_2 * effort * chance.uniform(0.8, 1.2)),
        )


def draw(*key: object) -> random.Random:
    """Chance that depends on `key` alone, in any process."""
    return random.Random(repr(key))


def babble(words: int, chance: random.Random) -> str:
    """Text of exactly `words` words that says nothing."""
    if words <= 0:
        return ""
    start = chance.randrange(len(_VOCABULARY))
    cycle = _VOCABULARY[start:] + _VOCABULARY[:start]
    mark = f"({chance.randrange(10**6)})"
    return " ".join([mark, *(cycle[k % len(cycle)] for k in range(words - 1))])


def write_subproblem(problem: Problem, j: int, verb: str = "Find") -> str:
    """The text of the sub-problem that asks for q_j."""
    rule = _write_rule(problem.parts[j - 1], j)
    return f"{verb} ${_name(j)}$, which is ${rule}$, from ${_name(j - 1)}$."


def write_superfluous(j: int) -> str:
    """The text of a sub-problem that nobody needs."""
    return f"Find $r_{{{j}}}$, the sum of the digits of ${_name(j)}$."


def write_solution(name: str, value: int, words: int, chance: random.Random) -> str:
    r"""A solution of `words` words (six at least) that ends with its value in \boxed{}."""
    return f"{babble(max(1, words - 4), chance)} Hence ${name} = \\boxed{{{value}}}$."


def read_target(problem: Problem, text: str) -> int | None:
    """The part that a sub-problem asks for: n for the problem itself, 0 for something that is not
    needed, None for a text of another kind."""
    if MARKER.search(text):
        return len(problem.parts)
    match = _TARGET.search(text)
    if not match:
        return None
    j = int(match[2])
    return j if match[1] == "q" and 1 <= j <= len(problem.parts) else 0


def read_known(problem: Problem, context: str) -> dict[int, int | None]:
    r"""What a context, as `step.render_context` or `render_list` writes it, says of the parts.

    A part that is listed has the value of the last box of its entry, None where there is none.
    """
    known: dict[int, int | None] = {}
    for entry in _ENTRY.split(context)[1:]:
        subproblem, _, solution = entry.partition("\n")
        target = read_target(problem, subproblem)
        if target:
            known[target] = read_boxed(solution)
    return known


def read_boxed(text: str) -> int | None:
    """The number in the last box of a text."""
    boxes = _BOXED.findall(text)
    return int(boxes[-1]) % MODULUS if boxes else None


def judge_list(problem: Problem, items: Sequence[str]) -> int:
    """How good a candidate list is: 0 if it is perfect, less for every part missing or too many."""
    targets = [read_target(problem, item) for item in items]
    needed = set(range(1, len(problem.parts) + 1))
    useless = sum(1 for target in targets if not target)
    return -2 * len(needed - {target for target in targets if target}) - useless


def write_set(path: Path, examples: Sequence[dspy.Example]) -> str:
    """Write problems as JSON Lines, which the commands read; the path as they take it."""
    rows = [{name: each[name] for name in ("id", "problem", "answer")} for each in examples]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def _last_known(target: int, known: Mapping[int, int | None]) -> int:
    return max((j for j in known if j <= target), default=0)


def _name(j: int) -> str:
    return f"q_{{{j}}}"


def _write_rule(part: Part, j: int) -> str:
    return rf"\frac{{{2 * part.a} {_name(j - 1)} + {2 * part.b}}}{{2}} \bmod {MODULUS}"


@lru_cache(maxsize=4096)
def _make_problem(
    seed: int,
    number: int,
    parts: tuple[int, int],
    hard_share: float,
    easy: tuple[float, float],
    hard: tuple[float, float],
) -> Problem:
    chance = draw("problem", seed, number)
    values = [chance.randrange(1, MODULUS)]
    made = []
    for _ in range(chance.randint(*parts)):
        is_hard = chance.random() < hard_share
        part = Part(
            a=chance.randrange(2, 50),
            b=chance.randrange(1, MODULUS),
            difficulty=round(chance.uniform(*(hard if is_hard else easy)), 2),
        )
        made.append(part)
        values.append(part.apply(values[-1]))
    return Problem(seed, number, tuple(made), tuple(values))
