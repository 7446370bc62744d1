"""A receiver of alerts on loopback, which checks signatures and fails as a test says."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import socket
import struct
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal, NamedTuple

KEY = bytes(range(32))
SECRET = f"whsec_{base64.b64encode(KEY).decode()}"

# An HTTP status, with headers and a body; "reset" cuts the connection, "hang" never answers.
Failure = (
    int | tuple[int, dict[str, str]] | tuple[int, dict[str, str], bytes] | Literal["reset", "hang"]
)


class Received(NamedTuple):
    """One request."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def message(self) -> str:
        return self.headers["webhook-id"]

    def is_signed(self, key: bytes = KEY) -> bool:
        """Whether the signature is that of Standard Webhooks, as a receiver would check it."""
        signed = f"{self.message}.{self.headers['webhook-timestamp']}.".encode() + self.body
        digest = base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()
        return f"v1,{digest}" in self.headers["webhook-signature"].split()


class Receiver(ThreadingHTTPServer):
    """Answers 204, after it has failed in the ways of `failures`, one for each request."""

    daemon_threads = True

    def __init__(self, failures: Sequence[Failure]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.received: list[Received] = []
        self.failures = list(failures)
        self.ended = threading.Event()
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of connections that are cut."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        headers = {name.lower(): value for name, value in self.headers.items()}
        with self.server.lock:
            self.server.received.append(Received(self.path, headers, body))
            failure = self.server.failures.pop(0) if self.server.failures else 204
        if failure == "hang":
            self.server.ended.wait(30)
            self.close_connection = True
        elif failure == "reset":
            # With a reset, not an end.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
            self.close_connection = True
        else:
            status, more, *bodies = failure if isinstance(failure, tuple) else (failure, {})
            answer = b"" if status == 204 else b"no: " + self.path.encode() + b"\x1b[31m"
            [answer] = bodies or [answer]
            self.send_response(status)
            for name, value in more.items():
                self.send_header(name, value)
            if status != 204 and "content-length" not in more:
                self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

    def log_message(self, *_: Any) -> None:
        """Log nothing."""


@contextmanager
def alert_receiver(*failures: Failure) -> Iterator[Receiver]:
    """A receiver in threads of its own."""
    server = Receiver(failures)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.ended.set()
        server.shutdown()
        thread.join()
        server.server_close()
