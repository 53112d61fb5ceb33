"""modes(): how each stage asks the model, and so what System 1 and System 2 are.

The mode of a call lives in the Predict config of its stage and not in a second LM: optimizers copy,
reset and swap a program's LM, but they keep a predictor's config.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

Style = Literal["hybrid", "pair", "prefill", "prompt", "embedded"]
Modes = dict[str, dict[str, Any]]
"""Request parameters by stage: decompose, select, assess, solve_1, solve_2."""

PARTNER = "partner"  # the key of a config by which a call goes to the other model of a pair

# GBNF for the embedded model: small models leave a form, or explain until they are cut off.
TWO_LINES = r'''root ::= "1. " line "2. " line
line ::= [^\n]{8,200} "\n"'''
BOXED_LINE = (
    r'''root ::= [-+*/^=() 0-9abcknmxyz]{0,60} "\\boxed{" "-"? [0-9] [-+*/^0-9a-z.() ]{0,20} "}"'''
)


def modes(
    style: Style = "hybrid", *, think_at_most: int | None = None, **stages: Mapping[str, Any]
) -> Modes:
    """Request parameters for each stage.

    Styles:
        hybrid: thinking is switched off and on by the chat template (Qwen3 and its like).
        pair: System 2 is a model that always thinks (QwQ), System 1 is another model, the one that
            `connect(system_1=...)` names.
        prefill: a model that always thinks (the R1 distillations) is System 1 too, where its
            thinking block is closed as soon as it is opened.
        prompt: for a model without a thinking mode; System 1 answers at once within a small limit,
            System 2 reasons step by step in its reply.
        embedded: `prompt` for the small model on the CPU, shorter still and held to grammars.

    Args:
        think_at_most: reasoning tokens of one System 2 call, kept by a vLLM server that was
            started with a reasoning parser (its `thinking_token_budget`).
        stages: parameters by stage that replace the style's own, for example
            `solve_2={"max_tokens": 8192}`; those in `extra_body` one by one.

    Raises:
        ValueError: an unknown style or stage.

    >>> modes("prompt", solve_2={"max_tokens": 4096})["solve_2"]["max_tokens"]
    4096
    """
    if style not in _STYLES:
        raise ValueError(f"unknown style {style!r}: choose one of {', '.join(_STYLES)}")
    chosen = {stage: dict(config) for stage, config in _STYLES[style].items()}
    if think_at_most is not None:
        _put(chosen["solve_2"], {"extra_body": {"thinking_token_budget": think_at_most}})
    for stage, config in stages.items():
        if stage not in chosen:
            raise ValueError(f"unknown stage {stage!r}: choose from {', '.join(chosen)}")
        _put(chosen[stage], config)
    return chosen


def choose_modes(modes_or_style: Modes | Style) -> Modes:
    """The modes themselves, or those of the style so named."""
    return modes(modes_or_style) if isinstance(modes_or_style, str) else modes_or_style


# Sampling as in the released code of SCALE: 0.7 / 0.8 for System 1, 0.6 / 0.95 for System 2.
_SYSTEM_1 = {"temperature": 0.7, "top_p": 0.8, "top_k": 20}
_SYSTEM_2 = {"temperature": 0.6, "top_p": 0.95, "top_k": 20}
# No top_p: for it vLLM on a CPU sorts the whole vocabulary at every token, and for the top 20 it
# need not (48 rows of 152,000 on 2 busy cores: 5.9 seconds against 0.2).
_PLAIN = {"temperature": 0.6, "top_p": 1.0, "top_k": 20}
_NO_THINKING = {"extra_body": {"chat_template_kwargs": {"enable_thinking": False}}}
_THINKING = {"extra_body": {"chat_template_kwargs": {"enable_thinking": True}}}
# The templates of the R1 distillations open a thinking block on every prompt, and cut thinking out
# of an assistant message, so that an empty block cannot be sent as the beginning of the reply. With
# this vLLM writes the closing tag itself, right after the opening one.
_CLOSED = {"extra_body": {"thinking_token_budget": 0}}
_NUMBER = 16  # response tokens for a score or a choice

_STYLES: dict[str, Modes] = {
    "hybrid": {
        "decompose": {**_SYSTEM_1, **_NO_THINKING, "max_tokens": 2048},
        "select": {**_SYSTEM_1, **_NO_THINKING, "max_tokens": _NUMBER},
        "assess": {**_SYSTEM_1, **_NO_THINKING, "max_tokens": _NUMBER},
        "solve_1": {**_SYSTEM_1, **_NO_THINKING, "max_tokens": 8192},
        "solve_2": {**_SYSTEM_2, **_THINKING, "max_tokens": 32768},
    },
    "pair": {
        "decompose": {**_SYSTEM_1, **_NO_THINKING, PARTNER: True, "max_tokens": 2048},
        "select": {**_SYSTEM_1, **_NO_THINKING, PARTNER: True, "max_tokens": _NUMBER},
        "assess": {**_SYSTEM_1, **_NO_THINKING, PARTNER: True, "max_tokens": _NUMBER},
        "solve_1": {**_SYSTEM_1, **_NO_THINKING, PARTNER: True, "max_tokens": 8192},
        "solve_2": {**_SYSTEM_2, "max_tokens": 32768},
    },
    "prefill": {
        "decompose": {**_SYSTEM_1, **_CLOSED, "max_tokens": 2048},
        "select": {**_SYSTEM_1, **_CLOSED, "max_tokens": _NUMBER + 4},  # the closing tag counts
        "assess": {**_SYSTEM_1, **_CLOSED, "max_tokens": _NUMBER + 4},
        "solve_1": {**_SYSTEM_1, **_CLOSED, "max_tokens": 8192},
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
    """Replace parameters of a config; of `extra_body` only those that are given anew."""
    body = {**config.get("extra_body", {}), **new.get("extra_body", {})}
    config.update(new)
    if body:
        config["extra_body"] = body
