"""What is on record of a request, what can go wrong by order, and how the server behaves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from tests.world import draw

MODEL = "fake/Qwen3-World"
CHAT = "/v1/chat/completions"


@dataclass(frozen=True)
class Request:
    """One request that the server got.

    Attributes:
        number: in order of arrival, from 0.
        stage: decompose, select, assess, solve_1, solve_2, whole (a problem asked in a prompt of
            another kind), other; empty for another path.
        system: 1 or 2, thinking off or on; 0 for another path.
        problem: the id of the world's problem that it is about, or empty.
        body: the decoded body; empty where bodies are not kept.
        replies: the content of each choice; empty where bodies are not kept.
        start: seconds of time.monotonic(); `end` too.
        status: of the reply; 499 where the client left, 0 where the connection was broken.
        fault: what was wrong with the reply by order, as text; empty where nothing was.
    """

    number: int
    path: str
    stage: str
    system: int
    problem: str
    body: dict[str, Any]
    replies: tuple[str | None, ...]
    start: float
    end: float
    status: int
    usage: dict[str, Any]
    cancelled: bool
    fault: str


@dataclass(frozen=True)
class Totals:
    """Sums over the chat replies that were given."""

    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    reasoning_tokens: int = 0

    def __add__(self, other: Totals) -> Totals:
        mine, theirs = asdict(self), asdict(other)
        return Totals(**{name: mine[name] + theirs[name] for name in mine})


@dataclass(frozen=True)
class Fault:
    """Something that goes wrong by order. The first fault that fits a request is played.

    Which requests: those of `path` and `stage` ("solve" is both systems) for which `when(body)`
    holds; of these, counted from 1, the `nth` (one or several), or those from `first` on, or each
    `every`-th, and of these a share of `probability`, drawn by `seed`.

    What happens, one or several of:
        stall: seconds that it takes longer.
        status: an error status, with `retry_after` seconds, or a text, in its header and `message`.
        reset: the connection breaks "before" the reply or in the "middle" of its body.
        cut_json: the body ends half way.
        body: the body, as text, instead of a reply in JSON.
        content_type: the body is a page of HTML of this type ("text/html").
        empty_choices: no choice in the reply.
        null_content: content is null.
        content: the content, instead of the world's; a tuple gives choice k its k-th.
        reasoning: the reasoning, instead of the world's.
        finish_reason: for example "length".
        usage: what the reply tells of its cost; the log keeps the truth.
    """

    stage: str | None = None
    nth: int | tuple[int, ...] | None = None
    first: int | None = None
    every: int | None = None
    probability: float = 1.0
    seed: int = 0
    when: Callable[[dict[str, Any]], bool] | None = None
    path: str = CHAT
    stall: float = 0.0
    status: int | None = None
    retry_after: float | str | None = None
    message: str = "an error by order"
    reset: Literal["before", "middle"] | None = None
    cut_json: bool = False
    body: str | None = None
    content_type: str | None = None
    empty_choices: bool = False
    null_content: bool = False
    content: str | tuple[str, ...] | None = None
    reasoning: str | None = None
    finish_reason: str | None = None
    usage: Any = None

    def covers(self, path: str, stage: str, body: dict[str, Any]) -> bool:
        """Whether a request is of the kind that this fault counts."""
        if path != self.path:
            return False
        if self.stage and stage != self.stage and stage.rpartition("_")[0] != self.stage:
            return False
        return self.when is None or self.when(body)

    def strikes(self, count: int) -> bool:
        """Whether it is played for the `count`-th request it covers."""
        if self.nth is not None and count not in as_tuple(self.nth):
            return False
        if self.first is not None and count < self.first:
            return False
        if self.every is not None and count % self.every:
            return False
        return self.probability >= 1 or draw("fault", self.seed, count).random() < self.probability

    def describe(self) -> str:
        which = {"stage", "nth", "first", "every", "probability", "seed", "when", "path", "message"}
        said = {
            part.name: getattr(self, part.name)
            for part in fields(self)
            if part.name not in which and getattr(self, part.name) != part.default
        }
        return " ".join(f"{name}={value!r}" for name, value in said.items()) or "none"


@dataclass(frozen=True)
class Options:
    """How the server behaves.

    Attributes:
        model: the name it serves.
        api_key: if given, requests without it get 401.
        max_model_len: tokens of prompt and response together.
        delay: seconds that every choice takes.
        per_token: seconds that each response token takes on top.
        max_concurrency: choices that are worked on at the same time; the others wait.
        thinking: "switch" as `switch` says, "always" or "never".
        switch: what the chat template reads: a key of chat_template_kwargs; "reasoning_effort",
            which also says enable_thinking, as in vLLM; "levels" of it, none of which is off; or
            words of the system message: "/no_think", "detailed thinking off".
        thinks: what it does where a request says nothing of the switch.
        closes: whether it keeps a thinking_token_budget; one of 0 closes the thinking block.
        refuses: fields of a request that are answered with 400.
        believes: a key of chat_template_kwargs that the parser believes and the template does not
            read: with it on, a plain answer is told as reasoning.
        reasoning_field: where reasoning goes: "reasoning" (vLLM today), "reasoning_content"
            (before), or None: it is left in the content between think tags, as without a parser.
        ignore_n: one choice, however many are asked for.
        usage: "all" choices are counted, or "one" (as llama.cpp), or "none" (no usage at all).
        cached_tokens: whether usage tells how much of the prompt the prefix cache held.
        logprobs: whether log-probabilities are given to those who ask for them.
        keep_bodies: whether the log keeps requests and replies; without, it also forgets all
            but the latest records, so that a long run needs little memory.
        other: what a request gets that is about no problem of the world; None: words that say
            nothing, different for each seed. Or a function of the body, asked for every request
            that is not of a known stage; where it returns None, the former holds.
    """

    model: str = MODEL
    api_key: str | None = None
    max_model_len: int = 40_960
    delay: float = 0.0
    per_token: float = 0.0
    max_concurrency: int | None = None
    thinking: Literal["switch", "always", "never"] = "switch"
    switch: str = "enable_thinking"
    thinks: bool = True
    closes: bool = True
    refuses: tuple[str, ...] = ()
    believes: str = ""
    reasoning_field: Literal["reasoning", "reasoning_content"] | None = "reasoning"
    ignore_n: bool = False
    usage: Literal["all", "one", "none"] = "all"
    cached_tokens: bool = False
    logprobs: bool = True
    keep_bodies: bool = True
    other: str | Callable[[dict[str, Any]], str | None] | None = None


class RefusedError(Exception):
    """A request that is answered with an error status."""

    def __init__(
        self,
        status: int,
        message: str,
        kind: str,
        param: str | None = None,
        retry_after: float | str | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.kind, self.param = status, kind, param
        self.retry_after = retry_after


def refuse_input(message: str, param: str) -> RefusedError:
    return RefusedError(400, message, "BadRequestError", param)


def as_tuple(value: Any) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, (tuple, list)) else (value,)
