"""Runs of a method on a problem set."""
