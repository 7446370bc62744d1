"""What is deleted goes from files as well, and does not come back."""

from __future__ import annotations

import pytest
from request_filters import selects
from sealed_requests import COUNT, DAYS, FIRST, NOW, Server, records, seal_partly

from router.sealing.deletion import Deletion
from router.sealing.job import DAY_S
from router.sealing.parquet_files import FileReader
from router.store.traffic import TrafficFilter


async def texts(server: Server) -> str:
    """Return all that is in files, visible or not."""
    reader = FileReader(server.artifacts)
    files = await server.store.sealed_files()
    rows = [table.to_pylist() for file in files for table in reader.groups(file)]
    return repr(rows)


@pytest.mark.parametrize("state", ["half a file", "all files"])
async def test_deletion_follows_requests_into_files(server, state):
    await (seal_partly(server) if state == "half a file" else server.sealing.run_once())
    left = records()
    for matching in (
        TrafficFilter(id="req_10"),
        TrafficFilter(user="user_9"),
        TrafficFilter(key_id="key_1", route="x"),
        TrafficFilter(status=(404, 404), until=NOW - DAY_S),
        TrafficFilter(traffic_class="eval"),
        TrafficFilter(route="unknown"),
    ):
        gone = [record for record in left if selects(matching, record)]
        assert await server.recorded.delete(matching) == Deletion(deleted=len(gone))
        left = [record for record in left if not selects(matching, record)]
        assert await server.listed() == [record.id for record in reversed(left)]
        found = await texts(server)
        assert not [record.id for record in gone if f"'{record.id}'" in found]
    assert "question 10 " not in await texts(server)
    # What was half done goes on, without what was deleted.
    await server.sealing.run_once()
    assert await server.listed() == [record.id for record in reversed(left)]
    assert sorted(await server.stored_files()) == sorted(
        file.key for file in await server.store.sealed_files()
    )


async def test_what_is_deleted_while_it_is_sealed_does_not_come_back(server):
    await seal_partly(server)
    [file] = await server.store.sealed_files()
    invisible = (await server.files.numbers(file, file.visible_to))[3]
    [row] = [row for row in await server.store.traffic(TrafficFilter(), limit=COUNT)
             if row.number == invisible]  # fmt: skip
    # As another process does it that does not look into files: retention of live requests.
    assert await server.store.forget_traffic(TrafficFilter(id=row.id), 1) == 1
    await server.sealing.run_once()
    left = [record.id for record in reversed(records()) if record.id != row.id]
    assert await server.listed() == left
    assert f"'{row.id}'" not in await texts(server)


async def test_a_deletion_has_as_many_steps_as_it_needs(server):
    await server.sealing.run_once()
    everything = TrafficFilter(since=0.0)
    live = len(await server.store.traffic(everything, limit=COUNT))
    assert await server.recorded.delete(everything, at_most=100) == Deletion(
        deleted=100, complete=False
    )
    files = await server.store.sealed_files()
    deleted = await server.recorded.delete_sealed(everything, max_files=2)
    two = files[0].requests + files[1].requests
    assert deleted == Deletion(deleted=two, complete=False)
    rest = await server.recorded.delete(everything, at_most=COUNT)
    assert rest == Deletion(deleted=live - 100 + sum(file.requests for file in files[2:]))
    assert await server.listed() == []
    assert await server.stored_files() == []


async def test_files_lose_what_their_routes_do_not_store_any_longer(server):
    result = await server.sealing.run_once()
    assert result.deleted == 0
    server.outdated = [
        TrafficFilter(route="x", until=FIRST + 2 * DAY_S),
        TrafficFilter(except_routes=("x",), until=FIRST + DAY_S),
    ]
    # Whole files, so the day that the limit is in stays.
    gone = [
        record
        for record in records()
        if record.at < (FIRST + 2 * DAY_S if record.route == "x" else FIRST + DAY_S)
    ]
    result = await server.sealing.run_once()
    assert result.deleted == len(gone)
    ids = {record.id for record in gone}
    assert await server.listed() == [r.id for r in reversed(records()) if r.id not in ids]
    assert len(await server.stored_files()) == len(await server.store.sealed_files()) == DAYS - 2
    server.outdated = [TrafficFilter(until=NOW)]
    await server.sealing.run_once()
    assert await server.stored_files() == []
