"""What an optimizer that reads words is told of a run."""
