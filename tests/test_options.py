"""What the flags of commands come to: options of SCALE, and what the embedded model gets."""

from __future__ import annotations

import io
from argparse import Namespace

import pytest
from rich.console import Console

from scale_dspy.cli.options import FOR_EMBEDDED, choose_for_embedded, read_option_grid, read_program
from scale_dspy.lm.backend import Backend, Resolved
from scale_dspy.program import SCALE

NOTHING_CHOSEN = {
    "method": "scale",
    "program": None,
    "budget": None,
    **dict.fromkeys(("threshold", "split", "stop", "assess", "votes", "weigh", "probes")),
    "candidates": None,
}


def settle(*, embedded: bool) -> Resolved:
    style = "embedded" if embedded else "hybrid"
    return Resolved(Backend(), embedded, style, True, 1, 1 if embedded else 8)


def choose(settled: Resolved, **flags: object) -> tuple[Namespace, str]:
    """The flags afterwards, and what was said."""
    arguments, said = Namespace(**{**NOTHING_CHOSEN, **flags}), io.StringIO()
    choose_for_embedded(arguments, settled, Console(file=said, width=200))
    return arguments, said.getvalue()


def test_the_embedded_model_gets_what_won_for_it() -> None:
    settled = settle(embedded=True)
    arguments, said = choose(settled)
    program = read_program(arguments, settled)
    assert isinstance(program, SCALE)
    read = {name: getattr(program, name) for name in FOR_EMBEDDED}
    assert {name: getattr(value, "value", value) for name, value in read.items()} == FOR_EMBEDDED
    assert f"up to {FOR_EMBEDDED['votes']} votes" in said


@pytest.mark.parametrize(
    "flags",
    [{"threshold": 0.3}, {"split": 0.0}, {"assess": "draft"}, {"candidates": 2}, {"votes": 1},
     {"weigh": True},
     {"method": "cot"}, {"program": "tuned.json"}],
)  # fmt: skip
def test_what_a_user_chooses_is_left_as_it_is(flags: dict[str, object]) -> None:
    arguments, said = choose(settle(embedded=True), **flags)
    assert vars(arguments) == {**NOTHING_CHOSEN, **flags}
    assert not said


def test_a_server_gets_the_paper_s_program() -> None:
    arguments, said = choose(settle(embedded=False))
    assert vars(arguments) == NOTHING_CHOSEN
    assert not said


def test_several_numbers_of_candidates_and_caps_are_all_combined() -> None:
    def options(**flags: object) -> list[dict[str, object]]:
        none = dict.fromkeys(("assess", "probes", "votes", "weigh", "candidates", "caps"))
        return read_option_grid(Namespace(**{**none, **flags}))

    assert options() == [{}]
    assert options(candidates=[8, 1]) == [{"candidates": 8}, {"candidates": 1}]
    both = options(candidates=[8, 1], caps=[2048, 8192])
    assert both[0] == {"candidates": 8, "system_2_cap": 2048}
    assert len(both) == 4
    assert options(votes=[8], weigh=[False, True]) == [
        {"votes": 8, "weigh": False},
        {"votes": 8, "weigh": True},
    ]
