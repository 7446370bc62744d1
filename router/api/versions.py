"""`/models/versions` and `/models/retirements`: what targets claim to be, and until when."""

from __future__ import annotations

from itertools import groupby
from operator import attrgetter

import msgspec
from litestar import get
from litestar.params import FromQuery

from providers.errors import RequestError
from router.api.injection import Injected
from router.loop.retirements import RetiringModel
from router.store.watches import ModelVersion


class SeenVersion(msgspec.Struct, frozen=True, kw_only=True):
    """A version that a target claimed.

    Attributes:
        model: the model that the host named; "" where it named none, `(others)` for further ones of
            a host that has named 200.
        system_fingerprint: likewise.
        first_at, last_at: when it was first and last seen, seconds since the epoch.
        requests: how many answers had it.
        share: of all answers of the target.
    """

    model: str
    system_fingerprint: str
    first_at: float
    last_at: float
    requests: int
    share: float


class TargetVersions(msgspec.Struct, frozen=True, kw_only=True):
    """What a target claimed to be.

    Attributes:
        target: `provider/model`.
        requests: its answers, live ones and those of evaluations.
        versions: the last seen first.
    """

    target: str
    requests: int
    versions: list[SeenVersion]


class VersionList(msgspec.Struct):
    """The targets that have answered."""

    data: list[TargetVersions]
    object: str = "list"


@get("/models/versions", tags=["models"], summary="List what targets claim to be")
async def list_versions(services: Injected, target: FromQuery[str | None] = None) -> VersionList:
    """List the models and fingerprints that hosts named in their answers, of one target or all."""
    return VersionList(versions_of(await services.store.model_versions(target)))


class RetirementList(msgspec.Struct):
    """Models of routes and watches that will be shut down, the next one first.

    Attributes:
        data: the models.
        unreachable: providers whose list of models could not be read, with the reason.
    """

    data: list[RetiringModel]
    unreachable: dict[str, str]
    object: str = "list"


@get("/models/retirements", tags=["models"], summary="List models that will be shut down")
async def list_retirements(
    services: Injected,
    target: FromQuery[str | None] = None,
    candidate: FromQuery[str | None] = None,
) -> RetirementList:
    """List models of routes and watches that will be shut down, with proposed migrations.

    A migration has a command that makes a dataset of own requests, a run document with a gate, and
    a rollout; nothing of it is done. `target` and `candidate` propose one to another model.
    """
    if candidate is not None and target is None:
        raise RequestError("candidate: name the target that it is to replace", param="candidate")
    unreachable = await services.retirements.unreachable()
    return RetirementList(await services.retirements.selected(target, candidate), unreachable)


def versions_of(rows: list[ModelVersion]) -> list[TargetVersions]:
    """Return versions, which are sorted by their target, with their shares."""
    targets = []
    for target, group in groupby(rows, attrgetter("target")):
        versions = list(group)
        total = sum(version.requests for version in versions)
        targets.append(
            TargetVersions(
                target=target,
                requests=total,
                versions=[
                    SeenVersion(
                        model=version.model,
                        system_fingerprint=version.system_fingerprint,
                        first_at=version.first_at,
                        last_at=version.last_at,
                        requests=version.requests,
                        share=version.requests / total,
                    )
                    for version in versions
                ],
            )
        )
    return targets
