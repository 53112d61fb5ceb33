"""The types that mypy reads for DSPy are those of the DSPy that is installed."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

TYPINGS = Path(__file__).parent / "typings"
FILES = sorted(TYPINGS.rglob("*.pyi"))
# Instances have these; their classes do not.
SET_BY_INIT = {"signature", "config", "lm", "traces", "train", "demos", "fields", "stage"} | {
    *("model", "model_type", "cache", "callbacks", "num_retries", "kwargs", "history", "report"),
    *("message", "code", "provider", "status", "retry_after", "adapter", "trace", "send_stream"),
    *("stream_listeners", "parts", "role", "annotation", "default", "json_schema_extra"),
}


def _name_module(file: Path) -> str:
    parts = file.relative_to(TYPINGS).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def _find_missing(body: list[ast.stmt], owner: Any, prefix: str) -> Iterator[str]:
    """The names of a stub that their owner at run time does not have."""
    for node in body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            name = node.name
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            name = node.target.id
        else:
            continue
        known = name in SET_BY_INIT or name in getattr(owner, "__dataclass_fields__", ())
        if not known and not hasattr(owner, name):
            yield f"{prefix}.{name}"
        elif isinstance(node, ast.ClassDef):
            yield from _find_missing(node.body, getattr(owner, name), f"{prefix}.{name}")


@pytest.mark.parametrize("file", FILES, ids=_name_module)
def test_every_typed_name_is_there(file: Path) -> None:
    module = _name_module(file)
    # FieldInfo is pydantic's, SignatureMeta and the classes behind names are DSPy's private ones.
    private = {f"{module}.{name}" for name in ("FieldInfo", "SignatureMeta", "Completions")}
    private |= {f"{module}.Settings"}
    missing = set(
        _find_missing(ast.parse(file.read_text()).body, importlib.import_module(module), module)
    )
    assert missing <= private
