"""A tuned program's prompts, for people and for other runtimes."""
