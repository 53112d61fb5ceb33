"""The weights of an estimate fitted to drafts: what few labels move, and when a fit is dropped."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scale_dspy import SCALE
from scale_dspy.evaluation.calibration import (
    FEWEST,
    FOLDS,
    assign_folds,
    estimate_unseen,
    fit_estimate,
)
from scale_dspy.export.portable_json import export_messages
from scale_dspy.grading.labels import measure_auroc
from scale_dspy.program import load_program
from scale_dspy.stages.estimate import FEATURES, PLAIN, TYPICAL, Estimate, measure_draft
from scale_dspy.tuning.threshold_search import change

Drafts = tuple[list[dict[str, float]], list[bool], list[str]]


def draw(count: int, seed: int, truth: Estimate, each: int = 2) -> Drafts:
    """Drafts, `each` a problem, that are wrong as often as the true estimate says."""
    chance = random.Random(seed)
    drafts, wrong, groups = [], [], []
    for number in range(count):
        features = {
            "length": chance.uniform(0.6, 1.0),
            "cut_off": float(chance.random() < 0.1),
            "unreadable": float(chance.random() < 0.1),
            "mean": chance.expovariate(10),
            "window": chance.expovariate(2),
            "last": chance.expovariate(10),
        }
        drafts.append(features)
        wrong.append(chance.random() < truth(features))
        groups.append(f"problem {number // each}")
    return drafts, wrong, groups


def measure(estimate: Estimate, seen: Drafts) -> float:
    """The mean log loss in nats."""
    drafts, wrong, _ = seen
    chances = [min(max(estimate(draft), 1e-3), 1 - 1e-3) for draft in drafts]
    losses = [-math.log(p if bad else 1 - p) for p, bad in zip(chances, wrong, strict=True)]
    return sum(losses) / len(losses)


# A model whose sure passages are the wrong ones, and which is wrong more often than not.
ODD = Estimate({"length": -10.0, "mean": 12.0}, 1.0)
BLIND = Estimate({}, 0.0)


def test_a_fit_to_many_drafts_finds_the_truth() -> None:
    fitted = fit_estimate(*draw(2000, 0, ODD))
    new = draw(2000, 1, ODD)
    assert measure(fitted, new) < measure(ODD, new) + 0.01
    assert measure(fitted, new) < measure(Estimate(), new) - 0.2
    assert fitted.weights["disagreement"] == PLAIN["disagreement"]  # which no draft has shown


@pytest.mark.parametrize("seed", range(12))
def test_thirty_labels_do_not_lead_astray(seed: int) -> None:
    """Whatever thirty labels show, new drafts are told hardly worse than by the plain weights, and
    where the plain ones are far off, better."""
    for truth, worse in ((Estimate(), 0.06), (BLIND, 0.02), (ODD, -0.2)):
        fitted = fit_estimate(*draw(30, seed, truth))
        new = draw(1000, 99, truth)
        assert measure(fitted, new) < measure(Estimate(), new) + worse
        assert all(abs(weight) < 40 for weight in fitted.weights.values())


def test_a_fit_that_held_out_problems_do_not_bear_out_is_dropped() -> None:
    drafts, wrong, groups = draw(60, 3, Estimate(), each=1)
    kept = fit_estimate(drafts, wrong, groups)
    assert kept == Estimate()
    assert kept == fit_estimate(drafts, wrong, groups, kept)
    other = fit_estimate(*draw(60, 3, ODD, each=1))
    assert other != Estimate()


def test_drafts_of_a_problem_are_held_out_together() -> None:
    """Features that name the problem tell its other drafts, and nothing of another problem's."""
    chance = random.Random(0)
    drafts, wrong, groups = [], [], []
    for number in range(30):
        place, bad = chance.random(), chance.random() < 0.5
        for _ in range(8):
            drafts.append({"length": place, "mean": place * place})
            wrong.append(bad)
            groups.append(str(number))
    auroc = measure_auroc(estimate_unseen(drafts, wrong, groups), wrong)
    assert auroc is not None
    assert auroc < 0.7
    folds = assign_folds(groups)
    assert {len({int(folds[k]) for k in range(n, n + 8)}) for n in range(0, 240, 8)} == {1}
    assert set(folds.tolist()) == set(range(FOLDS))


def test_too_few_drafts_and_one_kind_of_them_change_nothing() -> None:
    drafts, wrong, groups = draw(FEWEST - 1, 0, ODD)
    assert fit_estimate(drafts, wrong, groups) == Estimate()
    drafts, wrong, groups = draw(50, 0, ODD)
    assert fit_estimate(drafts, [True] * 50, groups) == Estimate()
    assert fit_estimate(drafts, wrong, ["one problem"] * 50) == Estimate()
    assert fit_estimate([], [], []) == Estimate()
    assert fit_estimate(drafts, wrong, groups, BLIND) != Estimate()


@given(
    st.lists(
        st.tuples(
            st.dictionaries(st.sampled_from(FEATURES), st.floats(0, 50)),
            st.booleans(),
            st.integers(0, 9),
        ),
        min_size=20,
        max_size=60,
    )
)
def test_a_fit_to_any_drafts_is_finite(rows: list[tuple[dict[str, float], bool, int]]) -> None:
    drafts, wrong, groups = zip(*rows, strict=True)
    fitted = fit_estimate(drafts, wrong, [str(group) for group in groups])
    for draft in drafts:
        assert 0 <= fitted(draft) <= 1


def test_plain_weights_need_no_fitting() -> None:
    plain = Estimate()
    sound = measure_draft(60, 512, cut_off=False, readable=True, logprobs=[-0.05] * 60)
    assert plain(sound) < 0.3
    worse = {
        "longer": measure_draft(400, 512, cut_off=False, readable=True, logprobs=[-0.05] * 400),
        "cut off": measure_draft(512, 512, cut_off=True, readable=False, logprobs=[-0.05] * 512),
        "unsure": measure_draft(60, 512, cut_off=False, readable=True, logprobs=[-1.5] * 60),
        "alone": {**sound, "disagreement": 0.75},
    }
    for name, features in worse.items():
        assert plain(features) > plain(sound) + 0.05, name
    assert plain({}) == plain(TYPICAL)
    assert plain(measure_draft(60, 512, cut_off=False, readable=True)) < 0.3  # no log-probabilities


def test_weights_are_saved_copied_and_exported(tmp_path: Path) -> None:
    program = SCALE(assess="draft")
    program.estimate = fit_estimate(*draw(200, 0, ODD))
    assert program.estimate != Estimate()
    program.save(tmp_path / "x.json")
    again = SCALE()
    again.load(tmp_path / "x.json")
    copies = [
        load_program(tmp_path / "x.json"), again, program.deepcopy(), program.reset_copy(),
        change(program, {"votes": 2}), program.at(0.1),
    ]  # fmt: skip
    draft = {"length": 0.7, "mean": 0.3}
    for copy in copies:
        assert copy.estimate == program.estimate
        assert copy.estimate(draft) == program.estimate(draft)
    copies[2].estimate.set({}, 0.0)
    assert program.estimate != copies[2].estimate
    shown = json.loads(json.dumps(export_messages(program)))["routing"]["drafts"]
    assert Estimate(shown["weights"], shown["bias"]) == program.estimate


@pytest.mark.parametrize("bad", [{"size": 1.0}, {"mean": math.nan}, {"mean": "1"}, {"mean": True}])
def test_bad_weights_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"features|finite"):
        Estimate(bad)
    with pytest.raises(ValueError, match="finite"):
        Estimate({}, math.inf)
