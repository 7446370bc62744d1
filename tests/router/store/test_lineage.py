"""Which requests the rows of datasets were copied from: what any store promises."""

from __future__ import annotations

import msgspec
import pytest
from request_filters import selects
from sealed_requests import records
from stores import a_run

from providers.errors import ConflictError
from router.store.datasets import DatasetRow
from router.store.lineage import RowSource
from router.store.traffic import TrafficFilter

RECORDS = records()[::7]
SOURCES = [
    RowSource(
        row=f"row {record.id}",
        id=record.id,
        at=record.at,
        key_id=record.key_id,
        user=record.user,
        route=record.route,
        target=record.target_name(),
        traffic_class=record.traffic_class,
        status=record.status,
        request_id=record.request_id,
        response_id=record.response_id,
        conversation=record.conversation,
        rollout=record.rollout,
        arm=record.arm,
    )
    for record in RECORDS
]
VERSION = DatasetRow(
    name="d", hash="h1", path="p", format="jsonl", rows=2, columns=("a",), created_at=1.5
)


@pytest.mark.parametrize(
    "matching",
    [
        TrafficFilter(id=RECORDS[3].id),
        TrafficFilter(user="user_42"),
        TrafficFilter(key_id="key_1"),
        TrafficFilter(route="x"),
        TrafficFilter(target="a/m"),
        TrafficFilter(traffic_class="eval"),
        TrafficFilter(status=(400, 599)),
        TrafficFilter(since=RECORDS[50].at, until=RECORDS[90].at),
        TrafficFilter(except_routes=("x", "rare")),
        TrafficFilter(route="y", key_id="", status=(200, 200)),
        TrafficFilter(user="nobody"),
        TrafficFilter(request_id="mine_35", key_id=RECORDS[5].key_id),
        TrafficFilter(request_id=RECORDS[3].id, key_id=RECORDS[3].key_id),
        TrafficFilter(response_id=RECORDS[9].response_id),
        TrafficFilter(conversation="talk_19"),
        TrafficFilter(rollout="rollout_1"),
        TrafficFilter(rollout="rollout_1", arm="control"),
    ],
)
async def test_rows_are_found_by_whatever_selects_requests(store, matching):
    await store.add_sources("h1", SOURCES)
    expected = {f"row {record.id}" for record in RECORDS if selects(matching, record)}
    copied = await store.copied_rows(matching)
    assert (set() if copied is None else copied.rows) == expected


@pytest.mark.parametrize("user", ["ann", 'x","ann', "b\\", "%_"])
async def test_rows_are_found_by_the_users_whose_feedback_they_have(store, user):
    said = msgspec.structs.replace(SOURCES[0], user="", authors=frozenset({user, "eve"}))
    await store.add_sources("h1", [said])
    await store.add_sources("h2", [], made_of=["h1"])
    for name in ("an", "e", '"', "b", "%", user[1:], user + '"'):
        assert await store.copied_rows(TrafficFilter(user=name)) is None
    for name in (user, "eve"):
        copied = await store.copied_rows(TrafficFilter(user=name))
        assert copied is not None
        assert copied.rows == {said.row}


async def test_a_version_that_was_made_of_another_has_its_sources(store):
    await store.add_sources("h1", SOURCES[:2])
    await store.add_sources("h2", SOURCES[2:3], made_of=["h1", "unknown"])
    await store.add_sources("h2", SOURCES[:1])
    await store.add_dataset(VERSION)
    # With the last version of that content, its sources go.
    assert not await store.delete_dataset("d", "h1")
    copied = await store.copied_rows(TrafficFilter())
    assert copied.hash == "h2"
    assert copied.rows == {source.row for source in SOURCES[:3]}


async def test_sources_stay_while_a_version_has_the_content(store):
    await store.add_sources("h1", SOURCES[:2])
    await store.add_dataset(VERSION)
    await store.add_dataset(msgspec.structs.replace(VERSION, name="e"))
    assert await store.delete_dataset("d", "h1")
    assert await store.copied_rows(TrafficFilter()) is not None


async def test_rows_of_a_registered_version_that_is_gone_become_no_others(store):
    await store.add_sources("h1", SOURCES[:2])
    await store.add_dataset(VERSION)
    copy = msgspec.structs.replace(VERSION, name="copy", hash="h2")
    await store.add_sources("h2", (), made_of=["h1"], registered="h1", version=copy)
    await store.replace_versions("h1", [], ())
    late = msgspec.structs.replace(VERSION, name="late", hash="h3")
    with pytest.raises(ConflictError, match="cannot become part of another dataset"):
        await store.add_sources("h3", SOURCES, made_of=["h1"], registered="h1", version=late)
    assert await store.datasets() == [copy]
    copied = await store.copied_rows(TrafficFilter())
    assert (copied.hash, len(copied.rows)) == ("h2", 2)


async def test_sources_stay_while_a_run_has_samples_of_a_version_that_was_deleted(store):
    await store.add_sources("h1", SOURCES[:2])
    await store.add_dataset(VERSION)
    run = a_run(dataset_hash="h1", state="completed")
    await store.add_run(run, [], registered="h1")
    assert not await store.delete_dataset("d", "h1")
    assert (await store.copied_rows(TrafficFilter())).hash == "h1"
    copy = msgspec.structs.replace(VERSION, hash="h2")
    await store.add_sources("h2", (), made_of=["h1"], registered="h1", version=copy)
    await store.delete_run(run.id)
    assert (await store.copied_rows(TrafficFilter())).hash == "h2"


async def test_versions_are_replaced_with_their_sources_but_for_the_deleted_rows(store):
    await store.add_sources("h1", SOURCES[:5])
    other = msgspec.structs.replace(VERSION, name="e", created_at=2.5)
    await store.add_dataset(VERSION)
    await store.add_dataset(other)
    new = [msgspec.structs.replace(row, hash="h2", rows=1) for row in (VERSION, other)]
    gone = [source.row for source in SOURCES[:2]]
    await store.replace_versions("h1", new, gone)
    assert await store.datasets() == [new[1], new[0]]
    copied = await store.copied_rows(TrafficFilter())
    assert copied.hash == "h2"
    assert copied.rows == {source.row for source in SOURCES[2:5]}
    await store.replace_versions("h2", [], copied.rows)
    assert await store.datasets() == []
    assert await store.copied_rows(TrafficFilter()) is None
