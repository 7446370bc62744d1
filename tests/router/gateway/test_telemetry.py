"""Metrics as a scraper reads them."""

import asyncio
import os
import subprocess
import sys
import threading

import httpx
import pytest
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families
from servers import gateway

from router.gateway.routing import MAX_TARGETS
from router.gateway.telemetry import ProcessMetrics
from router.records import Attempt, Record, Target

MINI = Target("mine", "gpt-4o-mini")


def record(**changes):
    known = {
        "id": "req_1",
        "at": 1000.25,
        "route": "r",
        "target": MINI,
        "status": 200,
        "first_byte_s": 0.03,
        "total_s": 1.5,
        "attempts": [Attempt("mine/gpt-4o-mini", "ok", 200, 0.03)],
        "prompt_tokens": 1000,
        "completion_tokens": 100,
        "cached_tokens": 400,
        "cost_usd": 0.5,
        "model": "gpt-4o-mini-2024-07-18",
        "finish_reason": "stop",
    }
    return Record(**(known | changes))


def exposed(telemetry, accept=""):
    return asyncio.run(telemetry.exposition(accept))


def scraped(telemetry, accept=""):
    """Name and labels to value."""
    text, _ = exposed(telemetry, accept)
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


def value(metrics, name, **labels):
    return metrics.get((f"evalrouter_{name}", *sorted(labels.items())))


LIVE = {"class": "live", "route": "r", "target": "mine/gpt-4o-mini"}
EVAL = LIVE | {"class": "eval"}


@pytest.fixture
def telemetry():
    return ProcessMetrics()


def test_requests_are_counted_by_class_route_target_and_status(telemetry):
    for changes in (
        {},
        {},
        {"traffic_class": "eval"},
        {"status": 503, "error_code": "upstream_error"},
    ):
        telemetry.count(record(**changes))
    metrics = scraped(telemetry)
    assert value(metrics, "requests_total", **LIVE, status="200") == 2
    assert value(metrics, "requests_total", **LIVE, status="503") == 1
    assert value(metrics, "requests_total", **EVAL, status="200") == 1
    assert value(metrics, "errors_total", **LIVE, code="upstream_error") == 1
    assert value(metrics, "errors_total", **EVAL, code="upstream_error") is None
    assert value(metrics, "request_seconds_count", **LIVE) == 3
    assert value(metrics, "request_seconds_sum", **LIVE) == 4.5


def test_buckets_hold_times_up_to_their_bound(telemetry):
    for seconds in (0.0, 0.01, 0.010001, 81.92, 700.0):
        telemetry.count(record(total_s=seconds, first_byte_s=seconds if seconds < 1 else None))
    metrics = scraped(telemetry)

    def below(bound):
        return value(metrics, "request_seconds_bucket", **LIVE, le=bound)

    assert [below(bound) for bound in ("0.01", "0.02", "81.92", "655.36", "+Inf")] == [
        2,
        3,
        4,
        4,
        5,
    ]
    assert value(metrics, "first_byte_seconds_count", **LIVE) == 3


def test_tokens_cost_and_what_is_not_known(telemetry):
    telemetry.count(record())
    unknown = {"prompt_tokens": None, "completion_tokens": None, "cached_tokens": 0}
    telemetry.count(record(cost_usd=None, **unknown))
    telemetry.count(record(cached=True, cost_usd=0.0))
    metrics = scraped(telemetry)
    assert value(metrics, "tokens_total", **LIVE, type="input") == 1000
    assert value(metrics, "tokens_total", **LIVE, type="input_cached") == 400
    assert value(metrics, "tokens_total", **LIVE, type="output") == 100
    assert value(metrics, "cost_usd_total", **LIVE) == 0.5
    assert value(metrics, "unpriced_requests_total", **LIVE) == 1
    assert value(metrics, "cache_hits_total", **LIVE) == 1


def test_attempts_are_counted_by_result(telemetry):
    failed = Attempt("far/m", "upstream_unreachable", None, 0.1)
    telemetry.count(record(attempts=[failed, failed, Attempt("mine/gpt-4o-mini", "ok", 200, 0.1)]))
    metrics = scraped(telemetry)
    tried = {"class": "live", "target": "far/m", "result": "upstream_unreachable"}
    assert value(metrics, "attempts_total", **tried) == 2
    ok = {"class": "live", "target": "mine/gpt-4o-mini", "result": "ok"}
    assert value(metrics, "attempts_total", **ok) == 1


def test_the_target_that_failed_is_known_without_an_answer(telemetry):
    failed = Attempt("far/m", "upstream_error", 503, 0.1)
    telemetry.count(record(target=None, status=503, attempts=[failed], error_code="upstream_error"))
    labels = LIVE | {"target": "far/m", "status": "503"}
    assert value(scraped(telemetry), "requests_total", **labels) == 1


def test_invented_model_names_do_not_become_series(telemetry):
    for n in range(50):
        telemetry.count(
            record(
                route=f"x{n}", target=None, attempts=[], status=404, error_code="model_not_found"
            )
        )
    for n in range(MAX_TARGETS + 50):
        telemetry.count(record(route=f"mine/{n}", target=Target("mine", str(n)), attempts=[]))
    lines = exposed(telemetry)[0].decode().splitlines()
    counts = [line for line in lines if line.startswith("evalrouter_request_seconds_count{")]
    assert len(counts) <= MAX_TARGETS + 1
    nothing = 'evalrouter_requests_total{class="live",route="",status="404",target=""} 50.0'
    other = 'evalrouter_requests_total{class="live",route="other",status="200",target="other"} 51.0'
    assert {nothing, other} <= set(lines)


def test_names_that_a_provider_does_not_know_are_counted_together(telemetry):
    for n in range(50):
        name = f"mine/x{n}"
        failed = Attempt(name, "upstream_404", 404, 0.1)
        telemetry.count(
            record(
                route=name, target=None, attempts=[failed], status=404, error_code="upstream_404"
            )
        )
    typo = Attempt("mine/typo", "upstream_404", 404, 0.1)
    telemetry.count(record(target=None, attempts=[typo], status=404, error_code="upstream_404"))
    metrics = scraped(telemetry)
    others = {"class": "live", "route": "mine/other", "target": "mine/other"}
    assert value(metrics, "requests_total", **others, status="404") == 50
    tried = {"class": "live", "target": "mine/other", "result": "upstream_404"}
    assert value(metrics, "attempts_total", **tried) == 50
    # What a route names is the config's.
    assert value(metrics, "requests_total", **LIVE | {"target": "mine/typo"}, status="404") == 1
    assert "mine/x" not in exposed(telemetry)[0].decode()


def lines_of(text, family):
    return [line for line in text.splitlines() if line.startswith(f"evalrouter_{family}{{")]


def test_every_family_has_one_cap_whatever_there_is_to_show(telemetry):
    many = range(MAX_TARGETS + 50)
    telemetry.watch(
        "breaker_open", lambda: [((f"mine/{n}",), 1.0) for n in many], labels=("target",)
    )
    for n in many:
        failed = Attempt(f"mine/{n}", "upstream_timeout", None, 0.1)
        telemetry.count(
            record(
                route="r", target=None, attempts=[failed], status=504, error_code="upstream_timeout"
            )
        )
    text = exposed(telemetry)[0].decode()
    for family in ("requests_total", "errors_total", "cost_usd_total", "attempts_total"):
        assert len(lines_of(text, family)) == MAX_TARGETS + 1, family
    assert len(lines_of(text, "breaker_open")) == MAX_TARGETS


def test_the_cap_holds_for_all_workers_together(tmp_path):
    share = MAX_TARGETS * 3 // 4
    for worker in range(2):
        telemetry = ProcessMetrics(share=tmp_path)
        for n in range(share):
            name = f"{worker}-{n}"
            tried = [Attempt(f"mine/{name}", "ok", 200, 0.1)]
            telemetry.count(record(target=Target("mine", name), attempts=tried))
        asyncio.run(telemetry.publish())
        if worker == 0:
            [file] = tmp_path.glob("*.json")
            file.rename(tmp_path / "1.json")
    text = exposed(telemetry)[0].decode()
    for family in ("requests_total", "attempts_total"):
        lines = lines_of(text, family)
        assert len(lines) == MAX_TARGETS + 1, family
        assert sum(float(line.rpartition(" ")[2]) for line in lines) == 2 * share


def test_any_name_can_be_a_label(telemetry):
    name = 'a"b\\c\nd é 模型'
    telemetry.count(record(route=name))
    assert value(scraped(telemetry), "requests_total", **LIVE | {"route": name}, status="200") == 1


def test_what_is_watched_is_read_at_each_scrape(telemetry):
    open_breakers = {"a/m": 1.0}
    telemetry.watch(
        "breaker_open", lambda: [((k,), v) for k, v in open_breakers.items()], labels=("target",)
    )
    telemetry.watch("lost", lambda: [((), 3)], counter=True)
    telemetry.open_streams += 2
    metrics = scraped(telemetry)
    assert value(metrics, "breaker_open", target="a/m") == 1
    assert value(metrics, "lost_total") == 3
    assert value(metrics, "open_streams") == 2
    open_breakers["a/m"] = 0.0
    telemetry.open_streams -= 2
    metrics = scraped(telemetry)
    assert value(metrics, "breaker_open", target="a/m") == 0
    assert value(metrics, "open_streams") == 0


def test_one_that_cannot_be_read_leaves_the_others(telemetry, caplog):
    telemetry.watch("broken", lambda: [((), 1 / 0)])
    telemetry.count(record())
    metrics = scraped(telemetry)
    assert value(metrics, "broken") is None
    assert value(metrics, "requests_total", **LIVE, status="200") == 1
    assert "the metric broken could not be read" in caplog.text


def test_both_formats_are_valid(telemetry):
    telemetry.count(record(status=500, error_code="x"))
    text, content_type = exposed(telemetry, "application/openmetrics-text; version=1.0.0")
    assert content_type.startswith("application/openmetrics-text")
    names = {one.name for one in openmetrics.text_string_to_metric_families(text.decode())}
    assert {"evalrouter_requests", "evalrouter_request_seconds"} <= names
    text, content_type = exposed(telemetry, "text/plain")
    assert content_type.startswith("text/plain")
    assert b"process_resident_memory_bytes" in text


def test_two_of_them_know_nothing_of_each_other():
    one, other = ProcessMetrics(), ProcessMetrics()
    one.count(record())
    assert value(scraped(other), "requests_total", **LIVE, status="200") is None


class Waiting:
    """A collector that waits until it is let go."""

    def __init__(self):
        self.began, self.go_on = threading.Event(), threading.Event()

    def describe(self):
        return []

    def collect(self):
        self.began.set()
        assert self.go_on.wait(10)
        return []


async def test_the_event_loop_goes_on_while_the_text_is_written(telemetry):
    waiting = Waiting()
    telemetry.registry.register(waiting)
    telemetry.count(record())
    scraping = asyncio.create_task(telemetry.exposition())
    await asyncio.wait_for(asyncio.to_thread(waiting.began.wait), 5)
    # The scrape shows the numbers of the moment at which it began.
    telemetry.count(record(status=503, error_code="upstream_error"))
    waiting.go_on.set()
    text = (await scraping)[0].decode()
    assert 'status="200"' in text
    assert 'status="503"' not in text


# Workers

OTHER_WORKER = """
import asyncio
import sys
from pathlib import Path
from router.records import Record
from router.records import Target
from router.gateway.telemetry import ProcessMetrics

telemetry = ProcessMetrics(share=Path(sys.argv[1]))
telemetry.count(Record(id="x", at=0.0, route="r", target=Target("mine", "gpt-4o-mini"), status=200,
                       total_s=0.001, cost_usd=0.25))
telemetry.open_streams = 7
asyncio.run(telemetry.publish())
print("published", flush=True)
sys.stdin.read()
"""


def test_one_scrape_shows_all_workers(tmp_path):
    mine = ProcessMetrics(share=tmp_path)
    mine.count(record())
    mine.open_streams = 1
    asyncio.run(mine.publish())
    other = subprocess.Popen(
        [sys.executable, "-c", OTHER_WORKER, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert other.stdout.readline() == b"published\n"
        metrics = scraped(mine)
        assert value(metrics, "requests_total", **LIVE, status="200") == 2
        assert value(metrics, "cost_usd_total", **LIVE) == 0.75
        assert value(metrics, "request_seconds_bucket", **LIVE, le="0.01") == 1
        assert value(metrics, "open_streams", worker=str(os.getpid())) == 1
        assert value(metrics, "open_streams", worker=str(other.pid)) == 7
    finally:
        other.communicate()
    # What it counted stays true; what it had open is gone with it.
    metrics = scraped(mine)
    assert value(metrics, "requests_total", **LIVE, status="200") == 2
    assert value(metrics, "open_streams", worker=str(other.pid)) is None


# Over HTTP


def test_metrics_over_http(tmp_path):
    config = (
        f'storage: {{database: "sqlite:///{tmp_path}/m.db"}}\nserver: {{port: 0}}\n'
        "providers: {floor: {kind: baseline}}"
    )
    with gateway(config) as url:
        plain = httpx.get(f"{url}/metrics")
        openmetrics_ = httpx.get(
            f"{url}/metrics", headers={"accept": "application/openmetrics-text"}
        )
    assert plain.headers["content-type"].startswith("text/plain; version=")
    names = {family.name for family in text_string_to_metric_families(plain.text)}
    assert {
        "evalrouter_requests",
        "evalrouter_open_streams",
        "evalrouter_traffic_queue",
        "evalrouter_traffic_dropped",
        "evalrouter_cache_bytes",
    } <= names
    assert openmetrics_.headers["content-type"].startswith("application/openmetrics-text")
    assert openmetrics_.text.endswith("# EOF\n")
