"""The exports: what a stranger can run from them, byte for byte, and what a person can read."""

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
from markdown_it import MarkdownIt

from scale_dspy import SCALE, connect, modes
from scale_dspy.ask import PlainAdapter, mend
from scale_dspy.assess import read_score
from scale_dspy.backends.connect import MeteredLM
from scale_dspy.decompose import read_choice
from scale_dspy.lists import read_list, render_list
from scale_dspy.program import load_program
from scale_dspy.step import Step, render_context
from scale_dspy.tuning.export import write_export
from scale_dspy.tuning.markdown import export_markdown
from scale_dspy.tuning.messages import export_messages
from tests import render_messages
from tests.fake_vllm import FakeVLLM, Fault, fake_vllm
from tests.world import World

RENDERER = Path(render_messages.__file__)
# `model` and `seed` are the caller's. Nothing else is added to what the export says.
NOT_OURS = ("model", "seed")
PROBLEM = "Let $x = \\frac{1}{2}$.\n\nFind {x}."
NAMES = {
    "decompose.propose": "decompose",
    "decompose.select": "select",
    "assess.rate": "assess",
    "solve.system_1": "solve_1",
    "solve.system_2": "solve_2",
}
DEMOS: dict[str, list[dict[str, str]]] = {
    "decompose.propose": [{"problem": PROBLEM, "subproblems": "1. Find $y$.\n2. Find $x$."}],
    "decompose.select": [{"problem": PROBLEM, "candidates": "Candidate 1\n1. A", "choice": "1"}],
    "assess.rate": [
        {"problem": PROBLEM, "context": "", "subproblem": "Find ```x```.", "difficulty": "0.25"},
        {"problem": PROBLEM, "difficulty": "0.5"},
    ],
    "solve.system_1": [
        {
            "problem": PROBLEM,
            "context": "1. A\nB",
            "subproblem": "C",
            "draft": "",
            "solution": r"\boxed{\frac{1}{2}}",
        }
    ],
    "solve.system_2": [{"subproblem": "Half {a} demo", "solution": "\\boxed{}"}],
}
RECORD: dict[str, Any] = {
    "optimizer": "gepa",
    "model": "hosted_vllm/Qwen/Qwen3-8B",
    "data": {
        "train": {"name": "limo", "digest": "abc123", "problems": 40},
        "val": {"name": "aime_mix", "digest": "def456", "problems": 30},
    },
    "budget": 2_000_000,
    "seed": 3,
    "before": {
        "threshold": 0.5,
        "split": 0.0,
        "accuracy": 0.4,
        "accuracy_interval": [0.3, 0.5],
        "tok": 9000.4,
        "tok_interval": [8000, 10000],
        "problems": 30,
    },
    "after": {
        "threshold": 0.42,
        "split": 0.1,
        "accuracy": 0.5,
        "accuracy_interval": [0.4, 0.6],
        "tok": 8000.0,
        "tok_interval": None,
        "problems": 30,
    },
    "cost": {"response_tokens": 1_900_000, "prompt_tokens": 50_000, "calls": 900, "seconds": 61.5},
    "stages": [{"name": "prompts", "kept": True, "accuracy": 0.45, "tok": 8500}],
    "notes": ["stopped early | at <b>round 3</b>"],
}


def tune(program: SCALE) -> SCALE:
    """The program with rewritten instructions and demos in every stage."""
    for name, predictor in program.named_predictors():
        old = predictor.signature.instructions
        text = f"Tuned {{{name}}} with ``` and \\frac{{a}}{{b}}.\n\n  {old}\n"
        predictor.signature = predictor.signature.with_instructions(text)
        predictor.demos = [dspy.Example(**demo) for demo in DEMOS[name]]
    return program


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
    assert stages == set(NAMES.values()) - ({"assess"} if case == "prompt" else set())
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
        assert ("Unfinished work" in json.dumps(sent)) == (flow == "drafts")
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
PIECES = [
    r"\frac{a}{b}", "{problem}", "{", "}}", "`", "```", "~~~", "\n", "\n\n", "Problem:\n", " ",
    "\\", "| --- |", "<b>", "$x$", "1. ", "%s", "\t", "𝜃", "é",
]
NOISE = [
    "1. ", "2) ", "(1) ", "- ", "* ", "**", "\n", "\n\n", "Step 2: ", "3.5", "```\n", "a b", " ",
    "0.3", "1", ".5", "%", "-", "$", "4", "Subproblem 1: ",
]
# fmt: on
texts = st.one_of(st.lists(st.sampled_from(PIECES)).map("".join), st.text(max_size=20))


@settings(max_examples=30, deadline=None)
@given(texts, texts, texts, texts)
def test_any_text_survives_both_exports(first: str, second: str, third: str, fourth: str) -> None:
    program = SCALE()
    predictor = program.solve.system_1
    signature = predictor.signature.with_instructions(f"{first} end")
    signature = signature.with_updated_fields("solution", desc=f"{third} form")
    predictor.signature = signature.with_updated_fields("context", desc=f"{second} title")
    demo = {"problem": second, "context": "", "subproblem": third, "draft": "", "solution": fourth}
    predictor.demos = [demo]
    inputs = {"problem": fourth, "context": third, "subproblem": second, "draft": first}
    expected = PlainAdapter().format(predictor.signature, predictor.demos, inputs)
    export = json.loads(json.dumps(export_messages(program)))
    clean = {name: mend(value) for name, value in inputs.items()}  # as the program does, and says
    assert render_messages.render(export, "solve_1", clean)["messages"] == expected

    tokens = MarkdownIt().parse(export_markdown(program))
    fences = [normalise(mend(token.content)) for token in tokens if token.type == "fence"]
    instructions = predictor.signature.instructions  # DSPy cleans their indentation
    shown = [instructions, f"{third} form", *(message["content"] for message in expected[:-1])]
    assert {normalise(mend(f"{text}\n")) for text in shown} <= set(fences)
    assert len(fences) == 17  # five stages with instructions, form and request, and the one demo
    assert sum(token.type == "heading_open" for token in tokens) == 7


def normalise(text: str) -> str:
    """As CommonMark reads it: one kind of line ending, no NUL."""
    return text.replace("\r\n", "\n").replace("\r", "\n").replace("\0", "\ufffd")


@settings(max_examples=150, deadline=None)
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
        "solve_1": False,
        "solve_2": True,
    }
    stages = export_messages(SCALE(modes="prompt"))["stages"]
    assert {told["thinking"] for told in stages.values()} == {None}


def test_markdown_is_the_same_twice_and_after_a_round_trip(tmp_path: Path) -> None:
    program = tune(SCALE(threshold=0.42, split=0.1))
    program.record = RECORD
    program.save(tmp_path / "program.json")
    loaded = load_program(tmp_path / "program.json")
    assert export_markdown(program) == export_markdown(program) == export_markdown(loaded)
    assert export_messages(program) == export_messages(loaded)


def test_markdown_tells_scores_routing_and_prompts() -> None:
    program = tune(SCALE(threshold=0.42, split=0.1, budget=5000))
    program.record = RECORD
    page = export_markdown(program)
    assert page.startswith("# A SCALE program for Qwen/Qwen3-8B\n")
    assert "| accuracy | 40.0% (30.0% to 50.0%) | 50.0% (40.0% to 60.0%) |" in page
    assert "| response tokens a problem | 9,000 (8,000 to 10,000) | 8,000 |" in page
    assert "- Training set: limo, 40 problems" in page
    assert "- Cost of the compile: 900 calls, 1,900,000 response tokens" in page
    assert "| prompts | yes | 45.0% | 8,500 | – |" in page
    assert r"- stopped early \| at \<b\>round 3\</b\>" in page
    assert "- Threshold 0.42: a sub-problem rated above it" in page
    assert "- Split 0.1: the problem is rated first" in page
    assert "- Budget 5000:" in page
    for name, predictor in program.named_predictors():
        assert f"## {NAMES[name]}\n" in page
        assert f"\n{predictor.signature.instructions}\n" in page


def test_a_change_of_one_line_changes_one_line() -> None:
    program = tune(SCALE())
    before = export_markdown(program).splitlines()
    rate = program.assess.rate
    old = rate.signature.instructions
    rate.signature = rate.signature.with_instructions(old.replace("Weigh", "Consider"))
    after = export_markdown(program).splitlines()
    assert sum(one != other for one, other in zip(before, after, strict=True)) == 1


BAD_RECORDS: list[Any] = [
    {},
    {"model": None, "data": None, "before": [], "after": "x", "stages": {}, "notes": 3},
    {"model": 7, "data": {"train": 1}, "stages": [None, 4, {"kept": []}], "notes": [None, {}]},
    {
        "before": {"accuracy": "high", "accuracy_interval": [1]},
        "after": {"accuracy": True, "tok": float("nan"), "tok_interval": [None, 2]},
        "cost": {"calls": None},
        "optimizer": "",
    },
    "a text",
]


@pytest.mark.parametrize("record", [None, *BAD_RECORDS])
def test_a_record_may_lack_anything(record: Any) -> None:
    program = SCALE()
    program.record = record
    assert export_markdown(program).startswith("# A SCALE program\n")
    assert export_messages(program)["model"] is None


def test_no_key_address_or_path_in_any_export() -> None:
    address, key = "http://secret.host:8123/v1", "sk-verysecretkey"
    program = tune(SCALE(modes=modes(assess={"api_key": key, "api_base": address, "timeout": 7})))
    program.solve.system_1.lm = connect("name", address, key)
    program.record = {
        **RECORD,
        "model": "hosted_vllm//home/someone/models/Qwen3-8B",
        "data": {"train": {"name": "/home/someone/data/train.jsonl", "problems": 3}},
        "notes": [f"{address} failed with Bearer {key}", r"read C:\Users\someone\a.json and ~/b/c"],
    }
    exports = export_markdown(program) + json.dumps(export_messages(program))
    for secret in ("secret", key, "someone", "8123", "/home"):
        assert secret not in exports
    assert "# A SCALE program for Qwen3-8B\n" in exports
    assert "train.jsonl" in exports
    assert export_messages(program)["stages"]["assess"]["left_out"] == [
        "api_base",
        "api_key",
        "timeout",
    ]


def test_changing_an_export_leaves_the_program_alone() -> None:
    program = SCALE()
    before = json.dumps(export_messages(program))
    export = export_messages(program)
    export["stages"]["solve_2"]["body"]["chat_template_kwargs"]["enable_thinking"] = False
    export["stages"]["decompose"]["read"]["most"] = 1
    export["stages"]["solve_1"]["read"]["kind"] = ""
    assert json.dumps(export_messages(program)) == before


def test_files_are_written_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = SCALE()
    program.assess.rate.demos = [{"problem": "half \ud835 a pair, ∑", "difficulty": "0"}]
    for kind, name in (("markdown", "new/page.md"), ("messages", "new/export.json")):
        write_export(program, tmp_path / name, kind)  # type: ignore[arg-type]
    assert json.loads((tmp_path / "new/export.json").read_bytes()) == export_messages(program)
    assert "∑" in (tmp_path / "new/page.md").read_text(encoding="utf-8")

    def fail(self: Path, target: Path) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(Path, "replace", fail)
    before = (tmp_path / "new/page.md").read_bytes()
    with pytest.raises(OSError, match="disk full"):
        write_export(SCALE(threshold=0.1), tmp_path / "new/page.md", "markdown")
    assert (tmp_path / "new/page.md").read_bytes() == before
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["export.json", "page.md"]
    with pytest.raises(ValueError, match="choose markdown or messages"):
        write_export(program, tmp_path / "x", "pdf")  # type: ignore[arg-type]


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
        **dict.fromkeys(["decompose", "select", "assess", "solve_1"], False),
        "solve_2": None,
    }
    assert stages["solve_1"]["body"]["thinking_token_budget"] == 0
    assert not any(
        told["left_out"] for told in export_messages(SCALE(modes="pair"))["stages"].values()
    )
