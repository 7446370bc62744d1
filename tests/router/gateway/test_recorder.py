"""Request records: completed from an answer's last bytes, counted, kept, listed, forgotten."""

import asyncio
import json
import sqlite3
import time
from contextlib import asynccontextmanager, closing
from hashlib import sha256

import httpx
import pytest
from servers import gateway

from providers.base import Translation
from providers.errors import StoreError, StoreUnavailableError
from providers.http import sse
from router.config.loading import parse
from router.config.routes import Route, RouteTarget
from router.config.schema import Config
from router.config.storage import Storage
from router.gateway.dialects import TAIL_BYTES
from router.gateway.prices import PriceBook
from router.gateway.recorder import HEAD_BYTES, MAX_BODY_BYTES, Traffic, settle
from router.records import Attempt, Odds, Record, Target, Trace
from router.store.sqlite import SqliteStore
from router.store.traffic import TrafficFilter

PROVIDERS = """
providers:
  openai: {kind: openai, api_key: k}
  laptop: {kind: llamafile, base_url: "http://127.0.0.1:1/v1"}
  floor: {kind: baseline}
"""
DAY = 86400
MINI = Target("openai", "gpt-4o-mini")
USAGE = {
    "prompt_tokens": 1000,
    "completion_tokens": 100,
    "total_tokens": 1100,
    "prompt_tokens_details": {"cached_tokens": 400, "audio_tokens": 0},
    "completion_tokens_details": {"reasoning_tokens": 0},
}


@pytest.fixture(scope="module")
def prices():
    config = parse(PROVIDERS, "test.yaml", {})
    return PriceBook(config.prices, config.providers)


def answer(content="Hello.", **changes):
    return json.dumps(
        {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "model": "gpt-4o-mini-2024-07-18",
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": content},
                    "finish_reason": "length",
                }
            ],
            "usage": USAGE,
            "system_fingerprint": "fp_1",
        }
        | changes
    ).encode()


def stream(*events, done=True, gap=b"\n\n"):
    body = b"".join(b"data: " + json.dumps(event).encode() + gap for event in events)
    return body + (b"data: [DONE]" + gap if done else b"")


def chunk(content=None, finish=None, **changes):
    delta = {} if content is None else {"content": content}
    return {
        "id": "c",
        "object": "chat.completion.chunk",
        "model": "gpt-4o-mini-2024-07-18",
        "system_fingerprint": "fp_1",
        "choices": [{"index": 0, "delta": delta, "finish_reason": finish}],
    } | changes


def record(tail=b"", **changes):
    """A record of an answer that ends with `tail`."""
    return Record(
        **(
            {
                "id": "req_1",
                "head": tail[:HEAD_BYTES] if len(tail) > TAIL_BYTES else b"",
                "at": 1000.0,
                "route": "r",
                "target": MINI,
                "status": 200,
                "total_s": 0.5,
            }
            | {"tail": tail[-TAIL_BYTES:]}
            | changes
        )
    )


def settled(prices, tail, **changes):
    filled = record(tail, **changes)
    settle(filled, prices)
    return filled


def tokens(filled):
    return (
        filled.prompt_tokens,
        filled.completion_tokens,
        filled.total_tokens,
        filled.cached_tokens,
    )


# Reading answers


def test_everything_is_read_out_of_a_body(prices):
    filled = settled(prices, answer())
    assert tokens(filled) == (1000, 100, 1100, 400)
    assert (filled.finish_reason, filled.model) == ("length", "gpt-4o-mini-2024-07-18")
    assert filled.system_fingerprint == "fp_1"
    assert filled.response_id == "chatcmpl-1"
    assert filled.cost_usd == pytest.approx((600 * 0.15 + 400 * 0.075 + 100 * 0.60) / 1e6)
    assert filled.tail == b""


TRICKS = 'x"usage"y \\"usage\\": {"prompt_tokens": 7} "finish_reason": "stop" '


def test_everything_at_the_end_of_a_long_body_is_read(prices):
    body = answer(TRICKS * 1000)
    assert len(body) > 3 * TAIL_BYTES
    filled = settled(prices, body)
    assert tokens(filled) == (1000, 100, 1100, 400)
    assert (filled.finish_reason, filled.system_fingerprint) == ("length", "fp_1")
    assert filled.response_id == "chatcmpl-1"


@pytest.mark.parametrize(
    ("beginning", "expected"),
    [
        ('{"object": "x", "id": "resp_1", "tool": {"id": "call_1"}, ', "resp_1"),
        ('{"created": 1, "id" : "resp \\"1", ', 'resp "1'),
        ('{"id": 7, ', ""),
        ('{"id": null, "more": {"id": "call_1"}, ', ""),
        ('{"tools": [{"id": "call_1"}], "id": "resp_1", ', ""),
        ('{"tool": {"id": "call_1"}, ', ""),
        ('{"first": "id", ', ""),
        (f'{{"id": "{"x" * 300}", ', f"sha256:{sha256(b'x' * 300).hexdigest()}"),
        (f'{{"first": "{"x" * 600}", "id": "late", ', ""),
    ],
)
def test_the_id_of_an_answer_is_that_of_the_whole(prices, beginning, expected):
    body = f'{beginning}"choices": [{{"id": "choice_1"}}], "text": "'.encode()
    assert settled(prices, body + b"x" * 3 * TAIL_BYTES + b'"}').response_id == expected
    assert settled(prices, body + b"cut off").response_id == expected
    whole = json.loads(body + b'"}').get("id")
    if expected == "" and isinstance(whole, str):
        expected = whole
    assert settled(prices, body + b'"}').response_id == expected


def test_a_long_list_of_embeddings_has_usage(prices):
    body = json.dumps(
        {
            "data": [{"embedding": [0.123456] * 5000, "index": 0}],
            "model": "text-embedding-3-small",
            "usage": {"prompt_tokens": 8, "total_tokens": 8},
        }
    ).encode()
    target = Target("openai", "text-embedding-3-small")
    filled = settled(prices, body, path="embeddings", target=target)
    assert (filled.prompt_tokens, filled.total_tokens) == (8, 8)
    assert filled.model == "text-embedding-3-small"
    assert filled.cost_usd == pytest.approx(8 * 0.02 / 1e6)


@pytest.mark.parametrize("padding", [0, 60, 600])
@pytest.mark.parametrize("gap", [b"\n\n", b"\r\n\r\n"], ids=["LF", "CRLF"])
def test_everything_is_read_out_of_a_stream(prices, padding, gap):
    body = stream(
        *[chunk("word ") for _ in range(padding)],
        chunk(finish="stop"),
        chunk(choices=[], usage=USAGE),
        gap=gap,
    )
    filled = settled(prices, body, stream=True)
    assert tokens(filled) == (1000, 100, 1100, 400)
    assert filled.response_id == "c"
    assert (filled.finish_reason, filled.model) == ("stop", "gpt-4o-mini-2024-07-18")
    assert filled.system_fingerprint == "fp_1"
    assert filled.cost_usd is not None


def test_the_last_of_running_counts_holds(prices):
    early = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
    body = stream(chunk("a", usage=early), chunk("b", usage=early), chunk(finish="x", usage=USAGE))
    assert settled(prices, body, stream=True).total_tokens == 1100


def test_many_events_after_the_finish_reason(prices):
    late = [chunk(choices=[], usage=USAGE)] + [{"ping": n} for n in range(9)]
    filled = settled(prices, stream(chunk(finish="stop"), *late), stream=True)
    assert (filled.finish_reason, filled.total_tokens) == ("stop", 1100)


def test_a_stream_with_comments_and_named_events(prices):
    body = (
        b": keep-alive\n\n"
        + sse.encode(json.dumps(chunk(finish="stop", usage=USAGE)).encode(), "completion")
        + b": keep-alive\n\ndata: [DONE]\n\n"
    )
    filled = settled(prices, body, stream=True)
    assert (filled.finish_reason, filled.total_tokens) == ("stop", 1100)


@pytest.mark.parametrize("events", [1, 9], ids=["at the end", "long before"])
def test_an_error_in_the_middle_of_a_stream_is_an_error(prices, events):
    body = stream(chunk("a"), {"error": {"message": "gone"}}, *[{"ping": 1}] * (events - 1))
    assert settled(prices, body, stream=True).error_code == "upstream_error_event"
    known = settled(prices, body, stream=True, error_code="upstream_timeout")
    assert known.error_code == "upstream_timeout"


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(
    "tail",
    [
        b"",
        b"<html>",
        b'{"usage": ',
        b'{"usage": {"prompt_tokens": "many"}}',
        b'{"usage": [1]}',
        b"\xff\xfe",
        b'data: {"usage":\n\n',
        b"null",
        b"[" * 20_000,
    ],
)
def test_what_cannot_be_read_says_nothing(prices, tail, streamed):
    filled = settled(prices, tail, stream=streamed)
    assert (filled.prompt_tokens, filled.total_tokens, filled.cost_usd) == (None, None, None)
    assert filled.billed_tokens() is None


@pytest.mark.parametrize("name", ["cache_write_tokens", "cache_creation_tokens"])
def test_tokens_written_to_the_hosts_cache(prices, name):
    filled = settled(prices, answer(usage=USAGE | {"prompt_tokens_details": {name: 300}}))
    assert (filled.cached_tokens, filled.written_tokens) == (0, 300)


@pytest.mark.parametrize("details", [None, [], "x", {"cached_tokens": "5"}, {"cached_tokens": -1}])
def test_odd_details_do_not_cost_the_usage(prices, details):
    filled = settled(prices, answer(usage=USAGE | {"prompt_tokens_details": details}))
    assert (filled.total_tokens, filled.cached_tokens) == (1100, 0)


def test_prompt_tokens_alone_have_a_total(prices):
    filled = settled(prices, answer(usage={"prompt_tokens": 5, "completion_tokens": 2}))
    assert filled.total_tokens == 7


@pytest.mark.parametrize(
    ("changes", "tokens_used", "cost"),
    [
        ({"target": None, "status": 502, "body": b""}, 0, 0.0),
        ({"cached": True}, 0, 0.0),
        ({"target": Target("floor", "lead-3")}, 1100, 0.0),
        ({"target": Target("laptop", "m")}, 1100, None),
        ({"body": b""}, None, None),
        ({"target": Target("floor", "lead-3"), "body": b""}, None, 0.0),
    ],
    ids=["nobody answered", "cached", "free", "no price", "no usage", "free without usage"],
)
def test_what_is_owed(prices, changes, tokens_used, cost):
    changes = {"body": answer()} | changes
    body = changes.pop("body")
    filled = record(body, **changes)
    settle(filled, prices)
    assert (filled.billed_tokens(), filled.cost_usd) == (tokens_used, cost)


# The queue and the store


class Slow(SqliteStore):
    """A store that holds back writes while it is told to, or does not work."""

    def __init__(self, path):
        super().__init__(path)
        self.free = asyncio.Event()
        self.free.set()
        self.refuse = False
        self.locked = False
        self.tried = 0

    async def keep_traffic(self, records):
        await self.free.wait()
        self.tried += 1
        if self.refuse:
            raise StoreError("the disk is full")
        if self.locked:
            raise StoreUnavailableError("it is locked", fault="locked", reason="it is locked")
        await super().keep_traffic(records)


@pytest.fixture
async def store(tmp_path):
    store = Slow(tmp_path / "t.db")
    await store.open()
    yield store
    await store.close()


@asynccontextmanager
async def traffic(store, prices, config=None, **changes):
    made = Traffic(store, prices, config or Config(), every=0.005, **changes)
    await made.open()
    try:
        yield made
    finally:
        await made.close()


FULL = {
    "id": "req_2",
    "at": 1234.5,
    "path": "chat/completions",
    "stream": False,
    "key_id": "key_1",
    "status": 200,
    "first_byte_s": 0.25,
    "attempts": [
        Attempt("openai/gpt-4o", "upstream_error", 503, 0.1),
        Attempt("openai/gpt-4o-mini", "ok", 200, 0.2),
    ],
    "translation": Translation(dropped={"seed": "the host has none"}),
    "keep": "full",
    "request": b'{"messages":[],"api_key":"very-secret"}',
    "response": answer(),
    "trace": Trace(0xABC, 1),
    "unit": "00ff",
    "first": Target("openai", "gpt-4o"),
    "odds": Odds({Target("openai", "gpt-4o"): 0.75, Target("openai", "gpt-4o-mini"): 0.25}),
    "request_bytes": 39,
}


async def test_a_record_survives_whole(store, prices):
    async with traffic(store, prices) as made:
        made.add(record(answer(), **FULL))
    row = await store.request(TrafficFilter(id="req_2"))
    assert (row.id, row.at, row.key_id, row.route) == ("req_2", 1234.5, "key_1", "r")
    assert (row.target, row.status, row.error_code) == ("openai/gpt-4o-mini", 200, "")
    assert (row.traffic_class, row.stream, row.cached) == ("live", False, False)
    assert (row.first_byte_s, row.total_s) == (0.25, 0.5)
    assert (row.prompt_tokens, row.completion_tokens, row.total_tokens) == (1000, 100, 1100)
    assert (row.cached_tokens, row.written_tokens) == (400, 0)
    assert row.cost_usd == pytest.approx(0.00018)
    assert (row.finish_reason, row.system_fingerprint) == ("length", "fp_1")
    assert row.model == "gpt-4o-mini-2024-07-18"
    assert row.attempts == tuple(FULL["attempts"])
    assert row.translation == FULL["translation"]
    assert row.trace_id == f"{0xABC:032x}"
    assert (row.unit, row.first_target, row.propensity) == ("00ff", "openai/gpt-4o", 0.75)
    assert row.choices == {"openai/gpt-4o": 0.75, "openai/gpt-4o-mini": 0.25}
    assert row.request_bytes == 39
    assert row.bodies
    assert json.loads(row.request) == {"messages": [], "api_key": "***"}
    assert row.response == answer().decode()
    # The list does not read bodies.
    [listed] = await store.traffic(TrafficFilter())
    assert (listed.bodies, listed.request) == (True, None)


async def test_no_body_is_stored_unless_it_may_be(store, prices):
    async with traffic(store, prices) as made:
        made.add(record(**FULL | {"id": "a", "keep": "metadata"}))
        made.add(record(**FULL | {"id": "b", "keep": "none"}))
        made.add(record(**FULL | {"id": "c", "response": b"x" * (MAX_BODY_BYTES + 1)}))
    assert [row.id for row in await store.traffic(TrafficFilter())] == ["c", "a"]
    assert (await store.request(TrafficFilter(id="a"))).request is None
    assert (await store.request(TrafficFilter(id="b"))) is None
    row = await store.request(TrafficFilter(id="c"))
    assert (row.request is not None, row.response) == (True, None)


async def test_every_record_is_counted_on_the_event_loop(store, prices):
    counted, loop = [], asyncio.get_running_loop()

    def count(one):
        assert asyncio.get_running_loop() is loop
        counted.append((one.id, one.billed_tokens()))

    async with traffic(store, prices, count=count) as made:
        made.add(record(answer(), id="a"))
        made.add(record(answer(), id="b", keep="none"))
        made.add(record(id="c", target=None, status=429))
    assert counted == [("a", 1100), ("b", 1100), ("c", 0)]


async def test_what_the_hot_path_settled_stays_as_it_is(store, prices):
    filled = record(answer(), **FULL)
    settle(filled, prices)
    assert (filled.total_tokens, filled.tail) == (1100, b"")
    # Taking secrets out takes long: that is left to the thread.
    assert filled.request == FULL["request"]
    async with traffic(store, prices) as made:
        made.add(filled)
    row = await store.request(TrafficFilter(id="req_2"))
    assert (row.total_tokens, row.cost_usd) == (1100, pytest.approx(0.00018))
    assert json.loads(row.request)["api_key"] == "***"


async def test_one_that_cannot_be_counted_does_not_stop_the_others(store, prices, caplog):
    counted = []

    def count(one):
        if one.id == "a":
            raise RuntimeError("no")
        counted.append(one.id)

    async with traffic(store, prices, count=count, trace=lambda one: 1 / 0) as made:
        for name in "abc":
            made.add(record(answer(), id=name, trace=Trace(1, 1)))
    assert counted == ["b", "c"]
    assert len(await store.traffic(TrafficFilter())) == 3
    assert "request a could not be counted" in caplog.text
    assert "request c could not be completed" in caplog.text


async def test_rows_are_dropped_and_counted_when_the_store_is_slow(store, prices, caplog):
    counted = []
    async with traffic(store, prices, count=counted.append, queued=10) as made:
        store.free.clear()
        for n in range(400):
            made.add(record(answer(), id=f"req_{n}"))
            await asyncio.sleep(0)
        while made.queues()["settle"]:
            await asyncio.sleep(0.001)
        assert made.queues()["write"] <= 10
        store.free.set()
    assert len(counted) == 400
    stored = await store.traffic(TrafficFilter(), limit=1000)
    assert 0 < len(stored) < 400
    assert made.dropped == 400 - len(stored)
    assert caplog.text.count("being dropped") == 1


async def test_a_full_queue_completes_records_at_once(store, prices):
    counted = []
    async with traffic(store, prices, count=counted.append, queued=5) as made:
        for n in range(8):
            made.add(record(answer(), id=f"req_{n}"))
        assert [one.id for one in counted] == ["req_5", "req_6", "req_7"]
        assert counted[0].total_tokens == 1100
    assert len(counted) == 8


async def test_long_bodies_fill_the_queues_sooner(store, prices):
    counted = []
    body = answer("x" * 2000)
    async with traffic(store, prices, count=counted.append, queued_bytes=10_000) as made:
        store.free.clear()
        made.add(record(id="first"))
        while not counted or made.queues()["write"]:
            await asyncio.sleep(0.001)
        # The store has the first row in hand now, and takes no other.
        for n in range(8):
            made.add(record(body, id=f"req_{n}", keep="full", response=body))
        # Four or five fit into the first queue; the others were completed at once.
        assert 2 <= len(counted) - 1 <= 4
        while len(counted) < 9:
            await asyncio.sleep(0.001)
        assert made.queues() == {"settle": 0, "write": 4}
        # Once they are through, there is room again.
        made.add(record(body, id="last", keep="none"))
        assert made.queues()["settle"] == 1
        store.free.set()
    assert made.dropped == 4


async def test_a_store_that_refuses_costs_rows_only(store, prices, caplog):
    counted = []
    async with traffic(store, prices, count=counted.append) as made:
        store.refuse = True
        made.add(record(answer(), id="lost"))
        while not made.dropped:
            await asyncio.sleep(0.001)
        store.refuse = False
        made.add(record(answer(), id="kept"))
    assert [row.id for row in await store.traffic(TrafficFilter())] == ["kept"]
    assert (made.dropped, len(counted)) == (1, 2)
    assert "the disk is full" in caplog.text


async def test_rows_wait_while_the_database_does_not_work(store, prices, caplog):
    counted = []
    async with traffic(
        store, prices, count=counted.append, retry=0.002, queued=10, queued_bytes=50_000
    ) as made:
        store.locked = True
        for n in range(30):
            made.add(record(answer(), id=f"req_{n}", keep="full", response=b"x" * 1000))
            while len(counted) <= n:
                await asyncio.sleep(0.001)
        tried = store.tried
        while store.tried < tried + 3:
            await asyncio.sleep(0.001)
        assert made.dropped >= 19
        store.locked = False
        while not (rows := await store.traffic(TrafficFilter(), limit=100)):
            await asyncio.sleep(0.001)
        made.add(record(answer(), id="later"))
    rows = await store.traffic(TrafficFilter(), limit=100)
    assert len(rows) + made.dropped == 31
    # Each once, the first ones, in their order.
    names = [row.id for row in reversed(rows)]
    assert names == [f"req_{n}" for n in range(len(rows) - 1)] + ["later"]
    assert caplog.text.count("wait for the database: it is locked") == 1
    assert caplog.text.count("being dropped") == 1


async def test_closing_waits_for_no_database_that_does_not_work(store, prices, caplog):
    async with traffic(store, prices, retry=1e6) as made:
        store.locked = True
        for n in range(600):
            made.add(record(answer(), id=f"req_{n}"))
        while not store.tried:
            await asyncio.sleep(0.001)
    assert made.dropped == 600
    assert "600 request record(s) were never written" in caplog.text


async def test_a_row_that_is_refused_costs_no_other(store, prices, caplog):
    async with traffic(store, prices) as made:
        store.free.clear()
        for n in range(40):
            made.add(record(answer(), id=f"bad \ud800 {n}" if n % 10 == 3 else f"req_{n}"))
        while made.queues()["settle"]:
            await asyncio.sleep(0.001)
        store.free.set()
    rows = await store.traffic(TrafficFilter(), limit=100)
    assert [row.id for row in reversed(rows)] == [f"req_{n}" for n in range(40) if n % 10 != 3]
    assert made.dropped == 4
    assert "being dropped" in caplog.text


async def test_close_writes_all_that_was_added(store, prices):
    async with traffic(store, prices) as made:
        for n in range(3000):
            made.add(record(answer(), id=f"req_{n}"))
    assert len(await store.traffic(TrafficFilter(), limit=5000)) == 3000
    assert made.dropped == 0


async def test_old_records_are_forgotten(store, prices):
    now = 100 * 86400.0
    ages = {"fresh": 1, "just": 29.9, "old": 30.1, "ancient": 90}
    async with traffic(store, prices) as made:
        for name, days in ages.items():
            made.add(record(**FULL | {"id": name, "at": now - days * 86400}))
        for n in range(2500):
            made.add(record(id=f"old_{n}", at=n))
    async with traffic(store, prices, clock=lambda: now):
        while len(await store.traffic(TrafficFilter(), limit=5000)) > 2:
            await asyncio.sleep(0.002)
    assert {row.id for row in await store.traffic(TrafficFilter())} == {"fresh", "just"}
    with closing(sqlite3.connect(store.path)) as db:
        assert db.execute("SELECT count(*) FROM traffic_bodies").fetchone() == (2,)


async def indexed_blocks(store, count):
    """Wait until the index has so many blocks of requests."""
    with closing(sqlite3.connect(store.path)) as db:
        while db.execute("SELECT count(*) FROM traffic_blocks").fetchone() != (count,):
            await asyncio.sleep(0.002)


async def test_records_are_indexed_at_the_start_and_as_they_come(store, prices):
    await store.keep_traffic([record(id=f"old_{n}") for n in range(4200)])
    async with traffic(store, prices, clock=lambda: 2000.0) as made:
        await indexed_blocks(store, 1)
        for n in range(4300):
            made.add(record(answer(), id=f"req_{n}"))
        await indexed_blocks(store, 2)


async def test_routes_keep_their_records_for_as_long_as_they_say(store, prices):
    now = 100 * 86400.0
    own = {"week": 7.0, "always": 0.0, "longer": 60.0}
    names = [*own, "silent", "openai/m"]
    async with traffic(store, prices) as made:
        for name in names:
            for days in (6, 8, 29, 31, 59, 61, 90):
                made.add(
                    record(**FULL | {"id": f"{name} {days}", "route": name, "at": now - days * DAY})
                )
    expected = {"week": [6], "always": [6, 8, 29, 31, 59, 61, 90], "longer": [6, 8, 29, 31, 59]}
    kept = {f"{name} {days}" for name in names for days in expected.get(name, [6, 8, 29])}
    async with traffic(store, prices, clock=lambda: now, route_days=lambda: own):
        while len(await store.traffic(TrafficFilter())) > len(kept):
            await asyncio.sleep(0.002)
    assert {row.id for row in await store.traffic(TrafficFilter())} == kept
    # With no days of the storage, those of routes still count; other records stay.
    config = Config(storage=Storage(traffic_days=0))
    async with traffic(store, prices, config, clock=lambda: 1e12, route_days=lambda: own):
        while len(await store.traffic(TrafficFilter())) > 7 + 3 + 3:
            await asyncio.sleep(0.002)
    rest = {row.route for row in await store.traffic(TrafficFilter())}
    assert rest == {"always", "silent", "openai/m"}


async def test_zero_days_keep_records_for_ever(store, prices):
    config = Config(storage=Storage(traffic_days=0))
    async with traffic(store, prices, config, clock=lambda: 1e12) as made:
        made.add(record(id="old", at=1.0))
    assert await store.request(TrafficFilter(id="old")) is not None


TARGETS = (RouteTarget(model="openai/m"),)


@pytest.mark.parametrize(
    ("default", "route", "expected"),
    [
        ("metadata", None, {"metadata"}),
        ("full", None, {"full"}),
        ("none", Route(targets=TARGETS), {"none"}),
        ("none", Route(targets=TARGETS, record="metadata"), {"metadata"}),
        ("full", Route(targets=TARGETS, record="none"), {"none"}),
        ("metadata", Route(targets=TARGETS, record="full"), {"full"}),
        (
            "metadata",
            Route(targets=TARGETS, record="full", record_sample=0.5),
            {"full", "metadata"},
        ),
        ("full", Route(targets=TARGETS, record_sample=0.5), {"full", "metadata"}),
        ("metadata", Route(targets=TARGETS, record="full", record_sample=0), {"metadata"}),
    ],
)
async def test_what_may_be_written_down(store, prices, default, route, expected):
    draws = iter([0.0, 0.4999, 0.5, 0.9999])
    made = Traffic(store, prices, Config(record=default), random=lambda: next(draws))
    assert {made.keep_for(route) for _ in range(4)} == expected
    assert "full" not in {made.keep_for(route, stored=False) for _ in range(2)}


# Listing


async def seed(store, prices):
    failed = [Attempt("laptop/m", "upstream_error", 503, 0.1)]
    async with traffic(store, prices) as made:
        for n in range(60):
            made.add(
                record(
                    id=f"req_{n}",
                    at=1_700_000_000.0 + n,
                    route=["a", "b", "c"][n % 3],
                    key_id=["", "key_1"][n % 2],
                    status=[200, 200, 200, 404, 503][n % 5],
                    traffic_class="eval" if n % 10 == 0 else "live",
                    target=None if n % 5 > 2 else MINI,
                    attempts=failed if n % 5 == 4 else [],
                )
            )


@pytest.mark.parametrize(
    ("chosen", "holds"),
    [
        ({}, lambda n: True),
        ({"route": "b"}, lambda n: n % 3 == 1),
        ({"route": "x"}, lambda n: False),
        ({"target": "openai/gpt-4o-mini"}, lambda n: n % 5 <= 2),
        ({"target": "laptop/m"}, lambda n: n % 5 == 4),
        ({"key_id": "key_1"}, lambda n: n % 2 == 1),
        ({"traffic_class": "eval"}, lambda n: n % 10 == 0),
        ({"status": (200, 299)}, lambda n: n % 5 <= 2),
        ({"status": (400, 599)}, lambda n: n % 5 > 2),
        ({"status": (404, 404), "route": "a"}, lambda n: n % 5 == 3 and n % 3 == 0),
        ({"since": 1_700_000_010.0, "until": 1_700_000_020.0}, lambda n: 10 <= n < 20),
    ],
)
async def test_filters(store, prices, chosen, holds):
    await seed(store, prices)
    rows = await store.traffic(TrafficFilter(**chosen), limit=100)
    assert [row.id for row in rows] == [f"req_{n}" for n in reversed(range(60)) if holds(n)]


# Over HTTP


@pytest.fixture
async def url(tmp_path, prices):
    path = tmp_path / "http.db"
    store = SqliteStore(path)
    await store.open()
    await seed(store, prices)
    async with traffic(store, prices) as made:
        made.add(record(**FULL | {"id": "with-bodies", "at": time.time()}))
    await store.close()
    storage = f'storage: {{database: "sqlite:///{path}", traffic_days: 0}}'
    with gateway(f"server: {{port: 0}}\n{storage}\n{PROVIDERS}") as url:
        yield url


async def test_traffic_over_http(url):
    async with httpx.AsyncClient(base_url=url) as http:

        async def ids(**query):
            reply = await http.get("/traffic", params=query)
            assert reply.status_code == 200, reply.text
            return [row["id"] for row in reply.json()["data"]]

        first = (await http.get("/traffic", params={"limit": 20})).json()
        assert first["object"] == "list"
        assert [row["id"] for row in first["data"]][:2] == ["with-bodies", "req_59"]
        assert first["data"][0]["class"] == "live"
        assert first["data"][0]["attempts"][0]["result"] == "upstream_error"
        pages, seen = first, [row["id"] for row in first["data"]]
        while pages["next"]:
            pages = (
                await http.get("/traffic", params={"limit": 20, "before": pages["next"]})
            ).json()
            seen += [row["id"] for row in pages["data"]]
        assert seen == ["with-bodies", *(f"req_{n}" for n in reversed(range(60)))]

        assert await ids(route="b", key="key_1", limit=2) == ["req_55", "req_49"]
        assert len(await ids(status="error")) == 24
        assert len(await ids(status="4xx")) == 12
        assert len(await ids(status="503")) == 12
        assert len(await ids(**{"class": "eval"})) == 6
        assert len(await ids(since="1700000050", until="2023-11-14T22:14:15Z")) == 5
        # Without a zone: UTC.
        assert len(await ids(since="1700000050", until="2023-11-14T22:14:15")) == 5

        day = {"since": "1700000000", "until": "1700000060"}
        totals = (
            await http.get("/traffic/totals", params={"by": "class,route", "limit": 1, **day})
        ).json()
        assert (totals["since"], totals["until"], totals["complete"]) == (1.7e9, 1.7e9 + 60, False)
        assert totals["data"][0]["group"] == {"class": "live", "route": "a"}
        [now] = (await http.get("/traffic/totals")).json()["data"]
        assert (now["requests"], now["failures"]) == (1, 0)

        shown = (await http.get("/traffic/with-bodies")).json()
        assert json.loads(shown["request"])["api_key"] == "***"
        assert shown["total_s"] == 0.5


async def test_requests_are_deleted_over_http(url, tmp_path):
    async with httpx.AsyncClient(base_url=url) as http:
        reply = await http.delete("/traffic/with-bodies")
        assert reply.status_code == 200
        assert reply.json() == {"deleted": 1, "related": 0, "complete": True, "elsewhere": []}
        assert (await http.get("/traffic/with-bodies")).status_code == 404
        assert (await http.delete("/traffic/with-bodies")).json()["error"]["code"] == "not_found"
        reply = await http.delete("/traffic")
        assert (reply.status_code, reply.json()["error"]["type"]) == (400, "invalid_request_error")
        assert (await http.delete("/traffic", params={"status": "x"})).status_code == 400
        for name in ("route", "target", "key", "user"):
            reply = await http.delete("/traffic", params={name: ""})
            assert (reply.status_code, reply.json()["error"]["param"]) == (400, name)
        reply = await http.delete("/traffic", params={"key": "key_1", "route": "b"})
        assert reply.json() == {"deleted": 10, "related": 0, "complete": True, "elsewhere": []}
        left = (await http.get("/traffic", params={"limit": 100})).json()["data"]
        assert len(left) == 50
        assert not [row for row in left if row["key_id"] == "key_1" and row["route"] == "b"]
    with closing(sqlite3.connect(tmp_path / "http.db")) as db:
        assert db.execute("SELECT count(*) FROM traffic_bodies").fetchone() == (0,)


async def test_many_are_deleted_in_steps_and_up_to_a_bound(store, prices):
    await store.keep_traffic([record(id=f"req_{n}", at=float(n)) for n in range(2100)])
    made = Traffic(store, prices, Config())
    assert await made.delete(TrafficFilter(route="r"), at_most=1200) == 1200
    assert len(await store.traffic(TrafficFilter(), limit=5000)) == 900
    assert await made.delete(TrafficFilter(route="none")) == 0
    assert await made.delete(TrafficFilter(route="r")) == 900


@pytest.mark.parametrize(
    ("path", "status", "param"),
    [
        ("/traffic?status=ok", 400, "status"),
        ("/traffic?status=4x", 400, "status"),
        ("/traffic?since=yesterday", 400, "since"),
        ("/traffic?until=nan", 400, "until"),
        ("/traffic?limit=0", 400, None),
        ("/traffic?before=x", 400, None),
        ("/traffic/none-such", 404, None),
        ("/traffic/totals?by=model", 400, "by"),
        ("/traffic/totals?by=route,", 400, "by"),
        ("/traffic/totals?by=key,key", 400, "by"),
        ("/traffic/totals?since=yesterday", 400, "since"),
    ],
)
async def test_what_cannot_be_listed(url, path, status, param):
    async with httpx.AsyncClient(base_url=url) as http:
        reply = await http.get(path)
    assert reply.status_code == status
    assert set(reply.json()["error"]) == {"message", "type", "param", "code"}
    if param:
        assert reply.json()["error"]["param"] == param
