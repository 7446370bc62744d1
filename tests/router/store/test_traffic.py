"""Requests are listed, selected and deleted alike, whether or not the index has them."""

from __future__ import annotations

import asyncio
import math
import random
from collections import Counter

import pytest
from request_filters import selects

from providers.errors import StoreError
from router.gateway.cache import CachedResponse, ResponseCache
from router.gateway.cache_sync import CacheSync
from router.records import Record, Target
from router.store.columns.traffic import FILTER_COLUMNS
from router.store.sql.filters import conditions_of
from router.store.traffic import TrafficFilter

TARGETS = [Target("a", "m"), Target("b", "m"), None]
COUNT = 9000
RETIRED = 3000


def a_record(n: int, draw: random.Random) -> Record:
    """One that ended at `n`, and began then or some time earlier."""
    return Record(
        id=f"req_{n}",
        at=float(n - draw.choice([0, 0, 0, 1, 20, 2000])),
        route="rare" if n % 977 == 5 else draw.choice(["x", "y"]),
        target=Target("old", "m") if n < RETIRED and n % 3 == 0 else draw.choice(TARGETS),
        status=draw.choice([200, 200, 200, 404, 503]),
        key_id=draw.choice(["", "key_1", "key_2"]),
        user=f"user_{n % 700}" if n % 3 == 0 else "",
        traffic_class="eval" if 4000 < n < 4100 else "live",
        prompt_tokens=n if n % 7 else None,
        cost_usd=n / 1024 if n % 11 else None,
        # Two keys have chosen the same, and one of them another request's own id.
        request_id="" if n % 5 else "req_7" if n == 20 else f"mine_{n % 1000}",
        response_id=f"chatcmpl-{n // 2}" if n % 4 else "",
        conversation=f"talk_{n % 300}" if n % 8 == 1 else "",
        rollout=f"rollout_{n % 2}" if n > 5000 else "",
        arm=("control", "candidate")[n % 3 == 0] if n > 5000 else "",
    )


def filters() -> list[TrafficFilter]:
    """Every single condition, and combinations that are drawn."""
    options = {
        "id": ["req_5", "req_8999", "unknown"],
        "response_id": ["chatcmpl-17", "chatcmpl-4400", "unknown"],
        "conversation": ["talk_1", "talk_297", "unknown"],
        "rollout": ["rollout_1", "unknown"],
        "route": ["x", "rare", "unknown"],
        "except_routes": [("x",), ("x", "y", "rare")],
        "target": ["a/m", "old/m", "", "unknown/m"],
        "key_id": ["key_1", "", "unknown"],
        "user": ["user_9", "user_690", "unknown"],
        "traffic_class": ["live", "eval"],
        "status": [(200, 299), (404, 404), (500, 599), (300, 399)],
        "since": [0.0, 4500.5, 8990.0, 10_000.0],
        "until": [-5000.0, 15.0, 4500.0, 8500.0],
    }
    single = [{name: value} for name, values in options.items() for value in values]
    draw = random.Random(7)
    combined = [
        {name: draw.choice(options[name]) for name in draw.sample(sorted(options), size)}
        for size in (2, 3, 4)
        for _ in range(12)
    ]
    users_keys = [
        {"user": user, "key_id": key, "since": since}
        for user in options["user"]
        for key in options["key_id"]
        for since in (None, 4500.5)
    ]
    requests_keys = [
        {"request_id": name, "key_id": key}
        for name in ("mine_105", "req_8", "req_7", "unknown")
        for key in ("key_1", "")
    ]
    arms = [
        {"rollout": "rollout_1", "arm": arm, "status": status}
        for arm in ("control", "unknown")
        for status in (None, (200, 299))
    ]
    everything = [{}, *single, *combined, *users_keys, *requests_keys, *arms]
    return [TrafficFilter(**chosen) for chosen in everything]


async def fill(store) -> list[Record]:
    draw = random.Random(1)
    records = [a_record(n, draw) for n in range(COUNT)]
    for first in range(0, COUNT, 1500):
        await store.keep_traffic(records[first : first + 1500])
    return records


async def index(store) -> None:
    while await store.index_traffic():
        pass


@pytest.fixture(params=["a part of it", "nothing"])
async def filled(request, store):
    """A store with requests, of which the index has some or none, and what is in it."""
    records = await fill(store)
    if request.param == "a part of it":
        await index(store)
    return store, records


async def test_filters_select_the_same_with_an_index_and_without(filled):
    store, records = filled
    newest = list(reversed(records))
    numbers = {row.id: row.number for row in await store.traffic(TrafficFilter(), limit=COUNT)}
    assert sorted(numbers, key=numbers.__getitem__) == [record.id for record in records]
    for matching in filters():
        expected = [record.id for record in newest if selects(matching, record)]
        for skipped in {0, len(expected) // 2}:
            before = numbers[expected[skipped - 1]] if skipped else None
            page = await store.traffic(matching, limit=40, before=before)
            assert [row.id for row in page] == expected[skipped : skipped + 40], (matching, before)


async def test_totals_are_those_of_the_requests_that_match(filled):
    store, records = filled
    by = ("target", "status", "class")
    for matching in [
        TrafficFilter(),
        TrafficFilter(since=4500.5, until=8500.0),
        TrafficFilter(until=-5000.0),
        TrafficFilter(route="x", key_id="key_1", since=100.0, until=5000.0),
    ]:
        chosen = [record for record in records if selects(matching, record)]
        [total] = await store.traffic_totals(matching, (), limit=5)
        assert (total.group, total.requests) == ({}, len(chosen))
        assert total.failures == sum(record.status >= 400 for record in chosen)
        assert total.prompt_tokens == sum(record.prompt_tokens or 0 for record in chosen)
        assert total.cost_usd == sum(record.cost_usd or 0 for record in chosen)
        assert total.unpriced == sum(record.cost_usd is None for record in chosen)
        expected = Counter(
            (record.target_name(), record.status, record.traffic_class) for record in chosen
        )
        groups = await store.traffic_totals(matching, by, limit=100)
        assert {tuple(one.group[name] for name in by): one.requests for one in groups} == expected
        assert [one.requests for one in groups] == sorted(expected.values(), reverse=True)
        assert await store.traffic_totals(matching, by, limit=2) == groups[:2]


async def test_what_was_added_is_added_up_by_stretch_and_route(filled):
    store, records = filled
    rows = await store.traffic(TrafficFilter(), limit=COUNT)
    number_of = {row.id: row.number for row in rows}
    for key_id, after, seen, since in [
        (None, 0, 0, 8800.0),
        ("key_1", 0, 8990, 8800.0),
        (None, 8700, 8900, 8000.5),
        ("key_1", 8700, 8900, 8000.5),
        (None, 8999, 9000, 0.0),
    ]:
        chosen = [
            record
            for record in records
            if record.id in number_of
            and number_of[record.id] > after
            and selects(TrafficFilter(key_id=key_id, since=since), record)
        ]
        expected = Counter(
            (int(record.at // 30.0), number_of[record.id] > seen, record.route) for record in chosen
        )
        added = await store.added_traffic(
            key_id, after=after, seen=seen, since=since, stretch_s=30.0
        )
        assert added.last == max(number_of.values())
        assert {
            (one.stretch, one.is_new, one.total.group["route"]): one.total.requests
            for one in added.totals
        } == expected
        assert sum(one.total.prompt_tokens for one in added.totals) == sum(
            record.prompt_tokens or 0 for record in chosen
        )
        assert sum(one.total.cost_usd for one in added.totals) == sum(
            record.cost_usd or 0 for record in chosen
        )
    before = added.deletions
    await store.announce_deletion()
    added = await store.added_traffic(None, after=0, seen=0, since=1e9, stretch_s=30.0)
    assert (added.deletions, added.totals) == (before + 1, [])


async def test_times_of_answers_are_those_of_the_newest_requests_without_failures(store):
    answers = [
        Record(id=f"new_{n}", at=1e6 + n, route="t", total_s=n / 8, status=500 if n == 3 else 200)
        for n in range(6)
    ]
    await store.keep_traffic([*answers, Record(id="c", at=1e6 + 9, route="t", cached=True)])
    found = await store.answer_times(None, since=1e6 + 1, limit=5)
    assert sorted(found) == [("t", 0.25), ("t", 0.5), ("t", 0.625)]
    assert await store.answer_times("key_none", since=0.0, limit=5) == []


async def test_what_is_deleted_is_found_no_more_and_the_rest_is(filled):
    store, records = filled
    for matching in (
        TrafficFilter(until=2000.0, except_routes=("x", "rare")),
        TrafficFilter(id="req_4500"),
        TrafficFilter(route="rare"),
        TrafficFilter(key_id="key_1", since=8800.0),
        TrafficFilter(user="user_9"),
        TrafficFilter(user="user_690", key_id="key_2"),
        TrafficFilter(request_id="mine_105", key_id="key_2"),
        TrafficFilter(response_id="chatcmpl-4001"),
        TrafficFilter(conversation="talk_17"),
        TrafficFilter(rollout="rollout_1", arm="candidate", until=6000.0),
        TrafficFilter(target="old/m"),
        TrafficFilter(until=5000.0),
    ):
        gone = [record for record in records if selects(matching, record)]
        deleted = await store.forget_traffic(matching, 10)
        assert deleted == min(10, len(gone))
        while some := await store.forget_traffic(matching, 500):
            assert some <= 500
            deleted += some
        assert deleted == len(gone)
        records = [record for record in records if not selects(matching, record)]
    await index(store)
    for chosen in (
        {}, {"route": "x"}, {"key_id": "key_2"}, {"user": "user_690"}, {"target": "old/m"},
        {"until": 6000.0},
    ):  # fmt: skip
        matching = TrafficFilter(**chosen)
        listed = [row.id for row in await store.traffic(matching, limit=COUNT)]
        assert listed == [record.id for record in reversed(records) if selects(matching, record)]


async def test_a_number_is_given_once_though_the_newest_requests_are_deleted(filled):
    store, records = filled
    while await store.forget_traffic(TrafficFilter(), 5000):
        pass
    assert await store.traffic(TrafficFilter()) == []
    await store.keep_traffic(records[:10])
    for matching in (TrafficFilter(), TrafficFilter(since=-5000.0), TrafficFilter(status=(1, 999))):
        rows = await store.traffic(matching)
        assert [row.id for row in rows] == [record.id for record in reversed(records[:10])]


@pytest.fixture
async def other(make_store, store):
    """The store of another process; the first one has made the tables."""
    other = make_store()
    await other.open()
    yield other
    await other.close()


ANSWER = CachedResponse(200, "application/json", b"{}", "p/m", at=0.0)


ODD = [
    "", "N", "null", ",null", "a\0b", "\x10@", "a\nb\r\tc", '"a", \\"b\\\\', "\\.", "é😀\x7f",
    "\\n]\n[1",
]  # fmt: skip
AMOUNTS = [None, 5e-324, -0.0, 0.1 + 0.2, 1e300, math.inf]


async def test_requests_come_back_as_they_went_in_whatever_else_is_written_with_them(store):
    """Many go to PostgreSQL as one text, and some cannot."""
    records = [
        Record(
            id=f"req_{n}",
            at=n / 3,
            route=text,
            user=text,
            model=text,
            finish_reason=text,
            stream=n % 2 == 0,
            cached=n % 3 == 0,
            cost_usd=AMOUNTS[n % len(AMOUNTS)],
            prompt_tokens=2**63 - 1 if n % 5 else None,
            system_fingerprint=text,
            status=200,
            request_id=text,
            response_id=text,
            conversation=text,
            stored=n % 2 == 0,
            rollout=text,
            arm=text,
            unit=text,
        )
        for n, text in enumerate(ODD * 6)
    ]
    for record in records:
        await store.keep_traffic([record])
    await store.keep_traffic(records)
    rows = await store.traffic(TrafficFilter(), limit=len(records) * 2)
    for row, record in zip(reversed(rows), records * 2, strict=True):
        for name in (
            "id", "at", "route", "user", "model", "finish_reason", "stream", "cached", "cost_usd",
            "prompt_tokens", "system_fingerprint", "response_id", "conversation", "stored",
            "rollout", "arm", "unit",
        ):  # fmt: skip
            assert getattr(row, name) == getattr(record, name), name
        assert row.request_id == (record.request_id or record.id)


@pytest.mark.parametrize("names", [{"request_id": "mine"}, {"arm": "control"}])
def test_names_that_are_none_by_themselves_select_nothing(names):
    with pytest.raises(ValueError, match=r"together with its key only|one of a rollout"):
        TrafficFilter(**names)


@pytest.mark.parametrize("wrong", [{"model": "\ud800"}, {"prompt_tokens": 2**63}, {"at": None}])
async def test_a_request_that_cannot_be_stored_leaves_none_of_its_batch(store, wrong):
    bad = Record(**({"id": "bad", "at": 2.0} | wrong))
    with pytest.raises(StoreError, match="cannot keep request records"):
        await store.keep_traffic([Record(id="good", at=1.0), bad])
    assert await store.traffic(TrafficFilter()) == []


@pytest.mark.parametrize("field", FILTER_COLUMNS)
async def test_a_table_says_what_every_field_of_a_filter_selects_by(store, field):
    columns = {name: column for name, column in FILTER_COLUMNS.items() if name != field}

    def conditions(db):
        return conditions_of(db, TrafficFilter(), columns=columns)

    with pytest.raises(KeyError, match=field):
        await store._database.read("select requests", conditions)


def cache_of_answers() -> ResponseCache:
    return ResponseCache(10_000, clock=lambda: 0.0)


async def test_a_deletion_empties_the_cache_of_another_process(store, other):
    cache = cache_of_answers()
    sync = CacheSync(cache, other)
    await sync.follow()
    cache.put(b"key", ANSWER, 1.0)
    await sync.follow()
    assert cache.get(b"key") == ANSWER
    watching = asyncio.create_task(sync.watch())
    await store.announce_deletion()
    while len(cache):
        await asyncio.sleep(0.01)
    watching.cancel()
    assert cache.size == 0


async def test_no_deletion_is_missed_after_one_that_found_the_cache_empty(store, other):
    cache = cache_of_answers()
    sync = CacheSync(cache, other)
    await sync.follow()
    await store.announce_deletion()
    await sync.follow()
    cache.put(b"key", ANSWER, 1.0)
    await store.announce_deletion()
    await sync.follow()
    assert not len(cache)
