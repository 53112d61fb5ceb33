"""The commands, a file each: what it is for (HELP), its arguments (add_arguments), its work (run).

`main` finds them here by their files' names. Heavy packages are imported in `run`, so that `--help`
waits for none.
"""
