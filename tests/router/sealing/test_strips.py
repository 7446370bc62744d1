"""Pages are read from strips, and say what whole columns say."""

from __future__ import annotations

import io
import math
import random
import sqlite3
import zlib
from contextlib import closing
from pathlib import Path

import msgspec
import pytest
from request_filters import selects
from sealed_requests import COUNT, DAY_S, FIRST, NOW, Server, records

from providers.errors import ArtifactError
from router.datasets.artifacts import LocalArtifacts
from router.sealing import strips
from router.sealing.arrow_queries import ArrowQueries
from router.sealing.duckdb_queries import DuckDbQueries
from router.sealing.parquet_files import COLUMNS, GROUP_BODY_BYTES, FileReader, FileWriter
from router.sealing.strips import STRIP_ROWS, FileIndex, IndexedFile
from router.store.sealed_traffic import FILTERED, SealedFile
from router.store.sqlite import SqliteStore
from router.store.traffic import TrafficFilter

ROWS = 2000
# Two users that the index cannot tell apart.
TWINS = (
    "user_60",
    next(
        name
        for name in (f"twin_{n}" for n in range(10**6))
        if not (zlib.crc32(name.encode()) ^ zlib.crc32(b"user_60")) & 0xFFFF
    ),
)
OPTIONS = {
    "route": ["x", "rare", "unknown"],
    "except_routes": [("x",), ("x", "y", "rare")],
    "target": ["a/m", "unknown"],
    "key_id": ["key_1", "key_rare", "", "unknown"],
    "user": ["user_9", *TWINS, "", "unknown"],
    "traffic_class": ["live", "eval"],
    "status": [(200, 299), (503, 503), (300, 399)],
    "since": [0.0, 1500.0, 3000.0],
    "until": [0.0, 900.0, 3000.0],
}


def a_row(n: int, draw: random.Random) -> tuple:
    """Row n of a file, whose moments are not quite in the order of its numbers."""
    known = {
        "number": 10 + 3 * n,
        "id": f"req_{n}",
        "at": n + draw.choice([0.5, -40.0]),
        "route": "rare" if n % 401 == 5 else draw.choice(["x", "y"]),
        "target": draw.choice(["a/m", "b/m", ""]),
        "status": 503 if n % 300 == 7 else draw.choice([200, 404]),
        "key_id": "key_rare" if n % 500 == 77 else draw.choice(["", "key_1", "key_2"]),
        "user_id": draw.choice(TWINS) if n % 97 == 0 else f"user_{n % 40}" if n % 3 == 0 else "",
        "klass": "eval" if 400 < n < 700 else "live",
        "prompt_tokens": n if n % 7 else None,
        "cost_usd": n / 3 if n % 11 else None,
        "total_s": 5e-324 * n,
        "detail": f'{{"note": "é \0 {n}"}}',
        # Ends a row group, which then has fewer requests than a multiple of a strip's.
        "request": bytes(GROUP_BODY_BYTES) if n == 700 else None,
    }
    usual = {"path": "p", "error_code": "", "stream": 0, "cached": 0, "finish_reason": "stop",
             "model": "m", "bodies": 0}  # fmt: skip
    return tuple((usual | known).get(column) for column in COLUMNS)


class CountingArtifacts(LocalArtifacts):
    """Counts the bytes that are read."""

    count = 0

    def open(self, key: str, size: int) -> io.RawIOBase:
        artifacts = self

        class Counted(io.FileIO):
            def read(self, size: int | None = -1, /) -> bytes:
                data = super().read(size)
                artifacts.count += len(data)
                return data

        return Counted(str(self.path(key)))


class Written:
    """A file of ROWS requests in two row groups, with its index."""

    def __init__(self, folder: Path) -> None:
        draw = random.Random(3)
        self.rows = [a_row(n, draw) for n in range(ROWS)]
        writer = FileWriter()
        data = b"".join(writer.add_rows(self.rows[n : n + 100]) for n in range(0, ROWS, 100))
        data += writer.close()
        folder.mkdir()
        (folder / "file.parquet").write_bytes(data)
        facts = writer.facts(len(data), "")
        self.file = SealedFile(
            number=1, key="file.parquet", visible_to=facts.last, **msgspec.structs.asdict(facts)
        )
        self.artifacts = CountingArtifacts(folder)
        self.fields = writer.filters()
        self.index = FileIndex(self.fields["kinds"])

    def page(self, file: SealedFile, matching: TrafficFilter, **page) -> list[tuple]:
        known, possible = strips.indexes({1: self.fields["kinds"]}, matching)
        assert known == {1}
        files = [
            IndexedFile(file, index, {part: self.fields[part] for part in needed})
            for index, needed in possible.values()
        ]
        return strips.page(self.artifacts, files, matching, **page)


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Written:
    return Written(tmp_path_factory.mktemp("strips") / "artifacts")


def filters() -> list[TrafficFilter]:
    """Every single condition, and combinations that are drawn."""
    single = [{name: value} for name, values in OPTIONS.items() for value in values]
    draw = random.Random(7)
    combined = [
        {name: draw.choice(OPTIONS[name]) for name in draw.sample(sorted(OPTIONS), size)}
        for size in (2, 3)
        for _ in range(15)
    ]
    return [TrafficFilter(**chosen) for chosen in [{}, *single, *combined]]


def test_strips_have_what_columns_have(written):
    assert len(written.index.starts) > ROWS // STRIP_ROWS + 1
    columns = ArrowQueries(FileReader(written.artifacts))
    # Strips are not in its way either; what it says of filters is tested elsewhere.
    duck = DuckDbQueries(written.artifacts).page([written.file], TrafficFilter(), limit=ROWS)
    assert duck == written.page(written.file, TrafficFilter(), limit=ROWS)
    half = msgspec.structs.replace(written.file, visible_to=written.rows[ROWS // 2][0])
    draw = random.Random(5)
    for matching in filters():
        file = draw.choice([written.file, half])
        page = {"limit": draw.choice([1, 7, ROWS]), "before": draw.choice([None, 300, 4001])}
        rows = written.page(file, matching, **page)
        assert rows == columns.page([file], matching, **page)
        above = draw.randrange(3 * ROWS)
        later = written.page(file, matching, **page, above=above)
        assert later == [row for row in rows if row[0] > above]


def test_a_page_of_rare_requests_reads_their_strips_alone(written):
    for matching in (TrafficFilter(key_id="key_rare"), TrafficFilter(user=TWINS[1])):
        written.artifacts.count = 0
        rows = written.page(written.file, matching, limit=2)
        assert len(rows) == 2
        assert written.artifacts.count <= 3 * max(written.index.sizes)
    written.artifacts.count = 0
    # Both occur, but not together.
    assert written.page(written.file, TrafficFilter(route="rare", key_id="key_rare"), limit=2) == []
    assert written.page(written.file, TrafficFilter(since=3000.0), limit=2) == []
    assert not written.artifacts.count


@pytest.mark.parametrize("byte", [b"\xff", b"\0", b"\1"])
def test_another_file_in_its_place_is_an_error(written, tmp_path, byte):
    (tmp_path / written.file.key).write_bytes(byte * written.file.size)
    files = [IndexedFile(written.file, written.index, {})]
    with pytest.raises(ArtifactError, match="damaged"):
        strips.page(LocalArtifacts(tmp_path), files, TrafficFilter(), limit=1)


def test_what_json_cannot_express_has_no_index():
    for column, value in (("cost_usd", math.inf), ("total_s", math.nan), ("route", None)):
        rows = [list(a_row(n, random.Random(n))) for n in range(3)]
        rows[1][COLUMNS.index(column)] = value
        writer = FileWriter()
        writer.add_rows(rows)
        writer.close()
        assert set(writer.filters()) == set(FILTERED)


def change(path: Path, statement: str) -> None:
    with closing(sqlite3.connect(path)) as db, db:
        assert db.execute(statement).rowcount > 0


async def test_files_without_an_index_are_read_whole_and_those_with_one_only_where_it_says_so(
    tmp_path,
):
    path = tmp_path / "store.db"
    store = SqliteStore(path)
    await store.open()
    server = Server(store, LocalArtifacts(tmp_path / "artifacts"))
    server.now = NOW + 3 * DAY_S
    await store.keep_traffic(records())
    await server.sealing.run_once()
    # Files that are written again have an index of what is left.
    await server.recorded.delete(TrafficFilter(user="user_9"))
    files = await store.sealed_files()
    left = [record for record in reversed(records()) if record.user != "user_9"]

    async def check() -> None:
        for matching in (
            TrafficFilter(),
            TrafficFilter(route="rare"),
            TrafficFilter(key_id="key_2", status=(404, 404)),
            TrafficFilter(user="user_69"),
            TrafficFilter(traffic_class="eval", since=FIRST + DAY_S),
        ):
            expected = [record.id for record in left if selects(matching, record)]
            assert expected
            assert await server.listed(matching, COUNT) == expected

    for part in ("kinds", "rows", "users"):
        assert set(await store.sealed_filters([file.number for file in files], part)) == {
            file.number for file in files
        }
    await check()
    first, second, third = (file.number for file in files[:3])
    change(path, f"DELETE FROM sealed_traffic_filters WHERE file = {first} AND field = 'kinds'")
    change(path, f"DELETE FROM sealed_traffic_filters WHERE file = {second} AND field = 'rows'")
    change(
        path,
        "UPDATE sealed_traffic_filters SET bits = substr(bits, 1, 40)"
        f" WHERE file = {third} AND field = 'kinds'",
    )
    await check()
    last = files[-1]
    rows = await server.recorded.page(
        TrafficFilter(since=last.earliest, until=math.nextafter(last.latest, math.inf)), limit=COUNT
    )
    assert len(rows) == last.requests
    # What the file has of each, but not together.
    kind, key = next(
        (kind, key)
        for kind in last.kinds
        for key in ("key_1", "key_2")
        if not any((row.route, row.target, row.traffic_class, row.status) == kind
                   and row.key_id == key for row in rows)
    )  # fmt: skip
    route, target, traffic_class, status = kind
    pair = TrafficFilter(
        route=route,
        target=target,
        traffic_class=traffic_class,
        status=(status, status),
        key_id=key,
    )
    Path(tmp_path, "artifacts", last.key).unlink()
    await server.recorded.page(pair, limit=COUNT)
    change(path, f"DELETE FROM sealed_traffic_filters WHERE file = {last.number}")
    with pytest.raises(ArtifactError, match=last.key):
        await server.recorded.page(pair, limit=COUNT)
    server.files.close()
    await store.close()
