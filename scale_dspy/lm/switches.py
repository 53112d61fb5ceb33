"""How thinking is turned on and off in each family of models: a table that names its sources.

The entries were taken from the named sources in the month `CHECKED`; `unverified` says what could
not be confirmed there. If a model's name fits an entry, `detect.py` tries that one first, and
`modes(..., switch=NAME)` accepts its name. Only asking the server shows what it really does.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

CHECKED = "2026-11"
WORDS = "system_words"  # the key of a config whose text goes first into the system message

Settings = Mapping[str, Any]
"""Request parameters as in a stage's config: `extra_body` holds what LiteLLM sends on unchanged."""


@dataclass(frozen=True)
class Switch:
    """How one family's thinking is turned on and off.

    Attributes:
        name: for `modes(..., switch=NAME)` and --modes NAME.
        models: the family, in words.
        style: hybrid (fields of the request), system (words in the system message), effort (levels,
            none of which is off), prefill (it always thinks; the block is closed at once).
        off: request parameters without thinking, or with the least of it.
        on: request parameters with thinking.
        default: whether the model thinks when a request does not say.
        fits: a regular expression that finds the family in a served model's name.
        parser: vLLM's --reasoning-parser for it; empty where none is known.
        length: how the length of thinking is set.
        plain: the publisher's sampling without thinking; if empty, the style's is used.
        thinking: the publisher's sampling with thinking; if empty, the style's is used.
        source: where it was read.
        unverified: which parts were not found at a source.
    """

    name: str
    models: str
    style: Literal["hybrid", "system", "effort", "prefill"]
    off: Settings
    on: Settings
    default: Literal["on", "off", "always", "unknown"]
    fits: str = ""
    parser: str = ""
    length: str = ""
    plain: Settings = field(default_factory=dict)
    thinking: Settings = field(default_factory=dict)
    source: str = ""
    unverified: str = ""


def _template(off: Any, on: Any, *keys: str) -> dict[str, Any]:
    """A switch that is a variable of the chat template."""
    return {
        "style": "hybrid",
        "off": {"extra_body": {"chat_template_kwargs": dict.fromkeys(keys, off)}},
        "on": {"extra_body": {"chat_template_kwargs": dict.fromkeys(keys, on)}},
    }


def _effort(off: str, on: str) -> dict[str, Any]:
    """A switch that is the request's reasoning_effort."""
    return {
        "off": {"extra_body": {"reasoning_effort": off}},
        "on": {"extra_body": {"reasoning_effort": on}},
    }


def _words(off: str, on: str) -> dict[str, Any]:
    """A switch that is words of the system message. The template variable is sent with them for
    vLLM's parsers qwen3 and nemotron_v3: these do not look at the words, and without the variable
    would take a plain answer for reasoning."""
    spoken = _template(False, True, "enable_thinking")
    return {
        "style": "system",
        "off": {WORDS: off, **spoken["off"]},
        "on": {WORDS: on, **spoken["on"]},
    }


_ENABLE = _template(False, True, "enable_thinking")
_THINKING = _template(False, True, "thinking")
# With a budget of 0 vLLM writes the closing tag right after the opening one.
_CLOSED: dict[str, Any] = {
    "style": "prefill",
    "off": {"extra_body": {"thinking_token_budget": 0}},
    "on": {},
    "default": "always",
}
_BUDGET = "thinking_token_budget (vLLM with a reasoning parser)"
_EFFORTS = "reasoning_effort"


def _sample(temperature: float, top_p: float = 1.0, top_k: int | None = None) -> Settings:
    return {"temperature": temperature, "top_p": top_p, "top_k": top_k}


_VLLM_DOCS = "vLLM docs, features/reasoning_outputs"
_VLLM = "vLLM 0.32.0, "
_RECIPES = "vllm-project/recipes at 8959cf6, "
_TEMPLATES = "the publisher's chat template, as kept in llama.cpp's models/templates, "

FAMILIES: tuple[Switch, ...] = (
    Switch(
        "qwen3", "Qwen3 (not the 2507 models, which think always or never)",
        **_ENABLE, default="on", parser="qwen3", length=_BUDGET,
        fits=r"qwen-?3(?![.\d])(?!.*(2507|coder|thinking|instruct|next|guard))",
        plain=_sample(0.7, 0.8, 20), thinking=_sample(0.6, 0.95, 20),
        source=f"{_VLLM_DOCS}; sampling: Qwen3's documentation, quickstart",
    ),
    Switch(
        "qwen3.5", "Qwen3.5, Qwen3.6 (the 0.8B does not think unless told)",
        **_ENABLE, default="on", parser="qwen3", length=_BUDGET, fits=r"qwen-?3\.[5-9]",
        plain={**_sample(0.7, 0.8, 20), "presence_penalty": 1.5},
        thinking={**_sample(1.0, 0.95, 20), "presence_penalty": 1.5},
        source=f"{_RECIPES}models/Qwen/Qwen3.6-27B.yaml; default of the 0.8B: its model card",
        unverified="sampling: read in quotations of the model card, not in the card itself",
    ),
    Switch(
        "glm-4.5", "GLM-4.5, 4.6, 4.7, GLM-5, 5.1, 5.2",
        **_ENABLE, default="on", parser="glm45", length=f"{_BUDGET}; GLM-5.2 also by effort",
        fits=r"glm-?(4\.[5-9]|5(?!\.3))",
        source=f"{_RECIPES}models/zai-org/GLM-5.2.yaml; {_VLLM}parser/glm47_moe.py",
        unverified="the publisher's sampling",
    ),
    Switch(
        "glm-5.3", "GLM-5.3, which always thinks", **_CLOSED, parser="glm45",
        length=f"{_EFFORTS}, in the template", fits=r"glm-?5\.3",
        source=f"{_VLLM}parser/glm47_moe.py",
        unverified="whether a budget of 0 closes its block; the publisher's sampling",
    ),
    Switch(
        "gemma-4", "Gemma 4", **_ENABLE, default="off", parser="gemma4", length=_BUDGET,
        fits=r"gemma-?4", plain=_sample(1.0, 0.95, 64), thinking=_sample(1.0, 0.95, 64),
        source=f"{_RECIPES}Google/Gemma4.md; {_TEMPLATES}gemma4.jinja",
        unverified="sampling: read in quotations of the publisher, not at the source",
    ),
    Switch(
        "deepseek-v3.1", "DeepSeek-V3.1, V3.2", **_THINKING, default="off", parser="deepseek_v3",
        length=_BUDGET, fits=r"deepseek-?v3\.[12]",
        source=f"{_VLLM_DOCS}; {_RECIPES}models/deepseek-ai/DeepSeek-V3.2.yaml",
        unverified="the publisher's sampling",
    ),
    Switch(
        "deepseek-v4", "DeepSeek-V4", **_THINKING, default="on", parser="deepseek_v4",
        length="reasoning_effort low, high or max in chat_template_kwargs", fits=r"deepseek-?v4",
        plain=_sample(1.0), thinking=_sample(1.0),
        source=f"{_VLLM}tokenizers/deepseek_v4.py; {_RECIPES}models/deepseek-ai/"
        "DeepSeek-V4-Flash.yaml (which calls the default off; vLLM's own code has it on)",
    ),
    Switch(
        "kimi-k2.5", "Kimi-K2.5, K2.6, K3", **_THINKING, default="on", parser="kimi_k2",
        length="K3: reasoning_effort low, high or max", fits=r"kimi-?k(2\.[56]|3)",
        source=f"{_VLLM}parser/kimi_k2.py and renderers/kimi_k3.py (K3's parser is kimi_k3)",
        unverified="what K2.5's own template reads; the publisher's sampling",
    ),
    Switch(
        "granite-3.2", "Granite 3.2, 3.3", **_THINKING, default="off", parser="granite",
        fits=r"granite-?3\.[23]", source=_VLLM_DOCS,
        unverified="3.3, of which the page says nothing; the publisher's sampling",
    ),
    Switch(
        "granite-4.2", "Granite 4.2", **_ENABLE, default="on", parser="granite_thinking_parser",
        fits=r"granite-?4\.2", source=f"{_VLLM}parser/granite_thinking.py",
        unverified="the template itself; the publisher's sampling",
    ),
    Switch(
        "holo2", "Holo2", **_THINKING, default="on", parser="holo2", fits=r"holo-?2",
        source=_VLLM_DOCS, unverified="the publisher's sampling",
    ),
    Switch(
        "nemotron-3", "Nemotron 3 (Nano, Super, Ultra)", **_ENABLE, default="on",
        parser="nemotron_v3", length=_BUDGET, fits=r"nemotron-?3",
        source=f"{_VLLM}parser/nemotron_v3.py; {_RECIPES}models/nvidia/"
        "NVIDIA-Nemotron-3-Super-120B-A12B-BF16.yaml",
        unverified="the publisher's sampling",
    ),
    Switch(
        "laguna", "Laguna", **_ENABLE, default="off", parser="poolside_v1", fits=r"laguna",
        thinking=_sample(0.7, 1.0, 20),
        source=f"{_RECIPES}models/poolside/Laguna-XS.2.yaml",
        unverified="sampling without thinking",
    ),
    Switch(
        "mimo", "MiMo-V2, V2.5", **_ENABLE, default="on", parser="mimo", fits=r"mimo-?v2",
        source=f"{_VLLM}parser/mimo.py",
        unverified="the template itself; the publisher's sampling",
    ),
    Switch(
        "exaone-4", "EXAONE 4.0, K-EXAONE", **_ENABLE, default="off", fits=r"exaone-?4|k-exaone",
        source="vllm-project/vllm pull request 22617 (its tests of enable_thinking)",
        unverified="a parser of vLLM 0.32.0 for it (none bears its name); the sampling",
    ),
    Switch(
        "hunyuan-a13b", "Hunyuan-A13B", **_ENABLE, default="on", parser="hunyuan_a13b",
        fits=r"hunyuan-?a13b", source=f"{_VLLM_DOCS} (the parser)",
        unverified="the switch, its default, the sampling",
    ),
    Switch(
        "command-a-reasoning", "Command A Reasoning",
        **_template(False, True, "reasoning"), default="on", parser="cohere_command3",
        fits=r"command-?a-?reasoning",
        source=f"{_VLLM}reasoning/cohere_command_reasoning_parser.py (the parser)",
        unverified="the template's variable, its default, the sampling",
    ),
    Switch(
        "minimax-m3", "MiniMax-M3", **_template("disabled", "enabled", "thinking_mode"),
        default="unknown", parser="minimax_m3", fits=r"minimax-?m3",
        source=f"{_RECIPES}models/MiniMaxAI/MiniMax-M3.yaml (unset, the model decides)",
        unverified="the publisher's sampling",
    ),
    Switch(
        "seed-oss", "Seed-OSS", **_template(0, -1, "thinking_budget"), default="on",
        parser="seed_oss", length="thinking_budget in chat_template_kwargs: 512, 1024, ...",
        fits=r"seed-?oss",
        source=f"{_TEMPLATES}ByteDance-Seed-OSS.jinja; {_RECIPES}models/ByteDance-Seed/",
        unverified="the publisher's sampling",
    ),
    Switch(
        "hy3", "Hy3", **_template("no_think", "high", "reasoning_effort"), default="off",
        parser="hy_v3", length="reasoning_effort low or high in chat_template_kwargs",
        fits=r"hy-?3\b", plain=_sample(0.9), thinking=_sample(0.9),
        source=f"{_RECIPES}models/tencent/Hy3.yaml",
    ),
    Switch(
        "mistral-small-4", "Mistral Small 4, Medium 3.5", style="hybrid", **_effort("none", "high"),
        default="off", parser="mistral", fits=r"mistral-?(small-?4|medium-?3\.5)",
        plain=_sample(0.7), thinking=_sample(0.7),
        source=f"{_RECIPES}models/mistralai/Mistral-Small-4-119B-2603.yaml; vLLM refuses "
        "chat_template_kwargs with a Mistral tokenizer (tokenizers/mistral.py)",
        unverified="Medium 3.5",
    ),
    Switch(
        "gpt-oss", "gpt-oss", style="effort", **_effort("low", "high"), default="always",
        parser="openai_gptoss", length="reasoning_effort low, medium or high", fits=r"gpt-?oss",
        plain=_sample(1.0), thinking=_sample(1.0),
        source=f"{_RECIPES}models/openai/gpt-oss-20b.yaml; vLLM refuses the effort none "
        "(renderers/online_renderer.py)",
        unverified="sampling: known from OpenAI's model card, not read there",
    ),
    Switch(
        "smollm3", "SmolLM3 (enable_thinking works too)", **_words("/no_think", "/think"),
        default="on", parser="qwen3", fits=r"smollm-?3", thinking=_sample(0.6, 0.95),
        source="HuggingFaceTB/SmolLM3-3B, chat template, as quoted in public code",
        unverified="the parser: any that reads <think>; sampling: from quotations of the card",
    ),
    Switch(
        "nemotron-nano-v2", "Nemotron Nano v2", **_words("/no_think", "/think"), default="on",
        fits=r"nemotron-?nano.*v2", source=f"{_TEMPLATES}NVIDIA-Nemotron-Nano-v2.jinja",
        unverified="a parser of vLLM 0.32.0 for it; the publisher's sampling",
    ),
    Switch(
        "nemotron-super-v1.5", "Llama-3.3-Nemotron-Super v1.5", **_words("/no_think", "/think"),
        default="on", fits=r"nemotron.*v1[.-]5",
        source=f"{_TEMPLATES}nvidia-Llama-3_3-Nemotron-Super-49B-v1_5.jinja",
        unverified="a parser of vLLM 0.32.0 for it; the publisher's sampling",
    ),
    Switch(
        "llama-nemotron", "Llama Nemotron v1 (Nano 8B, Super 49B, Ultra 253B)",
        **_words("detailed thinking off", "detailed thinking on"), default="unknown",
        fits=r"llama.*nemotron", plain=_sample(0.0), thinking=_sample(0.6, 0.95),
        source="NVIDIA NIM for LLMs 1.12, Reasoning models",
        unverified="what it does when nothing is said; a parser of vLLM 0.32.0 for it",
    ),
    Switch(
        "minimax-m2", "MiniMax-M2, M2.1, M2.5, M2.7", **_CLOSED, parser="minimax_m2",
        fits=r"minimax-?m2",
        source=f"{_RECIPES}models/MiniMaxAI/; minimax_m2_append_think leaves the thinking in the "
        "content (reasoning/minimax_m2_reasoning_parser.py)",
        unverified="whether a budget of 0 closes its block; the publisher's sampling",
    ),
    Switch(
        "r1", "DeepSeek-R1 and its distillations, QwQ", **_CLOSED, parser="deepseek_r1",
        length=_BUDGET, fits=r"deepseek-?r1|qwq", thinking=_sample(0.6, 0.95),
        source=_VLLM_DOCS, unverified="sampling: as the paper's authors ran it",
    ),
    Switch(
        "magistral", "Magistral, Ministral 3 Reasoning", **_CLOSED, parser="mistral",
        fits=r"magistral|ministral.*reasoning", thinking=_sample(0.7, 0.95),
        source="model card of Magistral-Small-2506; the reasoning prompt is a system prompt "
        f"(card of 2507); {_RECIPES}models/mistralai/Ministral-3-8B-Reasoning-2512.yaml",
        unverified="whether a budget of 0 closes its block; what it does without that prompt",
    ),
    Switch(
        "lfm2.5", "LFM2.5 (8B-A1B, 1.2B-Thinking)", **_CLOSED, parser="qwen3",
        fits=r"lfm-?2\.5.*(8b|thinking)", thinking={**_sample(0.2, 1.0, 80)},
        source=f"{_RECIPES}models/LiquidAI/LFM2.5-8B-A1B.yaml",
        unverified="whether a budget of 0 closes its block",
    ),
    Switch(
        "step-3.5", "Step-3.5, 3.7", **_CLOSED, parser="step3p5", fits=r"step-?3\.[57]",
        source=f"{_VLLM}parser/step3p5.py (enable_thinking is ignored)",
        unverified="whether a budget of 0 closes its block; the publisher's sampling",
    ),
)  # fmt: skip

# The switches that are tried if the family's own does not work, the likeliest first. `template`
# sets both names of the variable at once: a template reads one and vLLM drops the other. Some of
# vLLM's parsers act on either name, and with one that the template does not read they take a plain
# answer for reasoning.
GENERIC: tuple[Switch, ...] = (
    Switch(
        "template", "any model whose template reads enable_thinking or thinking",
        **_template(False, True, "enable_thinking", "thinking"), default="unknown",
        source=f"{_VLLM}renderers/hf.py: what the template does not read is dropped",
    ),
    Switch(
        "effort-none", "any model whose reasoning_effort can be none", style="hybrid",
        **_effort("none", "high"), default="unknown",
        source=f"{_VLLM}entrypoints/openai/chat_completion/protocol.py",
    ),
    Switch(
        "no-think", "any model that is switched by /think and /no_think in the system message",
        **_words("/no_think", "/think"), default="unknown", source="see smollm3",
    ),
    Switch(
        "detailed-thinking", "any model that is switched by `detailed thinking on` and `off`",
        **_words("detailed thinking off", "detailed thinking on"), default="unknown",
        source="see llama-nemotron",
    ),
)  # fmt: skip

CLOSED = Switch("closed", "any model that always thinks", **_CLOSED, source="see r1")
LEVELS = Switch(
    "levels", "any model with levels of effort, none of which is off", style="effort",
    **_effort("low", "high"), default="always", source="see gpt-oss",
)  # fmt: skip

SWITCHES: dict[str, Switch] = {
    switch.name: switch for switch in (*FAMILIES, *GENERIC, CLOSED, LEVELS)
}


def find_family(model: str) -> Switch | None:
    """The family that a served model's name belongs to, or None.

    >>> find_family("Qwen/Qwen3-32B").name, find_family("/models/mine")
    ('qwen3', None)
    """
    name = model.lower().replace("_", "-")
    return next((switch for switch in FAMILIES if re.search(switch.fits, name)), None)
