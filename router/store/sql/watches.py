"""The tables of watches, and of what hosts claim to be and answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from providers.errors import ConflictError
from router.store.columns.values import finite, readable
from router.store.columns.watches import (
    PROBE_FIELDS,
    REFERENCE_FIELDS,
    reference_changes,
    watch_columns,
    watch_row,
)
from router.store.sql.connection import Connection, add_up, insert
from router.store.sql.database import SqlPart
from router.store.sql.filters import given
from router.store.watches import (
    MAX_VERSIONS,
    OTHERS,
    PROBE,
    LanguageCount,
    LiveHour,
    ModelVersion,
    SignalCount,
    WatchProbe,
    WatchReference,
    WatchStore,
)

_REFERENCE = tuple(REFERENCE_FIELDS)
_LISTED = tuple(name for name in _REFERENCE if name != "anchor")
_PROBE = tuple(PROBE_FIELDS)
_VALUES = ", ".join(
    "CASE WHEN kind = 'anchor' THEN detail ELSE '{}' END" if name == "detail" else name
    for name in _PROBE
)
_VERSION = tuple(ModelVersion.__struct_fields__)
_HOUR = tuple(LiveHour.__struct_fields__)
_COUNTS = "kind IN ('anchor', 'held_out', 'probe')"

_ADD_VERSION = f"""
    {insert("model_versions", _VERSION)}
    ON CONFLICT (target, model, system_fingerprint) DO UPDATE SET
        first_at = CASE WHEN excluded.first_at < model_versions.first_at
            THEN excluded.first_at ELSE model_versions.first_at END,
        last_at = CASE WHEN excluded.last_at > model_versions.last_at
            THEN excluded.last_at ELSE model_versions.last_at END,
        requests = model_versions.requests + excluded.requests
"""
_ADD_HOUR = add_up("live_hours", _HOUR, ("target", "hour"))
_ADD_LANGUAGE = add_up("live_languages", LanguageCount._fields, ("target", "hour", "language"))


class SqlWatches(SqlPart, WatchStore):
    """Watches, and counts of answers."""

    async def begin_reference(self, reference: WatchReference) -> None:
        await self._database.write("begin a reference", _begin, reference)

    async def watch_references(self, watch: str | None = None) -> list[WatchReference]:
        return await self._database.read("list references", _references, watch)

    async def watch_reference(self, watch: str) -> WatchReference | None:
        return await self._database.read("read a reference", _present, watch)

    async def add_watch_probe(
        self,
        probe: WatchProbe,
        *,
        counted: int,
        changes: Mapping[str, Any] = {},
        registered: str = "",
    ) -> None:
        await self._database.write("add a probe", _add_probe, probe, counted, changes, registered)

    async def watch_probes(
        self,
        watch: str,
        *,
        signal: str | None = None,
        before: int | None = None,
        limit: int = 100,
    ) -> list[WatchProbe]:
        return await self._database.read("list probes", _probes, watch, signal, before, limit)

    async def watch_signals(self, watch: str) -> dict[str, SignalCount]:
        return await self._database.read("count probes", _signals, watch)

    async def watch_values(self, watch: str, reference: int, signal: str) -> list[WatchProbe]:
        return await self._database.read("read probes", _values, watch, reference, signal)

    async def watch_spending(self, watch: str, since: float) -> float:
        return await self._database.read("add up probes", _spending, watch, since)

    async def count_answers(
        self,
        versions: Sequence[ModelVersion],
        hours: Sequence[LiveHour],
        languages: Sequence[LanguageCount],
    ) -> None:
        if versions or hours or languages:
            await self._database.write("count answers", _count, versions, hours, languages)

    async def forget_hours(self, before: float) -> None:
        await self._database.write("forget hours", _forget_hours, before)

    async def model_versions(self, target: str | None = None) -> list[ModelVersion]:
        return await self._database.read("list versions", _versions, target)

    async def live_hours(self, target: str, since: float, until: float) -> list[LiveHour]:
        return await self._database.read("read hours", _hours, target, since, until)

    async def live_languages(self, target: str, since: float, until: float) -> dict[str, int]:
        return await self._database.read("read languages", _languages, target, since, until)


def _begin(db: Connection, reference: WatchReference) -> None:
    if reference.number != _last_number(db, reference.watch) + 1:
        raise ConflictError(
            f"{reference.watch} has got another reference in the meantime; look at it first"
        )
    values = watch_columns(reference, _REFERENCE)
    try:
        db.execute(insert("watch_references", _REFERENCE), values)
    except db.duplicate:
        raise ConflictError(f"{reference.watch} is getting another reference right now") from None


def _last_number(db: Connection, watch: str) -> int:
    number = db.execute(
        "SELECT max(number) FROM watch_references WHERE watch = ?", (watch,)
    ).fetchone()[0]
    return number or 0


def _references(db: Connection, watch: str | None) -> list[WatchReference]:
    where, values = ("", ()) if watch is None else (" WHERE watch = ?", (watch,))
    rows = db.execute(
        f"SELECT {', '.join(_LISTED)} FROM watch_references{where} ORDER BY watch, number DESC",
        values,
    )
    return readable(
        rows,
        lambda row: watch_row(WatchReference, _LISTED, row),
        lambda row: f"the reference {row[1]} of {row[0]}",
    )


def _present(db: Connection, watch: str) -> WatchReference | None:
    row = db.execute(
        f"SELECT {', '.join(_REFERENCE)} FROM watch_references WHERE watch = ?"
        " ORDER BY number DESC LIMIT 1",
        (watch,),
    ).fetchone()
    return None if row is None else watch_row(WatchReference, _REFERENCE, row)


def _add_probe(
    db: Connection,
    probe: WatchProbe,
    counted: int,
    changes: Mapping[str, Any],
    registered: str,
) -> None:
    # The row of the reference is written first, so that whoever does the same waits for this.
    of_reference = "WHERE watch = :w AND number = :n"
    key = {"w": probe.watch, "n": probe.reference}
    db.execute(f"UPDATE watch_references SET number = number {of_reference}", key)
    known = db.execute(
        f"SELECT count(*) FROM watch_probes WHERE watch = ? AND reference = ? AND signal = ?"
        f" AND {_COUNTS}",
        (probe.watch, probe.reference, probe.signal),
    ).fetchone()[0]
    if known != counted or _last_number(db, probe.watch) != probe.reference:
        raise ConflictError(f"{probe.watch} was probed or pinned by another process meanwhile")
    if probe.signal == PROBE and probe.kind != "missing":
        _check_rows(db, probe, counted, registered)
    if columns := reference_changes(changes):
        assignments = ", ".join(f"{name} = :{name}" for name in columns)
        db.execute(f"UPDATE watch_references SET {assignments} {of_reference}", columns | key)
    [number] = db.new_numbers("watch_probes", 1)
    values = watch_columns(msgspec.structs.replace(probe, number=number), _PROBE)
    db.execute(insert("watch_probes", _PROBE), values)


def _check_rows(db: Connection, probe: WatchProbe, counted: int, registered: str) -> None:
    """Refuse the answers to rows that were deleted while a probe was in flight."""
    [anchor] = db.execute(
        "SELECT anchor FROM watch_references WHERE watch = ? AND number = ?",
        (probe.watch, probe.reference),
    ).fetchone()
    version = db.execute("SELECT 1 FROM datasets WHERE hash = ?", (registered,)).fetchone()
    if (counted and anchor == "{}") or (registered and version is None):
        raise ConflictError(
            f"requests that {probe.watch} has sent rows of were deleted while it was probed",
            code="requests_deleted",
        )


def _probes(
    db: Connection, watch: str, signal: str | None, before: int | None, limit: int
) -> list[WatchProbe]:
    where, values = given(
        {"watch = :watch": watch, "signal = :signal": signal, "number < :before": before}
    )
    rows = db.execute(
        f"SELECT {', '.join(_PROBE)} FROM watch_probes WHERE {' AND '.join(where)}"
        " ORDER BY number DESC LIMIT :limit",
        values | {"limit": limit},
    )
    return readable(
        rows, lambda row: watch_row(WatchProbe, _PROBE, row), lambda row: f"the probe {row[0]}"
    )


def _signals(db: Connection, watch: str) -> dict[str, SignalCount]:
    rows = db.execute(
        "SELECT last.signal, counts.number_of, last.e_value, last.at"
        " FROM (SELECT max(number) AS newest, count(*) AS number_of FROM watch_probes"
        f" WHERE watch = ? AND reference = ? AND {_COUNTS} GROUP BY signal) AS counts"
        " JOIN watch_probes AS last ON last.number = counts.newest ORDER BY last.signal",
        (watch, _last_number(db, watch)),
    )
    return {signal: SignalCount(int(values), e_value, at) for signal, values, e_value, at in rows}


def _values(db: Connection, watch: str, reference: int, signal: str) -> list[WatchProbe]:
    rows = db.execute(
        f"SELECT {_VALUES} FROM watch_probes WHERE watch = ? AND reference = ?"
        f" AND signal = ? AND {_COUNTS} ORDER BY number",
        (watch, reference, signal),
    )
    return [watch_row(WatchProbe, _PROBE, row) for row in rows]


def _spending(db: Connection, watch: str, since: float) -> float:
    spent = db.execute(
        "SELECT sum(cost_usd) FROM watch_probes WHERE watch = ? AND at >= ?", (watch, since)
    ).fetchone()[0]
    return spent or 0.0


def forget_watched(db: Connection, content: str) -> None:
    """Delete the answers to a dataset's version that references and probes have; distances stay.

    It is done where the version's rows are deleted, so that no probe comes in between.
    """
    # All of its references, also those without answers yet: a probe that is being stored is waited
    # for, and one that comes later finds the rows gone.
    db.execute("UPDATE watch_references SET anchor = '{}' WHERE dataset_hash = ?", (content,))
    references = db.execute(
        "SELECT watch, number FROM watch_references WHERE dataset_hash = ?", (content,)
    ).fetchall()
    for watch, number in references:
        db.execute(
            "UPDATE watch_probes SET detail = '{}' WHERE watch = ? AND reference = ?"
            " AND signal = ?",
            (watch, number, PROBE),
        )


def _count(
    db: Connection,
    versions: Sequence[ModelVersion],
    hours: Sequence[LiveHour],
    languages: Sequence[LanguageCount],
) -> None:
    # In the same order everywhere, so that two processes never wait for each other's rows.
    for version in sorted(versions, key=lambda each: msgspec.structs.astuple(each)[:3]):
        bounded = _bounded(db, version)
        db.execute(_ADD_VERSION, msgspec.structs.astuple(bounded))
    for hour in sorted(hours, key=lambda each: (each.target, each.hour)):
        finite(hour.cost_usd, "cost_usd")
        db.execute(_ADD_HOUR, msgspec.structs.astuple(hour))
    for language in sorted(languages):
        db.execute(_ADD_LANGUAGE, language)


def _bounded(db: Connection, version: ModelVersion) -> ModelVersion:
    """Return a version, or the one that stands for others where its target has too many."""
    key = (version.target, version.model, version.system_fingerprint)
    known = db.execute(
        "SELECT 1 FROM model_versions WHERE target = ? AND model = ? AND system_fingerprint = ?",
        key,
    ).fetchone()
    if known is not None:
        return version
    (count,) = db.execute(
        "SELECT count(*) FROM model_versions WHERE target = ?", (version.target,)
    ).fetchone()
    if count < MAX_VERSIONS:
        return version
    return msgspec.structs.replace(version, model=OTHERS, system_fingerprint="")


def _forget_hours(db: Connection, before: float) -> None:
    db.execute("DELETE FROM live_hours WHERE hour < ?", (before,))
    db.execute("DELETE FROM live_languages WHERE hour < ?", (before,))


def _versions(db: Connection, target: str | None) -> list[ModelVersion]:
    where, values = ("", ()) if target is None else (" WHERE target = ?", (target,))
    rows = db.execute(
        f"SELECT {', '.join(_VERSION)} FROM model_versions{where}"
        " ORDER BY target, last_at DESC, model, system_fingerprint",
        values,
    )
    return [ModelVersion(**dict(zip(_VERSION, row, strict=True))) for row in rows]


def _hours(db: Connection, target: str, since: float, until: float) -> list[LiveHour]:
    rows = db.execute(
        f"SELECT {', '.join(_HOUR)} FROM live_hours WHERE target = ? AND hour >= ? AND hour < ?"
        " ORDER BY hour",
        (target, since, until),
    )
    return [LiveHour(**dict(zip(_HOUR, row, strict=True))) for row in rows]


def _languages(db: Connection, target: str, since: float, until: float) -> dict[str, int]:
    rows = db.execute(
        "SELECT language, sum(answers) FROM live_languages"
        " WHERE target = ? AND hour >= ? AND hour < ? GROUP BY language ORDER BY language",
        (target, since, until),
    )
    return {language: int(answers) for language, answers in rows}
