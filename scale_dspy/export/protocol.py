"""A program's requests and its routing, in the form that both exports share."""

from __future__ import annotations

import copy
from typing import Any

import dspy

from scale_dspy.lm.modes import PARTNER
from scale_dspy.lm.switches import WORDS
from scale_dspy.program import SCALE
from scale_dspy.stages.stage import Stage

# A parameter of another name is named but not exported: it may be a key or an address.
_STANDARD = frozenset(
    """temperature top_p n stop max_tokens max_completion_tokens presence_penalty frequency_penalty
    logit_bias logprobs top_logprobs response_format reasoning_effort seed""".split()
)
_VLLM = frozenset(
    """top_k min_p repetition_penalty length_penalty min_tokens stop_token_ids bad_words
    skip_special_tokens spaces_between_special_tokens include_stop_str_in_output ignore_eos
    chat_template_kwargs thinking_token_budget guided_json guided_regex guided_choice guided_grammar
    structured_outputs grammar""".split()
)


def make_body(program: SCALE, stage: Stage) -> tuple[dict[str, Any], list[str]]:
    """A request's fields beside the messages, as LiteLLM sends them, and the names left out."""
    config = dict(find_predictor(program, stage).config)
    config.pop(PARTNER, None)
    config.pop(WORDS, None)  # these are a message
    extra = config.pop("extra_body", None) or {}
    config["n"] = count_choices(program) if stage.name == "decompose" else 1
    if config["n"] == 1:
        del config["n"]
    elif (config.get("temperature") or 0) <= 0.15:
        config["temperature"] = 0.7  # dspy.Predict's own rule for several choices
    given = {name: value for name, value in config.items() if value is not None}
    body = {
        **{name: value for name, value in given.items() if name in _STANDARD},
        **extra,
        **{name: value for name, value in given.items() if name in _VLLM},
    }
    return copy.deepcopy(body), sorted(given.keys() - _STANDARD - _VLLM)


def count_choices(program: SCALE) -> int:
    wanted = program.decompose.candidates
    return int(min(wanted, program.decompose.propose.config.get("n", wanted)))


def find_predictor(program: SCALE, stage: Stage) -> dspy.Predict:
    return dict(program.named_predictors())[stage.predictor]


def describe_routing(program: SCALE) -> list[str]:
    """Threshold, split and options in words, a sentence or two each."""
    return [
        _describe_threshold(program.threshold.value),
        _describe_split(program.split.value),
        _describe_final(program),
        _TIMINGS[program.timing],
        f"Candidates {program.decompose.candidates}: as many decompositions are drawn"
        + (", and the model chooses one." if program.decompose.candidates > 1 else "."),
        *_describe_votes(program),
        "Budget: no limit."
        if program.budget is None
        else f"Budget {program.budget}: at most so many response tokens are spent on a problem.",
        *(
            [f"System 2 cap {cap}: one call of System 2 takes at most so many response tokens."]
            if (cap := program.system_2_cap) is not None
            else []
        ),
    ]


def _describe_votes(program: SCALE) -> list[str]:
    if program.votes == 1:
        return []
    stop = f"{program.stop.value:.12g}"
    if program.weigh:
        return [
            f"Votes {program.votes}, weighed: System 2 makes at most so many passes, each counted "
            "by how likely it is to be right as its length and log-probabilities show; drawing "
            f"stops when a result is right with a probability above {stop}."
        ]
    return [
        f"Votes {program.votes}: System 2 makes at most so many passes, and the most frequent "
        f"result wins; drawing stops when it is ahead with a probability above {stop}."
    ]


_TIMINGS = {
    "draft": "Assess `draft`: System 1 solves a sub-problem first, and the difficulty is measured "
    "on its draft.",
    "agreement": "Assess `agreement`: System 1 drafts several solutions of a sub-problem first, "
    "and the difficulty is the share of those that differ from the most frequent result.",
    "review": "Assess `review`: System 1 solves a sub-problem first, and the model is asked how "
    "likely its draft is to be wrong.",
    "in_context": "Assess `in_context`: a sub-problem is rated when its turn comes, with the "
    "sub-problems before it and their solutions as context.",
    "upfront": "Assess `upfront`: all sub-problems are rated before any is solved, each with the "
    "sub-problems before it as context.",
    "none": "Assess `none`: no sub-problem is rated, and all but the last are solved by System 1.",
}


def _describe_threshold(value: float) -> str:
    return (
        f"Threshold {value:.12g}: a sub-problem rated above it is solved by System 2 (`solve_2`), "
        "any other by System 1 (`solve_1`)."
    )


def _describe_split(value: float) -> str:
    if value == 0:
        return "Split 0: every problem is split."
    return (
        f"Split {value:.12g}: the problem is rated first; at or below this it is solved whole, as "
        "a single step, above it is split."
    )


def _describe_final(program: SCALE) -> str:
    difficulty = program.final_difficulty
    if difficulty is None:
        return "The last sub-problem, which is the problem itself, is rated like the others."
    system = 2 if difficulty > program.threshold.value else 1
    return (
        "The last sub-problem, which is the problem itself, is not rated: its difficulty is "
        f"{difficulty:.12g}, which makes it one for System {system}."
    )
