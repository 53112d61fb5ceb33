"""The rows of SCALE's paper (arXiv 2512.00466) that stand beside runs on the same sets.

They are the paper's own figures, of Qwen3-32B with its authors' code and limits; nothing of them
was measured here.
"""

from __future__ import annotations

from typing import NamedTuple


class Row(NamedTuple):
    """A row of the paper: its label, accuracy in percent, response tokens a problem."""

    label: str
    accuracy: float
    tokens: float


TABLE_1: dict[str, tuple[Row, ...]] = {
    "aime24": (
        Row("CoT", 73.33, 7_409),
        Row("InftyThink", 83.75, 38_451),
        Row("majority", 76.67, 59_279),
        Row("SCALE", 82.92, 25_581),
    ),
    "aime25": (
        Row("CoT", 57.50, 6_839),
        Row("InftyThink", 70.00, 36_640),
        Row("majority", 53.33, 54_719),
        Row("SCALE", 71.25, 26_643),
    ),
}
"""Table 1, by the name of the set."""

TABLE_2: dict[str, tuple[Row, ...]] = {
    "aime24": (
        Row("0.2", 78.75, 22_500),
        Row("0.3", 77.50, 19_200),
        Row("0.4", 73.33, 19_500),
        Row("0.5", 74.58, 20_300),
        Row("0.6", 70.00, 17_800),
        Row("0.7", 50.00, 12_200),
        Row("0.8", 46.25, 11_400),
        Row("0.9", 27.50, 8_200),
    ),
    "aime25": (
        Row("0.2", 63.75, 23_200),
        Row("0.3", 61.67, 20_600),
        Row("0.4", 51.67, 20_500),
        Row("0.5", 56.25, 21_000),
        Row("0.6", 58.75, 19_000),
        Row("0.7", 39.17, 11_700),
        Row("0.8", 35.83, 10_600),
        Row("0.9", 25.00, 6_800),
    ),
}
"""Table 2: the threshold sweep, labels are thresholds."""
