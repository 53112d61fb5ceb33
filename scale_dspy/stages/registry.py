"""The list of all stages. Terminal, exports and feedback know those that stand in it, no others."""

from __future__ import annotations

from scale_dspy.stages.assess import ASSESS, REVIEW
from scale_dspy.stages.decompose import DECOMPOSE, SELECT
from scale_dspy.stages.solve import SOLVE_1, SOLVE_2, WHOLE
from scale_dspy.stages.stage import Stage

STAGES = (DECOMPOSE, SELECT, ASSESS, REVIEW, SOLVE_1, SOLVE_2, WHOLE)


def find_stage(name: str | None) -> Stage | None:
    """The stage of this name, or None."""
    return next((stage for stage in STAGES if stage.name == name), None)


def find_asker(predictor: str | None) -> Stage | None:
    """The stage whose predictor has this name, also where it is nested in another program."""
    asked = predictor or ""
    return next((stage for stage in STAGES if asked.endswith(stage.predictor)), None)
