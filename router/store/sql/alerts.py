"""The tables of alerts: their state, messages, silences, and what rules are measured by."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import msgspec

from providers.errors import ConflictError
from router.store.alerts import (
    MAX_WINDOW_S,
    Alert,
    AlertChanges,
    AlertCount,
    AlertMessage,
    AlertState,
    AlertStore,
    AlertSum,
    Silence,
)
from router.store.columns.alerts import (
    ALERT_COLUMNS,
    MESSAGE_COLUMNS,
    SILENCE_COLUMNS,
    row_of,
    values_of,
)
from router.store.columns.values import json_text, readable
from router.store.sql.connection import Connection, add_up, upsert
from router.store.sql.database import SqlPart
from router.store.sql.filters import given

_ALERT = ", ".join(ALERT_COLUMNS)
_MESSAGE = ", ".join(MESSAGE_COLUMNS)
_SILENCE = ", ".join(SILENCE_COLUMNS)
_KEEP_ALERT = upsert("alerts", ALERT_COLUMNS, ("id",))
_KEEP_MESSAGE = upsert("alert_messages", MESSAGE_COLUMNS, ("id",))
_KEEP_SILENCE = upsert("alert_silences", SILENCE_COLUMNS, ("fingerprint",))
_COUNT_KEY = ("counter", "at", "labels")
_ADD_COUNT = add_up("alert_counts", (*_COUNT_KEY, "requests", "exceeded", "usd"), _COUNT_KEY)
# What waited longest is given up, where more wait than may.
_DROP_OLDEST = """
    UPDATE alert_messages SET state = 'dropped', ended_at = ?, error = 'too many messages waited'
    WHERE receiver = ? AND state = 'waiting' AND id NOT IN (
        SELECT id FROM alert_messages WHERE receiver = ? AND state = 'waiting'
        ORDER BY id DESC LIMIT ?)
"""
_labels = msgspec.json.Decoder(tuple[str, ...]).decode


class SqlAlerts(SqlPart, AlertStore):
    """Alerts and what belongs to them."""

    async def add_alert_counts(self, counts: Sequence[AlertCount]) -> None:
        await self._database.write("count for alerts", _add_counts, counts)

    async def begin_counter(self, counter: str) -> tuple[float, bool]:
        return await self._database.write("count for alerts", _begin_counter, counter)

    async def add_earlier_counts(
        self, counter: str, slices: Sequence[tuple[float, AlertSum]]
    ) -> None:
        await self._database.write("count for alerts", _add_earlier, counter, slices)

    async def alert_sums(self, counter: str, seconds: float) -> list[AlertSum]:
        return await self._database.read("read what alerts count", _sums, counter, seconds)

    async def forget_alert_counts(self, windows: Mapping[str, float]) -> None:
        await self._database.write("forget what alerts counted", _forget_counts, windows)

    async def open_alerts(self) -> list[Alert]:
        return await self._database.read("read alerts", read_open_alerts)

    async def alerts(
        self, *, states: Collection[AlertState] = (), limit: int = 50, before: str | None = None
    ) -> list[Alert]:
        return await self._database.read("list alerts", _page, sorted(states), limit, before)

    async def alert(self, alert_id: str) -> Alert | None:
        rows = await self._database.read("read an alert", _alerts, "id = :id", {"id": alert_id})
        return rows[0] if rows else None

    async def earlier_alerts(self, fingerprint: str, limit: int) -> list[Alert]:
        return await self._database.read(
            "read alerts", _alerts, "fingerprint = :of", {"of": fingerprint}, limit
        )

    async def change_alerts(
        self, changes: AlertChanges, *, lease: str, owner: str, max_waiting: int
    ) -> None:
        await self._database.write("store alerts", _change, changes, lease, owner, max_waiting)

    async def waiting_messages(self, receiver: str, limit: int) -> list[AlertMessage]:
        return await self._database.read("read messages", _waiting, receiver, limit)

    async def waiting_receivers(self) -> dict[str, int]:
        return await self._database.read("count messages", _waiting_receivers)

    async def keep_message(self, message: AlertMessage) -> None:
        await self._database.write("store a message", _keep_messages, [message])

    async def drop_messages(self, receiver: str, now: float, error: str) -> None:
        await self._database.write("drop messages", _drop, receiver, now, error)

    async def messages_about(self, alert_ids: Sequence[str], limit: int) -> list[AlertMessage]:
        return await self._database.read("read messages", _about, alert_ids, limit)

    async def silence(self, silence: Silence) -> None:
        await self._database.write("silence an alert", _keep_silence, silence)

    async def silences(self, now: float) -> list[Silence]:
        return await self._database.read("read silences", _silences, now)

    async def forget_alerts(self, before: float, refreshed_before: float) -> None:
        await self._database.write("forget alerts", _forget, before, refreshed_before)


def _add_counts(db: Connection, counts: Sequence[AlertCount]) -> None:
    now = db.now()
    rows = [
        (
            count.counter,
            now // count.slice_s * count.slice_s,
            json_text(count.labels),
            count.requests,
            count.exceeded,
            count.usd,
        )
        for count in counts
    ]
    # In one order, so that processes do not wait for each other.
    db.executemany(_ADD_COUNT, sorted(rows))


def _begin_counter(db: Connection, counter: str) -> tuple[float, bool]:
    db.execute(
        "INSERT INTO alert_counters (counter, since, has_earlier) VALUES (?, ?, 0)"
        " ON CONFLICT (counter) DO NOTHING",
        (counter, db.now()),
    )
    since, has_earlier = db.execute(
        "SELECT since, has_earlier FROM alert_counters WHERE counter = ?", (counter,)
    ).fetchone()
    return since, bool(has_earlier)


def _add_earlier(db: Connection, counter: str, slices: Sequence[tuple[float, AlertSum]]) -> None:
    first = db.execute(
        "UPDATE alert_counters SET has_earlier = 1 WHERE counter = ? AND has_earlier = 0",
        (counter,),
    )
    if first.rowcount:
        rows = [
            (counter, at, json_text(each.labels), each.requests, each.exceeded, each.usd)
            for at, each in slices
        ]
        db.executemany(_ADD_COUNT, rows)


def _sums(db: Connection, counter: str, seconds: float) -> list[AlertSum]:
    now = db.now()
    # Slices of the future are of a clock that has been put back.
    rows = db.execute(
        "SELECT labels, sum(requests), sum(exceeded), sum(usd) FROM alert_counts"
        " WHERE counter = ? AND at > ? AND at <= ? GROUP BY labels ORDER BY labels",
        (counter, now - seconds, now),
    )
    return [
        AlertSum(labels=_labels(labels), requests=int(requests), exceeded=int(exceeded), usd=usd)
        for labels, requests, exceeded, usd in rows
    ]


def _forget_counts(db: Connection, windows: Mapping[str, float]) -> None:
    now = db.now()
    for counter, seconds in windows.items():
        db.execute(
            "DELETE FROM alert_counts WHERE counter = ? AND at < ?", (counter, now - seconds)
        )
    db.execute("DELETE FROM alert_counts WHERE at < ?", (now - MAX_WINDOW_S,))
    db.execute(
        "DELETE FROM alert_counters WHERE since < ?"
        " AND counter NOT IN (SELECT counter FROM alert_counts)"
        f" AND NOT {db.any_of('counter')}",
        (now - MAX_WINDOW_S, db.array(list(windows))),
    )


def read_open_alerts(db: Connection) -> list[Alert]:
    """List alerts that are open; see `AlertStore.open_alerts`."""
    return _alerts(db, "resolved_at IS NULL OR notified <> '[]'", {})


def _alerts(
    db: Connection, where: str, values: dict[str, Any], limit: int = 100_000
) -> list[Alert]:
    rows = db.execute(
        f"SELECT {_ALERT} FROM alerts WHERE {where} ORDER BY id DESC LIMIT :limit",
        values | {"limit": limit},
    )
    return readable(rows, lambda row: row_of(Alert, row), lambda row: f"alert {row[0]}")


def _page(
    db: Connection, states: Sequence[AlertState], limit: int, before: str | None
) -> list[Alert]:
    where, values = given({"id < :before": before})
    if states:
        where.append(db.any_of("state", ":states"))
        values["states"] = db.array(states)
    return _alerts(db, " AND ".join(where) or "TRUE", values, limit)


def _change(
    db: Connection, changes: AlertChanges, lease: str, owner: str, max_waiting: int
) -> None:
    mine = db.execute(
        f"SELECT 1 FROM leases WHERE name = ? AND owner = ? AND ends_at > ?{db.for_update}",
        (lease, owner, db.now()),
    ).fetchone()
    if mine is None:
        raise ConflictError("Another process evaluates alerts now.")
    for alert_id in changes.forgotten:
        db.execute("DELETE FROM alerts WHERE id = ?", (alert_id,))
    db.executemany(_KEEP_ALERT, [values_of(alert) for alert in changes.alerts])
    _keep_messages(db, changes.messages)
    for receiver in sorted({message.receiver for message in changes.messages}):
        now = changes.messages[0].created_at
        db.execute(_DROP_OLDEST, (now, receiver, receiver, max_waiting))


def _keep_messages(db: Connection, messages: Sequence[AlertMessage]) -> None:
    db.executemany(_KEEP_MESSAGE, [values_of(message) for message in messages])
    db.executemany(
        "INSERT INTO alert_message_alerts (alert, message) VALUES (?, ?)"
        " ON CONFLICT (alert, message) DO NOTHING",
        [(alert, message.id) for message in messages for alert in message.alerts],
    )


def _messages(
    db: Connection, where: str, values: tuple[Any, ...], limit: int, order: str = "DESC"
) -> list[AlertMessage]:
    rows = db.execute(
        f"SELECT {_MESSAGE} FROM alert_messages WHERE {where} ORDER BY id {order} LIMIT ?",
        (*values, limit),
    )
    return readable(rows, lambda row: row_of(AlertMessage, row), lambda row: f"message {row[0]}")


def _waiting(db: Connection, receiver: str, limit: int) -> list[AlertMessage]:
    return _messages(db, "receiver = ? AND state = 'waiting'", (receiver,), limit, "ASC")


def _waiting_receivers(db: Connection) -> dict[str, int]:
    rows = db.execute(
        "SELECT receiver, count(*) FROM alert_messages WHERE state = 'waiting' GROUP BY receiver"
    )
    return {receiver: int(number) for receiver, number in rows}


def _drop(db: Connection, receiver: str, now: float, error: str) -> None:
    db.execute(
        "UPDATE alert_messages SET state = 'dropped', ended_at = ?, error = ?"
        " WHERE receiver = ? AND state = 'waiting'",
        (now, error, receiver),
    )


def _about(db: Connection, alert_ids: Sequence[str], limit: int) -> list[AlertMessage]:
    if not alert_ids:
        return _messages(db, "1 = 1", (), limit)
    return _messages(
        db,
        f"id IN (SELECT message FROM alert_message_alerts WHERE {db.any_of('alert')})",
        (db.array(list(alert_ids)),),
        limit,
    )


def _keep_silence(db: Connection, silence: Silence) -> None:
    db.execute(_KEEP_SILENCE, values_of(silence))


def _silences(db: Connection, now: float) -> list[Silence]:
    rows = db.execute(f"SELECT {_SILENCE} FROM alert_silences WHERE until > ?", (now,))
    return readable(rows, lambda row: row_of(Silence, row), lambda row: f"silence of {row[0]}")


def _forget(db: Connection, before: float, refreshed_before: float) -> None:
    db.execute("DELETE FROM alerts WHERE resolved_at < ? AND notified = '[]'", (before,))
    db.execute(
        "DELETE FROM alert_messages WHERE ended_at < ?"
        " OR (event = 'refresh' AND state = 'delivered' AND ended_at < ?)",
        (before, refreshed_before),
    )
    db.execute(
        "DELETE FROM alert_message_alerts WHERE message NOT IN (SELECT id FROM alert_messages)"
    )
    db.execute("DELETE FROM alert_silences WHERE until < ?", (before,))
