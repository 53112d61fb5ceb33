"""Traces: right solutions only, one response each, apart from test sets, the same every time."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import dspy
import pytest
from datasets import load_dataset
from hypothesis import given
from hypothesis import strategies as st

from scale_dspy import SCALE, connect
from scale_dspy.data.decontamination import find_overlap, index_problems
from scale_dspy.grading.answers import accepts, find_answer
from scale_dspy.lm.connect import MeteredLM
from scale_dspy.step import Step
from scale_dspy.traces.traces import join_steps, make_traces, unbox
from tests.command import backend, run
from tests.fake_vllm import FakeVLLM, Fault, fake_vllm
from tests.known import play_known
from tests.world import World

pytestmark = pytest.mark.usefixtures("own_disk_cache")

LONG = (
    "A frog hops along a row of twenty stones and never visits a stone twice; in how many ways can "
    "it reach the last one, if every hop is of length one, two or three?"
)


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def make(lm: MeteredLM, out: Path, examples: list[Any], **options: Any) -> Any:
    settings = {"against": {}, "data": "world", **options}
    return make_traces(SCALE(candidates=2), examples, lm, out, **settings)


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_only_right_solutions_are_kept_and_datasets_reads_them(suffix: str, tmp_path: Path) -> None:
    world = World.noisy(slip=0.15)
    examples = world.problems(12)
    out = tmp_path / f"t.{suffix}"
    with fake_vllm(world) as server:
        card = make(connect(server.model, server.api_base, seed=0), out, examples)
    form = "json" if suffix == "jsonl" else "parquet"
    rows = load_dataset(form, data_files=str(out), cache_dir=str(tmp_path / "hub"), split="train")
    golds = {example.id: example.answer for example in examples}
    assert 0 < card.kept == len(rows) < 12
    assert card.dropped == {"wrong": 12 - card.kept}
    low, high = card.kept_interval
    assert low < card.kept_share == card.kept / 12 < high
    for row in rows:
        user, assistant = row["messages"]
        assert (user["role"], assistant["role"]) == ("user", "assistant")
        assert find_answer(assistant["content"]) == golds[row["id"]] == row["answer"]
        assert assistant["content"].count(r"\boxed") == 1
        assert assistant["content"].endswith(rf"$\boxed{{{row['answer']}}}$.")
        assert row["threshold"] == 0.5
        assert all(step["subproblem"] in assistant["content"] for step in row["steps"][:-1])
        assert {step["system"] for step in row["steps"]} <= {1, 2}
        assert row["tokens"] >= sum(step["tokens"] for step in row["steps"]) > 0
    text = (tmp_path / "t.card.md").read_text()
    assert f"| records kept | {card.kept} |" in text
    assert card.settings["digest"] in text


@pytest.mark.parametrize("split", [0.0, 1.0])
def test_a_voted_step_trains_on_its_winning_pass_only(split: float, tmp_path: Path) -> None:
    world = World(parts=(2, 2), whole_2=0.6, softness=0.3, tokens_2=40)
    program = SCALE(0, 1, split=split, votes=5, stop=1)
    out = tmp_path / "t.jsonl"
    with fake_vllm(world) as server:
        lm = connect(server.model, server.api_base, seed=0)
        make_traces(program, world.problems(12), lm, out, against={})
        asked = [*server.chats("solve_2"), *server.chats("whole")]
        said = [reply for chat in asked for reply in chat.replies]
    rollouts = {each["id"]: each for each in read(tmp_path / "t.jsonl.run" / "rollouts.jsonl")}
    differing = 0
    for record in read(out):
        text = record["messages"][1]["content"]
        kept = [each for each in said if unbox(each) in text]
        steps = rollouts[record["id"]]["steps"]
        assert len(kept) == len(steps)  # of five passes over each step
        for step in steps:
            results = [vote["result"] for vote in step["votes"]]
            assert len(results) == 5
            assert unbox(step["solution"]) in text
            assert results.count(find_answer(step["solution"])) == max(map(results.count, results))
            differing += len(set(results)) > 1
    assert differing > 3


def test_again_it_repeats_nothing_and_writes_the_same_file(
    server: FakeVLLM, lm: MeteredLM, tmp_path: Path
) -> None:
    out = tmp_path / "t.jsonl"
    examples = World().problems(4)
    make(lm, out, examples)
    first, calls = out.read_bytes(), len(server.chats())
    card = (tmp_path / "t.card.md").read_bytes()
    out.unlink()
    make(lm, out, examples)
    assert (out.read_bytes(), (tmp_path / "t.card.md").read_bytes()) == (first, card)
    assert len(server.chats()) == calls
    make(lm, tmp_path / "other.jsonl", examples)  # another run, from the cache
    assert (tmp_path / "other.jsonl").read_bytes() == first
    with pytest.raises(ValueError, match="holds another run: its digest is"):
        make(lm, out, examples[:3])


def test_the_shortest_right_sample_is_kept(tmp_path: Path) -> None:
    world = World.noisy(slip=0.1)
    out = tmp_path / "t.jsonl"
    with fake_vllm(world) as server:
        lm = connect(server.model, server.api_base, seed=0)
        card = make(lm, out, world.problems(4), samples=3)
    rollouts = read(tmp_path / "t.jsonl.run" / "rollouts.jsonl")
    kept = read(out)
    assert card.rollouts == len(rollouts) == 12
    assert {record["sample"] for record in kept} != {0}
    assert sum(card.dropped.values()) + card.kept == 12
    for record in kept:
        spent = [
            sum(step["tokens"] for step in rollout["steps"])
            for rollout in rollouts
            if rollout["id"] == record["id"] and rollout["correct"]
        ]
        assert sum(step["tokens"] for step in record["steps"]) == min(spent)


def test_a_problem_of_a_test_set_is_dropped_before_it_is_solved(
    server: FakeVLLM, lm: MeteredLM, tmp_path: Path
) -> None:
    examples = World().problems(3)
    planted = examples[1].problem.upper().replace("$", " ")
    tests = [dspy.Example(id="x", problem=planted, answer="1", answers=["1"])]
    card = make(lm, tmp_path / "t.jsonl", examples, against={"aime24": tests})
    assert card.overlapping == {"aime24": 1}
    assert (card.problems, card.solved, card.kept) == (3, 2, 2)
    assert examples[1].id not in {chat.problem for chat in server.chats()}
    assert "aime24 1" in (tmp_path / "t.card.md").read_text()
    with pytest.raises(ValueError, match="all 1 problems overlap with aime24"):
        make(lm, tmp_path / "u.jsonl", examples[1:2], against={"aime24": tests})


@pytest.mark.parametrize(
    ("problem", "hit"),
    [
        (LONG, True),
        (LONG.upper().replace(" ", "\n  "), True),
        ("On Monday, " + " ".join(LONG.split()[5:18]), True),
        ("On Monday, " + " ".join(LONG.split()[5:17]), False),
        ("What is $1+1$?", True),
        ("What is $1 + 1$", True),
        ("What is $1+1+1$?", False),
        ("Say: what is $1+1$?", False),
    ],
)
def test_overlap_is_thirteen_words_or_all(problem: str, hit: bool) -> None:
    tests = [dspy.Example(problem=LONG), dspy.Example(problem="What is $1+1$?")]
    assert find_overlap(problem, index_problems({"t": tests})) == ("t" if hit else None)


def test_what_was_cut_off_or_failed_becomes_no_record(
    server: FakeVLLM, lm: MeteredLM, tmp_path: Path
) -> None:
    server.play(Fault(stage="solve", nth=1, finish_reason="length"))
    program_lm = lm.copy(retries=0)
    card = make(program_lm, tmp_path / "t.jsonl", World().problems(3), threads=1)
    assert card.dropped == {"unfinished": 1}
    server.play(Fault(stage="decompose", nth=1, status=500))
    card = make(program_lm, tmp_path / "u.jsonl", World(5).problems(3), threads=1)
    assert card.dropped == {"error": 1}
    server.play(Fault(stage="solve", content=r"\boxed{0}"))
    with pytest.raises(RuntimeError, match="none of 2 rollouts became a record"):
        make(program_lm, tmp_path / "v.jsonl", World(6).problems(2))
    assert not (tmp_path / "v.jsonl").exists()


PIECES = ["\\boxed{", "\\boxed", "\\fbox {", "{", "}", "\\{", "$", "7", " a"]
TEXTS = st.lists(st.sampled_from(PIECES), max_size=12).map("".join)


@given(st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=4))
def test_a_response_has_one_box_at_its_end(parts: list[tuple[str, str]]) -> None:
    steps = [Step("Find it.", 0.5, 1, solution, reasoning, 9) for reasoning, solution in parts]
    response = join_steps(steps, "42")
    assert response.count(r"\boxed") == 1
    assert find_answer(response) == "42"


def test_unbox_keeps_what_was_in_the_box() -> None:
    assert unbox(r"$\boxed{\frac{1}{2}}$ \boxed{\boxed{3}} \fbox{x} \boxed 4") == (
        r"$\frac{1}{2}$ 3 x 4"
    )
    assert unbox(r"broken off: \boxed{12") == "broken off: 12"


def test_joined_text_says_nothing_twice() -> None:
    step = Step("P", 0.5, 1, r"So $\boxed{4}$.", "", 9)
    assert join_steps([step], "4") == "So $4$.\n\nThe answer is $\\boxed{4}$."
    thought = replace(step, reasoning="<think>2 and 2 are 4</think>")
    assert join_steps([step, thought], "4").split("\n\n") == [
        "Let me begin with a first part of it: P",
        "So $4$.",
        "With these results I can answer the question itself.",
        "2 and 2 are 4",
        "So, in short:",
        "So $4$.",
        "The answer is $\\boxed{4}$.",
    ]


def test_traces_of_another_set_on_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A set in the shape of AIME's, of which the model gets a third wrong, with two test sets."""
    monkeypatch.setenv("SCALE_DATA_DIR", str(tmp_path))
    problems = [f"Find the sum of the {n} smallest primes that exceed {7 * n}." for n in range(12)]
    rows = [{"problem": problem, "answer": str(100 + n)} for n, problem in enumerate(problems)]
    write(tmp_path / "aime.jsonl", [dict(row, year="1999") for row in rows])
    write(tmp_path / "aime24.jsonl", rows[:1])
    write(tmp_path / "aime25.jsonl", [{"problem": f"{LONG}", "answer": "1"}])
    monkeypatch.setattr("scale_dspy.data.load._load_dataset", refuse)
    examples = [dspy.Example(problem=row["problem"], answer=row["answer"]) for row in rows]
    out = tmp_path / "traces.jsonl"
    with fake_vllm(other=play_known(examples, wrong=0.33)) as server:
        flags = ["--limit", "10", "--out", str(out), "--json", *backend(server)]
        code, said, err = run(capsys, "traces", "aime", *flags)
    assert code == 1, err
    card = json.loads(said)
    assert card["overlapping"] == {"aime24": 1}
    assert card["unchecked"] == ["amc23", "math500"]
    assert "no overlap was looked for with amc23, math500" in err.split("the records are in")[1]
    kept = read(out)
    assert len(kept) == card["kept"] == 9 - card["dropped"]["wrong"]
    assert all(
        accepts(find_answer(each["messages"][1]["content"]), [each["answer"]]) for each in kept
    )


def refuse(*_: Any) -> Any:
    raise ConnectionError("no hub")


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["mini"], "required: --out"),
        (["mini", "--out", "t.csv"], "a .jsonl or .parquet file"),
        (["mini", "--out", "nowhere/t.jsonl"], "in a folder that exists"),
        (["mini", "--out", "t.jsonl", "--method", "majority"], "no solution when they are joined"),
        (["mini", "--out", "t.jsonl", "--samples", "0"], "--samples is a whole number from 1"),
        (["mini", "--out", "t.jsonl", "--against", "nosuch"], "no set is called 'nosuch'"),
    ],
)
def test_bad_usage(
    arguments: list[str],
    complaint: str,
    server: FakeVLLM,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = run(capsys, "traces", *arguments, *backend(server))
    assert (code, out) == (2, "")
    assert complaint in err
    assert not server.chats()
