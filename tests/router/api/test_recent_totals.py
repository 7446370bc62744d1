"""Totals of the last minutes: they are those of all their requests, whenever these were stored."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest

from router.api.recent_totals import RECENT_S, STRETCH_S, RecentTotals
from router.config.loading import parse
from router.records import Record
from router.services import Services
from router.store.traffic import TrafficFilter

START = 1_764_000_000.0


class Clock:
    def __init__(self):
        self.now = START

    def __call__(self):
        return self.now


@pytest.fixture
async def services(tmp_path):
    config = f"storage: {{database: 'sqlite:///{tmp_path}/e.db', artifacts: '{tmp_path}'}}"
    async with Services(parse(config, "test.yaml", {})) as services:
        yield services


def a_record(n, at, **fields):
    fields = {"route": "ab"[n % 2], "status": 200 if n % 3 else 500} | fields
    return Record(id=f"req_{n}", at=at, **fields)


async def test_totals_are_those_of_all_requests_of_the_window(services):
    clock = Clock()
    recent = RecentTotals(services.recorded, services.store, now=clock)
    number = 0
    for turn in range(60):
        clock.now += 7.0
        records = []
        # Now, and requests that began some time ago and have just ended.
        for before in (0.0, 1.0, 20.0 if turn % 3 == 0 else 2.0):
            number += 1
            records.append(a_record(number, clock.now - before, key_id=f"key_{number % 2}"))
        await services.store.keep_traffic(records)
        for key_id in (None, "key_1"):
            first = (clock.now - RECENT_S) // STRETCH_S * STRETCH_S
            matching = TrafficFilter(since=first, key_id=key_id)
            expected = await services.recorded.totals(matching, ("route",), limit=10)
            found = (await recent.requests(key_id)).totals
            if turn % 3:
                continue
            # What ended 20 s late is seen at the latest when its stretch is twice as old.
            missing = sum(t.requests for t in expected) - sum(t.requests for t in found)
            assert 0 <= missing <= 5
    clock.now += 100.0
    expected = await services.recorded.totals(
        TrafficFilter(since=(clock.now - RECENT_S) // STRETCH_S * STRETCH_S), ("route",), limit=10
    )
    assert (await recent.requests(None)).totals == expected
    assert sum(total.requests for total in expected) > 50
    assert {total.group["route"] for total in expected} == {"a", "b"}
    assert sum(total.failures for total in expected) > 10


async def test_a_page_that_is_shown_all_the_time_has_every_request_at_once(services):
    clock = Clock()
    recent = RecentTotals(services.recorded, services.store, now=clock)
    for turn in range(80):
        clock.now += 0.5
        records = [a_record(2 * turn + n, clock.now - 0.1 - n) for n in range(2)]
        await services.store.keep_traffic(records)
        totals = (await recent.requests(None)).totals
        assert {total.group["route"]: total.requests for total in totals} == {
            "a": turn + 1,
            "b": turn + 1,
        }


async def test_a_number_that_appears_after_a_higher_one_is_counted(tmp_path, services):
    clock = Clock()
    recent = RecentTotals(services.recorded, services.store, now=clock)

    async def found():
        clock.now += 0.5
        return sum(total.requests for total in (await recent.requests(None)).totals)

    await services.store.keep_traffic([a_record(n, START) for n in range(4)])
    assert await found() == 4
    await services.store.keep_traffic([a_record(n, START) for n in range(4, 8)])
    with closing(sqlite3.connect(tmp_path / "e.db", isolation_level=None)) as db:
        # As where another process has not stored the seventh yet.
        db.execute("UPDATE traffic SET number = -7 WHERE number = 7")
        assert await found() == 7
        db.execute("UPDATE traffic SET number = 7 WHERE number = -7")
    assert [await found() for _ in range(3)] == [8, 8, 8]


async def test_what_is_deleted_is_not_counted(services):
    clock = Clock()
    recent = RecentTotals(services.recorded, services.store, now=clock)
    await services.store.keep_traffic([a_record(n, START - 50.0, route="r") for n in range(9)])
    [total] = (await recent.requests(None)).totals
    assert total.requests == 9
    await services.recorded.delete(TrafficFilter(id="req_3"))
    await services.store.announce_deletion()
    [total] = (await recent.requests(None)).totals
    assert total.requests == 8


async def test_requests_leave_the_window(services):
    clock = Clock()
    recent = RecentTotals(services.recorded, services.store, now=clock)
    await services.store.keep_traffic([a_record(1, START)])
    assert len((await recent.requests(None)).totals) == 1
    clock.now += RECENT_S - 1.0
    assert len((await recent.requests(None)).totals) == 1
    clock.now += STRETCH_S + 1.0
    assert (await recent.requests(None)).totals == []


async def test_costs_have_a_course_and_answers_their_times(services):
    clock = Clock()
    recent = RecentTotals(services.recorded, services.store, now=clock)
    rows = (
        {"cost_usd": 0.5, "total_s": 1.0, "status": 200},
        {"cost_usd": 1.0, "total_s": 3.0, "status": 200},
        {"cost_usd": 2.0, "total_s": 9.0, "status": 500},
        {"cost_usd": 0.0, "total_s": 0.0, "status": 200, "cached": True},
        {"cost_usd": 4.0, "total_s": 5.0, "status": 200, "route": "b"},
    )
    await services.store.keep_traffic(
        [
            a_record(n, START - STRETCH_S * (n % 2), **{"route": "a"} | row)
            for n, row in enumerate(rows)
        ]
    )
    found = await recent.requests(None)
    # The last stretch is for clocks that are ahead.
    assert list(found.costs["a"][-3:]) == [1.0, 2.5, 0.0]
    assert list(found.costs["b"][-3:]) == [0.0, 4.0, 0.0]
    assert list(found.costs[""][-3:]) == [1.0, 6.5, 0.0]
    assert found.times["a"][:2] == (2, 2.0)
    assert found.times["b"] == (1, 5.0, 5.0)
