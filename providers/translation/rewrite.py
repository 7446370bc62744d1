"""A Reply whose body is rewritten on its way back, for hosts whose answers differ from OpenAI's.

Whole answers go through one function, streams event by event through another. Comments
(keep-alives) of a stream stay comments, so that a slow host still counts as alive.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Protocol

from providers.base import Reply, Translation
from providers.errors import UpstreamProtocolError
from providers.http import sse
from providers.off_loop import off_loop

_KEEP_ALIVE = b": keep-alive\n\n"


class Rewriter(Protocol):
    """Rewrites one answer; each answer has its own, so that it may have a state."""

    def whole(self, body: bytes) -> bytes:
        """Return a complete answer, rewritten. Raises UpstreamProtocolError when it is invalid."""
        ...

    def event(self, event: sse.Event) -> bytes:
        """Return what an event of the host's stream becomes: any number of events, or b""."""
        ...

    def end(self) -> bytes:
        """Return what follows the last event. Raises UpstreamProtocolError if it is cut off."""
        ...


# What a rewriter raises over an answer whose fields have other types than its host documents.
_ODD = (AttributeError, IndexError, KeyError, TypeError, ValueError)


def _unreadable(error: Exception) -> UpstreamProtocolError:
    return UpstreamProtocolError(f"the answer cannot be read: {error}")


class RewrittenReply:
    """The Reply around a host's Reply. Error answers (400 and above) are left as they are."""

    def __init__(self, reply: Reply, rewriter: Rewriter, translation: Translation) -> None:
        self.status = reply.status
        self.translation = translation
        self.headers: Mapping[str, str] = reply.headers
        self._reply = reply
        self._rewriter = rewriter
        self._streams = (
            reply.headers.get("content-type", "").lower().startswith("text/event-stream")
        )

    async def read(self) -> bytes:
        """Return the whole body, rewritten."""
        if self._streams or self.status >= 400:
            return b"".join([chunk async for chunk in self.chunks()])
        body = await self._reply.read()
        try:
            return await off_loop(len(body), self._rewriter.whole, body)
        except _ODD as error:
            raise _unreadable(error) from error

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield the rewritten events as the host's bytes complete them."""
        if self.status >= 400:
            async for chunk in self._reply.chunks():
                yield chunk
            return
        if not self._streams:
            yield await self.read()
            return
        parser = sse.Parser()
        async for chunk in self._reply.chunks():
            try:
                out = b"".join(self._rewriter.event(event) for event in parser.feed(chunk))
            except _ODD as error:
                raise _unreadable(error) from error
            if out:
                yield out
            elif chunk.startswith(b":"):
                yield _KEEP_ALIVE
        if last := self._rewriter.end():
            yield last

    async def aclose(self) -> None:
        """Give the host's connection back, or cut it."""
        await self._reply.aclose()
