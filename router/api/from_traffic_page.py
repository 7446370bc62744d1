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
from router.api.form_numbers import whole_number
from router.api.injection import Injected
from router.api.page_layout import action, done_or_shown, form_again, page, rendered
from router.api.sign_in import read_fields
from router.config.documents import convert_data
from router.loop.conditions import FIELDS, feedback_field
from router.loop.traffic_dataset import MAX_ROWS, STRATA, Funnel, TrafficSelection
from router.services import Services
from router.store.feedback import FeedbackFilter, FeedbackRow

# Of the newest feedback, whose names are offered in conditions.
_FEEDBACK_READ = 200
_EXAMPLES = ("feedback.thumb == false", "turns > 2", "length > 2000", "prompt contains 'refund'")
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
    return await _page(services, caller, _EMPTY | {"mask": "1"} | given)


async def _page(
    services: Services,
    caller: Caller,
    typed: Mapping[str, str],
    *,
    error: EvalrouterError | None = None,
    counted: Funnel | None = None,
) -> Response[str]:
    feedback = await services.store.feedback(
        FeedbackFilter(key_id=caller.only), limit=_FEEDBACK_READ
    )
    of_feedback = list({row.name: _condition(row) for row in reversed(feedback)}.values())
    return await rendered(
        "from_traffic.html",
        caller,
        title="A dataset of recorded requests",
        current="/datasets",
        may_make=caller.reach_of("POST /datasets/from-traffic") != "no",
        may_unmask=may_unmask(caller),
        may_review=caller.reach_of("POST /datasets/from-traffic") == "all",
        # Which routes there are is not for clients to know.
        routes=list(services.routes.table.names) if caller.only is None else [],
        conditions=list(dict.fromkeys((*of_feedback, *_EXAMPLES))),
        of_feedback=of_feedback,
        fields=FIELDS,
        strata=STRATA,
        max_rows=MAX_ROWS,
        typed=typed,
        error=error,
        counted=counted,
    )


def _condition(row: FeedbackRow) -> str:
    """Return a condition that feedback like this one meets; thumbs down where it is a thumb."""
    name = feedback_field(row.name)
    if row.kind == "bool":
        return f"{name} == false"
    return f"{name} <= {row.value!r}" if row.kind == "number" else f"has {name}"


@action("/pages/from-traffic")
async def make_dataset(
    services: Injected, caller: InjectedCaller, request: Request[Any, Any, Any]
) -> Response[Any]:
    """Make the dataset, and lead to its page, or to the queue where its rows wait for a review.

    With a field `count`, say how many requests can be rows, and make nothing.
    """
    fields = {**_EMPTY, "count": "", **await read_fields(request)}

    async def change() -> str | Response[str]:
        if fields["count"]:
            # They can be counted before the dataset has a name.
            selected = selection_of({**fields, "name": fields["name"].strip() or "requests"})
            plan = traffic_plan(selected, caller, now=time.time())
            counted = await services.traffic_datasets.count(plan, only=caller.only)
            return form_again(await _page(services, caller, fields, counted=counted))
        plan = traffic_plan(selection_of(fields), caller, now=time.time())
        made = await services.traffic_datasets.create(
            plan, only=caller.only, progress=lambda _: None
        )
        return "/review" if made.dataset is None else version_path(made.dataset)

    async def shown(error: EvalrouterError) -> Response[str]:
        return await _page(services, caller, fields, error=error)

    return await done_or_shown(change(), shown)


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
        data["sample"] = whole_number(sample, "sample")
    if stratify := fields["stratify"].replace(",", " ").split():
        data["stratify"] = stratify
    return convert_data(data, TrafficSelection, error=RequestError)
