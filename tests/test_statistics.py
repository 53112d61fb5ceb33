"""Estimates by hand and by brute force, intervals that hold what they should."""

import itertools
import math
import tracemalloc
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scale_dspy.grading.answers import vote
from scale_dspy.utils.statistics import (
    Interval,
    bound_accuracy,
    bound_tokens,
    compare,
    compare_tokens,
    maj_at_k,
    pass_at_k,
)

FEW = 200  # resamples, where their noise does not matter

some = settings(max_examples=40)
grades = st.lists(st.integers(0, 1), min_size=1, max_size=5)
runs = st.dictionaries(st.text(max_size=3), grades, min_size=1, max_size=15)
counts = st.lists(st.integers(0, 10**6), min_size=1, max_size=3)


def name(values):
    return {str(number): value for number, value in enumerate(values)}


def draw_run(rng, problems, accuracy, samples=8, concentration=0.5):
    """A run of problems that are mostly either easy or hard."""
    chances = rng.beta(accuracy * concentration, (1 - accuracy) * concentration, problems)
    return (rng.random((problems, samples)) < chances[:, None]).astype(float)


# Estimates.


def test_average_is_over_problems_whatever_their_number_of_samples():
    assert bound_accuracy({"a": [1, 1, 1, 1], "b": [0], "c": [1, 0]}).estimate == 0.5
    assert bound_accuracy(np.array([[1, 0], [1, 1]])).estimate == 0.75


def test_pass_at_k_is_averaged_and_exact_for_many_samples():
    assert pass_at_k({"a": [1, 0, 0, 0], "b": [0, 0], "c": [1, 1, 1]}, 2) == 0.5
    rest = Fraction(math.comb(1990, 1000), math.comb(2000, 1000))
    assert pass_at_k({"a": [1] * 10 + [0] * 1990}, 1000) == float(1 - rest)


@some
@given(grades.flatmap(lambda found: st.tuples(st.just(found), st.integers(1, len(found)))))
def test_pass_at_k_is_the_share_of_subsets_with_a_right_sample(case):
    found, k = case
    subsets = list(itertools.combinations(found, k))
    share = sum(map(any, subsets)) / len(subsets)
    assert pass_at_k({"a": found}, k) == pytest.approx(share, abs=1e-12)


@pytest.mark.parametrize("k", [0, 3, -1])
def test_pass_at_k_names_the_possible_k(k):
    with pytest.raises(ValueError, match="k from 1 to 2"):
        pass_at_k({"a": [1, 1, 1], "b": [0, 1]}, k)


def test_majority_at_k_grades_the_winner():
    answers = {"a": ["7", "8", "7"], "b": ["1", "2", "2"], "c": [None, None], "d": [None, "5"]}
    correct = {"a": [1, 0, 1], "b": [1, 0, 0], "c": [0, 0], "d": [0, 1]}
    assert maj_at_k(answers, correct, vote) == 0.5


def test_majority_at_k_refuses_what_does_not_match():
    with pytest.raises(ValueError, match="only the first has 'b'"):
        maj_at_k({"a": ["1"], "b": ["1"]}, {"a": [1]}, vote)
    with pytest.raises(ValueError, match="'a' has 2 answers but 1 grades"):
        maj_at_k({"a": ["1", "2"]}, {"a": [1]}, vote)
    with pytest.raises(ValueError, match="gave '9', which nobody answered"):
        maj_at_k({"a": ["1"]}, {"a": [1]}, lambda answers: "9")


@pytest.mark.parametrize("estimate", [bound_accuracy, bound_tokens])
def test_nothing_to_estimate_is_said(estimate):
    for nothing in ({}, np.empty((0, 8))):
        with pytest.raises(ValueError, match="there are no problems"):
            estimate(nothing)
    with pytest.raises(ValueError, match="problem 'b' has no samples"):
        estimate({"a": [1], "b": []})


def test_values_that_are_no_grades_or_counts_are_refused():
    with pytest.raises(ValueError, match="'b' has a sample graded neither 0 nor 1"):
        bound_accuracy({"a": [1], "b": [1, 0.5]})
    for wrong in (-1, math.nan, math.inf):
        with pytest.raises(ValueError, match="'a' has a sample with no token count"):
            bound_tokens({"a": [wrong]})


# Intervals of one run.


@pytest.mark.parametrize("problems", [1, 5, 30])
def test_all_right_and_all_wrong_have_the_clopper_pearson_interval(problems):
    end = 0.025 ** (1 / problems)
    right = bound_accuracy(np.ones((problems, 8)))
    wrong = bound_accuracy(np.zeros((problems, 8)))
    assert right == Interval(1.0, pytest.approx(end, abs=0.02), 1.0)
    assert wrong == Interval(0.0, 0.0, pytest.approx(1 - end, abs=0.02))


def test_single_samples_have_the_clopper_pearson_interval():
    found = bound_accuracy(name([[1]] * 21 + [[0]] * 9))
    assert (found.low, found.high) == pytest.approx((0.5060, 0.8527), abs=0.01)


@some
@given(runs, st.randoms())
def test_accuracy_interval_never_claims_certainty_nor_depends_on_order(run, random):
    found = bound_accuracy(run, resamples=FEW)
    assert 0 <= found.low <= found.estimate <= found.high <= 1
    assert found.high - found.low > 0.05
    mean = np.mean([np.mean(samples) for samples in run.values()])
    assert found.estimate == pytest.approx(
        mean, rel=1e-12
    )  # sums in another order differ in the last bit
    shuffled = dict(random.sample(list(run.items()), len(run)))
    assert bound_accuracy(shuffled, resamples=FEW) == found
    assert bound_tokens(shuffled, resamples=FEW) == bound_tokens(run, resamples=FEW)


def test_right_and_wrong_exchanged_mirror_the_interval():
    run = draw_run(np.random.default_rng(2), 20, 0.7)
    found, mirrored = bound_accuracy(run), bound_accuracy(1 - run)
    assert (1 - mirrored.high, 1 - mirrored.low) == pytest.approx((found.low, found.high), abs=0.02)


def test_seed_decides():
    run = draw_run(np.random.default_rng(0), 30, 0.7)
    assert bound_accuracy(run, seed=1) == bound_accuracy(run, seed=1)
    assert bound_accuracy(run, seed=1) != bound_accuracy(run, seed=2)


@pytest.mark.parametrize("accuracy", [0.7, 0.97])
def test_accuracy_interval_holds_the_truth_as_often_as_it_says(accuracy):
    rng = np.random.default_rng(5)
    held = 0
    for seed in range(250):
        found = bound_accuracy(draw_run(rng, 30, accuracy), resamples=FEW, seed=seed)
        held += found.low <= accuracy <= found.high
    assert held / 250 >= 0.94


def test_token_interval_of_six_problems_spans_them():
    found = bound_tokens(np.array([[10], [20], [30], [40], [50], [60]]))
    assert found == Interval(35, 10, 60)


def test_token_interval_of_seven_problems_leaves_out_the_outer_subsets():
    values = [1, 2, 4, 8, 16, 32, 64]
    subsets = [each for size in range(1, 8) for each in itertools.combinations(values, size)]
    means = sorted(sum(subset) / len(subset) for subset in subsets)
    found = bound_tokens(name([value] for value in values))
    assert (found.low, found.high) == (means[2], means[-3])


@pytest.mark.parametrize("values", [[7], [1, 2, 3, 4, 5], [100] * 30, [100] * 30 + [1, 2, 3, 4]])
def test_tokens_that_hardly_differ_have_no_finite_interval(values):
    found = bound_tokens(np.array(values)[:, None])
    assert (found.low, found.high) == (0, math.inf)


def test_token_interval_holds_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(6)
    held = 0
    for seed in range(250):
        tokens = rng.lognormal(9, 0.3, (20, 1))
        found = bound_tokens(tokens, resamples=FEW, seed=seed)
        held += found.low <= math.exp(9 + 0.3**2 / 2) <= found.high
    assert 0.91 <= held / 250 <= 0.98


def test_token_interval_scales_with_its_unit():
    tokens = np.random.default_rng(7).lognormal(9, 0.5, (15, 3))
    found, doubled = bound_tokens(tokens), bound_tokens(2 * tokens)
    assert (doubled.low, doubled.high) == pytest.approx((2 * found.low, 2 * found.high))


def test_large_sets_take_little_memory():
    run = draw_run(np.random.default_rng(0), 1000, 0.7, samples=1)
    tracemalloc.start()
    compare(run, run[::-1], resamples=2000)
    bound_accuracy(run, resamples=2000)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 12_000_000  # all at once they would take 16 MB and more


# Comparisons.


def test_p_value_enumerates_the_signs_of_few_differences():
    a = {"a": [1], "b": [1], "c": [1], "d": [1, 1, 0, 0], "e": [0]}
    b = {"a": [0], "b": [0], "c": [0], "d": [1, 1, 1, 0], "e": [0]}
    found = compare(a, b)
    sums = [abs(x + y + z + w / 4) for x, y, z, w in itertools.product((1, -1), repeat=4)]
    assert found.p_value == sum(one >= 2.75 for one in sums) / 16
    assert (found.a, found.b, found.problems) == (0.7, 0.15, 5)
    assert found.effect.estimate == pytest.approx(0.55)


def test_p_value_of_many_differences_is_close_to_the_enumerated_one():
    differences = [1] * 11 + [0] * 4
    found = compare(name([[d] for d in differences]), name([[1 - d] for d in differences]))
    exact = 2 * sum(math.comb(15, k) for k in range(5)) / 2**15
    assert found.p_value == pytest.approx(exact, abs=0.015)


def test_equal_runs_do_not_differ_but_might_and_opposite_ones_might_agree():
    run = draw_run(np.random.default_rng(1), 30, 0.7)
    equal = compare(run, run)
    opposite = compare(np.ones((30, 8)), np.zeros((30, 8)), resamples=1999)
    assert (equal.p_value, equal.effect.estimate) == (1, 0)
    end = 1 - 0.025 ** (1 / 30)
    assert (equal.effect.low, equal.effect.high) == pytest.approx((-end, end), abs=0.01)
    assert opposite.effect.high == opposite.effect.estimate == 1
    assert 0.7 < opposite.effect.low < 0.8
    assert opposite.p_value == 1 / 2000


@some
@given(runs, st.data())
def test_comparison_is_bounded_and_mirrors_when_turned_round(run, data):
    other = {problem: data.draw(grades) for problem in run}
    there, back = compare(run, other, resamples=FEW), compare(other, run, resamples=FEW)
    assert -1 <= there.effect.low <= there.effect.estimate <= there.effect.high <= 1
    assert there.effect.high > there.effect.low
    assert 0 < there.p_value <= 1
    assert back.effect.estimate == pytest.approx(-there.effect.estimate)
    assert back.p_value == pytest.approx(there.p_value, abs=0.2)


def test_interval_and_p_value_agree():
    rng = np.random.default_rng(3)
    for _ in range(40):
        a, b = draw_run(rng, 12, 0.8, concentration=3), draw_run(rng, 12, 0.5, concentration=3)
        found = compare(a, b)
        holds_zero = found.effect.low <= 0 <= found.effect.high
        assert holds_zero == (found.p_value > 0.05) or 0.045 < found.p_value < 0.055


def test_difference_interval_holds_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(4)
    held = 0
    for seed in range(250):
        chances = rng.beta(2.1, 0.9, (20, 1))
        a, b = (rng.random((20, 8)) < chances for _ in range(2))
        effect = compare(a, b, resamples=FEW, seed=seed).effect
        held += effect.low <= 0 <= effect.high
    assert 0.92 <= held / 250 <= 0.995


@pytest.mark.parametrize("compare_runs", [compare, compare_tokens])
def test_problems_that_differ_are_named(compare_runs):
    a = {**name([[1]] * 10), "left": [1]}
    with pytest.raises(ValueError, match="only the first has 'left'; only the second has 'right'"):
        compare_runs(a, {**name([[1]] * 10), "right": [1]})
    with pytest.raises(ValueError, match=r"only the first has '0', '1', '2', '3', '4' and 5 more$"):
        compare_runs(a, {"left": [1]})


def test_runs_are_matched_by_id():
    assert compare({"a": [1], "b": [0]}, {"b": [0], "a": [1]}).p_value == 1


def test_tokens_compare_as_a_ratio_of_means():
    rng = np.random.default_rng(0)
    b = rng.lognormal(9, 0.5, (30, 8))
    found = compare_tokens(b * rng.lognormal(-0.7, 0.2, (30, 1)), b)
    assert found.effect.estimate == pytest.approx(found.a / found.b)
    assert found.effect.low < 0.5 < found.effect.high < 0.7
    assert found.p_value < 0.001


@some
@given(st.dictionaries(st.text(max_size=3), counts, min_size=1, max_size=15), st.data())
def test_token_ratio_lies_in_its_interval(run, data):
    other = {problem: data.draw(counts) for problem in run}
    if not any(map(any, other.values())):
        with pytest.raises(ValueError, match="second run has no tokens"):
            compare_tokens(run, other)
        return
    found = compare_tokens(run, other, resamples=FEW)
    assert 0 <= found.effect.low <= found.effect.estimate <= found.effect.high
    assert 0 < found.p_value <= 1
