"""Tuning: what optimizers change in a program, and its prompts for other runtimes."""

# Here, where importing it loads nothing, since the command line lists it in its help.
OPTIMIZERS = (
    "none",
    "brief",
    "bootstrap",
    "bootstrap_random_search",
    "copro",
    "mipro",
    "simba",
    "infer_rules",
    "gepa",
)
