"""`/eval/metrics`, `/plugins`: what run documents and configs may name, and where it comes from."""

from __future__ import annotations

import asyncio

import msgspec
from litestar import get

from router.evals.plugins import InstalledPlugin, MetricEntry, installed, metrics


class MetricList(msgspec.Struct):
    """The metrics that have a name."""

    data: list[MetricEntry]
    object: str = "list"


class PluginList(msgspec.Struct):
    """What installed packages add, and what of it cannot be used."""

    data: list[InstalledPlugin]
    object: str = "list"


@get("/eval/metrics", tags=["eval"], summary="List metrics")
async def list_metrics() -> MetricList:
    """List the metrics that run documents may name, with their options and scores."""
    return MetricList(await asyncio.to_thread(lambda: list(metrics())))


@get("/plugins", tags=["plugins"], summary="List plugins")
async def list_plugins() -> PluginList:
    """List what installed packages add to evalrouter, and why something cannot be used."""
    return PluginList(await asyncio.to_thread(lambda: list(installed())))
