r"""A program's tuned prompts as JSON for runtimes without DSPy.

The JSON, `scale_dspy/messages/1`, holds all that a stranger needs to run the program on any server
with the chat completions API. Strings under `about` say in words what the fields mean:

    format, version, model    the model's name if the program was compiled, else null
    join                      what stands between the parts of a message
    reply                     which part of a reply is content, which is reasoning, and cut_off
    stages                    decompose, select, assess, solve_1, solve_2, each with
        predictor             its name in the program, for example "decompose.propose"
        inputs                names of the inputs, in order
        messages              [{"role", "parts"}]: demos as user and assistant, then the question
        body                  the other fields of the request, but for `model` and `seed`
        thinking              true or false; null where no switch is sent
        partner               true where the request goes to the other model of a pair, which is
                              System 1 and may be on another server; `model` is System 2 then
        read                  how the reply is read: {"kind", "about", ...}
        attempts, default     how often to ask, and what holds where nothing can be read
        left_out              parameters of the client that no server is sent, by name
    routing                   threshold, split, final difficulty, when to rate; how the texts that
                              are inputs are written; what becomes of a draft; the budget
    answer                    how it is read from the last solution

A part is `{"text": T}`, which is T; or `{"title": T, "input": NAME}`, which is T and then the value
of the input, and which is left out where that is empty. So nothing in a text is ever a placeholder,
and braces and backslashes go through as they are. A text under `routing.texts` is a list of items,
each written piece by piece: `{"text": T}` or `{"value": NAME}`, again with nothing to substitute.

It holds no key, address, path or date: the same program gives the same bytes.
"""

from __future__ import annotations

import copy
from typing import Any

import dspy

from scale_dspy.export.formatting import name_model
from scale_dspy.export.protocol import (
    count_choices,
    describe_routing,
    find_predictor,
    make_body,
)
from scale_dspy.export.selection_json import describe_drafts, describe_votes
from scale_dspy.lm.adapter import THINKING, PlainAdapter, mend
from scale_dspy.lm.modes import PARTNER
from scale_dspy.lm.switches import WORDS
from scale_dspy.program import SCALE
from scale_dspy.stages.ask import ATTEMPTS
from scale_dspy.stages.passes import DRAFT
from scale_dspy.stages.registry import STAGES
from scale_dspy.stages.stage import Stage
from scale_dspy.utils.version import __version__

FORMAT = "scale_dspy/messages/1"


def export_messages(program: SCALE) -> dict[str, Any]:
    """The program as JSON for a runtime without DSPy; the module's docstring says what is in it.

    Args:
        program: its request parameters are those of its modes, so load it with the right ones.
    """
    return {
        "format": FORMAT,
        "version": __version__,
        "model": name_model(program.record),
        "about": [
            "All that is needed to solve a math problem with this program over any chat "
            "completions API. Strip the problem, then follow `routing.steps`.",
            "A request is `model`, the stage's `body` and `messages`, and a `seed` if you like. A "
            "message's content is its parts joined with `join`. A part with `text` is that text. A "
            "part with `title` and `input` is the title and right after it the input's value, or "
            "nothing, not even an empty part, where the value is empty. Copy texts and values as "
            "they are: nothing in them is a placeholder.",
            "Where a reply cannot be read, ask again with another seed, `attempts` times in all; "
            "after that the stage's `default` holds. Where the server refuses a request because "
            "`max_tokens` does not fit into the model's window, leave `max_tokens` out.",
            "A stage whose `partner` is true is asked of the other model of a pair: send its "
            "requests to that model's server, with that model's name.",
            "In the problem and in every reply, replace control characters (all but backspace, "
            "tab, line feed, form feed and carriage return) and halves of surrogate pairs by "
            "U+FFFD before you use them.",
        ],
        "join": "\n\n",
        "reply": _describe_reply(),
        "stages": {stage.name: _export_stage(program, stage) for stage in STAGES},
        "routing": _export_routing(program),
        "answer": {
            "about": r"The content of the last \boxed{} with balanced braces in the last step's "
            "solution that is complete and not empty; of nested ones the outer. Without any: what "
            "follows the last 'the answer is', 'answer:' or '####'; then the last number; then "
            "there is no answer.",
            "read": {"kind": "boxed", "commands": [r"\boxed", r"\fbox"]},
        },
    }


def _export_stage(program: SCALE, stage: Stage) -> dict[str, Any]:
    predictor = find_predictor(program, stage)
    body, left_out = make_body(program, stage)
    exported = {
        "about": stage.about,
        "predictor": stage.predictor,
        "inputs": list(predictor.signature.input_fields),
        "messages": [
            *_make_head(predictor),
            *_make_demos(predictor),
            {"role": "user", "parts": _make_parts(predictor)},
        ],
        "body": body,
        "thinking": _find_switch(body),
        "partner": bool(predictor.config.get(PARTNER)),
        "read": copy.deepcopy(stage.read),
        "attempts": ATTEMPTS,
        "default": copy.deepcopy(stage.default),
        "left_out": left_out,
    }
    if stage.name == "decompose":
        exported["draw"] = _describe_draw(program)
    return exported


def _make_head(predictor: dspy.Predict) -> list[dict[str, Any]]:
    """The system message, where thinking is switched by its words."""
    words = predictor.config.get(WORDS)
    return [{"role": "system", "parts": [{"text": words}]}] if words else []


def _make_demos(predictor: dspy.Predict) -> list[dict[str, Any]]:
    return [
        {"role": message["role"], "parts": [{"text": mend(message["content"])}]}
        for message in PlainAdapter().format_demos(predictor.signature, predictor.demos)
    ]


def _make_parts(predictor: dspy.Predict) -> list[dict[str, str]]:
    """The parts of the question, cut from what the adapter itself writes."""
    titles = {
        name: _write(predictor, {name: "x"})[:-1] for name in predictor.signature.input_fields
    }
    inputs = [{"title": title, "input": name} for name, title in titles.items()]
    return [*inputs, {"text": _write(predictor, {}, main_request=True)}]


def _write(predictor: dspy.Predict, inputs: dict[str, str], main_request: bool = False) -> str:
    text = PlainAdapter().format_user_message_content(
        predictor.signature, inputs, main_request=main_request
    )
    return mend(text)


def _find_switch(body: dict[str, Any]) -> bool | None:
    if body.get("thinking_token_budget") == 0:
        return False
    arguments = body.get("chat_template_kwargs")
    for name in ("enable_thinking", "thinking"):
        if isinstance(arguments, dict) and isinstance(arguments.get(name), bool):
            return bool(arguments[name])
    effort = body.get("reasoning_effort")
    return None if effort is None else effort != "none"


def _describe_draw(program: SCALE) -> dict[str, Any]:
    return {
        "about": "Draw `candidates` replies, `per_request` in a request; where the server sends "
        "fewer, ask for the missing ones one by one, without `n`. Pass over lists that are empty. "
        "Where all are, ask for one more reply, without `n`, up to `attempts` rounds in all.",
        "candidates": program.decompose.candidates,
        "per_request": count_choices(program),
    }


def _describe_reply() -> dict[str, Any]:
    (opening, closing), *others = THINKING
    return {
        "about": [
            "Content is `message.content` without blanks around it, reasoning is "
            "`message.reasoning_content` or `message.reasoning`. A reply is cut off where its "
            "`finish_reason` is `cut_off`.",
            "Where the server leaves thinking in the content: all from the first `open` to the "
            "last `close` is reasoning, and what stands before and after is content. Without "
            "`close` all after `open` is reasoning; without `open` all before `close`. Where the "
            "content has neither, the same holds of the first pair in `other_tags` of which it "
            "has one.",
        ],
        "cut_off": "length",
        "open": opening,
        "close": closing,
        "other_tags": [{"open": opening, "close": closing} for opening, closing in others],
    }


def _export_routing(program: SCALE) -> dict[str, Any]:
    return {
        "about": describe_routing(program),
        "threshold": program.threshold.value,
        "rule": "difficulty > threshold: solve_2; else, or where nothing was rated: solve_1",
        "final_difficulty": program.final_difficulty,
        "split": {
            "value": program.split.value,
            "rule": "value > 0 and difficulty of the whole problem <= value: one step, the problem "
            "itself, with that difficulty; else: decompose. At a value of 1 with a threshold of 0 "
            "or 1 the problem is not rated: one step, by System 2 at 0, by System 1 at 1",
        },
        "assess": program.timing,
        "drafts": describe_drafts(program),
        "votes": describe_votes(program),
        "steps": _describe_steps(),
        "texts": _export_texts(),
        "draft": {
            "about": r"Where a reply of solve_2 or whole is cut off and its content has no "
            "`unless`, System 1 concludes: ask solve_1 with the same inputs and, "
            "as `draft`, the last `characters` of reasoning, `join` "
            "and content, stripped. Its content is the solution; where that "
            "is empty, the content that was cut off; where that is too, the draft.",
            "unless": r"\boxed",
            "join": "\n\n",
            "characters": DRAFT,
        },
        "budget": {
            "about": "The most response tokens for a problem; null for no limit. It changes no "
            "prompt. A quarter is for planning at most and a quarter is kept for the answer; where "
            "little is left, solve_1 replaces solve_2, and steps but the last are skipped.",
            "tokens": program.budget,
        },
    }


def _describe_steps() -> list[str]:
    return [
        "1. Where split.value > 0, find the difficulty of the problem as `problem` and "
        "`subproblem` with an empty `context`, by its draft where assess is of drafts, or else by "
        "asking assess, and apply split.rule.",
        "2. Ask decompose with `problem`, as its `draw` says. Where the lists differ, write them "
        "as texts.candidates and ask select with `problem` and `candidates`; where all are equal, "
        "take the first. Replace the last item by the problem.",
        "3. The difficulty of the last sub-problem is final_difficulty, unless that is null.",
        "4. Where assess is `upfront`, ask assess for each sub-problem that has no difficulty yet, "
        "with the sub-problems before it, written as texts.list, as `context`.",
        "5. For each sub-problem in order: `context` is the steps before it, written as "
        "texts.context. Where it has no difficulty yet, find it by its draft where assess is of "
        "drafts; where assess is `in_context`, ask assess with `problem`, `context` and "
        "`subproblem`. Apply routing.rule, and ask solve_1, unless there is a draft, or solve_2 "
        "with the same three inputs and an empty `draft`.",
        *(stage.when for stage in STAGES if stage.when),
        "6. Read the answer from the last solution, as `answer` says.",
    ]


def _export_texts() -> dict[str, Any]:
    number, dot, line = {"value": "number"}, {"text": ". "}, {"text": "\n"}
    return {
        "about": "Each text is its items, numbered from 1 and joined with `join`; without items it "
        "is empty. An item is its pieces, one after another: a `text` as it is, or a `value`.",
        "context": {
            "join": "\n\n",
            "item": [number, dot, {"value": "subproblem"}, line, {"value": "solution"}],
        },
        "list": {"join": "\n", "item": [number, dot, {"value": "subproblem"}]},
        "candidates": {
            "about": "`list` is the candidate, written as texts.list.",
            "join": "\n\n",
            "item": [{"text": "Candidate "}, number, line, {"value": "list"}],
        },
    }
