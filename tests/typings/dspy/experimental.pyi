from typing import Any

from dspy.teleprompt import Teleprompter

class Noul:
    def __init__(self, *args: Any, **kwargs: Any) -> None: ...

class ReAnchor(Teleprompter):
    report: Any
    def __init__(self, *args: Any, **kwargs: Any) -> None: ...
