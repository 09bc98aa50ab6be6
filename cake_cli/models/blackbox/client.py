"""Asking an endpoint over HTTP: patient with one that is busy, and strict about where the answer comes from.

Redirects are not followed, proxies of the environment are not used, and no more than so many bytes are read.
"""

from __future__ import annotations

import http.client
import os
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import quote, urlsplit

from cake_cli.errors import EnvironmentFault, RunError, UsageError
from cake_cli.models.blackbox.deadline import PIECE, TimedHTTP, TimedHTTPS

BUSY = frozenset({429, 502, 503, 504})
"""Status codes after which the same request may be answered a little later."""
FIRST_PAUSE = 0.5
"""Seconds before a request is sent again; each further pause is twice as long."""
LONGEST_PAUSE = 120.0
"""An endpoint that asks for more patience ends the run, which can be resumed."""
MOST_BYTES = 64 * 2**20
"""Of an answer."""
_LOCAL = frozenset({"localhost", "127.0.0.1", "::1"})
SHORTEST_SECRET = 6
"""Characters of a word of a token that is hidden where an answer repeats it: shorter ones are in anything."""
_ESCAPED = re.compile(r"\\u([0-9a-fA-F]{4})")
GO_ON = "a run that it stopped goes on with `cake resume`"
TOO_LARGE = 413
"""The status code of a request of too many rows."""
DENIED = frozenset({401, 403})
"""Status codes of an endpoint that wants to know who asks."""


class TooLarge(EnvironmentFault):
    """A request had too many rows for the endpoint."""


class TooLong(RunError):
    """An answer is longer than is read."""


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Leaves a redirect as the error that it then is."""

    def redirect_request(self, req: Any, fp: Any, code: Any, msg: Any, headers: Any, newurl: Any) -> None:
        return None


def authorization(address: str, variable: str | None) -> tuple[str, str] | None:
    """The header that an environment variable holds: a token, or ``NAME: VALUE``; None where none is named.

    Raises:
        UsageError: if there is no such variable, it cannot be a header, or would go over the network in the clear.
    """
    if variable is None:
        return None
    value = os.environ.get(variable, "").strip()
    if not value:
        raise UsageError(f"the environment variable {variable} is not set, or empty", f"export {variable}=TOKEN")
    if re.search(r"[^\x20-\x7e]", value):
        raise UsageError(f"what the environment variable {variable} holds is no header", f"export {variable}=TOKEN")
    parts = urlsplit(address)
    if parts.scheme != "https" and parts.hostname not in _LOCAL:
        raise UsageError(f"a token for {parts.hostname} would be sent unencrypted", "https://..., or no --token-env")
    name, colon, rest = value.partition(": ")  # a token may have a colon, and no space
    if colon and re.fullmatch(r"[A-Za-z0-9-]+", name):
        return name, rest.strip()
    return "Authorization", f"Bearer {value}"


class Client:
    """Posts JSON to one address.

    Args:
        address: where to.
        timeout: seconds that one answer may take.
        retries: how often a request is sent again.
        header: a name and a value to send along.
        pause: waits so many seconds.
    """

    def __init__(
        self,
        address: str,
        *,
        timeout: float,
        retries: int,
        header: tuple[str, str] | None = None,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self.address = address
        self.host = urlsplit(address).netloc
        self.timeout = timeout
        self.retries = retries
        self.header = header
        value = "" if header is None else header[1]
        words = (value, *re.split(r"[\s;,=]+(?=[^=])", value))
        self._secrets = [word for word in words if len(word) >= SHORTEST_SECRET]
        self.pause = pause
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirect, TimedHTTP, TimedHTTPS)

    def post(self, body: bytes) -> bytes:
        """The body of the answer to JSON.

        Raises:
            EnvironmentFault: if there is none, even after all retries: the host, and why.
            RunError: if the answer is too long.
        """
        wait = FIRST_PAUSE
        for attempt in range(self.retries + 1):
            try:
                return self._once(body)
            except urllib.error.HTTPError as fault:
                with fault:
                    asked = _retry_after(fault.headers.get("Retry-After"))
                    why = self._refusal(fault)
                if fault.code in DENIED:
                    told = "check the token" if self.header else "export TOKEN=..., and --token-env TOKEN"
                    raise self._stopped(why, told) from None
                if fault.code == TOO_LARGE:
                    raise TooLarge(f"{why} to a single row", f"check the address and the server; {GO_ON}") from None
                if fault.code not in BUSY:
                    raise self._stopped(why) from None
                if asked is not None and asked > LONGEST_PAUSE:
                    raise self._stopped(f"{why}, and asks to wait {asked:.0f} s") from None
                pause = wait if asked is None else asked
            except (OSError, http.client.HTTPException) as fault:
                reason = fault.reason if isinstance(fault, urllib.error.URLError) else fault
                why = f"{self.host} does not answer: {_said(reason)}"
                if "CERTIFICATE_VERIFY_FAILED" in why:
                    raise self._stopped(why) from None
                pause = wait
            if attempt < self.retries:
                self.pause(min(pause, LONGEST_PAUSE))
                wait *= 2
        tried = f" (tried {self.retries + 1} times)" if self.retries else ""
        raise self._stopped(f"{why}{tried}")

    def _once(self, body: bytes) -> bytes:
        headers = {"Content-Type": "application/json", "Accept": "application/json", "User-Agent": "cake"}
        request = urllib.request.Request(self.address, body, headers, method="POST")  # noqa: S310  # http(s) only
        if self.header is not None:
            request.add_unredirected_header(*self.header)
        parts: list[bytes] = []
        size = 0
        with self._opener.open(request, timeout=self.timeout) as response:
            while piece := response.read1(PIECE):
                parts.append(piece)
                size += len(piece)
                if size > MOST_BYTES:
                    told = f"{self.host} answered more than {MOST_BYTES // 2**20} MiB to a single row"
                    raise TooLong(told, "an endpoint that answers scores alone")
            if response.length:
                raise http.client.HTTPException(f"its answer ended {response.length:,} bytes early")
            if not parts and response.length is None:
                raise http.client.HTTPException("its answer ended with its headers, or before")
        return b"".join(parts)

    def _refusal(self, fault: urllib.error.HTTPError) -> str:
        """``host answered 503 Service Unavailable``, with where it wanted to send us."""
        to = fault.headers.get("Location")
        away = to is not None and 300 <= fault.code < 400
        sent = f", a redirect to {self.without_token(to or '')}, which is not followed" if away else ""
        reason = f" {self.without_token(fault.reason)}" if fault.reason else ""
        return f"{self.host} answered {fault.code}{reason}{sent}"

    def without_token(self, text: str) -> str:
        """Some text of an answer, which may repeat what it was asked with, fit to be written down."""
        plain = _ESCAPED.sub(lambda found: chr(int(found[1], 16)), text).replace(r"\/", "/")  # as JSON may write it
        hidden = plain
        for secret in self._secrets:
            hidden = hidden.replace(secret, "***").replace(quote(secret, safe=""), "***")
        return text if hidden == plain else hidden

    def _stopped(self, why: str, first: str = "check the address and the server") -> EnvironmentFault:
        return EnvironmentFault(why, f"{first}; {GO_ON}")


def _retry_after(text: str | None) -> float | None:
    """Seconds of a Retry-After header, a number or a date; None where there is none that can be read."""
    if text is None:
        return None
    if re.fullmatch(r"\d{1,9}", text.strip()):
        return float(text)
    try:
        when = parsedate_to_datetime(text)
    except (ValueError, TypeError, OverflowError):
        return None
    when = when if when.tzinfo else when.replace(tzinfo=UTC)
    return max(0.0, (when - datetime.now(UTC)).total_seconds())


def _said(fault: object) -> str:
    text = " ".join(str(fault).split()) or type(fault).__name__
    return text if len(text) <= 120 else text[:117] + "..."
