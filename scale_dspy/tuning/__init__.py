"""Tuning: what optimizers change in a program, and its prompts for other runtimes."""
