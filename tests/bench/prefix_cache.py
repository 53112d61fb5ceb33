"""How much of SCALE's prompts the real vLLM finds in its prefix cache, before and after.

SCALE_VLLM_PYTHON=... python tests/bench/prefix_cache.py [--data mini] [--problems 30]

A tiny model of random weights runs SCALE on problems, with blocks of 128 tokens as vLLM comes.
Structured output gives its replies the form, and about the length, that a model's replies have.
`before` puts the instructions first, as DSPy's own adapters do; `after` is our order: what the
stages share comes first. Tokens and hits are vLLM's own counters. What could hit is computed from
the prompts as vLLM tokenises them: the longest prefix in whole blocks that an earlier prompt of the
run has, all but the last token, which is always computed.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import dspy
import httpx

from scale_dspy import SCALE, modes, solver
from scale_dspy.data.load import load
from scale_dspy.evaluation.runner import evaluate
from scale_dspy.lm.adapter import PlainAdapter
from scale_dspy.lm.connect import MeteredLM
from tests.vllm.server import RealVLLM, make_model, serve
from tests.vllm.shapes import shape

BLOCK = 128  # tokens, as vLLM comes on the CPU
THREADS = 8
WORDS = r"[a-z]{3,8}( [a-z]{3,8}){%d,%d}"
LIST = r"\n".join(rf"{number}\. {WORDS % (10, 14)}" for number in range(1, 6))
SOLUTION = WORDS % (40, 60) + r" x = \\boxed\{[1-9][0-9]{0,2}\}"


class InstructionsFirst(PlainAdapter):
    """The usual order: what to do and how to reply, then the inputs."""

    def format_user_message_content(self, signature: Any, inputs: Any, **options: Any) -> str:
        if not options.pop("main_request", False):
            return super().format_user_message_content(signature, inputs, **options)
        told = super().format_user_message_content(signature, {}, main_request=True)
        return f"{told}\n\n{super().format_user_message_content(signature, inputs)}"


class RecordingLM(MeteredLM):
    """A MeteredLM that keeps what it sends, in order."""

    sent: list[dict[str, Any]]

    async def acall(self, prompt: Any = None, *, messages: Any = None, **kwargs: Any) -> Any:
        self.sent.append({"messages": messages, **kwargs})
        return await super().acall(prompt, messages=messages, **kwargs)


@dataclass(frozen=True)
class Reading:
    """Tokens of prompts: looked up, found, and what could have been found."""

    name: str
    requests: int
    queried: float
    hit: float
    prompts: int
    could: int
    seconds: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", default="mini", help="as for scale-dspy evaluate")
    parser.add_argument("--problems", type=int, default=30)
    given = parser.parse_args()
    examples = load(given.data, limit=given.problems)
    os.environ["VLLM_SERVER_DEV_MODE"] = "1"  # for /reset_prefix_cache
    runs = (("before", InstructionsFirst), ("after", PlainAdapter))
    with (
        tempfile.TemporaryDirectory() as folder,
        serve(make_model(Path(folder) / "model", "hybrid")) as server,
    ):
        readings = [measure(server, name, order, examples, folder) for name, order in runs]
    print(f"{len(examples)} problems of {given.data}, blocks of {BLOCK} tokens")
    print("order   requests  queried      hit   rate  could hit  of these   s")
    for each in readings:
        print(
            f"{each.name:7} {each.requests:8} {each.queried:8.0f} {each.hit:8.0f}"
            f" {each.hit / each.queried:6.1%} {each.could:10} {each.hit / max(1, each.could):9.1%}"
            f" {each.seconds:4.0f}"
        )
        if each.prompts != each.queried:
            print(f"        the prompts have {each.prompts} tokens by our count")


def measure(
    server: RealVLLM,
    name: str,
    adapter: type[PlainAdapter],
    examples: Sequence[dspy.Example],
    folder: str,
) -> Reading:
    """One run of SCALE on an empty prefix cache."""
    httpx.post(f"{server.url}/reset_prefix_cache", timeout=60).raise_for_status()
    solver.PlainAdapter = adapter  # type: ignore[misc]
    lm = RecordingLM(f"hosted_vllm/{server.model}", api_base=server.api_base, seed=0, cache=False)
    lm.sent = []
    forms = shape(thinking_token_budget=8)
    forms["decompose"] |= {"max_tokens": 512, "extra_body": form(LIST)}
    for stage in ("solve_1", "solve_2"):
        body = {**forms[stage]["extra_body"], **form(SOLUTION)}
        forms[stage] |= {"max_tokens": 512, "extra_body": body}
    program = SCALE(modes=modes("hybrid", **forms))
    before, began = server.metrics(), time.monotonic()
    evaluate(program, examples, lm, Path(folder) / name, samples=1, threads=THREADS)
    seconds = time.monotonic() - began
    time.sleep(1)  # its counters follow the replies
    after = server.metrics()
    queried, hit = (
        after[counter] - before[counter]
        for counter in ("prefix_cache_queries_total", "prefix_cache_hits_total")
    )
    prompts = tokenise(server, lm.sent)
    could = sum(count_shared(prompts))
    total = sum(map(len, prompts))
    return Reading(name, len(lm.sent), queried, hit, total, could, seconds)


def form(regex: str) -> dict[str, Any]:
    return {"structured_outputs": {"regex": regex}}


def tokenise(server: RealVLLM, sent: Sequence[dict[str, Any]]) -> list[list[int]]:
    """Every prompt as vLLM sees it; one with n choices is looked up n times."""
    with httpx.Client(timeout=60) as client, ThreadPoolExecutor(4) as pool:

        def ask(request: dict[str, Any]) -> list[int]:
            switch = request["extra_body"]["chat_template_kwargs"]
            body = {"messages": request["messages"], "chat_template_kwargs": switch}
            reply = client.post(f"{server.url}/tokenize", json={"model": server.model, **body})
            return list(reply.raise_for_status().json()["tokens"])

        prompts = list(pool.map(ask, sent))
    return [
        prompt
        for prompt, request in zip(prompts, sent, strict=True)
        for _ in range(request.get("n") or 1)
    ]


def count_shared(prompts: Sequence[Sequence[int]]) -> list[int]:
    """For each prompt: tokens of its longest prefix, in whole blocks, that an earlier one has."""
    seen: set[tuple[int, ...]] = set()
    shared = []
    for prompt in prompts:
        ends = range(BLOCK, len(prompt) + 1, BLOCK)
        usable = [end for end in ends if end < len(prompt)]
        known = [end for end in usable if tuple(prompt[:end]) in seen]
        shared.append(max(known, default=0))
        seen.update(tuple(prompt[:end]) for end in ends)
    return shared


if __name__ == "__main__":
    main()
