"""Shows alerts, silences them, and tests receivers: what people do about alerts."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Annotated

import msgspec

from providers.errors import NotFoundError, RequestError
from providers.names import check_name
from router.config.alerts import Alerts, AlertSubject, ReceiverKind, Severity
from router.loop.alert_messages import body_of_test, url_of
from router.loop.alert_rules import new_id
from router.loop.alert_sender import AlertSender
from router.store.alerts import (
    Alert,
    AlertMessage,
    AlertState,
    MessageEvent,
    MessageState,
    Silence,
)
from router.store.protocol import Store

MAX_HISTORY = 50
MAX_MESSAGES = 200
MAX_SILENCE_S = 366 * 86400.0


class SilenceRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A silence of an alert: for how long no message about it is sent.

    Attributes:
        reason: why; it is shown with the alert.
        seconds: for how long from now on; 0 ends a silence.
        until: or until when, seconds since the epoch.
    """

    reason: Annotated[str, msgspec.Meta(min_length=1, max_length=2000)]
    seconds: Annotated[float, msgspec.Meta(ge=0, le=MAX_SILENCE_S)] | None = None
    until: float | None = None


class AlertTest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who is to get a test alert.

    Attributes:
        receiver: the name of a receiver in the config.
    """

    receiver: str


class Delivery(msgspec.Struct, frozen=True, kw_only=True):
    """A message to a receiver, and what became of it; see AlertMessage."""

    id: str
    receiver: str
    event: MessageEvent
    state: MessageState
    attempts: int
    created_at: float
    next_at: float | None
    ended_at: float | None
    status: int | None
    error: str


class AlertView(msgspec.Struct, frozen=True, kw_only=True):
    """An alert as people see it.

    Attributes:
        id, rule, subject, labels, severity, state, summary, link, value, threshold, since, held_s,
            fired_at, resolved_at, unknown_since, note: as in Alert.
        url: the address of `link`; "" where the server has no public address.
        silenced_until: when its silence ends; None without one.
        silence: why it is silenced; "" where it is not.
        silenced_by: who silenced it.
        deliveries: the messages about it, newest first.
    """

    id: str
    rule: str
    subject: AlertSubject
    labels: dict[str, str]
    severity: Severity
    state: AlertState
    summary: str
    link: str
    url: str
    value: float | None
    threshold: float | None
    since: float
    held_s: float
    fired_at: float | None
    resolved_at: float | None
    unknown_since: float | None
    note: str
    silenced_until: float | None
    silence: str
    silenced_by: str
    deliveries: list[Delivery]


class AlertReport(msgspec.Struct, frozen=True, kw_only=True):
    """An alert, and the other times when it was there with the same labels, newest first."""

    alert: AlertView
    history: list[AlertView]


class RuleView(msgspec.Struct, frozen=True, kw_only=True):
    """A rule of the config.

    Attributes:
        name, subject, severity: as in the config.
        threshold: what values are compared with; None where there is none.
        window_seconds, for_seconds: as in the config; None without a window.
        receivers: who is told.
        problem: why it cannot work as it is meant; "" where nothing is known to be wrong.
    """

    name: str
    subject: AlertSubject
    severity: Severity | None
    threshold: float | None
    window_seconds: float | None
    for_seconds: float
    receivers: tuple[str, ...]
    problem: str


class ReceiverView(msgspec.Struct, frozen=True, kw_only=True):
    """A receiver, without its address, which may let anybody in.

    Attributes:
        name, kind: as in the config.
        signed: whether messages to it are signed.
        waiting: how many messages wait for it.
    """

    name: str
    kind: ReceiverKind
    signed: bool
    waiting: int


class AlertPage(msgspec.Struct, frozen=True, kw_only=True):
    """Alerts, newest first, with the rules and receivers of the config."""

    data: list[AlertView]
    rules: list[RuleView]
    receivers: list[ReceiverView]
    object: str = "list"


class AlertAdministration:
    """Shows alerts and silences them.

    Args:
        config: the rules and receivers.
        store: has the alerts.
        sender: sends tests.
        public_url: where people reach the server; "" for no links.
        clock: tells the seconds since the epoch.
    """

    def __init__(
        self,
        config: Alerts,
        store: Store,
        sender: AlertSender,
        *,
        public_url: str,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._config = config
        self._store = store
        self._sender = sender
        self._public_url = public_url
        self._clock = clock

    async def page(
        self, state: AlertState | None = None, *, limit: int = 50, before: str | None = None
    ) -> AlertPage:
        """Return alerts, newest first, of one state or of all, with rules and receivers."""
        states = () if state is None else (state,)
        alerts = await self._store.alerts(states=states, limit=limit, before=before)
        waiting = await self._store.waiting_receivers()
        return AlertPage(
            data=await self._views(alerts),
            rules=await self._rules(),
            receivers=[
                ReceiverView(
                    name=name,
                    kind=receiver.kind,
                    signed=bool(receiver.secret),
                    waiting=waiting.get(name, 0),
                )
                for name, receiver in self._config.receivers.items()
            ],
        )

    async def report(self, alert_id: str) -> AlertReport:
        """Return an alert with the others of the same rule and labels, before it and later.

        Raises:
            NotFoundError: no such alert.
        """
        alert = await self._find(alert_id)
        earlier = await self._store.earlier_alerts(alert.fingerprint, MAX_HISTORY)
        [view] = await self._views([alert])
        return AlertReport(
            alert=view,
            history=await self._views([other for other in earlier if other.id != alert.id]),
        )

    async def silence(self, alert_id: str, requested: SilenceRequest, *, author: str) -> AlertView:
        """Tell nobody of an alert for some time, nor of those that follow it.

        Raises:
            NotFoundError: no such alert.
            RequestError: the end is missing, or too far away.
        """
        now = self._clock()
        if (requested.seconds is None) == (requested.until is None):
            raise RequestError("Give either seconds or until.", param="seconds")
        until = now + requested.seconds if requested.seconds is not None else requested.until
        if until is None or not 0 <= until <= now + MAX_SILENCE_S:
            raise RequestError("A silence may last a year.", param="until")
        alert = await self._find(alert_id)
        await self._store.silence(
            Silence(
                fingerprint=alert.fingerprint,
                until=until,
                reason=requested.reason,
                author=author,
                created_at=now,
            )
        )
        [view] = await self._views([alert])
        return view

    async def test(self, receiver_name: str) -> Delivery:
        """Send a receiver a test alert, once, and return what became of it.

        Raises:
            NotFoundError: no such receiver.
            RequestError: none can have that name.
        """
        check_name(receiver_name, "receiver")
        receiver = self._sender.receiver(receiver_name)
        now = self._clock()
        message = AlertMessage(
            id=new_id("msg"),
            receiver=receiver_name,
            event="test",
            alerts=(),
            body=body_of_test(receiver.kind, receiver_name, self._public_url, now),
            created_at=now,
            next_at=now,
            # It is not sent again: who tests wants to know now.
            expires_at=now,
        )
        after = await self._sender.attempt(message)
        await self._store.keep_message(after)
        return _delivery(after)

    async def _find(self, alert_id: str) -> Alert:
        alert = await self._store.alert(alert_id)
        if alert is None:
            raise NotFoundError(f"There is no alert {alert_id!r}.")
        return alert

    async def _views(self, alerts: list[Alert]) -> list[AlertView]:
        if not alerts:
            return []
        silences = {each.fingerprint: each for each in await self._store.silences(self._clock())}
        deliveries: dict[str, list[Delivery]] = {}
        ids = [alert.id for alert in alerts]
        for message in await self._store.messages_about(ids, MAX_MESSAGES):
            for alert_id in message.alerts:
                deliveries.setdefault(alert_id, []).append(_delivery(message))
        return [
            _view(
                alert,
                self._public_url,
                silences.get(alert.fingerprint),
                deliveries.get(alert.id, []),
            )
            for alert in alerts
        ]

    async def _rules(self) -> list[RuleView]:
        rows = (await self._store.keys()).by_hash.values()
        keys = {row.name for row in rows if row.revoked_at is None}
        views = []
        for name, rule in self._config.rules.items():
            unknown = [key for key in rule.keys if key not in keys]
            views.append(
                RuleView(
                    name=name,
                    subject=rule.subject,
                    severity=rule.severity,
                    threshold=rule.threshold() or None,
                    window_seconds=rule.window() or None,
                    for_seconds=rule.for_seconds,
                    receivers=self._config.receivers_of(rule),
                    problem=f"no key is named {', '.join(unknown)}" if unknown else "",
                )
            )
        return views


def _view(
    alert: Alert, public_url: str, silence: Silence | None, deliveries: list[Delivery]
) -> AlertView:
    fields = {
        name: getattr(alert, name)
        for name in AlertView.__struct_fields__
        if name in Alert.__struct_fields__
    }
    return AlertView(
        **fields,
        url=url_of(public_url, alert.link),
        silenced_until=None if silence is None else silence.until,
        silence="" if silence is None else silence.reason,
        silenced_by="" if silence is None else silence.author,
        deliveries=deliveries,
    )


def _delivery(message: AlertMessage) -> Delivery:
    return Delivery(
        id=message.id,
        receiver=message.receiver,
        event=message.event,
        state=message.state,
        attempts=message.attempts,
        created_at=message.created_at,
        next_at=message.next_at if message.state == "waiting" else None,
        ended_at=message.ended_at,
        status=message.status,
        error=message.error,
    )
