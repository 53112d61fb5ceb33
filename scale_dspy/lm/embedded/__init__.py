"""The embedded model: a small one that this package serves itself, on the CPU."""
