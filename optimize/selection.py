"""Which signal tells a wrong pass, and what votes cost: recorded once, replayed as often as wanted.

    python optimize/selection.py record gsm8k --limit 120 --cap 512 --out passes.jsonl \
        --model M --api-base http://127.0.0.1:8000/v1 --modes prompt
    python optimize/selection.py replay passes.jsonl --cap 512 --out selection.json

`record` sends ChainOfThought's own request with n and log-probabilities, and System 1's on the
problem as a whole; run again, it goes on. `replay` asks no model.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO, get_args

import dspy
import httpx

from scale_dspy.baselines import ChainOfThought
from scale_dspy.data.load import load
from scale_dspy.evaluation.selection import list_signals, read_passes, replay_rules
from scale_dspy.lm.modes import Style, modes
from scale_dspy.program import SCALE
from scale_dspy.stages.ask import PlainAdapter


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    commands = parser.add_subparsers(required=True)
    draw = commands.add_parser("record", help="draw passes from a server")
    draw.add_argument("data", help="as for `scale-dspy evaluate`")
    draw.add_argument("--limit", type=int)
    draw.add_argument("--passes", type=int, default=8, help="of System 2, a problem")
    draw.add_argument("--drafts", type=int, default=4, help="of System 1, a problem")
    draw.add_argument("--cap", type=int, help="response tokens of a pass")
    draw.add_argument("--model", required=True)
    draw.add_argument("--api-base", required=True)
    draw.add_argument("--modes", choices=get_args(Style), default="hybrid")
    draw.add_argument("--threads", type=int, default=4, help="problems at work at once")
    draw.add_argument("--seed", type=int, default=0)
    draw.add_argument("--out", type=Path, required=True)
    draw.set_defaults(run=record)
    show = commands.add_parser("replay", help="signals and rules on recorded passes")
    show.add_argument("passes", type=Path)
    show.add_argument("--cap", type=int, help="response tokens a pass could have")
    show.add_argument("--cap-1", type=int, help="response tokens a draft of System 1 could have")
    show.add_argument("--set", help="only problems of this set")
    show.add_argument("--out", type=Path, help="the same as JSON")
    show.set_defaults(run=replay)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    arguments.run(arguments)


def record(arguments: argparse.Namespace) -> None:
    """Draw what is missing; a line is written as its problem ends."""
    path: Path = arguments.out
    kept = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    done = {json.loads(line)["id"] for line in kept}
    examples = load(arguments.data, limit=arguments.limit)
    left = [each for each in examples if str(each.id) not in done]
    with path.open("a", encoding="utf-8") as file:
        asyncio.run(draw_passes(arguments, left, file))


async def draw_passes(
    arguments: argparse.Namespace, examples: Sequence[dspy.Example], file: TextIO
) -> None:
    left = iter(examples)
    limits = {"solve_2": {"max_tokens": arguments.cap}} if arguments.cap else {}
    requests = modes(arguments.modes, **limits)
    whole = ChainOfThought(modes=requests).solve
    direct = SCALE(modes=requests).solve.system_1
    key = os.environ.get("SCALE_API_KEY")
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    base = arguments.api_base.rstrip("/")
    async with httpx.AsyncClient(timeout=None, headers=headers) as client:

        async def draw(predictor: dspy.Predict, inputs: dict[str, str], n: int) -> Any:
            body = make_body(predictor, inputs, n, arguments.model, arguments.seed)
            reply = await client.post(f"{base}/chat/completions", json=body)
            reply.raise_for_status()
            return [tidy(choice) for choice in reply.json()["choices"]]

        async def take_turns() -> None:
            for each in left:
                text = each.problem
                sub = {"problem": text, "context": "", "subproblem": text}
                line = {
                    "set": arguments.data,
                    "id": str(each.id),
                    "problem": text,
                    "gold": each.answer,
                    "passes": await draw(whole, {"problem": text}, arguments.passes),
                    "system_1": await draw(direct, sub, arguments.drafts)
                    if arguments.drafts
                    else [],
                }
                file.write(json.dumps(line) + "\n")
                file.flush()

        await asyncio.gather(*(take_turns() for _ in range(arguments.threads)))


def make_body(
    predictor: dspy.Predict, inputs: dict[str, str], n: int, model: str, seed: int
) -> dict[str, Any]:
    """The request that the predictor sends, with `n` choices and log-probabilities."""
    config = {key: value for key, value in predictor.config.items() if value is not None}
    extra = config.pop("extra_body", {})
    messages = PlainAdapter().format(predictor.signature, predictor.demos, inputs)
    asked = {"n": n, "logprobs": True, "seed": seed}
    return {"model": model, "messages": messages, **config, **extra, **asked}


def tidy(choice: dict[str, Any]) -> dict[str, Any]:
    content = (choice.get("logprobs") or {}).get("content") or []
    logprobs = [round(token["logprob"], 4) for token in content]
    return {
        "text": choice["message"].get("content"),
        "tokens": len(logprobs),
        "finish_reason": choice["finish_reason"],
        "logprobs": logprobs,
    }


def replay(arguments: argparse.Namespace) -> None:
    drawn = read_passes(arguments.passes, arguments.cap, arguments.cap_1)
    drawn = [each for each in drawn if arguments.set in (None, each.group)]
    signals, rules = list_signals(drawn), replay_rules(drawn)
    lines = [f"{len(drawn)} problems, {len(drawn[0].passes)} passes each", "AUROC of a wrong pass"]
    for name, told in signals.items():
        lines.append(f"  {name:<42} {show(told['auroc'])} {show_ends(told['auroc_interval'])}")
    lines.append("accuracy, response tokens, passes, accuracy against the vote of all")
    for told in sorted(rules, key=lambda told: told["tok"]):
        lines.append(
            f"  {told['rule']:<28} {told['accuracy']:.3f} {show_ends(told['accuracy_interval'])}"
            f" {told['tok']:7.0f} {told['passes']:5.2f}   {told['to_full_vote']:+.3f}"
            f" {show_ends(told['to_full_vote_interval'])}"
        )
    logging.info("\n".join(lines))
    if arguments.out:
        found = {"problems": len(drawn), "signals": signals, "rules": rules}
        arguments.out.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


def show(value: float | None) -> str:
    return "  -  " if value is None else f"{value:.3f}"


def show_ends(ends: list[float] | None) -> str:
    return " " * 16 if ends is None else f"[{ends[0]:+.3f}, {ends[1]:+.3f}]"


if __name__ == "__main__":
    main()
