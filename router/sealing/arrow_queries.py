"""Queries of sealed files with pyarrow."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from router.sealing.parquet_files import COLUMNS, FileReader, FileWriter, read_group
from router.sealing.queries import SUMS, Queries, Row, newest_rows
from router.store.columns.traffic import GROUP_COLUMNS, TRAFFIC_COLUMNS, equal_columns
from router.store.sealed_traffic import SealedFile
from router.store.traffic import TotalsBy, TrafficFilter

# Partial sums that are held before they are added up.
_PARTS = 64


class ArrowQueries(Queries):
    """Reads files group by group, and of each only the columns that a filter needs."""

    def __init__(self, reader: FileReader) -> None:
        self._reader = reader

    def page(
        self,
        files: Sequence[SealedFile],
        matching: TrafficFilter,
        *,
        limit: int,
        before: int | None = None,
        bodies: bool = False,
    ) -> list[Row]:
        """Return the newest requests that match."""

        def read(file: SealedFile, lowest: int) -> list[Row]:
            condition = _Condition(matching, file, before)
            with self._reader.open(file) as parquet:
                return _newest(parquet, condition, limit, lowest, bodies)

        return newest_rows(files, limit, read)

    def totals(
        self, files: Sequence[SealedFile], matching: TrafficFilter, by: Sequence[TotalsBy]
    ) -> list[Row]:
        """Add up requests that match."""
        groups = [GROUP_COLUMNS[name] for name in by]
        parts: list[Any] = []
        for file in files:
            condition = _Condition(matching, file)
            columns = {*condition.columns, *groups, "status", *SUMS}
            with self._reader.open(file) as parquet:
                for table in _matching(parquet, condition, columns):
                    if not table.num_rows:
                        continue
                    parts.append(_sums_of(table, groups))
                    if len(parts) == _PARTS:
                        parts = [_added(parts, groups)]
        if not parts:
            return []
        rows: list[Row] = list(zip(*_added(parts, groups).to_pydict().values(), strict=True))
        return rows

    def count(self, file: SealedFile, matching: TrafficFilter) -> int:
        """Return how many requests match."""
        condition = _Condition(matching, file)
        with self._reader.open(file) as parquet:
            tables = _matching(parquet, condition, condition.columns)
            return sum(table.num_rows for table in tables)


def matches(matching: TrafficFilter, file: SealedFile) -> Callable[[Any], Any]:
    """Return what tells which rows of a file's table match, visible or not."""
    return _Condition(matching, file.when_visible()).mask


def beyond(number: int) -> Callable[[Any], Any]:
    """Return what tells which rows of a table have a greater number."""
    return lambda table: pc.greater(table["number"], number)


def add_others(writer: FileWriter, table: Any, unwanted: Callable[[Any], Any]) -> bytes:
    """Add the rows of a table to a file that are not unwanted; return what there is of the file."""
    mask = unwanted(table)
    return writer.add_table(table.slice(0, 0) if mask is None else table.filter(pc.invert(mask)))


class _Condition:
    """A filter of a file's requests.

    Attributes:
        columns: the columns that it reads.
    """

    def __init__(
        self, matching: TrafficFilter, file: SealedFile, before: int | None = None
    ) -> None:
        self._equal = equal_columns(matching)
        self._ranges: dict[str, tuple[Any, Any]] = {}
        if matching.status is not None:
            low, high = matching.status
            self._ranges["status"] = low, high + 1
        if matching.since is not None or matching.until is not None:
            self._ranges["at"] = matching.since, matching.until
        after = file.visible_before(before)
        if after is not None and after <= file.last:
            self._ranges["number"] = None, after
        self._except = matching.except_routes
        self._request_id = matching.request_id
        self.columns = {"number", *self._equal, *self._ranges}
        if self._except:
            self.columns.add("route")
        if self._request_id is not None:
            self.columns |= {"request_id", "id"}

    def may_match(self, statistics: dict[str, tuple[Any, Any]]) -> bool:
        """Return whether a group may have a match, by the least and the greatest of its columns."""
        for column, value in self._equal.items():
            low, high = statistics.get(column, (value, value))
            # Of long texts, a file may have only the beginnings.
            if value < low or (value > high and not value.startswith(high)):
                return False
        for column, (first, after) in self._ranges.items():
            low, high = statistics.get(column, (first, first))
            if first is not None and high is not None and high < first:
                return False
            if after is not None and low is not None and low >= after:
                return False
        return True

    def mask(self, table: Any) -> Any:
        """Return which rows match; None where all do."""
        masks = [
            # A file of an earlier version has nulls.
            pc.fill_null(pc.equal(table[column], value), fill_value=False)
            for column, value in self._equal.items()
        ]
        if self._request_id is not None:
            given = pc.fill_null(table["request_id"], "")
            unnamed = pc.and_(pc.equal(given, ""), pc.equal(table["id"], self._request_id))
            masks.append(pc.or_(unnamed, pc.equal(given, self._request_id)))
        if self._except:
            routes = pa.array(self._except, pa.string())
            masks.append(pc.invert(pc.is_in(table["route"], value_set=routes)))
        for column, (first, after) in self._ranges.items():
            if first is not None:
                masks.append(pc.greater_equal(table[column], first))
            if after is not None:
                masks.append(pc.less(table[column], after))
        if not masks:
            return None
        both = masks[0]
        for mask in masks[1:]:
            both = pc.and_(both, mask)
        return both


def _statistics(parquet: Any, group: int, columns: set[str]) -> dict[str, tuple[Any, Any]]:
    ranges = {}
    metadata = parquet.metadata.row_group(group)
    for place, name in enumerate(parquet.schema_arrow.names):
        if name in columns:
            statistics = metadata.column(place).statistics
            if statistics is not None and statistics.has_min_max:
                ranges[name] = statistics.min, statistics.max
    return ranges


def _matching(parquet: Any, condition: _Condition, columns: set[str]) -> Iterator[Any]:
    """Yield the requests that match, as tables of the columns."""
    for group in range(parquet.num_row_groups):
        if condition.may_match(_statistics(parquet, group, condition.columns)):
            table = read_group(parquet, group, sorted(columns))
            mask = condition.mask(table)
            yield table if mask is None else table.filter(mask)


def _newest(
    parquet: Any, condition: _Condition, limit: int, lowest: int, bodies: bool
) -> list[Row]:
    """Return the newest requests of a file that match, with numbers above `lowest`."""
    rows: list[Row] = []
    names = list(COLUMNS if bodies else TRAFFIC_COLUMNS)
    for group in reversed(range(parquet.num_row_groups)):
        if len(rows) == limit:
            break
        statistics = _statistics(parquet, group, condition.columns)
        if not condition.may_match(statistics):
            continue
        table = read_group(parquet, group, sorted(condition.columns))
        mask = pc.greater(table["number"], lowest)
        chosen = condition.mask(table)
        places = pc.indices_nonzero(mask if chosen is None else pc.and_(mask, chosen))
        places = places[max(0, len(places) - (limit - len(rows))) :]
        if len(places):
            values = read_group(parquet, group, names).take(places).to_pydict()
            rows += list(zip(*values.values(), strict=True))[::-1]
    return rows


def _sums_of(table: Any, groups: Sequence[str]) -> Any:
    """Return partial sums, with the columns of `Queries.totals`."""
    failed = pc.cast(pc.greater_equal(table["status"], 400), pa.int64())
    unpriced = pc.cast(pc.is_null(table["cost_usd"]), pa.int64())
    sums = {
        "requests": pa.repeat(pa.scalar(1, pa.int64()), table.num_rows),
        "failures": failed,
        "prompt_tokens": pc.cast(table["prompt_tokens"], pa.float64(), safe=False),
        "completion_tokens": pc.cast(table["completion_tokens"], pa.float64(), safe=False),
        "cost_usd": table["cost_usd"],
        "unpriced": unpriced,
    }
    keys = {f"by_{name}": table[name] for name in groups}
    return _added([pa.table(sums | keys)], groups)


def _added(parts: Sequence[Any], groups: Sequence[str]) -> Any:
    """Add partial sums up, with the same columns."""
    names = ["requests", "failures", "prompt_tokens", "completion_tokens", "cost_usd", "unpriced"]
    keys = [f"by_{name}" for name in groups]
    added = (
        pa.concat_tables(parts)
        .group_by(keys, use_threads=False)
        .aggregate([(name, "sum") for name in names])
    )
    return added.select([*(f"{name}_sum" for name in names), *keys]).rename_columns([*names, *keys])
