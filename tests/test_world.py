"""The world of the fake server: its problems, what each system can solve, what it plans."""

from __future__ import annotations

import pytest

from scale_dspy import Step
from scale_dspy.step import render_context
from scale_dspy.utils.lists import render_list
from tests.fake.prompts import count_tokens
from tests.world import (
    MODULUS,
    World,
    babble,
    draw,
    judge_list,
    read_boxed,
    read_known,
    read_target,
    write_subproblem,
)


def test_problems_depend_on_seed_and_number_alone() -> None:
    world = World(seed=3)
    problem = world.problem(17)
    assert problem == World(seed=3, noise=0.4, ability_1=0.1).problem(17)
    assert problem.text != World(seed=4).problem(17).text
    assert world.find(f"Problem:\n{problem.text}\n\nSolve it.") == problem
    assert World(seed=0).find(problem.text) == problem  # the marker names the seed
    assert world.find("What is 2 + 2?") is None


def test_examples_are_as_evaluation_reads_them() -> None:
    world = World()
    examples = world.problems(40, start=5)
    assert len({example.id for example in examples}) == 40
    for number, example in enumerate(examples, 5):
        problem = world.problem(number)
        assert example.inputs().keys() == ["problem"]
        assert example.answer == str(problem.values[-1])
        assert example.answers == [example.answer]
        assert example.kind == "integer"
        assert 2 <= len(problem.parts) <= 8
        assert all(0 <= d <= 1 for d in problem.difficulties)
        assert all(0 <= value < 1000 for value in problem.values)


def test_a_wrong_result_spoils_the_chain() -> None:
    world = World(parts=(3, 3))
    problem = world.problem(0)
    first, second = (write_subproblem(problem, j) for j in (1, 2))
    for found, spoilt in ((problem.values[1], False), (problem.values[1] + 1, True)):
        steps = [Step(first, 0.1, 1, f"Clearly $\\boxed{{{found}}}$.", "", 9)]
        known = read_known(problem, render_context(steps))
        assert known == {1: found}
        target = read_target(problem, second)
        assert target == 2
        value = world.solve(problem, target, known, 2, draw(0))
        assert (value != problem.values[2]) is spoilt


def test_a_list_without_results_makes_parts_known_but_not_their_values() -> None:
    problem = World(parts=(4, 4)).problem(1)
    items = [write_subproblem(problem, j) for j in (1, 2)]
    assert read_known(problem, render_list(items)) == {1: None, 2: None}


def test_each_system_solves_what_it_is_able_to() -> None:
    world = World(parts=(1, 1), ability_1=0.4, ability_2=0.8)
    for number in range(60):
        problem = world.problem(number)
        (difficulty,) = problem.difficulties
        for system, ability in ((1, 0.4), (2, 0.8)):
            right = world.solve(problem, 1, {}, system, draw(number)) == problem.values[1]
            assert right is (difficulty <= ability)


def test_parts_solved_in_one_go_are_harder() -> None:
    world = World(parts=(4, 4), merge=0.2)
    problem = world.problem(2)
    d1, d2, *_ = problem.difficulties
    assert world.measure(problem, 2, {}) == pytest.approx(max(d1, d2) + 0.2)
    assert world.measure(problem, 2, {1: 5}) == d2
    assert world.measure(problem, 2, {2: 5}) < 0.1


@pytest.mark.parametrize(("chance", "right"), [(1.0, True), (0.0, False)])
def test_a_problem_solved_whole_may_have_a_chance_of_its_own(chance: float, right: bool) -> None:
    world = World(parts=(5, 5), whole_1=chance, whole_2=chance)
    problem = world.problem(0)
    for system in (1, 2):
        assert (world.solve(problem, 5, {}, system, draw(1)) == problem.values[5]) is right


def test_softness_slips_and_magic() -> None:
    world = World(parts=(1, 1), hard_share=1, ability_1=0.3, softness=0.2, slip=0.1, magic="m")
    problem = world.problem(0)
    shares = {
        magic: sum(
            world.solve(problem, 1, {}, 1, draw(k), magic=magic) == problem.values[1]
            for k in range(400)
        )
        for magic in (False, True)
    }
    assert 20 < shares[False] < shares[True] < 380


def test_candidate_lists_are_as_bad_as_ordered() -> None:
    problem = World(parts=(5, 5)).problem(0)

    def count_bad(world: World, magic: bool = False) -> int:
        lists = (world.split(problem, draw(k), magic=magic) for k in range(200))
        return sum(judge_list(problem, items) < 0 for items in lists)

    assert count_bad(World()) == 0
    assert 60 < count_bad(World(lacking=0.3, superfluous=0.2)) < 140
    assert count_bad(World(lacking=1), magic=True) == 0
    lacking = World(lacking=1).split(problem, draw(1))
    excess = World(superfluous=1).split(problem, draw(1))
    assert (len(lacking), len(excess)) == (4, 6)
    candidates = [lacking, World().split(problem, draw(2)), excess]
    assert World().choose(problem, candidates, draw(0)) == 2
    unskilled = World(select_skill=0)
    assert {unskilled.choose(problem, candidates, draw(k)) for k in range(30)} == {1, 2, 3}


def test_ratings_scatter_around_the_truth() -> None:
    assert World().rate(0.62, draw(0)) == 0.62
    scores = [World(noise=0.1).rate(0.5, draw(k)) for k in range(200)]
    assert sum(scores) / 200 == pytest.approx(0.5, abs=0.03)
    assert all(0 <= World(noise=2).rate(0.5, draw(k)) <= 1 for k in range(20))


@pytest.mark.parametrize("words", [0, 1, 7, 500])
def test_babble_has_the_words_it_should(words: int) -> None:
    assert count_tokens(babble(words, draw(0))) == words


def test_values_stay_below_the_modulus() -> None:
    assert read_boxed(f"$\\boxed{{{MODULUS - 1}}}$") == MODULUS - 1
