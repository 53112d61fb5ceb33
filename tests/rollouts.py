"""What a run wrote, read back for comparison."""

from __future__ import annotations

from pathlib import Path

from scale_dspy.evaluation.runner import Rollout, read_rollouts


def read_untimed(folder: Path) -> list[Rollout]:
    """The rollouts of a run in order, without what depends on the clock."""
    rollouts = sorted(
        read_rollouts(folder / "rollouts.jsonl"), key=lambda each: (each["id"], each["sample"])
    )
    for rollout in rollouts:
        for timed in (rollout, *rollout["usage"].values()):
            del timed["seconds"]
    return rollouts
