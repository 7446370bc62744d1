"""The page that makes a dataset of recorded requests.

Its script sends the form to `POST /datasets/from-traffic` and shows how far it is; without the
script, the answer comes when the dataset is there.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from litestar import Request, Response
from litestar.params import FromQuery

from providers.errors import EvalrouterError, RequestError
from router.api.access import Caller, InjectedCaller
from router.api.datasets import may_unmask, traffic_plan
from router.api.datasets_page import version_path
from router.api.injection import Injected
from router.api.page_layout import action, done, page, rendered
from router.api.sign_in import read_fields
from router.config.documents import Document, convert
from router.loop.traffic_dataset import MAX_ROWS, STRATA, TrafficSelection

_EMPTY = {
    "name": "",
    "route": "",
    "since": "",
    "until": "",
    "where": "",
    "sample": "",
    "stratify": "",
    "dedupe": "",
    "mask": "",
    "review": "",
}


@page("/from-traffic")
async def traffic_form(
    *,
    services: Injected,
    caller: InjectedCaller,
    name: FromQuery[str] = "",
    route: FromQuery[str] = "",
    since: FromQuery[str] = "",
    until: FromQuery[str] = "",
    where: FromQuery[str] = "",
) -> Response[str]:
    """Show the form; the query fills in what another page knows."""
    given = {"name": name, "route": route, "since": since, "until": until, "where": where}
    return await _page(services.routes.table.names, caller, _EMPTY | {"mask": "1"} | given)


async def _page(
    routes: Any, caller: Caller, typed: Mapping[str, str], error: EvalrouterError | None = None
) -> Response[str]:
    return await rendered(
        "from_traffic.html",
        caller,
        title="A dataset of recorded requests",
        current="/datasets",
        may_make=caller.reach_of("POST /datasets/from-traffic") != "no",
        may_unmask=may_unmask(caller),
        may_review=caller.reach_of("POST /datasets/from-traffic") == "all",
        # Which routes there are is not for clients to know.
        routes=list(routes) if caller.only is None else [],
        strata=STRATA,
        max_rows=MAX_ROWS,
        typed=typed,
        error=error,
    )


@action("/pages/from-traffic")
async def make_dataset(
    services: Injected, caller: InjectedCaller, request: Request[Any, Any, Any]
) -> Response[Any]:
    """Make the dataset, and lead to its page, or to the queue where its rows wait for a review."""
    fields = {**_EMPTY, **await read_fields(request)}
    try:
        plan = traffic_plan(selection_of(fields), caller, now=time.time())
        made = await services.traffic_datasets.create(
            plan, only=caller.only, progress=lambda _: None
        )
    except EvalrouterError as error:
        response = await _page(services.routes.table.names, caller, fields, error)
        response.status_code = error.status
        return response
    return done("/review" if made.dataset is None else version_path(made.dataset))


def selection_of(fields: Mapping[str, str]) -> TrafficSelection:
    """Return what a form selects. Raises RequestError."""
    data: dict[str, Any] = {
        name: value
        for name in ("name", "route", "since", "until")
        if (value := fields[name].strip())
    }
    data |= {"where": fields["where"], "mask": bool(fields["mask"])}
    data |= {name: bool(fields[name]) for name in ("dedupe", "review")}
    if sample := fields["sample"].strip():
        if not sample.isdecimal():
            raise RequestError("sample: not a number of rows", param="sample")
        data["sample"] = int(sample)
    if stratify := fields["stratify"].replace(",", " ").split():
        data["stratify"] = stratify
    return convert(Document(data, "", {}), TrafficSelection, error=RequestError)
