"""Models hosted by a provider, through LiteLLM: how thinking is turned on and off, and prices.

Both are read from LiteLLM's own tables and mappings; no request is sent to the provider.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from scale_dspy.lm.found import Found
from scale_dspy.lm.price import MILLION, Price
from scale_dspy.lm.switches import Switch, find_family

MOST = "high"  # the reasoning_effort of System 2
LEAST = ("none", "minimal", "low")  # of System 1: the first of these that the model accepts
SAMPLING: Mapping[str, Any] = {"temperature": 0.7, "top_p": 0.8, "top_k": 20}


def find_hosted(model: str) -> Found:
    """How a hosted model's thinking is turned on and off: by reasoning_effort, which LiteLLM
    translates to its provider's own parameter.

    The style is `hybrid` if the least effort turns thinking off, `effort` if it only lowers it, and
    `prompt` if effort makes no difference.

    Args:
        model: as in LiteLLM, with its provider: "deepseek/deepseek-chat".

    >>> find_hosted("deepseek/deepseek-chat").style, find_hosted("openai/gpt-5").style
    ('hybrid', 'effort')
    """
    import litellm

    litellm.suppress_debug_info = True  # otherwise it prints about unknown names
    try:
        known = litellm.get_supported_openai_params(model) or []
    except Exception:  # LiteLLM's BadRequestError: no provider by that name
        known = []
    family = find_family(model)
    can_think = litellm.supports_reasoning(model) or "thinking" in known or family is not None
    much = _map(model, reasoning_effort=MOST) if "reasoning_effort" in known else None
    if not can_think or much is None:
        return Found("prompt", sampling=_find_sampling(model, {}))
    sampling = _find_sampling(model, much)
    for effort in LEAST:
        if effort != "low" and family and family.style == "effort":
            continue
        little = _map(model, reasoning_effort=effort)
        if little is None or little == much or not _is_taken(model, effort):
            continue
        off = effort == "none" and _is_off(model, little)
        if effort == "none" and not off:
            continue
        switch = Switch(
            f"effort {effort}", model, style="hybrid" if off else "effort",
            off={"reasoning_effort": effort}, on={"reasoning_effort": MOST}, default="unknown",
            source="LiteLLM's own mapping of reasoning_effort",
        )  # fmt: skip
        return Found(switch.style, switch, "unknown", sampling=sampling)
    return Found("prompt", sampling=sampling)


def find_price(model: str) -> Price | None:
    """What a model's tokens cost by LiteLLM's table; None where it has no price.

    Args:
        model: as in LiteLLM. Your own server (hosted_vllm/...) has no price.
    """
    if model.startswith("hosted_vllm/"):
        return None
    import litellm

    try:
        prompt, _ = litellm.cost_per_token(model=model, prompt_tokens=1000, completion_tokens=0)
        _, response = litellm.cost_per_token(model=model, prompt_tokens=0, completion_tokens=1000)
    except Exception:  # LiteLLM raises several kinds for a model that is not in its table
        return None
    if not prompt + response:
        return None
    cached = _look_up(model).get("cache_read_input_token_cost")
    return Price(
        float(prompt) * MILLION / 1000,
        float(response) * MILLION / 1000,
        float(cached) * MILLION if isinstance(cached, (int, float)) else None,
    )


def _map(model: str, **params: Any) -> dict[str, Any] | None:
    """The provider's parameters to which LiteLLM translates these; None where it refuses them."""
    import litellm

    try:
        name, provider, *_ = litellm.get_llm_provider(model)
        mapped = litellm.utils.get_optional_params(
            model=name, custom_llm_provider=provider, **params
        )
    except Exception:  # UnsupportedParamsError and whatever a provider's own mapping raises
        return None
    return {key: value for key, value in mapped.items() if value not in (None, {}, False)}


def _is_taken(model: str, effort: str) -> bool:
    """Whether the provider accepts an effort; of OpenAI's models LiteLLM's table says so."""
    told = _look_up(model).get(f"supports_{effort}_reasoning_effort")
    ours = effort == "low" or not model.startswith(("openai/", "azure/"))
    return bool(ours if told is None else told)


def _is_off(model: str, mapped: dict[str, Any]) -> bool:
    """Whether LiteLLM's parameters for no effort turn thinking off, and not just down."""
    config = mapped.get("thinkingConfig")
    if config is None:
        return True
    # Gemini's larger models think at least a little, and refuse a budget of 0.
    return config.get("thinkingBudget") == 0 and "-pro" not in model


def _find_sampling(model: str, much: Mapping[str, Any]) -> tuple[str, ...]:
    """The sampling parameters that may be sent together with thinking; LiteLLM translates the
    effort for thinking to `much`."""
    if "budget_tokens" in (much.get("thinking") or {}):
        return ()  # Anthropic's API takes no temperature beside thinking, and LiteLLM does not say
    effort = {"reasoning_effort": MOST} if much else {}
    return tuple(
        name
        for name, value in SAMPLING.items()
        if name in (_map(model, **effort, **{name: value}) or {})
    )


def _look_up(model: str) -> Mapping[str, Any]:
    import litellm

    table = litellm.model_cost
    return dict(table.get(model) or table.get(model.partition("/")[2]) or {})
