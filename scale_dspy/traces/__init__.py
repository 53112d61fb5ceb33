"""Training data from solved problems."""
