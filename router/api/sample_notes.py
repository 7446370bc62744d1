"""`/eval/{run_id}/samples/{position}/notes`: what people say of a run's samples."""

from __future__ import annotations

import time
from typing import Annotated, Any

import msgspec
from litestar import Request, delete, get, put
from litestar.params import FromPath, QueryParameter

from router.api.access import InjectedCaller
from router.api.bodies import body_as
from router.api.injection import Injected
from router.api.sample_page import place_of
from router.evals.sample_notes import NoteRequest, delete_note, notes_on, write_note
from router.store.sample_views import SampleNote

NoteTime = Annotated[float | None, QueryParameter(ge=0)]


class NoteList(msgspec.Struct):
    """What people have said of a sample, the oldest first."""

    data: list[SampleNote]
    object: str = "list"


@get(
    "/eval/{run_id:str}/samples/{position:str}/notes",
    tags=["eval"],
    summary="List notes on a sample",
)
async def list_notes(
    services: Injected, run_id: FromPath[str], position: FromPath[str]
) -> NoteList:
    """List people's labels and notes on the sample at a place in the run, from 1."""
    run = await services.runs.find(run_id)
    return NoteList(await notes_on(services.store, run.id, place_of(position)))


@put(
    "/eval/{run_id:str}/samples/{position:str}/notes",
    tags=["eval"],
    summary="Write a note on a sample",
)
async def put_note(
    services: Injected,
    caller: InjectedCaller,
    request: Request[Any, Any, Any],
    run_id: FromPath[str],
    position: FromPath[str],
) -> SampleNote:
    """Store the key's own label and note on a sample, in place of its earlier ones.

    With `before`, the `at` of the note that is replaced (0 for none), it is refused with 409 if
    the key has written another one since.
    """
    written = await body_as(request, NoteRequest)
    run = await services.runs.find(run_id)
    author = "" if caller.key is None else caller.key.name
    return await write_note(
        services.store,
        run.id,
        place_of(position),
        written,
        key_id=caller.key_id,
        author=author,
        now=time.time(),
    )


@delete(
    "/eval/{run_id:str}/samples/{position:str}/notes",
    tags=["eval"],
    summary="Delete a note on a sample",
)
async def remove_note(
    services: Injected,
    caller: InjectedCaller,
    run_id: FromPath[str],
    position: FromPath[str],
    before: NoteTime = None,
) -> None:
    """Delete the key's own label and note on a sample; `before` is as for writing one."""
    run = await services.runs.find(run_id)
    place = place_of(position)
    await delete_note(services.store, run.id, place, key_id=caller.key_id, before=before)
