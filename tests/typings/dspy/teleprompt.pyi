from collections.abc import Callable

from dspy import Module

class Teleprompter:
    compile: Callable[..., Module]
    def __init__(self) -> None: ...
