"""The rows of SCALE's paper (arXiv 2512.00466) that stand beside runs on the same sets.

They are the paper's own figures, of Qwen3-32B with its authors' code and limits; nothing of them
was measured here.
"""

from __future__ import annotations

from typing import NamedTuple


class PaperRow(NamedTuple):
    """A row of the paper: its label, accuracy in percent, response tokens a problem."""

    label: str
    accuracy: float
    tokens: float


TABLE_1: dict[str, tuple[PaperRow, ...]] = {
    "aime24": (
        PaperRow("CoT", 73.33, 7_409),
        PaperRow("InftyThink", 83.75, 38_451),
        PaperRow("majority", 76.67, 59_279),
        PaperRow("SCALE", 82.92, 25_581),
    ),
    "aime25": (
        PaperRow("CoT", 57.50, 6_839),
        PaperRow("InftyThink", 70.00, 36_640),
        PaperRow("majority", 53.33, 54_719),
        PaperRow("SCALE", 71.25, 26_643),
    ),
}
"""Table 1, by the name of the set."""

TABLE_2: dict[str, tuple[PaperRow, ...]] = {
    "aime24": (
        PaperRow("0.2", 78.75, 22_500),
        PaperRow("0.3", 77.50, 19_200),
        PaperRow("0.4", 73.33, 19_500),
        PaperRow("0.5", 74.58, 20_300),
        PaperRow("0.6", 70.00, 17_800),
        PaperRow("0.7", 50.00, 12_200),
        PaperRow("0.8", 46.25, 11_400),
        PaperRow("0.9", 27.50, 8_200),
    ),
    "aime25": (
        PaperRow("0.2", 63.75, 23_200),
        PaperRow("0.3", 61.67, 20_600),
        PaperRow("0.4", 51.67, 20_500),
        PaperRow("0.5", 56.25, 21_000),
        PaperRow("0.6", 58.75, 19_000),
        PaperRow("0.7", 39.17, 11_700),
        PaperRow("0.8", 35.83, 10_600),
        PaperRow("0.9", 25.00, 6_800),
    ),
}
"""Table 2: the threshold sweep, labels are thresholds."""
