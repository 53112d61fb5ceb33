"""Problem sets, known by name or read from a file."""
