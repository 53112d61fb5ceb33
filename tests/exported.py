"""What the tests of exports share: a tuned program, its record, texts that are hard to write."""

from __future__ import annotations

from typing import Any

import dspy
from hypothesis import strategies as st

from scale_dspy import SCALE

PROBLEM = "Let $x = \\frac{1}{2}$.\n\nFind {x}."
NAMES = {
    "decompose.propose": "decompose",
    "decompose.select": "select",
    "assess.rate": "assess",
    "assess.review": "review",
    "solve.system_1": "solve_1",
    "solve.system_2": "solve_2",
    "solve.whole": "whole",
}
DEMOS: dict[str, list[dict[str, str]]] = {
    "decompose.propose": [{"problem": PROBLEM, "subproblems": "1. Find $y$.\n2. Find $x$."}],
    "decompose.select": [{"problem": PROBLEM, "candidates": "Candidate 1\n1. A", "choice": "1"}],
    "assess.rate": [
        {"problem": PROBLEM, "context": "", "subproblem": "Find ```x```.", "difficulty": "0.25"},
        {"problem": PROBLEM, "difficulty": "0.5"},
    ],
    "solve.system_1": [
        {
            "problem": PROBLEM,
            "context": "1. A\nB",
            "subproblem": "C",
            "draft": "",
            "solution": r"\boxed{\frac{1}{2}}",
        }
    ],
    "assess.review": [{"problem": PROBLEM, "draft": "So {7}.", "doubt": "0.9"}],
    "solve.whole": [{"problem": PROBLEM, "solution": r"\boxed{\frac{1}{2}}"}],
    "solve.system_2": [{"subproblem": "Half {a} demo", "solution": "\\boxed{}"}],
}
RECORD: dict[str, Any] = {
    "optimizer": "gepa",
    "model": "hosted_vllm/Qwen/Qwen3-8B",
    "data": {
        "train": {"name": "limo", "digest": "abc123", "problems": 40},
        "val": {"name": "aime_mix", "digest": "def456", "problems": 30},
    },
    "budget": 2_000_000,
    "seed": 3,
    "before": {
        "threshold": 0.5,
        "split": 0.0,
        "accuracy": 0.4,
        "accuracy_interval": [0.3, 0.5],
        "tok": 9000.4,
        "tok_interval": [8000, 10000],
        "problems": 30,
    },
    "after": {
        "threshold": 0.42,
        "split": 0.1,
        "accuracy": 0.5,
        "accuracy_interval": [0.4, 0.6],
        "tok": 8000.0,
        "tok_interval": None,
        "problems": 30,
    },
    "cost": {"response_tokens": 1_900_000, "prompt_tokens": 50_000, "calls": 900, "seconds": 61.5},
    "stages": [{"name": "prompts", "kept": True, "accuracy": 0.45, "tok": 8500}],
    "notes": ["stopped early | at <b>round 3</b>"],
}
# fmt: off
PIECES = [
    r"\frac{a}{b}", "{problem}", "{", "}}", "`", "```", "~~~", "\n", "\n\n", "Problem:\n", " ",
    "\\", "| --- |", "<b>", "$x$", "1. ", "%s", "\t", "𝜃", "é",
]
# fmt: on
texts = st.one_of(st.lists(st.sampled_from(PIECES)).map("".join), st.text(max_size=20))


def tune(program: SCALE) -> SCALE:
    """The program with rewritten instructions and demos in every stage."""
    for name, predictor in program.named_predictors():
        old = predictor.signature.instructions
        text = f"Tuned {{{name}}} with ``` and \\frac{{a}}{{b}}.\n\n  {old}\n"
        predictor.signature = predictor.signature.with_instructions(text)
        predictor.demos = [dspy.Example(**demo) for demo in DEMOS[name]]
    return program
