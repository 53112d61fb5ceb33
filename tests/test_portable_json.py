"""The export as messages: what a stranger can run from it, byte for byte."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import dspy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scale_dspy import SCALE, connect, modes
from scale_dspy.export.portable_json import export_messages
from scale_dspy.export.write import write_export
from scale_dspy.lm.connect import MeteredLM
from scale_dspy.stages.assess import read_score
from scale_dspy.stages.decompose import read_choice
from scale_dspy.step import Step, render_context
from scale_dspy.utils.lists import read_list, render_list
from tests import render_messages
from tests.exported import NAMES, texts, tune
from tests.fake_vllm import FakeVLLM, Fault, fake_vllm
from tests.world import World

RENDERER = Path(render_messages.__file__)
# `model` and `seed` are the caller's. Nothing else is added to what the export says.
NOT_OURS = ("model", "seed")


def run_apart(command: str, export: Path, given: Any, *rest: str) -> Any:
    """The renderer in a process of its own, that sees neither DSPy nor this project."""
    done = subprocess.run(
        [sys.executable, "-I", "-S", str(RENDERER), command, str(export), *rest],
        input=json.dumps(given),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def solve(program: SCALE, lm: MeteredLM, problem: str) -> tuple[dspy.Prediction, list[Any]]:
    """The prediction, and (stage, inputs) of every call, repeats included."""
    names = {id(predictor): NAMES[name] for name, predictor in program.named_predictors()}
    with dspy.context(lm=lm, trace=[]):
        prediction = program(problem=problem)
        return prediction, [
            [names[id(predictor)], inputs] for predictor, inputs, _ in dspy.settings.trace
        ]


def strip(body: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in body.items() if name not in NOT_OURS}


def count(bodies: list[dict[str, Any]]) -> Counter[str]:
    """Bodies without regard to their order, which concurrent requests have not."""
    return Counter(json.dumps(body, sort_keys=True) for body in bodies)


def dump(program: SCALE, folder: Path) -> Path:
    write_export(program, folder / "export.json", "messages")
    return folder / "export.json"


CASES = {
    "in_context": {"threshold": 0.3},
    "upfront": {"assess": "upfront", "split": 0.01, "final_difficulty": None},
    "prompt": {"modes": "prompt", "assess": "none"},
    "words": {"modes": "smollm3"},
    "effort": {"modes": "gpt-oss", "candidates": 2},
    "parameters": {
        "candidates": 3,
        "modes": modes(
            think_at_most=50,
            decompose={"temperature": 0.0, "top_p": None, "min_p": 0.1, "stop": ["END"]},
            assess={"extra_body": {"top_k": 1, "temperature": 0.2, "user_field": {"a": [1]}}},
        ),
    },
}


@pytest.mark.parametrize("case", CASES)
def test_every_request_is_rendered_byte_for_byte(case: str, tmp_path: Path) -> None:
    world = World.noisy(hard_share=0.6)
    program = tune(SCALE(**CASES[case]))  # type: ignore[arg-type]
    faults = [
        Fault(
            stage="solve_2",
            content="",
            reasoning="A draft {with} \\braces.",
            finish_reason="length",
        )
    ]
    with fake_vllm(world, faults=faults) as server:
        lm = connect(server.model, server.api_base, seed=0, cache=False)
        calls = [
            call
            for example in world.problems(2)
            for call in solve(program, lm, f"{example.problem}\n\n{{0}} {{problem}} `")[1]
        ]
        received = [strip(chat.body) for chat in server.chats()]
    rendered = run_apart("render", dump(program, tmp_path), calls)
    assert count(rendered) == count(received)
    stages = {stage for stage, _ in calls}
    asked = set(NAMES.values()) - {"review", "whole"}  # which these programs have no need of
    assert stages - {"whole"} == asked - ({"assess"} if case == "prompt" else set())
    solved = [inputs for stage, inputs in calls if stage == "solve_1"]
    assert any(inputs["draft"] for inputs in solved)
    assert {bool(inputs["context"]) for stage, inputs in calls if "solve" in stage} == {True, False}


def test_one_choice_a_request(server: FakeVLLM, lm: MeteredLM) -> None:
    program = SCALE(modes="embedded", candidates=3)
    _, calls = solve(program, lm, World().problem(0).text)
    rendered = [render_messages.render(export_messages(program), *call) for call in calls]
    assert count(rendered) == count([strip(chat.body) for chat in server.chats()])
    told = export_messages(program)["stages"]["decompose"]
    assert told["draw"]["per_request"] == 1
    assert "n" not in told["body"]
    assert told["body"]["grammar"].startswith("root ::=")


FLOWS: dict[str, tuple[dict[str, Any], list[Fault]]] = {
    "in_context": ({}, []),
    "upfront": ({"assess": "upfront", "threshold": 0.3}, []),
    "none": ({"assess": "none"}, []),
    "split": ({"split": 0.7, "final_difficulty": None}, []),
    "drafts": ({"modes": modes(solve_2={"max_tokens": 120})}, []),
    "one": ({"candidates": 1, "modes": "prompt"}, []),
    "draft": ({"assess": "draft", "threshold": 0.02, "final_difficulty": None}, []),
    "probes": ({"assess": "draft", "probes": 3, "split": 0.01, "threshold": 0.004}, []),
    "agreement": ({"assess": "agreement", "threshold": 0.3, "final_difficulty": None}, []),
    "review": ({"assess": "review", "final_difficulty": None, "candidates": 1}, []),
    "votes": ({"votes": 7, "stop": 0.9, "candidates": 1}, []),
    "votes at once": ({"votes": 3, "stop": 1.0, "assess": "agreement", "split": 0.8}, []),
    "votes weighed": ({"votes": 8, "stop": 0.985, "weigh": True, "candidates": 1}, []),
    "weighed at once": ({"votes": 3, "stop": 1.0, "weigh": True, "split": 0.8}, []),
    "weighed cut off": (
        {"votes": 4, "weigh": True, "modes": modes(solve_2={"max_tokens": 120})},
        [],
    ),
    "votes cut off": ({"votes": 4, "modes": modes(solve_2={"max_tokens": 120})}, []),
    "unreadable": (
        {},
        [
            Fault(stage="decompose", nth=1, content="No list."),
            Fault(stage="select", content="all"),
            Fault(stage="assess", nth=(2, 3), content="hard"),
            Fault(stage="assess", nth=(5, 6, 7), content="7"),
            Fault(stage="solve_1", nth=1, null_content=True),
            Fault(stage="solve_2", nth=1, content="<think>never closed", reasoning=""),
        ],
    ),
}


@pytest.mark.parametrize("flow", FLOWS)
def test_a_runtime_without_dspy_does_what_the_program_does(flow: str, tmp_path: Path) -> None:
    options, faults = FLOWS[flow]
    world, program = World.noisy(hard_share=0.6), tune(SCALE(**options))
    problems = [example.problem for example in world.problems(2)]
    with fake_vllm(world, faults=faults) as server:
        lm = connect(server.model, server.api_base, cache=False)  # no seed: samples by arrival
        predictions = [solve(program, lm, problem)[0] for problem in problems]
        sent = [chat.body for chat in server.chats()]
        cut_off = flow in ("drafts", "votes cut off", "weighed cut off")
        assert ("Unfinished work" in json.dumps(sent)) == cut_off
        server.clear()
        server.play(*faults)
        export = dump(program, tmp_path)
        results = run_apart("solve", export, problems, server.api_base, server.model)
        assert count([chat.body for chat in server.chats()]) == count(sent)
    for prediction, result in zip(predictions, results, strict=True):
        assert result["answer"] == prediction.answer is not None
        assert result["steps"] == [
            {
                name: getattr(step, name)
                for name in ("subproblem", "difficulty", "system", "solution")
            }
            for step in prediction.steps
        ]


# fmt: off
NOISE = [
    "1. ", "2) ", "(1) ", "- ", "* ", "**", "\n", "\n\n", "Step 2: ", "3.5", "```\n", "a b", " ",
    "0.3", "1", ".5", "%", "-", "$", "4", "Subproblem 1: ", "0. ", "1. Find a. ", "2. Find b. ",
    "① ", "② ", "a) ", "b) ", "| 1 | ", "| 2 | ", " |", "ii. ", "First, ", "[", '"Find a."', "]",
    ", ", "difficulty ", "of 10", "/10", " to ", "between ", " and ", "0 to 1", "1 = hard", "best ",
    "is ", "candidate 3", "not ", " or ",
]
# fmt: on


@settings(max_examples=300)
@given(st.lists(st.sampled_from(NOISE), max_size=14).map("".join))
def test_replies_are_read_as_the_program_reads_them(text: str) -> None:
    export = export_messages(SCALE())
    read = render_messages.read
    assert (read(export, "decompose", text) or []) == read_list(text)
    assert read(export, "select", text, 4) == read_choice(text, 4)
    assert read(export, "assess", text) == read_score(text)


@given(st.lists(st.tuples(texts, texts), max_size=4))
def test_texts_are_written_as_the_program_writes_them(pairs: list[tuple[str, str]]) -> None:
    export = export_messages(SCALE())
    steps = [Step(subproblem, None, 1, solution, "", 0) for subproblem, solution in pairs]
    items = [{"subproblem": subproblem, "solution": solution} for subproblem, solution in pairs]
    assert render_messages.write_items(export, "context", items) == render_context(steps)
    names = [subproblem for subproblem, _ in pairs]
    assert render_messages.write_list(export, names) == render_list(names)


def test_the_switch_of_thinking_is_told() -> None:
    stages = export_messages(SCALE())["stages"]
    assert {name: told["thinking"] for name, told in stages.items()} == {
        "decompose": False,
        "select": False,
        "assess": False,
        "review": False,
        "solve_1": False,
        "solve_2": True,
        "whole": True,
    }
    stages = export_messages(SCALE(modes="prompt"))["stages"]
    assert {told["thinking"] for told in stages.values()} == {None}


def test_changing_an_export_leaves_the_program_alone() -> None:
    program = SCALE()
    before = json.dumps(export_messages(program))
    export = export_messages(program)
    export["stages"]["solve_2"]["body"]["chat_template_kwargs"]["enable_thinking"] = False
    export["stages"]["decompose"]["read"]["most"] = 1
    export["stages"]["solve_1"]["read"]["kind"] = ""
    assert json.dumps(export_messages(program)) == before


def test_a_pair_is_run_on_two_servers_from_its_export(server: FakeVLLM, tmp_path: Path) -> None:
    problem = World().problem(5)
    program = SCALE(modes="pair")
    write_export(program, tmp_path / "program.json", "messages")
    with fake_vllm(model="fake/QwQ-World", thinking="always") as thinker:
        places = [thinker.api_base, thinker.model, server.api_base, server.model]
        told = run_apart("solve", tmp_path / "program.json", [problem.text], *places)
        assert told[0]["answer"] == problem.answer
        assert {chat.stage for chat in thinker.chats()} == {"solve_2"}
        bodies = {chat.stage: chat.body for chat in [*server.chats(), *thinker.chats()]}
        server.clear()
        thinker.clear()
        lm = connect(
            thinker.model,
            thinker.api_base,
            system_1=server.model,
            system_1_api_base=server.api_base,
        )
        solve(program, lm, problem.text)
        for chat in [*server.chats(), *thinker.chats()]:
            ours = {key: value for key, value in chat.body.items() if key != "messages"}
            assert {**bodies[chat.stage], "messages": None} == {**ours, "messages": None}


def test_an_export_tells_that_prefill_does_not_think() -> None:
    stages = export_messages(SCALE(modes="prefill"))["stages"]
    assert {name: told["thinking"] for name, told in stages.items()} == {
        **dict.fromkeys(["decompose", "select", "assess", "review", "solve_1"], False),
        "solve_2": None,
        "whole": None,
    }
    assert stages["solve_1"]["body"]["thinking_token_budget"] == 0
    assert not any(
        told["left_out"] for told in export_messages(SCALE(modes="pair"))["stages"].values()
    )
