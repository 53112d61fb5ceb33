"""The page on the command line, written from the parser itself.

python -m tests.manual > scale_dspy/docs/command_line.md
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from scale_dspy.cli.main import make_parser
from scale_dspy.cli.run_file import find_commands

HEAD = """# The command line

`scale-dspy COMMAND --help` says the same. All but `export`, `status` and `completion` take `--json`: one JSON object on
standard output, everything else on standard error (`status --json` prints a list). Exit codes: 0 done, 1 it ran and
failed, 2 bad usage or input, 130 interrupted. Flags win over the environment, and over a run file.

Besides SCALE_MODEL, SCALE_API_BASE, SCALE_API_KEY and what stands with the flags below: SCALE_DATA_DIR has copies of
sets, SCALE_CACHE_DIR the embedded weights, SCALE_CACHE the replies that a resumed run lives on.

Completion needs `pip install ".[completion]"`: `source <(scale-dspy completion bash)`, the same with `zsh`, and
`scale-dspy completion fish | source`.
"""


def write_manual() -> str:
    """The whole page, in Markdown."""
    parser = make_parser()
    commands = find_commands(parser)
    helps = {each.dest: each.help for each in _find_choices(parser)}
    parts = [HEAD]
    for name, command in commands.items():
        parts.append(f"\n## {name}\n\n{_capitalise(helps.get(name) or '')}.\n\n")
        parts.append("| | |\n|---|---|\n" + "".join(_write_rows(command)))
    return "".join(parts)


def _find_choices(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    (choices,) = (each for each in parser._actions if isinstance(each, argparse._SubParsersAction))
    return list(choices._choices_actions)


def _write_rows(command: argparse.ArgumentParser) -> Iterator[str]:
    for action in command._actions:
        if action.dest == "help":
            continue
        names = ", ".join(action.option_strings) or str(action.metavar or action.dest).upper()
        if action.option_strings and action.nargs != 0:
            names += f" {_name_value(action)}"
        yield f"| `{_escape(names)}` | {_escape(action.help or '')} |\n"


def _name_value(action: argparse.Action) -> str:
    if action.choices:
        return "{" + ",".join(map(str, action.choices)) + "}"
    return str(action.metavar or action.dest.upper().replace("_", "-"))


def _escape(text: str) -> str:
    return text.replace("%%", "%").replace("|", "\\|")


def _capitalise(text: str) -> str:
    return text[:1].upper() + text[1:]


if __name__ == "__main__":
    print(write_manual(), end="")
