"""A run as a file: the flags of a command as the keys of a TOML file, or the run.json of a run.

The file is turned into arguments that are put before those of the command line, so that argparse
reads both alike, and the later ones, which the user typed, win.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tomli

WRITTEN = ("run.json", "compile.json")  # by a run, by a compile
SETTINGS = "settings"  # the key of these files under which they stand
PRIVATE = frozenset({"api_key", "api_base", "system_1_api_base"})  # never written
PASSING = frozenset(
    {"out", "json", "detach", "dry_run", "like", "retry_errors", "retry", "reuse", "run", "command"}
)  # what belongs to one call


def expand(argv: Sequence[str], commands: Mapping[str, argparse.ArgumentParser]) -> list[str]:
    """Replace a run file among the arguments by what it says.

    Args:
        argv: the arguments as typed; the file is the first one after the command that is no
            flag's value and ends in .toml or is one of WRITTEN.
        commands: the parsers of all commands; those that may run long take such a file.

    Raises:
        ValueError: the file cannot be read, or a key or value in it is none of the command's.
    """
    parser = commands.get(argv[0]) if argv else None
    if parser is None or not any(action.dest == "detach" for action in parser._actions):
        return list(argv)
    flags = {flag: action for action in parser._actions for flag in action.option_strings}
    for place, each in enumerate(argv[1:], 1):
        takes_value = argv[place - 1] in flags and flags[argv[place - 1]].nargs != 0
        if (each.endswith(".toml") or Path(each).name in WRITTEN) and not takes_value:
            told = _read_settings(Path(each), argv[0])
            return [
                argv[0],
                *_make_arguments(told, parser, each),
                *argv[1:place],
                *argv[place + 1 :],
            ]
    return list(argv)


def describe_settings(
    arguments: argparse.Namespace, commands: Mapping[str, argparse.ArgumentParser]
) -> dict[str, Any]:
    """The settings of a command that differ from its defaults, as a run file holds them.

    Keys and addresses stay out, and so does what belongs to one call, such as --out.
    """
    told: dict[str, Any] = {}
    for action in commands[arguments.command]._actions:
        name = action.dest
        value = getattr(arguments, name, None)
        if name in PRIVATE | PASSING or value is None or action.default == argparse.SUPPRESS:
            continue
        if not action.option_strings or value != action.default:
            told[name.replace("_", "-")] = value
    return {"command": arguments.command, **told}


def find_commands(parser: argparse.ArgumentParser) -> Mapping[str, argparse.ArgumentParser]:
    """The parser of each command, by its name."""
    (choices,) = (each for each in parser._actions if isinstance(each, argparse._SubParsersAction))
    found: Mapping[str, argparse.ArgumentParser] = choices.choices
    return found


def _read_settings(path: Path, command: str) -> dict[str, Any]:
    from scale_dspy.utils.files import read_file  # imports a library that --help can do without

    try:
        text = read_file(path).decode("utf-8")
        told = json.loads(text)[SETTINGS] if path.name in WRITTEN else tomli.loads(text)
        told = dict(told)
    except KeyError:
        raise ValueError(
            f"{path} holds no settings: it was written by an earlier version"
        ) from None
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from None
    meant = told.pop("command", command)
    if meant != command:
        raise ValueError(f"{path} is a run of `{meant}`, not of `{command}`")
    return told


def _make_arguments(
    told: Mapping[str, Any], parser: argparse.ArgumentParser, path: str
) -> list[str]:
    actions = {
        name: action
        for action in parser._actions
        if action.default != argparse.SUPPRESS
        for name in _name_keys(action)
    }
    made: list[str] = []
    for key, value in told.items():
        action = actions.get(key.replace("_", "-"))
        if action is None:
            known = sorted({_name_keys(each)[0] for each in actions.values()} - {"api-key"})
            raise ValueError(f"{path}: unknown key {key!r}; known are {', '.join(known)}")
        if action.dest == "api_key":
            raise ValueError(f"{path}: a key does not belong in a file: set SCALE_API_KEY")
        made += _make_argument(action, value, f"{path}: {key}")
    return made


def _name_keys(action: argparse.Action) -> list[str]:
    return [flag.lstrip("-") for flag in action.option_strings] or [action.dest.replace("_", "-")]


def _make_argument(action: argparse.Action, value: Any, where: str) -> list[str]:
    if action.nargs == 0:
        if not isinstance(value, bool):
            raise ValueError(f"{where} is true or false, not {value!r}")
        return [action.option_strings[0]] if value else []
    values = value if isinstance(value, list) else [value]
    if isinstance(value, (dict, bool)) or any(isinstance(each, (dict, list)) for each in values):
        raise ValueError(f"{where} is a text, a number or a list of these, not {value!r}")
    texts = [str(each) for each in values]
    if not action.option_strings:
        return texts
    flag = action.option_strings[0]
    # The equals sign keeps a value that begins with a minus from being taken for a flag.
    return [flag, *texts] if action.nargs == "+" else [f"{flag}={','.join(texts)}"]
