"""Alerts in the store: counts of windows, rounds by lease, messages that wait, silences."""

from __future__ import annotations

import pytest

from providers.errors import ConflictError, StoreError
from router.store.alerts import (
    Alert,
    AlertChanges,
    AlertCount,
    AlertMessage,
    AlertSum,
    Silence,
)

LEASE = {"lease": "tell", "owner": "a", "max_waiting": 3}


def an_alert(number: int = 1, **fields) -> Alert:
    return Alert(
        **{
            "id": f"al_{number:04}",
            "fingerprint": f"f{number}",
            "rule": "r",
            "subject": "errors",
            "labels": {"route": "a\0'\"", "key": "ünï"},
            "severity": "critical",
            "state": "firing",
            "summary": "it is bad",
            "value": 0.25,
            "threshold": 0.1,
            "since": 900.0,
            "notified": ("ops",),
            "updated_at": 1000.0,
        }
        | fields
    )


def a_message(number: int = 1, **fields) -> AlertMessage:
    return AlertMessage(
        **{
            "id": f"msg_{number:04}",
            "receiver": "ops",
            "event": "changes",
            "alerts": ("al_0001",),
            "body": "{}",
            "created_at": 1000.0,
            "next_at": 1000.0,
            "expires_at": 2000.0,
        }
        | fields
    )


async def change(store, **changes) -> None:
    assert await store.claim_lease("tell", "a", 30.0)
    await store.change_alerts(AlertChanges(**changes), **LEASE)


def count(**fields) -> AlertCount:
    return AlertCount(**{"counter": "c", "slice_s": 10.0, "labels": ("r",), "requests": 1} | fields)


def total(*labels: str, requests: int, exceeded: int = 0, usd: float = 0.0) -> AlertSum:
    return AlertSum(labels=labels, requests=requests, exceeded=exceeded, usd=usd)


async def test_counts_add_up_over_the_window(at):
    store = at(1000.0)
    await store.add_alert_counts([count(exceeded=1, usd=0.5), count(labels=("s",), requests=2)])
    await store.add_alert_counts([count(usd=0.25), count(counter="other")])
    await at(1015.0).add_alert_counts([count()])
    assert await store.alert_sums("c", 60) == [
        total("r", requests=3, exceeded=1, usd=0.75),
        total("s", requests=2),
    ]
    assert await store.alert_sums("c", 10) == [total("r", requests=1)]
    assert await at(1065.0).alert_sums("c", 60) == [total("r", requests=1)]
    # A clock that was put back: what is in the future is not in the window.
    assert await at(1005.0).alert_sums("c", 60) == [
        total("r", requests=2, exceeded=1, usd=0.75),
        total("s", requests=2),
    ]
    await at(1065.0).forget_alert_counts({"c": 60.0})
    assert await at(1000.0).alert_sums("c", 60) == []
    assert await store.alert_sums("other", 60) == [total("r", requests=1)]
    await at(1000.0 + 33 * 86400).forget_alert_counts({})
    assert await at(1000.0).alert_sums("other", 60) == []


async def test_what_was_before_a_counter_is_added_once(at):
    store = at(1000.0)
    assert await store.begin_counter("c") == (1000.0, False)
    await at(1003.0).add_earlier_counts("c", [(990.0, total("r", requests=4, usd=2.0))])
    assert await store.begin_counter("c") == (1000.0, True)
    # Another process was as quick.
    await store.add_earlier_counts("c", [(990.0, total("r", requests=4, usd=2.0))])
    assert await store.alert_sums("c", 60) == [total("r", requests=4, usd=2.0)]
    assert await at(1000.0 + 33 * 86400).forget_alert_counts({}) is None
    assert await store.begin_counter("c") == (1000.0 + 33 * 86400, False)


async def test_a_number_that_is_none_is_refused(store):
    with pytest.raises(StoreError):
        await change(store, alerts=[an_alert(value=float("nan"))])


async def test_alerts_come_back_as_they_were(store):
    alerts = [an_alert(1), an_alert(2, state="pending", notified=(), value=None, threshold=None)]
    await change(store, alerts=alerts)
    assert await store.alerts() == alerts[::-1]
    assert await store.alerts(states=("pending",)) == [alerts[1]]
    assert await store.alerts(limit=1) == [alerts[1]]
    assert await store.alerts(before="al_0002") == [alerts[0]]
    assert await store.alert("al_0001") == alerts[0]
    assert await store.alert("al_0003") is None
    changed = an_alert(1, state="resolved", resolved_at=1100.0, note="because")
    await change(store, alerts=[changed], forgotten=["al_0002"])
    assert await store.alerts() == [changed]
    # Its receiver does not know yet.
    assert await store.open_alerts() == [changed]
    known = an_alert(1, state="resolved", resolved_at=1100.0, notified=())
    await change(store, alerts=[known, an_alert(3, fingerprint="f1")])
    assert await store.open_alerts() == [an_alert(3, fingerprint="f1")]
    assert await store.earlier_alerts("f1", 10) == [an_alert(3, fingerprint="f1"), known]


async def test_only_who_has_the_lease_changes_anything(at):
    store = at(1000.0)
    assert await store.claim_lease("tell", "a", 30.0)
    for owner, now in (("b", 1000.0), ("a", 1031.0)):
        with pytest.raises(ConflictError):
            await at(now).change_alerts(
                AlertChanges(alerts=[an_alert()], messages=[a_message()]),
                lease="tell",
                owner=owner,
                max_waiting=9,
            )
    assert await store.alerts() == []
    assert await store.messages_about([], 9) == []


async def test_messages_wait_in_their_order_and_the_oldest_give_way(store):
    await change(store, messages=[a_message(2), a_message(1), a_message(3, receiver="b")])
    assert [m.id for m in await store.waiting_messages("ops", 9)] == ["msg_0001", "msg_0002"]
    assert await store.waiting_receivers() == {"ops": 2, "b": 1}
    await store.keep_message(a_message(1, state="delivered", attempts=1, ended_at=5.0, status=204))
    assert await store.waiting_messages("ops", 9) == [a_message(2)]
    await change(store, messages=[a_message(n) for n in (4, 5, 6)])
    assert [m.id for m in await store.waiting_messages("ops", 9)] == [
        "msg_0004",
        "msg_0005",
        "msg_0006",
    ]
    dropped = {m.id: m for m in await store.messages_about([], 9)}["msg_0002"]
    assert (dropped.state, dropped.error) == ("dropped", "too many messages waited")
    await store.drop_messages("b", 1234.0, "gone")
    assert await store.waiting_receivers() == {"ops": 3}


async def test_messages_by_their_alerts(store):
    messages = [a_message(1), a_message(2, alerts=("al_0002", "al_0001")), a_message(3, alerts=())]
    await change(store, messages=messages)
    assert await store.messages_about(["al_0001"], 9) == [messages[1], messages[0]]
    assert await store.messages_about(["al_0002"], 9) == [messages[1]]
    assert await store.messages_about(["al_0003"], 9) == []
    assert await store.messages_about([], 1) == [messages[2]]


async def test_what_is_old_is_forgotten(store):
    done = {"state": "delivered", "ended_at": 1000.0}
    await change(
        store,
        alerts=[
            an_alert(1, state="resolved", resolved_at=1000.0, notified=()),
            an_alert(2, state="resolved", resolved_at=1000.0),
            an_alert(3, state="resolved", resolved_at=1001.0, notified=()),
        ],
        messages=[
            a_message(1, **done),
            a_message(2),
            a_message(3, **done | {"ended_at": 1001.0}),
        ],
    )
    await store.keep_message(a_message(4, event="refresh", **done | {"ended_at": 1500.0}))
    await store.forget_alerts(1001.0, 1501.0)
    assert [alert.id for alert in await store.alerts()] == ["al_0003", "al_0002"]
    assert [m.id for m in await store.messages_about([], 9)] == ["msg_0003", "msg_0002"]
    assert [m.id for m in await store.messages_about(["al_0001"], 9)] == ["msg_0003", "msg_0002"]


async def test_a_silence_takes_the_place_of_the_last(store):
    silence = Silence(fingerprint="f", until=1100.0, reason="r", author="ann", created_at=1000.0)
    await store.silence(silence)
    assert await store.silences(1099.0) == [silence]
    assert await store.silences(1100.0) == []
    longer = Silence(fingerprint="f", until=1200.0, reason="s", author="bob", created_at=1000.0)
    await store.silence(longer)
    assert await store.silences(1000.0) == [longer]
    await store.forget_alerts(1300.0, 0.0)
    assert await store.silences(0.0) == []
