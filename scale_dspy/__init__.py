"""scale_dspy: more right answers from fewer tokens on hard math problems.

Reading order: program.py (the whole flow), then stages/ (decompose, assess, solve; ask is how a
stage asks the model), step.py and threshold.py (what it is made of), and lm/connect.py and
lm/usage.py (where tokens come from and how they are counted).
"""

from __future__ import annotations

import importlib

from scale_dspy.utils.version import __version__ as __version__

TYPE_CHECKING = False  # typing's own takes a while to import, and a shell waits for this file

__all__ = ["SCALE", "Step", "Threshold", "connect", "modes", "track"]

if TYPE_CHECKING:
    from scale_dspy.lm.connect import connect
    from scale_dspy.lm.modes import modes
    from scale_dspy.lm.usage import track
    from scale_dspy.program import SCALE
    from scale_dspy.step import Step
    from scale_dspy.threshold import Threshold

# Names load on first use: `scale-dspy --help` must not wait for DSPy.
_HOME = {
    "SCALE": "scale_dspy.program",
    "Step": "scale_dspy.step",
    "Threshold": "scale_dspy.threshold",
    "connect": "scale_dspy.lm.connect",
    "modes": "scale_dspy.lm.modes",
    "track": "scale_dspy.lm.usage",
}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'scale_dspy' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
