"""scale_dspy: more right answers from fewer tokens on hard math problems.

Reading order: program.py (the whole flow), then decompose.py, assess.py and solve.py (its stages),
step.py and threshold.py (what it is made of), ask.py (how a stage asks the model), and
backends/connect.py and backends/ledger.py (where tokens come from and how they are counted).
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

__all__ = ["SCALE", "Step", "Threshold", "connect", "modes", "track"]

if TYPE_CHECKING:
    from scale_dspy.backends.connect import connect
    from scale_dspy.backends.ledger import track
    from scale_dspy.backends.modes import modes
    from scale_dspy.program import SCALE
    from scale_dspy.step import Step
    from scale_dspy.threshold import Threshold

# Names load on first use: `scale-dspy --help` must not wait for DSPy.
_HOME = {
    "SCALE": "scale_dspy.program",
    "Step": "scale_dspy.step",
    "Threshold": "scale_dspy.threshold",
    "connect": "scale_dspy.backends.connect",
    "modes": "scale_dspy.backends.modes",
    "track": "scale_dspy.backends.ledger",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'scale_dspy' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
