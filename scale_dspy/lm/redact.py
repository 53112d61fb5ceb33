"""What is written nowhere: the keys and the addresses of model servers."""

from __future__ import annotations

from urllib.parse import urlsplit

from scale_dspy.lm.connect import MeteredLM
from scale_dspy.lm.routing import split_addresses


def hide_server(text: str, lm: MeteredLM) -> str:
    """The text without the keys and the addresses of the servers of `lm`."""
    secrets: set[str | None] = set()
    for server in (lm, lm.partner):
        known = server.kwargs if server else {}
        addresses = split_addresses(known.get("api_base"))
        parts = [urlsplit(address) for address in addresses]
        hosts = [part for each in parts for part in (each.netloc, each.hostname)]
        secrets |= {known.get("api_key"), *addresses, *hosts}
    # The longest first: of http://a and http://a.b the first is a part of the second.
    for secret in sorted(filter(None, secrets), key=len, reverse=True):
        text = text.replace(secret, "[server]")
    return text
