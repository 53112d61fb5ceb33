"""Rollouts on several client machines, with Ray Data; they are the same as in one process.

One process of Python can keep about a hundred rollouts going; where the servers take more, Ray
spreads the pairs over worker processes, on one machine or many. Each rollout comes back as it ends,
and only the driver writes files. If RAY_ADDRESS is set, the cluster there is used; otherwise Ray is
started here and ended again. Each machine needs scale_dspy installed, and keeps a cache of its own.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any

import dspy

from scale_dspy.evaluation.rollout import Rollout
from scale_dspy.evaluation.runner import HOPELESS, Draw, RolloutEngine, solve_once, watch_failures
from scale_dspy.lm.backend import Backend
from scale_dspy.lm.event_loop import run
from scale_dspy.method import Solver
from scale_dspy.utils.extras import advise_install
from scale_dspy.utils.records import parse_record, write_record

FEWEST = 8  # rollouts at once for which another worker process is worth its memory


def make_engine(program: Solver, backend: Backend, threads: int = 64) -> RolloutEngine:
    """An engine for `evaluate` and `make_traces`.

    Args:
        program: as for `evaluate`; workers get it in memory.
        backend: the server, as each worker reaches it.
        threads: rollouts at work at once, over all workers.

    Raises:
        ValueError: Ray is not installed.
    """
    ray = _import_ray()

    def finish(draws: Sequence[Draw], keep: Callable[[Rollout], None]) -> None:
        if not draws:
            return
        look = watch_failures()
        with _cluster(ray), closing(_stream(ray, program, backend, draws, threads)) as records:
            for record in records:
                keep(record)
                look(record)

    return finish


class RayWorker:
    """A worker process: makes rollouts, many at once, all on its one event loop."""

    def __init__(self, program: Solver, backend: Backend) -> None:
        self.program = program
        self.lm = backend.connect()

    def __call__(self, row: dict[str, Any]) -> dict[str, str]:
        """One rollout. Ray calls this from as many threads as rollouts are wanted at once."""
        example = dspy.Example(**json.loads(row["example"])).with_inputs("problem")
        try:
            record = run(solve_once(self.program, example, int(row["sample"]), self.lm))
        except HOPELESS as error:  # sent back as data: Ray would wrap it, and try again
            return {"hopeless": type(error).__name__, "record": json.dumps(error.message)}
        return {"hopeless": "", "record": write_record(record)}


def _stream(
    ray: Any, program: Solver, backend: Backend, draws: Sequence[Draw], threads: int
) -> Generator[Rollout, None, None]:
    """The rollouts as they end. Each row is its own Ray block: within a block, rows would wait for
    each other."""
    from ray.data import ActorPoolStrategy

    rows = [
        {"example": json.dumps(dict(example.items())), "sample": sample}
        for example, sample in draws
    ]
    threads = min(threads, len(rows))
    workers = max(1, min(int(ray.cluster_resources().get("CPU", 1)), threads // FEWEST))
    each = -(-threads // workers)
    found = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
        RayWorker,
        fn_constructor_kwargs={"program": program, "backend": backend},
        compute=ActorPoolStrategy(
            size=workers,
            max_tasks_in_flight_per_actor=each,
            max_concurrent_calls_per_actor=each,
            enable_true_multi_threading=True,  # without it one call at a time, whatever is allowed
        ),
    )
    # Closed in any case: until then Ray keeps the workers, and another run waits for their CPUs.
    with closing(iter(found.iter_batches(batch_size=None, prefetch_batches=0))) as batches:
        for batch in batches:
            for kind, text in zip(batch["hopeless"], batch["record"], strict=True):
                if kind:
                    told = json.loads(str(text))
                    raise next(error for error in HOPELESS if error.__name__ == kind)(told)
                yield parse_record(Rollout, str(text), "what a worker sent", "rollout")


def _import_ray() -> Any:
    # Ray reads both when it is imported: it then sends no usage report and draws no bar over ours.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
    try:
        import ray
        import ray.data
    except ImportError:
        raise ValueError(
            f"--engine ray needs Ray: {advise_install('ray')}, on every machine"
        ) from None
    return ray


@contextmanager
def _cluster(ray: Any) -> Iterator[None]:
    """Ray for the block: one that runs already, the cluster at RAY_ADDRESS, or one started here."""
    if ray.is_initialized():
        yield
        return
    ray.init(logging_level="ERROR", log_to_driver=False)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    try:
        yield
    finally:
        ray.shutdown()
