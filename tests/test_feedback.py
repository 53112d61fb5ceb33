"""What GEPA is told of a prediction, predictor by predictor."""

from __future__ import annotations

from typing import Any

import dspy
import pytest
from dspy.teleprompt.bootstrap_trace import FailedPrediction
from hypothesis import given, settings
from hypothesis import strategies as st

from scale_dspy import SCALE, connect
from scale_dspy.grading.labels import Label
from scale_dspy.grading.metrics import make_metric
from scale_dspy.step import Step, Vote
from tests.fake_vllm import fake_vllm
from tests.predictions import GOLD, make_prediction
from tests.world import World


def make_step(subproblem: str, difficulty: float | None, system: int, result: str = "3") -> Step:
    return Step(subproblem, difficulty, system, rf"So \boxed{{{result}}}.", "", 40 * system)


STEPS = [
    make_step("Find $x$.", 0.1, 1, "3"),
    make_step("Find $x^2$.", 0.8, 2, "9"),
    make_step(str(GOLD.problem), 0.9, 2, "8"),
]


def speak(
    prediction: Any, name: str | None = None, call: dict[str, Any] | None = None, **terms: Any
) -> str:
    """The feedback on a predictor, and on its one call if `call` has its inputs and outputs."""
    inputs = {key: value for key, value in (call or {}).items() if key in INPUTS}
    outputs = {key: value for key, value in (call or {}).items() if key not in INPUTS}
    pred_trace = [(None, inputs, dspy.Prediction(**outputs))] if call else None
    result = make_metric(feedback=True, **terms)(GOLD, prediction, None, name, pred_trace)
    assert result.score == make_metric(**terms)(GOLD, prediction)
    return str(result.feedback)


INPUTS = ("problem", "context", "subproblem", "draft", "candidates")


def test_without_feedback_the_metric_is_a_number_for_every_call() -> None:
    metric = make_metric(budget=100)
    assert metric(GOLD, make_prediction("7", 150)) == 0.75
    assert metric(GOLD, make_prediction("7", 150), [], "assess.rate", []) == 0.75


@pytest.mark.parametrize(
    ("failed", "reason"),
    [
        (FailedPrediction("ValueError: no room"), "ValueError: no room"),
        (dspy.Prediction(error="LMError: gone"), "LMError: gone"),
        (TimeoutError("too late"), "TimeoutError: too late"),
        (dspy.Prediction(), "not on record"),
        (dspy.Prediction(answer=7), "no text but 7"),
        (None, "not on record"),
    ],
)
def test_a_failed_run_scores_0_and_says_with_what(failed: Any, reason: str) -> None:
    assert make_metric()(GOLD, failed) == 0
    for name in (None, "assess.rate", "solve"):
        words = speak(failed, name)
        assert "failed" in words
        assert reason in words


def test_the_outcome_and_the_cost_are_told() -> None:
    assert "The final answer 8 is wrong; right is 7." in speak(make_prediction("8"))
    assert "No final answer could be read" in speak(make_prediction(None))
    over = speak(make_prediction("7", 1500), budget=1000)
    assert "The final answer 7 is right." in over
    assert "1,500 response tokens, 500 more than the budget of 1,000" in over
    assert "in the stage solve_2" in over
    assert "within the budget" in speak(make_prediction("7", 900), budget=1000)


def test_the_rating_of_an_easy_step_is_suspect_where_the_answer_is_wrong() -> None:
    call = {"subproblem": "Find $x$.", "context": "", "difficulty": "0.1"}
    first, *rest = speak(make_prediction("8", steps=STEPS), "assess.rate", call).splitlines()
    assert first.startswith('Sub-problem 1 of 3, "Find $x$.": score 0.1, solved without thinking')
    assert "this score was too low" in first
    assert not any("x^2" in line for line in rest)  # it had thinking, so it is not suspect


def test_the_rating_of_a_hard_step_has_its_cost_where_the_answer_is_right() -> None:
    call = {"subproblem": "Find $x$.", "context": "", "difficulty": "0.1"}
    words = speak(make_prediction("7", steps=STEPS), "assess.rate", call)
    first, *rest = words.splitlines()
    assert "Nothing shows" in first
    assert any('"Find $x^2$.": score 0.8, solved with thinking' in line for line in rest)
    assert "80 tokens. If it can be solved right without thinking" in words
    assert "The problem itself" not in words  # its score was set, not rated


@pytest.mark.parametrize(
    ("subproblem", "alike", "expected"),
    [
        ("Find $x$.", True, "both find 2. A low score is right"),
        (
            "Find $x$.",
            False,
            "System 1 finds 3, System 2 finds 2. The score should have been near 1",
        ),
        ("Find $x^2$.", True, "The score should have been near 0"),
        ("Find $x^2$.", False, "A high score is right"),
    ],
)
@pytest.mark.parametrize("answer", ["7", "8"])
def test_what_labels_say_of_a_score_is_known(
    subproblem: str, alike: bool, expected: str, answer: str
) -> None:
    label = Label(str(GOLD.problem), subproblem, 0.5, alike, "2" if alike else "3", "2")
    call = {"subproblem": subproblem, "context": "c", "difficulty": "0.1"}
    words = speak(
        make_prediction(answer, steps=STEPS),
        "assess.rate",
        call,
        labels={(f" {GOLD.problem}\n", subproblem): label},
    )
    assert "Known to be " + ("easy" if alike else "hard") in words.splitlines()[0]
    assert expected in words.splitlines()[0]


def test_a_known_misrating_is_told_beside_the_call() -> None:
    label = Label(str(GOLD.problem), "Find $x^2$.", 0.5, True, "4", "4")
    call = {"subproblem": "Find $x$.", "context": "", "difficulty": "0.1"}
    labels = {(label.problem, label.subproblem): label}
    words = speak(make_prediction("8", steps=STEPS), "assess.rate", call, labels=labels)
    assert "both find 4. The score should have been near 0" in words


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("hard", "reply with one number"),
        ("0.4", "the score in use 0.1, which another reply"),
        ("0.1", None),
    ],
)
def test_a_reply_that_did_not_count_is_told(reply: str, expected: str | None) -> None:
    call = {"subproblem": "Find $x$.", "context": "", "difficulty": reply}
    words = speak(make_prediction("8", steps=STEPS), "assess.rate", call)
    assert expected in words if expected else "in use" not in words


def test_a_rating_of_the_whole_problem_is_not_taken_for_the_last_steps() -> None:
    call = {"subproblem": str(GOLD.problem), "context": "", "difficulty": "0.7"}
    words = speak(make_prediction("8", steps=STEPS), "assess.rate", call)
    assert words.startswith('This score, "0.7", is of the whole problem.')


def test_a_step_that_the_budget_gave_to_system_1_is_not_blamed_on_its_score() -> None:
    steps = [make_step("Find $x$.", 0.8, 1), STEPS[-1]]
    note = "step 1: solve: too little of the budget is left for System 2"
    call = {"subproblem": "Find $x$.", "context": "", "difficulty": "0.8"}
    words = speak(make_prediction("8", steps=steps, replaced=[note]), "assess.rate", call)
    assert "The budget, not the score" in words


@pytest.mark.parametrize(
    ("reply", "expected", "missing"),
    [
        (
            "1. Find $x$.\n2. Find $x^2$.\n3. What is $x + 5$?",
            "list has 3 sub-problems.\nIts last sub-problem seems to ask what the problem asks.",
            "not the one in use",
        ),
        (
            "1. Find $x$.\n2. Find $x^2$.\n3. Find $y$.",
            'Its last sub-problem is "Find $y$.", and the problem ends in "What is $x + 5$?"',
            "seems to ask",
        ),
        ("1. Find $x$.\n2. Compute $x$", "Sub-problems 1 and 2 ask the same", "seems to ask"),
        ("1. Find $x$.\n2. Find $-x$.", "not the one in use", "ask the same"),
        ("I would start with x.", "No numbered list could be read", "list has"),
    ],
)
def test_a_list_is_judged(reply: str, expected: str, missing: str) -> None:
    call = {"problem": str(GOLD.problem), "subproblems": reply}
    words = speak(make_prediction("8", steps=STEPS), "decompose.propose", call)
    assert expected in words
    assert missing not in words
    assert "The final answer 8 is wrong; right is 7." in words


def test_results_that_were_not_used_and_the_cost_of_planning_are_told() -> None:
    usage = {"decompose": {"completion_tokens": 60}, "solve_2": {"completion_tokens": 40}}
    prediction = make_prediction("7", usage=usage, steps=STEPS)
    for name in ("decompose.propose", "decompose.select"):
        words = speak(prediction, name)
        assert "No later solution names the result of sub-problem 1 (3), 2 (9)" in words
        assert "Planning took 60 of the 100 response tokens." in words
    steps = [STEPS[0], Step("b", 0.1, 1, r"3^2 = \boxed{9}", "", 5), make_step("c", None, 1, "9")]
    assert "No later solution" not in speak(make_prediction(steps=steps), "decompose.propose")


def test_a_step_without_a_result_is_told_to_the_planner() -> None:
    steps = [Step("Think of it.", 0.1, 1, "Done.", "", 5), STEPS[-1]]
    words = speak(make_prediction("8", steps=steps), "decompose.propose")
    assert "No result could be read for sub-problem 1" in words


def test_a_choice_is_judged() -> None:
    candidates = "Candidate 1\n1. Find $x$.\n\nCandidate 2\n1. Find $x$.\n2. What is $x + 5$?"
    call = {"problem": str(GOLD.problem), "candidates": candidates, "choice": "The second."}
    words = speak(make_prediction("8", steps=STEPS), "decompose.select", call)
    assert 'The reply was "The second.", of 2 candidates with 1 to 2 sub-problems.' in words
    assert "Reply with the number" in words
    assert "The list in use had 3 sub-problems" in words


def test_a_solver_hears_where_the_answer_departed() -> None:
    call = {"subproblem": "Find $x$.", "context": "", "solution": r"\boxed{3}", "cut_off": False}
    words = speak(make_prediction("8", steps=STEPS), "solve.system_1", call)
    assert words.startswith('Sub-problem 1 of 3, "Find $x$.": System 1 gave the result 3')
    assert "is that of sub-problem 1, 3: look for the error there" in words
    assert str(GOLD.solution) in words
    assert str(GOLD.solution) not in speak(
        make_prediction("7", steps=STEPS), "solve.system_1", call
    )


def test_a_solver_hears_of_its_form_and_its_notes() -> None:
    notes = ["step 2: skipped, the rest", "step 1: solve: cut", "step 3: solve: raw text"]
    prediction = make_prediction("8", steps=[STEPS[0], STEPS[2]], replaced=notes)
    call = {"subproblem": str(GOLD.problem), "context": "c", "solution": "", "cut_off": True}
    words = speak(prediction, "solve.system_2", call)
    assert words.startswith("The problem itself: System 2 gave the result 8")
    assert "the final answer is read from it" in words
    assert "Had to be replaced: step 3: solve: raw text." in words
    assert "cut off at its token limit" in words
    call = {"subproblem": "Find $x$.", "solution": "Well.", "draft": "So far", "cut_off": False}
    words = speak(prediction, "solve.system_1", call)
    assert r"must end with its result in \boxed{}" in words
    assert "went on from a draft" in words


def test_long_texts_are_clipped() -> None:
    gold = dspy.Example(problem="p", answer="7", solution="word " * 2000)
    steps = [make_step("long " * 500, 0.1, 1, "12" * 300)] * 40
    prediction = make_prediction("8" * 5000, steps=steps, replaced=["step 1: solve: x"] * 99)
    metric = make_metric(feedback=True)
    for name in NAMES:
        assert len(metric(gold, prediction, None, name).feedback) < 6000


NAMES = (
    None,
    "assess.rate",
    "decompose.propose",
    "decompose.select",
    "solve.system_1",
    "solve.system_2",
    "solve",
    "self",
)

texts = st.text(st.characters(codec="utf-8"), max_size=30) | st.sampled_from(
    ["1. a\n2. b", "Candidate 1\n1. a", "0.5", r"\boxed{7}", "nan", str(GOLD.problem)]
)
junk = st.none() | st.integers() | texts | st.lists(texts, max_size=2)
notes = st.lists(texts | st.sampled_from(["step 1: skipped", "step 9999: skipped"]), max_size=3)
steps = st.lists(
    st.builds(
        Step,
        texts,
        st.none() | st.floats(0, 1),
        st.sampled_from([1, 2]),
        texts,
        texts,
        st.integers(0, 99),
    ),
    max_size=4,
)
usages = st.dictionaries(texts, st.none() | st.fixed_dictionaries({"completion_tokens": junk}))
outputs = st.dictionaries(
    st.sampled_from(["solution", "difficulty", "choice", "subproblems", "cut_off"]), junk | texts
).map(lambda found: dspy.Prediction(**found))
calls = st.tuples(st.none(), st.dictionaries(st.sampled_from(INPUTS), junk | texts), outputs)
predictions = st.fixed_dictionaries(
    {"answer": st.sampled_from([None, "7", "8"]) | junk},
    optional={"steps": steps | junk, "usage": usages | junk, "replaced": notes | junk},
).map(lambda found: dspy.Prediction(**found))


@settings(max_examples=300)
@given(predictions | junk, st.sampled_from(NAMES), junk | st.lists(calls, max_size=1))
def test_feedback_never_fails(prediction: Any, name: str | None, pred_trace: Any) -> None:
    gold = dspy.Example(**{**GOLD, "kind": "integer"})  # or odd answers would start the worker
    result = make_metric(budget=50, feedback=True)(gold, prediction, None, name, pred_trace)
    assert 0 <= result.score <= 1
    assert result.feedback.strip()


# ---- in GEPA


PROPOSAL = '{"new_instruction": "Do it well."}'


def test_gepa_reflects_on_each_predictor_with_its_own_feedback() -> None:
    world = World(parts=(3, 3), ability_1=0.2, ability_2=0.6, superfluous=0.5, noise=0.1)
    with fake_vllm(world, other=lambda body: PROPOSAL) as server:
        lm = connect(server.model, server.api_base, seed=0)
        program = SCALE(candidates=2)
        before = {name: each.signature.instructions for name, each in program.named_predictors()}
        optimizer = dspy.GEPA(
            metric=make_metric(budget=200, feedback=True),
            max_metric_calls=3,
            reflection_minibatch_size=1,
            reflection_lm=lm,
            num_threads=1,
            component_selector="all",
        )
        with dspy.context(lm=lm):
            optimizer.compile(program, trainset=world.problems(1), valset=world.problems(1, 1))
        prompts = [_read_prompt(request) for request in server.chats()]
    for name, phrase in PHRASES.items():
        asked = [prompt for prompt in prompts if before[name] in prompt and "Feedback" in prompt]
        assert asked, name
        assert all(phrase in prompt for prompt in asked), name
        assert not any(phrase in prompt for prompt in asked for phrase in _others(name)), name


PHRASES = {
    "assess.rate": ": score ",
    "decompose.propose": "This list has ",
    "decompose.select": "The reply was ",
    "solve.system_1": ": System 1 gave the result",
    "solve.system_2": ": System 2 gave the result",
}


def _others(name: str) -> list[str]:
    return [phrase for other, phrase in PHRASES.items() if other != name]


def _read_prompt(request: Any) -> str:
    return "\n".join(str(message["content"]) for message in request.body["messages"])


def make_reviewed(system: int, drafted: str | None, result: str, text: str = "Find $x$.") -> Step:
    solution = rf"So \boxed{{{result}}}."
    return Step(text, 0.7, system, solution, "", 40, draft={"length": 0.5, "result": drafted})


@pytest.mark.parametrize(
    ("system", "drafted", "result", "said"),
    [
        (2, "3", "4", "System 2 found 4. A high doubt is right."),
        (2, "3", "3.0", "found the same. The doubt should have been near 0"),
        (1, "3", "3", "Nothing shows whether that was wrong."),
        (1, None, "3", "A draft without a result is wrong. The doubt should have been near 1"),
    ],
)
def test_a_review_is_told_what_became_of_the_draft(
    system: int, drafted: str | None, result: str, said: str
) -> None:
    steps = [make_reviewed(system, drafted, result), STEPS[-1]]
    call = {"subproblem": "Find $x$.", "context": "", "draft": "So 3.", "doubt": "0.7"}
    words = " ".join(speak(make_prediction("8", steps=steps), "assess.review", call).split())
    kept = "System 2 solved it anew" if system == 2 else "the draft was kept"
    found = "no result that can be read" if drafted is None else "the result 3"
    assert f"the draft had {found}, the doubt was 0.7, so {kept}." in words
    assert said in words
    assert "The final answer 8 is wrong; right is 7." in words
    unread = speak(make_prediction("8", steps=steps), "assess.review", {**call, "doubt": "high"})
    assert "reply with one number from 0 to 1 and nothing else" in unread


@pytest.mark.parametrize(
    ("system", "drafted", "said"),
    [
        (1, "7", "That is right. A low doubt is right."),
        (2, "7", "That is right. The doubt should have been near 0"),
        (1, "8", "Right is 7. The doubt should have been near 1"),
        (2, "8", "Right is 7. A high doubt is right."),
    ],
)
def test_a_review_of_the_whole_problem_is_judged_by_its_answer(
    system: int, drafted: str, said: str
) -> None:
    steps = [make_reviewed(system, drafted, "9", str(GOLD.problem))]
    call = {"problem": GOLD.problem, "subproblem": GOLD.problem, "draft": "x", "doubt": "0.7"}
    words = " ".join(speak(make_prediction("9", steps=steps), "assess.review", call).split())
    assert said in words


def test_a_review_hears_what_earlier_runs_showed() -> None:
    steps = [make_reviewed(1, "3", "3"), STEPS[-1]]
    label = Label(str(GOLD.problem), "Find $x$.", 0.5, False, "3", "2")
    call = {"subproblem": "Find $x$.", "draft": "So 3.", "doubt": "0.7"}
    labels = {(str(GOLD.problem), "Find $x$."): label}
    words = speak(make_prediction("8", steps=steps), "assess.review", call, labels=labels)
    assert "do not agree here" in words
    assert "should have been near 1" in words


def test_a_problem_solved_whole_hears_of_its_passes() -> None:
    found = ("8", "7", "8.0", None)
    votes = tuple(Vote(each, 30, 2, 0) for each in found)
    step = Step(str(GOLD.problem), None, 2, r"So \boxed{8}.", "", 120, votes=votes)
    call = {"problem": GOLD.problem, "solution": r"So \boxed{8}."}
    words = speak(make_prediction("8", steps=[step]), "solve.whole", call)
    assert "The problem, solved whole: System 2 gave the result 8 after 120 tokens" in words
    assert "Its 4 passes found 8 (2 of them), 7 (1 of them), nothing that can be read" in words
    assert "right is 7" in words
    alone = Step(str(GOLD.problem), None, 2, r"So \boxed{8}.", "", 120)
    assert "passes" not in speak(make_prediction("8", steps=[alone]), "solve.whole", call)
    cut = {**call, "solution": "so", "cut_off": True}
    assert "cut off" in speak(make_prediction("8", steps=[alone]), "solve.whole", cut)
