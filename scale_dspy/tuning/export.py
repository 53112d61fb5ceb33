r"""A program's tuned prompts, as Markdown for people and as JSON for runtimes without DSPy.

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

Neither export holds a key, an address, a path or a date: the same program gives the same bytes.
"""

from __future__ import annotations

import copy
import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import dspy

from scale_dspy import __version__
from scale_dspy.ask import ATTEMPTS, PlainAdapter
from scale_dspy.assess import _NUMBER as NUMBER
from scale_dspy.assess import UNREADABLE
from scale_dspy.decompose import _BULLET as BULLET
from scale_dspy.decompose import _NUMBERED as NUMBERED
from scale_dspy.decompose import MAX_SUBPROBLEMS
from scale_dspy.program import SCALE
from scale_dspy.solve import DRAFT

Kind = Literal["markdown", "messages"]
FORMAT = "scale_dspy/messages/1"

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


@dataclass(frozen=True)
class _Stage:
    """A stage as both exports show it; `read` is the JSON's account of how to read a reply."""

    name: str
    predictor: str
    about: str
    read: dict[str, Any]
    default: dict[str, Any]


_SOLUTION = {
    "kind": "solution",
    "about": "The whole content is the solution. It is asked for again only where it is empty and "
    "the reply was not cut off.",
}
_NO_SOLUTION = {
    "about": f"The last {DRAFT} characters of the reasoning are the solution.",
    "characters": DRAFT,
}
_STAGES = (
    _Stage(
        "decompose",
        "decompose.propose",
        "Splits the problem into sub-problems.",
        {
            "kind": "numbered_list",
            "about": [
                "Drop the lines that begin, after blanks, with three backticks.",
                "A line that `numbered` matches at its beginning, with a number (group 1) that "
                "continues the count 1, 2, 3, opens an item; the item is what follows the match. "
                "Every other line is part of the item above it, or of none. An item ends before "
                "the first blank line that is not its first line.",
                "Where there is no item at all, each line that `bulleted` matches opens one, and "
                "every other line that is not blank is part of the item above it.",
                "Strip every line of an item, join them with newlines, strip the whole; where it "
                "is one line in double asterisks, take those off. Drop empty and repeated items, "
                "and all after the first `most`.",
                "Whatever the last item asks, it is replaced by the problem itself.",
            ],
            "numbered": {"regex": NUMBERED.pattern, "ignore_case": True},
            "bulleted": {"regex": BULLET.pattern, "ignore_case": False},
            "most": MAX_SUBPROBLEMS,
        },
        {"about": "The one sub-problem is the problem itself.", "items": 1},
    ),
    _Stage(
        "select",
        "decompose.select",
        "Chooses the best of the candidate lists.",
        {
            "kind": "choice",
            "about": "All numbers in the content, each a run of digits, must be one and the same; "
            "it counts the candidates from 1 and must not exceed how many there are.",
            "number": {"regex": r"\d{1,4}", "ignore_case": False},
        },
        {"about": "The first candidate.", "choice": 1},
    ),
    _Stage(
        "assess",
        "assess.rate",
        "Rates how difficult a sub-problem is, from 0 to 1.",
        {
            "kind": "score",
            "about": "Strip blanks, then the characters in `strip`. Of the matches of `number` "
            "take the first where the text begins with it, else the last. With a percent sign, or "
            "outside of 0 to 1, it cannot be read.",
            "strip": "*`$ ",
            "number": {"regex": NUMBER.pattern, "ignore_case": False},
        },
        {"about": "The difficulty that leads to System 2.", "difficulty": UNREADABLE},
    ),
    _Stage(
        "solve_1",
        "solve.system_1",
        "System 1: solves a sub-problem directly, or concludes an unfinished draft.",
        _SOLUTION,
        _NO_SOLUTION,
    ),
    _Stage(
        "solve_2",
        "solve.system_2",
        "System 2: solves a sub-problem with care.",
        _SOLUTION,
        _NO_SOLUTION,
    ),
)


def export_messages(program: SCALE) -> dict[str, Any]:
    """The program as JSON for a runtime without DSPy; the module's docstring says what is in it.

    Args:
        program: its request parameters are those of its modes, so load it with the right ones.
    """
    return {
        "format": FORMAT,
        "version": __version__,
        "model": _name_model(program.record),
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
        ],
        "join": "\n\n",
        "reply": _tell_reply(),
        "stages": {stage.name: _export_stage(program, stage) for stage in _STAGES},
        "routing": _export_routing(program),
        "answer": {
            "about": r"The content of the last \boxed{} with balanced braces in the last step's "
            "solution that is complete and not empty; of nested ones the outer. Without any: what "
            "follows the last 'the answer is', 'answer:' or '####'; then the last number; then "
            "there is no answer.",
            "read": {"kind": "boxed", "commands": [r"\boxed", r"\fbox"]},
        },
    }


def export_markdown(program: SCALE) -> str:
    """The program as a page for people: scores, routing, and each stage's prompt.

    Texts stand in fenced blocks, line by line as they are, so two exports can be compared.
    """
    blocks = [
        _title(program.record),
        "A math problem is split into sub-problems. Each is rated, and solved by System 1 (fast) "
        "or System 2 (careful) in the context of those before it.",
        *_show_record(program.record),
        "## Routing",
        "\n".join(f"- {line}" for line in _tell_routing(program)),
    ]
    for stage in _STAGES:
        blocks += _show_stage(program, stage)
    return "\n\n".join(blocks) + "\n"


def write_export(program: SCALE, path: str | Path, kind: Kind) -> None:
    """Write an export whole or not at all.

    Args:
        path: the file; its folder is made if there is none.
        kind: `markdown` for people, `messages` for other runtimes.

    Raises:
        ValueError: another kind.
        OSError: the file cannot be written.
    """
    if kind == "markdown":
        text = export_markdown(program)
    elif kind == "messages":
        text = json.dumps(export_messages(program), indent=2, ensure_ascii=False) + "\n"
    else:
        raise ValueError(f"unknown kind {kind!r}: choose markdown or messages")
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.tmp")
    try:
        # Half a surrogate pair in a model's text is no UTF-8; so written, JSON reads it again.
        with draft.open("w", encoding="utf-8", errors="backslashreplace", newline="\n") as file:
            file.write(text)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


# ---- a stage -------------------------------------------------------------------------------------


def _export_stage(program: SCALE, stage: _Stage) -> dict[str, Any]:
    predictor = _find_predictor(program, stage)
    body, left_out = _make_body(program, stage)
    exported = {
        "about": stage.about,
        "predictor": stage.predictor,
        "inputs": list(predictor.signature.input_fields),
        "messages": [*_make_demos(predictor), {"role": "user", "parts": _make_parts(predictor)}],
        "body": body,
        "thinking": _find_switch(body),
        "read": copy.deepcopy(stage.read),
        "attempts": ATTEMPTS,
        "default": copy.deepcopy(stage.default),
        "left_out": left_out,
    }
    if stage.name == "decompose":
        exported["draw"] = _tell_draw(program)
    return exported


def _make_demos(predictor: dspy.Predict) -> list[dict[str, Any]]:
    return [
        {"role": message["role"], "parts": [{"text": message["content"]}]}
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
    return PlainAdapter().format_user_message_content(
        predictor.signature, inputs, main_request=main_request
    )


def _make_body(program: SCALE, stage: _Stage) -> tuple[dict[str, Any], list[str]]:
    """A request's fields beside the messages, as LiteLLM sends them, and the names left out."""
    config = dict(_find_predictor(program, stage).config)
    extra = config.pop("extra_body", None) or {}
    config["n"] = _choices_a_request(program) if stage.name == "decompose" else 1
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


def _choices_a_request(program: SCALE) -> int:
    wanted = program.decompose.candidates
    return int(min(wanted, program.decompose.propose.config.get("n", wanted)))


def _find_switch(body: dict[str, Any]) -> bool | None:
    arguments = body.get("chat_template_kwargs")
    for name in ("enable_thinking", "thinking"):
        if isinstance(arguments, dict) and isinstance(arguments.get(name), bool):
            return bool(arguments[name])
    return None


def _tell_draw(program: SCALE) -> dict[str, Any]:
    return {
        "about": "Draw `candidates` replies, `per_request` in a request; where the server sends "
        "fewer, ask for the missing ones one by one, without `n`. Pass over lists that are empty. "
        "Where all are, ask for one more reply, without `n`, up to `attempts` rounds in all.",
        "candidates": program.decompose.candidates,
        "per_request": _choices_a_request(program),
    }


def _find_predictor(program: SCALE, stage: _Stage) -> dspy.Predict:
    return dict(program.named_predictors())[stage.predictor]


# ---- what binds the stages -----------------------------------------------------------------------


def _tell_reply() -> dict[str, Any]:
    return {
        "about": [
            "Content is `message.content` without blanks around it, reasoning is "
            "`message.reasoning_content` or `message.reasoning`. A reply is cut off where its "
            "`finish_reason` is `cut_off`.",
            "Where the server leaves thinking in the content: all from the first `open` to the "
            "last `close` is reasoning, and what stands before and after is content. Without "
            "`close` all after `open` is reasoning; without `open` all before `close`.",
        ],
        "cut_off": "length",
        "open": "<think>",
        "close": "</think>",
    }


def _export_routing(program: SCALE) -> dict[str, Any]:
    return {
        "about": _tell_routing(program),
        "threshold": program.threshold.value,
        "rule": "difficulty > threshold: solve_2; else, or where nothing was rated: solve_1",
        "final_difficulty": program.final_difficulty,
        "split": {
            "value": program.split.value,
            "rule": "value > 0 and difficulty of the whole problem <= value: one step, the problem "
            "itself, with that difficulty; else: decompose",
        },
        "assess": program.timing,
        "steps": _tell_steps(),
        "texts": _export_texts(),
        "draft": {
            "about": r"Where a reply of solve_2 is cut off and its content has no `unless`, System "
            "1 concludes: ask solve_1 with the same inputs and, as `draft`, the last `characters` "
            "of reasoning, `join` and content, stripped. Its content is the solution; where that "
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


def _tell_steps() -> list[str]:
    return [
        "1. Where split.value > 0, ask assess with the problem as `problem` and `subproblem` and "
        "an empty `context`, and apply split.rule.",
        "2. Ask decompose with `problem`, as its `draw` says. Where the lists differ, write them "
        "as texts.candidates and ask select with `problem` and `candidates`; where all are equal, "
        "take the first. Replace the last item by the problem.",
        "3. The difficulty of the last sub-problem is final_difficulty, unless that is null.",
        "4. Where assess is `upfront`, ask assess for each sub-problem that has no difficulty yet, "
        "with the sub-problems before it, written as texts.list, as `context`.",
        "5. For each sub-problem in order: `context` is the steps before it, written as "
        "texts.context. Where assess is `in_context` and it has no difficulty yet, ask assess with "
        "`problem`, `context` and `subproblem`. Apply routing.rule, and ask solve_1 or solve_2 "
        "with the same three inputs and an empty `draft`.",
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


def _tell_routing(program: SCALE) -> list[str]:
    """Threshold, split and options in words, a sentence or two each."""
    return [
        _tell_threshold(program.threshold.value),
        _tell_split(program.split.value),
        _tell_final(program),
        _TIMINGS[program.timing],
        f"Candidates {program.decompose.candidates}: as many decompositions are drawn"
        + (", and the model chooses one." if program.decompose.candidates > 1 else "."),
        "Budget: no limit."
        if program.budget is None
        else f"Budget {program.budget}: at most so many response tokens are spent on a problem.",
        *(
            [f"System 2 cap {cap}: one call of System 2 takes at most so many response tokens."]
            if (cap := program.system_2_cap) is not None
            else []
        ),
    ]


_TIMINGS = {
    "in_context": "Assess `in_context`: a sub-problem is rated when its turn comes, with the "
    "sub-problems before it and their solutions as context.",
    "upfront": "Assess `upfront`: all sub-problems are rated before any is solved, each with the "
    "sub-problems before it as context.",
    "none": "Assess `none`: no sub-problem is rated, and all but the last are solved by System 1.",
}


def _tell_threshold(value: float) -> str:
    return (
        f"Threshold {value:.12g}: a sub-problem rated above it is solved by System 2 (`solve_2`), "
        "any other by System 1 (`solve_1`)."
    )


def _tell_split(value: float) -> str:
    if value == 0:
        return "Split 0: every problem is split."
    return (
        f"Split {value:.12g}: the problem is rated first; at or below this it is solved whole, as "
        "a single step, above it is split."
    )


def _tell_final(program: SCALE) -> str:
    difficulty = program.final_difficulty
    if difficulty is None:
        return "The last sub-problem, which is the problem itself, is rated like the others."
    system = 2 if difficulty > program.threshold.value else 1
    return (
        "The last sub-problem, which is the problem itself, is not rated: its difficulty is "
        f"{difficulty:.12g}, which makes it one for System {system}."
    )


# ---- Markdown ------------------------------------------------------------------------------------


def _show_stage(program: SCALE, stage: _Stage) -> list[str]:
    predictor = _find_predictor(program, stage)
    body, _ = _make_body(program, stage)
    (output,) = predictor.signature.output_fields.values()
    blocks = [
        f"## {stage.name}",
        f"{stage.about} Predictor `{stage.predictor}`, inputs "
        + ", ".join(f"`{name}`" for name in predictor.signature.input_fields)
        + ".",
        "**Instructions**",
        _fence(predictor.signature.instructions),
        "**Form of the reply**",
        _fence(str(output.json_schema_extra["desc"])),
        "**Request**",
        _fence(json.dumps(body, indent=2, ensure_ascii=False), "json"),
    ]
    messages = PlainAdapter().format_demos(predictor.signature, predictor.demos)
    for number, pair in enumerate(zip(messages[::2], messages[1::2], strict=True), 1):
        for title, message in zip(("question", "reply"), pair, strict=True):
            blocks += [f"**Demo {number}: {title}**", _fence(message["content"])]
    return blocks


def _fence(text: str, language: str = "text") -> str:
    """A fenced block that no run of backticks in the text can close."""
    longest = max(map(len, re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"


def _title(record: Any) -> str:
    model = _name_model(record)
    return "# A SCALE program" if model is None else f"# A SCALE program for {_escape(model)}"


def _show_record(record: Any) -> list[str]:
    """How the program was compiled, as far as the record tells."""
    if not isinstance(record, dict):
        return ["It has no record of a compile: nothing is known of its scores."]
    blocks = ["## Scores", _show_scores(record), _tell_compile(record)]
    blocks += _show_kept(_find(record, "stages"))
    for title, key in (("How sure these scores are", "told"), ("Notes", "notes")):
        said = _find(record, key)
        if isinstance(said, list) and said:
            blocks += [f"**{title}**", "\n".join(f"- {_escape(each)}" for each in said)]
    return blocks


def _show_scores(record: dict[str, Any]) -> str:
    sides = [_find(record, side) for side in ("before", "after")]
    rows = [
        ("accuracy", [_percent(side, "accuracy") for side in sides]),
        ("response tokens a problem", [_tokens(side, "tok") for side in sides]),
        ("threshold", [_number(_find(side, "threshold"), ".12g") for side in sides]),
        ("split", [_number(_find(side, "split"), ".12g") for side in sides]),
        ("problems", [_number(_find(side, "problems"), ",.0f") for side in sides]),
    ]
    return _table(["", "before", "after"], [[name, *cells] for name, cells in rows])


def _tell_compile(record: dict[str, Any]) -> str:
    """One line a fact; those that are not known are left out."""
    facts = [("Optimizer", _text(_find(record, "optimizer")))]
    for title, part in (("Training set", "train"), ("Validation set", "val")):
        data = _find(record, "data", part)
        facts.append((title, _join([_text(_find(data, "name")), _count(data, "problems")])))
        facts.append((f"{title}, digest", _text(_find(data, "digest"))))
    facts += [
        ("Budget", _number(_find(record, "budget"), ",.0f")),
        ("Seed", _number(_find(record, "seed"), ".0f")),
        (
            "Cost of the compile",
            _join(
                [
                    _count(_find(record, "cost"), name)
                    for name in ("calls", "response_tokens", "prompt_tokens", "seconds")
                ]
            ),
        ),
    ]
    known = [f"- {title}: {fact}" for title, fact in facts if fact != _UNKNOWN]
    return "\n".join(known) or "Nothing else is on record."


def _show_kept(stages: Any) -> list[str]:
    if not isinstance(stages, list) or not stages:
        return []
    rows = [
        [
            _text(_find(stage, "name")),
            {"True": "yes", "False": "no"}.get(str(_find(stage, "kept")), _UNKNOWN),
            _percent(stage, "accuracy"),
            _tokens(stage, "tok"),
            _number(_find(stage, "response_tokens"), ",.0f"),
        ]
        for stage in stages
    ]
    header = ["part of the compile", "kept", "accuracy", "tokens a problem", "tokens it took"]
    return [_table(header, rows)]


def _table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


# ---- values of a record, of which any may be missing or of another kind --------------------------

_UNKNOWN = "–"
_SPECIAL = re.compile(r"[\\`*\[\]<>|~$&#]|(?<!\w)_|_(?!\w)")
_PLACES = re.compile(  # addresses, hosts with a port, keys, paths
    r"""[A-Za-z][A-Za-z0-9+.-]*://\S+
    |\b(?:localhost|[\w-]+(?:\.[\w-]+)+):\d{2,5}\b(?:/\S*)?
    |\b(?:sk|hf)[-_][\w-]{8,}|\bBearer[ ]\S+
    |(?:(?<![\w.:/~-])~?/(?:[^\s/]+/)+|\b[A-Za-z]:\\(?:[^\s\\]+\\)*)(?P<file>[^\s/\\]*)""",
    re.VERBOSE,
)


def _name_model(record: Any) -> str | None:
    """The model's name as served, or None."""
    model = _find(record, "model")
    if not isinstance(model, str) or not model:
        return None
    return _hide_places(re.sub(r"^(?:hosted_vllm|litellm_proxy)/", "", model))


def _hide_places(text: str) -> str:
    """The text without addresses and keys, and with files instead of paths."""
    return _PLACES.sub(lambda match: match["file"] or "[hidden]", text)


def _find(record: Any, *path: str) -> Any:
    for name in path:
        record = record.get(name) if isinstance(record, dict) else None
    return record


def _escape(value: Any) -> str:
    """Any value as Markdown that shows it on one line, without addresses, keys and paths."""
    line = re.sub(r"\s+", " ", _hide_places(str(value))).strip()
    return _SPECIAL.sub(r"\\\g<0>", line)


def _text(value: Any) -> str:
    return _escape(value) if isinstance(value, str) and value.strip() else _UNKNOWN


def _number(value: Any, how: str) -> str:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return _UNKNOWN
    return format(value, how)


def _count(record: Any, name: str) -> str:
    number = _number(_find(record, name), ",.0f")
    return number if number == _UNKNOWN else f"{number} {name.replace('_', ' ')}"


def _join(facts: list[str]) -> str:
    return ", ".join(fact for fact in facts if fact != _UNKNOWN) or _UNKNOWN


def _percent(record: Any, name: str) -> str:
    return _with_interval(record, name, ".1%")


def _tokens(record: Any, name: str) -> str:
    return _with_interval(record, name, ",.0f")


def _with_interval(record: Any, name: str, how: str) -> str:
    value, interval = _number(_find(record, name), how), _find(record, f"{name}_interval")
    if not isinstance(interval, (list, tuple)) or len(interval) != 2:
        return value
    low, high = (_number(end, how) for end in interval)
    return value if _UNKNOWN in (low, high) else f"{value} ({low} to {high})"
