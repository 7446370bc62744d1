"""A client on a raw socket: it sends any bytes, and reads responses one by one.

with RawClient(url) as client:
    client.send(request("POST", "/v1/chat/completions", body=b"{}"))
    response = client.response()
    assert response.status == 400
    assert client.is_open()
"""

from __future__ import annotations

import json
import socket
from collections.abc import Iterable
from typing import Any, NamedTuple, Self

# Long enough for a busy machine; a test that waits so long fails.
PATIENCE_S = 30.0


class Response(NamedTuple):
    """What came back.

    Attributes:
        version: as `HTTP/1.1`.
        headers: names in lower case.
        body: without its framing.
        framing: `length`, `chunked`, `close` or `none`.
        trailers: after a chunked body.
    """

    version: str
    status: int
    headers: dict[str, str]
    body: bytes
    framing: str
    trailers: dict[str, str]

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        """OpenAI's error object, which has these four fields and no others."""
        document = self.json
        assert set(document) == {"error"}, document
        error = document["error"]
        assert set(error) == {"message", "type", "param", "code"}, error
        assert isinstance(error["message"], str)
        assert error["message"]
        return error


class RawClient:
    """One connection.

    Args:
        url: the server's.
        receive_buffer: bytes of the kernel's buffer, for clients that do not read.
    """

    def __init__(self, url: str, receive_buffer: int | None = None) -> None:
        host, _, port = url.removeprefix("http://").partition(":")
        self.socket = socket.socket()
        if receive_buffer is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(PATIENCE_S)
        self.socket.connect((host, int(port)))
        self._buffer = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, *pieces: bytes) -> None:
        """Send all of it, each piece by itself."""
        for piece in pieces:
            self.socket.sendall(piece)

    def _more(self) -> bool:
        data = self.socket.recv(1 << 16)
        self._buffer += data
        return bool(data)

    def _line(self) -> bytes:
        while b"\r\n" not in self._buffer:
            assert self._more(), f"the connection ended after {self._buffer[-200:]!r}"
        line, _, self._buffer = self._buffer.partition(b"\r\n")
        return line

    def _exactly(self, size: int) -> bytes:
        while len(self._buffer) < size:
            assert self._more(), "the connection ended within a body"
        data, self._buffer = self._buffer[:size], self._buffer[size:]
        return data

    def _fields(self) -> dict[str, str]:
        fields = {}
        while line := self._line():
            name, _, value = line.decode("latin-1").partition(":")
            assert name.lower() not in fields, f"{name} twice"
            fields[name.lower()] = value.strip()
        return fields

    def response(self, *, to_head: bool = False, skip_100: bool = True) -> Response:
        """Read one response."""
        while True:
            version, status, _ = (self._line().decode() + " ").split(" ", 2)
            headers = self._fields()
            if int(status) != 100 or not skip_100:
                break
        trailers: dict[str, str] = {}
        if to_head or int(status) in (100, 204, 304):
            body, framing = b"", "none"
        elif headers.get("transfer-encoding") == "chunked":
            assert "content-length" not in headers
            body, framing = b"", "chunked"
            while size := int(self._line(), 16):
                body += self._exactly(size)
                assert self._line() == b""
            trailers = self._fields()
        elif "content-length" in headers:
            body, framing = self._exactly(int(headers["content-length"])), "length"
        else:
            while self._more():
                pass
            body, self._buffer, framing = self._buffer, b"", "close"
        return Response(version, int(status), headers, body, framing, trailers)

    def rest(self) -> bytes:
        """Everything up to the end of the connection, which must be no reset."""
        while self._more():
            pass
        data, self._buffer = self._buffer, b""
        return data

    @property
    def unread(self) -> bytes:
        """What came and no response was read from."""
        return self._buffer

    def is_open(self) -> bool:
        """Whether another request is answered on the connection."""
        self.send(request("GET", "/health/live"))
        return self.response().status == 200

    def is_cut(self) -> bool:
        """Whether the server ends the connection, however."""
        try:
            while self._more():
                pass
        except ConnectionError:
            pass
        return True


def request(
    method: str = "GET",
    target: str = "/health/live",
    *headers: str,
    body: bytes = b"",
    chunks: Iterable[bytes] = (),
    version: str = "1.1",
) -> bytes:
    """The bytes of a request: a `Host` and the framing of its body are added."""
    lines = [f"{method} {target} HTTP/{version}", "host: localhost", *headers]
    chunked = b"".join(b"%x\r\n%b\r\n" % (len(one), one) for one in chunks)
    if chunked:
        lines.append("transfer-encoding: chunked")
        body = chunked + b"0\r\n\r\n"
    elif body or method == "POST":
        lines.append(f"content-length: {len(body)}")
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


def chat(model: str, text: str = "hi", **fields: Any) -> bytes:
    """The body of a chat."""
    message = {"role": "user", "content": text}
    return json.dumps({"model": model, "messages": [message], **fields}).encode()
