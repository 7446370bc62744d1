"""Looks whether anything is wrong, and has it told: one process at a time, for all.

    controller = AlertController(config.alerts, store, sources, sender, owner=this_owner())
    await controller.open()      # every few seconds, where the config has rules
    await controller.close()

    await controller.evaluate()  # or once: what holds, what becomes of alerts, who is to be told
    await controller.send()      # then sends what waits

In each round, the process with the lease asks the sources, decides (`alert_rules.py`), and writes
in one transaction what became of alerts and the messages about it. Another task sends them. A
process that is killed has written all of a round or none, and what it has not sent another one
sends, when the lease has run out.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple

from providers.errors import ConflictError, EvalrouterError, StoreError
from router.config.alerts import Alerts, AlertSubject
from router.loop.alert_messages import ALERTMANAGER_FORGETS_S, rendered
from router.loop.alert_rules import Notification, Observed, new_id, next_alerts, notifications
from router.loop.alert_sender import AlertSender
from router.loop.alerts import AlertCondition, AlertSource
from router.rounds import ErrorLog, Rounds
from router.store.alerts import (
    Alert,
    AlertChanges,
    AlertMessage,
    AlertStore,
    MessageEvent,
    Silence,
)
from router.store.leases import Lease

SEND_EVERY_S = 1.0
LEASE = "tell of alerts"
# The least; it is four rounds where these take longer.
LEASE_S = 20.0
# Time that passes while no process looks does not count: nobody knows what happened then.
MAX_UNSEEN_S = 120.0
SOURCE_S = 10.0
# Conditions of one source; further ones are left out.
MAX_CONDITIONS = 10_000
# Messages that may wait for one receiver.
MAX_WAITING = 500
# An Alertmanager hears of what goes on so often, and forgets it after four times that.
REFRESH_S = ALERTMANAGER_FORGETS_S / 4
PRUNE_EVERY_S = 600.0
# Messages that only said that something goes on are not worth keeping.
REFRESHED_S = 3600.0


class _Moment(NamedTuple):
    """When a round is.

    Attributes:
        now: seconds since the epoch.
        elapsed: seconds since the last round.
        loop_time: by the event loop's clock.
    """

    now: float
    elapsed: float
    loop_time: float


class _Decided(NamedTuple):
    """What comes of a round: rows to write, and all alerts that are open after it."""

    changes: AlertChanges
    open: list[Alert]
    left_out: int


class AlertController:
    """Decides about alerts.

    Args:
        config: the rules and receivers.
        store: has the alerts.
        sources: tell what holds.
        sender: sends messages.
        owner: a name for this part of the process, which no other has.
        public_url: where people reach the server; "" for no links.
        windows: returns how long slices of counts are needed, in seconds, by counter.
        clock: tells the seconds since the epoch.

    Attributes:
        left_out: how many conditions were too many in the last round.
    """

    def __init__(
        self,
        config: Alerts,
        store: AlertStore,
        sources: Sequence[AlertSource],
        sender: AlertSender,
        *,
        owner: str,
        public_url: str = "",
        windows: Callable[[], dict[str, float]] = dict,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.left_out = 0
        self._config = config
        self._store = store
        self._sources = [source for source in sources if self._is_needed(source)]
        self._sender = sender
        self._owner = owner
        self._public_url = public_url
        self._windows = windows
        self._clock = clock
        self._evaluating = Rounds(
            self.evaluate,
            every=config.every_seconds,
            name="evalrouter-alerts",
            failing="alerts wait",
        )
        self._sending = Rounds(
            self.send,
            every=SEND_EVERY_S,
            name="evalrouter-alert-messages",
            failing="messages about alerts wait",
        )
        self._log = ErrorLog()
        self._lease = Lease(store, LEASE, owner, max(LEASE_S, 4 * config.every_seconds))
        # By the event loop's clock: the last round, the last pruning, and when each Alertmanager
        # heard last of what goes on.
        self._evaluated_at: float | None = None
        self._pruned_at: float | None = None
        self._refreshed: dict[str, float] = {}
        self._open: Sequence[Alert] = ()

    def _is_needed(self, source: AlertSource) -> bool:
        return any(rule.subject in source.subjects for rule in self._config.rules.values())

    async def open(self) -> None:
        """Begin."""
        if self._config.rules or self._config.receivers:
            self._evaluating.open()
            self._sending.open()

    async def close(self) -> None:
        """Stop, and leave the lease to another process."""
        await self._evaluating.close()
        await self._sending.close()
        with suppress(StoreError):
            await self._lease.release()

    def counts(self) -> list[tuple[tuple[str, str, str], float]]:
        """Return how many alerts there are by rule, severity and state, for metrics.

        None in a process without the lease.
        """
        counts = Counter(
            (alert.rule, alert.severity, alert.state)
            for alert in self._open
            if alert.state != "resolved"
        )
        return [(labels, float(number)) for labels, number in counts.items()]

    async def evaluate(self) -> bool:
        """Look once at everything that may be wrong; return whether this process has the lease.

        Raises:
            StoreError: the database does not work.
            ConflictError: another process took the lease over meanwhile.
        """
        every = self._config.every_seconds
        if not await self._lease.claim():
            self._open, self._evaluated_at = (), None
            return False
        loop_time = asyncio.get_running_loop().time()
        elapsed = every if self._evaluated_at is None else loop_time - self._evaluated_at
        self._evaluated_at = loop_time
        observed = await self._observe()
        now = self._clock()
        stored = await self._store.open_alerts()
        silences = {each.fingerprint: each for each in await self._store.silences(now)}
        # On a thread: thousands of conditions take longer than other requests should wait.
        decided = await asyncio.to_thread(
            self._decide,
            stored,
            observed,
            silences,
            _Moment(now, min(elapsed, MAX_UNSEEN_S), loop_time),
        )
        self.left_out = decided.left_out
        if decided.changes:
            try:
                await self._store.change_alerts(
                    decided.changes, lease=LEASE, owner=self._owner, max_waiting=MAX_WAITING
                )
            except ConflictError:
                self._lease.lose()
                raise
        for message in decided.changes.messages:
            self._refreshed[message.receiver] = loop_time
        self._open = decided.open
        await self._prune(loop_time, now)
        return True

    async def send(self) -> None:
        """Send what waits, where this process has the lease.

        Raises:
            StoreError: the database does not work.
        """
        if self._lease.is_held:
            await self._sender.send_waiting()

    async def _observe(self) -> Observed:
        """Ask every source what holds; one that fails is known nothing of."""
        conditions: list[AlertCondition] = []
        known: set[AlertSubject] = set()
        for source in self._sources:
            name = ", ".join(source.subjects)
            try:
                async with asyncio.timeout(SOURCE_S):
                    returned = await source.conditions()
            except TimeoutError:
                self._log.error(name, f"alerts about {name}: no answer in {SOURCE_S:g} seconds")
            except EvalrouterError as error:
                self._log.error(name, f"alerts about {name}: {error.message}")
            except Exception as error:  # noqa: BLE001 - the others must be told all the same
                self._log.error(name, f"alerts about {name}: {error!r}")
            else:
                self._log.forget(name)
                if len(returned) > MAX_CONDITIONS:
                    # Of those that are left out, nothing is known.
                    returned = sorted(returned, key=lambda each: not each.holds)
                    conditions += returned[:MAX_CONDITIONS]
                    continue
                conditions += returned
                if source.tells_all:
                    known.update(source.subjects)
        return Observed(conditions, frozenset(known))

    def _decide(
        self,
        stored: Sequence[Alert],
        observed: Observed,
        silences: Mapping[str, Silence],
        at: _Moment,
    ) -> _Decided:
        """Decide what becomes of alerts, and write the messages about it."""
        after = next_alerts(self._config, stored, observed, now=at.now, elapsed=at.elapsed)
        to_tell, known = notifications(self._config, after.open, silences, at.now)
        changed = {alert.id: alert for alert in (*after.changed, *known)}
        rows = list(({alert.id: alert for alert in after.open} | changed).values())
        receivers = {each.receiver for each in to_tell}
        to_tell += [
            each for each in self._refreshes(at.loop_time, rows) if each.receiver not in receivers
        ]
        messages = [message for each in to_tell for message in self._messages(each, at.now)]
        changes = AlertChanges(
            alerts=list(changed.values()), forgotten=after.forgotten, messages=messages
        )
        return _Decided(changes, rows, after.left_out)

    def _refreshes(self, loop_time: float, alerts: Sequence[Alert]) -> list[Notification]:
        """Return what Alertmanagers have to hear again, because they forget what they do not."""
        refreshes = []
        for name, receiver in self._config.receivers.items():
            if receiver.kind != "alertmanager":
                continue
            if loop_time - self._refreshed.get(name, -REFRESH_S) < REFRESH_S:
                continue
            firing = [
                alert for alert in alerts if alert.state == "firing" and name in alert.notified
            ]
            if firing:
                refreshes.append(Notification(name, "refresh", firing))
        return refreshes

    def _messages(self, telling: Notification, now: float) -> list[AlertMessage]:
        receiver = self._config.receivers[telling.receiver]
        event: MessageEvent = telling.event
        return [
            AlertMessage(
                id=new_id("msg"),
                receiver=telling.receiver,
                event=event,
                alerts=tuple(alert.id for alert in alerts),
                body=body,
                created_at=now,
                next_at=now,
                expires_at=now + receiver.max_age_seconds,
            )
            for alerts, body in rendered(receiver, telling.alerts, self._public_url, now)
        ]

    async def _prune(self, loop_time: float, now: float) -> None:
        if self._pruned_at is not None and loop_time - self._pruned_at < PRUNE_EVERY_S:
            return
        self._pruned_at = loop_time
        await self._store.forget_alerts(now - self._config.days * 86400, now - REFRESHED_S)
        await self._store.forget_alert_counts(self._windows())
