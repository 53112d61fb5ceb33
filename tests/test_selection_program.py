"""Difficulty from drafts, votes in waves, problems solved whole: what is sent, what it costs."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import dspy
import pytest

from scale_dspy import SCALE, connect, modes
from scale_dspy.baselines import ChainOfThought, MajorityVote
from scale_dspy.lm.cache import Store, use
from scale_dspy.lm.connect import MeteredLM
from scale_dspy.program import DRAFTED, load_program
from scale_dspy.serve.chat_format import Narrator
from scale_dspy.stages.drafts import _warn_no_logprobs
from scale_dspy.stages.solve import SolveThoroughly
from scale_dspy.threshold import Threshold
from tests.command import backend, run
from tests.fake_vllm import FakeVLLM, Fault, fake_vllm
from tests.world import World, write_set

SHIPPED = Path(__file__).parents[1] / "optimize" / "programs"
EASY = World(ability_1=1.0, whole_1=1.0, whole_2=1.0)
SPLIT = World(parts=(3, 3), hard_share=0.5)
DOUBTFUL = World(parts=(2, 2), whole_1=0.4, whole_2=0.6, tokens_2=60)


def solve(program: Any, server: FakeVLLM, problem: str, **kwargs: Any) -> dspy.Prediction:
    with dspy.context(lm=connect(server.model, server.api_base, seed=0)):
        return program(problem=problem, **kwargs)


@pytest.mark.parametrize("parts", [2, 5, 8])
@pytest.mark.parametrize("candidates", [1, 8])
def test_easy_drafts_need_no_ratings(parts: int, candidates: int) -> None:
    world = replace(EASY, parts=(parts, parts), lacking=0.3)
    (example,) = world.problems(1)
    with fake_vllm(world) as server:
        program = SCALE(0.9, candidates=candidates, assess="draft")
        prediction = solve(program, server, example.problem)
        count = len(prediction.steps)
        assert {step.system for step in prediction.steps} == {1}
        assert len(server.chats()) <= count + 3
        assert len(server.chats("solve")) == count
        assert server.rounds() <= count + 3


@pytest.mark.parametrize("assess", DRAFTED)
def test_a_draft_is_the_solution_or_is_escalated(assess: Any) -> None:
    with fake_vllm(SPLIT) as server:
        program = SCALE(candidates=1, assess=assess, final_difficulty=None)
        program.estimate.set({"mean": 12.0}, -3.0)  # what this world's drafts show
        (example,) = SPLIT.problems(1)
        prediction = solve(program, server, example.problem)
        assert prediction.answer == example.answer
        assert len(prediction.steps) == 3
        probes = 4 if assess == "agreement" else 1
        drafts = [chat.body.get("n") or 1 for chat in server.chats("solve_1")]
        assert drafts == [probes] * 3
        assert len(server.chats("review")) == (3 if assess == "review" else 0)
        assert all(
            bool(chat.body.get("logprobs")) == (assess == "draft")
            for chat in server.chats("solve_1")
        )
        hard = [step for step in prediction.steps if step.system == 2]
        assert len(server.chats("solve_2")) == len(hard) > 0
        for step in prediction.steps:
            assert step.draft["result"] is not None
            assert (step.system == 2) == (step.difficulty > 0.5)
        assert sum(step.tokens for step in prediction.steps) == (
            prediction.usage["solve_1"]["completion_tokens"]
            + prediction.usage["solve_2"]["completion_tokens"]
        )


def test_drafts_that_differ_are_hard() -> None:
    world = World(parts=(1, 1), hard_share=1.0, hard=(0.6, 0.6), whole_1=None, softness=0.3)
    examples = world.problems(12)
    with fake_vllm(world) as server:
        program = SCALE(0.0, split=0.999, assess="agreement", probes=5)
        for example in examples:
            (step,) = solve(program, server, example.problem).steps
            drafts = [vote for vote in step.votes if vote.system == 1]
            results = [vote.result for vote in drafts] or [step.draft["result"]] * 5
            largest = max(results.count(result) for result in results)
            assert step.difficulty == pytest.approx(1 - largest / 5)


def test_votes_and_probes_are_counted_to_the_token() -> None:
    for probes, votes in ((1, 8), (3, 1), (4, 6)):
        with fake_vllm(DOUBTFUL) as server:
            program = SCALE(0.2, split=0.99, assess="draft", probes=probes, votes=votes, stop=0.9)
            for example in DOUBTFUL.problems(6):
                server.clear()
                prediction = solve(program, server, example.problem)
                (step,) = prediction.steps
                total = server.totals().completion_tokens
                assert sum(each["completion_tokens"] for each in prediction.usage.values()) == total
                assert step.tokens == total
                if step.votes:
                    assert sum(vote.tokens for vote in step.votes) == total
                    assert all(vote.tokens > 0 for vote in step.votes)


def test_votes_come_in_waves_until_they_agree() -> None:
    with fake_vllm(DOUBTFUL) as server:
        program = SCALE(0.0, split=1.0, votes=8, stop=0.9)
        drawn = set()
        for example in DOUBTFUL.problems(12):
            server.clear()
            prediction = solve(program, server, example.problem)
            waves = [chat.body.get("n") for chat in server.chats("whole")]
            assert waves == [2, 2, 4][: len(waves)]
            seeds = [chat.body["seed"] for chat in server.chats("whole")]
            assert len(set(seeds)) == len(seeds)
            results = [vote.result for vote in prediction.steps[0].votes]
            assert len(results) == sum(waves)
            assert results.count(prediction.answer) == max(map(results.count, results))
            drawn.add(len(results))
        assert len(drawn) > 1


def test_a_pass_without_a_result_has_no_vote() -> None:
    talk = Fault(stage="whole", content=("no idea", "no idea", "no idea", r"so \boxed{5}"))
    with fake_vllm(EASY, faults=[talk]) as server:
        (example,) = EASY.problems(1)
        prediction = solve(SCALE(0, split=1, votes=4, stop=1), server, example.problem)
        assert prediction.answer == "5"
        assert [vote.result for vote in prediction.steps[0].votes] == [None, None, None, "5"]


@pytest.mark.parametrize("budget", [64, 300, 1200])
@pytest.mark.parametrize("assess", ["in_context", *DRAFTED])
def test_votes_and_drafts_keep_a_budget(budget: int, assess: Any) -> None:
    world = World(tokens_2=200, softness=0.1)
    with fake_vllm(world) as server:
        for split in (0.0, 0.7):
            program = SCALE(0.3, split=split, assess=assess, votes=6, stop=0.97, budget=budget)
            for example in world.problems(3):
                use(Store(None))
                server.clear()
                prediction = solve(program, server, example.problem)
                spent = sum(stage["completion_tokens"] for stage in prediction.usage.values())
                assert spent == server.totals().completion_tokens <= budget


def list_bodies(server: FakeVLLM) -> list[dict[str, Any]]:
    """In an order of their own: what is concluded at once arrives in any."""
    return sorted((chat.body for chat in server.chats()), key=lambda body: json.dumps(body))


@pytest.mark.parametrize("style", ["hybrid", "prompt", "prefill"])
@pytest.mark.parametrize(("votes", "cap"), [(1, None), (8, None), (1, 40), (8, 40)])
def test_whole_problems_are_asked_as_the_baselines_ask_them(
    style: Any, votes: int, cap: int | None
) -> None:
    requests = modes(style, **({"solve_2": {"max_tokens": cap}} if cap else {}))
    baseline: Any = (
        ChainOfThought(modes=requests) if votes == 1 else MajorityVote(8, modes=requests)
    )
    scale = SCALE(0, split=1, votes=votes, stop=1, modes=requests)
    (example,) = World().problems(1)
    bodies = []
    for program in (baseline, scale):
        use(Store(None))
        with fake_vllm() as server:
            answer = solve(program, server, example.problem).answer
            bodies.append((list_bodies(server), answer))
    assert bodies[0] == bodies[1]
    assert len(bodies[0][0]) == (1 if cap is None else 1 + votes)  # cut off, so concluded
    assert sum(body.get("n") == 8 for body in bodies[0][0]) == (votes > 1)


def test_a_server_without_log_probabilities_is_told_of_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    _warn_no_logprobs.cache_clear()
    with fake_vllm(EASY, logprobs=False) as server, caplog.at_level(logging.WARNING):
        for example in EASY.problems(2):
            prediction = solve(SCALE(0.9, candidates=1, assess="draft"), server, example.problem)
            assert prediction.answer == example.answer
    assert sum("no log-probabilities" in record.message for record in caplog.records) == 1


def test_no_number_of_a_text_that_breaks_off_is_an_answer() -> None:
    (example,) = World().problems(1)
    with fake_vllm(faults=[Fault(content="so far 7 + 5", finish_reason="length")]) as server:
        assert solve(SCALE(1, budget=100), server, example.problem).answer is None
        assert solve(ChainOfThought(), server, example.problem).answer is None
        assert solve(MajorityVote(3), server, example.problem).answer is None


def test_options_may_be_set_and_are_checked_at_once() -> None:
    program = SCALE()
    program.threshold, program.split, program.stop = 0.9, 0.3, 0.8
    assert [type(each) for each in (program.threshold, program.split)] == [Threshold, Threshold]
    program.candidates, program.budget, program.assess, program.votes = 1, 500, "upfront", 4
    program.system_2_cap = 77
    assert program.options == {
        **SCALE().options,
        "candidates": 1,
        "budget": 500,
        "assess": "upfront",
        "votes": 4,
        "system_2_cap": 77,
    }
    assert program.solve.whole.config["max_tokens"] == 77
    program.system_2_cap = None
    assert program.solve.system_2.config == SCALE().solve.system_2.config
    for name, bad in (
        ("threshold", 2),
        ("split", "x"),
        ("candidates", 0),
        ("assess", "never"),
        ("budget", 3),
        ("votes", 0),
        ("weigh", 1),
        ("stop", -1),
        ("probes", 1.5),
        ("system_2_cap", 0),
    ):
        with pytest.raises(ValueError, match="not"):
            setattr(program, name, bad)
    assert program.options["assess"] == "upfront"
    shown = repr(program)
    for part in ("threshold=0.9", "split=0.3", "candidates=1", "assess='upfront'", "votes=4"):
        assert part in shown


def test_set_options_are_used(server: FakeVLLM, lm: MeteredLM) -> None:
    (example,) = World().problems(1)
    program = SCALE()
    program.threshold, program.candidates = 1.0, 1
    with dspy.context(lm=lm):
        prediction = program(problem=example.problem)
    assert server.chats("decompose")[0].body.get("n") is None
    assert {step.system for step in prediction.steps} == {1}


def test_load_takes_the_whole_program(tmp_path: Path) -> None:
    saved = SCALE(0.3, 2, "agreement", split=0.4, votes=8, stop=0.8, probes=3, system_2_cap=99)
    saved.weigh = True
    saved.estimate.set({"length": 2.0}, 0.5)
    saved.pass_estimate.set({"mean": 3.0}, -0.5)
    saved.record = {"optimizer": "none"}
    saved.save(tmp_path / "x.json")
    loaded = SCALE()
    loaded.load(tmp_path / "x.json")
    for program in (loaded, load_program(tmp_path / "x.json")):
        assert repr(program).splitlines()[0] == repr(saved).splitlines()[0]
        assert program.estimate == saved.estimate
        assert program.pass_estimate == saved.pass_estimate
        assert program.record == saved.record
        assert program.solve.whole.config["max_tokens"] == 99


def test_files_from_before_drafts_and_votes_still_load(tmp_path: Path) -> None:
    saved = SCALE(0.3, 2, split=0.4)
    saved.solve.system_2.signature = SolveThoroughly.with_instructions("Solve it well.")
    saved.solve.system_2.demos = [
        {"problem": "P", "subproblem": "P", "solution": "whole"},
        {"problem": "P", "subproblem": "Q", "solution": "a part"},
        {"subproblem": "Q", "solution": "a part"},
    ]
    saved.save(tmp_path / "new.json")
    state = json.loads((tmp_path / "new.json").read_text())
    for name in ("stop", "estimate", "pass_estimate", "solve.whole", "assess.review"):
        del state[name]
    for name in ("votes", "weigh", "probes"):
        del state["scale_dspy"]["options"][name]
    (tmp_path / "old.json").write_text(json.dumps(state))
    for program in (load_program(tmp_path / "old.json"), SCALE()):
        program.load(tmp_path / "old.json")
        assert (program.threshold.value, program.split.value, program.candidates) == (0.3, 0.4, 2)
        for predictor in (program.solve.system_2, program.solve.whole):
            assert predictor.signature.instructions == "Solve it well."
        assert len(program.solve.system_2.demos) == 3
        assert [dict(demo) for demo in program.solve.whole.demos] == [
            {"problem": "P", "solution": "whole"}
        ]
        assert list(program.solve.whole.signature.input_fields) == ["problem"]
        assert (program.votes, program.weigh, program.timing) == (1, False, "in_context")
    state["scale_dspy"]["options"]["votes"] = 0
    (tmp_path / "bad.json").write_text(json.dumps(state))
    before = repr(program)
    with pytest.raises(ValueError, match="votes"):
        program.load(tmp_path / "bad.json")
    assert repr(program) == before


@pytest.mark.parametrize("path", sorted(SHIPPED.glob("*/*.json")), ids=lambda path: path.name)
def test_shipped_programs_load_and_run(path: Path) -> None:
    """They are of a model that gains nothing by splitting, and their prompts are the plain ones."""
    if path.name.endswith(".messages.json"):
        assert json.loads(path.read_text())["format"] == "scale_dspy/messages/1"
        return
    program = load_program(path)
    (example,) = DOUBTFUL.problems(1)
    with fake_vllm(DOUBTFUL) as server:
        prediction = solve(program, server, example.problem)
        assert [step.system for step in prediction.steps] == [2]
        assert [chat.stage for chat in server.chats()] == ["whole"]
    whole, cot = program.solve.whole, ChainOfThought().solve
    assert (whole.signature.instructions, whole.demos) == (cot.signature.instructions, [])


def test_predictions_are_plain_data(server: FakeVLLM, lm: MeteredLM) -> None:
    (example,) = World().problems(1)
    with dspy.context(lm=lm):
        prediction = SCALE(0, split=0.9, assess="draft", votes=2)(problem=example.problem)
    plain = json.loads(json.dumps(prediction.toDict()))
    assert plain["steps"][0]["subproblem"] == prediction.steps[0].subproblem


def test_weighed_votes_end_with_a_pass_that_is_sure_enough() -> None:
    told = replace(DOUBTFUL, tells=0.5)
    (example,) = told.problems(1)
    for stop, waves in ((0.0, [0]), (1.0, [0] * 8)):
        program = SCALE(0, split=1, votes=8, stop=stop, weigh=True)
        with fake_vllm(told) as server:
            (step,) = solve(program, server, example.problem).steps
            assert all(chat.body["logprobs"] for chat in server.chats("whole"))
        assert [vote.wave for vote in step.votes] == waves
        for vote in step.votes:
            assert vote.doubt == program.pass_estimate(vote.features)
            assert {"length", "cut_off", "unreadable", "mean", "window", "last"} == set(
                vote.features
            )
    with fake_vllm(told, logprobs=False) as server:
        (step,) = solve(program, server, example.problem).steps
        assert {"length", "cut_off", "unreadable"} == set(step.votes[0].features)


def test_weighed_votes_hold_a_budget() -> None:
    program = SCALE(0, split=1, votes=8, stop=0.999999, weigh=True)
    for example in DOUBTFUL.problems(3):
        for budget in (64, 200, 900, 2000):
            with fake_vllm(DOUBTFUL) as server:
                prediction = solve(program, server, example.problem, budget=budget)
                spent = sum(stage["completion_tokens"] for stage in prediction.usage.values())
                assert spent <= budget
                assert spent == server.totals().completion_tokens


FLAGS = ["--assess", "draft", "--split", "0.99", "--threshold", "0", "--votes", "4", "--stop", "1"]


def test_solve_and_evaluate_take_drafts_and_votes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    SCALE(0.5, 1).save(tmp_path / "plain.json")
    for start in ([], ["--program", str(tmp_path / "plain.json")]):
        with fake_vllm(DOUBTFUL) as server:
            asked = [*FLAGS, "--weigh", "--probes", "3", *start, *backend(server)]
            code, out, _ = run(capsys, "solve", DOUBTFUL.problem(1).text, *asked, "--json")
            assert code == 0
            assert len(json.loads(out)["steps"]) == 1
            sent = [(chat.stage, chat.body.get("n")) for chat in server.chats()]
            assert sent == [("solve_1", 3), ("whole", 4)]
            write_set(tmp_path / "set.jsonl", DOUBTFUL.problems(4))
            out_dir = tmp_path / f"run{len(start)}"
            for samples in ("1", "2"):  # the first is read again before the second is drawn
                code, *_ = run(
                    capsys, "evaluate", str(tmp_path / "set.jsonl"), "--samples", samples, *asked,
                    "--out", str(out_dir),
                )  # fmt: skip
                assert code == 0
        told = json.loads((out_dir / "run.json").read_text())
        assert (told["stop"], told["options"]["votes"], told["options"]["probes"]) == (1, 4, 3)
        lines = (out_dir / "rollouts.jsonl").read_text().splitlines()
        votes = [vote for line in lines for vote in json.loads(line)["steps"][0]["votes"]]
        assert [vote["system"] for vote in votes] == 8 * [1, 1, 1, 2, 2, 2, 2]
        assert told["options"]["weigh"] is True
        assert told["pass_estimate"]["bias"] == SCALE().pass_estimate.bias
        assert all((vote["doubt"] is None) == (vote["system"] == 1) for vote in votes)


def test_terminal_and_server_tell_of_drafts_and_votes(capsys: pytest.CaptureFixture[str]) -> None:
    problem = DOUBTFUL.problem(1).text
    with fake_vllm(DOUBTFUL) as server:
        _, _, err = run(capsys, "solve", problem, *FLAGS, *backend(server))
        told: list[str] = []
        program = SCALE(0, 1, "draft", split=0.99, votes=4, stop=1)
        with dspy.context(callbacks=[Narrator(told.append)]):
            (step,) = solve(program, server, problem).steps
    text = "".join(told)
    assert f"difficulty {step.difficulty:.2f}, System 2, 4 passes, {step.tokens:,} tokens" in err
    assert f"(difficulty {step.difficulty:.2f}, System 2)" in text
    assert f"[4 passes, {step.tokens:,} tokens]" in text


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (["--votes", "0"], "votes is a whole number from 1 to 256, not 0"),
        (["--probes", "0"], "probes is a whole number from 1 to 256, not 0"),
        (["--stop", "2"], "a threshold is a number from 0 to 1, not 2"),
        (["--votes", "2", "--method", "cot"], "method cot has no votes"),
        (["--assess", "guess"], "invalid choice: 'guess'"),
    ],
)
def test_bad_drafts_and_votes_are_one_line(
    server: FakeVLLM, capsys: pytest.CaptureFixture[str], flags: list[str], complaint: str
) -> None:
    code, out, err = run(capsys, "solve", "1 + 1", *flags, *backend(server))
    assert (code, out) == (2, "")
    assert complaint in err.splitlines()[-1]
    assert not server.requests


class Shouting(dspy.Module):
    """What may stand in a predictor's place."""

    def __init__(self) -> None:
        super().__init__()
        self.predict = dspy.Predict(SolveThoroughly)

    async def aforward(self, **inputs: str) -> dspy.Prediction:
        prediction = await self.predict.acall(**inputs)
        return dspy.Prediction(solution=prediction.solution)


@pytest.mark.parametrize("kind", [Shouting, lambda: dspy.ChainOfThought(SolveThoroughly)])
def test_a_module_with_the_same_fields_may_stand_in_a_predictors_place(kind: Any) -> None:
    said = (
        "[[ ## reasoning ## ]]\nso\n\n[[ ## solution ## ]]\nis \\boxed{5}\n\n[[ ## completed ## ]]"
    )
    (example,) = World().problems(1)
    with fake_vllm(other=lambda body: said) as server:
        program = SCALE(0, candidates=1)
        program.solve.system_2 = kind()
        assert solve(program, server, example.problem).answer == "5"
        copy = program.deepcopy()
        copy.votes = 2
        assert solve(copy, server, example.problem).steps[-1].votes[0].result == "5"


class Own(ChainOfThought):
    async def aforward(self, problem: str) -> dspy.Prediction:  # type: ignore[override]
        return dspy.Prediction(answer=problem)


def test_a_subclass_may_leave_the_budget_out() -> None:
    assert Own()(problem="7").answer == "7"


def test_a_run_begun_before_votes_were_weighed_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_set(tmp_path / "set.jsonl", DOUBTFUL.problems(2))
    asked = [
        "evaluate",
        str(tmp_path / "set.jsonl"),
        "--samples",
        "1",
        "--out",
        str(tmp_path / "r"),
    ]
    voting = ["--split", "1", "--threshold", "0", "--votes", "2"]
    with fake_vllm(DOUBTFUL) as server:
        assert run(capsys, *asked, *voting, *backend(server))[0] == 0
        path = tmp_path / "r" / "run.json"
        told = json.loads(path.read_text())
        del told["options"]["weigh"], told["pass_estimate"]
        path.write_text(json.dumps(told))
        sent = len(server.chats())
        assert run(capsys, *asked, *voting, *backend(server))[0] == 0
        assert len(server.chats()) == sent  # it was finished
        code, _, err = run(capsys, *asked, *voting, "--weigh", *backend(server))
    assert code == 2
    assert "holds another run" in err.splitlines()[-1]
