"""A program's tuned prompts, its routing and its scores as a page for people."""

from __future__ import annotations

import json
import re
from typing import Any

from scale_dspy.export.formatting import (
    UNKNOWN,
    dig,
    escape,
    join_facts,
    name_model,
    show_count,
    show_number,
    show_percent,
    show_text,
    show_tokens,
)
from scale_dspy.export.protocol import describe_routing, find_predictor, make_body
from scale_dspy.lm.adapter import PlainAdapter
from scale_dspy.program import SCALE
from scale_dspy.stages.registry import STAGES
from scale_dspy.stages.stage import Stage


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
        "\n".join(f"- {line}" for line in describe_routing(program)),
    ]
    for stage in STAGES:
        blocks += _show_stage(program, stage)
    return "\n\n".join(blocks) + "\n"


def _show_stage(program: SCALE, stage: Stage) -> list[str]:
    predictor = find_predictor(program, stage)
    body, _ = make_body(program, stage)
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
    model = name_model(record)
    return "# A SCALE program" if model is None else f"# A SCALE program for {escape(model)}"


def _show_record(record: Any) -> list[str]:
    """How the program was compiled, as far as its record says."""
    if not isinstance(record, dict):
        return ["It has no record of a compile: nothing is known of its scores."]
    blocks = ["## Scores", _show_scores(record), _describe_compile(record)]
    blocks += _show_kept(dig(record, "stages"))
    for title, key in (("How sure these scores are", "told"), ("Notes", "notes")):
        said = dig(record, key)
        if isinstance(said, list) and said:
            blocks += [f"**{title}**", "\n".join(f"- {escape(each)}" for each in said)]
    return blocks


def _show_scores(record: dict[str, Any]) -> str:
    sides = [dig(record, side) for side in ("before", "after")]
    rows = [
        ("accuracy", [show_percent(side, "accuracy") for side in sides]),
        ("response tokens a problem", [show_tokens(side, "tok") for side in sides]),
        ("threshold", [show_number(dig(side, "threshold"), ".12g") for side in sides]),
        ("split", [show_number(dig(side, "split"), ".12g") for side in sides]),
        ("problems", [show_number(dig(side, "problems"), ",.0f") for side in sides]),
    ]
    return _table(["", "before", "after"], [[name, *cells] for name, cells in rows])


def _describe_compile(record: dict[str, Any]) -> str:
    """A line for each known fact of the compile."""
    facts = [("Optimizer", show_text(dig(record, "optimizer")))]
    for title, part in (("Training set", "train"), ("Validation set", "val")):
        data = dig(record, "data", part)
        facts.append(
            (title, join_facts([show_text(dig(data, "name")), show_count(data, "problems")]))
        )
        facts.append((f"{title}, digest", show_text(dig(data, "digest"))))
    facts += [
        ("Budget", show_number(dig(record, "budget"), ",.0f")),
        ("Seed", show_number(dig(record, "seed"), ".0f")),
        (
            "Cost of the compile",
            join_facts(
                [
                    show_count(dig(record, "cost"), name)
                    for name in ("calls", "response_tokens", "prompt_tokens", "seconds")
                ]
            ),
        ),
    ]
    known = [f"- {title}: {fact}" for title, fact in facts if fact != UNKNOWN]
    return "\n".join(known) or "Nothing else is on record."


def _show_kept(stages: Any) -> list[str]:
    if not isinstance(stages, list) or not stages:
        return []
    rows = [
        [
            show_text(dig(stage, "name")),
            {"True": "yes", "False": "no"}.get(str(dig(stage, "kept")), UNKNOWN),
            show_percent(stage, "accuracy"),
            show_tokens(stage, "tok"),
            show_number(dig(stage, "response_tokens"), ",.0f"),
        ]
        for stage in stages
    ]
    header = ["part of the compile", "kept", "accuracy", "tokens a problem", "tokens it took"]
    return [_table(header, rows)]


def _table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
