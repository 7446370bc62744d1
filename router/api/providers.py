"""`GET /providers` and `GET /providers/{name}/conformance`."""

from __future__ import annotations

import asyncio

import msgspec
from litestar import get
from litestar.di import NamedDependency
from litestar.params import FromPath, FromQuery

from providers.conformance import Report
from router.api.injected import Injected
from router.examine import examine_provider


class ProviderRow(msgspec.Struct):
    """One configured provider."""

    name: str
    kind: str


class Examined:
    """The last report about each provider and model, and one examination at a time."""

    def __init__(self) -> None:
        self.reports: dict[tuple[str, str], Report] = {}
        self.lock = asyncio.Lock()


ExaminedHere = NamedDependency[Examined]


@get("/providers", tags=["providers"], summary="List the providers")
async def list_providers(services: Injected) -> list[ProviderRow]:
    """Every provider of the config."""
    return [ProviderRow(name, one.kind) for name, one in services.config.providers.items()]


@get("/providers/{name:str}/conformance", tags=["providers"], summary="How well a provider does")
async def conformance(
    services: Injected,
    examined: ExaminedHere,
    name: FromPath[str],
    model: FromQuery[str] = "",
    again: FromQuery[bool] = False,
) -> Report:
    """The conformance suite's report. Asked once per provider and model; `again=true` asks anew.

    Takes some seconds, and with a paid host some cents at most.
    """
    async with examined.lock:
        if again or (name, model) not in examined.reports:
            examined.reports[name, model] = await examine_provider(services, name, model=model)
        return examined.reports[name, model]
