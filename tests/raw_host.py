"""A raw-socket upstream on loopback that plays scripts of bytes and actions, and logs what it got.

    with raw_host([READ, b"HTTP/1.1 200 OK\\r\\ncontent-length: 2\\r\\n\\r\\nok"]) as host:
        ...                                     # every request is answered so; host.url is its URL
    host.requests[0].body                       # what came, in order

A script is a list of steps, played from the start again until the connection ends (a script without
READ is played once, and then the connection is left open until the client closes it):

    b"..."              send these bytes
    READ                read one whole request (head, and body by its content-length) and log it
    ReadBytes(5)        read that many bytes, or fewer if the client closes; they are not logged
                        as a request (`host.received` has all bytes of each connection)
    Split(b"...", 1)    send in pieces of so many bytes, each in a packet of its own
    Repeat(b"...", n)   send the same bytes n times; n=None goes on until the client closes
    Wait(0.1)           seconds, or a threading.Event that the test sets
    HALF_CLOSE          send FIN, go on reading
    CLOSE, RESET, HOLD  end the connection with a FIN, with an RST, when the client ends it
    a function          called with the Connection: `connection.socket` is there to do anything

What `raw_host` takes is one script for every connection; or `each(script, script, ...)`, one per
connection in the order they come, where the last stands for all later ones; or `by_model({name:
[answer, ...]})`, where each answer is a script without READ, played for the nth request with that
`model` (the last one stands for all later ones), and the name `*` stands for all others.

`answer(body)` and `stream(*events)` make whole answers in each of the FRAMINGS.
"""

from __future__ import annotations

import re
import socket
import ssl
import string
import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import msgspec

Framing = Literal["length", "chunked", "close"]
FRAMINGS: tuple[Framing, ...] = ("length", "chunked", "close")


@dataclass(frozen=True)
class ReadBytes:
    """Read this many bytes of whatever comes."""

    count: int


@dataclass(frozen=True)
class Split:
    """Send in pieces of `size` bytes with a pause between them, so that none are read together."""

    data: bytes
    size: int = 1
    pause: float = 0.001


@dataclass(frozen=True)
class Repeat:
    """Send the same bytes `times` times, None for until the client closes."""

    data: bytes
    times: int | None = None


@dataclass(frozen=True)
class Wait:
    """Wait for seconds or for an event."""

    until: float | threading.Event


@dataclass(frozen=True)
class _Signal:
    name: str

    def __repr__(self) -> str:
        return self.name


READ = _Signal("READ")
CLOSE = _Signal("CLOSE")
HALF_CLOSE = _Signal("HALF_CLOSE")
RESET = _Signal("RESET")
HOLD = _Signal("HOLD")

Step = bytes | ReadBytes | Split | Repeat | Wait | _Signal | Callable[["Connection"], None]
Script = Sequence[Step]


@dataclass(frozen=True)
class Request:
    """One request as it came.

    Attributes:
        connection: number of the connection, from 0.
        head: the request line and headers as bytes.
        headers: names in lower case; of a repeated one, the last.
    """

    connection: int
    head: bytes
    body: bytes

    @property
    def method(self) -> str:
        return self.head.split(b" ", 1)[0].decode()

    @property
    def target(self) -> str:
        return self.head.split(b" ", 2)[1].decode()

    @property
    def headers(self) -> dict[str, str]:
        lines = self.head.decode("latin-1").split("\r\n")[1:]
        return {
            name.lower(): value.strip() for name, _, value in (x.partition(":") for x in lines if x)
        }

    @property
    def json(self) -> Any:
        return msgspec.json.decode(self.body)


@dataclass(frozen=True)
class _Each:
    scripts: tuple[Script, ...]


@dataclass(frozen=True)
class _ByModel:
    answers: Mapping[str, Sequence[Script]]


def each(*scripts: Script) -> _Each:
    """One script per connection in the order they come; the last stands for all later ones."""
    return _Each(scripts)


def by_model(answers: Mapping[str, Sequence[Script]]) -> _ByModel:
    """Scripts by the request's model: the nth request for a model gets its nth answer."""
    return _ByModel(answers)


class _Ended(Exception):  # noqa: N818  # how a connection's thread leaves its script
    pass


@dataclass
class Connection:
    """One connection and what came over it.

    Attributes:
        ended: "" while it is open, "closed" or "reset" by the client, or "done" by the script.
    """

    number: int
    socket: socket.socket
    host: RawHost
    received: bytearray = field(default_factory=bytearray)
    ended: str = ""
    _buffer: bytearray = field(default_factory=bytearray)

    def read_request(self) -> Request:
        """Read one whole request and log it."""
        while (end := self._buffer.find(b"\r\n\r\n")) < 0:
            self._receive()
        head = bytes(self._buffer[: end + 4])
        length = re.search(rb"\r\ncontent-length: *(\d+)", head, re.IGNORECASE)
        size = end + 4 + (int(length[1]) if length else 0)
        while len(self._buffer) < size:
            self._receive()
        request = Request(self.number, head, bytes(self._buffer[end + 4 : size]))
        del self._buffer[:size]
        with self.host.changed:
            self.host.requests.append(request)
            self.host.changed.notify_all()
        return request

    def read_bytes(self, count: int) -> None:
        """Read so many bytes, or all there are before the client closes."""
        while len(self._buffer) < count:
            self._receive()
        del self._buffer[:count]

    def hold(self) -> None:
        """Read until the client closes."""
        while True:
            self._receive()

    def end(self, *, reset: bool = False) -> None:
        """Close, with an RST or with a FIN after everything that was sent."""
        if reset:
            linger = struct.pack("ii", 1, 0)
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        else:
            # Closing with unread bytes in the kernel would send an RST in place of the FIN.
            with suppress(OSError):
                self.socket.shutdown(socket.SHUT_WR)
                self.socket.settimeout(0.0)
                while self.socket.recv(65536):
                    pass
        raise _Ended

    def _receive(self) -> None:
        data = self.socket.recv(65536)
        if not data:
            self.ended = "closed"
            raise _Ended
        self.received += data
        self._buffer += data

    def play(self, script: Script) -> None:
        """Do what a script says, once."""
        for step in script:
            self._step(step)

    def _step(self, step: Step) -> None:
        match step:
            case bytes():
                self.socket.sendall(step)
            case ReadBytes():
                self.read_bytes(step.count)
            case Split():
                for start in range(0, len(step.data), step.size):
                    self.socket.sendall(step.data[start : start + step.size])
                    time.sleep(step.pause)
            case Repeat():
                # In large pieces: the cost is to be the reader's, not ours.
                many = max(1, 262_144 // max(1, len(step.data)))
                left = step.times
                while left is None or left > 0:
                    now = many if left is None else min(many, left)
                    self.socket.sendall(step.data * now)
                    left = None if left is None else left - now
            case Wait(until=threading.Event() as event):
                self.host.wait_for(event)
            case Wait(until=float() | int() as seconds):
                time.sleep(seconds)
            case _Signal():
                self._signal(step)
            case _:
                assert callable(step), f"{step!r} is not a step of a script"
                step(self)

    def _signal(self, step: _Signal) -> None:
        if step is READ:
            self.read_request()
        elif step is HALF_CLOSE:
            self.socket.shutdown(socket.SHUT_WR)
        elif step is HOLD:
            self.hold()
        else:
            self.end(reset=step is RESET)

    def _play_by_model(self, answers: Mapping[str, Sequence[Script]]) -> None:
        while True:
            request = self.read_request()
            found = re.search(rb'"model"\s*:\s*"([^"]*)"', request.body)
            model = found[1].decode() if found else ""
            name = model if model in answers else "*"
            with self.host.changed:
                number = self.host.counts[name] = self.host.counts.get(name, 0) + 1
            scripts = answers[name]
            self.play(scripts[min(number, len(scripts)) - 1])

    def run(self, scripts: _Each | _ByModel) -> None:
        """The connection's whole life."""
        try:
            if self.host.tls is not None:
                self.socket = self.host.tls.wrap_socket(self.socket, server_side=True)
            if isinstance(scripts, _ByModel):
                self._play_by_model(scripts.answers)
            else:
                script = scripts.scripts[min(self.number, len(scripts.scripts) - 1)]
                self.play(script)
                while READ in script:
                    self.play(script)
                self.hold()
        except _Ended:
            pass
        except OSError:
            self.ended = "reset"
        finally:
            with suppress(OSError):
                self.socket.close()
            with self.host.changed:
                self.ended = self.ended or "done"
                self.host.changed.notify_all()


class RawHost:
    """The running upstream.

    Attributes:
        url: base URL with the `/v1` at its end, as a provider's `base_url` has it.
        port: where it listens.
        requests: every request that a script has read, in order.
        connections: every connection, in order.
    """

    def __init__(self, scripts: _Each | _ByModel, tls: ssl.SSLContext | None) -> None:
        self._scripts = scripts
        self.tls = tls
        self.requests: list[Request] = []
        self.connections: list[Connection] = []
        self.counts: dict[str, int] = {}
        self.changed = threading.Condition()
        self._stopping = False
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.port: int = self._listener.getsockname()[1]
        scheme = "http" if tls is None else "https"
        self.url = f"{scheme}://127.0.0.1:{self.port}/v1"
        self._start(self._accept)

    @property
    def received(self) -> list[bytes]:
        """All bytes of each connection."""
        return [bytes(connection.received) for connection in self.connections]

    def wait_until(self, true: Callable[[RawHost], Any], seconds: float = 10.0) -> None:
        """Wait until something is true of the log (`lambda host: len(host.requests) == 2`)."""
        with self.changed:
            assert self.changed.wait_for(lambda: true(self), seconds), "it never became true"

    def wait_for(self, event: threading.Event) -> None:
        """Wait for an event that a test sets; a script that waits for it ends with the host."""
        until = time.monotonic() + 30
        while not event.wait(0.05):
            if self._stopping or time.monotonic() > until:
                raise _Ended

    def _start(self, target: Callable[..., None], *args: Any) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)
        thread.start()
        self._threads.append(thread)

    def _accept(self) -> None:
        while True:
            try:
                one, _ = self._listener.accept()
            except OSError:
                return
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self.changed:
                connection = Connection(len(self.connections), one, self)
                self.connections.append(connection)
                self.changed.notify_all()
            self._start(connection.run, self._scripts)

    def stop(self) -> None:
        """End every connection."""
        self._stopping = True
        # A blocked accept is only woken by a shutdown, not by a close.
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in self.connections:
            with suppress(OSError):
                connection.socket.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(5)


@contextmanager
def raw_host(
    script: Script | _Each | _ByModel, *, tls: ssl.SSLContext | None = None
) -> Iterator[RawHost]:
    """Run an upstream that plays a script; see the module's docstring."""
    scripts = script if isinstance(script, _Each | _ByModel) else each(script)
    host = RawHost(scripts, tls)
    try:
        yield host
    finally:
        host.stop()


def framed(
    body: bytes | Sequence[bytes],
    framing: Framing = "length",
    *,
    status: str = "200 OK",
    headers: bytes = b"content-type: application/json\r\n",
) -> list[Step]:
    """Return the steps that send an answer with this body (or these parts of one) in a framing."""
    parts = [body] if isinstance(body, bytes) else list(body)
    head = b"HTTP/1.1 %b\r\n%b" % (status.encode(), headers)
    if framing == "length":
        return [head + b"content-length: %d\r\n\r\n" % sum(map(len, parts)), *parts]
    if framing == "chunked":
        chunks = [b"%x\r\n%b\r\n" % (len(part), part) for part in parts if part]
        return [head + b"transfer-encoding: chunked\r\n\r\n", *chunks, b"0\r\n\r\n"]
    return [head + b"\r\n", *parts, CLOSE]


CHAT = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1_700_000_000,
    "model": "m",
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "Hello"},
            "finish_reason": "stop",
        }
    ],
    "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5},
}


def chat(content: str = "Hello", **fields: Any) -> bytes:
    """Return a chat completion; `fields` replace its own."""
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": content},
        "finish_reason": "stop",
    }
    return msgspec.json.encode({**CHAT, "choices": [choice], **fields})


def event(data: Any) -> bytes:
    """Return one server-sent event: bytes as they are, anything else as JSON."""
    text = data if isinstance(data, bytes) else msgspec.json.encode(data)
    return b"data: %b\n\n" % text


def chunk(delta: dict[str, Any], finish_reason: str | None = None, **fields: Any) -> bytes:
    """Return the event of one chunk of a streamed chat completion."""
    choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
    return event(
        {
            "id": "chatcmpl-1",
            "object": "chat.completion.chunk",
            "created": 1_700_000_000,
            "model": "m",
            "choices": [choice],
            **fields,
        }
    )


USAGE_EVENT = event(
    {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1_700_000_000,
        "model": "m",
        "choices": [],
        "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5},
    }
)
DONE = event(b"[DONE]")


def chat_stream(content: Sequence[str] = ("Hel", "lo"), *, usage: bool = True) -> list[bytes]:
    """Return the events of a whole streamed chat completion."""
    events = [chunk({"role": "assistant", "content": ""})]
    events += [chunk({"content": text}) for text in content]
    events.append(chunk({}, "stop"))
    return [*events, *([USAGE_EVENT] if usage else []), DONE]


def answer(body: bytes | None = None, framing: Framing = "length", **options: Any) -> list[Step]:
    """Return the steps of a whole answer; without a body it is a good chat completion."""
    return framed(chat() if body is None else body, framing, **options)


def stream(
    *events: bytes,
    framing: Framing = "chunked",
    headers: bytes = b"content-type: text/event-stream\r\n",
    **options: Any,
) -> list[Step]:
    """Return the steps of a streamed answer; without events it is a good chat completion."""
    return framed(events or chat_stream(), framing, headers=headers, **options)


def config(url: str, folder: Path, *, attempts: int = 1, fallback: str = "", more: str = "") -> str:
    """Return a config with the host as provider `up` (kind compatible) and a route to each model.

    Args:
        url: the host's.
        folder: where the database goes.
        attempts: of every route `r-MODEL`, for MODEL in `a` to `z`.
        fallback: `provider/model` that these routes fall back to, "" for none.
        more: appended as it is.
    """
    after = f", fallback: ['{fallback}']" if fallback else ""
    retries = f"retries: {{attempts: {attempts}, backoff: 0.001, backoff_max: 0.002}}"
    routes = "".join(
        f"  r-{name}: {{targets: [{{model: up/{name}}}], {retries}{after}}}\n"
        for name in string.ascii_lowercase
    )
    return (
        f"server: {{port: 0}}\nstorage: {{database: 'sqlite:///{folder}/e.db'}}\n"
        f"providers:\n  up: {{kind: compatible, base_url: '{url}'}}\nroutes:\n{routes}{more}"
    )
