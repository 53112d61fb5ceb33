"""Backend: the server that a command works with, and all that follows from which one it is."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from scale_dspy.lm.connect import TIMEOUT, MeteredLM, connect, uses_embedded
from scale_dspy.lm.modes import Modes


@dataclass(frozen=True)
class Backend:
    """The arguments of `connect`. It travels to other processes in memory only."""

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
        """Settle what was left open: the one place where it matters whether the model is embedded.

        Args:
            style: how System 1 and 2 differ, or a family's switch; None or "auto" to find it out.
            threads: problems at work at once; by default as many as the backend is good for.
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
    """A backend with all that was left open settled.

    Attributes:
        embedded: whether the model is served by this process, on the CPU.
        style: how System 1 and 2 differ: a name, or the modes that were found.
        named: whether it was named; else it stands in for what is to be found out.
        threads: problems at work at once.
        candidates: decompositions to choose from, where nothing else is asked for.
    """

    backend: Backend
    embedded: bool
    style: Modes | str
    named: bool
    threads: int
    candidates: int
