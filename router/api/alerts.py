"""`/alerts`: what is wrong or was, the messages about it, and how to silence it."""

from __future__ import annotations

from typing import Annotated, Any

from litestar import Request, get, post
from litestar.params import FromPath, FromQuery, QueryParameter

from router.api.access import InjectedCaller
from router.api.bodies import body_as
from router.api.injection import Injected
from router.api.paging import PageSize
from router.loop.alert_administration import (
    AlertPage,
    AlertReport,
    AlertTest,
    AlertView,
    Delivery,
    SilenceRequest,
)
from router.store.alerts import AlertState


@get("/alerts", tags=["alerts"], summary="List alerts")
async def list_alerts(
    services: Injected,
    shown: Annotated[AlertState | None, QueryParameter(name="state")] = None,
    limit: PageSize = 50,
    before: FromQuery[str | None] = None,
) -> AlertPage:
    """List alerts, newest first, with what became of the messages about them.

    `state` is `pending`, `firing` or `resolved`; `before` is the id of the previous page's last
    alert. The rules and receivers of the config are there as well.
    """
    return await services.alerts.page(shown, limit=limit, before=before)


@get("/alerts/{alert_id:str}", tags=["alerts"], summary="Show an alert")
async def show_alert(services: Injected, alert_id: FromPath[str]) -> AlertReport:
    """Show an alert with its messages, and the other times when it was there."""
    return await services.alerts.report(alert_id)


@post(
    "/alerts/{alert_id:str}/silence",
    tags=["alerts"],
    summary="Silence an alert",
    status_code=200,
)
async def silence_alert(
    services: Injected,
    caller: InjectedCaller,
    alert_id: FromPath[str],
    request: Request[Any, Any, Any],
) -> AlertView:
    """Silence an alert for some time; `seconds: 0` ends the silence.

    The silence holds for the rule and the labels, so also when the alert comes back.
    """
    requested = await body_as(request, SilenceRequest)
    return await services.alerts.silence(alert_id, requested, author=caller.actor)


@post("/alerts/test", tags=["alerts"], summary="Send a test alert", status_code=200)
async def test_receiver(services: Injected, request: Request[Any, Any, Any]) -> Delivery:
    """Send a receiver a test alert, once, and say what it answered."""
    requested = await body_as(request, AlertTest)
    return await services.alerts.test(requested.receiver)
