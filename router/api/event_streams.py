"""Streams of events that browsers and clients read: each ends with its session or its key.

    async with streams.serve(presented_key, send) as watched:
        await app(scope, receive, watched)

Rights are checked when a stream begins. A second later at most it is known in every process that a
user has signed out, or that a key is revoked: another second later, its streams have ended.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from litestar.types import Send

from providers.errors import StoreError
from router.api.access import PresentedKey
from router.gateway.keys import Keys
from router.gateway.sessions import Sessions

POLL_S = 1.0
_EVENTS = b"text/event-stream"


class _Stream:
    """An answer that is a stream of events; `until` ends it."""

    def __init__(self, presented: PresentedKey, until: asyncio.Timeout) -> None:
        self.presented = presented
        self.until = until


class EventStreams:
    """The streams of events that this process sends now.

    However many there are, it reads once a second which of their sessions go on, and not at all
    while no session has one.

    Args:
        keys: the clients' keys.
        sessions: the browsers' sessions.
    """

    def __init__(self, keys: Keys, sessions: Sessions) -> None:
        self._keys = keys
        self._sessions = sessions
        self._streams: set[_Stream] = set()
        self._polling: asyncio.Task[None] | None = None

    @asynccontextmanager
    async def serve(self, presented: PresentedKey, send: Send) -> AsyncIterator[Send]:
        """Give a `send` for an app; leave the app when its stream's session or key has ended.

        Answers that are no streams of events are not ended.

        Args:
            presented: whose request the app answers.
            send: sends to the client.
        """
        stream: _Stream | None = None

        async def watched(message: Any) -> None:
            nonlocal stream
            if message["type"] == "http.response.start" and _has_events(message):
                stream = _Stream(presented, until)
                self._add(stream)
            await send(message)

        try:
            async with asyncio.timeout(None) as until:
                try:
                    yield watched
                finally:
                    if stream is not None:
                        self._remove(stream)
        except TimeoutError:
            if not until.expired():
                raise
            # To the client it is a stream that ended, not one that broke.
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    def _add(self, stream: _Stream) -> None:
        self._streams.add(stream)
        if self._polling is None:
            self._polling = asyncio.create_task(self._poll(), name="rights of event streams")

    def _remove(self, stream: _Stream) -> None:
        self._streams.discard(stream)
        if not self._streams and self._polling is not None:
            self._polling.cancel()
            self._polling = None

    async def _poll(self) -> None:
        while True:
            await asyncio.sleep(POLL_S)
            # What the database does not say now, it says the next time.
            with contextlib.suppress(StoreError):
                await self._end_those_without_rights()

    async def _end_those_without_rights(self) -> None:
        streams = list(self._streams)
        signed_in = {
            stream.presented.signed_in.session.id
            for stream in streams
            if stream.presented.signed_in is not None
        }
        # The keys first: they are known without the database.
        self._end([stream for stream in streams if not self._has_key(stream.presented)])
        if signed_in:
            going_on = await self._sessions.going_on(signed_in)
            self._end(
                [
                    stream
                    for stream in streams
                    if stream.presented.signed_in is not None
                    and stream.presented.signed_in.session.id not in going_on
                ]
            )

    def _has_key(self, presented: PresentedKey) -> bool:
        if presented.key is None:
            # The first key of a server may have been created since.
            return not self._keys.required
        return self._keys.in_use(presented.key.id) is not None

    def _end(self, streams: list[_Stream]) -> None:
        now = asyncio.get_running_loop().time()
        for stream in streams:
            # One may have ended by itself while the sessions were read.
            if stream in self._streams:
                self._streams.discard(stream)
                stream.until.reschedule(now)


def _has_events(start: Any) -> bool:
    return any(
        name.lower() == b"content-type" and value.startswith(_EVENTS)
        for name, value in start.get("headers", ())
    )
