"""What each command does: reads its arguments, calls the library, prints.

Heavy packages are imported where a command needs them, so that `--help` waits for none.
"""
