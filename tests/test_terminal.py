"""What the terminal tells: examples in every help, how long it takes, the whole work on request."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from scale_dspy import SCALE
from scale_dspy.cli.console import _Waiting
from scale_dspy.cli.main import make_parser
from scale_dspy.cli.run_file import find_commands
from scale_dspy.lm.tally import Tally
from scale_dspy.lm.usage import Ledger
from tests.command import backend, run
from tests.fake_vllm import FakeVLLM, fake_vllm
from tests.world import World, write_set
from tests.writer import write_prompts

(EXAMPLE,) = World().problems(1)
COMMANDS = tuple(find_commands(make_parser()))

pytestmark = pytest.mark.usefixtures("own_disk_cache")


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_every_help_has_examples_that_can_be_parsed(
    capsys: pytest.CaptureFixture[str], command: str
) -> None:
    code, out, _ = run(capsys, *filter(None, [command]), "--help")
    assert code == 0
    examples = re.findall(r"scale-dspy ([^|>)\n]+)", out.partition("examples:")[2])
    assert examples
    for example in examples:
        arguments = shlex.split(example)
        assert command in ("", arguments[0])
        if "--help" not in arguments:
            make_parser().parse_args(arguments)


def test_while_it_waits_it_tells_time_tokens_and_their_rate(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = iter([100.0, 103.0, 110.0])
    monkeypatch.setattr("scale_dspy.cli.console.time.monotonic", lambda: next(clock))
    spent = Ledger()
    waiting = _Waiting(spent)
    waiting.doing = "splitting the problem"
    assert waiting.__rich__().plain == "splitting the problem: 3 s"
    spent.add("decompose", Tally(completion_tokens=1500))
    assert waiting.__rich__().plain == "splitting the problem: 10 s, 1,500 tokens, 150 a second"


def test_full_shows_the_whole_work(server: FakeVLLM, capsys: pytest.CaptureFixture[str]) -> None:
    long = "\n".join(f"line {number}" for number in range(20)) + "\n\\boxed{7}"
    from tests.fake_vllm import Fault

    server.play(Fault(stage="solve", content=long, reasoning="first a thought"))
    _, _, err = run(capsys, "solve", EXAMPLE.problem, *backend(server))
    assert "--full shows all" in err
    assert "line 3\n" not in err
    code, _, err = run(capsys, "solve", EXAMPLE.problem, "--full", *backend(server))
    assert code == 0
    assert "lines before this" not in err
    for told in ("line 0", "line 19", "first a thought"):
        assert told in err


@pytest.mark.parametrize("compiled", [True, False])
def test_candidates_assess_and_split_are_flags(
    server: FakeVLLM, capsys: pytest.CaptureFixture[str], tmp_path: Path, compiled: bool
) -> None:
    SCALE(candidates=5).save(tmp_path / "p.json")
    flags = ["--program", str(tmp_path / "p.json")] if compiled else []
    flags += ["--candidates", "2", "--assess", "none", *backend(server)]
    run(capsys, "solve", EXAMPLE.problem, *flags)
    assert [chat.body["n"] for chat in server.chats("decompose")] == [2]
    assert not server.chats("assess")
    server.clear()
    run(capsys, "solve", EXAMPLE.problem, *flags, "--split", "1", "--threshold", "0.5")
    assert not server.chats("decompose")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--split", "2"], "2"),
        (["--candidates", "0"], "0"),
        (["--method", "cot", "--split", "0.5"], "method cot has no split"),
        (["--method", "routing", "--candidates", "2"], "method routing has no candidates"),
        (["--method", "last_step", "--assess", "upfront"], "method last_step has no assess"),
    ],
)
def test_flags_that_do_not_fit_are_one_line(
    server: FakeVLLM, capsys: pytest.CaptureFixture[str], arguments: list[str], complaint: str
) -> None:
    code, out, err = run(capsys, "solve", EXAMPLE.problem, *arguments, *backend(server))
    assert (code, out) == (2, "")
    assert complaint in err.splitlines()[-1]
    assert not server.requests


@pytest.mark.slow
def test_a_compile_shows_one_bar_and_no_stack(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.fake_vllm import Fault

    monkeypatch.chdir(tmp_path)
    world = World.noisy(5, parts=(1, 3), slip=0.4)
    write_set(Path("set.jsonl"), world.problems(24))
    proposed = "Do it with care."
    broken = Fault(status=400, when=lambda body: proposed in str(body["messages"]))
    with fake_vllm(world, other=write_prompts(proposed), faults=[broken]) as server:
        flags = ["--optimizer", "gepa", "--rollouts", "30", "--candidates", "1", "--threads", "4"]
        code, out, err = run(
            capsys, "compile", "set.jsonl", *flags, "--out", "p.json", "--json", *backend(server)
        )
    assert code == 0, err
    assert json.loads(out)["told"][0].startswith("Chosen: ")
    assert "an error by order" in Path("p.compile/optimizer.log").read_text()
    for odd in (
        "Traceback",
        "an error by order",
        "INFO",
        "it/s",
        "0 tokens each",
        "up to 0.0 points worse",
    ):
        assert odd not in err
    assert "what the optimizer said is in" in err
