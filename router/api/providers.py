"""`/providers`: list the providers, and examine how well one speaks OpenAI's API."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
from litestar import Request, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, FromQuery

from providers.conformance.suite import ConformanceReport
from providers.errors import NotFoundError
from router.api.bodies import check_no_options
from router.api.injection import Injected
from router.gateway.conformance import examine_provider
from router.services import Services

# The number of reports that are remembered; clients name models as they like.
MAX_REPORTS = 100


class ProviderRow(msgspec.Struct):
    """One configured provider."""

    name: str
    kind: str


class Examinations:
    """Has the last report about each provider and model, and lets one examination run at a time."""

    def __init__(self) -> None:
        self.reports: dict[tuple[str, str], ConformanceReport] = {}
        self.lock = asyncio.Lock()


InjectedExaminations = NamedDependency[Examinations]


@get("/providers", tags=["providers"], summary="List the providers")
async def list_providers(services: Injected) -> list[ProviderRow]:
    """List every provider of the config."""
    return [
        ProviderRow(name, provider.kind) for name, provider in services.config.providers.items()
    ]


@get("/providers/{name:str}/conformance", tags=["providers"], summary="The last conformance report")
async def conformance(
    examinations: InjectedExaminations, name: FromPath[str], model: FromQuery[str] = ""
) -> ConformanceReport:
    """Show the report of the last examination since the server started; 404 before the first."""
    report = examinations.reports.get((name, model))
    if report is None:
        raise NotFoundError(
            f"{name} was not examined yet. POST /providers/{name}/conformance does it, which takes "
            "some seconds, and with a paid host some cents at most."
        )
    return report


@post(
    "/providers/{name:str}/conformance",
    status_code=200,
    tags=["providers"],
    summary="Examine how well a provider speaks OpenAI's API",
)
async def examine(
    services: Injected,
    examinations: InjectedExaminations,
    request: Request[Any, Any, Any],
    name: FromPath[str],
    model: FromQuery[str] = "",
) -> ConformanceReport:
    """Run the conformance suite. It takes some seconds, and with a paid host some cents at most.

    The body may be empty, or `{}`.
    """
    await check_no_options(request)
    return await examined(services, examinations, name, model)


async def examined(
    services: Services, examinations: Examinations, name: str, model: str
) -> ConformanceReport:
    """Examine a provider once no other is examined, and remember the report.

    Raises:
        NotFoundError: the config has no provider of that name.
        ConfigError: the provider lists no models, so one has to be named.
    """
    async with examinations.lock:
        report = await examine_provider(
            name,
            providers=services.providers,
            configs=services.config.providers,
            transport=services.transport,
            masks=services.masks,
            model=model,
        )
        if len(examinations.reports) >= MAX_REPORTS:
            del examinations.reports[next(iter(examinations.reports))]
        examinations.reports[name, model] = report
        return report
