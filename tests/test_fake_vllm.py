"""The fake server behaves as vLLM does, and its world as it says."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import dspy
import httpx
import pytest

from scale_dspy import SCALE, Step, connect
from scale_dspy.ask import PlainAdapter
from scale_dspy.assess import RateDifficulty
from scale_dspy.backends.connect import MeteredLM
from scale_dspy.decompose import ProposeSubproblems, SelectCandidate, read_list
from scale_dspy.solve import SolveDirectly, SolveThoroughly
from scale_dspy.step import render_context, render_list
from tests.fake.prompts import count_tokens
from tests.fake_vllm import FakeVLLM, Fault, Options, fake_vllm, spawn_fake_vllm
from tests.world import (
    MODULUS,
    World,
    babble,
    draw,
    judge_list,
    read_boxed,
    read_known,
    read_target,
    write_subproblem,
)

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


# ---- the world -----------------------------------------------------------------------------------


def test_problems_depend_on_seed_and_number_alone() -> None:
    world = World(seed=3)
    problem = world.problem(17)
    assert problem == World(seed=3, noise=0.4, ability_1=0.1).problem(17)
    assert problem.text != World(seed=4).problem(17).text
    assert world.find(f"Problem:\n{problem.text}\n\nSolve it.") == problem
    assert World(seed=0).find(problem.text) == problem  # the marker names the seed
    assert world.find("What is 2 + 2?") is None


def test_examples_are_as_evaluation_reads_them() -> None:
    world = World()
    examples = world.problems(40, start=5)
    assert len({example.id for example in examples}) == 40
    for number, example in enumerate(examples, 5):
        problem = world.problem(number)
        assert example.inputs().keys() == ["problem"]
        assert example.answer == str(problem.values[-1])
        assert example.answers == [example.answer]
        assert example.kind == "integer"
        assert 2 <= len(problem.parts) <= 8
        assert all(0 <= d <= 1 for d in problem.difficulties)
        assert all(0 <= value < 1000 for value in problem.values)


def test_a_wrong_result_spoils_the_chain() -> None:
    world = World(parts=(3, 3))
    problem = world.problem(0)
    first, second = (write_subproblem(problem, j) for j in (1, 2))
    for found, spoilt in ((problem.values[1], False), (problem.values[1] + 1, True)):
        steps = [Step(first, 0.1, 1, f"Clearly $\\boxed{{{found}}}$.", "", 9)]
        known = read_known(problem, render_context(steps))
        assert known == {1: found}
        target = read_target(problem, second)
        assert target == 2
        value = world.solve(problem, target, known, 2, draw(0))
        assert (value != problem.values[2]) is spoilt


def test_a_list_without_results_makes_parts_known_but_not_their_values() -> None:
    problem = World(parts=(4, 4)).problem(1)
    items = [write_subproblem(problem, j) for j in (1, 2)]
    assert read_known(problem, render_list(items)) == {1: None, 2: None}


def test_each_system_solves_what_it_is_able_to() -> None:
    world = World(parts=(1, 1), ability_1=0.4, ability_2=0.8)
    for number in range(60):
        problem = world.problem(number)
        (difficulty,) = problem.difficulties
        for system, ability in ((1, 0.4), (2, 0.8)):
            right = world.solve(problem, 1, {}, system, draw(number)) == problem.values[1]
            assert right is (difficulty <= ability)


def test_parts_solved_in_one_go_are_harder() -> None:
    world = World(parts=(4, 4), merge=0.2)
    problem = world.problem(2)
    d1, d2, *_ = problem.difficulties
    assert world.measure(problem, 2, {}) == pytest.approx(max(d1, d2) + 0.2)
    assert world.measure(problem, 2, {1: 5}) == d2
    assert world.measure(problem, 2, {2: 5}) < 0.1


@pytest.mark.parametrize(("chance", "right"), [(1.0, True), (0.0, False)])
def test_a_problem_solved_whole_may_have_a_chance_of_its_own(chance: float, right: bool) -> None:
    world = World(parts=(5, 5), whole_1=chance, whole_2=chance)
    problem = world.problem(0)
    for system in (1, 2):
        assert (world.solve(problem, 5, {}, system, draw(1)) == problem.values[5]) is right


def test_softness_slips_and_magic() -> None:
    world = World(parts=(1, 1), hard_share=1, ability_1=0.3, softness=0.2, slip=0.1, magic="m")
    problem = world.problem(0)
    shares = {
        magic: sum(
            world.solve(problem, 1, {}, 1, draw(k), magic=magic) == problem.values[1]
            for k in range(400)
        )
        for magic in (False, True)
    }
    assert 20 < shares[False] < shares[True] < 380


def test_candidate_lists_are_as_bad_as_ordered() -> None:
    problem = World(parts=(5, 5)).problem(0)

    def count_bad(world: World, magic: bool = False) -> int:
        lists = (world.split(problem, draw(k), magic=magic) for k in range(200))
        return sum(judge_list(problem, items) < 0 for items in lists)

    assert count_bad(World()) == 0
    assert 60 < count_bad(World(lacking=0.3, superfluous=0.2)) < 140
    assert count_bad(World(lacking=1), magic=True) == 0
    lacking = World(lacking=1).split(problem, draw(1))
    excess = World(superfluous=1).split(problem, draw(1))
    assert (len(lacking), len(excess)) == (4, 6)
    candidates = [lacking, World().split(problem, draw(2)), excess]
    assert World().choose(problem, candidates, draw(0)) == 2
    unskilled = World(select_skill=0)
    assert {unskilled.choose(problem, candidates, draw(k)) for k in range(30)} == {1, 2, 3}


def test_ratings_scatter_around_the_truth() -> None:
    assert World().rate(0.62, draw(0)) == 0.62
    scores = [World(noise=0.1).rate(0.5, draw(k)) for k in range(200)]
    assert sum(scores) / 200 == pytest.approx(0.5, abs=0.03)
    assert all(0 <= World(noise=2).rate(0.5, draw(k)) <= 1 for k in range(20))


@pytest.mark.parametrize("words", [0, 1, 7, 500])
def test_babble_has_the_words_it_should(words: int) -> None:
    assert count_tokens(babble(words, draw(0))) == words


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


def test_values_stay_below_the_modulus() -> None:
    assert read_boxed(f"$\\boxed{{{MODULUS - 1}}}$") == MODULUS - 1
