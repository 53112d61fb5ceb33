"""Feedback in words for GEPA and other optimizers that read it."""
