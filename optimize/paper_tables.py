"""The runs behind the paper's Table 1, Table 2 and Figure 2 for one model, in one command.

    python optimize/paper_tables.py --api-base http://127.0.0.1:8000/v1 --out runs/paper

A finished run is not repeated, so the same command goes on after an interruption. Runs that begin
with the same requests (the same decompositions at another threshold) share their replies through
the cache.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

from flags import make_parser

from scale_dspy import SCALE, connect
from scale_dspy.data.load import load
from scale_dspy.evaluation.description import describe_run
from scale_dspy.evaluation.folder import name_folder
from scale_dspy.evaluation.runner import evaluate
from scale_dspy.method import Solver
from scale_dspy.methods import METHODS, make_program

TABLE_1 = tuple(name for name, method in METHODS.items() if method.in_table)
TABLE_2 = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
FIGURE_2 = (4096, 8192, 16384, 32768)  # System 2's max_tokens; System 1's stays as it is


def plan_runs(style: str) -> Iterator[tuple[str, str, Solver, tuple[str, ...]]]:
    """The folder name, the method, the program and the sets of each run."""
    everywhere, aime = ("aime24", "aime25", "amc23"), ("aime24", "aime25")
    # The published tables come from code that rates all sub-problems before any is solved.
    scale = SCALE(assess="upfront", modes=style)
    for method in TABLE_1:
        program = scale if method == "scale" else make_program(method, modes=style)
        yield f"table1-{method}", method, program, everywhere
    for tau in TABLE_2:
        yield f"table2-tau{tau}", "scale", SCALE(tau, assess="upfront", modes=style), aime
    for limit in FIGURE_2:
        capped = SCALE(assess="upfront", system_2_cap=limit, modes=style)
        yield f"figure2-{limit}", "scale", capped, aime


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--data", nargs="+", help="these sets only, or other ones instead")
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--threads", type=int, default=64)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--out", type=Path, default=Path("runs/paper"))
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    lm = connect(arguments.model, arguments.api_base, seed=arguments.seed)
    for name, method, program, sets in plan_runs(arguments.modes):
        for data in arguments.data or sets:
            examples = load(data, limit=arguments.limit)
            samples = arguments.samples
            summary = evaluate(
                program,
                examples,
                lm,
                arguments.out / name_folder(data, name),
                description=describe_run(program, method, data, examples, lm, samples),
                samples=samples,
                threads=arguments.threads,
            )
            tokens = f"{summary['tok']:,.0f} tokens" if summary["tok"] is not None else ""
            logging.info("%-8s %-20s %5.1f %%  %s", data, name, 100 * summary["accuracy"], tokens)


if __name__ == "__main__":
    main()
