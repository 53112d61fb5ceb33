"""Types of the bundled lm15's request and response, as far as they are used."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

@dataclass(frozen=True)
class TextPart:
    text: str
    type: str = ...

@dataclass(frozen=True)
class ThinkingPart:
    text: str
    type: str = ...

@dataclass(frozen=True)
class Message:
    role: str
    parts: tuple[Any, ...]
    @property
    def text(self) -> str | None: ...
    @staticmethod
    def user(content: Any) -> Message: ...
    @staticmethod
    def assistant(content: Any) -> Message: ...

@dataclass(frozen=True, kw_only=True)
class Config:
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None
    logprobs: Any = None
    extensions: Mapping[str, Any] | None = None

@dataclass(frozen=True, kw_only=True)
class Request:
    model: str
    messages: tuple[Message, ...]
    system: Any = None
    tools: tuple[Any, ...] = ()
    config: Config = ...

@dataclass(frozen=True, kw_only=True)
class Usage:
    input_tokens: int | None = None
    output_tokens: int | None = None
    total_tokens: int | None = None
    cache_read_tokens: int | None = None
    reasoning_tokens: int | None = None

@dataclass(frozen=True, kw_only=True)
class Response:
    model: str
    message: Message
    finish_reason: str
    usage: Usage = ...
    id: str | None = None
    provider_data: Any = None
    logprobs: Any = None

@dataclass(frozen=True)
class TextDelta:
    text: str
    part_index: int = 0

@dataclass(frozen=True)
class ThinkingDelta:
    text: str
    part_index: int = 0

@dataclass(frozen=True, kw_only=True)
class StreamStartEvent:
    id: str | None = None
    model: str | None = None
    type: str = ...

@dataclass(frozen=True)
class StreamDeltaEvent:
    delta: TextDelta | ThinkingDelta
    type: str = ...

@dataclass(frozen=True, kw_only=True)
class StreamEndEvent:
    finish_reason: str | None = None
    usage: Usage | None = None
    provider_data: Any = None
    type: str = ...

StreamEvent = StreamStartEvent | StreamDeltaEvent | StreamEndEvent

class OpenAIChatLM:
    def __init__(self, **kwargs: Any) -> None: ...
    def build_request(self, request: Request, *, stream: bool) -> Any: ...

def request_from_openai_chat(body: Mapping[str, Any], **kwargs: Any) -> Request: ...
def response_to_events(response: Response) -> Iterator[StreamEvent]: ...
