r"""Training data from solved problems: one chat record a problem, its solution a single response.

The rollouts are a run of `evaluate` in a folder beside the file; the records are made from it, so
running again repeats nothing, and the same rollouts always give the same file. This is the paper's
second setting: a model without a thinking mode learns from what SCALE did with one that has it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import dspy
from typing_extensions import Unpack

from scale_dspy.data.decontamination import find_overlap, index_problems
from scale_dspy.data.load import digest
from scale_dspy.evaluation.costs import read_cost
from scale_dspy.evaluation.description import describe_run
from scale_dspy.evaluation.rollout import ROLLOUTS, Rollout, read_pairs
from scale_dspy.evaluation.runner import Effort, evaluate
from scale_dspy.grading.answers import find_answer, find_closing_brace
from scale_dspy.grading.metrics import is_right
from scale_dspy.lm.connect import MeteredLM
from scale_dspy.method import Solver
from scale_dspy.step import Step
from scale_dspy.traces.dataset_card import Card, count_traces, render_card
from scale_dspy.traces.trace import Message, Part, Trace
from scale_dspy.utils.files import write_whole
from scale_dspy.utils.records import write_record

AGAINST = ("aime24", "aime25", "amc23", "math500")
SUFFIXES = (".jsonl", ".parquet")
UNFINISHED = ("cut off", "no solution in any reply")  # in a prediction's notes


def make_traces(
    program: Solver,
    examples: Sequence[dspy.Example],
    lm: MeteredLM,
    out: Path,
    *,
    method: str = "scale",
    data: str = "",
    against: Mapping[str, Sequence[dspy.Example]],
    unchecked: Sequence[str] = (),
    settings: Mapping[str, Any] | None = None,
    **effort: Unpack[Effort],
) -> Card:
    """Solve problems with gold answers and write the right solutions as chat records.

    Args:
        program: of a method that is joinable.
        examples: as `load` makes them.
        out: the file, .jsonl or .parquet. Its run lies in `out`.run, its card in a .card.md beside.
        method: its name, for the card.
        data: the set's name, for the card and the records.
        against: test sets by name; a problem that overlaps with one is not solved at all.
        unchecked: names of sets that could not be loaded, for the card.
        settings: the flags of the command line, for run.json.
        effort: as for `evaluate`; one sample by default, and of several the shortest right one is
            kept.

    Raises:
        ValueError: `out` has another suffix, its run is another one, or every problem overlaps.
        RuntimeError: the server is gone, or no rollout became a record; what is finished is kept.
    """
    check_path(out)
    clean, overlapping = drop_overlapping(examples, against)
    if not clean:
        raise ValueError(f"all {len(examples)} problems overlap with {', '.join(overlapping)}")
    samples = effort.setdefault("samples", 1)
    described = describe_run(program, method, data, clean, lm, samples, settings)
    folder = out.with_name(f"{out.name}.run")
    summary = evaluate(program, clean, lm, folder, description=described, **effort)
    rollouts = list(read_pairs(Rollout, folder / ROLLOUTS, clean, samples))
    traces, dropped = choose_traces(rollouts, clean, described["threshold"])
    card = Card(
        **count_traces(examples, clean, rollouts, traces, dropped),
        settings={key: value for key, value in described.items() if key != "settings"},
        cost=read_cost(summary),
        overlapping=dict(overlapping),
        against={name: digest(tests) for name, tests in against.items()},
        unchecked=list(unchecked),
    )
    _write_files(out, traces, card)
    if not traces:
        raise RuntimeError(f"none of {len(rollouts)} rollouts became a record; see {folder}")
    return card


def check_path(out: Path) -> None:
    """ValueError unless traces can be written to `out`."""
    if out.suffix not in SUFFIXES or not out.parent.is_dir():
        raise ValueError(f"--out is a .jsonl or .parquet file in a folder that exists, not {out}")


def drop_overlapping(
    examples: Sequence[dspy.Example], against: Mapping[str, Sequence[dspy.Example]]
) -> tuple[list[dspy.Example], Counter[str]]:
    """(the examples that share nothing with the test sets, how many share something, by set)."""
    index = index_problems(against)
    found = [find_overlap(example.problem, index) for example in examples]
    clean = [example for example, name in zip(examples, found, strict=True) if name is None]
    return clean, Counter(name for name in found if name is not None)


def choose_traces(
    rollouts: Iterable[Rollout], examples: Sequence[dspy.Example], threshold: float | None
) -> tuple[list[Trace], Counter[str]]:
    """The traces, in the order of the examples, and why the other rollouts became none."""
    dropped: Counter[str] = Counter()
    right: dict[str, list[Trace]] = {}
    by_id = {str(example.id): example for example in examples}
    for rollout in rollouts:
        trace = make_trace(rollout, by_id[rollout.id], threshold)
        if isinstance(trace, str):
            dropped[trace] += 1
        else:
            right.setdefault(rollout.id, []).append(trace)
    traces = [min(right[name], key=_measure) for name in by_id if name in right]
    longer = sum(map(len, right.values())) - len(traces)
    return traces, dropped + Counter({"longer": longer} if longer else {})


def make_trace(rollout: Rollout, example: dspy.Example, threshold: float | None) -> Trace | str:
    """The trace of a rollout; or, in a word or two, why there is none."""
    if rollout.error is not None:
        return "error"
    if rollout.answer is None:
        return "no answer"
    if not rollout.correct:
        return "wrong"
    if any(sign in note for note in rollout.replaced for sign in UNFINISHED):
        return "unfinished"
    response = join_steps(rollout.steps, rollout.answer)
    if not is_right(example, dspy.Prediction(answer=find_answer(response))):
        return "unfinished"  # the joined text has another answer than the rollout
    return Trace(
        messages=(Message("user", rollout.problem), Message("assistant", response)),
        id=rollout.id,
        source=str(example.get("source", "")),
        sample=rollout.sample,
        answer=rollout.gold,
        tokens=rollout.tokens or 0,
        threshold=threshold,
        steps=tuple(
            Part(step.subproblem, step.difficulty, step.system, step.tokens)
            for step in rollout.steps
        ),
    )


def join_steps(steps: Sequence[Step], answer: str) -> str:
    r"""One continuous solution: every part, its reasoning, its result; `\boxed{}` once, at the end.

    Args:
        steps: those of a rollout, the last one the question itself.
        answer: what the rollout gave.
    """
    sections = []
    for place, step in enumerate(steps):
        lead = _lead_in(place, len(steps), step.subproblem)
        sections += [part for part in (lead, *_write_work(step)) if part]
    return "\n\n".join([*sections, f"The answer is $\\boxed{{{unbox(answer)}}}$."])


def _lead_in(place: int, count: int, subproblem: str) -> str:
    if count == 1:
        return ""
    if place == count - 1:
        return "With these results I can answer the question itself."
    task = unbox(subproblem.strip())
    start = "Let me begin with a first part of it" if place == 0 else "Building on this, I go on"
    return f"{start}: {task}"


def _write_work(step: Step) -> list[str]:
    """A step's reasoning and solution; where one contains the other, only the longer one."""
    reasoning, solution = (
        unbox(_TAG.sub("", text)).strip() for text in (step.reasoning, step.solution)
    )
    if not reasoning or reasoning in solution:
        return [solution]
    return [reasoning] if solution in reasoning else [reasoning, f"So, in short:\n\n{solution}"]


_TAG = re.compile(r"</?think>")
_BOX = re.compile(r"\\(?:boxed|fbox)(?![A-Za-z])\s*(\{?)")


def unbox(text: str) -> str:
    r"""The text with every \boxed{} replaced by its content.

    >>> unbox(r"so $\boxed{\frac{1}{2}}$, and not \boxed 3")
    'so $\\frac{1}{2}$, and not 3'
    """
    while match := _BOX.search(text):
        close = find_closing_brace(text, match.end()) if match[1] else None
        rest = text[match.end() :]
        if close is not None:
            rest = text[match.end() : close].strip() + text[close + 1 :]
        text = text[: match.start()] + rest
    return text


def _measure(trace: Trace) -> tuple[int, int, int]:
    """The length by which the shortest trace is found: tokens of its steps, then characters."""
    tokens = sum(step.tokens for step in trace.steps)
    return tokens, len(trace.messages[-1].content), trace.sample


def _write_files(out: Path, traces: Sequence[Trace], card: Card) -> None:
    """Write the traces, if there are any, and the card, which says why if there are none."""
    if traces:
        _write_traces(out, traces)
    with write_whole(out.with_name(f"{out.stem}.card.md")) as draft:
        draft.write_text(render_card(card, out.name), encoding="utf-8")


def _write_traces(out: Path, traces: Sequence[Trace]) -> None:
    """The file, whole or not at all."""
    if out.suffix == ".jsonl":
        with write_whole(out) as draft, draft.open("w", encoding="utf-8") as file:
            file.writelines(map(write_record, traces))
        return
    import pyarrow as pa
    import pyarrow.parquet

    table = pa.Table.from_pylist([asdict(trace) for trace in traces], schema=_schema(pa))
    with write_whole(out) as draft:
        pyarrow.parquet.write_table(table, draft)


def _schema(pa: Any) -> Any:
    """Columns that do not depend on the records: a difficulty may be missing in all of them."""
    message = pa.struct([("role", pa.string()), ("content", pa.string())])
    step = pa.struct(
        [
            ("subproblem", pa.string()),
            ("difficulty", pa.float64()),
            ("system", pa.int64()),
            ("tokens", pa.int64()),
        ]
    )
    return pa.schema(
        [
            ("messages", pa.list_(message)),
            ("id", pa.string()),
            ("source", pa.string()),
            ("sample", pa.int64()),
            ("answer", pa.string()),
            ("tokens", pa.int64()),
            ("threshold", pa.float64()),
            ("steps", pa.list_(step)),
        ]
    )
