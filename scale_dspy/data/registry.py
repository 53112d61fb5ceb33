"""The sets of problems known by name: where each can be found, and which errors it has.

Each owner's licence goes with their set; only `mini` ships with this package.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Kind = Literal["integer", "math"]

GROUPS = ("level", "subject", "year", "steps")
"""Properties that group the problems of a set; reports give the accuracy of each group."""


@dataclass(frozen=True)
class Source:
    """Where a set is, and what must be known to read it.

    Attributes:
        name: What users call the set; also `NAME.jsonl` in the folder `SCALE_DATA_DIR`.
        hub: The set's path on the Hugging Face hub; None for a set that is a file.
        config: The hub set's configuration, where it has several.
        split: The hub set's split; None takes the only one, or `test`.
        kind: "integer" where every answer must be one, "math" where answers are any mathematics,
            None to find out.
        files: Other names (without `.jsonl`) of local copies in `SCALE_DATA_DIR`.
        until: The set's last year, where the hub's copy holds later ones; None takes all rows.
        corrected: Wrong published answers by id: (published, right).
        note: What a user of the hub's copy should know.
    """

    name: str
    hub: str | None = None
    config: str | None = None
    split: str | None = None
    kind: Kind | None = None
    files: tuple[str, ...] = ()
    until: int | None = None
    corrected: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    note: str = ""


_KNOWN = (
    Source("aime24", "HuggingFaceH4/aime_2024", split="train", kind="integer"),
    # Licensed CC BY-NC-SA 4.0. In math-ai/aime25 (Apache-2.0) control characters break LaTeX.
    Source("aime25", "MathArena/aime_2025", split="train", kind="integer"),
    Source(
        "aime",
        "gneubig/aime-1983-2024",
        split="train",
        kind="integer",
        files=("aime_1983_2023",),
        until=2023,  # 2024 is the test set aime24
        note="the hub's copy has 919 of the 975 problems of 1983-2023",
    ),
    Source("amc23", "math-ai/amc23", split="test", kind="integer"),
    Source("math500", "HuggingFaceH4/MATH-500", split="test", kind="math"),
    Source("gsm8k", "openai/gsm8k", "main", "test", kind="integer", files=("gsm8k_test",)),
    Source(
        "gsm8k_train",
        "openai/gsm8k",
        "main",
        "train",
        kind="math",  # one right answer is a time of day
        files=("gsm8k_train_sample",),
        corrected={
            "gsm8k_train-167": ("1920", "19200"),
            "gsm8k_train-356": ("66", "64"),
            "gsm8k_train-657": ("730", "07:30"),
            "gsm8k_train-1081": ("2460", "2740"),
            "gsm8k_train-1342": ("885000", "531000"),
            "gsm8k_train-2770": ("106", "108"),
            "gsm8k_train-3529": ("3", "13"),
            "gsm8k_train-4795": ("4", "6"),
            "gsm8k_train-6670": ("12", "15"),
            "gsm8k_train-7182": ("4", "10"),
            "gsm8k_train-7401": ("10850", "10750"),
        },
    ),
    Source("limo", "GAIR/LIMO", split="train", kind="math"),
    Source("mini"),
)

SOURCES: Mapping[str, Source] = {source.name: source for source in _KNOWN}
