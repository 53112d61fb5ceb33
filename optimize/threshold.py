"""Tune the thresholds alone: the exact frontier of a SCALE program, and the point that is kept.

python optimize/threshold.py train.jsonl --api-base http://127.0.0.1:8000/v1 --budget 8000
"""

from __future__ import annotations

import logging
from pathlib import Path

import dspy
from flags import make_parser

from scale_dspy import SCALE, connect
from scale_dspy.data.load import load
from scale_dspy.tuning.threshold_search import ThresholdSearch


def main() -> None:
    parser = make_parser(__doc__, data="problems to choose on; keep the test set out")
    parser.add_argument("--budget", type=int, help="response tokens a problem, on average")
    parser.add_argument("--out", type=Path, default=Path("threshold.json"))
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    search = ThresholdSearch(budget=arguments.budget, out=arguments.out.with_suffix(".walks"))
    with dspy.context(lm=connect(arguments.model, arguments.api_base)):
        tuned = search.compile(
            SCALE(modes=arguments.modes), trainset=load(arguments.data, limit=arguments.limit)
        )
    tuned.save(arguments.out)
    logging.info("%s: %s, split %s", arguments.out, tuned.threshold, tuned.split)


if __name__ == "__main__":
    main()
