"""Tools that list what a server has: routes, models, metrics, datasets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import msgspec

from router.client.types import RouteView, TargetRow
from router.mcp.answers import (
    DatasetRowsReply,
    DatasetsReply,
    MetricLine,
    MetricsReply,
    ModelsReply,
    RouteLine,
    RoutesReply,
    RowLine,
    TargetLine,
    VersionLine,
)
from router.mcp.fencing import cut
from router.mcp.tool import (
    NOTE,
    SHORT_TEXT,
    Arguments,
    MaxChars,
    Tool,
    ToolCall,
    counted,
    fitting,
    moment,
    rest,
)

# Fields of a row and their names together are cut to this.
_MAX_ROW = 8_000


class ListRoutes(Arguments, frozen=True, kw_only=True):
    """Which routes."""

    contains: Annotated[str, msgspec.Meta(description="Only routes with this in the name.")] = ""
    after: Annotated[str, msgspec.Meta(description="The `next` of the page before.")] = ""
    limit: Annotated[int, msgspec.Meta(ge=1, le=100)] = 25


async def list_routes(call: ToolCall, arguments: ListRoutes) -> RoutesReply:
    """Return routes with their targets' health and prices."""
    targets = {row["target"]: row for row in await call.client.routes.targets()}
    views = sorted(await call.client.routes.list(), key=lambda view: view["name"])
    matching = [
        view
        for view in views
        if arguments.contains.lower() in view["name"].lower() and view["name"] > arguments.after
    ]
    page = list(fitting(_route(view, targets) for view in matching[: arguments.limit]))
    more = page[-1].name if len(page) < len(matching) else None
    return RoutesReply(
        summary=f"{counted(len(page), 'route')} of {len(matching)}{rest(more, 'after')}",
        routes=page,
        next=more,
    )


def _route(view: RouteView, states: Mapping[str, TargetRow]) -> RouteLine:
    route: Mapping[str, Any] = view["route"] or {}
    targets = [_target(each["model"], each["weight"], states) for each in route.get("targets", ())]
    targets += [_target(name, None, states) for name in route.get("fallback", ())]
    return RouteLine(
        name=view["name"],
        strategy=route.get("strategy", ""),
        record=route.get("record") or "the server's default",
        targets=targets,
        error=view["override_error"],
    )


def _target(name: str, weight: float | None, states: Mapping[str, TargetRow]) -> TargetLine:
    state = states.get(name)
    price = None if state is None else state["price"]
    free = 0.0 if state is not None and state["is_free"] else None
    return TargetLine(
        target=name,
        weight=weight,
        breaker=None if state is None else state["breaker"],
        first_byte_s=None if state is None else state["first_byte_s"],
        input_usd=free if price is None else price["input"],
        output_usd=free if price is None else price["output"],
    )


class ListModels(Arguments, frozen=True, kw_only=True):
    """Which models."""

    contains: Annotated[str, msgspec.Meta(description="Only names with this in them.")] = ""
    after: Annotated[str, msgspec.Meta(description="The `next` of the page before.")] = ""
    limit: Annotated[int, msgspec.Meta(ge=1, le=500)] = 100


async def list_models(call: ToolCall, arguments: ListModels) -> ModelsReply:
    """Return the names that `model` may have."""
    names = sorted({row["id"] for row in await call.client.models.list()})
    matching = [
        name
        for name in names
        if arguments.contains.lower() in name.lower() and name > arguments.after
    ]
    page = matching[: arguments.limit]
    more = page[-1] if len(page) < len(matching) else None
    return ModelsReply(
        summary=f"{counted(len(page), 'model')} of {len(matching)}{rest(more, 'after')}",
        # Hosts say what their models are called.
        models=[call.fence.name(name) for name in page],
        next=more,
    )


class ListMetrics(Arguments, frozen=True, kw_only=True):
    """Which metrics."""

    contains: Annotated[
        str, msgspec.Meta(description="Only those with this in the name or the description.")
    ] = ""


async def list_metrics(call: ToolCall, arguments: ListMetrics) -> MetricsReply:
    """Return the metrics that a run document may name."""
    part = arguments.contains.lower()
    matching = [
        MetricLine(
            name=row["name"],
            description=row["description"],
            options=row["options"],
            required=row["required"],
            outputs=row["outputs"],
            error=row["error"],
        )
        for row in await call.client.metrics()
        if part in f"{row['name']} {row['description']}".lower()
    ]
    metrics = list(fitting(matching))
    return MetricsReply(
        summary=f"{counted(len(metrics), 'metric')} of {len(matching)}; `contains` selects.",
        metrics=metrics,
    )


class ListDatasets(Arguments, frozen=True, kw_only=True):
    """Which datasets."""

    name: Annotated[str | None, msgspec.Meta(description="Only the versions of this dataset.")] = (
        None
    )
    after: Annotated[int, msgspec.Meta(ge=0, description="The `next` of the page before.")] = 0
    limit: Annotated[int, msgspec.Meta(ge=1, le=100)] = 25


async def list_datasets(call: ToolCall, arguments: ListDatasets) -> DatasetsReply:
    """Return versions of datasets."""
    rows = await call.client.datasets.list(arguments.name)
    shown = rows[arguments.after : arguments.after + arguments.limit]
    page = list(fitting(version(call, row) for row in shown))
    end = arguments.after + len(page)
    more = end if end < len(rows) else None
    return DatasetsReply(
        summary=f"{counted(len(page), 'version')} of {len(rows)}{rest(more, 'after')}",
        datasets=page,
        next=more,
    )


def version(call: ToolCall, row: Mapping[str, Any]) -> VersionLine:
    """Return a version of a dataset as it is shown."""
    return VersionLine(
        name=f"{row['name']}@{row['hash'][:12]}",
        rows=row["rows"],
        columns=call.fence.value(row["columns"], NOTE),
        created=moment(row["created_at"]),
    )


class ReadDataset(Arguments, frozen=True, kw_only=True):
    """Which rows."""

    name: Annotated[str, msgspec.Meta(description="`name`, or `name@hash`, of `list_datasets`.")]
    after: Annotated[int, msgspec.Meta(ge=0, description="The `next` of the page before.")] = 0
    limit: Annotated[int, msgspec.Meta(ge=1, le=100)] = 10
    max_chars: MaxChars = SHORT_TEXT


async def read_dataset(call: ToolCall, arguments: ReadDataset) -> DatasetRowsReply:
    """Return rows of a dataset."""
    rows: list[RowLine] = []
    more = None
    lines = call.client.datasets.rows(
        arguments.name, after=arguments.after, page=arguments.limit + 1
    )
    async for line in lines:
        if len(rows) == arguments.limit:
            more = rows[-1].number
            break
        fields = {
            name: cut(value, arguments.max_chars) if isinstance(value, str) else value
            for name, value in line["fields"].items()
        }
        rows.append(RowLine(number=line["number"], fields=call.fence.value(fields, _MAX_ROW)))
    page = list(fitting(rows))
    if len(page) < len(rows):
        more = page[-1].number
    return DatasetRowsReply(
        summary=f"{counted(len(page), 'row')}{rest(more, 'after')}",
        dataset=arguments.name,
        rows=page,
        next=more,
    )


TOOLS = (
    Tool(
        "list_routes",
        "List routes",
        "List the server's routes, which are names that `model` may have, with the targets that "
        "answer them, each target's breaker (requests go to an `open` one no more), seconds to the "
        "first byte, and price in US dollars per million tokens.",
        ("GET /routes", "GET /targets"),
        ListRoutes,
        RoutesReply,
        list_routes,
    ),
    Tool(
        "list_models",
        "List models",
        "List the names that `model` may have in requests with this key: routes, and "
        "`provider/model`. Run documents name them in `routes`.",
        ("GET /v1/models",),
        ListModels,
        ModelsReply,
        list_models,
    ),
    Tool(
        "list_metrics",
        "List metrics",
        "List the metrics that a run document may name, with their options and outputs.",
        ("GET /eval/metrics",),
        ListMetrics,
        MetricsReply,
        list_metrics,
    ),
    Tool(
        "list_datasets",
        "List datasets",
        "List the versions of the datasets that the server stores, newest first. A run document "
        "names one as `dataset: name` (the newest version) or `dataset: name@hash`.",
        ("GET /datasets",),
        ListDatasets,
        DatasetsReply,
        list_datasets,
    ),
    Tool(
        "read_dataset",
        "Read a dataset",
        "Read rows of a dataset, page by page.",
        ("GET /datasets/{name}/rows",),
        ReadDataset,
        DatasetRowsReply,
        read_dataset,
    ),
)
