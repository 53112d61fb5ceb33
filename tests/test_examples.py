"""The examples in docstrings, run; those that need a server ask the fake one."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import dspy
import pytest

import scale_dspy
from scale_dspy.lm.connect import MeteredLM
from tests.fake_vllm import FakeVLLM
from tests.world import World

MODULES = [
    module.name
    for module in pkgutil.walk_packages(scale_dspy.__path__, "scale_dspy.")
    if not module.ispkg and module.name != "scale_dspy.__main__"
]


@pytest.mark.parametrize("name", MODULES)
def test_examples_of_a_module(name: str, server: FakeVLLM, lm: MeteredLM) -> None:
    try:
        module = importlib.import_module(name)
    except ImportError as error:
        pytest.skip(str(error))
    (example,) = World().problems(1)
    names = {
        **{"dspy": dspy, "lm": lm, "model": server.model, "api_base": server.api_base},
        **{"problem": example.problem, "answer": example.answer},
    }
    done = doctest.testmod(
        module, extraglobs=names, optionflags=doctest.IGNORE_EXCEPTION_DETAIL | doctest.ELLIPSIS
    )
    assert done.failed == 0


def test_every_public_name_has_an_example() -> None:
    for name in scale_dspy.__all__:
        assert ">>>" in (getattr(scale_dspy, name).__doc__ or ""), name
