"""Labels by agreement, and scores measured by hand, by brute force and by their invariances."""

from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scale_dspy.grading.labels import Label, make_label, measure_auroc, measure_scores

FEW = 200  # resamples, where their noise does not matter

some = settings(max_examples=60)
pairs = st.lists(st.tuples(st.integers(-50, 50), st.booleans()), max_size=30)
scored = st.lists(
    st.tuples(st.integers(0, 100), st.booleans(), st.sampled_from("abcde")), min_size=1, max_size=30
)


def label(difficulty: float, hard: bool, problem: str = "p", number: int = 0) -> Label:
    return Label(problem, f"s{number}", difficulty, not hard, "1", "2" if hard else "1")


def unzip(found: list[tuple[int, bool]]) -> tuple[list[float], list[bool]]:
    return [float(score) for score, _ in found], [hard for _, hard in found]


def count_pairs(scores: list[float], hard: list[bool]) -> float | None:
    high = [score for score, is_hard in zip(scores, hard, strict=True) if is_hard]
    low = [score for score, is_hard in zip(scores, hard, strict=True) if not is_hard]
    wins = [(a > b) + (a == b) / 2 for a, b in itertools.product(high, low)]
    return sum(wins) / len(wins) if wins else None


# ---- labels


@pytest.mark.parametrize(
    ("first", "second", "alike"),
    [
        (r"So $q = \boxed{7}$.", r"We get $\boxed{007}$.", True),
        (r"\boxed{7}", r"\boxed{8}", False),
        (r"\boxed{x = 7}", r"The answer is 7.", True),
        (r"\boxed{\frac{1}{2}}", r"\boxed{0.5}", True),
        (r"\boxed{\frac{1}{2}}", r"\boxed{1}", False),
        (r"\boxed{7}", "It cannot be found.", False),
        ("No.", "No.", False),
        ("", "", False),
    ],
)
def test_results_that_agree_make_a_sub_problem_easy(first: str, second: str, alike: bool) -> None:
    made = make_label("p", "s", 0.25, first, second)
    assert (made.problem, made.subproblem, made.difficulty) == ("p", "s", 0.25)
    assert made.alike is alike


def test_a_label_keeps_both_results() -> None:
    made = make_label("p", "s", 0.5, r"\boxed{7}", "It cannot be found.")
    assert (made.result_1, made.result_2) == ("7", None)


# ---- AUROC


@some
@given(pairs)
def test_auroc_counts_pairs(found: list[tuple[int, bool]]) -> None:
    scores, hard = unzip(found)
    area, expected = measure_auroc(scores, hard), count_pairs(scores, hard)
    assert area == expected if expected is None else area == pytest.approx(expected)


@some
@given(pairs)
def test_auroc_knows_only_the_order(found: list[tuple[int, bool]]) -> None:
    scores, hard = unzip(found)
    assert measure_auroc([math.exp(score / 10) for score in scores], hard) == measure_auroc(
        scores, hard
    )


@some
@given(pairs)
def test_auroc_of_negated_scores_is_the_rest(found: list[tuple[int, bool]]) -> None:
    scores, hard = unzip(found)
    area, negated = measure_auroc(scores, hard), measure_auroc([-score for score in scores], hard)
    if area is None:
        assert negated is None
    else:
        assert negated == pytest.approx(1 - area)


@pytest.mark.parametrize("hard", [[], [True], [True, True], [False, False]])
def test_auroc_needs_both_kinds(hard: list[bool]) -> None:
    assert measure_auroc([0.5] * len(hard), hard) is None


# ---- reports


def test_a_report_by_hand() -> None:
    labels = [
        label(0.2, False, "a"),
        label(0.3, False, "a"),
        label(0.3, True, "b"),
        label(0.9, True, "c"),
    ]
    report = measure_scores(labels, resamples=FEW)
    assert (report["count"], report["problems"], report["share_hard"]) == (4, 3, 0.5)
    assert report["auroc"] == (1 + 0.5 + 1 + 1) / 4
    assert [(each["high"], each["count"], each["share_hard"]) for each in report["bins"]] == [
        (0.2, 1, 0.0),
        (0.3, 2, 0.5),
        (0.9, 1, 1.0),
    ]
    assert report["bins"][1]["mean_score"] == pytest.approx(0.3)
    assert report["calibration_error"] == pytest.approx((0.2 + 2 * 0.2 + 0.1) / 4)
    assert report["brier"] == pytest.approx((0.04 + 0.09 + 0.49 + 0.01) / 4)


def test_bins_close_above_and_the_first_holds_zero() -> None:
    scores = [0.0, 0.1, 0.1000001, 0.3, 0.7, 1.0]
    report = measure_scores([label(score, False) for score in scores])
    assert [(each["low"], each["count"]) for each in report["bins"]] == [
        (0.0, 2),
        (0.1, 1),
        (0.2, 1),
        (0.6, 1),
        (0.9, 1),
    ]


@some
@given(scored)
def test_a_report_is_json_and_within_its_bounds(found: list[tuple[int, bool, str]]) -> None:
    labels = [label(score / 100, hard, name) for score, hard, name in found]
    report = measure_scores(labels, resamples=50)
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    assert sum(each["count"] for each in report["bins"]) == report["count"] == len(labels)
    assert all(0 <= report[name] <= 1 for name in ("share_hard", "calibration_error", "brier"))
    if report["auroc_interval"] is not None:
        low, high = report["auroc_interval"]
        assert report["auroc"] is not None
        assert 0 <= low <= report["auroc"] <= high <= 1


def test_the_interval_is_fixed_by_its_seed_and_widens_with_alike_sub_problems() -> None:
    rng = np.random.default_rng(0)
    labels = []
    for problem in range(40):
        hard = bool(rng.random() < 0.5)
        score = float(np.clip(rng.normal(0.6 if hard else 0.4, 0.2), 0, 1))
        labels += [label(score, hard, str(problem), number) for number in range(10)]
    clustered = measure_scores(labels, resamples=FEW)
    assert measure_scores(labels, resamples=FEW) == clustered
    scattered = [Label(f"{n}", *list(vars(each).values())[1:]) for n, each in enumerate(labels)]
    apart = measure_scores(scattered, resamples=FEW)
    assert apart["auroc"] == clustered["auroc"]
    widths = [report["auroc_interval"] for report in (clustered, apart)]
    assert all(widths)
    (low, high), (inner_low, inner_high) = widths
    assert high - low > 2 * (inner_high - inner_low)


def test_an_interval_needs_two_problems() -> None:
    assert measure_scores([label(0.2, False), label(0.8, True)])["auroc_interval"] is None


@pytest.mark.parametrize("score", [-0.1, 1.1, float("nan")])
def test_a_score_is_a_number_from_0_to_1(score: float) -> None:
    with pytest.raises(ValueError, match="from 0 to 1"):
        measure_scores([label(score, True)])


def test_no_labels_are_an_error() -> None:
    with pytest.raises(ValueError, match="no labels"):
        measure_scores([])
