"""modes(): the request parameters of each stage, which make the difference between System 1 and 2.

They are in the Predict config of the stage and not in a second LM, because optimizers copy, reset
and swap a program's LM, but keep a predictor's config.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, Literal

from scale_dspy.lm.switches import SWITCHES, WORDS, Settings, Switch

Style = Literal["hybrid", "effort", "system", "pair", "prefill", "prompt", "embedded"]
Modes = dict[str, dict[str, Any]]
"""Request parameters by stage: decompose, select, assess, solve_1, solve_2."""

PARTNER = "partner"  # the key of a config by which a call goes to the other model of a pair

# Grammars (GBNF) for the embedded model: without them a small model departs from the form asked
# for, or explains until it is cut off.
TWO_LINES = r'''root ::= "1. " line "2. " line
line ::= [^\n]{8,200} "\n"'''
BOXED_LINE = (
    r'''root ::= [-+*/^=() 0-9abcknmxyz]{0,60} "\\boxed{" "-"? [0-9] [-+*/^0-9a-z.() ]{0,20} "}"'''
)


def modes(
    style: Style = "hybrid",
    *,
    switch: Switch | str | None = None,
    think_at_most: int | None = None,
    **stages: Mapping[str, Any],
) -> Modes:
    """Request parameters for each stage.

    Styles:
        hybrid: thinking is turned off and on by fields of the request, for Qwen3 and similar
            models by a variable of the chat template.
        effort: the model has levels of effort, none of which is off (gpt-oss): System 1 thinks
            little, System 2 much.
        system: thinking is switched by words in the system message (SmolLM3, Nemotron v2).
        pair: System 2 is a model that always thinks (QwQ), System 1 is another model, the one that
            `connect(system_1=...)` names.
        prefill: a model that always thinks (the R1 distillations) is System 1 too: for it, the
            thinking block is closed as soon as it is opened.
        prompt: for a model without a thinking mode; System 1 answers at once within a small limit,
            System 2 reasons step by step in its reply.
        embedded: `prompt` for the small model on the CPU, with shorter replies and with grammars.

    Args:
        switch: how thinking is turned on and off, an entry of switches.py or its name; the
            publisher's sampling comes with it. By default hybrid uses Qwen3's, effort gpt-oss's,
            system SmolLM3's. In the style `pair` it turns System 1's thinking off; in `embedded`
            it turns thinking off for System 1 and on for System 2.
        think_at_most: the most reasoning tokens of one System 2 call, enforced by a vLLM server
            that was started with a reasoning parser (its `thinking_token_budget`).
        stages: parameters by stage that replace the style's own, for example
            `solve_2={"max_tokens": 8192}`; entries of `extra_body` are replaced one by one.

    Raises:
        ValueError: an unknown style, switch or stage, or a switch that does not fit the style.

    >>> modes("prompt", solve_2={"max_tokens": 4096})["solve_2"]["max_tokens"]
    4096
    >>> modes("hybrid", switch="deepseek-v3.1")["solve_2"]["extra_body"]
    {'chat_template_kwargs': {'thinking': True}}
    """
    if style not in _STYLES:
        raise ValueError(f"unknown style {style!r}: choose one of {', '.join(_STYLES)}")
    chosen = {stage: dict(config) for stage, config in _STYLES[style].items()}
    if switch is not None or style in _SWITCHES:
        _apply_switch(chosen, style, _find_switch(switch or _SWITCHES[style]))
    if think_at_most is not None:
        _put(chosen["solve_2"], {"extra_body": {"thinking_token_budget": think_at_most}})
    for stage, config in stages.items():
        if stage not in chosen:
            raise ValueError(f"unknown stage {stage!r}: choose from {', '.join(chosen)}")
        _put(chosen[stage], config)
    return chosen


def fit_request(request: Mapping[str, Any], stage: str, style: Style | None) -> dict[str, Any]:
    """A stage's request on a model that needs a style of its own.

    A program for which no style was chosen has `hybrid`. In its requests the parameters of `hybrid`
    are replaced by those of `style`, and parameters that were set to other values stay. Any other
    request stays as it is.

    Args:
        style: the only one that the model can serve; None if it can serve any.

    >>> asked = {**modes()["solve_2"], "max_tokens": 99}
    >>> fitted = fit_request(asked, "solve_2", "embedded")
    >>> fitted["n"], fitted["max_tokens"], "extra_body" in fitted
    (1, 99, False)
    """
    usual = {} if style is None else modes().get(stage, {})
    if style is None or not usual or request.get("extra_body") != usual.get("extra_body"):
        return dict(request)
    chosen = {key: value for key, value in request.items() if usual.get(key) != value}
    return {**modes(style)[stage], **chosen}


def choose_modes(modes_or_style: Modes | str) -> Modes:
    """The modes as given, or those of a style or a switch that is given by name."""
    if not isinstance(modes_or_style, str):
        return modes_or_style
    if modes_or_style in SWITCHES:
        switch = SWITCHES[modes_or_style]
        return modes(switch.style, switch=switch)
    return modes(modes_or_style)  # type: ignore[arg-type] # another name is refused there


def take_words(
    messages: list[Mapping[str, Any]], kwargs: dict[str, Any]
) -> tuple[list[Mapping[str, Any]], dict[str, Any]]:
    """Move the words by which a call turns thinking on or off from its parameters to the beginning
    of its system message; a message is added if there is none."""
    words = kwargs.get(WORDS)
    if words is None:
        return messages, kwargs
    rest = {key: value for key, value in kwargs.items() if key != WORDS}
    if messages and messages[0].get("role") == "system":
        head = {**messages[0], "content": f"{words}\n\n{messages[0]['content']}"}
        return [head, *messages[1:]], rest
    return [{"role": "system", "content": words}, *messages], rest


def _find_switch(switch: Switch | str) -> Switch:
    if isinstance(switch, Switch):
        return switch
    if switch not in SWITCHES:
        raise ValueError(f"unknown switch {switch!r}: choose one of {', '.join(SWITCHES)}")
    return SWITCHES[switch]


def _apply_switch(chosen: Modes, style: Style, switch: Switch) -> None:
    """Put a switch into the configs: on in solve_2, off in all other stages."""
    fit = {"pair": ("hybrid", "system", "effort"), "embedded": ("hybrid", "system")}
    if switch.style not in fit.get(style, (style,)):
        raise ValueError(f"the style {style} has no use for {switch.name}, a switch of the style "
                         f"{switch.style}")  # fmt: skip
    for stage, config in chosen.items():
        thinks = stage == "solve_2"
        if thinks and style == "pair":
            continue  # System 2 is another model, which always thinks
        if style != "embedded":
            _sample(config, switch.thinking if thinks else switch.plain)
        _put(config, copy.deepcopy(dict(switch.on if thinks else switch.off)))
    if style == "embedded":
        chosen["solve_2"]["max_tokens"] = _THINKING_ON_CPU


def _sample(config: dict[str, Any], sampling: Settings) -> None:
    """Replace a config's sampling by the publisher's, if that is known."""
    if sampling:
        for name in ("temperature", "top_p", "top_k"):
            config.pop(name, None)
        config.update({name: value for name, value in sampling.items() if value is not None})


# Sampling as in the released code of SCALE: 0.7 / 0.8 for System 1, 0.6 / 0.95 for System 2.
_SYSTEM_1 = {"temperature": 0.7, "top_p": 0.8, "top_k": 20}
_SYSTEM_2 = {"temperature": 0.6, "top_p": 0.95, "top_k": 20}
# No top_p: with it vLLM on a CPU sorts the whole vocabulary at every token, with top_k alone it
# does not (48 rows of 152,000 on 2 busy cores: 5.9 seconds against 0.2).
_PLAIN = {"temperature": 0.6, "top_p": 1.0, "top_k": 20}
# The switch of a style if none is named. The templates of the R1 distillations open a thinking
# block on every prompt, and cut thinking out of an assistant message. So an empty block cannot be
# sent as the beginning of the reply, and `closed` sends a thinking budget of 0 instead.
_SWITCHES = {
    "hybrid": "qwen3",
    "effort": "levels",
    "system": "no-think",
    "pair": "qwen3",
    "prefill": "closed",
}
_THINKING_ON_CPU = 1536  # response tokens of a System 2 call, about a minute of Qwen3-0.6B
_LEVELLED = {"temperature": 1.0, "top_p": 1.0}  # as OpenAI recommends for gpt-oss
_NUMBER = 16  # response tokens for a score or a choice

_STYLES: dict[str, Modes] = {
    "hybrid": {
        "decompose": {**_SYSTEM_1, "max_tokens": 2048},
        "select": {**_SYSTEM_1, "max_tokens": _NUMBER},
        "assess": {**_SYSTEM_1, "max_tokens": _NUMBER},
        "solve_1": {**_SYSTEM_1, "max_tokens": 8192},
        "solve_2": {**_SYSTEM_2, "max_tokens": 32768},
    },
    "effort": {  # System 1 thinks a little before it says anything
        "decompose": {**_LEVELLED, "max_tokens": 4096},
        "select": {**_LEVELLED, "max_tokens": 2048},
        "assess": {**_LEVELLED, "max_tokens": 2048},
        "solve_1": {**_LEVELLED, "max_tokens": 8192},
        "solve_2": {**_LEVELLED, "max_tokens": 32768},
    },
    "system": {
        "decompose": {**_SYSTEM_1, "max_tokens": 2048},
        "select": {**_SYSTEM_1, "max_tokens": _NUMBER},
        "assess": {**_SYSTEM_1, "max_tokens": _NUMBER},
        "solve_1": {**_SYSTEM_1, "max_tokens": 8192},
        "solve_2": {**_SYSTEM_2, "max_tokens": 32768},
    },
    "pair": {
        "decompose": {**_SYSTEM_1, PARTNER: True, "max_tokens": 2048},
        "select": {**_SYSTEM_1, PARTNER: True, "max_tokens": _NUMBER},
        "assess": {**_SYSTEM_1, PARTNER: True, "max_tokens": _NUMBER},
        "solve_1": {**_SYSTEM_1, PARTNER: True, "max_tokens": 8192},
        "solve_2": {**_SYSTEM_2, "max_tokens": 32768},
    },
    "prefill": {
        "decompose": {**_SYSTEM_1, "max_tokens": 2048},
        "select": {**_SYSTEM_1, "max_tokens": _NUMBER + 4},  # the closing tag counts
        "assess": {**_SYSTEM_1, "max_tokens": _NUMBER + 4},
        "solve_1": {**_SYSTEM_1, "max_tokens": 8192},
        "solve_2": {**_SYSTEM_2, "max_tokens": 32768},
    },
    "prompt": {
        "decompose": {**_PLAIN, "max_tokens": 512},
        "select": {**_PLAIN, "max_tokens": _NUMBER},
        "assess": {**_PLAIN, "max_tokens": _NUMBER},
        "solve_1": {**_PLAIN, "max_tokens": 256},
        "solve_2": {**_PLAIN, "max_tokens": 2048},
    },
    # One choice a request: llama.cpp gains nothing from n, refuses more of them than it has slots,
    # and reports the usage of one choice.
    "embedded": {
        "decompose": {
            **_SYSTEM_1,
            "n": 1,
            "max_tokens": 160,
            "extra_body": {"grammar": TWO_LINES},
        },
        "select": {**_SYSTEM_1, "max_tokens": _NUMBER, "extra_body": {"grammar": "root ::= [1-9]"}},
        "assess": {
            **_SYSTEM_1,
            "max_tokens": _NUMBER,
            "extra_body": {"grammar": 'root ::= "0." [0-9]'},
        },
        "solve_1": {**_SYSTEM_1, "n": 1, "max_tokens": 96, "extra_body": {"grammar": BOXED_LINE}},
        "solve_2": {**_SYSTEM_2, "n": 1, "max_tokens": 448},
    },
}


def _put(config: dict[str, Any], new: Mapping[str, Any]) -> None:
    """Replace parameters of a config; in `extra_body`, only the entries that are given."""
    body = {**config.get("extra_body", {}), **new.get("extra_body", {})}
    config.update(new)
    if body:
        config["extra_body"] = body
