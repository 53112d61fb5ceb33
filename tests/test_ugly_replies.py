"""Ugly replies: every reader takes them in bounded time, and the whole program ends with them.

`tests/fuzz/answers.py` goes on where this ends, guided by coverage.
"""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dspy
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scale_dspy import SCALE, connect, methods
from scale_dspy.baselines import make_program
from scale_dspy.data.load import load
from scale_dspy.evaluation.runner import evaluate, read_rollouts
from scale_dspy.grading.answers import accepts, equal, find_answer, normalise, read_integer, vote
from scale_dspy.grading.metrics import make_metric
from scale_dspy.lm.adapter import split_thinking
from scale_dspy.report.mathml import render_answer
from scale_dspy.report.prose import render_text
from scale_dspy.stages.ask import ATTEMPTS
from scale_dspy.stages.assess import read_score
from scale_dspy.stages.decompose import read_choice
from scale_dspy.step import Step
from scale_dspy.utils.lists import MAX_SUBPROBLEMS, read_list
from tests.fake_vllm import Fault, fake_vllm
from tests.ugly import INJECTIONS, PIECES, REPLIES
from tests.world import World

METHODS = tuple(methods.METHODS)
MEGABYTE = 1_000_000
READERS: dict[str, Callable[[str], Any]] = {
    "find_answer": find_answer,
    "normalise": normalise,
    "read_integer": read_integer,
    "vote": lambda text: vote([text, "1", text]),
    "equal": lambda text: equal(text, "1", kind="integer"),
    "accepts": lambda text: accepts(text, ["1", "2"], kind="integer"),
    "read_list": read_list,
    "read_choice": lambda text: read_choice(text, 8),
    "read_score": read_score,
    "split_thinking": split_thinking,
}
texts = st.lists(st.sampled_from([*PIECES, *INJECTIONS]) | st.text(max_size=5)).map("".join)
unhurried = settings(suppress_health_check=[HealthCheck.too_slow])


def check_promises(text: str) -> None:
    """What each reader promises of any text."""
    for read in READERS.values():
        read(text)
    found = find_answer(text)
    assert found is None or (found and found == found.strip())
    items = read_list(text)
    assert len(items) <= MAX_SUBPROBLEMS
    assert all(item.strip() == item and item for item in items)
    score = read_score(text)
    assert score is None or 0 <= score <= 1
    assert read_choice(text, 8) in (None, *range(1, 9))
    spelled = normalise(found or "")
    assert normalise(spelled) == spelled


@pytest.mark.parametrize("reply", REPLIES, ids=range(len(REPLIES)))
def test_readers_keep_their_promises_on_the_corpus(reply: str) -> None:
    check_promises(reply)
    check_promises(f"<think>{reply}")
    check_promises(f"1. {reply}\n2. {reply}\n\\boxed{{{reply}}}")


def test_an_answer_has_no_blanks_around_it_of_any_kind() -> None:
    """Found by `tests.fuzz.answers`: a file separator stayed behind an answer."""
    assert find_answer("#### \x1c7\x1c") == "7"
    assert find_answer("The answer is \x1d\u3000 **$7$**\xa0") == "7"


@unhurried
@given(texts)
def test_readers_keep_their_promises_on_any_text(text: str) -> None:
    check_promises(text)


@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
def test_readers_take_a_megabyte_of_anything(name: str) -> None:
    """A pattern that looks back would take minutes over one of these."""
    for piece in ("", *PIECES[:: 3 if name == "find_answer" else 5]):
        text = (piece or " ") * (MEGABYTE // len(piece or " "))
        begun = time.process_time()
        READERS[name](text)
        assert time.process_time() - begun < 3, piece


@pytest.mark.parametrize("piece", [r"\text{a}", r"\boxed{}", r"\x08\text{a}", "**."])
def test_an_answer_of_nothing_but_dress_is_read_at_once(piece: str) -> None:
    """Each of its 240 wrappers once took a round of all rules: two seconds for one answer."""
    text = piece * (1900 // len(piece))
    begun = time.process_time()
    normalise(text)
    assert time.process_time() - begun < 0.7


def test_time_is_linear_in_the_size_of_a_list() -> None:
    def measure(size: int) -> float:
        text = "\n".join(f"{number % 999}. Find $x$" for number in range(1, size))
        begun = time.process_time()
        read_list(text)
        return time.process_time() - begun

    assert min(measure(80_000) for _ in range(3)) < 30 * min(measure(8_000) for _ in range(3))


@pytest.mark.parametrize("text", [piece * (8000 // len(piece)) for piece in PIECES])
def test_the_page_renders_a_whole_text_of_anything_soon(text: str) -> None:
    begun = time.process_time()
    render_text(text)
    render_answer(text[:200])
    assert time.process_time() - begun < 3


@pytest.mark.parametrize("reply", REPLIES, ids=range(len(REPLIES)))
@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("assess.rate", "difficulty"),
        ("decompose.propose", "subproblems"),
        ("decompose.select", "choice"),
        ("solve.system_1", "solution"),
        (None, "solution"),
    ],
)
def test_feedback_says_something_of_any_reply(reply: str, name: str | None, field: str) -> None:
    metric = make_metric(budget=100, feedback=True)
    steps = [Step(reply, 0.3, 1, reply, reply, 50), Step("P", 0.9, 2, reply, reply, 5)]
    prediction = dspy.Prediction(
        answer=find_answer(reply),
        steps=steps,
        usage={"solve_1": {"completion_tokens": 150}},
        replaced=[f"step 1: solve {reply}"],
    )
    inputs = {"problem": "P", "subproblem": reply, "context": reply, "candidates": reply}
    trace = [(None, inputs, dspy.Prediction(**{field: reply}))]
    example = dspy.Example(problem="P", answer="7", solution=reply, kind="integer")
    begun = time.process_time()
    told = metric(example, prediction, None, name, trace)
    assert time.process_time() - begun < 3
    assert told.score == 0
    assert told.feedback
    assert len(told.feedback) < 10_000


# ---- the whole program ----------------------------------------------------------------------


class Script:
    """Replies of the corpus, in turn, for every request and every choice of it."""

    def __init__(self, replies: tuple[str, ...]) -> None:
        self.turns = itertools.cycle(replies)

    def faults(self, count: int) -> list[Fault]:
        """The next `count` replies, one a request, eight choices each."""
        return [
            Fault(nth=number, content=tuple(itertools.islice(self.turns, 8)), reasoning="")
            for number in range(1, count + 1)
        ]


def most_requests(method: str) -> int:
    """Requests that a problem may take at most, whatever the replies are."""
    if method == "cot":
        return ATTEMPTS
    if method == "majority":
        return 8
    if method == "inftythink":
        return 4 * 2 + 1
    steps = MAX_SUBPROBLEMS
    return 8 + 3 * ATTEMPTS + steps * 3 * ATTEMPTS


@pytest.mark.parametrize("place", range(len(METHODS)), ids=METHODS)
@pytest.mark.parametrize("field", ["reasoning", None], ids=["parsed", "unparsed"])
def test_every_method_ends_on_one_reply_to_all(place: int, field: str | None) -> None:
    """A model that says the same to everything; the methods share the corpus between them."""
    (example,) = World(parts=(2, 3)).problems(1)
    first = place if field else place + 3
    with fake_vllm(World(parts=(2, 3)), reasoning_field=field) as server:
        lm = connect(server.model, server.api_base, seed=0, cache=False)
        for reply in REPLIES[first % 6 :: 6]:
            program = make_program(METHODS[place], candidates=3)
            before = dict(program.options)
            server.clear()
            server.play(Fault(content=reply))
            with dspy.context(lm=lm):
                prediction = program(problem=example.problem)
            assert len(server.chats()) <= most_requests(METHODS[place]), reply
            assert prediction.answer is None or isinstance(prediction.answer, str)
            assert program.options == before
            if isinstance(program, SCALE):
                assert program.threshold.value == 0.5
                check_routing(prediction, 0.5)


def check_routing(prediction: Any, threshold: float) -> None:
    """System 2 exactly where the difficulty is above the threshold, whatever a reply asks for."""
    for step in prediction.steps:
        if step.difficulty is not None:
            assert step.system == (2 if step.difficulty > threshold else 1)
            assert 0 <= step.difficulty <= 1


@pytest.mark.parametrize("method", METHODS)
def test_every_method_ends_on_replies_mixed(method: str, tmp_path: Path) -> None:
    """Four problems at once, each request with other replies; every rollout is on record."""
    examples = World().problems(4)
    with fake_vllm() as server:
        server.play(*Script(REPLIES).faults(150))
        lm = connect(server.model, server.api_base, seed=0, cache=False)
        summary = evaluate(make_program(method), examples, lm, tmp_path, samples=1, threads=4)
        assert len(server.chats()) <= 4 * most_requests(method)
    rollouts = list(read_rollouts(tmp_path / "rollouts.jsonl"))
    assert summary["errors"] == 0, [rollout.error for rollout in rollouts]
    assert len(rollouts) == 4


def test_a_budget_holds_whatever_the_replies_are() -> None:
    (example,) = World().problems(1)
    with fake_vllm() as server:
        for reply in REPLIES[::4]:
            server.play(Fault(content=reply))
            lm = connect(server.model, server.api_base, seed=0, cache=False)
            with dspy.context(lm=lm):
                prediction = SCALE(budget=500)(problem=example.problem)
            wanted = [
                chat.body["max_tokens"] * (chat.body.get("n") or 1) for chat in server.chats()
            ]
            assert all(tokens <= 500 for tokens in wanted)
            assert prediction.steps
            server.clear()


def test_injections_learn_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    """No prompt holds the key, so no reply can bring it out."""
    monkeypatch.setenv("SCALE_API_KEY", "sk-MARKED-1")
    (example,) = World().problems(1)
    with fake_vllm(api_key="sk-MARKED-1") as server:
        server.play(*Script(INJECTIONS).faults(60))
        with dspy.context(lm=connect(server.model, server.api_base)):
            prediction = SCALE()(problem=example.problem)
        for chat in server.chats():
            assert "MARKED" not in json.dumps(chat.body)
    assert "MARKED" not in repr(prediction)


def test_half_a_character_is_mended_everywhere(tmp_path: Path) -> None:
    """orjson, which seeds and cache keys are made with, and UTF-8 files refuse lone surrogates."""
    examples = World().problems(2)
    faults = [
        Fault(stage="decompose", content="1. Find $q_{1}$ \ud83d now.\n2. Find it."),
        Fault(stage="solve_1", content=r"so \boxed{1} " + "\udc00"),
        Fault(stage="solve_2", nth=2, status=400, message="no \ud800"),
    ]
    with fake_vllm(faults=faults) as server:
        lm = connect(server.model, server.api_base, seed=0)
        summary = evaluate(SCALE(candidates=2), examples, lm, tmp_path, samples=1, threads=1)
        with dspy.context(lm=lm):
            assert SCALE(candidates=1)(problem="What is 1 + 1 \udcff?").steps
    rollouts = list(read_rollouts(tmp_path / "rollouts.jsonl"))
    assert summary["errors"] == sum("Invalid" in (each.error or "") for each in rollouts) == 1
    assert any("\ufffd" in step.subproblem for each in rollouts for step in each.steps)


def test_data_takes_ugly_texts_as_data(tmp_path: Path) -> None:
    path = tmp_path / "ugly.jsonl"
    rows = [{"problem": f"P {reply}", "answer": "7", "solution": reply} for reply in REPLIES]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    examples = load(str(path))
    assert len(examples) == len(REPLIES)
    for example in examples:
        example.problem.encode()  # no lone surrogate is left
