"""The fake server behaves as vLLM does."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import dspy
import httpx
import pytest

from scale_dspy import SCALE, Step, connect
from scale_dspy.lm.adapter import PlainAdapter
from scale_dspy.lm.connect import MeteredLM
from scale_dspy.stages.assess import RateDifficulty
from scale_dspy.stages.decompose import ProposeSubproblems, SelectCandidate
from scale_dspy.stages.solve import SolveDirectly, SolveThoroughly
from scale_dspy.step import render_context
from scale_dspy.utils.lists import read_list, render_list
from tests.fake.prompts import count_tokens
from tests.fake_vllm import FakeVLLM, Fault, Options, fake_vllm, spawn_fake_vllm
from tests.world import World, babble, draw, read_boxed, write_subproblem

OFF = {"chat_template_kwargs": {"enable_thinking": False}}
HELLO = "Say hello."
CLIENT = httpx.Client(timeout=20)  # one for all: making one takes longer than most tests


def write_prompt(signature: type[dspy.Signature], **inputs: str) -> str:
    (message,) = PlainAdapter().format(signature, [], inputs)
    return str(message["content"])


def post(server: Any, content: str, **body: Any) -> httpx.Response:
    message = {"role": "user", "content": content}
    whole = {"model": server.model, "messages": [message], **body}
    return CLIENT.post(f"{server.api_base}/chat/completions", json=whole)


def ask(server: Any, content: str, **body: Any) -> dict[str, Any]:
    reply = post(server, content, **body)
    assert reply.status_code == 200, reply.text
    return dict(reply.json())


def read_contents(reply: dict[str, Any]) -> list[str | None]:
    return [choice["message"]["content"] for choice in reply["choices"]]


# ---- the stages ----------------------------------------------------------------------------------


def test_every_stage_is_recognised_and_answered(server: FakeVLLM) -> None:
    problem = server.world.problem(0)
    reply = ask(server, write_prompt(ProposeSubproblems, problem=problem.text), **OFF, n=3, seed=1)
    lists = [read_list(content or "") for content in read_contents(reply)]
    assert [len(items) for items in lists] == [len(problem.parts)] * 3
    assert len({items[0] for items in lists}) > 1
    candidates = "\n\n".join(
        f"Candidate {number}\n{render_list(items)}"
        for number, items in enumerate([lists[0][1:], lists[1]], 1)
    )
    choose = write_prompt(SelectCandidate, problem=problem.text, candidates=candidates)
    assert read_contents(ask(server, choose, **OFF)) == ["2"]
    inputs = {"problem": problem.text, "subproblem": lists[0][0]}
    score = read_contents(ask(server, write_prompt(RateDifficulty, **inputs), **OFF))
    assert score == [str(problem.difficulties[0])]
    for signature, body in ((SolveDirectly, OFF), (SolveThoroughly, {})):
        ask(server, write_prompt(signature, **inputs), **body)
    ask(server, f"Think step by step. {problem.text}")
    ask(server, HELLO)
    stages = ["decompose", "select", "assess", "solve_1", "solve_2", "whole", "other"]
    assert [chat.stage for chat in server.chats()] == stages
    assert [chat.system for chat in server.chats()] == [1, 1, 1, 1, 2, 2, 2]
    assert {chat.problem for chat in server.chats()} == {problem.id, ""}
    assert len(server.chats("solve")) == 2


def test_the_context_is_read_from_the_prompt(server: FakeVLLM) -> None:
    problem = server.world.problem(3)
    last = len(problem.parts)
    found = [f"Hence $\\boxed{{{value}}}$." for value in problem.values[1:last]]
    steps = [
        Step(write_subproblem(problem, j), 0.1, 1, solution, "", 1)
        for j, solution in enumerate(found, 1)
    ]
    inputs = {"problem": problem.text, "subproblem": problem.text}
    for context in (render_context(steps), render_context(steps).replace("boxed{", "boxed{1")):
        ask(server, write_prompt(SolveThoroughly, context=context, **inputs))
    assert server.right == {problem.id: [True, False]}


def test_a_draft_helps_system_1_to_conclude() -> None:
    with fake_vllm(World(parts=(1, 1), hard_share=1)) as server:
        problem = server.world.problem(0)
        inputs = {"problem": problem.text, "subproblem": problem.text}
        for draft in ("", babble(2000, draw(0))):
            ask(server, write_prompt(SolveDirectly, draft=draft, **inputs), **OFF)
        assert server.right[problem.id] == [False, True]


def test_a_model_without_a_thinking_mode_reasons_in_its_reply() -> None:
    with fake_vllm(World(parts=(1, 1), hard_share=1), thinking="never") as server:
        problem = server.world.problem(0)
        inputs = {"problem": problem.text, "subproblem": problem.text}
        replies = [
            ask(server, write_prompt(signature, **inputs))
            for signature in (SolveDirectly, SolveThoroughly)
        ]
        short, long = (reply["usage"]["completion_tokens"] for reply in replies)
        assert long > 5 * short
        assert all(not reply["choices"][0]["message"]["reasoning"] for reply in replies)
        assert server.right[problem.id] == [False, True]
        assert [chat.stage for chat in server.chats()] == ["solve_1", "solve_2"]


def test_magic_words_in_the_instructions_help() -> None:
    world = World(parts=(3, 3), hard_share=1, ability_1=0, magic="Be wise", magic_gain=1.5)
    with fake_vllm(world) as server:
        problem = world.problem(0)
        ask(server, f"{problem.text} Solve it.", **OFF)
        ask(server, f"{problem.text} Be wise, solve it.", **OFF)
        assert server.right[problem.id] == [False, True]


def test_other_prompts_can_be_answered_by_order(server: FakeVLLM) -> None:
    problem = server.world.problem(0).text
    server.options = Options(other="Bonjour.")
    assert read_contents(ask(server, HELLO)) == ["Bonjour."]
    server.options = Options(
        other=lambda body: "A tip." if "advice" in body["messages"][0]["content"] else None
    )
    assert read_contents(ask(server, f"Give advice on {problem}")) == ["A tip."]
    assert read_boxed(read_contents(ask(server, problem))[0] or "") is not None


# ---- the API -------------------------------------------------------------------------------------


def test_the_modes_differ(server: FakeVLLM) -> None:
    problem = server.world.problem(0).text
    on, off = ask(server, problem, seed=1), ask(server, problem, seed=1, **OFF)
    message, details = on["choices"][0]["message"], on["usage"]["completion_tokens_details"]
    assert count_tokens(message["reasoning"]) == details["reasoning_tokens"] > 100
    assert "reasoning_content" not in message
    assert off["choices"][0]["message"]["reasoning"] is None
    assert off["usage"]["completion_tokens_details"] == {"reasoning_tokens": 0}
    assert on["usage"]["completion_tokens"] > 3 * off["usage"]["completion_tokens"]


@pytest.mark.parametrize("thinking", ["always", "never"])
def test_a_switch_that_does_nothing(thinking: Any) -> None:
    with fake_vllm(thinking=thinking) as server:
        for body in ({}, OFF):
            message = ask(server, HELLO, **body)["choices"][0]["message"]
            assert bool(message["reasoning"]) is (thinking == "always")


def test_reasoning_fields() -> None:
    with fake_vllm(reasoning_field="reasoning_content") as server:
        assert ask(server, HELLO)["choices"][0]["message"]["reasoning_content"]
        server.options = Options(reasoning_field=None)
        (content,) = read_contents(ask(server, HELLO))
        assert content.startswith("<think>\n")
        assert "\n</think>\n\n" in content
        (content,) = read_contents(ask(server, HELLO, max_tokens=5))
        assert "</think>" not in content


def test_usage_sums_all_choices(server: FakeVLLM) -> None:
    reply = ask(server, f"{HELLO} {HELLO}", n=4, seed=0)
    messages = [choice["message"] for choice in reply["choices"]]
    thought = [count_tokens(message["reasoning"]) for message in messages]
    said = [count_tokens(message["content"]) for message in messages]
    assert reply["usage"]["prompt_tokens"] == 4
    assert reply["usage"]["completion_tokens"] == sum(thought) + sum(said)
    assert reply["usage"]["completion_tokens_details"]["reasoning_tokens"] == sum(thought)
    assert reply["usage"]["total_tokens"] == 4 + sum(thought) + sum(said)
    assert len({message["content"] for message in messages}) == 4


def test_behaviours_that_differ_from_vllm() -> None:
    with fake_vllm(ignore_n=True) as server:
        assert len(ask(server, HELLO, n=4)["choices"]) == 1
        server.options = Options(usage="one")
        reply = ask(server, HELLO, n=4, **OFF)
        assert reply["usage"]["completion_tokens"] == count_tokens(read_contents(reply)[0])
        server.options = Options(usage="none")
        assert "usage" not in ask(server, HELLO)


def test_the_same_seed_repeats_and_no_seed_does_not(server: FakeVLLM) -> None:
    texts = [
        read_contents(ask(server, HELLO, **OFF, **body))[0]
        for body in ({"seed": 1}, {"seed": 1}, {"seed": 2}, {}, {}, *[{"temperature": 0}] * 2)
    ]
    assert texts[0] == texts[1]
    assert texts[5] == texts[6]
    assert len(set(texts)) == 5
    with fake_vllm() as another:
        assert read_contents(ask(another, HELLO, seed=1, **OFF))[0] == texts[0]


def test_max_tokens_cuts(server: FakeVLLM) -> None:
    problem = server.world.problem(0).text
    reply = ask(server, problem, max_tokens=20)
    (choice,) = reply["choices"]
    assert choice["finish_reason"] == "length"
    assert choice["message"]["content"] is None
    assert count_tokens(choice["message"]["reasoning"]) == 20
    assert reply["usage"]["completion_tokens"] == 20
    prompt = write_prompt(ProposeSubproblems, problem=problem)
    whole = read_contents(ask(server, prompt, seed=1, **OFF))[0] or ""
    reply = ask(server, prompt, seed=1, max_tokens=9, **OFF)
    assert whole.startswith(read_contents(reply)[0] or "none")
    assert reply["usage"]["completion_tokens"] == 9


def test_a_thinking_budget_costs_ability() -> None:
    with fake_vllm(World(parts=(1, 1), hard_share=1)) as server:
        problem = server.world.problem(0)
        for budget in (5, 5000):
            reply = ask(server, problem.text, thinking_token_budget=budget)
            details = reply["usage"]["completion_tokens_details"]
            assert 5 <= details["reasoning_tokens"] <= budget
        assert server.right[problem.id] == [False, True]


def test_refusals(server: FakeVLLM) -> None:
    assert post(server, HELLO, n=2, temperature=0).status_code == 400
    reply = post(server, HELLO, max_tokens=40_960)
    assert reply.status_code == 400
    message = reply.json()["error"]["message"]
    assert message.startswith("This model's maximum context length is 40960 tokens. However,")
    assert post(server, HELLO, max_tokens=40_958).status_code == 200
    assert post(server, "word " * 40_960).status_code == 400
    assert post(server, HELLO, model="x").status_code == 404
    url = f"{server.api_base}/chat/completions"
    assert CLIENT.post(url, content=b"{").status_code == 400
    assert CLIENT.get(f"{server.url}/nothing").status_code == 404
    assert [request.status for request in server.requests] == [400, 400, 200, 400, 404, 400, 404]
    assert server.totals().calls == 1


def test_a_key_may_be_asked_for() -> None:
    with fake_vllm(api_key="open sesame") as server:
        url = f"{server.api_base}/models"
        assert CLIENT.get(url).status_code == 401
        assert CLIENT.get(url, headers={"Authorization": "Bearer open sesame"}).status_code == 200
        assert CLIENT.get(f"{server.url}/health").status_code == 200
        assert connect(api_base=server.api_base, api_key="open sesame").model.endswith("World")


def test_streaming_says_the_same(server: FakeVLLM) -> None:
    body = {"n": 2, "seed": 5}
    message = ask(server, HELLO, **body)["choices"][1]["message"]
    reply = post(server, HELLO, **body, stream=True, stream_options={"include_usage": True})
    assert reply.headers["content-type"] == "text/event-stream"
    lines = [line.removeprefix("data: ") for line in reply.text.split("\n\n") if line]
    assert lines.pop() == "[DONE]"
    *chunks, last = map(json.loads, lines)
    deltas = [chunk["choices"][0] for chunk in chunks if chunk["choices"][0]["index"] == 1]
    for name in ("reasoning", "content"):
        assert "".join(part["delta"].get(name, "") for part in deltas) == message[name]
    assert deltas[-1]["finish_reason"] == "stop"
    assert last["usage"] == server.chats()[0].usage
    assert server.chats()[1].status == 200


def test_a_choice_is_kept(server: FakeVLLM) -> None:
    choices = {"choice": ["alpha", "omega"]}
    assert read_contents(ask(server, HELLO, structured_outputs=choices))[0] in choices["choice"]


def test_the_other_paths(server: FakeVLLM) -> None:
    (model,) = CLIENT.get(f"{server.api_base}/models").json()["data"]
    assert (model["id"], model["max_model_len"]) == (server.model, 40_960)
    body = {"model": server.model, "prompt": "one two three"}
    assert CLIENT.post(f"{server.url}/tokenize", json=body).json()["count"] == 3
    assert CLIENT.get(f"{server.url}/health").status_code == 200
    assert CLIENT.get(f"{server.url}/version").json()["version"]
    ask(server, HELLO)
    assert "vllm:request_success_total" in CLIENT.get(f"{server.url}/metrics").text
    paths = ["/v1/models", "/tokenize", "/health", "/version", "/v1/chat/completions", "/metrics"]
    assert [request.path for request in server.requests] == paths
    assert len(server.chats()) == 1


def test_a_prefix_seen_before_is_cached() -> None:
    with fake_vllm(cached_tokens=True) as server:
        seen = [
            ask(server, prompt)["usage"]["prompt_tokens_details"]["cached_tokens"]
            for prompt in ("one " * 40, "one " * 40 + "two " * 40, "two " * 40)
        ]
    assert seen == [0, 32, 0]


# ---- faults --------------------------------------------------------------------------------------


def test_an_error_status_by_order(server: FakeVLLM) -> None:
    server.play(Fault(nth=(1, 3), status=429, retry_after=2, message="slow down"))
    replies = [post(server, HELLO) for _ in range(4)]
    assert [reply.status_code for reply in replies] == [429, 200, 429, 200]
    assert replies[0].headers["retry-after"] == "2"
    assert replies[0].json()["error"]["message"] == "slow down"
    assert server.totals().calls == 2
    assert "429" in server.chats()[0].fault


@pytest.mark.parametrize("when", ["before", "middle"])
@pytest.mark.parametrize("stream", [False, True])
def test_a_broken_connection(server: FakeVLLM, when: Any, stream: bool) -> None:
    server.play(Fault(nth=1, reset=when))
    with pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)):
        post(server, HELLO, stream=stream)
    assert post(server, HELLO).status_code == 200
    assert [chat.status for chat in server.chats()] == [0, 200]
    assert server.totals().calls == 1


def test_a_body_that_is_no_reply(server: FakeVLLM) -> None:
    server.play(Fault(nth=1, cut_json=True), Fault(nth=2, content_type="text/html"))
    cut, page = post(server, HELLO), post(server, HELLO)
    with pytest.raises(json.JSONDecodeError):
        cut.json()
    assert page.headers["content-type"].startswith("text/html")
    assert (cut.status_code, page.status_code) == (200, 200)
    assert server.totals().calls == 0


def test_replies_by_order(server: FakeVLLM) -> None:
    server.play(
        Fault(nth=1, empty_choices=True),
        Fault(nth=2, null_content=True),
        Fault(nth=3, content=("high", "1.7")),
        Fault(nth=4, content="<think>leaked</think>0.4", reasoning=""),
        Fault(nth=5, finish_reason="length"),
    )
    replies = [ask(server, HELLO, n=2) for _ in range(5)]
    assert [read_contents(reply) for reply in replies[:4]] == [
        [],
        [None, None],
        ["high", "1.7"],
        ["<think>leaked</think>0.4"] * 2,
    ]
    assert replies[1]["choices"][0]["message"]["reasoning"]
    assert replies[3]["usage"]["completion_tokens"] == 2
    assert replies[4]["choices"][0]["finish_reason"] == "length"


def test_which_requests_a_fault_is_for(server: FakeVLLM) -> None:
    score = write_prompt(RateDifficulty, problem=server.world.problem(0).text, subproblem="x")

    def play(fault: Fault, prompt: str = HELLO, count: int = 6) -> str:
        server.play(fault)
        return "".join(
            "x" if post(server, prompt, seed=k).status_code == 500 else "." for k in range(count)
        )

    assert play(Fault(every=3, status=500)) == "..x..x"
    assert play(Fault(first=5, status=500)) == "....xx"
    assert play(Fault(stage="assess", status=500), count=1) == "."
    assert play(Fault(stage="assess", status=500), score, count=1) == "x"
    assert play(Fault(when=lambda body: body["seed"] == 2, status=500)) == "..x..."
    drawn = play(Fault(probability=0.5, seed=1, status=500), count=20)
    assert 4 < drawn.count("x") < 16
    assert play(Fault(probability=0.5, seed=1, status=500), count=20) == drawn
    server.play(Fault(path="/v1/models", status=503))
    assert CLIENT.get(f"{server.api_base}/models").status_code == 503


def test_a_stall_and_a_client_that_leaves(server: FakeVLLM) -> None:
    server.play(Fault(stall=5, nth=1))
    url = f"{server.api_base}/chat/completions"
    message = {"role": "user", "content": HELLO}
    with pytest.raises(httpx.ReadTimeout):
        CLIENT.post(url, json={"model": server.model, "messages": [message]}, timeout=0.2)
    for _ in range(100):
        if server.chats():
            break
        time.sleep(0.02)
    (chat,) = server.chats()
    assert chat.cancelled
    assert chat.end - chat.start < 4


# ---- time, log and processes ---------------------------------------------------------------------


async def ask_waves(server: FakeVLLM, waves: int, width: int) -> None:
    body = {"model": server.model, "messages": [{"role": "user", "content": HELLO}]}
    async with httpx.AsyncClient(timeout=20) as client:
        for _ in range(waves):
            url = f"{server.api_base}/chat/completions"
            await asyncio.gather(*(client.post(url, json=body) for _ in range(width)))


def test_rounds_are_waves_of_requests() -> None:
    with fake_vllm(delay=0.2) as server:
        asyncio.run(ask_waves(server, waves=3, width=4))
        assert server.rounds() == 3
        assert server.in_flight_max == 4
        assert server.totals().calls == 12
        server.clear()
        assert (server.rounds(), server.requests, server.in_flight_max) == (0, [], 0)


def test_slots_make_choices_wait() -> None:
    with fake_vllm(delay=0.05, max_concurrency=2) as server:
        begun = time.monotonic()
        assert len(ask(server, HELLO, n=6)["choices"]) == 6
        assert time.monotonic() - begun > 0.14
        assert max(busy for _, busy in server.occupancy) == 2
        assert server.utilisation() > 0.7


def test_tokens_take_time() -> None:
    with fake_vllm(per_token=0.01) as server:
        begun = time.monotonic()
        ask(server, HELLO, max_tokens=20, **OFF)
        assert 0.19 < time.monotonic() - begun < 2


def test_totals_by_stage_and_a_log_without_bodies() -> None:
    with fake_vllm(keep_bodies=False) as server:
        replies = [ask(server, prompt) for prompt in (HELLO, server.world.problem(0).text)]
        assert all(not chat.body and not chat.replies for chat in server.chats())
        totals = server.totals()
        assert totals.calls == 2
        assert totals.completion_tokens == sum(
            reply["usage"]["completion_tokens"] for reply in replies
        )
        stages = server.totals_by_stage()
        assert stages["other"] + stages["whole"] == totals


def test_a_process_of_its_own() -> None:
    world = World(seed=2, parts=(2, 3))
    faults = [Fault(nth=(1, 3), status=503)]
    with spawn_fake_vllm(world, faults=faults, model="m", delay=0.01) as server:
        problem = world.problem(1)
        codes = [post(server, problem.text, seed=1).status_code for _ in range(4)]
        assert codes == [503, 200, 503, 200]
        totals = server.totals()
        assert (totals["calls"], totals["rounds"], totals["in_flight_max"]) == (2, 4, 1)
        assert len(totals["right"][problem.id]) == 2
        assert [entry["stage"] for entry in server.log()] == ["whole"] * 4
        server.kill()
        with pytest.raises(httpx.ConnectError):
            post(server, HELLO)


# ---- the program on the fake ---------------------------------------------------------------------


def test_scale_is_right_in_the_default_world(server: FakeVLLM, lm: MeteredLM) -> None:
    for example in server.world.problems(3):
        server.clear()
        with dspy.context(lm=lm):
            prediction = SCALE(threshold=0.5)(problem=example.problem)
        problem = server.world.find(example.problem)
        assert problem is not None
        assert prediction.answer == example.answer
        assert [step.difficulty for step in prediction.steps[:-1]] == [*problem.difficulties[:-1]]
        assert prediction.replaced == []
        assert server.right == {example.id: [True]}
        spent = sum(stage["completion_tokens"] for stage in prediction.usage.values())
        assert spent == server.totals().completion_tokens


def test_scale_without_system_2_fails_where_it_is_hard(server: FakeVLLM, lm: MeteredLM) -> None:
    hard = next(
        example
        for example in server.world.problems(50)
        if max(server.world.find(example.problem).difficulties) > 0.5  # type: ignore[union-attr]
    )
    with dspy.context(lm=lm):
        assert SCALE(threshold=1.0)(problem=hard.problem).answer != hard.answer
    assert server.right == {hard.id: [False]}
