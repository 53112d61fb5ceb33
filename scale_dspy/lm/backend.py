"""Backend: the server that a command works with, and the defaults that depend on it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from scale_dspy.lm.connect import TIMEOUT, MeteredLM, connect, uses_embedded
from scale_dspy.lm.modes import Modes


@dataclass(frozen=True)
class Backend:
    """The arguments of `connect`. They are passed to other processes in memory only, since they
    hold the key."""

    model: str | None = None
    api_base: str | None = field(default=None, repr=False)
    api_key: str | None = field(default=None, repr=False)
    seed: int | None = None
    system_1: str | None = None
    system_1_api_base: str | None = field(default=None, repr=False)
    timeout: float = TIMEOUT
    run: str = ""

    def connect(self, **options: Any) -> MeteredLM:
        """The LM of this backend; the options are those of dspy.LM."""
        return connect(**asdict(self), **options)

    def resolve(self, style: str | None = None, threads: int | None = None) -> Resolved:
        """Fill in what was not given; only here does it matter whether the model is embedded.

        Args:
            style: how System 1 and 2 differ, or a family's switch; None or "auto" to find it out.
            threads: problems at work at once; by default as many as suit the backend.
        """
        embedded = uses_embedded(self.model, self.api_base)
        named = style not in (None, "auto")
        return Resolved(
            backend=self,
            embedded=embedded,
            style=style if named and style else ("embedded" if embedded else "hybrid"),
            named=named,
            threads=threads or (1 if embedded else 64),
            candidates=1 if embedded else 8,
        )


@dataclass(frozen=True)
class Resolved:
    """A backend with everything filled in that was not given.

    Attributes:
        embedded: whether the model is served by this process, on the CPU.
        style: how System 1 and 2 differ: a name, or the modes that were found.
        named: whether the style was named; otherwise it is a default until it is found out.
        threads: problems at work at once.
        candidates: decompositions to choose from, where nothing else is asked for.
    """

    backend: Backend
    embedded: bool
    style: Modes | str
    named: bool
    threads: int
    candidates: int
