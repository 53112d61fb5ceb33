"""`cache`: shows where replies are kept and how many there are, or deletes them."""

from __future__ import annotations

import argparse

from scale_dspy.cli.options import DONE, print_json

HELP = "the replies that are kept: how many, how large"
EXAMPLES = """
scale-dspy cache
scale-dspy cache --clear
"""


def add_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("--clear", action="store_true", help="forget them all")
    command.add_argument("--json", action="store_true", help="one JSON object on standard output")


def run(arguments: argparse.Namespace) -> int:
    """Show the cache of replies, or clear it."""
    from scale_dspy.lm.cache import MOST_BYTES, find_folder, open_store

    folder, store = find_folder(), open_store()
    if store is None:
        if arguments.json:
            print_json({"folder": None, "replies": 0, "bytes": 0})
        else:
            print("SCALE_CACHE=off: no reply is kept")
        return DONE
    if arguments.clear:
        store.clear()
    replies, size = store.measure()
    if arguments.json:
        told = {"folder": str(folder), "replies": replies, "bytes": size}
        print_json({**told, "most_bytes": MOST_BYTES})
    else:
        print(f"{replies:,} replies, {size / 1e6:,.1f} MB, in {folder}")
        print(f"beyond {MOST_BYTES / 1e9:g} GB the oldest are dropped when a run begins")
    return DONE
