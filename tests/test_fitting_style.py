"""A model that needs a style of its own gets it, whatever style the program was left with."""

from __future__ import annotations

import dspy
import pytest

from scale_dspy import SCALE, connect, modes
from scale_dspy.lm.modes import fit_request
from scale_dspy.methods import METHODS, make_program
from tests.fake_vllm import FakeVLLM
from tests.world import World

(EXAMPLE,) = World().problems(1)
MOST = max(request["max_tokens"] for request in modes("embedded").values())


@pytest.mark.parametrize("method", METHODS)
def test_a_program_as_it_comes_asks_as_the_embedded_model_needs(
    server: FakeVLLM, method: str
) -> None:
    lm = connect(server.model, server.api_base, seed=0, style="embedded")
    with dspy.context(lm=lm):
        make_program(method)(problem=EXAMPLE.problem)
    bodies = [chat.body for chat in server.chats()]
    assert bodies
    for body in bodies:
        assert body.get("n", 1) == 1
        if method != "inftythink":  # whose rounds have a length of their own
            assert body["max_tokens"] <= MOST
        assert "chat_template_kwargs" not in body
    if method == "scale":
        assert all("grammar" in chat.body for chat in server.chats("decompose"))


def test_it_draws_one_candidate_and_says_so_unless_another_number_was_chosen(
    server: FakeVLLM,
) -> None:
    lm = connect(server.model, server.api_base, seed=0, style="embedded", cache=False)
    with dspy.context(lm=lm):
        usual = SCALE()(problem=EXAMPLE.problem)
        assert len(server.chats("decompose")) == 1
        assert usual.replaced[0].startswith("decompose: 1 candidate instead of 8")
        server.clear()
        chosen = SCALE(candidates=3)(problem=EXAMPLE.problem)
        assert len(server.chats("decompose")) == 3
        assert not any("candidate instead" in note for note in chosen.replaced)


def test_what_somebody_chose_stays() -> None:
    for stage, usual in modes().items():
        assert fit_request(usual, stage, None) == usual
        assert fit_request(usual, stage, "embedded") == modes("embedded")[stage]
    capped = {**modes()["solve_2"], "max_tokens": 1000, "temperature": 0.1}
    fitted = fit_request(capped, "solve_2", "embedded")
    assert fitted == {**modes("embedded")["solve_2"], "max_tokens": 1000, "temperature": 0.1}
    for style in ("embedded", "prompt"):
        given = modes(style, solve_2={"max_tokens": 2000})["solve_2"]
        assert fit_request(given, "solve_2", "embedded") == given


@pytest.mark.embedded
def test_the_readme_s_python_runs_as_it_stands() -> None:
    scale = SCALE(threshold=0.5, candidates=8)
    with dspy.context(lm=connect(seed=0, cache=False)):
        p = scale(problem="How many positive integers below 1000 have digits that sum to 7?")
    assert p.steps[-1].solution
    assert p.usage["solve_2"]["completion_tokens"] <= MOST
