"""Decides what becomes of alerts, from what holds now: pure, without input or output.

    after = next_alerts(config, stored, observed, now=..., elapsed=...)
    after.changed, after.forgotten        # rows
    notifications(config, alerts, silences, now) # which of them receivers have to be told of

An alert is pending until its condition has been seen to hold for the rule's `for_seconds`. That
time is added up from the times between rounds, so a clock that jumps neither fires nor delays
anything. Where nothing is known of a condition, its alert stays as it is.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import NamedTuple

import msgspec

from router.config.alerts import WINDOWS, AlertRule, Alerts, AlertSubject, Severity
from router.loop.alerts import AlertCondition
from router.store.alerts import Alert, MessageEvent, Silence

# Alerts that are open at a time; further conditions are counted and left out.
MAX_OPEN = 2000
# After so long without anything known about it, an alert is taken for over.
MAX_UNKNOWN_S = 7 * 86400.0
# The numbers of an alert that fires are written so often.
DESCRIBED_EVERY_S = 60.0
MAX_SUMMARY = 1000
_RANKS: Mapping[Severity, int] = {"critical": 0, "warning": 1, "info": 2}


class Observed(NamedTuple):
    """What sources said in one round.

    Attributes:
        conditions: what they returned.
        known: the subjects of which everything that holds was returned.
    """

    conditions: Sequence[AlertCondition]
    known: frozenset[AlertSubject]


class AlertsAfter(NamedTuple):
    """What becomes of alerts.

    Attributes:
        open: all that are not over, or are and whose receivers do not know.
        changed: those of them that changed.
        forgotten: ids of pending ones that hold no longer.
        left_out: how many conditions were too many.
    """

    open: list[Alert]
    changed: list[Alert]
    forgotten: list[str]
    left_out: int


def fingerprint_of(rule: str, labels: Mapping[str, str]) -> str:
    """Return a hash of a rule and labels: the same each time an alert comes back."""
    return sha256(msgspec.json.encode([rule, sorted(labels.items())])).hexdigest()[:32]


def new_id(prefix: str) -> str:
    """Return a new id, which sorts by time."""
    return f"{prefix}_{time.time_ns():016x}{uuid.uuid4().hex[:16]}"


class _Round(NamedTuple):
    """One round: see `next_alerts`."""

    config: Alerts
    observed: Observed
    now: float
    elapsed: float


class _Seen(NamedTuple):
    """A condition as a rule sees it."""

    name: str
    rule: AlertRule
    condition: AlertCondition


def next_alerts(
    config: Alerts, stored: Sequence[Alert], observed: Observed, *, now: float, elapsed: float
) -> AlertsAfter:
    """Return what becomes of the stored alerts, and the new ones.

    Args:
        config: the rules.
        stored: the alerts that are not over, or are and whose receivers do not know.
        observed: what sources said.
        now: seconds since the epoch.
        elapsed: how long it is since the last round, by a clock that does not jump.
    """
    seen = _seen(config, observed.conditions)
    this = _Round(config, observed, now, elapsed)
    after: list[Alert] = []
    changed: list[Alert] = []
    forgotten: list[str] = []
    for alert in stored:
        if alert.state == "resolved":
            after.append(alert)
            continue
        following = _next(this, alert, seen.pop(alert.fingerprint, None))
        if following is None:
            forgotten.append(alert.id)
            continue
        after.append(following)
        if following != alert:
            changed.append(msgspec.structs.replace(following, updated_at=now))
    beginning = [(key, each) for key, each in seen.items() if each.condition.holds]
    room = max(0, MAX_OPEN - len(after))
    for fingerprint, each in beginning[:room]:
        new = _begun(fingerprint, each, now)
        after.append(new)
        changed.append(new)
    return AlertsAfter(after, changed, forgotten, max(0, len(beginning) - room))


def _seen(config: Alerts, conditions: Sequence[AlertCondition]) -> dict[str, _Seen]:
    """Return the conditions that a rule is about, by their fingerprints."""
    seen: dict[str, _Seen] = {}
    for condition in conditions:
        names = [condition.rule] if condition.rule else list(config.rules)
        for name in names:
            rule = config.rules.get(name)
            if rule is None or rule.subject != condition.subject:
                continue
            # What was looked at for one rule is what that rule is about.
            if not condition.rule and not rule.matches(condition.labels):
                continue
            fingerprint = fingerprint_of(name, condition.labels)
            earlier = seen.get(fingerprint)
            if earlier is None or (condition.holds and not earlier.condition.holds):
                seen[fingerprint] = _Seen(name, rule, condition)
    return seen


def _next(this: _Round, alert: Alert, seen: _Seen | None) -> Alert | None:
    """Return an alert after a round; None for a pending one that is over."""
    now = this.now
    rule = this.config.rules.get(alert.rule)
    if rule is None or rule.subject != alert.subject or not _fits(rule, alert.labels):
        return _resolved(alert, now, "its rule was changed or is gone")
    holds: bool | None
    if seen is not None:
        holds = seen.condition.holds
    else:
        holds = False if rule.subject in this.observed.known else None
    if holds is None:
        unknown_since = now if alert.unknown_since is None else alert.unknown_since
        if now - unknown_since > MAX_UNKNOWN_S:
            return _resolved(alert, now, "nothing has been known of it for a week")
        return msgspec.structs.replace(alert, unknown_since=unknown_since)
    if not holds or seen is None:
        return _resolved(alert, now, "")
    held = alert.held_s + this.elapsed
    following = msgspec.structs.replace(
        _described(alert, seen, now),
        unknown_since=None,
        # Of one that fires it does not matter, and would be a change in every round.
        held_s=alert.held_s if alert.state == "firing" else held,
    )
    if alert.state == "pending" and held >= rule.for_seconds:
        following = msgspec.structs.replace(following, state="firing", fired_at=now)
    return following


def _fits(rule: AlertRule, labels: Mapping[str, str]) -> bool:
    """Return whether a rule could still come to an alert with these labels."""
    if rule.subject in WINDOWS:
        return set(labels) == set(rule.groups()) and rule.allows(labels)
    return rule.matches(labels)


def _resolved(alert: Alert, now: float, note: str) -> Alert | None:
    if alert.state == "pending":
        return None
    return msgspec.structs.replace(
        alert, state="resolved", resolved_at=now, unknown_since=None, note=note
    )


def _described(alert: Alert, seen: _Seen, now: float) -> Alert:
    """Return an alert with what its condition says now."""
    if alert.state == "firing" and 0 <= now - alert.updated_at < DESCRIBED_EVERY_S:
        # Numbers change in every round.
        return alert
    condition, rule = seen.condition, seen.rule
    return msgspec.structs.replace(
        alert,
        severity=rule.severity or condition.severity,
        summary=condition.summary[:MAX_SUMMARY],
        link=condition.link,
        value=condition.value,
        threshold=rule.threshold() or None,
    )


def _begun(fingerprint: str, seen: _Seen, now: float) -> Alert:
    condition, rule = seen.condition, seen.rule
    since = now if condition.since is None else min(condition.since, now)
    fires = rule.for_seconds <= 0
    return Alert(
        id=new_id("al"),
        fingerprint=fingerprint,
        rule=seen.name,
        subject=rule.subject,
        labels=dict(condition.labels),
        severity=rule.severity or condition.severity,
        state="firing" if fires else "pending",
        summary=condition.summary[:MAX_SUMMARY],
        link=condition.link,
        value=condition.value,
        threshold=rule.threshold() or None,
        since=since,
        fired_at=now if fires else None,
        updated_at=now,
    )


class Notification(NamedTuple):
    """What a receiver has to be told now.

    Attributes:
        receiver: its name.
        event: as in AlertMessage.
        alerts: the alerts.
    """

    receiver: str
    event: MessageEvent
    alerts: list[Alert]


def notifications(
    config: Alerts, alerts: Sequence[Alert], silences: Mapping[str, Silence], now: float
) -> tuple[list[Notification], list[Alert]]:
    """Return what receivers have to be told now, and the alerts as they are once they know.

    A change waits for others for `group_seconds`; then all that wait are told together. That an
    alert is over is told even while it is silenced, where that it began was: who opened an incident
    wants to close it.
    """
    begun, over, repeated = [], [], []
    oldest = 0.0
    # The worst first, because long messages are cut.
    for alert in sorted(alerts, key=lambda alert: (_RANKS[alert.severity], alert.id)):
        is_silenced = alert.fingerprint in silences
        if alert.state == "resolved":
            if alert.notified:
                over.append(alert)
                oldest = max(oldest, _age(now, alert.resolved_at))
        elif alert.state == "firing" and not is_silenced:
            if alert.notified_at is None:
                begun.append(alert)
                oldest = max(oldest, _age(now, alert.fired_at))
            elif (
                config.repeat_seconds
                and alert.unknown_since is None
                and _age(now, alert.notified_at) >= config.repeat_seconds
            ):
                repeated.append(alert)
    if oldest < config.group_seconds or not (begun or over):
        begun, over = [], []
    changes: dict[str, list[Alert]] = {}
    repeats: dict[str, list[Alert]] = {}
    known: list[Alert] = []
    for alert in (*begun, *repeated):
        receivers = config.receivers_of(config.rules[alert.rule])
        for receiver in receivers:
            (repeats if alert.notified_at else changes).setdefault(receiver, []).append(alert)
        # A rule without receivers only shows in the list.
        known.append(msgspec.structs.replace(alert, notified=receivers, notified_at=now))
    for alert in over:
        for receiver in alert.notified:
            if receiver in config.receivers and config.receivers[receiver].resolved:
                changes.setdefault(receiver, []).append(alert)
        known.append(msgspec.structs.replace(alert, notified=()))
    to_tell = [Notification(name, "changes", rows) for name, rows in changes.items()]
    to_tell += [Notification(name, "repeat", rows) for name, rows in repeats.items()]
    return to_tell, known


def _age(now: float, then: float | None) -> float:
    """Return how long ago something was; of a clock that was put back, long enough."""
    age = now - (then or 0.0)
    return age if age >= 0 else float("inf")
