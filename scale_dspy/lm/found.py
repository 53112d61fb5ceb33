"""What was found out about thinking at a server: the parameters that switch it, and in words."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from scale_dspy.lm.modes import Modes, Style, modes
from scale_dspy.lm.switches import WORDS, Switch

STAGES = ("decompose", "select", "assess", "solve_1", "solve_2")


@dataclass(frozen=True)
class Found:
    """How thinking is turned on and off at a server.

    Attributes:
        style: the one to give to `modes()`.
        switch: the setting that turns thinking on and off; None in the style `prompt`.
        default: whether it thinks when a request does not say: "on", "off" or "unknown".
        parser: the --reasoning-parser to start vLLM with, where thinking was left in the content;
            else empty.
        always: whether no setting keeps the model from thinking.
        surplus: whether the model does not think, but the server's reasoning parser takes its
            answers for reasoning unless `switch` is off.
        requests: how many it took to find out.
        seconds: how long that took.
        sampling: the sampling parameters that the provider accepts; None for all.
    """

    style: Style
    switch: Switch | None = None
    default: str = "off"
    parser: str = ""
    always: bool = False
    surplus: bool = False
    requests: int = 0
    seconds: float = 0.0
    sampling: tuple[str, ...] | None = field(default=None, repr=False)

    def modes(self) -> Modes:
        """Request parameters by stage."""
        if self.always and self.switch is None:
            found = modes("prompt")
            for stage, config in modes("effort").items():  # small replies need room to think in
                found[stage]["max_tokens"] = config["max_tokens"]
        elif self.surplus and self.switch:
            quiet = {"extra_body": dict(self.switch.off.get("extra_body", {}))}
            found = modes("prompt", **dict.fromkeys(STAGES, quiet))  # type: ignore[arg-type]
        else:
            found = modes(self.style, switch=self.switch)
        if self.sampling is None:
            return found
        dropped = {"temperature", "top_p", "top_k", "presence_penalty"} - set(self.sampling)
        return {stage: {name: value for name, value in config.items() if name not in dropped}
                for stage, config in found.items()}  # fmt: skip

    def describe(self) -> dict[str, Any]:
        """The entry of run.json."""
        return {"style": self.style, "switch": self.switch.name if self.switch else None,
                "default": self.default, "parser": self.parser}  # fmt: skip

    def summarise(self) -> str:
        """What was found, in one line."""
        if self.style == "prompt" and self.always:
            said = ("prompt: it thinks whatever it is told, so System 1 thinks too; "
                    "--modes pair --system-1-model NAME gives it another System 1")  # fmt: skip
        elif self.surplus:
            said = ("prompt: the model does not think; start vLLM without --reasoning-parser, "
                    "which takes its answers for reasoning")  # fmt: skip
        elif self.style == "embedded" and self.switch is None:
            said = "embedded: the systems differ by prompt, length and grammar"
        elif self.switch is None:
            said = "prompt: nothing makes a difference, so the systems differ by prompt and length"
        else:
            said = f"{self.style}: {explain(self.switch)}"
        return said + (f"; start vLLM with --reasoning-parser {self.parser}: it leaves the "
                       "thinking in the content" if self.parser else "")  # fmt: skip


def explain(switch: Switch) -> str:
    """What a switch sends to turn thinking off and on, in a line.

    >>> from scale_dspy.lm.switches import SWITCHES
    >>> explain(SWITCHES["smollm3"])
    'system message /no_think or /think'
    """
    off, on = flatten(switch.off), flatten(switch.on)
    if switch.style == "system":
        return f"system message {off[WORDS]} or {on[WORDS]}"
    if switch.style == "prefill":
        return "it always thinks; thinking_token_budget 0 closes the block at once"
    for fields in (off, on):
        fields |= fields.pop("chat_template_kwargs", {})
    return ", ".join(
        f"{name} {_show(value)} or {_show(on.get(name))}" for name, value in off.items()
    )


def _show(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def flatten(settings: Any) -> dict[str, Any]:
    """Settings as the fields of a request's body."""
    body = dict(settings)
    extra = body.pop("extra_body", {})
    return {**body, **extra}
