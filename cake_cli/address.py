"""Addresses of endpoints: what stands in the place of a model's file where a model is asked over HTTP."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import urlsplit

from cake_cli.errors import UsageError

_FORM = re.compile(r"(?P<scheme>https?):/{1,2}(?P<rest>[^/].*)", re.IGNORECASE | re.DOTALL)
"""One slash, too: a path drops the second."""


def as_address(named: Path | str) -> str | None:
    """``http://host:port/path`` as an endpoint's address; None for the path of a file.

    Raises:
        UsageError: if it is one and cannot be asked: without a host, with a name and password, or a fragment.
    """
    found = _FORM.fullmatch(str(named))
    if found is None:
        return None
    address = f"{found['scheme'].lower()}://{found['rest']}"
    try:
        parts = urlsplit(address)
        host, _ = parts.hostname, parts.port
    except ValueError as fault:
        raise UsageError(f"{address} is no address: {fault}", "http://HOST:PORT/PATH") from fault
    if not host or parts.fragment or re.search(r"[\s\x00-\x1f\x7f]|[^\x00-\x7f]", address):
        raise UsageError(f"{address!r} is no address of an endpoint", "http://HOST:PORT/PATH")
    if parts.username is not None or parts.password is not None:
        raise UsageError(
            f"the address of {host} holds a name or a password, which would be written down with the run",
            "--token-env NAME, of an environment variable that holds the token",
        )
    return address
