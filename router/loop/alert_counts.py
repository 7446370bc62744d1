"""Counts requests for the rules of alerts, in every process.

    counts = AlertCounts(rules, store, key_name=keys.name_of, open_breakers=lambda: [])
    counts.count(record)        # on the event loop, about a microsecond for each rule
    await counts.write()        # every few seconds: adds a few rows to the store

What is counted is exactly what a rule compares: the requests, and of these the ones that failed or
took longer than its threshold. So nothing has to be estimated from a histogram.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from hashlib import sha256

import msgspec

from providers.errors import StoreError
from router.config.alerts import WINDOWS, AlertRule
from router.gateway.telemetry import OTHER, made_up_name
from router.records import Record
from router.rounds import Rounds
from router.store.alerts import AlertCount, AlertStore
from router.store.columns.rollouts import has_failed

log = logging.getLogger("evalrouter")

EVERY_S = 5.0
# The counter of targets whose breaker is open, one count for each time they were looked at.
BREAKERS = "breaker"
BREAKER_SLICE_S = 5.0
# How long these are needed, in seconds.
BREAKER_WINDOW = {BREAKERS: 8 * BREAKER_SLICE_S}
# Sets of labels of one rule that are counted between two writes; further ones are "other".
MAX_LABELS = 1000
# What could not be written for so long is no longer about now. What was spent still is.
STALE_S = 60.0
# Of a burn rate, the short window is this part of the long one.
SHORT_PART = 12


def counter_of(name: str, rule: AlertRule) -> str:
    """Return the name of a rule's counter: another one where other requests count."""
    threshold = rule.threshold() if rule.subject in ("first_byte", "duration") else None
    counted = (rule.subject, threshold, rule.window(), rule.groups(), rule.routes, rule.targets)
    digest = sha256(msgspec.json.encode((*counted, rule.keys))).hexdigest()
    return f"{name}:{digest[:16]}"


def slice_of(rule: AlertRule) -> float:
    """Return the seconds of the slices that a rule's requests are added up in."""
    return rule.window() / (5 * SHORT_PART if rule.subject == "burn" else 30)


class _Sum:
    """What is counted for one rule and its labels, and not written yet."""

    __slots__ = ("exceeded", "requests", "usd")

    def __init__(self) -> None:
        self.requests = 0
        self.exceeded = 0
        self.usd = 0.0


class _Counter:
    """What one rule counts."""

    __slots__ = ("_groups", "_keys", "_routes", "_subject", "_targets", "_threshold", "name",
                 "slice_s", "sums")  # fmt: skip

    def __init__(self, name: str, rule: AlertRule) -> None:
        self.name = counter_of(name, rule)
        self.slice_s = slice_of(rule)
        self.sums: dict[tuple[str, ...], _Sum] = {}
        self._subject = rule.subject
        self._threshold = rule.threshold()
        self._groups = rule.groups()
        self._routes = frozenset(rule.routes)
        self._targets = frozenset(rule.targets)
        self._keys = frozenset(rule.keys)

    def count(self, record: Record, names: Mapping[str, str]) -> None:
        """Count a request; `names` are its route, target and key."""
        if (
            (self._routes and names["route"] not in self._routes)
            or (self._targets and names["target"] not in self._targets)
            or (self._keys and names["key"] not in self._keys)
        ):
            return
        subject = self._subject
        exceeded, usd = False, 0.0
        if subject in ("spend", "burn"):
            usd = record.cost_usd or 0.0
        elif record.traffic_class != "live":
            return
        elif subject == "errors":
            exceeded = _is_failure(record)
        else:
            seconds = record.first_byte_s if subject == "first_byte" else record.total_s
            if seconds is None or record.cached or record.status >= 400 or record.error_code:
                return
            exceeded = seconds > self._threshold
        labels = tuple([names[label] for label in self._groups])
        entry = self.sums.get(labels)
        if entry is None:
            if len(self.sums) >= MAX_LABELS:
                labels = (OTHER,) * len(labels)
            entry = self.sums.setdefault(labels, _Sum())
        entry.requests += 1
        entry.exceeded += exceeded
        entry.usd += usd


def _is_failure(record: Record) -> bool:
    """Return whether a request failed by a fault that is not its client's."""
    if 400 <= record.status < 500:
        # A target's own limits are the client's fault only where nothing was sent to it.
        return record.status == 429 and bool(record.attempts)
    return has_failed(record)


class AlertCounts:
    """Counts for the rules that are measured over requests.

    Args:
        rules: all rules by their names.
        store: gets the counts.
        every: seconds between two looks at the rules; counts are written as often, and at least
            every EVERY_S.
        key_name: returns the name of the key with an id.
        open_breakers: returns the targets whose breaker is open here.
    """

    def __init__(
        self,
        rules: Mapping[str, AlertRule],
        store: AlertStore,
        *,
        every: float = EVERY_S,
        key_name: Callable[[str], str],
        open_breakers: Callable[[], Iterable[str]],
    ) -> None:
        self._counters = [
            _Counter(name, rule) for name, rule in rules.items() if rule.subject in WINDOWS
        ]
        self._has_breakers = any(rule.subject == "breaker" for rule in rules.values())
        self._store = store
        self._key_name = key_name
        self._open_breakers = open_breakers
        self._unwritten: dict[tuple[str, tuple[str, ...]], AlertCount] = {}
        self._unwritten_since = 0.0
        self._rounds = Rounds(
            self.write,
            every=min(every, EVERY_S),
            name="evalrouter-alert-counts",
            failing="alerts miss counts",
            finishes=True,
        )

    @property
    def is_needed(self) -> bool:
        """Whether any rule counts requests."""
        return bool(self._counters)

    async def open(self) -> None:
        """Begin to write, inside the running event loop."""
        if self._counters or self._has_breakers:
            self._rounds.open()

    async def close(self) -> None:
        """Write what is left, and stop."""
        await self._rounds.close()
        try:
            await self.write()
        except StoreError as error:
            log.warning("alerts miss the last counts: %s", error.message)

    def count(self, record: Record) -> None:
        """Count a completed record, on the event loop."""
        if record.error_code and made_up_name(record) is not None:
            # Everybody could make labels of names that nothing has.
            return
        names = {
            "route": record.route,
            "target": record.target_name(),
            "key": self._key_name(record.key_id) if record.key_id else "",
        }
        for counter in self._counters:
            counter.count(record, names)

    async def write(self) -> None:
        """Add to the store what was counted since the last time.

        Raises:
            StoreError: it cannot be written; it is tried again the next time.
        """
        counts = self._taken()
        if not counts:
            return
        try:
            await self._store.add_alert_counts(counts)
        except BaseException:
            self._put_back(counts)
            raise
        self._unwritten_since = 0.0

    def _taken(self) -> list[AlertCount]:
        unwritten, self._unwritten = self._unwritten, {}
        for counter in self._counters:
            sums, counter.sums = counter.sums, {}
            for labels, entry in sums.items():
                earlier = unwritten.get((counter.name, labels))
                unwritten[counter.name, labels] = AlertCount(
                    counter=counter.name,
                    slice_s=counter.slice_s,
                    labels=labels,
                    requests=entry.requests + (earlier.requests if earlier else 0),
                    exceeded=entry.exceeded + (earlier.exceeded if earlier else 0),
                    usd=entry.usd + (earlier.usd if earlier else 0.0),
                )
        counts = list(unwritten.values())
        if self._has_breakers:
            counts += [
                AlertCount(counter=BREAKERS, slice_s=BREAKER_SLICE_S, labels=(target,), requests=1)
                for target in set(self._open_breakers())
            ]
        return counts

    def _put_back(self, counts: Iterable[AlertCount]) -> None:
        now = asyncio.get_running_loop().time()
        if not self._unwritten_since:
            self._unwritten_since = now
        is_stale = now - self._unwritten_since > STALE_S
        if is_stale:
            self._unwritten_since = now
        for count in counts:
            if count.counter == BREAKERS or (is_stale and not count.usd):
                continue
            self._unwritten[count.counter, count.labels] = (
                msgspec.structs.replace(count, requests=0, exceeded=0) if is_stale else count
            )
