"""Old requests go into files, and are listed, added up and shown as before."""

from __future__ import annotations

import asyncio
import gzip
import random
import shutil
import sqlite3
from collections import Counter
from contextlib import closing
from pathlib import Path

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from request_filters import selects
from sealed_requests import COUNT, DAYS, FIRST, NOW, Server, records, seal_partly
from servers import s3_server

from providers.errors import ArtifactError
from router.datasets.artifacts import LocalArtifacts, S3Artifacts
from router.records import Record
from router.sealing import value_filter
from router.sealing.arrow_queries import ArrowQueries
from router.sealing.duckdb_queries import DuckDbQueries
from router.sealing.job import DAY_S, LEASE, LEASE_S
from router.sealing.parquet_files import FileReader
from router.store.sqlite import SqliteStore
from router.store.traffic import TrafficFilter

OPTIONS = {
    "id": ["req_5", f"req_{COUNT - 1}", "unknown"],
    "response_id": ["chatcmpl-7", "unknown"],
    "conversation": ["talk_9", "unknown"],
    "rollout": ["rollout_1"],
    "route": ["x", "rare", "unknown"],
    "except_routes": [("x",), ("x", "y", "rare")],
    "target": ["a/m", "", "unknown/m"],
    "key_id": ["key_1", "", "unknown"],
    "user": ["user_9", "user_69", "unknown"],
    "traffic_class": ["live", "eval"],
    "status": [(200, 299), (404, 404), (500, 599), (300, 399)],
    "since": [0.0, FIRST + DAY_S * 1.3, NOW - 5.0, NOW + DAY_S],
    "until": [0.0, FIRST + 5000.0, FIRST + DAY_S * 2.7, NOW - DAY_S],
}


def filters(count: int = 12) -> list[TrafficFilter]:
    """Every single condition, and combinations that are drawn."""
    single = [{name: value} for name, values in OPTIONS.items() for value in values]
    draw = random.Random(7)
    combined = [
        {name: draw.choice(OPTIONS[name]) for name in draw.sample(sorted(OPTIONS), size)}
        for size in (2, 3, 4)
        for _ in range(count // 3)
    ]
    several = [
        {"request_id": "mine_85", "key_id": "key_1"},
        {"request_id": "req_8", "key_id": records()[8].key_id},
        {"rollout": "rollout_1", "arm": "control", "since": FIRST + DAY_S},
    ]
    return [TrafficFilter(**chosen) for chosen in [{}, *single, *combined, *several]]


# Brackets in its name keep DuckDB out.
@pytest.mark.parametrize(
    ("folder", "state"), [("artifacts", "half a file"), ("artifacts [1]", "all files")]
)
async def test_every_filter_selects_what_it_did(store, tmp_path, folder, state):
    server = Server(store, LocalArtifacts(tmp_path / folder))
    await store.keep_traffic(records())
    before = {row.id: row for row in await server.recorded.page(TrafficFilter(), limit=COUNT)}
    if state == "half a file":
        await seal_partly(server)
    else:
        result = await server.sealing.run_once()
        assert result.requests > COUNT / 2
        assert result.files == DAYS
        live = await store.traffic(TrafficFilter(), limit=COUNT)
        assert len(live) == COUNT - result.requests
    rows = await server.recorded.page(TrafficFilter(), limit=COUNT)
    assert rows == list(before.values())
    for matching in filters():
        expected = [record for record in reversed(records()) if selects(matching, record)]
        assert await server.listed(matching, 700) == [record.id for record in expected]
        [total] = await server.recorded.totals(matching, (), limit=5)
        assert total.requests == len(expected)
        assert total.cost_usd == pytest.approx(sum(record.cost_usd or 0 for record in expected))
        assert total.prompt_tokens == sum(record.prompt_tokens or 0 for record in expected)
        assert total.unpriced == sum(record.cost_usd is None for record in expected)
        assert total.failures == sum(record.status >= 400 for record in expected)
        groups = await server.recorded.totals(matching, ("route", "status"), limit=100)
        counted = Counter((record.route, record.status) for record in expected)
        assert [(tuple(t.group.values()), t.requests) for t in groups] == sorted(
            counted.items(), key=lambda group: (-group[1], group[0])
        )
        assert await server.recorded.totals(matching, ("route", "status"), limit=2) == groups[:2]
    for n in (0, 10, 11, COUNT * 2 // 3, COUNT - 1):
        row = await server.recorded.request(f"req_{n}")
        record = records()[n]
        bodies = None if record.request is None else record.request.decode()
        assert (row.request, row.id) == (bodies, record.id)
        assert msgspec.structs.replace(row, request=None, response=None) == before[record.id]
    assert await server.recorded.request("unknown") is None
    key = records()[10].key_id
    assert (await server.recorded.request("req_10", key_id=key)).id == "req_10"
    assert await server.recorded.request("req_10", key_id="key_of_another") is None
    newest = next(one for one in reversed(records()) if one.request_id == "mine_85")
    for chosen in ({"key_id": newest.key_id}, {"named_by": newest.key_id}):
        assert (await server.recorded.request("mine_85", **chosen)).id == newest.id
    assert await server.recorded.request("mine_85") is None
    assert await server.recorded.request("mine_85", named_by="key_of_another") is None
    server.files.close()


async def test_duckdb_and_pyarrow_say_the_same(server):
    await server.sealing.run_once()
    await seal_partly(server, since=NOW - 1000.0)
    files = await server.store.sealed_files()
    engines = [ArrowQueries(FileReader(server.artifacts)), DuckDbQueries(server.artifacts)]
    draw = random.Random(5)
    for matching in filters(30):
        page = {"limit": draw.choice([1, 7, 3000]), "before": draw.choice([None, 300, 1999])}
        page["bodies"] = draw.random() < 0.5
        by = draw.sample(["route", "target", "key", "user", "class", "status"], draw.randrange(4))
        arrow, duck = (engine.page(files, matching, **page) for engine in engines)
        assert arrow == duck
        arrow, duck = (
            sorted(engine.totals(files, matching, by), key=lambda row: row[6:])
            for engine in engines
        )
        assert [row[6:] for row in arrow] == [row[6:] for row in duck]
        for one, other in zip(arrow, duck, strict=True):
            assert one[:6] == pytest.approx(other[:6])
        counts = [[engine.count(file, matching) for file in files] for engine in engines]
        assert counts[0] == counts[1]


async def test_what_is_stored_late_gets_into_another_file_of_its_day(server):
    await server.sealing.run_once()
    late = [Record(id=f"late_{n}", at=FIRST + n * DAY_S) for n in range(2)]
    await server.store.keep_traffic(late)
    result = await server.sealing.run_once()
    assert (result.files, result.requests) == (2, 2)
    assert await server.listed() == ["late_1", "late_0", *(r.id for r in reversed(records()))]


async def test_a_number_is_given_once_though_all_requests_are_sealed(server):
    server.now = NOW + 3 * DAY_S
    result = await server.sealing.run_once()
    assert result.requests == COUNT
    await server.store.keep_traffic([Record(id="new", at=NOW)])
    [new, last] = await server.recorded.page(TrafficFilter(), limit=2)
    assert (new.id, last.id) == ("new", f"req_{COUNT - 1}")
    assert new.number > last.number


async def test_one_process_seals_until_it_is_dead(server):
    assert await server.store.claim_lease(LEASE, "another", LEASE_S)
    assert await server.sealing.run_once() is None
    assert await server.store.sealed_files() == []
    # Its last sign of life is too old.
    assert await server.store.claim_lease(LEASE, "another", -1.0)
    assert (await server.sealing.run_once()).files == DAYS
    assert await server.store.claim_lease(LEASE, "another", LEASE_S)


async def test_a_lease_of_a_clock_that_was_put_back_holds_nobody_up(server):
    assert await server.store.claim_lease(LEASE, "another", DAY_S)
    assert (await server.sealing.run_once()).files == DAYS


async def test_several_sealers_at_once_lose_and_double_nothing(server):
    """Without the lease, as after a pause that was longer than it."""
    others = [Server(server.store, server.artifacts) for _ in range(3)]

    async def seal(one: Server) -> None:
        one.sealing._renewed()
        async for _ in one.sealing._seal_days():
            pass

    await asyncio.gather(*map(seal, [server, *others]))
    assert await server.listed() == [record.id for record in reversed(records())]
    for one in [server, *others]:
        await one.sealing.run_once()
    assert await server.listed() == [record.id for record in reversed(records())]
    assert len(await server.stored_files()) == len(await server.store.sealed_files())
    for other in others:
        other.files.close()


async def test_what_a_damaged_row_has_stays_live(tmp_path):
    store = SqliteStore(tmp_path / "store.db")
    await store.open()
    await store.keep_traffic(records())
    with closing(sqlite3.connect(tmp_path / "store.db")) as db, db:
        db.execute("UPDATE traffic SET status = 'many' WHERE id = 'req_7'")
        db.execute("UPDATE traffic SET detail = CAST(X'ff' AS TEXT) WHERE id = 'req_8'")
    server = Server(store, LocalArtifacts(tmp_path / "artifacts"))
    server.now = NOW + 3 * DAY_S
    assert (await server.sealing.run_once()).requests == COUNT - 1
    assert [row.id for row in await store.traffic(TrafficFilter(id="req_7"))] == ["req_7"]
    assert (await server.recorded.request("req_8")).attempts == ()
    server.files.close()
    await store.close()


async def test_a_missing_file_is_an_error_and_not_fewer_requests(server, tmp_path):
    await server.sealing.run_once()
    [oldest] = (await server.store.sealed_files())[-1:]
    Path(tmp_path, "artifacts", oldest.key).unlink()
    assert len(await server.recorded.page(TrafficFilter(), limit=50)) == 50
    for read in (
        server.recorded.page(TrafficFilter(), limit=COUNT),
        server.recorded.totals(TrafficFilter(), (), limit=1),
        server.recorded.delete(TrafficFilter(route="x")),
    ):
        with pytest.raises(ArtifactError, match=oldest.key):
            await read


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:2000])


def put_another_in_its_place(path: Path) -> None:
    pq.write_table(pa.table({"number": [1], "user_id": ["user_0"]}), path)


@pytest.mark.parametrize("damage", [cut_off, put_another_in_its_place])
# DuckDB reads no files of a folder with such a name.
@pytest.mark.parametrize("folder", ["artifacts", "artifacts[1]"])
async def test_a_damaged_file_is_an_error_that_keeps_no_other_from_its_turn(
    tmp_path, folder, damage
):
    store = SqliteStore(tmp_path / "store.db")
    await store.open()
    server = Server(store, LocalArtifacts(tmp_path / folder))
    await store.keep_traffic(records())
    await server.sealing.run_once()
    files = await store.sealed_files()
    path = tmp_path / folder / files[1].key
    whole = path.read_bytes()
    damage(path)
    # A process that has not read it before.
    fresh = Server(store, LocalArtifacts(tmp_path / folder))
    for read in (
        fresh.recorded.page(TrafficFilter(), limit=COUNT),
        fresh.recorded.totals(TrafficFilter(), (), limit=1),
        fresh.recorded.delete(TrafficFilter(route="x")),
    ):
        with pytest.raises(ArtifactError, match="sealed requests cannot be read"):
            await read
    fresh.outdated = [TrafficFilter(until=NOW, route="y"), TrafficFilter(until=NOW, route="rare")]
    with pytest.raises(ArtifactError, match="sealed requests cannot be read"):
        await fresh.sealing.run_once()
    path.write_bytes(whole)
    left = await server.recorded.page(TrafficFilter(until=NOW - 1000.0 - DAY_S), limit=COUNT)
    assert len(left) == files[1].requests
    assert (left[0].number, left[-1].number) == (files[1].last, files[1].first)
    for each in (server, fresh):
        each.files.close()
    await store.close()


async def test_a_file_is_not_taken_for_one_that_is_gone(server):
    """SQLite gives the highest number of a file again once that is gone."""
    await server.sealing.run_once()
    assert await server.listed(TrafficFilter(user="user_9"))
    for route in ("x", "y", "rare"):
        await server.recorded.delete(TrafficFilter(route=route))
    assert await server.store.sealed_files() == []
    await server.store.keep_traffic(
        [msgspec.structs.replace(record, user="ann") for record in records()]
    )
    await server.sealing.run_once()
    assert await server.store.sealed_files()
    assert len(await server.listed(TrafficFilter(user="ann"))) == COUNT
    assert (await server.recorded.delete(TrafficFilter(user="ann"))).deleted == COUNT


def test_a_filter_of_values_finds_all_of_them_and_few_others():
    values = value_filter.ValueFilter()
    values.add(f"value {n}" for n in range(3000))
    bits = values.bits()
    assert len(bits) == 3750
    assert all(value_filter.may_have(bits, f"value {n}") for n in range(3000))
    assert sum(value_filter.may_have(bits, f"other {n}") for n in range(3000)) < 60
    assert not value_filter.may_have(value_filter.ValueFilter().bits(), "value")


async def test_requests_in_s3_are_read_as_those_in_a_folder(tmp_path):
    pytest.importorskip("boto3")
    with s3_server("sealed") as s3:
        store = SqliteStore(tmp_path / "store.db")
        await store.open()
        server = Server(store, S3Artifacts("sealed", f"some/{tmp_path.name}", s3))
        await store.keep_traffic(records())
        before = await server.recorded.page(TrafficFilter(), limit=COUNT)
        assert (await server.sealing.run_once()).files == DAYS
        assert await server.recorded.page(TrafficFilter(), limit=COUNT) == before
        assert (await server.recorded.request("req_10")).response == "answer 10" * 20
        [total] = await server.recorded.totals(TrafficFilter(route="x"), (), limit=1)
        assert total.requests == sum(record.route == "x" for record in records())
        deleted = await server.recorded.delete(TrafficFilter(user="user_9"))
        assert deleted.complete
        assert deleted.deleted == sum(record.user == "user_9" for record in records())
        left = [record.id for record in reversed(records()) if record.user != "user_9"]
        assert await server.listed() == left
        assert len(await server.stored_files()) == len(await store.sealed_files())
        server.files.close()
        await store.close()


@pytest.mark.parametrize("state", ["live", "half a file", "all files"])
async def test_requests_are_read_with_their_bodies_by_number(server, state):
    if state != "live":
        await (seal_partly(server) if state == "half a file" else server.sealing.run_once())
    listed = await server.recorded.page(TrafficFilter(), limit=COUNT)
    chosen = [row.number for row in listed if row.bodies or row.number % 97 == 0]
    gone = chosen.pop(40)
    await server.recorded.delete(TrafficFilter(id=next(r.id for r in listed if r.number == gone)))
    rows = [row async for some in server.recorded.with_bodies([*chosen, gone]) for row in some]
    assert sorted(row.number for row in rows) == sorted(chosen)
    by_id = {record.id: record for record in records()}
    for row in rows:
        record = by_id[row.id]
        assert row.request == (None if record.request is None else record.request.decode())
        assert row.response == (None if record.response is None else record.response.decode())


# Written by the version before requests had a request_id: every twentieth of `records()`.
OLD = Path(__file__).parents[2] / "data" / "sealed"


# Brackets in its name keep DuckDB out.
@pytest.mark.parametrize("folder", ["artifacts", "artifacts [1]"])
async def test_files_of_an_earlier_version_are_read_and_deleted_from(tmp_path, folder):
    (tmp_path / "e.db").write_bytes(gzip.decompress((OLD / "store.db.gz").read_bytes()))
    shutil.copytree(OLD / "traffic", tmp_path / folder / "traffic")
    store = SqliteStore(tmp_path / "e.db")
    await store.open()
    server = Server(store, LocalArtifacts(tmp_path / folder))
    names = [f"req_{n}" for n in reversed(range(0, COUNT, 20))]
    rows = await server.recorded.page(TrafficFilter(), limit=COUNT)
    assert [row.id for row in rows] == names
    old = {record.id: record for record in records()}
    for row in rows:
        assert (row.request_id, row.response_id, row.conversation) == (row.id, "", "")
        assert (row.rollout, row.arm, row.unit, row.stored) == ("", "", "", True)
        assert (row.user, row.cost_usd) == (old[row.id].user, old[row.id].cost_usd)
    chosen = [row.number for row in rows if row.bodies]
    read = [row async for some in server.recorded.with_bodies(chosen) for row in some]
    assert sorted(row.number for row in read) == sorted(chosen)
    assert {row.response for row in read} == {old[row.id].response.decode() for row in read}
    # A new file beside them, of which one request has the name of an old one.
    new = Record(id="new_1", at=FIRST, request_id="req_20", key_id=old["req_20"].key_id)
    other = Record(id="new_2", at=FIRST, response_id="chatcmpl-1", conversation="talk")
    await store.keep_traffic([new, other])
    assert (await server.sealing.run_once()).requests == 2
    mine = TrafficFilter(request_id="req_20", key_id=new.key_id)
    assert await server.listed(mine) == ["new_1", "req_20"]
    assert (await server.recorded.request("req_20")).id == "req_20"
    assert await server.listed(TrafficFilter(response_id="chatcmpl-1")) == ["new_2"]
    assert await server.listed(TrafficFilter(conversation="talk")) == ["new_2"]
    assert await server.listed(TrafficFilter(rollout="any")) == []
    [total] = await server.recorded.totals(TrafficFilter(), (), limit=5)
    assert total.requests == len(names) + 2
    deletion = await server.recorded.delete(mine)
    assert deletion.deleted == 2
    names.remove("req_20")
    assert await server.listed() == ["new_2", *names]
    assert (await server.recorded.delete(TrafficFilter(conversation="talk"))).deleted == 1
    assert await server.listed() == names
    # The file that was written again is read as a new one is.
    assert await server.listed(TrafficFilter(user=old["req_0"].user)) == [
        name for name in names if old[name].user == old["req_0"].user
    ]
    server.files.close()
    await store.close()


async def test_bodies_of_what_was_deleted_while_it_was_sealed_do_not_come_back(server):
    await seal_partly(server)
    [file] = await server.store.sealed_files()
    invisible = (await server.files.numbers(file, file.visible_to))[3]
    [row] = [row for row in await server.store.traffic(TrafficFilter(), limit=COUNT)
             if row.number == invisible]  # fmt: skip
    assert await server.store.forget_traffic(TrafficFilter(id=row.id), 1) == 1
    numbers = [file.visible_to, invisible]
    read = [row.number async for rows in server.recorded.with_bodies(numbers) for row in rows]
    assert read == [file.visible_to]


async def test_bodies_are_read_once_where_a_file_is_replaced_meanwhile(server):
    await server.sealing.run_once()
    files = await server.store.sealed_files()
    numbers = [number for file in files for number in await server.files.numbers(file, -1)]
    reading = server.recorded.with_bodies(numbers)
    read = [row.number for row in await anext(reading)]
    later = next(file for file in files if file.first not in read)
    [gone] = [row for row in await server.recorded.page(TrafficFilter(), limit=COUNT)
              if row.number == later.first]  # fmt: skip
    assert (await server.recorded.delete(TrafficFilter(id=gone.id))).deleted == 1
    read += [row.number async for rows in reading for row in rows]
    assert sorted(read) == sorted({*numbers} - {gone.number})
