r"""A program run from its exported JSON alone, with nothing but the standard library.

    python -I -S render_messages.py render EXPORT < [[STAGE, INPUTS], ...]  > [BODY, ...]
    python -I -S render_messages.py read EXPORT < [[STAGE, TEXT, COUNT], ...]  > [VALUE, ...]
    python -I -S render_messages.py solve EXPORT API_BASE MODEL < [PROBLEM, ...]  > [RESULT, ...]
    python -I -S render_messages.py solve EXPORT API_BASE MODEL PARTNER_BASE PARTNER_MODEL < ...

It is written from what the export says of itself, as the author of another runtime would write it:
should it ever need a look into scale_dspy, the export lacks something.
"""

from __future__ import annotations

import json
import math
import re
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

Export = dict[str, Any]


class Reply(NamedTuple):
    content: str
    reasoning: str
    cut_off: bool
    logprobs: tuple[float, ...] = ()


class Draft(NamedTuple):
    """A solution that is known before the system is chosen."""

    solution: str
    difficulty: float


# ---- from inputs to a request --------------------------------------------------------------------


def render(export: Export, stage: str, inputs: dict[str, str]) -> dict[str, Any]:
    """The body of a request, but for `model`."""
    told = export["stages"][stage]
    messages = [
        {"role": message["role"], "content": render_parts(export, message["parts"], inputs)}
        for message in told["messages"]
    ]
    return {"messages": messages, **told["body"]}


def render_parts(export: Export, parts: list[dict[str, str]], inputs: dict[str, str]) -> str:
    kept = []
    for part in parts:
        if "text" in part:
            kept.append(part["text"])
        elif inputs.get(part["input"]):
            kept.append(part["title"] + inputs[part["input"]])
    return str(export["join"].join(kept))


def write_items(export: Export, text: str, items: list[dict[str, str]]) -> str:
    """One of routing.texts: `context`, `list` or `candidates`."""
    told = export["routing"]["texts"][text]
    written = []
    for number, item in enumerate(items, 1):
        values = {**item, "number": str(number)}
        pieces = [
            piece["text"] if "text" in piece else values[piece["value"]] for piece in told["item"]
        ]
        written.append("".join(pieces))
    return str(told["join"].join(written))


def write_list(export: Export, subproblems: list[str]) -> str:
    return write_items(export, "list", [{"subproblem": text} for text in subproblems])


# ---- from a reply to a value ---------------------------------------------------------------------


def read_reply(export: Export, choice: dict[str, Any]) -> Reply:
    told, message = export["reply"], choice["message"]
    content = message.get("content") or ""
    reasoning = message.get("reasoning_content") or message.get("reasoning") or ""
    for tags in (told, *told["other_tags"]):
        if tags["open"] in content or tags["close"] in content:
            before, opened, after = content.partition(tags["open"])
            before, after = (before, after) if opened else ("", content)
            inside, closed, rest = after.rpartition(tags["close"])
            inside, rest = (inside, rest) if closed else (after, "")
            content, reasoning = before + rest, reasoning or inside.strip()
            break
    tokens = (choice.get("logprobs") or {}).get("content") or []
    logprobs = tuple(token["logprob"] for token in tokens)
    cut_off = choice.get("finish_reason") == told["cut_off"]
    return Reply(content.strip(), reasoning, cut_off, logprobs)


def read(export: Export, stage: str, text: str, count: int = 0) -> Any:
    """What a stage makes of a reply's content; None where it cannot be read."""
    told = export["stages"][stage]["read"]
    if told["kind"] == "numbered_list":
        return read_list(told, text) or None
    if told["kind"] == "choice":
        return read_choice(told, text[: told["longest"]], count)
    if told["kind"] == "score":
        return read_score(told, text)
    return text or None


def read_list(told: dict[str, Any], text: str) -> list[str]:
    text = text[: told["longest"]]
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("```")]
    text = "\n".join(lines)
    items = read_array(told, text)
    for style in told["styles"]:
        items = items or collect(told, style, text)
    return list(dict.fromkeys(items))[: told["most"]]


def read_array(told: dict[str, Any], text: str) -> list[str]:
    try:
        found = json.loads(text) if text.lstrip().startswith("[") else []
    except (ValueError, RecursionError):
        return []
    if not all(isinstance(item, str) for item in found):
        return []
    numbers = [find(told["number"]).match(item) for item in found]
    cut = [
        item[number.end() :] if number else item
        for item, number in zip(found, numbers, strict=True)
    ]
    return [item for item in map(tidy, cut) if item]


def collect(told: dict[str, Any], style: dict[str, Any], text: str) -> list[str]:
    opened: list[re.Match[str]] = []
    last = 0
    for match in find(style["opening"]).finditer(text):
        if style["ordinals"] is None:
            number = last + 1
        elif style["ordinals"]:
            ordinal = match[1].lower()
            number = 1 + style["ordinals"].index(ordinal) if ordinal in style["ordinals"] else -1
        else:
            number = int(match[1])
        if number == last + 1 or (not opened and number == 0):
            opened, last = [*opened, match], number
    items = []
    for place, match in enumerate(opened):
        item = text[match.end() : opened[place + 1].start() if opened[place + 1 :] else None]
        if style["cells"]:
            (item, *_) = item.split("\n")
            end = find(told["cell_end"]).search(item)
            item = item[: end.start()] if end else item
        items.append(tidy(item))
    sound = not style["sentences"] or all(map(find(told["sentence"]).match, items))
    return [item for item in items if item] if len(items) >= style["least"] and sound else []


def tidy(item: str) -> str:
    lines = [line.strip() for line in item.strip().split("\n")]
    text = "\n".join(lines[: lines.index("")] if "" in lines else lines)
    bold = len(text) > 4 and text.startswith("**") and text.endswith("**") and "\n" not in text
    if bold:
        return text[2:-2].strip()
    return text[:-2].strip() if text.endswith("**") and text.count("**") % 2 else text


def read_choice(told: dict[str, Any], text: str, count: int) -> int | None:
    numbers = {int(number) for number in find(told["number"]).findall(text)}
    if len(numbers) > 1:
        named = [find(each).findall(text) for each in told["named"]]
        numbers = {int(number) for found in named for number in found}
    return next((k for k in numbers if len(numbers) == 1 and 1 <= k <= count), None)


def read_score(told: dict[str, Any], text: str) -> float | None:
    text = text[: told["longest"]].strip().strip(told["strip"])
    for change in told["rewrite"]:
        text = find(change).sub(lambda match, new=change["with"]: match.expand(new), text)
    named, numbers = (list(find(told[key]).finditer(text)) for key in ("named", "number"))
    at_once = find(told["number"]).match(text)
    match = at_once or (named or numbers or [None])[-1]
    if match is None:
        return None
    groups = match.groups()
    low, high = groups[0], groups[1] or groups[0]
    values = [float(each.rstrip("% ").replace(",", ".")) for each in (low, high)]
    whole = 100 if "%" in low + high else float(groups[2] or 1)
    score = sum(values) / 2 / whole if whole else -1
    return score if 0 <= score <= 1 else None


def find(pattern: dict[str, Any]) -> re.Pattern[str]:
    flags = re.MULTILINE | (re.IGNORECASE if pattern["ignore_case"] else 0)
    return re.compile(pattern["regex"], flags)


def read_answer(export: Export, text: str) -> str | None:
    """The last box; the ways without any are left to a runtime that needs them."""
    found = None
    for command in export["answer"]["read"]["commands"]:
        for match in re.finditer(re.escape(command) + r"\{", text):
            depth, end = 1, match.end()
            while depth and end < len(text):
                depth += {"{": 1, "}": -1}.get(text[end], 0)
                end += 1
            found = text[match.end() : end - 1] if depth == 0 else found
    return found


# ---- drafts and votes ----------------------------------------------------------------------------


def read_result(export: Export, reply: Reply) -> str | None:
    boxed = any(each in reply.content for each in export["answer"]["read"]["commands"])
    return None if reply.cut_off and not boxed else read_answer(export, reply.content)


def group(results: list[str | None]) -> list[list[int]]:
    """Places of equal results, the largest group first. What is equal is simpler here than in the
    program: texts that are the same."""
    groups: dict[str, list[int]] = {}
    for place, result in enumerate(results):
        if result is not None:
            groups.setdefault(result, []).append(place)
    return sorted(groups.values(), key=len, reverse=True)


def pick(results: list[str | None]) -> int:
    return next((members[0] for members in group(results)), 0)


def measure_lead(results: list[str | None]) -> float:
    """1 - I(v1 + 1, v2 + 1) at one half, by Simpson's rule."""
    first, second, *_ = [*map(len, group(results)), 0, 0]
    if not first:
        return 0.0
    steps = 2000

    def density(x: float) -> float:
        return float(x**first * (1 - x) ** second)

    def integrate(end: float) -> float:
        ys = [density(end * k / steps) for k in range(steps + 1)]
        inner = 4 * sum(ys[1:-1:2]) + 2 * sum(ys[2:-1:2])
        return end / steps / 3 * (ys[0] + ys[-1] + inner)

    return 1 - integrate(0.5) / integrate(1.0)


def share_tokens(replies: list[Reply], tokens: int) -> list[int]:
    """The tokens of each reply of a request."""
    if all(reply.logprobs for reply in replies):
        return [len(reply.logprobs) for reply in replies]
    sizes = [1 + len(reply.content) + len(reply.reasoning) for reply in replies]
    ends = [tokens * sum(sizes[: k + 1]) // sum(sizes) for k in range(len(sizes))]
    return [end - begin for begin, end in zip([0, *ends], ends, strict=False)]


def weigh_lead(export: Export, results: list[str | None], doubts: list[float]) -> tuple[int, float]:
    """(the place of the first pass of the leading result, the probability that it is right)."""
    told = export["routing"]["votes"]["weigh"]
    weights: dict[str, float] = {}
    for result, doubt in zip(results, doubts, strict=True):
        if result is not None:
            kept = min(1 - told["surest"], max(told["surest"], doubt))
            weights[result] = weights.get(result, 1.0) * told["spread"] * (1 - kept) / kept
    if not weights:
        return 0, 0.0
    leader = max(weights, key=lambda result: weights[result])
    unseen = max(0.0, told["spread"] + 1 - len(weights))
    lead = weights[leader] / (sum(weights.values()) + unseen)
    return results.index(leader), min(round(lead, told["decimals"]), 1 - 1e-6)


def estimate(
    export: Export,
    reply: Reply,
    tokens: int,
    disagreement: float | None,
    stage: str = "solve_1",
    weighing: dict[str, Any] | None = None,
) -> float:
    """How likely a draft or a pass is to be wrong, by the features that are known of it."""
    told = export["routing"]["drafts"]
    sizes = told["features"]
    cap = export["stages"][stage]["body"].get("max_tokens") or sizes["cap"]
    known = {
        "length": math.log(1 + tokens) / math.log(1 + cap),
        "cut_off": float(reply.cut_off),
        "unreadable": float(read_result(export, reply) is None),
    }
    if reply.logprobs:
        surprises = [-value for value in reply.logprobs]
        window = min(sizes["window_tokens"], len(surprises))
        runs = [surprises[k : k + window] for k in range(len(surprises) - window + 1)]
        known["mean"] = sum(surprises) / len(surprises)
        known["window"] = max(sum(run) / window for run in runs)
        last = surprises[-sizes["last_tokens"] :]
        known["last"] = sum(last) / len(last)
    if disagreement is not None:
        known["disagreement"] = disagreement
    weighing = weighing or told
    odds = weighing["bias"] + sum(
        weight * (known.get(name, told["typical"][name]) - told["typical"][name])
        for name, weight in weighing["weights"].items()
    )
    return float(round(1 / (1 + math.exp(-odds)), told["decimals"]))


# ---- the whole flow ------------------------------------------------------------------------------


class Runner:
    """Solves problems with the program of an export."""

    def __init__(self, export: Export, *places: str) -> None:
        self.export = export
        self.servers = list(zip(places[::2], places[1::2], strict=True))
        self.routing = export["routing"]
        self.tokens = 0  # of the last request

    def solve(self, problem: str) -> dict[str, Any]:
        problem = problem.strip()
        steps: list[dict[str, Any]] = []
        planned = self.plan(problem)
        for subproblem, known in planned:
            context = write_items(self.export, "context", steps)
            inputs = {"problem": problem, "context": context, "subproblem": subproblem}
            if known is None and self.routing["assess"] not in ("upfront", "none"):
                known = self.find_difficulty(inputs)
            difficulty = known.difficulty if isinstance(known, Draft) else known
            hard = difficulty is not None and difficulty > self.routing["threshold"]
            if hard:
                solution = self.think("whole" if len(planned) == 1 else "solve_2", inputs)
            else:
                drafted = isinstance(known, Draft)
                solution = known.solution if drafted else self.say("solve_1", inputs)
            steps.append(
                {
                    "subproblem": subproblem,
                    "difficulty": difficulty,
                    "system": 2 if hard else 1,
                    "solution": solution,
                }
            )
        return {"answer": read_answer(self.export, steps[-1]["solution"]), "steps": steps}

    def plan(self, problem: str) -> list[tuple[str, float | Draft | None]]:
        split = self.routing["split"]["value"]
        if split > 0:
            found = self.find_difficulty({"problem": problem, "context": "", "subproblem": problem})
            if (found.difficulty if isinstance(found, Draft) else found) <= split:
                return [(problem, found)]
        subproblems = [*self.decompose(problem)[:-1], problem]
        known: list[float | Draft | None] = [None] * len(subproblems)
        known[-1] = self.routing["final_difficulty"]
        for k, subproblem in enumerate(subproblems if self.routing["assess"] == "upfront" else []):
            if known[k] is None:
                context = write_list(self.export, subproblems[:k])
                known[k] = self.rate(
                    "assess", {"problem": problem, "context": context, "subproblem": subproblem}
                )
        return list(zip(subproblems, known, strict=True))

    def find_difficulty(self, inputs: dict[str, str]) -> float | Draft:
        how = self.routing["assess"]
        if how not in ("draft", "agreement", "review"):
            return self.rate("assess", inputs)
        replies, tokens = self.draw_drafts(inputs, logprobs=how == "draft")
        results = [read_result(self.export, reply) for reply in replies]
        reply = replies[pick(results)]
        groups = group(results)
        apart = 1 - len(groups[0]) / len(results) if groups else 1.0
        solution = self.take(reply)
        if how == "review":
            return Draft(solution, self.rate("review", {**inputs, "draft": reply.content}))
        if how == "agreement":
            places = self.routing["drafts"]["decimals"]
            return Draft(solution, round(apart, places) if len(replies) > 1 else 0.0)
        disagreement = apart if len(replies) > 1 else None
        length = len(reply.logprobs) or tokens
        return Draft(solution, estimate(self.export, reply, length, disagreement))

    def draw_drafts(self, inputs: dict[str, str], logprobs: bool) -> tuple[list[Reply], int]:
        """The drafts, and the response tokens of the last request for them."""
        probes = self.routing["drafts"]["probes"]
        fields = {"logprobs": True} if logprobs else {}
        inputs = {**inputs, "draft": ""}
        if probes == 1:
            return [self.hear("solve_1", inputs, **fields)], self.tokens
        replies = self.ask("solve_1", inputs, n=probes, **fields)
        while len(replies) < probes:
            replies += self.ask("solve_1", inputs, **fields)
        return replies, self.tokens

    def decompose(self, problem: str) -> list[str]:
        told = self.export["stages"]["decompose"]
        for attempt in range(told["attempts"]):
            replies = self.draw(told["draw"], problem, first=attempt == 0)
            lists = [read(self.export, "decompose", reply.content) for reply in replies]
            lists = [items for items in lists if items]
            if lists:
                return self.choose(problem, lists)
        return [problem]

    def draw(self, told: dict[str, int], problem: str, first: bool) -> list[Reply]:
        wanted = told["candidates"] if first else 1
        replies: list[Reply] = []
        while first and len(replies) < wanted:
            choices = self.ask("decompose", {"problem": problem})
            replies += choices
            if len(choices) < told["per_request"]:
                break
        while len(replies) < wanted:
            replies += self.ask("decompose", {"problem": problem}, n=None)
        return replies[:wanted]

    def choose(self, problem: str, lists: list[list[str]]) -> list[str]:
        if all(items == lists[0] for items in lists):
            return lists[0]
        items = [{"list": write_list(self.export, subproblems)} for subproblems in lists]
        candidates = write_items(self.export, "candidates", items)
        inputs = {"problem": problem, "candidates": candidates}
        default = self.export["stages"]["select"]["default"]["choice"]
        number = self.ask_until(
            "select", inputs, lambda text: read(self.export, "select", text, len(lists)), default
        )
        return lists[number - 1]

    def rate(self, stage: str, inputs: dict[str, str]) -> float:
        default = self.export["stages"][stage]["default"]["difficulty"]
        return float(
            self.ask_until(stage, inputs, lambda text: read(self.export, stage, text), default)
        )

    def think(self, stage: str, inputs: dict[str, str]) -> str:
        votes = self.routing["votes"]
        if votes["most"] == 1:
            return self.take(self.conclude(self.hear(stage, inputs), inputs))
        weighing = votes["weigh"]
        fields = {"logprobs": True} if weighing else {}
        replies: list[Reply] = []
        doubts: list[float] = []
        wave = votes["first"] if votes["stop"] < 1 else votes["most"]
        while len(replies) < votes["most"]:
            wanted = min(wave, votes["most"] - len(replies))
            drawn = self.ask(stage, inputs, n=wanted if wanted > 1 else None, **fields)
            spent = self.tokens
            replies += [self.conclude(reply, inputs) for reply in drawn]
            results = [read_result(self.export, reply) for reply in replies]
            winner, lead = pick(results), measure_lead(results)
            if weighing:
                doubts += [
                    estimate(self.export, reply, tokens, None, stage, weighing)
                    for reply, tokens in zip(drawn, share_tokens(drawn, spent), strict=True)
                ]
                winner, lead = weigh_lead(self.export, results, doubts)
            if votes["stop"] < 1 and lead > votes["stop"]:
                break
            wave = len(replies)
        return self.take(replies[winner])

    def conclude(self, reply: Reply, inputs: dict[str, str]) -> Reply:
        told = self.routing["draft"]
        if not reply.cut_off or told["unless"] in reply.content:
            return reply
        draft = (reply.reasoning + told["join"] + reply.content).strip()[-told["characters"] :]
        end = self.hear("solve_1", {**inputs, "draft": draft})
        return Reply(end.content or reply.content, draft, end.cut_off or not end.content)

    def say(self, stage: str, inputs: dict[str, str]) -> str:
        return self.take(self.hear(stage, {**inputs, "draft": ""}))

    def take(self, reply: Reply) -> str:
        characters = self.export["stages"]["solve_1"]["default"]["characters"]
        return reply.content or reply.reasoning[-characters:]

    def hear(self, stage: str, inputs: dict[str, str], **fields: Any) -> Reply:
        for reply in self.ask_again(stage, inputs, **fields):
            if reply.content or reply.cut_off:
                break
        return reply

    def ask_until(
        self, stage: str, inputs: dict[str, str], reader: Callable[[str], Any], default: Any
    ) -> Any:
        values = (reader(reply.content) for reply in self.ask_again(stage, inputs))
        return next((value for value in values if value is not None), default)

    def ask_again(self, stage: str, inputs: dict[str, str], **fields: Any) -> Iterator[Reply]:
        for _ in range(self.export["stages"][stage]["attempts"]):
            yield self.ask(stage, inputs, **fields)[0]

    def ask(self, stage: str, inputs: dict[str, str], **fields: Any) -> list[Reply]:
        api_base, model = self.servers[self.export["stages"][stage]["partner"]]
        body = {"model": model, **render(self.export, stage, inputs), **fields}
        data = json.dumps({name: value for name, value in body.items() if value is not None})
        request = urllib.request.Request(
            f"{api_base}/chat/completions", data.encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=30) as reply:
            told = json.load(reply)
        self.tokens = int(told["usage"]["completion_tokens"])
        return [read_reply(self.export, choice) for choice in told["choices"]]


def main(command: str, path: str, *rest: str) -> None:
    export = json.loads(Path(path).read_text(encoding="utf-8"))
    asked = json.load(sys.stdin)
    if command == "render":
        told = [render(export, stage, inputs) for stage, inputs in asked]
    elif command == "read":
        told = [read(export, stage, text, count) for stage, text, count in asked]
    else:
        runner = Runner(export, *rest)
        told = [runner.solve(problem) for problem in asked]
    assert not {"dspy", "scale_dspy"} & set(sys.modules)
    json.dump(told, sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
