"""Tune the prompts alone with dspy.GEPA, as for any DSPy program: only a metric is needed.

python optimize/prompts.py train.jsonl val.jsonl --api-base http://127.0.0.1:8000/v1
"""

from __future__ import annotations

import logging
from pathlib import Path

import dspy
from flags import make_parser

from scale_dspy import SCALE, connect
from scale_dspy.data.load import load
from scale_dspy.grading.metrics import make_metric


def main() -> None:
    parser = make_parser(__doc__, train="to reflect on", val="to choose on")
    parser.add_argument("--budget", type=int, help="response tokens a problem")
    parser.add_argument("--rollouts", type=int, default=200, help="runs that GEPA may make")
    parser.add_argument("--out", type=Path, default=Path("prompts.json"))
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    program = SCALE(modes=arguments.modes)
    lm = connect(arguments.model, arguments.api_base)
    gepa = dspy.GEPA(
        metric=make_metric(budget=arguments.budget, feedback=True),
        max_metric_calls=arguments.rollouts,
        reflection_lm=lm.copy(temperature=1.0, max_tokens=8192),
        num_threads=64,
    )
    with dspy.context(lm=lm):
        tuned = gepa.compile(
            program,
            trainset=load(arguments.train, limit=arguments.limit),
            valset=load(arguments.val, limit=arguments.limit),
        )
    tuned.save(arguments.out)
    logging.info("%s is written", arguments.out)


if __name__ == "__main__":
    main()
