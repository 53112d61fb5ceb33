"""The small model that this machine serves itself, on the CPU."""
