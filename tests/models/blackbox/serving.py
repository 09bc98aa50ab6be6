"""A teacher behind a local HTTP server, and how it can misbehave."""

from __future__ import annotations

import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np

Scores = Callable[[np.ndarray], np.ndarray]


def tanh_scores(shape: tuple[int, ...] = (1, 4, 4), classes: int = 3, seed: int = 0) -> Scores:
    """A small smooth network: rows (N, *shape) to logits (N, K)."""
    draw = np.random.default_rng(seed)
    values = int(np.prod(shape))
    first, last = draw.normal(size=(values, 16)) / values**0.5, draw.normal(size=(16, classes))
    return lambda rows: np.tanh(rows.reshape(len(rows), -1) @ first) @ last


@dataclass
class Served:
    """A server that runs, and what it has seen."""

    address: str
    scores: Scores
    key: str = "scores"
    rows: int = 0
    """That were asked and answered."""
    requests: int = 0
    headers: list[dict[str, str]] = field(default_factory=list)
    faults: list[tuple[int, dict[str, str], bytes]] = field(default_factory=list)
    """Told first, one a request: status, headers, body."""
    dies_after: int | None = None
    """Requests after which every one is refused with 500."""
    change: Callable[[dict[str, Any]], Any] = lambda answer: answer
    """Of the JSON that is answered."""


@contextmanager
def dripping(first: bytes, again: bytes, context: ssl.SSLContext | None = None) -> Iterator[str]:
    """The address of a server that answers with some bytes, and then with others every now and then, for a minute.

    Args:
        first: what an answer begins with.
        again: what it goes on with; empty: nothing, it ends.
        context: of TLS, for https.
    """
    over = threading.Event()

    def drip(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        if context is not None:
            connection = context.wrap_socket(connection, server_side=True)
        with connection, suppress(OSError):  # the client may leave
            connection.settimeout(5)
            with connection.makefile("rb") as request:
                head = b"".join(iter(request.readline, b"\r\n"))
                request.read(int(head.lower().partition(b"content-length:")[2].split()[0]))
            connection.sendall(first)
            until = time.monotonic() + 60
            while again and time.monotonic() < until and not over.wait(0.05):
                connection.sendall(again)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=drip, args=(listener,), daemon=True)
        thread.start()
        try:
            scheme = "http" if context is None else "https"
            yield f"{scheme}://localhost:{listener.getsockname()[1]}/predict"
        finally:
            over.set()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    served: Served

    def do_POST(self) -> None:
        served = self.served
        body = self.rfile.read(int(self.headers["Content-Length"]))
        served.requests += 1
        served.headers.append(dict(self.headers))
        if served.faults:
            self._tell(*served.faults.pop(0))
            return
        if served.dies_after is not None and served.requests > served.dies_after:
            self._tell(500, {}, b"gone")
            return
        rows = np.array(json.loads(body)["inputs"], dtype=np.float64)
        served.rows += len(rows)
        answer = {served.key: served.scores(rows).tolist()}
        self._tell(200, {"Content-Type": "application/json"}, json.dumps(served.change(answer)).encode())

    def do_GET(self) -> None:
        self._tell(200, {}, b"{}")

    def _tell(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
        if "X-Slow" in headers:
            self.wfile.flush()
            time.sleep(float(headers["X-Slow"]))

    def log_message(self, format: str, *args: object) -> None:
        """Keeps quiet."""


@contextmanager
def serving(scores: Scores | None = None) -> Iterator[Served]:
    """A server on a free port of this machine."""
    served = Served("", scores or tanh_scores())
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"served": served}))
    server.daemon_threads = True
    served.address = f"http://127.0.0.1:{server.server_address[1]}/predict"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield served
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
