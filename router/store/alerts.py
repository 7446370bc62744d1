"""Alerts, the messages about them, silences, and the counts that rules are measured by.

Every process adds what it counts for each rule to `alert_counts`, in slices of the rule's window, a
few rows every few seconds. So nothing ever reads the requests themselves, and a rule sees those of
all processes. Slices are stamped with the store's clock.

One process at a time, the one with the lease, compares what holds with the alerts here, and writes
in one transaction what became of them and which messages are to be sent about it. A message is sent
again until it arrives, under the same id, wherever that process is killed.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Literal, Protocol

import msgspec

from router.config.alerts import Severity
from router.store.leases import LeaseStore

AlertState = Literal["pending", "firing", "resolved"]
# The longest window of a rule, and a day.
MAX_WINDOW_S = 32 * 86400.0

MessageEvent = Literal["changes", "repeat", "refresh", "test"]
MessageState = Literal["waiting", "delivered", "failed", "dropped"]


class Alert(msgspec.Struct, frozen=True, kw_only=True):
    """An alert: a rule's condition, from when it was first seen until it is over.

    Attributes:
        id: `al_...`, which sorts by time.
        fingerprint: a hash of the rule's name and the labels: the same each time it comes back.
        rule: the rule's name.
        subject: what it is about.
        labels: what tells it from the rule's others.
        severity: `info`, `warning` or `critical`.
        state: `pending` until it has gone on for the rule's `for_seconds`, then `firing`.
        summary: what is wrong, in a sentence.
        link: a path of this server that shows more; "" for none.
        value, threshold: the number that was compared, and with what; None for what has no number.
        since: when it was first seen, seconds since the epoch.
        held_s: how long it has been seen to go on, in seconds.
        fired_at, resolved_at: when it began to fire, and when it was over; None before.
        unknown_since: since when too little is known to say whether it goes on; None while it is.
        note: why it is over, where the reason is not that the condition holds no longer.
        notified: the receivers that got a message that it fires.
        notified_at: when they got the last message about it; None before.
        updated_at: when this was written.
    """

    id: str
    fingerprint: str
    rule: str
    subject: str
    labels: dict[str, str]
    severity: Severity
    state: AlertState
    summary: str
    link: str = ""
    value: float | None = None
    threshold: float | None = None
    since: float
    held_s: float = 0.0
    fired_at: float | None = None
    resolved_at: float | None = None
    unknown_since: float | None = None
    note: str = ""
    notified: tuple[str, ...] = ()
    notified_at: float | None = None
    updated_at: float


class AlertMessage(msgspec.Struct, frozen=True, kw_only=True):
    """A message to a receiver.

    Attributes:
        id: `msg_...`, which sorts by time, and stays the same however often it is sent.
        receiver: the receiver's name.
        event: `changes` where alerts began or are over, `repeat` or `refresh` where they go on.
        alerts: the ids of the alerts that it is about.
        body: what is sent.
        state: `waiting` until it has arrived; `failed` when it was refused or became too old;
            `dropped` where too many waited, or the receiver is gone.
        attempts: how often it was sent.
        created_at, next_at, expires_at: when it was made, is sent next, and is given up; seconds
            since the epoch.
        ended_at: when it arrived or was given up; None while it waits.
        status: the HTTP status of the last answer; None without one.
        error: why the last attempt failed; "" where none did.
    """

    id: str
    receiver: str
    event: MessageEvent
    alerts: tuple[str, ...]
    body: str
    state: MessageState = "waiting"
    attempts: int = 0
    created_at: float
    next_at: float
    expires_at: float
    ended_at: float | None = None
    status: int | None = None
    error: str = ""


class Silence(msgspec.Struct, frozen=True, kw_only=True):
    """Receivers get no messages about an alert for some time.

    Attributes:
        fingerprint: the alert's.
        until: when it ends, seconds since the epoch.
        reason: why.
        author: who: a key's id, or a user of the command line.
        created_at: when it was made.
    """

    fingerprint: str
    until: float
    reason: str
    author: str
    created_at: float


class AlertCount(msgspec.Struct, frozen=True, kw_only=True):
    """What one process counted for a rule since the last time.

    Attributes:
        counter: which measure of the rule; see `alert_counts.py`.
        slice_s: the length of the slices that are added up, in seconds.
        labels: the values of the rule's labels, in their order.
        requests: how many were looked at.
        exceeded: how many of them failed, or took too long.
        usd: US dollars.
    """

    counter: str
    slice_s: float
    labels: tuple[str, ...] = ()
    requests: int = 0
    exceeded: int = 0
    usd: float = 0.0


class AlertSum(msgspec.Struct, frozen=True, kw_only=True):
    """What all processes counted in a window, by labels; see AlertCount."""

    labels: tuple[str, ...]
    requests: int
    exceeded: int
    usd: float


class AlertChanges(msgspec.Struct, frozen=True, kw_only=True):
    """What becomes of alerts in one round.

    Attributes:
        alerts: rows to insert or to replace.
        forgotten: ids of pending ones that hold no longer.
        messages: to be sent.
    """

    alerts: Sequence[Alert] = ()
    forgotten: Sequence[str] = ()
    messages: Sequence[AlertMessage] = ()

    def __bool__(self) -> bool:
        return bool(self.alerts or self.forgotten or self.messages)


class AlertStore(LeaseStore, Protocol):
    """Stores alerts and what belongs to them."""

    async def add_alert_counts(self, counts: Sequence[AlertCount]) -> None:
        """Add to the present slices of counts."""
        ...

    async def begin_counter(self, counter: str) -> tuple[float, bool]:
        """Return when a counter began, now at the latest, and whether it has what was before."""
        ...

    async def add_earlier_counts(
        self, counter: str, slices: Sequence[tuple[float, AlertSum]]
    ) -> None:
        """Add what was there before a counter began, with the times of its slices; only once."""
        ...

    async def alert_sums(self, counter: str, seconds: float) -> list[AlertSum]:
        """Add up the last so many seconds of a counter."""
        ...

    async def forget_alert_counts(self, windows: Mapping[str, float]) -> None:
        """Delete slices that have left their counter's window, in seconds.

        Those of counters that are not named go after MAX_WINDOW_S.
        """
        ...

    async def open_alerts(self) -> list[Alert]:
        """Return the alerts that are not over, or are and whose receivers do not know."""
        ...

    async def alerts(
        self, *, states: Collection[AlertState] = (), limit: int = 50, before: str | None = None
    ) -> list[Alert]:
        """List alerts, newest first; `before` is the id of the previous page's last."""
        ...

    async def alert(self, alert_id: str) -> Alert | None:
        """Return an alert."""
        ...

    async def earlier_alerts(self, fingerprint: str, limit: int) -> list[Alert]:
        """Return the alerts of a fingerprint, newest first."""
        ...

    async def change_alerts(
        self, changes: AlertChanges, *, lease: str, owner: str, max_waiting: int
    ) -> None:
        """Write what becomes of alerts, in one transaction.

        Where more than `max_waiting` messages wait for a receiver, its oldest are dropped.

        Raises:
            ConflictError: the owner has the lease no longer.
        """
        ...

    async def waiting_messages(self, receiver: str, limit: int) -> list[AlertMessage]:
        """Return a receiver's messages that wait, oldest first."""
        ...

    async def waiting_receivers(self) -> dict[str, int]:
        """Return how many messages wait for each receiver that any waits for."""
        ...

    async def keep_message(self, message: AlertMessage) -> None:
        """Insert a message, or replace it."""
        ...

    async def drop_messages(self, receiver: str, now: float, error: str) -> None:
        """Give up the messages that wait for a receiver."""
        ...

    async def messages_about(self, alert_ids: Sequence[str], limit: int) -> list[AlertMessage]:
        """Return the messages about alerts, newest first; all messages for no ids."""
        ...

    async def silence(self, silence: Silence) -> None:
        """Store a silence, in the place of an earlier one of the same alert."""
        ...

    async def silences(self, now: float) -> list[Silence]:
        """Return the silences that have not ended."""
        ...

    async def forget_alerts(self, before: float, refreshed_before: float) -> None:
        """Delete alerts and messages that ended, and silences, before a moment.

        Messages of the event `refresh` that arrived go by a moment of their own.
        """
        ...
