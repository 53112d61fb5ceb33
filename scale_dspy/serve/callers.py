"""Who may ask: the names that a request may use for this server, and the pages it may come from.

A page in a browser can send requests to any address that its user can reach. It cannot choose the
headers Host and Origin, so a server that checks them cannot be used by a stranger's page.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from scale_dspy.serve.requests import RefusedError

Scope = MutableMapping[str, Any]

_HOST = re.compile(r"([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")


@dataclass(frozen=True)
class Callers:
    """Who may ask.

    Attributes:
        key: what clients send as a bearer token; None to ask for none.
        hosts: the names of this server beside localhost and the addresses of loopback.
        origins: of the pages that may ask, such as http://localhost:3000.
        any_address: whether any IP address is accepted as a name of this server, as it must be if
            other machines reach it. Unlike a name, an address cannot be redirected by the owner
            of a web page.
    """

    key: str | None = None
    hosts: frozenset[str] = frozenset()
    origins: frozenset[str] = frozenset()
    any_address: bool = False


def describe_callers(
    key: str | None, host: str, hosts: Sequence[str] = (), origins: Sequence[str] = ()
) -> Callers:
    """Who may ask a server that listens on `host`.

    Args:
        hosts: other names of it, without a port.
        origins: as in Callers.

    Raises:
        ValueError: a name or an origin is malformed.
    """
    for name in hosts:
        if _read_host(name) != name.strip("[]").lower() or not name:
            raise ValueError(f"--allow-host is a host's name without a port, not {name[:100]!r}")
    own = {host, *hosts}
    loopback = is_loopback(host)
    if not loopback:
        own.add(socket.gethostname())
    return Callers(
        key,
        frozenset(each.strip("[]").lower() for each in own),
        frozenset(_read_origin(each) for each in origins),
        any_address=not loopback,
    )


def is_loopback(host: str) -> bool:
    """Whether a host is this machine and no other can reach it."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_caller(scope: Scope, callers: Callers) -> None:
    """Raise RefusedError for another server's name, or a page that may not ask."""
    given = read_header(scope, b"host").decode("latin-1")
    if given and not _is_ours(_read_host(given), callers):
        raise RefusedError(
            f"this server does not go by the name {given[:100]!r}: `serve --allow-host NAME` adds "
            "one",
            403,
        )
    origin = read_header(scope, b"origin").decode("latin-1")
    if origin and not _may_ask(origin, given, scope, callers):
        raise RefusedError(
            f"pages of {origin[:100]!r} may not ask: `serve --allow-origin ORIGIN` lets one", 403
        )
    # Browsers send no Origin with simple loads, of a picture for example.
    if not origin and read_header(scope, b"sec-fetch-site") in (b"cross-site", b"same-site"):
        raise RefusedError("pages of other sites may not ask", 403)


def say_allowed(scope: Scope, callers: Callers) -> list[tuple[bytes, bytes]]:
    """The headers that let a page which may ask read the reply; none for anyone else."""
    held = [value for name, value in scope["headers"] if name.lower() == b"origin"]
    if len(held) != 1 or held[0].decode("latin-1") not in callers.origins:
        return []
    said = [(b"access-control-allow-origin", held[0]), (b"vary", b"Origin")]
    if scope["method"] == "OPTIONS":
        said += [
            (b"access-control-allow-methods", b"GET, POST"),
            (b"access-control-allow-headers", _list_asked(scope)),
            (b"access-control-max-age", b"600"),
        ]
    return said


def read_header(scope: Scope, name: bytes) -> bytes:
    """A header's value; empty where it is missing.

    Raises:
        RefusedError: it is there more than once.
    """
    values = [bytes(value) for key, value in scope["headers"] if key.lower() == name]
    if len(values) > 1:
        raise RefusedError(f"there is more than one header {name.decode()}")
    return values[0] if values else b""


def _is_ours(host: str, callers: Callers) -> bool:
    if is_loopback(host) or host in callers.hosts:
        return True
    try:
        return bool(callers.any_address and ipaddress.ip_address(host))
    except ValueError:
        return False


def _may_ask(origin: str, host: str, scope: Scope, callers: Callers) -> bool:
    """Whether an origin is on the list, or is this server's own, as some tools send it."""
    return origin in callers.origins or origin == f"{scope['scheme']}://{host}"


def _read_host(given: str) -> str:
    """The name in a Host header; empty where it is none."""
    found = _HOST.fullmatch(given)
    return found[1].strip("[]").lower() if found else ""


def _read_origin(given: str) -> str:
    try:
        parts = urlsplit(given)
        port = "" if parts.port is None else f":{parts.port}"
        host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
        origin = f"{parts.scheme}://{host}{port}"
    except ValueError:
        origin = ""
    if origin != given.lower() or not parts.scheme or not parts.hostname:
        raise ValueError(
            "--allow-origin is like http://localhost:3000, with nothing behind it, not "
            f"{given[:100]!r}"
        )
    return origin


def _list_asked(scope: Scope) -> bytes:
    """The headers that a page wants to send, as far as a client of OpenAI's sends them."""
    told = b"access-control-request-headers"
    asked = b",".join(value for name, value in scope["headers"] if name.lower() == told)
    names = {each.strip() for each in asked.lower().split(b",")}
    usual = (b"authorization", b"content-type")
    return b", ".join(sorted(n for n in names if n in usual or n.startswith(b"x-stainless-")))
