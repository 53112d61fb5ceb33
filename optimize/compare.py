"""Compare SCALE, tuned in several ways, with chain of thought, which is tuned too, in one table.

    python optimize/compare.py train.jsonl val.jsonl test.jsonl \
        --api-base http://127.0.0.1:8000/v1 --rollouts 200 --out runs/compare

Writes table.md and table.json after each row; the same command goes on after an interruption.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path

from flags import make_parser

from scale_dspy import SCALE, connect, modes
from scale_dspy.baselines import ChainOfThought
from scale_dspy.data.load import load
from scale_dspy.evaluation.runner import Progress
from scale_dspy.tuning import OPTIMIZERS
from scale_dspy.tuning.comparison_table import ROWS, render_rows
from scale_dspy.tuning.dspy_comparison import Contest, run_contest
from scale_dspy.tuning.prompt_optimizers import Plan


def main() -> None:
    parser = make_parser(__doc__, train="to tune on", val="to choose on", test="to compare on")
    parser.add_argument("--rows", nargs="+", default=ROWS, choices=ROWS)
    parser.add_argument(
        "--optimizer", default="gepa", choices=OPTIMIZERS, help="of scale+joint and cot+optimizer"
    )
    parser.add_argument("--candidates", type=int, default=8)
    parser.add_argument("--cap", type=int, help="response tokens of a System 2 call, in all rows")
    parser.add_argument("--budget", type=int, help="response tokens a problem, on average")
    parser.add_argument("--rollouts", type=int, default=200, help="metric calls of GEPA, each row")
    parser.add_argument("--cost-limit", type=int, help="response tokens of the joint compile")
    parser.add_argument("--samples", type=int, default=1, help="rollouts of a test problem")
    parser.add_argument("--share", action="store_true", help="ReAnchor reuses the search's replies")
    parser.add_argument("--threads", type=int, default=64)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--out", type=Path, default=Path("runs/compare"))
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    logging.getLogger("LiteLLM").setLevel(logging.WARNING)
    style, cap = arguments.modes, arguments.cap
    limits = {"solve_2": {"max_tokens": cap}} if cap else {}
    train, val, test = (
        load(name, limit=arguments.limit)
        for name in (arguments.train, arguments.val, arguments.test)
    )
    contest = Contest(
        SCALE(candidates=arguments.candidates, system_2_cap=cap, modes=style),
        ChainOfThought(modes=modes(style, **limits)),
        train,
        val,
        test,
        connect(arguments.model, arguments.api_base, seed=arguments.seed),
        arguments.out,
        Plan(
            optimizer=arguments.optimizer,
            budget=arguments.budget,
            rollouts=arguments.rollouts,
            cost_limit=arguments.cost_limit,
            threads=arguments.threads,
        ),
        samples=arguments.samples,
        share=arguments.share,
    )
    rows = run_contest(contest, arguments.rows, make_report())
    logging.info("\n%s", render_rows(rows))


def make_report() -> Callable[[str, Progress], None]:
    """Log the progress of a row, at most every ten seconds and at its end."""
    last = 0.0

    def report(name: str, progress: Progress) -> None:
        nonlocal last
        if progress.done < progress.total and time.monotonic() - last < 10:
            return
        last = time.monotonic()
        logging.info(
            "%s: %d of %d, %d right, %s tokens, %d errors",
            name,
            progress.done,
            progress.total,
            progress.right,
            f"{progress.tokens:,}",
            progress.errors,
        )

    return report


if __name__ == "__main__":
    main()
