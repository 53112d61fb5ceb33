"""What a run wrote, read back for comparison."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from scale_dspy.evaluation.rollout import Rollout, read_rollouts


def read_untimed(folder: Path) -> list[Rollout]:
    """The rollouts of a run in order, without what depends on the clock."""
    return [
        replace(
            rollout,
            seconds=0.0,
            usage={name: replace(tally, seconds=0.0) for name, tally in rollout.usage.items()},
        )
        for rollout in sorted(
            read_rollouts(folder / "rollouts.jsonl"), key=lambda each: (each.id, each.sample)
        )
    ]
