"""Live parts of pages: HTML that is sent again whenever it has changed.

    @get("/pages/live/home", ...)
    async def home_part(parts: InjectedLiveParts, caller: InjectedCaller) -> ServerSentEvent:
        return parts.stream(caller, ("home",), lambda: part("home_part.html", ...))

    <div hx-sse:connect="/pages/live/home" hx-swap="innerMorph">{% include "home_part.html" %}</div>

However many browsers show a part, it is made once for all who see the same, twice a second at most,
and only while one of them is open. A browser whose connection ends connects again by itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable
from functools import cached_property

from litestar.di import NamedDependency
from litestar.response import ServerSentEvent, ServerSentEventMessage

from providers.errors import EvalrouterError
from router.api.access import Caller
from router.api.feeds import Feeds
from router.api.page_layout import PAGE_HEADERS

# Less than a second behind, with what making and sending a part takes.
POLL_S = 0.5
# A browser then connects again, with the session and the rights that it has by then.
STREAM_S = 300.0


class _Event(ServerSentEventMessage):
    """A part as an event, which is encoded once for all who get it."""

    @cached_property
    def _encoded(self) -> bytes:
        return super().encode()

    def encode(self) -> bytes:
        return self._encoded


class LiveParts:
    """All parts that this process sends to browsers."""

    def __init__(self) -> None:
        self._feeds: Feeds[_Event] = Feeds("pages", poll_s=POLL_S)

    def stream(
        self, caller: Caller, key: Hashable, make: Callable[[], Awaitable[str]]
    ) -> ServerSentEvent:
        """Return a part, and the part again whenever it has changed, as server-sent events.

        Args:
            caller: whose page it is on; callers of one audience see the same.
            key: whatever else the part depends on: what it shows.
            make: returns the part as HTML.

        Raises:
            RateLimitError: as many follow as may, in all or with this key.
        """
        holder = caller.key_id
        self._feeds.check_room(holder)
        events = self._events((caller.audience, key), make, holder)
        return ServerSentEvent(events, headers=dict(PAGE_HEADERS))

    async def _events(
        self, key: Hashable, make: Callable[[], Awaitable[str]], holder: str
    ) -> AsyncIterator[_Event]:
        async def read() -> _Event:
            return _Event(await make())

        try:
            async with (
                asyncio.timeout(STREAM_S),
                self._feeds.follow(key, read, holder=holder) as events,
            ):
                async for event in events:
                    yield event
        except (TimeoutError, EvalrouterError):
            # The response has begun; a browser that connects again learns what is wrong.
            return


InjectedLiveParts = NamedDependency[LiveParts]
