"""A program's tuned prompts, as Markdown for people and as JSON for runtimes without DSPy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

from scale_dspy.export.markdown import export_markdown
from scale_dspy.export.portable_json import export_messages
from scale_dspy.program import SCALE
from scale_dspy.utils.files import write_whole

ExportKind = Literal["markdown", "messages"]


def write_export(program: SCALE, path: str | Path, kind: ExportKind) -> None:
    """Write an export whole or not at all.

    Args:
        path: the file; its folder is made if there is none.
        kind: `markdown` for people, `messages` for other runtimes.

    Raises:
        ValueError: another kind.
        OSError: the file cannot be written.
    """
    if kind == "markdown":
        text = export_markdown(program)
    elif kind == "messages":
        text = json.dumps(export_messages(program), indent=2, ensure_ascii=False) + "\n"
    else:
        raise ValueError(f"unknown kind {kind!r}: choose markdown or messages")
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with write_whole(path) as draft:
        # Half a surrogate pair in a model's text is no UTF-8; escaped, JSON can hold it.
        draft.write_text(text, encoding="utf-8", errors="backslashreplace", newline="\n")
