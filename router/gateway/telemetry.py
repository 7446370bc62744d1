"""Counts requests for Prometheus.

    telemetry = ProcessMetrics()
    telemetry.open_streams += 1                     # the only metric that the hot path touches
    telemetry.count(record)                         # everything else comes from records
    telemetry.watch("breaker_open", read, labels=("target",), help="...")   # read at each scrape
    body, content_type = await telemetry.exposition(accept)

prometheus-client writes the text and describes the process. The numbers themselves are plain
dictionaries and lists: one labelled `observe` costs more than all that `count` does here.
Nothing is global: two `ProcessMetrics` objects know nothing of each other.

The text of 2000 series takes most of a second to write. A scrape therefore copies the numbers on
the event loop, which takes a millisecond, and a thread does the rest.

With several workers, each writes its numbers into a folder that all share (`share`), and a scrape
of any of them adds them up. Gauges are shown per worker; a dead worker's counts stay in the sums.
"""

from __future__ import annotations

import asyncio
import logging
import os
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
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
from providers.masking import Masks
from router.config.telemetry import Telemetry
from router.gateway.routing import MAX_TARGETS
from router.gateway.spans import ProviderHosts
from router.records import Record

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

# Values of the labels, in the order they were declared, and the number.
MetricReading = tuple[tuple[str, ...], float]


# Class, route, target.
_Key = tuple[str, str, str]


class _Series(msgspec.Struct):
    """The counts of one traffic class, route and target."""

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
        """Add what another process counted for the same class, route and target."""
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
_encode_snapshot = msgspec.json.Encoder().encode


class ProcessMetrics:
    """Counts the requests of one process.

    Args:
        traces: sends finished requests as spans; None without a collector.
        share: a folder that all workers of this server share; None for a single process.

    Attributes:
        registry: other metrics to show; their collectors are called on a thread.
        open_streams: the number of streams under way; the hot path counts it up and down.
        traces: as given.
    """

    def __init__(self, traces: Traces | None = None, *, share: Path | None = None) -> None:
        self.registry = CollectorRegistry()
        self.open_streams = 0
        self.traces = traces
        self._share = share
        self._series: dict[_Key, _Series] = {}
        self._attempts: Counter[tuple[str, str, str]] = Counter()
        self._watches: dict[str, _Watch] = {}
        # One thread: scrapes and snapshots are written one after the other, in order.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="evalrouter-metrics")
        ProcessCollector(registry=self.registry)
        self.watch("open_streams", lambda: [((), self.open_streams)], help="Streams under way.")
        if traces is not None:
            self._watch_traces(traces)

    def _watch_traces(self, traces: Traces) -> None:
        self.watch(
            "spans",
            lambda: [((outcome,), number) for outcome, number in traces.spans.items()],
            labels=("outcome",),
            help="Spans that the collector of traces got (sent), did not take (refused), or for "
            "which there was no room (dropped).",
            counter=True,
        )
        self.watch(
            "annotations",
            lambda: [((outcome,), number) for outcome, number in traces.annotations.items()],
            labels=("outcome",),
            help="Scores for Phoenix: sent, refused or dropped, as for spans.",
            counter=True,
        )

    async def close(self) -> None:
        """Leave the counts to the other workers; send the last spans."""
        await self.publish()
        self._thread.shutdown(wait=False)
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

    def count(self, record: Record) -> None:
        """Count a completed record. On the event loop, in about two microseconds."""
        error_code, traffic_class, made_up = record.error_code, record.traffic_class, None
        key = (traffic_class, record.route, record.target_name())
        if error_code and (made_up := made_up_name(record)) is not None:
            key = (traffic_class, made_up, made_up)
        series = self._series.get(key)
        if series is None:
            series = _series_of(self._series, key)
        status, seconds, first_byte = record.status, record.total_s, record.first_byte_s
        series.statuses[status] = series.statuses.get(status, 0) + 1
        if error_code:
            series.errors[error_code] = series.errors.get(error_code, 0) + 1
        series.seconds[bisect_left(SECONDS, seconds)] += 1
        series.seconds_sum += seconds
        if first_byte is not None:
            series.first_byte[bisect_left(FIRST_BYTE, first_byte)] += 1
            series.first_byte_sum += first_byte
        if record.cached:
            series.cache_hits += 1
        else:
            cost_usd = record.cost_usd
            if cost_usd is None:
                series.unpriced += 1
            else:
                series.cost_usd += cost_usd
            series.input_tokens += (record.prompt_tokens or 0) + record.lost_tokens
            series.output_tokens += record.completion_tokens or 0
            if record.estimated:
                series.estimated += 1
            if record.cached_tokens:
                series.cached_tokens += record.cached_tokens
        attempts = self._attempts
        for attempt in record.attempts:
            tried: _Key = (traffic_class, made_up or attempt.target, attempt.result)
            if tried not in attempts:
                tried = _capped(attempts, tried)
            attempts[tried] += 1

    async def exposition(self, accept: str = "") -> tuple[bytes, str]:
        """Return all metrics as text, in the format the scraper accepts, and its content type."""
        encode, content_type = choose_encoder(accept)
        body = await asyncio.get_running_loop().run_in_executor(
            self._thread, self._render, encode, self._snapshot()
        )
        return body, content_type

    async def publish(self) -> None:
        """Write this process's counts where the other workers find them."""
        if self._share is None:
            return
        await asyncio.get_running_loop().run_in_executor(
            self._thread, _write_snapshot, self._share / f"{os.getpid()}.json", self._snapshot()
        )

    def _snapshot(self) -> bytes:
        """Return a copy of the counts, as JSON: the quickest copy there is."""
        return _encode_snapshot(
            _Snapshot(
                pid=os.getpid(),
                series=list(self._series.values()),
                attempts=[(*key, number) for key, number in self._attempts.items()],
                watched={
                    name: list(self._read(name, watch)) for name, watch in self._watches.items()
                },
            )
        )

    def _read(self, name: str, watch: _Watch) -> Iterable[MetricReading]:
        try:
            readings = islice(watch.read(), MAX_TARGETS)
            return [(labels, float(value)) for labels, value in readings]
        except Exception:
            # The other metrics are still true, and a gap shows that this one is not known.
            log.exception("the metric %s could not be read", name)
            return []

    # on the thread

    def _render(self, encode: Callable[[Collector], bytes], snapshot: bytes) -> bytes:
        return encode(_Scrape(self.registry, self._collect(snapshot)))

    def _snapshots(self, encoded: bytes) -> Iterator[_Snapshot]:
        """Yield this process's snapshot and those that the other workers have published."""
        mine = _decode_snapshot(encoded)
        yield mine
        if self._share is None:
            return
        for path in self._share.glob("*.json"):
            if path.stem != str(mine.pid):
                theirs = _decode_snapshot(path.read_bytes())
                if not _is_alive(theirs.pid):
                    theirs.watched = {}
                yield theirs

    def _collect(self, encoded: bytes) -> Iterable[Metric]:
        """Yield every metric of the requests, added up over the workers."""
        series: dict[_Key, _Series] = {}
        attempts: Counter[tuple[str, str, str]] = Counter()
        watches = dict(self._watches)
        watched = {name: _watched(name, watch, self._share) for name, watch in watches.items()}
        for snapshot in self._snapshots(encoded):
            for counts in snapshot.series:
                key = (counts.traffic_class, counts.route, counts.target)
                _series_of(series, key).add(counts)
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


def _write_snapshot(path: Path, encoded: bytes) -> None:
    fresh = path.with_suffix(".new")
    try:
        fresh.write_bytes(encoded)
        fresh.replace(path)
    except OSError as error:
        log.warning("other workers do not see this one's metrics: %s", error)


def made_up_name(record: Record) -> str | None:
    """Return what to count a name as that a client made up; None for a name that exists."""
    if record.error_code == "model_not_found":
        return ""
    if record.error_code == "upstream_404" and record.target is None:
        target = record.target_name()
        # A route's targets are the config's.
        if target == record.route:
            return f"{target.partition('/')[0]}/{OTHER}"
    return None


def _series_of(series: dict[_Key, _Series], key: _Key) -> _Series:
    """Return the series of a key, or the one of all that are too many."""
    if key not in series and len(series) >= MAX_TARGETS:
        key = (key[0], OTHER, OTHER)
    if key not in series:
        series[key] = _Series(*key)
    return series[key]


def _capped(attempts: Counter[tuple[str, str, str]], tried: tuple[str, str, str]) -> _Key:
    """Return what the first attempt of its kind counts as."""
    if len(attempts) >= MAX_TARGETS:
        return tried[0], OTHER, tried[2]
    return tried


def open_traces(settings: Telemetry, hosts: ProviderHosts, masks: Masks) -> Traces | None:
    """Return what sends spans; None where the config names no collector.

    Raises:
        MissingExtraError: traces are configured, and the extra `otel` is not installed.
    """
    if not settings.otlp_endpoint:
        return None
    try:
        from router.gateway.tracing import Traces  # noqa: PLC0415 - an extra, imported where traces are configured
    except ImportError as error:
        raise MissingExtraError("telemetry.otlp_endpoint", "otel") from error
    return Traces(settings, hosts, masks)


class _Scrape(Collector):
    """The metrics of one scrape: what is registered, and what is counted here."""

    def __init__(self, registry: Collector, counted: Iterable[Metric]) -> None:
        self._registry = registry
        self._counted = counted

    def collect(self) -> Iterable[Metric]:
        yield from self._registry.collect()
        yield from self._counted


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
    for counts in series:
        labels = (counts.traffic_class, counts.route, counts.target)
        for status, number in counts.statuses.items():
            requests.add_metric((*labels, str(status)), number)
        for code, number in counts.errors.items():
            errors.add_metric((*labels, code), number)
        seconds.add_metric(labels, _cumulative(SECONDS, counts.seconds), counts.seconds_sum)
        first_byte.add_metric(
            labels, _cumulative(FIRST_BYTE, counts.first_byte), counts.first_byte_sum
        )
        tokens.add_metric((*labels, "input"), counts.input_tokens)
        tokens.add_metric((*labels, "input_cached"), counts.cached_tokens)
        tokens.add_metric((*labels, "output"), counts.output_tokens)
        cost.add_metric(labels, counts.cost_usd)
        unpriced.add_metric(labels, counts.unpriced)
        estimated.add_metric(labels, counts.estimated)
        hits.add_metric(labels, counts.cache_hits)
    return (requests, errors, seconds, first_byte, tokens, cost, unpriced, estimated, hits)


def _cumulative(bounds: tuple[float, ...], counts: list[int]) -> list[tuple[str, float]]:
    """Return Prometheus's buckets: each counts what is at most its bound."""
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
