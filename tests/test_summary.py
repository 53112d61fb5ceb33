"""Summaries of runs, by hand and from bad records."""

import json
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest

from scale_dspy.evaluation.rollout import Rollout
from scale_dspy.evaluation.summary import collect, summarise, take_correct, take_tokens
from scale_dspy.utils.records import read_record
from scale_dspy.utils.statistics import compare, compare_tokens


def rollout(problem="a", sample=0, **fields):
    record = {
        "id": problem,
        "sample": sample,
        "answer": "7",
        "correct": True,
        "steps": [step(1, "x"), step(2, "y")],
        "usage": {"solve_1": used(2, 30), "solve_2": used(1, 70)},
        "seconds": 2.0,
        "error": None,
        **fields,
    }
    return read_record(Rollout, record)


def step(system, solution="x"):
    texts = {"subproblem": "s", "solution": solution, "reasoning": ""}
    return {"difficulty": 0.5, "system": system, **texts}


def used(calls, tokens):
    return {"calls": calls, "prompt_tokens": 1000, "completion_tokens": tokens}


def test_summary_by_hand():
    found = summarise(
        [
            rollout("b", 1, answer="8", correct=False, usage={"solve_2": used(1, 40)}, seconds=4),
            rollout("a", 1),
            rollout("b", 0, answer="8", correct=False, steps=[step(2)]),
            rollout("a", 0, answer="3", correct=False),
            rollout("a", 2),
        ]
    )
    intervals = found.pop("accuracy_interval"), found.pop("tok_interval")
    assert found == {
        "problems": 2,
        "samples": 2,
        "rollouts": 5,
        "accuracy": pytest.approx(1 / 3),
        "pass_at_k": 0.5,
        "maj_at_k": 0.5,
        "tok": (100 + 70) / 2,
        "tpi": 440 / 9,
        "hard_percent": pytest.approx(100 * 5 / 9),
        "calls": 13 / 5,
        "seconds": 12 / 5,
        "errors": 0,
        "unread": 0,
        "cut_off": 0,
        "replayed": 0,
        "drawn": 13,
        "unknown": 0,
        "prompt_tokens": 9000,
        "cached_tokens": 0,
        "response_tokens": 440,
        "reasoning_tokens": 0,
    }
    assert intervals[0][0] < 1 / 3 < intervals[0][1]
    assert intervals[1] is None


def test_failed_rollouts_are_wrong_and_their_known_tokens_count():
    records = [
        rollout(sample=0),
        rollout(sample=1, error="timed out", steps=[], usage={"solve_1": used(1, 20)}),
        rollout(sample=2, error="refused", correct=False, steps=None, usage={}, seconds=None),
    ]
    found = summarise(records)
    assert found["errors"] == 2
    assert found["accuracy"] == pytest.approx(1 / 3)
    assert found["tok"] == found["tpi"] == 60
    assert found["calls"] == found["seconds"] == 2
    assert found["maj_at_k"] == 1


def test_what_rollouts_do_not_give_is_none():
    found = summarise([rollout(error="refused", steps=[], usage=None, seconds=None)])
    unknown = {"tok", "tok_interval", "tpi", "hard_percent", "calls", "drawn", "seconds"}
    unknown |= {"prompt_tokens", "cached_tokens", "response_tokens", "reasoning_tokens"}
    assert {field for field, value in found.items() if value is None} == unknown
    assert found["accuracy"] == found["maj_at_k"] == 0


def test_summary_of_a_run_is_json_in_any_order_of_its_records():
    rng = np.random.default_rng(0)
    records = [
        rollout(f"p{i}", sample, correct=bool(rng.integers(2)), usage={"x": used(1, i + sample)})
        for i in range(20)
        for sample in range(4)
    ]
    found = summarise(records)
    assert summarise(records[::-1]) == found
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    low, high = found["tok_interval"]
    assert low < found["tok"] == 11 < high
    assert (found["samples"], found["rollouts"]) == (4, 80)


def test_two_runs_compare_from_their_records():
    records = [rollout(f"p{i}", sample) for i in range(3) for sample in range(2)]
    a = collect(records)
    b = collect(replace(record, correct=False) for record in records)
    assert compare(take_correct(a), take_correct(b)).effect.estimate == 1
    assert compare_tokens(take_tokens(a), take_tokens(b)).effect.estimate == 1


def test_summary_holds_no_solutions():
    def stream():
        for number in range(300):
            yield rollout(sample=number, steps=[step(1, f"{number:0200000}")])

    tracemalloc.start()
    summarise(stream())
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 5_000_000


def test_bad_records_are_named():
    with pytest.raises(ValueError, match="there are no problems"):
        summarise([])
    with pytest.raises(ValueError, match="record 2 repeats sample 0 of problem 'a'"):
        collect([rollout(), rollout()])
