"""An index of requests that costs a write nothing: it is made of whole blocks, some time later.

A block is 4,096 numbers. When the block after it has begun, `index_block` enters its requests:

    traffic_kinds    (route, target, class, status), once each; traffic_keys: ids of keys;
                     traffic_users: identifiers of users
    traffic_by_kind  (kind, number), traffic_by_key (key, kind, number), traffic_by_user
                     (user, kind, number) of the requests that name one
    traffic_blocks   the earliest and the latest time in each block; its last row ends the index

Sorted as a whole, a block touches a few hundred pages of the database; entered one by one with its
request, each entry would write a page of its own. A filter selects kinds, of which a few hundred
exist, and each gives its newest number in one step. So a filter that matches nothing is as quick as
one that matches everything. What is not in the index yet is read from the table.

Names that clients and hosts have for a request (its `x-request-id`, its answer's `id`, its
conversation) are in ordinary indexes, whose first column is the block: entries of new requests are
then in a few dozen pages, where all entries of random names would be spread over all pages (2 µs a
request instead of 15). To find a name takes a look into each block, a microsecond each.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from router.store.columns.traffic import KIND_COLUMNS
from router.store.sql.connection import Connection
from router.store.sql.filters import Conditions, conditions_of
from router.store.sql.traffic import Selection
from router.store.traffic import TrafficFilter

# Made from the requests by `index_block`.
TABLES = (
    "traffic_blocks", "traffic_kinds", "traffic_keys", "traffic_users", "traffic_by_kind",
    "traffic_by_key", "traffic_by_user",
)  # fmt: skip
_BLOCK_BITS = 12
_BLOCK = 1 << _BLOCK_BITS
_END = f"(SELECT coalesce(max(block) + 1, 0) * {_BLOCK} FROM traffic_blocks)"
_SAME_KIND = " AND ".join(f"traffic_kinds.{name} = traffic.{name}" for name in KIND_COLUMNS)
_ALL = 2**63 - 1
_GONE = """
    WITH gone (key, kind, number, user) AS (
        SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]'),
            json_extract(value, '$[2]'), json_extract(value, '$[3]')
        FROM json_each(:gone)
    )
"""


def _named(column: str) -> str:
    """Return a query of the numbers of requests with a name, block by block, newest first."""
    return f"""
        WITH RECURSIVE block (number) AS (
            SELECT (SELECT max(number) FROM traffic) >> {_BLOCK_BITS}
            UNION ALL SELECT number - 1 FROM block
            WHERE number > (SELECT min(number) FROM traffic) >> {_BLOCK_BITS}
        )
        SELECT named.number FROM block CROSS JOIN traffic AS named
        ON named.number >> {_BLOCK_BITS} = block.number
        AND named.{column} = :{column} AND named.{column} <> ''
    """


# Requests whose own id the client's is have "" there. As two queries, so that both use an index.
_NAMED_BY_CLIENT = (
    f"number IN (SELECT * FROM ({_named('request_id')})"
    " UNION ALL SELECT number FROM traffic WHERE id = :request_id AND request_id = '')"
)


# Of the names that have such an index.
_NAMES = {
    "request_id": _NAMED_BY_CLIENT,
    "response_id": f"number IN ({_named('response_id')})",
    "conversation": f"number IN ({_named('conversation')})",
    "rollout": "rollout = :rollout AND rollout <> ''",
}


def numbers_of(
    db: Connection, matching: TrafficFilter, *, limit: int, before: int | None = None
) -> list[int]:
    """Return the numbers of the newest requests that match, newest first."""
    conditions = conditions_of(db, matching, others=_NAMES)
    end = db.execute(f"SELECT {_END}").fetchone()[0]
    below = _ALL if before is None else before
    if conditions.names:
        return _in_table(db, conditions, conditions.all, (0, below), limit)
    numbers = _in_table(db, conditions, conditions.all, (end, below), limit)
    below = min(below, end)
    for first, after in _spans(db, conditions, below):
        missing = limit - len(numbers)
        if not missing:
            break
        span = first, min(after, below)
        if conditions.kind or conditions.key or conditions.user:
            numbers += _in_index(db, conditions, span, missing)
        else:
            numbers += _in_table(db, conditions, conditions.time, span, missing)
    return numbers


def selection(db: Connection, matching: TrafficFilter) -> Selection:
    """Return what selects the requests that match, from the blocks that may have their time."""
    conditions = conditions_of(db, matching, others=_NAMES)
    where = conditions.all
    if not conditions.time:
        return Selection("traffic", where, conditions.values)
    end = db.execute(f"SELECT {_END}").fetchone()[0]
    spans = _spans(db, conditions, end)
    if spans and spans[0][1] == end:
        # Usual, and quicker as one span.
        spans[0] = spans[0][0], _ALL
    else:
        spans.append((end, _ALL))
    values = conditions.values | {
        f"{name}_{n}": number
        for n, span in enumerate(spans)
        for name, number in zip(("first", "after"), span, strict=True)
    }
    if len(spans) == 1:
        return Selection("traffic", ["number >= :first_0", *where], values)
    parts = (
        f"SELECT * FROM traffic WHERE number >= :first_{n} AND number < :after_{n}"
        for n in range(len(spans))
    )
    return Selection(f"({' UNION ALL '.join(parts)})", where, values)


def _spans(db: Connection, conditions: Conditions, below: int) -> list[tuple[int, int]]:
    """Return the spans of numbers whose blocks may have a request of the time, newest first."""
    if not conditions.time:
        return [(0, below)]
    where = " AND ".join(
        condition.replace("at >=", "latest >=").replace("at <", "earliest <")
        for condition in conditions.time
    )
    return db.execute(
        f"SELECT min(block) * {_BLOCK}, (max(block) + 1) * {_BLOCK} FROM ("
        "  SELECT block, block - row_number() OVER (ORDER BY block) AS span FROM traffic_blocks"
        f"  WHERE block * {_BLOCK} < :below AND {where}"
        ") GROUP BY span ORDER BY 1 DESC",
        conditions.values | {"below": below},
    ).fetchall()


def _in_table(
    db: Connection,
    conditions: Conditions,
    where: Sequence[str],
    span: tuple[int, int],
    limit: int,
) -> list[int]:
    """Return numbers by reading requests one after the other."""
    first, below = span
    rows = db.execute(
        "SELECT number FROM traffic WHERE "
        + " AND ".join(["number >= :first", "number < :below", *where])
        + " ORDER BY number DESC LIMIT :limit",
        conditions.values | {"first": first, "below": below, "limit": limit},
    )
    return [number for (number,) in rows]


def _in_index(
    db: Connection, conditions: Conditions, span: tuple[int, int], limit: int
) -> list[int]:
    """Return numbers by merging those of all kinds that match."""
    first, below = span
    values = conditions.values | {"first": first, "below": below, "limit": limit}
    entries = "traffic_by_kind AS entry"
    where = ["entry.kind = traffic_kinds.kind", "entry.number >= :first", "entry.number < :below"]
    of_request = conditions.time
    if conditions.user:
        # Usually has fewer requests than a key.
        entries = "traffic_by_user AS entry"
        where.append("entry.user = (SELECT user FROM traffic_users WHERE id = :user)")
        of_request = conditions.key + conditions.time
    elif conditions.key:
        entries = "traffic_by_key AS entry"
        where.append("entry.key = (SELECT key FROM traffic_keys WHERE id = :key_id)")
    if of_request:
        entries += " CROSS JOIN traffic ON traffic.number = entry.number"
        where += of_request
    newest = (
        f"SELECT entry.number FROM {entries} WHERE {' AND '.join(where)}"
        " ORDER BY entry.number DESC LIMIT "
    )
    kinds = db.execute(
        f"SELECT kind, newest FROM (SELECT kind, ({newest} 1) AS newest FROM traffic_kinds"
        f"{' WHERE ' if conditions.kind else ''}{' AND '.join(conditions.kind)})"
        # As many kinds as numbers: each of these has one that is newer than all of another kind.
        " WHERE newest IS NOT NULL ORDER BY newest DESC LIMIT :limit",
        values,
    ).fetchall()
    of_kind = newest.replace("traffic_kinds.kind", ":kind") + ":limit"
    numbers: list[int] = []
    for kind, newest_number in kinds:
        if len(numbers) == limit:
            if newest_number < numbers[-1]:
                break
            values["first"] = numbers[-1]
        rows = db.execute(of_kind, values | {"kind": kind})
        numbers = sorted([*numbers, *(number for (number,) in rows)], reverse=True)[:limit]
    return numbers


def oldest(db: Connection, since: float, until: float) -> float | None:
    """Return the moment of an early request of that time; None without one.

    It is the earliest of its block, where the block had the earliest request when it was indexed.
    """
    values = {"since": since, "until": until}
    blocks = db.execute(
        f"SELECT block * {_BLOCK}, (block + 1) * {_BLOCK} FROM traffic_blocks"
        " WHERE latest >= :since AND earliest < :until ORDER BY max(earliest, :since), block",
        values,
    ).fetchall()
    end: int = db.execute(f"SELECT {_END}").fetchone()[0]
    for first, after in [*blocks, (end, _ALL)]:
        moment: float | None = db.execute(
            "SELECT min(at) FROM traffic WHERE number >= :first AND number < :after"
            " AND at >= :since AND at < :until",
            values | {"first": first, "after": after},
        ).fetchone()[0]
        if moment is not None:
            return moment
    return None


def new_numbers(db: Connection, count: int) -> Sequence[int]:
    """Return numbers for new requests, above all that are stored, sealed or were in the index."""
    query = (
        f"SELECT max(1 + coalesce((SELECT max(number) FROM traffic), 0), {_END},"
        " 1 + coalesce((SELECT max(last_number) FROM sealed_traffic), 0))"
    )
    first: int = db.execute(query).fetchone()[0]
    return range(first, first + count)


def index_block(db: Connection) -> bool:
    """Enter the oldest block that is full and not in the index; return whether there was one."""
    first, newest = db.execute(
        "SELECT (SELECT min(number) FROM traffic WHERE number >= "
        f"{_END}), (SELECT max(number) FROM traffic)"
    ).fetchone()
    block = (first or 0) // _BLOCK
    if first is None or newest < (block + 1) * _BLOCK:
        return False
    values = {"block": block, "first": block * _BLOCK, "after": (block + 1) * _BLOCK}
    of_block = "FROM traffic WHERE number >= :first AND number < :after"
    with_user = f"{of_block} AND user_id <> ''"
    names = ", ".join(KIND_COLUMNS)
    for statement in (
        f"INSERT OR IGNORE INTO traffic_kinds ({names}) SELECT DISTINCT {names} {of_block}",
        f"INSERT OR IGNORE INTO traffic_keys (id) SELECT DISTINCT key_id {of_block}",
        f"INSERT OR IGNORE INTO traffic_users (id) SELECT DISTINCT user_id {with_user}",
        f"INSERT INTO traffic_by_kind {_entries('kind, number', of_block)}",
        f"INSERT INTO traffic_by_key {_entries('key, kind, number', of_block)}",
        f"INSERT INTO traffic_by_user {_entries('user, kind, number', with_user)}",
        f"INSERT INTO traffic_blocks SELECT :block, min(at), max(at) {of_block}",
    ):
        db.execute(statement, values)
    return True


def _entries(columns: str, of: str) -> str:
    """Return the SELECT of the entries of requests, in the order of their index."""
    return (
        f"SELECT {columns} FROM (SELECT number, route, target, klass, status, key_id, user_id {of})"
        f" AS traffic CROSS JOIN traffic_kinds ON {_SAME_KIND}"
        " CROSS JOIN traffic_keys ON traffic_keys.id = traffic.key_id"
        # A request without one has no entry there.
        " LEFT JOIN traffic_users ON traffic_users.id = traffic.user_id"
        f" ORDER BY {columns}"
    )


def delete(db: Connection, numbers: Sequence[int]) -> None:
    """Delete requests with their bodies and entries, and kinds, keys and users without requests.

    One statement for each table: for each request, the interpreter would be taken from the others.
    """
    values = {"numbers": msgspec.json.encode(numbers).decode()}
    chosen = "IN (SELECT value FROM json_each(:numbers))"
    entries = _entries("key, kind, number, user", f"FROM traffic WHERE number {chosen}")
    gone = db.execute(entries, values).fetchall()
    values["gone"] = msgspec.json.encode(gone).decode()
    for statement in (
        f"DELETE FROM traffic_bodies WHERE number {chosen}",
        f"DELETE FROM traffic WHERE number {chosen}",
        "DELETE FROM traffic_by_kind WHERE (kind, number) IN (SELECT kind, number FROM gone)",
        "DELETE FROM traffic_by_key"
        " WHERE (key, kind, number) IN (SELECT key, kind, number FROM gone)",
        "DELETE FROM traffic_kinds WHERE kind IN (SELECT kind FROM gone)"
        " AND NOT EXISTS (SELECT 1 FROM traffic_by_kind AS e WHERE e.kind = traffic_kinds.kind)",
        "DELETE FROM traffic_keys WHERE key IN (SELECT key FROM gone)"
        " AND NOT EXISTS (SELECT 1 FROM traffic_by_key AS e WHERE e.key = traffic_keys.key)",
        "DELETE FROM traffic_by_user"
        " WHERE (user, kind, number) IN (SELECT user, kind, number FROM gone)",
        "DELETE FROM traffic_users WHERE user IN (SELECT user FROM gone)"
        " AND NOT EXISTS (SELECT 1 FROM traffic_by_user AS e WHERE e.user = traffic_users.user)",
        "DELETE FROM traffic_blocks WHERE block IN"
        f" (SELECT DISTINCT value / {_BLOCK} FROM json_each(:numbers))"
        # The last one says where the index ends.
        " AND block < (SELECT max(block) FROM traffic_blocks) AND NOT EXISTS (SELECT 1 FROM traffic"
        f" WHERE number >= block * {_BLOCK} AND number < (block + 1) * {_BLOCK})",
    ):
        db.execute(_GONE + statement, values)
