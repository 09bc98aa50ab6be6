"""HTTP and HTTPS whose answers end in time, however slowly their bytes come.

The timeout of a socket begins anew with every byte, so a server that sends one now and then is waited for without end.
Here it is what is left of the whole: before each piece is sent, and before each is received.
"""

from __future__ import annotations

import http.client
import io
import socket
import time
import urllib.request
from typing import Any

PIECE = 65_536


class _Deadline:
    """A moment, and the sockets that wait until then."""

    def __init__(self, seconds: float) -> None:
        self.until = time.monotonic() + seconds

    def bound(self, connection: socket.socket) -> None:
        """Lets a socket wait for no longer than what is left."""
        left = self.until - time.monotonic()
        if left <= 0:
            raise TimeoutError("timed out")
        connection.settimeout(left)


class _Received(io.RawIOBase):
    """What a socket receives."""

    def __init__(self, connection: socket.socket, deadline: _Deadline) -> None:
        super().__init__()
        self.connection = connection
        self.deadline = deadline
        self.raw = connection.makefile("rb", buffering=0)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self.deadline.bound(self.connection)
        return self.raw.readinto(buffer)

    def close(self) -> None:
        self.raw.close()
        super().close()


class _Timed:
    """As much of a socket as `http.client` uses of one that is connected."""

    def __init__(self, connection: socket.socket, deadline: _Deadline) -> None:
        self.connection = connection
        self.deadline = deadline

    def sendall(self, data: bytes) -> None:
        """In pieces, since TLS gives each record the whole timeout."""
        for start in range(0, len(data), PIECE):
            self.deadline.bound(self.connection)
            self.connection.sendall(data[start : start + PIECE])

    def makefile(self, mode: str) -> io.BufferedReader:
        """What it receives; only ``rb`` is asked for."""
        return io.BufferedReader(_Received(self.connection, self.deadline))

    def close(self) -> None:
        self.connection.close()


class _Connection(http.client.HTTPConnection):
    def connect(self) -> None:
        deadline = _Deadline(self.timeout)  # type: ignore[arg-type]  # every request has one
        super().connect()
        self.sock = _Timed(self.sock, deadline)


class _SecureConnection(_Connection, http.client.HTTPSConnection):
    """The same around TLS: the next `connect` in line is that of HTTPS."""


class TimedHTTP(urllib.request.HTTPHandler):
    """Opens ``http:`` so that the timeout of a request is that of the whole answer."""

    def do_open(self, http_class: Any, req: urllib.request.Request, **more: Any) -> http.client.HTTPResponse:
        """By a connection with a deadline."""
        return super().do_open(_Connection, req, **more)


class TimedHTTPS(urllib.request.HTTPSHandler):
    """Opens ``https:`` likewise."""

    def do_open(self, http_class: Any, req: urllib.request.Request, **more: Any) -> http.client.HTTPResponse:
        """By a connection with a deadline."""
        return super().do_open(_SecureConnection, req, **more)
