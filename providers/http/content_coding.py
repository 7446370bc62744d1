"""Decodes content codings (gzip, deflate, br, zstd) piece by piece. No IO.

    decoder = decoder_for("gzip")
    for piece in decoder.feed(data): ...   # pieces of bounded size; b"" is a step without output
    decoder.finish()                       # raises if the end is missing

Each step of `feed` does a bounded amount of work, however far the data expands, so that the caller
can count what comes and let others run in between. What the sender flushed comes out at once.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from importlib import import_module
from typing import Any, Protocol

# Bytes that one step decodes to at most (brotli: about), and bytes that it takes.
STEP_BYTES = 64 * 1024
_SLICE_BYTES = 16 * 1024
# Codings applied one after the other; each multiplies what a few bytes can expand to.
MAX_CODINGS = 2
# RFC 9659: a decoder need not have more memory than for a window of 8 MB.
_ZSTD_WINDOW_LOG = 23


class Undecodable(Exception):  # noqa: N818  # what is wrong, for a caller that knows of what
    """The content cannot be decoded. The message continues a sentence: "the answer ..."."""


class Decoder(Protocol):
    """Decodes one body."""

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield what the data decodes to. Exhaust it before the next call.

        Raises:
            Undecodable: the data is not in the coding.
        """
        ...

    def finish(self) -> None:
        """Note that the body has ended.

        Raises:
            Undecodable: the coded data has not.
        """
        ...


def decoder_for(codings: str) -> Decoder | None:
    """Return a decoder for the value of a `Content-Encoding` header; None if nothing is coded.

    Raises:
        Undecodable: a coding is unknown, needs a package that is not installed, or they are more
            than MAX_CODINGS.
    """
    names = [name for part in codings.lower().split(",") if (name := part.strip()) != "identity"]
    names = [name for name in names if name]
    if len(names) > MAX_CODINGS:
        raise Undecodable(f"has {len(names)} content codings; at most {MAX_CODINGS} are decoded")
    # They stand in the order they were applied in.
    decoders = [_make(name) for name in reversed(names)]
    if not decoders:
        return None
    return decoders[0] if len(decoders) == 1 else _Chain(*decoders)


def _make(name: str) -> Decoder:
    if name in ("gzip", "x-gzip"):
        return _Gzip()
    if name == "deflate":
        return _Deflate()
    if name == "br":
        return _Brotli(_package(name, "brotli"))
    if name == "zstd":
        return _Zstd(_package(name, "compression.zstd", "backports.zstd"))
    raise Undecodable(f"has the content coding {name[:40]!a}, which is not supported")


def _package(coding: str, *modules: str) -> Any:
    """Import the first of the modules that is installed, once an answer needs it."""
    for module in modules:
        try:
            return import_module(module)
        except ImportError:
            continue
    raise Undecodable(
        f"has the content coding {coding!a}, which needs the package {modules[-1]}, and it is not "
        "installed"
    )


def _slices(data: bytes) -> Iterator[bytes]:
    if len(data) <= _SLICE_BYTES:
        yield data
        return
    for start in range(0, len(data), _SLICE_BYTES):
        yield data[start : start + _SLICE_BYTES]


class _Chain:
    """One coding around another."""

    def __init__(self, outer: Decoder, inner: Decoder) -> None:
        self._outer = outer
        self._inner = inner

    def feed(self, data: bytes) -> Iterator[bytes]:
        for piece in self._outer.feed(data):
            if piece:
                yield from self._inner.feed(piece)
            else:
                yield b""

    def finish(self) -> None:
        self._outer.finish()
        self._inner.finish()


class _Gzip:
    """gzip, one member after the other; zeros may follow the last one."""

    def __init__(self) -> None:
        self._member: Any = None
        # Whether a member has ended, so that zeros may follow.
        self._padded = False

    def feed(self, data: bytes) -> Iterator[bytes]:
        for part in _slices(data):
            yield from self._feed(part)

    def _feed(self, data: bytes) -> Iterator[bytes]:
        while True:
            if self._member is None:
                if self._padded:
                    data = data.lstrip(b"\0")
                if not data:
                    return
                self._member = zlib.decompressobj(wbits=31)
            piece = _inflate(self._member, data, "gzip")
            yield piece
            if self._member.eof:
                data = self._member.unused_data
                self._member = None
                self._padded = True
                continue
            data = self._member.unconsumed_tail
            if not data and len(piece) < STEP_BYTES:
                return

    def finish(self) -> None:
        if self._member is not None:
            raise Undecodable("was cut off within its content coding gzip")


class _Deflate:
    """deflate: zlib's format as the standard says, or without its frame as some hosts send it."""

    def __init__(self) -> None:
        self._start = b""
        self._stream: Any = None

    def feed(self, data: bytes) -> Iterator[bytes]:
        for part in _slices(data):
            yield from self._feed(part)

    def _feed(self, data: bytes) -> Iterator[bytes]:
        if self._stream is None:
            self._start = data = self._start + data
            if len(data) < 2:
                return
            framed = data[0] & 0x0F == 8 and int.from_bytes(data[:2], "big") % 31 == 0
            self._stream = zlib.decompressobj(wbits=15 if framed else -15)
        while True:
            if self._stream.eof:
                if data:
                    raise Undecodable("goes on after the end of its content coding deflate")
                return
            piece = _inflate(self._stream, data, "deflate")
            yield piece
            if self._stream.eof:
                data = self._stream.unused_data
                continue
            data = self._stream.unconsumed_tail
            if not data and len(piece) < STEP_BYTES:
                return

    def finish(self) -> None:
        if self._start if self._stream is None else not self._stream.eof:
            raise Undecodable("was cut off within its content coding deflate")


def _inflate(stream: Any, data: bytes, name: str) -> bytes:
    try:
        piece: bytes = stream.decompress(data, STEP_BYTES)
    except zlib.error:
        raise Undecodable(f"is not what its content coding {name} says") from None
    return piece


class _Brotli:
    def __init__(self, brotli: Any) -> None:
        self._stream = brotli.Decompressor()
        self._error = brotli.error
        self._begun = False

    def feed(self, data: bytes) -> Iterator[bytes]:
        for part in _slices(data):
            yield from self._feed(part)

    def _feed(self, data: bytes) -> Iterator[bytes]:
        self._begun = self._begun or bool(data)
        while True:
            try:
                piece: bytes = self._stream.process(data, output_buffer_limit=STEP_BYTES)
            except self._error:
                raise Undecodable("is not what its content coding br says") from None
            yield piece
            data = b""
            if self._stream.is_finished():
                return
            # A full step may have left output behind although all input was taken.
            if len(piece) < STEP_BYTES and self._stream.can_accept_more_data():
                return

    def finish(self) -> None:
        if self._begun and not self._stream.is_finished():
            raise Undecodable("was cut off within its content coding br")


class _Zstd:
    """zstd, one frame after the other."""

    def __init__(self, zstd: Any) -> None:
        self._zstd = zstd
        self._frame: Any = None

    def feed(self, data: bytes) -> Iterator[bytes]:
        for part in _slices(data):
            yield from self._feed(part)

    def _feed(self, data: bytes) -> Iterator[bytes]:
        while data or self._frame is not None:
            if self._frame is None:
                limit = {self._zstd.DecompressionParameter.window_log_max: _ZSTD_WINDOW_LOG}
                self._frame = self._zstd.ZstdDecompressor(options=limit)
            try:
                piece: bytes = self._frame.decompress(data, STEP_BYTES)
            except self._zstd.ZstdError:
                raise Undecodable("is not what its content coding zstd says") from None
            yield piece
            data = b""
            if self._frame.eof:
                data = self._frame.unused_data
                self._frame = None
            elif self._frame.needs_input:
                return

    def finish(self) -> None:
        if self._frame is not None:
            raise Undecodable("was cut off within its content coding zstd")
