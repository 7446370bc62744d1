"""Metrics for Prometheus, and where a request stands in a distributed trace.

    telemetry = Telemetry(config.telemetry, kinds)
    telemetry.open_streams += 1                     # the only metric that the hot path touches
    trace = telemetry.child_traceparent(headers.get(b"traceparent"))
    telemetry.count(record)                         # everything else comes from records
    telemetry.watch("breaker_open", read, labels=("target",), help="...")   # asked at each scrape
    body, content_type = telemetry.exposition(accept)

prometheus-client writes the text and describes the process. The numbers themselves are plain
dictionaries and lists: one labelled `observe` costs more than all that `count` does here.
Nothing is global: two `ProcessMetrics` objects know nothing of each other.

With several workers, each writes its numbers into a folder that all share (`share`), and a scrape
of any of them adds them up. Gauges are shown per worker; a dead worker's counts stay in the sums.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random as random_module
import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec
from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from providers.errors import MissingExtraError
from router.config import schema
from router.gateway.routing import MAX_TARGETS
from router.records import Record, Trace

if TYPE_CHECKING:
    from router.gateway.tracing import Traces

log = logging.getLogger("evalrouter")

# Those of OpenTelemetry's GenAI conventions (gen_ai.client.operation.duration), to the time-out.
SECONDS = (
    *(0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92),
    *(163.84, 327.68, 655.36),
)
# Those of gen_ai.server.time_to_first_token, and two more for reasoning.
FIRST_BYTE = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0),
    *(30.0, 120.0),
)

# Instead of names beyond MAX_TARGETS, and of those that a provider does not know.
OTHER = "other"

_TRACEPARENT = re.compile(rb"(?!ff)[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?")

# Values of the labels, in the order they were declared, and the number.
MetricReading = tuple[tuple[str, ...], float]


# Class, route, target.
_Key = tuple[str, str, str]


class _Series(msgspec.Struct):
    """The counts of one class, route and target."""

    traffic_class: str = ""
    route: str = ""
    target: str = ""
    statuses: dict[int, int] = {}
    errors: dict[str, int] = {}
    seconds: list[int] = msgspec.field(default_factory=lambda: [0] * (len(SECONDS) + 1))
    seconds_sum: float = 0.0
    first_byte: list[int] = msgspec.field(default_factory=lambda: [0] * (len(FIRST_BYTE) + 1))
    first_byte_sum: float = 0.0
    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    cost_usd: float = 0.0
    unpriced: int = 0
    estimated: int = 0
    cache_hits: int = 0

    def add(self, other: _Series) -> None:
        """Add what another process counted of the same."""
        for status, number in other.statuses.items():
            self.statuses[status] = self.statuses.get(status, 0) + number
        for code, number in other.errors.items():
            self.errors[code] = self.errors.get(code, 0) + number
        self.seconds = [a + b for a, b in zip(self.seconds, other.seconds, strict=True)]
        self.first_byte = [a + b for a, b in zip(self.first_byte, other.first_byte, strict=True)]
        self.seconds_sum += other.seconds_sum
        self.first_byte_sum += other.first_byte_sum
        self.input_tokens += other.input_tokens
        self.output_tokens += other.output_tokens
        self.cached_tokens += other.cached_tokens
        self.cost_usd += other.cost_usd
        self.unpriced += other.unpriced
        self.estimated += other.estimated
        self.cache_hits += other.cache_hits


class _Snapshot(msgspec.Struct):
    """All that a process counted, as it is shared with other workers."""

    pid: int
    series: list[_Series]
    attempts: list[tuple[str, str, str, int]]
    watched: dict[str, list[MetricReading]]


class _Watch(NamedTuple):
    read: Callable[[], Iterable[MetricReading]]
    labels: tuple[str, ...]
    help: str
    counter: bool


_decode_snapshot = msgspec.json.Decoder(_Snapshot).decode


class ProcessMetrics:
    """The numbers of one process.

    Args:
        settings: whether there are traces, and where they go.
        kinds: provider's name to its kind, for traces.
        share: a folder that all workers of this server share; None for a single process.
        random: ids of spans.

    Attributes:
        registry: what is scraped; whoever has metrics of their own may register them here.
        open_streams: how many streams are open; the hot path counts it up and down.
        traces: sends finished requests as spans; None without a collector.

    Raises:
        MissingExtraError: traces are configured, and the extra `otel` is not installed.
    """

    def __init__(
        self,
        settings: schema.Telemetry,
        kinds: Mapping[str, str],
        *,
        share: Path | None = None,
        random: random_module.Random | None = None,
    ) -> None:
        self.registry = CollectorRegistry()
        self.open_streams = 0
        self.traces = _traces(settings, kinds) if settings.otlp_endpoint else None
        self._random = random or random_module.Random()  # noqa: S311 - ids, not secrets
        self._share = share
        self._series: dict[_Key, _Series] = {}
        self._attempts: Counter[tuple[str, str, str]] = Counter()
        self._watches: dict[str, _Watch] = {}
        ProcessCollector(registry=self.registry)
        self.registry.register(_Requests(self._collect))
        self.watch("open_streams", lambda: [((), self.open_streams)], help="Streams under way.")

    async def close(self) -> None:
        """Leave the counts to the other workers; send the last spans."""
        self.publish()
        if self.traces is not None:
            await asyncio.to_thread(self.traces.close)

    def watch(
        self,
        name: str,
        read: Callable[[], Iterable[MetricReading]],
        *,
        labels: tuple[str, ...] = (),
        help: str = "",  # noqa: A002 - Prometheus's word
        counter: bool = False,
    ) -> None:
        """Show `evalrouter_<name>`.

        Args:
            name: in snake case, without the prefix.
            read: called at every scrape, on the event loop; gives the labels' values and a number.
            labels: their names.
            help: one sentence.
            counter: whether the number only grows; its name then ends with `_total`.
        """
        self._watches[name] = _Watch(read, labels, help, counter)

    def child_traceparent(self, incoming: bytes | None) -> Trace | None:
        """A span of this request's own in the client's trace, or in a new one.

        Args:
            incoming: the request's `traceparent`; None or nonsense begins a new trace.

        Returns:
            None while there are no traces: then the client's header should go on as it came.
        """
        if self.traces is None:
            return None
        span_id = self._random.getrandbits(64) or 1
        found = None if incoming is None else _TRACEPARENT.fullmatch(incoming)
        if found is not None:
            trace_id, parent_id = int(found[1], 16), int(found[2], 16)
            if trace_id and parent_id:
                sampled = bool(int(found[3], 16) & 1)
                header = f"00-{trace_id:032x}-{span_id:016x}-{'01' if sampled else '00'}"
                return Trace(header, trace_id, span_id, parent_id, sampled)
        trace_id = self._random.getrandbits(128) or 1
        return Trace(f"00-{trace_id:032x}-{span_id:016x}-01", trace_id, span_id, None, True)

    def count(self, record: Record) -> None:
        """Count a completed record. On the event loop, in about two microseconds."""
        made_up = _made_up(record) if record.error_code else None
        key = (record.traffic_class, record.route, record.asked())
        if made_up is not None:
            key = (record.traffic_class, made_up, made_up)
        series = self._series.get(key)
        if series is None:
            series = _series_of(self._series, key)
        status = record.status
        series.statuses[status] = series.statuses.get(status, 0) + 1
        if record.error_code:
            series.errors[record.error_code] = series.errors.get(record.error_code, 0) + 1
        series.seconds[bisect_left(SECONDS, record.total_s)] += 1
        series.seconds_sum += record.total_s
        if record.first_byte_s is not None:
            series.first_byte[bisect_left(FIRST_BYTE, record.first_byte_s)] += 1
            series.first_byte_sum += record.first_byte_s
        if record.cached:
            series.cache_hits += 1
        elif record.cost_usd is None:
            series.unpriced += 1
        else:
            series.cost_usd += record.cost_usd
        if not record.cached:
            series.input_tokens += (record.prompt_tokens or 0) + record.lost_tokens
            series.estimated += record.estimated
            series.output_tokens += record.completion_tokens or 0
            series.cached_tokens += record.cached_tokens
        for attempt in record.attempts:
            tried = (record.traffic_class, made_up or attempt.target, attempt.result)
            self._attempts[_capped(self._attempts, tried)] += 1

    def exposition(self, accept: str = "") -> tuple[bytes, str]:
        """All metrics as text, in the format the scraper accepts, and its content type."""
        encode, content_type = choose_encoder(accept)
        return encode(self.registry), content_type

    def publish(self) -> None:
        """Write this process's counts where the other workers find them."""
        if self._share is None:
            return
        mine = self._snapshot()
        path = self._share / f"{mine.pid}.json"
        fresh = path.with_suffix(".new")
        try:
            fresh.write_bytes(msgspec.json.encode(mine))
            fresh.replace(path)
        except OSError as error:
            log.warning("other workers do not see this one's metrics: %s", error)

    def _snapshot(self) -> _Snapshot:
        return _Snapshot(
            pid=os.getpid(),
            series=list(self._series.values()),
            attempts=[(*key, number) for key, number in self._attempts.items()],
            watched={name: list(self._read(name, watch)) for name, watch in self._watches.items()},
        )

    def _read(self, name: str, watch: _Watch) -> Iterable[MetricReading]:
        try:
            readings = islice(watch.read(), MAX_TARGETS)
            return [(labels, float(value)) for labels, value in readings]
        except Exception:
            # The other metrics are still true, and a gap shows that this one is not known.
            log.exception("the metric %s could not be read", name)
            return []

    def _snapshots(self) -> Iterator[_Snapshot]:
        mine = self._snapshot()
        yield mine
        if self._share is None:
            return
        for path in self._share.glob("*.json"):
            if path.stem != str(mine.pid):
                theirs = _decode_snapshot(path.read_bytes())
                if not _is_alive(theirs.pid):
                    theirs.watched = {}
                yield theirs

    def _collect(self) -> Iterable[Metric]:
        """Every metric, added up over the workers."""
        series: dict[_Key, _Series] = {}
        attempts: Counter[tuple[str, str, str]] = Counter()
        watched = {
            name: _watched(name, watch, self._share) for name, watch in self._watches.items()
        }
        for snapshot in self._snapshots():
            for one in snapshot.series:
                _series_of(series, (one.traffic_class, one.route, one.target)).add(one)
            for traffic_class, target, result, number in snapshot.attempts:
                attempts[_capped(attempts, (traffic_class, target, result))] += number
            worker = () if self._share is None else (str(snapshot.pid),)
            for name, readings in snapshot.watched.items():
                for labels, value in readings:
                    watched[name].add_metric((*labels, *worker), value)
        yield from _families(series.values())
        tried = CounterMetricFamily(
            "evalrouter_attempts",
            "Requests to targets, retries and hedges included, and targets that were passed over.",
            labels=("class", "target", "result"),
        )
        for labels, number in attempts.items():
            tried.add_metric(labels, number)
        yield tried
        yield from watched.values()


def _made_up(record: Record) -> str | None:
    """Return what to call a name that a client made up; None for one that somebody knows."""
    if record.error_code == "model_not_found":
        return ""
    if record.error_code == "upstream_404" and record.target is None:
        asked = record.asked()
        # A route's targets are the config's.
        if asked == record.route:
            return f"{asked.partition('/')[0]}/{OTHER}"
    return None


def _series_of(series: dict[_Key, _Series], key: _Key) -> _Series:
    """Return the series of a key, or the one of all that are too many."""
    if key not in series and len(series) >= MAX_TARGETS:
        key = (key[0], OTHER, OTHER)
    if key not in series:
        series[key] = _Series(*key)
    return series[key]


def _capped(attempts: Counter[tuple[str, str, str]], tried: tuple[str, str, str]) -> _Key:
    """Return what an attempt counts as."""
    if tried not in attempts and len(attempts) >= MAX_TARGETS:
        return tried[0], OTHER, tried[2]
    return tried


def _traces(settings: schema.Telemetry, kinds: Mapping[str, str]) -> Traces:
    try:
        from router.gateway.tracing import Traces  # noqa: PLC0415 - an extra, imported when it is asked for
    except ImportError as error:
        raise MissingExtraError("telemetry.otlp_endpoint", "otel") from error
    return Traces(settings, kinds)


class _Requests(Collector):
    def __init__(self, collect: Callable[[], Iterable[Metric]]) -> None:
        self._collect = collect

    def collect(self) -> Iterable[Metric]:
        return self._collect()

    def describe(self) -> Iterable[Metric]:
        # Asked for when registering, before there is anything to collect.
        return []


def _families(series: Iterable[_Series]) -> Iterable[Metric]:
    """The metrics that count requests."""
    by = ("class", "route", "target")
    requests = CounterMetricFamily(
        "evalrouter_requests", "Requests that have ended.", labels=(*by, "status")
    )
    errors = CounterMetricFamily(
        "evalrouter_errors", "Requests that failed, by the error's code.", labels=(*by, "code")
    )
    seconds = HistogramMetricFamily(
        "evalrouter_request_seconds", "From a request to the last byte of its answer.", labels=by
    )
    first_byte = HistogramMetricFamily(
        "evalrouter_first_byte_seconds",
        "From a request to the first byte of its answer.",
        labels=by,
    )
    tokens = CounterMetricFamily(
        "evalrouter_tokens",
        "Tokens, as targets counted them, else as estimated.",
        labels=(*by, "type"),
    )
    cost = CounterMetricFamily("evalrouter_cost_usd", "US dollars, where known.", labels=by)
    unpriced = CounterMetricFamily(
        "evalrouter_unpriced_requests", "Requests whose cost is not known.", labels=by
    )
    estimated = CounterMetricFamily(
        "evalrouter_estimated_requests",
        "Requests whose tokens are estimated, because a target did not count them.",
        labels=by,
    )
    hits = CounterMetricFamily(
        "evalrouter_cache_hits", "Requests that the response cache answered.", labels=by
    )
    for one in series:
        labels = (one.traffic_class, one.route, one.target)
        for status, number in one.statuses.items():
            requests.add_metric((*labels, str(status)), number)
        for code, number in one.errors.items():
            errors.add_metric((*labels, code), number)
        seconds.add_metric(labels, _cumulative(SECONDS, one.seconds), one.seconds_sum)
        first_byte.add_metric(labels, _cumulative(FIRST_BYTE, one.first_byte), one.first_byte_sum)
        tokens.add_metric((*labels, "input"), one.input_tokens)
        tokens.add_metric((*labels, "input_cached"), one.cached_tokens)
        tokens.add_metric((*labels, "output"), one.output_tokens)
        cost.add_metric(labels, one.cost_usd)
        unpriced.add_metric(labels, one.unpriced)
        estimated.add_metric(labels, one.estimated)
        hits.add_metric(labels, one.cache_hits)
    return (requests, errors, seconds, first_byte, tokens, cost, unpriced, estimated, hits)


def _cumulative(bounds: tuple[float, ...], counts: list[int]) -> list[tuple[str, float]]:
    """Prometheus's buckets: each counts what is at most its bound."""
    buckets, below = [], 0
    for bound, number in zip((*map(str, bounds), "+Inf"), counts, strict=True):
        below += number
        buckets.append((bound, float(below)))
    return buckets


def _watched(
    name: str, watch: _Watch, share: Path | None
) -> CounterMetricFamily | GaugeMetricFamily:
    labels = watch.labels if share is None else (*watch.labels, "worker")
    family = CounterMetricFamily if watch.counter else GaugeMetricFamily
    return family(f"evalrouter_{name}", watch.help or name, labels=labels)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
