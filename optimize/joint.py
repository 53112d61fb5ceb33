"""Tune thresholds and prompts together, and write the prompts for people and other runtimes.

    python optimize/joint.py train.jsonl val.jsonl --api-base http://127.0.0.1:8000/v1 \
        --budget 8000 --cost-limit 20000000 --out optimize/programs/qwen3-32b/gepa.json
"""

from __future__ import annotations

import json
import logging
from pathlib import Path

from flags import make_parser

from scale_dspy import SCALE, connect
from scale_dspy.data.load import load
from scale_dspy.export.write import write_export
from scale_dspy.program import save_program
from scale_dspy.tuning import OPTIMIZERS
from scale_dspy.tuning.joint import compile_program
from scale_dspy.tuning.prompt_optimizers import Plan


def main() -> None:
    parser = make_parser(__doc__, train="to tune prompts on", val="to choose on")
    parser.add_argument("--optimizer", default="gepa", choices=OPTIMIZERS)
    parser.add_argument("--candidates", type=int, default=8)
    parser.add_argument("--budget", type=int, help="response tokens a problem, on average")
    parser.add_argument("--rollouts", type=int, default=200)
    parser.add_argument("--cost-limit", type=int, help="response tokens of the whole compile")
    parser.add_argument("--out", type=Path, default=Path("joint.json"))
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    out: Path = arguments.out
    out.parent.mkdir(parents=True, exist_ok=True)
    tuned = compile_program(
        SCALE(candidates=arguments.candidates, modes=arguments.modes),
        load(arguments.train, limit=arguments.limit),
        load(arguments.val, limit=arguments.limit),
        connect(arguments.model, arguments.api_base),
        out.with_suffix(".compile"),
        Plan(
            optimizer=arguments.optimizer,
            budget=arguments.budget,
            rollouts=arguments.rollouts,
            cost_limit=arguments.cost_limit,
        ),
        names=(arguments.train, arguments.val),
    )
    save_program(tuned, out)
    write_export(tuned, out.with_suffix(".md"), "markdown")
    write_export(tuned, out.with_suffix(".messages.json"), "messages")
    logging.info("%s: %s", out, json.dumps(tuned.record, indent=2))


if __name__ == "__main__":
    main()
