"""A real HTTP proxy in front of an S3 server that fails as networks and S3 do; for tests of patience."""

from __future__ import annotations

import contextlib
import http.client
import random
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal, cast

Fault = Literal["403", "500", "503", "delay", "reset", "truncate", "hang"]
"""An answer 403, 500 or 503 SlowDown; a late answer; a connection closed without one; half an answer; none at all."""

DELAY_S = 0.3
_HOP = {"connection", "keep-alive", "transfer-encoding"}
_CODES = {"403": "AccessDenied", "500": "InternalError", "503": "SlowDown"}


@dataclass
class FaultyStorage:
    """What a proxy does and what it did.

    Attributes:
        choose: (method, path with query, number of the request) -> what happens to it; None: it is forwarded.
        seen: requests, as (method, path with query, fault, Authorization header).
    """

    address: str
    choose: Callable[[str, str, int], Fault | None]
    seen: list[tuple[str, str, Fault | None, str]] = field(default_factory=list)
    stopping: threading.Event = field(default_factory=threading.Event)

    def faults(self) -> Counter[Fault]:
        """How many of each kind there were."""
        return Counter(fault for _, _, fault, _ in self.seen if fault is not None)


def at_random(share: float, kinds: tuple[Fault, ...], seed: int = 0) -> Callable[[str, str, int], Fault | None]:
    """That share of all requests fails, each kind equally often."""
    rng, lock = random.Random(seed), threading.Lock()

    def choose(_method: str, _path: str, _number: int) -> Fault | None:
        with lock:
            return rng.choice(kinds) if rng.random() < share else None

    return choose


@contextlib.contextmanager
def faulty_storage(upstream: str, choose: Callable[[str, str, int], Fault | None]) -> Generator[FaultyStorage]:
    """A proxy to ``HOST:PORT`` for the time of the block; ``choose`` may be replaced meanwhile."""
    server = _Server(("127.0.0.1", 0), _Handler)
    server.upstream = upstream
    server.state = FaultyStorage(f"127.0.0.1:{server.server_address[1]}", choose)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield server.state
    finally:
        server.state.stopping.set()
        server.shutdown()
        server.server_close()
        thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64
    upstream: str
    state: FaultyStorage

    def handle_error(self, request: object, client_address: object) -> None:
        """Connections break here on purpose."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self) -> None:
        server = cast(_Server, self.server)
        state, body = server.state, self._body()
        fault = state.choose(self.command, self.path, len(state.seen))
        state.seen.append((self.command, self.path, fault, self.headers.get("Authorization", "")))
        if fault in _CODES:
            self._refuse(fault)
        elif fault in ("reset", "hang"):
            state.stopping.wait(120 if fault == "hang" else 0)
            self._reset()
        else:
            state.stopping.wait(DELAY_S if fault == "delay" else 0)
            self._forward(server.upstream, body, truncate=fault == "truncate")

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = answer

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass
        return body

    def _refuse(self, status: str) -> None:
        content = f"<?xml version='1.0'?><Error><Code>{_CODES[status]}</Code><Message>no</Message></Error>".encode()
        self.send_response(int(status))
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _reset(self) -> None:
        """Close with a reset, not with an orderly end."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.connection.close()

    def _forward(self, upstream: str, body: bytes, *, truncate: bool) -> None:
        headers = {name: value for name, value in self.headers.items() if name.lower() not in _HOP}
        headers["Content-Length"] = str(len(body))
        connection = http.client.HTTPConnection(upstream, timeout=60)
        try:
            connection.request(self.command, self.path, body, headers)
            response = connection.getresponse()
            content = response.read()
        finally:
            connection.close()
        self.send_response_only(response.status, response.reason)
        for name, value in response.getheaders():
            if name.lower() not in _HOP | {"content-length"}:
                self.send_header(name, value)
        length = response.getheader("Content-Length", "0") if self.command == "HEAD" else str(len(content))
        self.send_header("Content-Length", length)
        self.end_headers()
        if truncate:
            self.wfile.write(content[: len(content) // 2])
            self.close_connection = True  # an orderly end, so that only the length tells
        elif self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name of the base class
        """Nothing on the terminal."""
