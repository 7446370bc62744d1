"""`/eval/{id}/logs`: what happened to a run."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, Any, cast

import msgspec
from litestar import Request, Response, get
from litestar.params import FromPath, QueryParameter
from litestar.response import ServerSentEvent
from litestar.types import SSEData

from router.api.access import InjectedCaller
from router.api.following import Followers, InjectedFollowers, progress_of
from router.api.form_numbers import number_from_digits
from router.api.injection import Injected
from router.api.paging import MAX_OFFSET, PageSize
from router.services import Services
from router.store.run_logs import LogLine

_PAGE = 500


class LogPage(msgspec.Struct):
    """A page of a run's log, oldest line first. `next` is the `after` of the next page, or None."""

    data: list[LogLine]
    next: int | None
    object: str = "list"


@get("/eval/{run_id:str}/logs", tags=["eval"], summary="Read or follow a run's log")
async def list_log(  # noqa: PLR0917 - Litestar passes query parameters by name
    services: Injected,
    caller: InjectedCaller,
    followers: InjectedFollowers,
    request: Request[Any, Any, Any],
    run_id: FromPath[str],
    follow: Annotated[bool, QueryParameter()] = False,
    limit: PageSize = 100,
    after: Annotated[int | None, QueryParameter(ge=0, le=MAX_OFFSET)] = None,
) -> Response[LogPage]:
    """Page through states, retries, errors by target, and what metrics' processes wrote.

    What is the same within a second is one line with its number of times, and the last 10,000
    lines of a run are stored. With `follow=true`, the lines come as events `log` as they are
    written, until an event `end` once the run stops; `after`, or a header `last-event-id`, is the
    number of the last line that is known already.
    """
    run = await services.runs.find(run_id)
    if follow:
        followers.check_room(caller.key_id)
        known = number_from_digits(request.headers.get("last-event-id", "")) or 0
        start = known if after is None else after
        events = _events(services, followers, run.id, start, caller.key_id)
        stream: Any = ServerSentEvent(events)
        return cast("Response[LogPage]", stream)
    lines = await masked_lines(services, run.id, after or 0, limit)
    return Response(LogPage(lines, lines[-1].number if len(lines) == limit else None))


async def masked_lines(services: Services, run_id: str, after: int, limit: int) -> list[LogLine]:
    """Return lines without the config's secrets, which an error of a run may have in it."""
    lines = await services.store.run_log(run_id, limit=limit, after=after)
    mask = services.masks.mask_text
    return [msgspec.structs.replace(line, text=mask(line.text)) for line in lines]


async def _events(
    services: Services, followers: Followers, run_id: str, after: int, holder: str
) -> AsyncIterator[SSEData]:
    async with followers.follow(run_id, holder=holder) as snapshots:
        async for snapshot in snapshots:
            while after < snapshot.logged:
                lines = await masked_lines(services, run_id, after, _PAGE)
                if not lines:
                    break
                for line in lines:
                    data = msgspec.json.encode(line).decode()
                    yield {"event": "log", "id": str(line.number), "data": data}
                after = lines[-1].number
            if snapshot.stopped:
                yield {"event": "end", "data": msgspec.json.encode(progress_of(snapshot)).decode()}
