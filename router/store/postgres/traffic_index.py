"""Requests in PostgreSQL, whose indexes grow with every write: the server has threads for that.

    traffic_by_kind  (route, target, class, status, number), newest first within a kind
    traffic_by_key, traffic_by_user  the same, within a key and within a user
    traffic_kinds    (route, target, class, status) of all requests, also of those that are gone
    traffic_blocks   (block, writer): the earliest and the latest time of what a server process has
                     written of 4,096 numbers

A filter selects kinds, of which a few hundred exist, and each gives its newest numbers in one step;
those of a key or a user are found by reading their index from one kind to the next. So filters that
each match many requests, and together none, are as quick as one. Requests of a time are between the
numbers of their blocks. A trigger keeps kinds and blocks.
"""

from __future__ import annotations

from collections.abc import Sequence

from router.store.columns.traffic import KIND_COLUMNS
from router.store.sql.connection import Connection
from router.store.sql.filters import Conditions, conditions_of
from router.store.sql.traffic import Selection
from router.store.traffic import TrafficFilter

TABLES = ("traffic_blocks", "traffic_kinds")
# Makes both from the requests.
FILL = (
    "DELETE FROM traffic_blocks",
    "DELETE FROM traffic_kinds",
    "INSERT INTO traffic_blocks (block, writer, earliest, latest)"
    " SELECT number / 4096, 0, min(at), max(at) FROM traffic GROUP BY 1",
    "INSERT INTO traffic_kinds (route, target, klass, status)"
    " SELECT DISTINCT route, target, klass, status FROM traffic",
)
BLOCK = 4096
_ALL = 2**63 - 1
# Long after the last transaction has ended that may write to a block.
_SETTLED = 64


def new_numbers(db: Connection, count: int) -> Sequence[int]:
    """Return numbers for new requests; other processes may get those in between."""
    return db.new_numbers("traffic", count)


# Requests whose own id the client's is have "" there. As two queries, so that both use an index.
_NAMED_BY_CLIENT = (
    "number IN (SELECT number FROM traffic WHERE request_id = :request_id AND request_id <> ''"
    " UNION ALL SELECT number FROM traffic WHERE id = :request_id AND request_id = '')"
)


# The second half of each follows from the first, but the indexes leave out requests without one.
_NAMES = {
    "request_id": _NAMED_BY_CLIENT,
    "response_id": "response_id = :response_id AND response_id <> ''",
    "conversation": "conversation = :conversation AND conversation <> ''",
    "rollout": "rollout = :rollout AND rollout <> ''",
}
_NAMED_USER = {"user": "user_id = :user AND user_id <> ''"}


def _conditions(db: Connection, matching: TrafficFilter) -> Conditions:
    others = _NAMES | _NAMED_USER if matching.user else _NAMES
    return conditions_of(db, matching, others=others)


def numbers_of(
    db: Connection, matching: TrafficFilter, *, limit: int, before: int | None = None
) -> list[int]:
    """Return the numbers of the newest requests that match, newest first."""
    conditions = _conditions(db, matching)
    below = _ALL if before is None else before
    if conditions.names:
        return _in_table(db, conditions, conditions.all, (0, below), limit)
    numbers: list[int] = []
    for first, after in _spans(db, conditions):
        missing = limit - len(numbers)
        span = first, min(after, below)
        if not missing:
            break
        if conditions.kind or conditions.key or matching.user:
            numbers += _in_index(db, conditions, span, missing)
        else:
            numbers += _in_table(db, conditions, conditions.all, span, missing)
    return numbers


def selection(db: Connection, matching: TrafficFilter) -> Selection:
    """Return what selects the requests that match."""
    conditions = _conditions(db, matching)
    return Selection("traffic", conditions.all, conditions.values)


def _spans(db: Connection, conditions: Conditions) -> Sequence[tuple[int, int]]:
    """Return the spans of numbers whose blocks may have a request of the time, newest first."""
    if not conditions.time:
        return [(0, _ALL)]
    where = " AND ".join(
        condition.replace("at >=", "latest >=").replace("at <", "earliest <")
        for condition in conditions.time
    )
    spans: Sequence[tuple[int, int]] = db.execute(
        f"SELECT min(block) * {BLOCK}, (max(block) + 1) * {BLOCK} FROM ("
        "  SELECT block, block - row_number() OVER (ORDER BY block) AS span"
        f"  FROM (SELECT DISTINCT block FROM traffic_blocks WHERE {where}) AS matching"
        ") AS numbered GROUP BY span ORDER BY 1 DESC",
        conditions.values,
    ).fetchall()
    return spans


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
    """Return numbers by merging those of all kinds that match.

    Their order is that of `-number`, as the indexes have it: for that of `number`, the server
    might read the whole table from its end, in the hope that a request matches soon.
    """
    first, below = span
    # Usually a user has fewer requests than a key.
    owner = conditions.user or conditions.key
    of_request = [*owner, *conditions.time, *(conditions.key if conditions.user else [])]
    same = [f"traffic.{name} = kinds.{name}" for name in KIND_COLUMNS]
    in_span = ["-number <= :oldest", "-number > :newest"]
    rows = db.execute(
        f"{_kinds_of(conditions, owner) if owner else ''}"
        f" SELECT newest.number FROM {'kinds' if owner else 'traffic_kinds AS kinds'}, LATERAL ("
        f"  SELECT number FROM traffic {_where([*same, *of_request, *in_span])}"
        "   ORDER BY -number LIMIT :limit"
        f") AS newest {_where(conditions.kind)} ORDER BY newest.number DESC LIMIT :limit",
        conditions.values | {"oldest": -first, "newest": -below, "limit": limit},
    )
    return [number for (number,) in rows]


def _kinds_of(conditions: Conditions, owner: Sequence[str]) -> str:
    """Return what reads the kinds of a key or a user, from one to the next in their index.

    It stays within the route, where one is given, which is left out of the comparison then: the
    server would begin at the route's first entry each time.
    """
    of_route = [text for text in conditions.kind if text.startswith("route =")]
    within = [*owner, *of_route]
    kind = ", ".join(KIND_COLUMNS)
    compared = KIND_COLUMNS[1:] if of_route else KIND_COLUMNS
    behind = f"({', '.join(compared)}) > ({', '.join(f'kinds.{name}' for name in compared)})"
    return (
        f"WITH RECURSIVE kinds ({kind}) AS ("
        f"  (SELECT {kind} FROM traffic {_where(within)} ORDER BY {kind} LIMIT 1)"
        f"  UNION ALL SELECT following.* FROM kinds, LATERAL ("
        f"    SELECT {kind} FROM traffic {_where([*within, behind])} ORDER BY {kind} LIMIT 1"
        "  ) AS following"
        ")"
    )


def _where(conditions: Sequence[str]) -> str:
    return f"WHERE {' AND '.join(conditions)}" if conditions else ""


def oldest(db: Connection, since: float, until: float) -> float | None:
    """Return the moment of the earliest request of that time; None without one."""
    row = db.execute(
        "SELECT at FROM traffic WHERE at >= ? AND at < ? ORDER BY at LIMIT 1", (since, until)
    ).fetchone()
    return None if row is None else row[0]


def delete(db: Connection, numbers: Sequence[int]) -> None:
    """Delete requests with their bodies, and the times of blocks that have none left."""
    values = {"numbers": db.array(numbers)}
    for table in ("traffic_bodies", "traffic"):
        db.execute(f"DELETE FROM {table} WHERE number = ANY(:numbers)", values)
    db.execute(
        "DELETE FROM traffic_blocks"
        f" WHERE block IN (SELECT DISTINCT number / {BLOCK}"
        "   FROM unnest(CAST(:numbers AS bigint[])) AS number)"
        f" AND block < (SELECT max(block) - {_SETTLED} FROM traffic_blocks)"
        " AND NOT EXISTS (SELECT 1 FROM traffic"
        f" WHERE number >= block * {BLOCK} AND number < (block + 1) * {BLOCK})",
        values,
    )


def index_block(_: Connection) -> bool:
    """Return that nothing is left to index."""
    return False
