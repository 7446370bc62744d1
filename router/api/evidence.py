"""`/evidence`: files from which others recompute the numbers of a run or a rollout."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from litestar import Request, delete, get, post
from litestar.params import FromPath, FromQuery
from litestar.response import Stream

from router.api.access import InjectedCaller
from router.api.bodies import body_as
from router.api.file_responses import file_response
from router.api.injection import Injected
from router.api.paging import PageSize
from router.loop.bundles.exported import EvidenceRequest
from router.store.evidence import EvidenceBundle


class EvidenceList(msgspec.Struct):
    """Bundles of evidence, newest first."""

    data: Sequence[EvidenceBundle]
    object: str = "list"


@get("/evidence", tags=["evidence"], summary="List bundles of evidence")
async def list_evidence(
    services: Injected,
    caller: InjectedCaller,
    subject: FromQuery[str | None] = None,
    before: FromQuery[str | None] = None,
    limit: PageSize = 50,
) -> EvidenceList:
    """List bundles, newest first, of the run or rollout `subject`, or of all.

    The next page begins behind the id that is `before`. A client's key sees those of its own runs.
    """
    return EvidenceList(
        await services.evidence.list(
            subject=subject, key_id=caller.only, before=before, limit=limit
        )
    )


@post("/evidence", tags=["evidence"], summary="Write a bundle of evidence")
async def create_evidence(
    services: Injected, caller: InjectedCaller, request: Request[Any, Any, Any]
) -> EvidenceBundle:
    """Write all that the numbers of a run or a rollout were made of into a file.

    It is signed with the config's `evidence.key`. One bundle is written at a time: another
    request meanwhile is a 429.
    """
    requested = await body_as(request, EvidenceRequest)
    return await services.evidence.create(requested, actor=caller.actor)


@get("/evidence/{bundle_id:str}", tags=["evidence"], summary="Download a bundle of evidence")
async def download_evidence(
    services: Injected, caller: InjectedCaller, bundle_id: FromPath[str]
) -> Stream:
    """Send the zip file, which `evalrouter verify` reads on any machine."""
    bundle = await services.evidence.find(bundle_id, key_id=caller.only)
    return await file_response(
        services.evidence.content(bundle),
        f"{bundle.subject}.evidence.zip",
        {"content-length": str(bundle.size), "x-content-type-options": "nosniff"},
    )


@delete("/evidence/{bundle_id:str}", tags=["evidence"], summary="Delete a bundle of evidence")
async def delete_evidence(services: Injected, bundle_id: FromPath[str]) -> None:
    """Delete the file from the artifact store; copies of it stay where they are."""
    await services.evidence.delete(bundle_id)
