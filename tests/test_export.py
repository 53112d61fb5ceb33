"""Both exports: any text survives them, none tells a secret, and files are written whole."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from markdown_it import MarkdownIt

from scale_dspy import SCALE, connect, modes
from scale_dspy.export.markdown import export_markdown
from scale_dspy.export.portable_json import export_messages
from scale_dspy.export.write import write_export
from scale_dspy.lm.adapter import PlainAdapter, mend
from tests import render_messages
from tests.exported import RECORD, texts, tune


@settings(max_examples=30)
@given(texts, texts, texts, texts)
def test_any_text_survives_both_exports(first: str, second: str, third: str, fourth: str) -> None:
    program = SCALE()
    predictor = program.solve.system_1
    signature = predictor.signature.with_instructions(f"{first} end")
    signature = signature.with_updated_fields("solution", desc=f"{third} form")
    predictor.signature = signature.with_updated_fields("context", desc=f"{second} title")
    demo = {"problem": second, "context": "", "subproblem": third, "draft": "", "solution": fourth}
    predictor.demos = [demo]
    inputs = {"problem": fourth, "context": third, "subproblem": second, "draft": first}
    expected = PlainAdapter().format(predictor.signature, predictor.demos, inputs)
    export = json.loads(json.dumps(export_messages(program)))
    clean = {name: mend(value) for name, value in inputs.items()}  # as the program does, and says
    assert render_messages.render(export, "solve_1", clean)["messages"] == expected

    tokens = MarkdownIt().parse(export_markdown(program))
    fences = [normalise(mend(token.content)) for token in tokens if token.type == "fence"]
    instructions = predictor.signature.instructions  # DSPy cleans their indentation
    shown = [instructions, f"{third} form", *(message["content"] for message in expected[:-1])]
    assert {normalise(mend(f"{text}\n")) for text in shown} <= set(fences)
    assert len(fences) == 23  # seven stages with instructions, form and request, and the one demo
    assert sum(token.type == "heading_open" for token in tokens) == 9


def normalise(text: str) -> str:
    """As CommonMark reads it: one kind of line ending, no NUL."""
    return text.replace("\r\n", "\n").replace("\r", "\n").replace("\0", "\ufffd")


def test_no_key_address_or_path_in_any_export() -> None:
    address, key = "http://secret.host:8123/v1", "sk-verysecretkey"
    program = tune(SCALE(modes=modes(assess={"api_key": key, "api_base": address, "timeout": 7})))
    program.solve.system_1.lm = connect("name", address, key)
    program.record = {
        **RECORD,
        "model": "hosted_vllm//home/someone/models/Qwen3-8B",
        "data": {"train": {"name": "/home/someone/data/train.jsonl", "problems": 3}},
        "notes": [f"{address} failed with Bearer {key}", r"read C:\Users\someone\a.json and ~/b/c"],
    }
    exports = export_markdown(program) + json.dumps(export_messages(program))
    for secret in ("secret", key, "someone", "8123", "/home"):
        assert secret not in exports
    assert "# A SCALE program for Qwen3-8B\n" in exports
    assert "train.jsonl" in exports
    assert export_messages(program)["stages"]["assess"]["left_out"] == [
        "api_base",
        "api_key",
        "timeout",
    ]


def test_files_are_written_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = SCALE()
    program.assess.rate.demos = [{"problem": "half \ud835 a pair, ∑", "difficulty": "0"}]
    for kind, name in (("markdown", "new/page.md"), ("messages", "new/export.json")):
        write_export(program, tmp_path / name, kind)  # type: ignore[arg-type]
    assert json.loads((tmp_path / "new/export.json").read_bytes()) == export_messages(program)
    assert "∑" in (tmp_path / "new/page.md").read_text(encoding="utf-8")

    def fail(self: Path, target: Path) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(Path, "replace", fail)
    before = (tmp_path / "new/page.md").read_bytes()
    with pytest.raises(OSError, match="disk full"):
        write_export(SCALE(threshold=0.1), tmp_path / "new/page.md", "markdown")
    assert (tmp_path / "new/page.md").read_bytes() == before
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["export.json", "page.md"]
    with pytest.raises(ValueError, match="choose markdown or messages"):
        write_export(program, tmp_path / "x", "pdf")  # type: ignore[arg-type]
