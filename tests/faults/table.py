"""The two sides of the table: the faults, and the commands that they are played against."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from tests.fake_vllm import Fault
from tests.world import World

WORLD = World(3, parts=(1, 3))
PROBLEMS = WORLD.problems(6)

TIMEOUT = 30.0  # seconds for a request, where a fault says no other; an idle machine needs 1

End = Literal["right", "error", "any"]


@dataclass(frozen=True)
class Trouble:
    """Something that goes wrong.

    Attributes:
        faults: what the server does.
        end: how a command ends meanwhile: with the "right" result, with an "error" in one line, or
            "any" of the two, where bad output is data.
        server: options of the server.
        own: what goes wrong on the command's own side; see `lives._run_command`.
        special: what `play` does beside: "refused", "restart", "two", "cache", "output".
        solo: how `solve` ends, where that is another way: it writes nothing. `serve` too.
        served: how a request to `serve` ends, where that is another way still.
        timeout: seconds for a request.
    """

    name: str
    end: End
    faults: tuple[Fault, ...] = ()
    server: dict[str, Any] = field(default_factory=dict)
    own: dict[str, Any] = field(default_factory=dict)
    special: str = ""
    solo: End | None = None
    served: End | None = None
    timeout: float = TIMEOUT


@dataclass(frozen=True)
class Command:
    """A command line, in a folder that holds set.jsonl.

    Attributes:
        again: what a second run needs to do again what failed.
        result: the file that it writes, for `read_result`; none: standard output is the result.
        lines: the file whose lines are what is finished.
    """

    arguments: tuple[str, ...]
    again: tuple[str, ...] = ()
    result: str = ""
    lines: str = ""


def _compile(optimizer: str) -> Command:
    words = ("compile", "set.jsonl", "--optimizer", optimizer, "--out", "out/program.json")
    lines = "out/program.compile/threshold/walks.jsonl"
    return Command((*words, "--candidates", "2"), (), "out/program.json", lines)


COMMANDS = {
    "solve": Command(("solve", PROBLEMS[0].problem)),
    "evaluate": Command(
        ("evaluate", "set.jsonl", "--samples", "2", "--out", "out"),
        ("--retry-errors",),
        "out/rollouts.jsonl",
        "out/rollouts.jsonl",
    ),
    "frontier": Command(
        ("frontier", "set.jsonl", "--candidates", "2", "--out", "out"),
        ("--retry-errors",),
        "out/walks.jsonl",
        "out/walks.jsonl",
    ),
    "traces": Command(
        ("traces", "set.jsonl", "--samples", "2", "--against", "none", "--out", "out/t.jsonl"),
        ("--retry-errors",),
        "out/t.jsonl",
        "out/t.jsonl.run/rollouts.jsonl",
    ),
    "compile none": _compile("none"),
    "compile bootstrap": _compile("bootstrap"),
    "serve": Command(("serve", "--port", "0", "--json")),  # played by `served`
}

STAGES = ("decompose", "select", "assess", "solve_1", "solve_2")
ONCE: dict[str, Any] = {"nth": (1, 3)}  # of the requests; then it is over
FROM_THE_THIRD: dict[str, Any] = {"first": 3}  # request on, for good
BROKEN: dict[str, dict[str, Any]] = {
    "500": {"status": 500},
    "502": {"status": 502},
    "503": {"status": 503},
    "429": {"status": 429},
    "429, Retry-After 0.3 s": {"status": 429, "retry_after": 0.3},
    "reset before the body": {"reset": "before"},
    "reset in the body": {"reset": "middle"},
    "HTML with status 200": {"content_type": "text/html"},
    "JSON cut short": {"cut_json": True},
    "an empty body": {"body": ""},
    "a body of another kind": {"body": '{"object": "error", "message": "engine"}'},
    "another API's reply": {"body": '{"message": {"role": "assistant", "content": "7"}}'},
    "a JSON list": {"body": '[{"generated_text": "7"}]'},
    "409": {"status": 409},
}

ABSURD_USAGE: dict[str, Any] = {
    "below 0": {"prompt_tokens": -5, "completion_tokens": -9, "total_tokens": -14},
    "huge": {"prompt_tokens": 10**15, "completion_tokens": 10**15, "total_tokens": 2 * 10**15},
    "words": {"prompt_tokens": "many", "completion_tokens": None, "total_tokens": []},
    "a list": [1, 2, 3],
}
ODD_CONTENT = {
    "control characters": "\x1b[2J\x00\x07\u202e1. \ud800".encode("utf-8", "replace").decode(),
    "100 kB long": "1. Find x.\n" * 9_000,
    "a stranger's answer": "I am another model. \\boxed{stranger}",
}

TROUBLES = [
    Trouble("nothing", "right"),
    *(
        Trouble(f"{name}, twice", "right", (Fault(**fault, **ONCE),))
        for name, fault in BROKEN.items()
    ),
    *(
        Trouble(f"{name}, for good", "error", (Fault(**fault, **FROM_THE_THIRD),))
        for name, fault in BROKEN.items()
    ),
    *(
        Trouble(
            f"503, Retry-After {value!r}, twice",
            "right",
            (Fault(status=503, retry_after=value, **ONCE),),
        )
        for value in ("soon", "-3", "1e400", "Thu, 01 Jan 1970 00:00:00 GMT")
    ),
    Trouble("no usage", "any", server={"usage": "none"}),
    *(
        Trouble(f"usage is {name}", "any", (Fault(usage=usage),))
        for name, usage in ABSURD_USAGE.items()
    ),
    *(
        Trouble(f"content is {name}, for good", "any", (Fault(content=content),))
        for name, content in ODD_CONTENT.items()
    ),
    Trouble(
        "429, Retry-After a day, for good",
        "error",
        (Fault(status=429, retry_after=86_400, **FROM_THE_THIRD),),
    ),
    Trouble("the key is revoked", "error", (Fault(status=401, **FROM_THE_THIRD),)),
    Trouble("the model is unloaded", "error", (Fault(status=404, **FROM_THE_THIRD),)),
    Trouble("connection refused", "error", special="refused"),
    Trouble("a stall of 0.5 s", "right", (Fault(stall=0.5, **ONCE),)),
    Trouble("time-out, twice", "right", (Fault(stall=20, **ONCE),), timeout=12),
    Trouble("time-out, for good", "error", (Fault(stall=9, **FROM_THE_THIRD),), timeout=2),
    Trouble("no choices, twice", "any", (Fault(empty_choices=True, **ONCE),)),
    Trouble("no choices, for good", "any", (Fault(empty_choices=True),)),
    Trouble("null content, twice", "any", (Fault(null_content=True, **ONCE),)),
    Trouble("null content, for good", "any", (Fault(null_content=True),)),
    *(
        Trouble(f"cut off at {stage}", "any", (Fault(stage=stage, finish_reason="length"),))
        for stage in STAGES
    ),
    Trouble("a window below max_tokens", "right", server={"max_model_len": 8_000}),
    Trouble("a window below the prompt", "error", server={"max_model_len": 20}),
    Trouble(
        "the server restarts",
        "right",
        special="restart",
        own={"first_wait": 2.0, "longest_wait": 20.0},
    ),
    Trouble("the clock jumps by days", "right", own={"jumping_clock": True}),
    Trouble("the output's disk is full", "error", special="output", solo="right"),
    Trouble("the cache's disk is full", "right", special="full cache"),
    Trouble("the cache can't be written", "error", special="cache", solo="right"),
    Trouble("two processes, one output", "right", special="two"),
]


def read_result(command: Command, folder: Path, out: str) -> Any:
    """What a command found, without times and costs, which a fault may change."""
    if not command.result:
        return out
    text = (folder / command.result).read_text()
    if command.result.endswith(".jsonl"):
        lines = sorted((json.loads(line) for line in text.splitlines()), key=_name_line)
        return [_strip(line, ("seconds", "usage")) for line in lines]
    return _strip(json.loads(text), ("seconds", "cost", "notes", "response_tokens"))


def read_finished(command: Command, folder: Path) -> dict[tuple[str, int], Any]:
    """The finished lines without an error; a last one that was torn is not finished."""
    path = folder / command.lines
    if not command.lines or not path.exists():
        return {}
    whole = path.read_text().rpartition("\n")[0]
    lines = [json.loads(line) for line in whole.splitlines()]
    return {_name_line(line): line for line in lines if not line["error"]}


def _name_line(line: dict[str, Any]) -> tuple[str, int]:
    return line["id"], line["sample"]


def _strip(value: Any, names: tuple[str, ...]) -> Any:
    if isinstance(value, dict):
        return {key: _strip(each, names) for key, each in value.items() if key not in names}
    return [_strip(each, names) for each in value] if isinstance(value, list) else value
