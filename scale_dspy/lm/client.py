"""One attempt at a chat completion: by HTTP at a server with OpenAI's API, else through LiteLLM.

The HTTP request is written here because LiteLLM takes twice the CPU time for it, and drops the
Retry-After header.
"""

from __future__ import annotations

import asyncio
import atexit
import base64
import json
import re
import ssl
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit
from weakref import WeakKeyDictionary

import aiohttp
import orjson
from dspy.utils import exceptions as kinds

from scale_dspy.lm.server_events import Hear, read_stream
from scale_dspy.utils.files import allow_files

KEEP_ALIVE = 4.0  # seconds; uvicorn closes idle connections after 5, when reuse would fail
PREFIXES = ("hosted_vllm/", "litellm_proxy/")  # LiteLLM's names for a server with OpenAI's API
TRUST = "set SSL_CERT_FILE to a file with the certificate of the authority that issued it"
# Statuses that mean that the server did not begin to generate: such an attempt costs no tokens.
REFUSED = frozenset({*range(400, 500), 503}) - {408}


@dataclass(frozen=True)
class Server:
    """Where a model is served.

    Attributes:
        model: as in LiteLLM; with an address, the served name behind one of PREFIXES.
        api_base: its address, or several separated by commas; "" where LiteLLM knows the address.
        api_key: sent as a bearer token.
        timeout: seconds for one attempt, until its whole body has arrived.
        identity: the server's name in the cache keys of its replies; if empty, its address is used.
        options: further parameters of LiteLLM's connection.
    """

    model: str
    api_base: str = field(default="", repr=False)
    api_key: str | None = field(default=None, repr=False)
    timeout: float = 3600.0
    identity: str = field(default="", repr=False)
    options: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def name(self) -> str:
        """The model's name as the server knows it."""
        for prefix in PREFIXES:
            if self.model.startswith(prefix):
                return self.model[len(prefix) :]
        return self.model


async def complete(
    server: Server, address: str, body: dict[str, Any], hear: Hear | None = None
) -> Any:
    """The JSON of a server's reply.

    Args:
        address: the replica to ask, or "" for LiteLLM.
        body: parameters and messages.
        hear: called with each piece of a reply of one choice as it arrives; LiteLLM does not
            call it.

    Raises:
        dspy.utils.exceptions.LMError: there is no reply; the kind of error says why.
    """
    if address and server.model.startswith(PREFIXES):
        return await _post(server, address, body, hear)
    return await _ask_litellm(server, address, body)


async def _post(server: Server, address: str, body: dict[str, Any], hear: Hear | None) -> Any:
    url, headers = prepare_address(address, server.api_key)
    headers = {"Content-Type": "application/json", **headers, **server.options.get("headers", {})}
    streamed = {"stream": True, "stream_options": {"include_usage": True}} if hear else {}
    data = orjson.dumps({"model": server.name, **body, **streamed})
    limit = aiohttp.ClientTimeout(total=server.timeout)
    try:
        async with _find_session().post(
            f"{url}/chat/completions",
            data=data,
            headers=headers,
            timeout=limit,
            proxy=find_proxy(url),
            allow_redirects=False,
        ) as response:
            if hear and response.status == 200 and response.content_type == "text/event-stream":
                return await read_stream(response.content, hear)
            text = await response.read()
            if response.status == 200:
                return _decode(text)
            raise describe_status(
                response.status, text.decode("utf-8", "replace"), response.headers, url
            )
    except (asyncio.TimeoutError, TimeoutError):
        raise kinds.LMTimeoutError(f"no whole reply within {server.timeout:g} seconds") from None
    except aiohttp.ClientConnectorError as error:
        raise _explain_unsent(error) from None
    except (aiohttp.ClientError, OSError) as error:
        raise kinds.LMTransportError(f"{type(error).__name__}: {error}") from None


def _decode(text: bytes) -> Any:
    try:
        try:
            return orjson.loads(text)
        except ValueError:  # orjson refuses lone surrogates, for example; json does not
            return json.loads(text)
    except (ValueError, RecursionError):
        shown = text[:120].decode("utf-8", "replace")
        raise kinds.LMProviderError(
            f"the server's reply is no JSON: {shown!r}", status=200
        ) from None


class UnsentError(kinds.LMTransportError):
    """The request did not reach the server."""


class UntrustedError(kinds.LMConfigurationError):
    """The server's certificate is not trusted, so the request was not sent."""


def _explain_unsent(failed: aiohttp.ClientConnectorError) -> kinds.LMError:
    """Why a request was not sent."""
    place = f"{failed.host}:{failed.port}"
    if isinstance(failed, aiohttp.ClientConnectorCertificateError):
        why = failed.certificate_error
        told = getattr(why, "verify_message", "") or str(why)
        return UntrustedError(f"the certificate of {place} is not trusted ({told}): {TRUST}")
    if isinstance(failed, aiohttp.ClientConnectorSSLError):
        told = getattr(failed.os_error, "reason", None) or str(failed.os_error)
        return UnsentError(
            f"Cannot connect to host {place} by TLS ({told}): is its address one of http://?"
        )
    return UnsentError(f"Cannot connect to host {place}")


def cost_nothing(error: BaseException) -> bool:
    """Whether it is certain that a failed attempt generated no tokens."""
    return (
        isinstance(error, (UnsentError, UntrustedError))
        or getattr(error, "status", None) in REFUSED
    )


_STATUSES: dict[int, type[kinds.LMError]] = {
    401: kinds.LMAuthError,
    402: kinds.LMBillingError,
    403: kinds.LMAuthError,
    408: kinds.LMTimeoutError,
    429: kinds.LMRateLimitError,
    504: kinds.LMTimeoutError,
}
_ALIKE = {409, 423, 425}  # conflict, locked, too early: the same request may succeed later


def describe_status(
    status: int, text: str, headers: Mapping[str, str], address: str
) -> kinds.LMError:
    """An error status as DSPy's error, with the server's message and its Retry-After."""
    said = _read_complaint(text)
    kind = _STATUSES.get(status)
    if kind is None and status == 404:
        if re.search(r"model", said, re.IGNORECASE):
            return kinds.LMUnsupportedModelError(said, status=status)
        advice = "" if re.search(r"/v\d", address) else "; an api_base usually ends in /v1"
        if "/completions" in address:
            advice = ": the api_base is what comes before that"
        return kinds.LMConfigurationError(
            f"HTTP 404, there is no /chat/completions at this address{advice}", status=status
        )
    if kind is None and status in (400, 413, 422) and _tells_window(said):
        return kinds.ContextWindowExceededError(message=said, status=status)
    if kind is None and (status in _ALIKE or status < 400):
        kind = kinds.LMProviderError
    kind = kind or (kinds.LMServerError if status >= 500 else kinds.LMInvalidRequestError)
    wait = read_retry_after(headers.get("Retry-After"))
    return kind(f"HTTP {status}: {said}", status=status, retry_after=wait)


def _read_complaint(text: str) -> str:
    try:
        told = orjson.loads(text)
        error = told.get("error", told)
        said = (
            error.get("message", error.get("detail", error)) if isinstance(error, dict) else error
        )
        return str(said)[:500]
    except (ValueError, AttributeError):
        return " ".join(re.sub(r"<[^>]*>", " ", text).split())[:200]


def _tells_window(said: str) -> bool:
    words = r"context (?:length|window|size)|maximum context|exceed\w* the (?:available )?context"
    return re.search(words, said, re.IGNORECASE) is not None


def read_retry_after(value: str | None) -> float | None:
    """Seconds that a Retry-After header asks for, in either of its forms; None if it is malformed.

    >>> read_retry_after("6"), read_retry_after("soon")
    (6.0, None)
    """
    if not value:
        return None
    if re.fullmatch(r"\s*\d{1,9}(\.\d+)?\s*", value, re.ASCII):
        return float(value)
    try:
        moment = parsedate_to_datetime(value)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=timezone.utc)
    return max(0.0, (moment - datetime.now(timezone.utc)).total_seconds())


def _has_port(parts: SplitResult) -> bool:
    """Whether the port is left out or a valid port number."""
    try:
        return parts.port is None or parts.port > 0
    except ValueError:
        return False


@lru_cache(maxsize=256)
def prepare_address(address: str, api_key: str | None) -> tuple[str, dict[str, str]]:
    """(the address without user and password, the headers made from them or from the key).

    Raises:
        ValueError: a key and a password are both given, or the address or the key is malformed.
    """
    if api_key and not (api_key.isascii() and api_key.isprintable()):
        raise ValueError("an API key is printable ASCII in one line")
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname or not _has_port(parts):
        raise ValueError("an api_base is an address such as http://127.0.0.1:8000/v1")
    if parts.username is None and parts.password is None:
        return address, {"Authorization": f"Bearer {api_key}"} if api_key else {}
    if api_key:
        raise ValueError("give either an API key or a user and password in the api_base, not both")
    user, password = unquote(parts.username or ""), unquote(parts.password or "")
    plain = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
    spelled = base64.b64encode(f"{user}:{password}".encode()).decode()
    return plain, {"Authorization": f"Basic {spelled}"}


@lru_cache(maxsize=256)
def find_proxy(address: str) -> str | None:
    """The proxy that the environment names for an address.

    Raises:
        ValueError: it is a SOCKS proxy, which is not supported, or its address is malformed.
    """
    parts = urlsplit(address)
    if urllib.request.proxy_bypass(parts.hostname or ""):
        return None
    found = urllib.request.getproxies()
    proxy = found.get(parts.scheme) or found.get("all")
    if proxy and urlsplit(proxy).scheme.startswith("socks"):
        raise ValueError(
            f"a SOCKS proxy ({urlsplit(proxy).scheme}://) cannot be used: unset ALL_PROXY, or name "
            "the server's host in NO_PROXY"
        )
    if proxy and not (urlsplit(proxy).scheme in ("http", "https") and urlsplit(proxy).hostname):
        raise ValueError(
            f"{parts.scheme}_proxy is no address such as http://host:port: unset it, or name the "
            "server's host in NO_PROXY"
        )
    return proxy


_sessions: WeakKeyDictionary[asyncio.AbstractEventLoop, aiohttp.ClientSession] = WeakKeyDictionary()


def _find_session() -> aiohttp.ClientSession:
    """The HTTP session of this event loop. It keeps connections open for reuse, and opens one for
    each concurrent call up to three quarters of the limit of open files; further calls wait. A
    server's certificate is checked against the system's authorities, or those of SSL_CERT_FILE."""
    loop = asyncio.get_running_loop()
    session = _sessions.get(loop)
    if session is None or session.closed:
        connector = aiohttp.TCPConnector(
            limit=3 * allow_files() // 4,
            keepalive_timeout=KEEP_ALIVE,
            ssl=ssl.create_default_context(),
        )
        session = _sessions[loop] = aiohttp.ClientSession(connector=connector)
    return session


@atexit.register
def _close_sessions() -> None:
    for loop, session in list(_sessions.items()):
        if loop.is_running():
            asyncio.run_coroutine_threadsafe(session.close(), loop).result(5)
        else:  # the loop of a server that has ended
            asyncio.run(session.close())


async def _ask_litellm(server: Server, address: str, body: dict[str, Any]) -> Any:
    import litellm

    place = {"api_base": address} if address else {}
    key = {"api_key": server.api_key} if server.api_key else {}
    asked = dict(body)
    if "n" in asked and "n" not in (litellm.get_supported_openai_params(server.model) or ()):
        del asked["n"]  # the caller notices the missing choices and asks for them one by one
    try:
        call = litellm.acompletion(
            model=server.model,
            timeout=server.timeout,
            num_retries=0,
            max_retries=0,
            **{"cache": {"no-cache": True, "no-store": True}},
            **place,
            **key,
            **server.options,
            **asked,
        )
        reply = await asyncio.wait_for(call, server.timeout)
    except (asyncio.TimeoutError, TimeoutError):
        raise kinds.LMTimeoutError(f"no whole reply within {server.timeout:g} seconds") from None
    except Exception as error:
        raise _translate(error, address) from error
    return reply.model_dump()


def _translate(error: Any, address: str) -> kinds.LMError:
    """An error of LiteLLM as DSPy's."""
    status = getattr(error, "status_code", None)
    message = str(getattr(error, "message", None) or error)
    if "connect to host" in message.lower() or type(error).__name__ == "APIConnectionError":
        return kinds.LMTransportError(message)
    if not isinstance(status, int):
        return kinds.LMUnexpectedError(f"{type(error).__name__}: {message}")
    response = getattr(error, "response", None)
    headers = getattr(error, "litellm_response_headers", None) or getattr(response, "headers", {})
    wait = {name.title(): value for name, value in dict(headers or {}).items()}
    return describe_status(status, message, wait, f"{address}/v1")


def load_litellm() -> None:
    """Import LiteLLM now: calls that start together would see it half loaded."""
    import litellm

    litellm.acompletion  # noqa: B018 - that is what imports it
