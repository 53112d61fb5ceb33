"""The version, where whatever writes it into a file finds it."""

__version__ = "0.1.0"
