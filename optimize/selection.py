"""Which signals detect a wrong pass, and what votes cost: passes are recorded once, then replayed.

    python optimize/selection.py record gsm8k --limit 120 --cap 512 --out passes.jsonl \
        --model M --api-base http://127.0.0.1:8000/v1 --modes prompt
    python optimize/selection.py replay passes.jsonl --cap 512 --table X.md --picture X.png

`record` sends ChainOfThought's own request with n and log-probabilities, and System 1's request for
the problem as a whole; run again, it continues. `replay` asks no model.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO, get_args

import dspy
import httpx

from scale_dspy.baselines import ChainOfThought
from scale_dspy.data.load import load
from scale_dspy.evaluation.passes import read_passes
from scale_dspy.evaluation.rollout import ROLLOUTS, read_rollouts
from scale_dspy.evaluation.selection import list_signals, score_program, score_run
from scale_dspy.evaluation.selection import replay as replay_ways
from scale_dspy.lm.adapter import PlainAdapter
from scale_dspy.lm.modes import Style, modes
from scale_dspy.program import SCALE, load_program


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
    again = commands.add_parser("replay", help="signals and ways to vote on recorded passes")
    again.add_argument("passes", type=Path, nargs="+", help="files; repeated problems are skipped")
    again.add_argument("--cap", type=int, help="response tokens a pass could have")
    again.add_argument("--cap-1", type=int, help="response tokens a draft of System 1 could have")
    again.add_argument(
        "--run", dest="runs", type=Path, action="append", default=[], metavar="DIR",
        help="an evaluated run on these problems, beside the ways; may be given again",
    )  # fmt: skip
    again.add_argument(
        "--program", dest="programs", type=Path, action="append", default=[], metavar="FILE.json",
        help="a program that votes on whole problems, replayed as it is; may be given again",
    )  # fmt: skip
    again.add_argument("--set", action="append", help="only this set; may be given again")
    again.add_argument("--table", type=Path, help="a Markdown file for what is shown")
    again.add_argument("--picture", type=Path, help="a PNG of accuracy against tokens")
    again.add_argument("--out", type=Path, help="a JSON file with every figure")
    again.set_defaults(run=replay)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    arguments.run(arguments)


def record(arguments: argparse.Namespace) -> None:
    """Draw the passes that are missing; each problem's line is written when its passes are
    there."""
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
    sets = read_passes(arguments.passes, arguments.cap, arguments.cap_1)
    if arguments.set:
        sets = {name: drawn for name, drawn in sets.items() if name in arguments.set}
    found: dict[str, dict[str, Any]] = {
        name: {"problems": len(drawn), "signals": list_signals(drawn), "ways": replay_ways(drawn)}
        for name, drawn in sets.items()
    }
    for path in arguments.programs:
        program = load_program(path)
        for name, drawn in sets.items():
            found[name]["ways"].append(score_program(str(path), program, drawn))
    for folder in arguments.runs:
        rollouts = list(read_rollouts(folder / ROLLOUTS))
        for name, drawn in sets.items():
            told = score_run(str(folder), rollouts, drawn)
            found[name]["ways"] += [told] if told else []
    table = "\n".join(write_tables(name, told) for name, told in found.items())
    logging.info(table)
    if arguments.table:
        arguments.table.write_text(table, encoding="utf-8")
    if arguments.picture:
        draw_picture(found, arguments.picture)
    if arguments.out:
        arguments.out.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


def write_tables(name: str, told: dict[str, Any]) -> str:
    """What was found on one set, as Markdown."""
    signals, kinds = told["signals"], list(told["signals"])
    heads = {"pass": "a pass of chain of thought", "draft": "System 1's draft"}
    counts = {kind: next(iter(signals[kind].values())) for kind in kinds}
    share = "; ".join(
        f"{heads[kind]}: {one['share_right']:.1%} of {one['passes']} right"
        for kind, one in counts.items()
    )
    lines = [
        f"## {name or 'Passes'}: {told['problems']} problems\n",
        f"AUROC of being wrong, with its 95 % interval over problems ({share}).\n",
        f"| signal | {' | '.join(heads[kind] for kind in kinds)} |",
        f"|---|{'---|' * len(kinds)}",
    ]
    for signal in signals["pass"]:
        cells = [signals[kind].get(signal, {}) for kind in kinds]
        shown = (show(one.get("auroc"), one.get("auroc_interval")) for one in cells)
        lines.append(f"| {signal} | {' | '.join(shown)} |")
    lines += [
        "\nAccuracy against response tokens. Settings were chosen on other problems than those "
        "scored, within the tokens of a fixed vote of as many as `within` says. Differences are in "
        "points, with paired 95 % bootstrap intervals; `fixed` is a fixed vote of equal tokens.\n",
        "| way | within | accuracy | tokens | passes | to cot | to fixed | to the vote of all |",
        "|---|---|---|---|---|---|---|---|",
    ]
    before = None
    for one in told["ways"]:
        if (one["way"], one["accuracy"], one["tok"]) != before:
            lines.append(f"| {' | '.join(list_cells(one))} |")
        before = one["way"], one["accuracy"], one["tok"]
    return "\n".join(lines) + "\n"


def list_cells(one: dict[str, Any]) -> list[str]:
    differences = (
        show(100 * one[key], [100 * end for end in one[f"{key}_interval"]], "+.1f")
        for key in ("to_cot", "to_fixed", "to_all")
    )
    ends = [100 * end for end in one["accuracy_interval"]]
    accuracy = show(100 * one["accuracy"], ends, ".1f")
    within = "" if one["given"] is None else str(one["given"])
    passes = "" if one["passes"] is None else f"{one['passes']:.2f}"
    way = one["way"] if "problems" not in one else f"{one['way']} ({one['problems']} problems)"
    return [way, within, accuracy, f"{one['tok']:.0f}", passes, *differences]


def show(value: float | None, ends: list[float] | None, how: str = ".3f") -> str:
    """A value and its interval; nothing if the interval has no width, as in a comparison with
    itself."""
    if value is None or (ends and ends[0] == ends[1]):
        return ""
    return f"{value:{how}}" if ends is None else f"{value:{how}} [{ends[0]:{how}}, {ends[1]:{how}}]"


def draw_picture(found: dict[str, Any], path: Path) -> None:
    """Accuracy against response tokens, a panel a set; fixed votes are the grey line."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.4, 0.6 + 3.8 * len(found)), dpi=180, layout="constrained")
    panels = figure.subplots(len(found), 1, squeeze=False)[:, 0]
    for axes, (name, told) in zip(panels, found.items(), strict=True):
        lines: dict[str, list[tuple[float, float]]] = {}
        for one in told["ways"]:
            named = "vote" if one["way"] == "cot" else one["way"]
            way = re.sub(r"(vote)( at)? [\d.]+$", r"\1", named)
            lines.setdefault(way, []).append((one["tok"], 100 * one["accuracy"]))
        for number, (way, points) in enumerate(lines.items()):
            label = {"vote": "fixed votes, 1 to all", "adaptive vote": "adaptive, each stop"}
            style: dict[str, Any] = {"marker": "osD^vPX*"[number % 8], "markersize": 4}
            if way == "vote":
                style |= {"color": "#74777f", "linewidth": 2}
            axes.plot(*zip(*sorted(set(points)), strict=True), label=label.get(way, way), **style)
        axes.set_title(f"{name}, {told['problems']} problems")
        axes.set_ylabel("right, %")
        axes.grid(alpha=0.3)
    panels[-1].set_xlabel("response tokens a problem")
    panels[0].legend(fontsize=8)
    figure.savefig(path)


if __name__ == "__main__":
    main()
