"""Grading: whether an answer is right, and which sub-problems needed System 2."""
