"""The pages of alerts: what is wrong or was, what to do about it, and silences."""

from __future__ import annotations

from collections.abc import Mapping
from operator import attrgetter
from typing import Any, Literal

from litestar import Request, Response
from litestar.params import FromPath, FromQuery

from providers.errors import EvalrouterError, RequestError
from router.api.access import Caller, InjectedCaller
from router.api.injection import Injected
from router.api.page_layout import action, done_or_shown, page, utc
from router.api.page_tables import Export, TableColumn, TableView
from router.api.route_sections import section_page, section_table
from router.api.sign_in import read_fields
from router.config.alerts import AlertSubject
from router.config.documents import convert_data
from router.loop.alert_administration import AlertView, SilenceRequest
from router.services import Services
from router.store.alerts import AlertState

MAX_LISTED = 1000
HOUR_S = 3600.0

WHAT_TO_DO: Mapping[AlertSubject, str] = {
    "errors": "Look at the failed requests, and at the breakers on the page of the route; give a "
    "target that fails weight 0, or the route a fallback.",
    "first_byte": "Look at which target is slow, and at its queue; give it less weight, or let the "
    "route hedge.",
    "duration": "Look at which target is slow, and how long its answers are; give it less weight.",
    "spend": "Look at which route and key spend it; give a key a budget, or a cheaper target more "
    "weight.",
    "budget": "Requests of the key are refused once its budget is used up: raise it, or tell whose "
    "key it is.",
    "burn": "The budget will be used up early: look at what the key requests, and raise the budget "
    "or limit the key.",
    "breaker": "The target fails in a row and gets no requests; others of its routes answer. Look "
    "at its last errors, and at its host.",
    "rollout": "Look at what the tests say. One that is paused waits for you: resume it, promote "
    "it or roll back.",
    "shadow": "Nothing is sent to the candidates: the page of the shadow says what blocks it.",
    "drift": "Compare the newest probes with the reference. If the change is wanted, pin a new "
    "reference; if not, name a fixed version of the model.",
    "retirement": "Choose what replaces the model, and start a rollout of that before the day.",
    "schedule": "Look at the run and its gates; accept it if what changed is wanted.",
}

_COLUMNS = (
    TableColumn("summary", "Alert", sorts=True),
    TableColumn("state", "State", sorts=True),
    TableColumn("severity", "Severity", sorts=True),
    TableColumn("rule", "Rule", sorts=True),
    TableColumn("since", "Since (UTC)", sorts=True),
    TableColumn("resolved", "Over (UTC)", sorts=True, value=attrgetter("resolved_at")),
    TableColumn("silenced", "Silenced until (UTC)", sorts=True, value=attrgetter("silenced_until")),
)


@page("/pages/alerts")
async def alert_list(
    *,
    services: Injected,
    caller: InjectedCaller,
    state_is: FromQuery[Literal["", AlertState]] = "",
    sort: FromQuery[str] = "-since",
    after: FromQuery[str] = "",
    export: FromQuery[Export] = "",
) -> Response[Any]:
    """Show the newest alerts, with the rules and receivers of the config."""
    listed = await services.alerts.page(state_is or None, limit=MAX_LISTED)
    view = TableView(
        "/alerts", _COLUMNS, sort=sort, filters={"state_is": state_is}, after=after, export=export
    )
    return await section_table(
        "alerts",
        caller,
        view,
        map(_cells, view.page_of(listed.data, lambda alert: alert.id)),
        state_is=state_is,
        rules=listed.rules,
        receivers=listed.receivers,
    )


def _cells(alert: AlertView) -> dict[str, Any]:
    return {
        "id": alert.id,
        "summary": alert.summary,
        "state": alert.state,
        "severity": alert.severity,
        "rule": alert.rule,
        "since": utc(alert.since),
        "resolved": utc(alert.resolved_at),
        "silenced": utc(alert.silenced_until),
    }


@page("/pages/alerts/{alert_id:str}")
async def alert_page(
    services: Injected, caller: InjectedCaller, alert_id: FromPath[str]
) -> Response[str]:
    """Show one alert, what to do, the messages about it, and when it was there before."""
    return await _page(services, caller, alert_id)


@action("/pages/alerts/{alert_id:str}")
async def silence_alert(
    services: Injected,
    caller: InjectedCaller,
    alert_id: FromPath[str],
    request: Request[Any, Any, Any],
) -> Any:
    """Silence an alert for some hours, or end its silence."""
    fields = await read_fields(request)
    reason, hours = fields.get("reason", ""), fields.get("hours", "")

    async def change() -> str:
        if not reason.strip():
            raise RequestError("Say why, for whoever looks at the alert next.", param="reason")
        seconds = 0.0
        if fields.get("do") == "silence":
            try:
                seconds = HOUR_S * float(hours)
            except ValueError:
                raise RequestError(f"Hours: {hours!r} is no number.", param="hours") from None
            if not seconds > 0:
                raise RequestError("Hours: a number above 0.", param="hours")
        typed = convert_data(
            {"reason": reason, "seconds": seconds},
            SilenceRequest,
            error=RequestError,
        )
        await services.alerts.silence(alert_id, typed, author=caller.actor)
        return f"/alerts/{alert_id}"

    async def shown(error: EvalrouterError) -> Response[str]:
        return await _page(
            services, caller, alert_id, error=error.message, reason=reason, hours=hours
        )

    return await done_or_shown(change(), shown)


async def _page(
    services: Services,
    caller: Caller,
    alert_id: str,
    *,
    error: str = "",
    reason: str = "",
    hours: str = "4",
) -> Response[str]:
    report = await services.alerts.report(alert_id)
    return await section_page(
        "alert.html",
        caller,
        title="Alert",
        alert=report.alert,
        history=report.history,
        what_to_do=WHAT_TO_DO.get(report.alert.subject, ""),
        may_silence=caller.reach_of("POST /alerts/{alert_id}/silence") == "all",
        error=error,
        reason=reason,
        hours=hours,
    )
