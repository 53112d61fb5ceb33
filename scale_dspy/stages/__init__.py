"""The four stages of SCALE, and how a stage asks the model."""
