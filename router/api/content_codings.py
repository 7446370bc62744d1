"""Decodes request bodies that come compressed (`Content-Encoding`), piece by piece."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Mapping
from typing import Any

from litestar.types import Receive

from providers.errors import BodyTooLargeError, RequestError, UnsupportedMediaTypeError

# The decoder's window: zlib's number for a gzip header, for a zlib header, for none.
_GZIP, _ZLIB, _RAW = 31, 15, -15
_CODINGS = frozenset({b"gzip", b"x-gzip", b"deflate"})
# The bytes that come out at a time: a body of zeros would grow a thousandfold.
_PIECE = 1024 * 1024
# The number of members of a gzip body; each costs more than its bytes do.
_MAX_MEMBERS = 1000
# Decoding less than this is quicker than a thread that does it.
_OFF_LOOP = 16 * 1024


def decoded(headers: Mapping[bytes, bytes], receive: Receive, max_bytes: int) -> Receive:
    """Return a `receive` that gives the body without its coding, in pieces of bounded size.

    The caller still has to limit the size of the decoded body.

    Args:
        headers: the request's headers, names in lower case.
        receive: gives the body as it comes.
        max_bytes: the size that the body may have as it comes.

    Raises:
        UnsupportedMediaTypeError: the coding is not one that is decoded here.
    """
    coding = headers.get(b"content-encoding", b"").strip().lower()
    if coding in (b"", b"identity"):
        return receive
    if coding not in _CODINGS:
        shown = coding[:64].decode("latin-1")
        raise UnsupportedMediaTypeError(
            f"The body's Content-Encoding is {shown!r}; gzip and deflate are supported."
        )
    return _Decoder(receive, max_bytes, deflate=coding == b"deflate")


class _Decoder:
    """Wraps a `receive`, and gives its body decoded."""

    def __init__(self, receive: Receive, max_bytes: int, *, deflate: bool) -> None:
        self._receive = receive
        self._max_bytes = max_bytes
        self._deflate = deflate
        self._decompress: Any = None
        self._pending = b""
        self._size = 0
        self._members = 0
        self._more = True
        self._done = False

    async def __call__(self) -> Any:
        while not self._done:
            if not self._pending and self._more:
                message: Any = await self._receive()
                if message["type"] != "http.request":
                    return message
                self._pending = message.get("body", b"")
                self._more = bool(message.get("more_body"))
                self._size += len(self._pending)
                if self._size > self._max_bytes:
                    raise BodyTooLargeError(
                        f"The request body is larger than {self._max_bytes} bytes."
                    )
            if len(self._pending) > _OFF_LOOP:
                piece = await asyncio.to_thread(self._step)
            else:
                piece = self._step()
            if piece:
                return {"type": "http.request", "body": piece, "more_body": True}
            if not self._pending and not self._more:
                if self._size and not self._decompress.eof:
                    raise self._broken()
                self._done = True
                return {"type": "http.request", "body": b"", "more_body": False}
        # The body is complete: the next message is the client's leaving.
        return await self._receive()

    def _step(self) -> bytes:
        """Decode a piece of the pending bytes, or of those that the decoder still holds."""
        if self._decompress is None or (self._decompress.eof and self._pending):
            if not self._pending:
                return b""
            if self._deflate and self._decompress is not None:
                raise self._broken()
            # Several gzip members in a row are one body.
            self._members += 1
            if self._members > _MAX_MEMBERS:
                raise RequestError(
                    f"The body has over {_MAX_MEMBERS} gzip members.",
                    code="invalid_content_encoding",
                )
            window = _window(self._pending) if self._deflate else _GZIP
            self._decompress = zlib.decompressobj(window)
        try:
            piece: bytes = self._decompress.decompress(self._pending, _PIECE)
        except zlib.error:
            raise self._broken() from None
        self._pending = self._decompress.unconsumed_tail or self._decompress.unused_data
        return piece

    def _broken(self) -> RequestError:
        name = "deflate" if self._deflate else "gzip"
        return RequestError(
            f"The body is not what its Content-Encoding says: it is not whole {name} data.",
            code="invalid_content_encoding",
        )


def _window(data: bytes) -> int:
    """Return the window of a `deflate` body: with zlib's header, which some senders leave out."""
    has_header = data[0] & 0x0F == 8 and (len(data) < 2 or int.from_bytes(data[:2]) % 31 == 0)
    return _ZLIB if has_header else _RAW
