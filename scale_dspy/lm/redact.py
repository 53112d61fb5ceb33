"""Remove what must never be written to a file: the keys and the addresses of model servers."""

from __future__ import annotations

from urllib.parse import urlsplit

from scale_dspy.lm.client import prepare_address
from scale_dspy.lm.connect import MeteredLM
from scale_dspy.lm.routing import split_addresses


def hide_server(text: str, lm: MeteredLM) -> str:
    """The text without the keys and the addresses of the servers of `lm`."""
    secrets: set[str | None] = set()
    for server in (lm.server, lm.partner.server if lm.partner else None):
        if server is None:
            continue
        addresses = split_addresses(server.api_base)
        plain = [prepare_address(address, None)[0] for address in addresses]
        parts = [urlsplit(address) for address in (*addresses, *plain)]
        hosts = [part for each in parts for part in (each.netloc, each.hostname, each.password)]
        secrets |= {server.api_key, *addresses, *plain, *hosts}
    # The longest first: of http://a and http://a.b the first is a part of the second.
    for secret in sorted(filter(None, secrets), key=len, reverse=True):
        text = text.replace(secret, "[server]")
    return text
