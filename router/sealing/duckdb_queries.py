"""Queries of sealed files with DuckDB, of files in a local folder.

This is the only module that knows duckdb.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import duckdb

from providers.errors import ArtifactError, NotFoundError
from router.datasets.artifacts import Artifacts
from router.sealing.queries import Queries, Row
from router.store.columns.traffic import (
    FIRST_COLUMNS,
    GROUP_COLUMNS,
    TRAFFIC_COLUMNS,
    equal_columns,
)
from router.store.sealed_traffic import SealedFile
from router.store.traffic import TotalsBy, TrafficFilter

# Nothing is fetched from elsewhere, nor written to the disk.
_SETTINGS: dict[str, str | bool | int | float | list[str]] = {
    "threads": 2,
    "memory_limit": "512MB",
    "temp_directory": "",
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
}
# What files of earlier versions have, and null for what they do not.
_FIRST = [f'"{name}"' for name in TRAFFIC_COLUMNS[:FIRST_COLUMNS]]
_LATER = [f'"{name}"' for name in TRAFFIC_COLUMNS[FIRST_COLUMNS:]]
_SELECT = f"SELECT {', '.join([*_FIRST, *_LATER, 'request', 'response'])}"
_WITHOUT_LATER = ", ".join([*_FIRST, *(f"NULL AS {name}" for name in _LATER)])
_SELECT_FIRST = f"SELECT {_WITHOUT_LATER}, request, response"


class DuckDbQueries(Queries):
    """Has DuckDB read files."""

    def __init__(self, artifacts: Artifacts) -> None:
        self._artifacts = artifacts
        # Of each file that was looked at, whether it has all columns.
        self._seen: dict[str, bool] = {}
        self._database = duckdb.connect(":memory:", config=_SETTINGS)

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
        names = [*TRAFFIC_COLUMNS, *(["request", "response"] if bodies else [])]
        if not files:
            return []
        query, values = self._selection(files, matching, before)
        return self._execute(
            files,
            f"SELECT {_quoted(names)} {query} ORDER BY number DESC LIMIT ?",
            [*values, limit],
        )

    def totals(
        self, files: Sequence[SealedFile], matching: TrafficFilter, by: Sequence[TotalsBy]
    ) -> list[Row]:
        """Add up requests that match."""
        if not files:
            return []
        groups = [GROUP_COLUMNS[name] for name in by]
        query, values = self._selection(files, matching, None)
        grouped = f" GROUP BY {_quoted(groups)}" if groups else " HAVING count(*) > 0"
        return self._execute(
            files,
            "SELECT count(*), count(*) FILTER (WHERE status >= 400),"
            " sum(CAST(prompt_tokens AS DOUBLE)), sum(CAST(completion_tokens AS DOUBLE)),"
            " sum(cost_usd), count(*) - count(cost_usd)"
            f"{', ' if groups else ''}{_quoted(groups)} {query}{grouped}",
            values,
        )

    def count(self, file: SealedFile, matching: TrafficFilter) -> int:
        """Return how many requests match."""
        query, values = self._selection([file], matching, None)
        count: int = self._execute([file], f"SELECT count(*) {query}", values)[0][0]
        return count

    def _selection(
        self, files: Sequence[SealedFile], matching: TrafficFilter, before: int | None
    ) -> tuple[str, list[Any]]:
        """Return the end of a SELECT, and its values."""
        parts: list[str] = []
        values: list[Any] = []
        later = self._later(files)
        for select, some in (
            (_SELECT, [file for file in files if file.key in later]),
            (_SELECT_FIRST, [file for file in files if file.key not in later]),
        ):
            if whole := [str(self._path(file)) for file in some if file.is_visible]:
                parts.append(f"{select} FROM read_parquet(?)")
                values.append(whole)
            for file in some:
                if not file.is_visible:
                    parts.append(f"{select} FROM read_parquet(?) WHERE number <= ?")
                    values += [str(self._path(file)), file.visible_to]
        low, high = matching.status or (0, 0)
        conditions: dict[str, list[Any]] = {
            **{f"{column} = ?": [value] for column, value in equal_columns(matching).items()},
            "(request_id = ? OR (coalesce(request_id, '') = '' AND id = ?))": (
                [matching.request_id] * 2 if matching.request_id is not None else [None]
            ),
            "status BETWEEN ? AND ?": [low, high] if matching.status else [None],
            '"at" >= ?': [matching.since],
            '"at" < ?': [matching.until],
            "number < ?": [before],
            "NOT list_contains(?, route)": [list(matching.except_routes) or None],
        }
        given = {text: given for text, given in conditions.items() if given != [None]}
        values += [value for some in given.values() for value in some]
        where = f" WHERE {' AND '.join(given)}" if given else ""
        return f"FROM ({' UNION ALL '.join(parts)}){where}", values

    def _later(self, files: Sequence[SealedFile]) -> frozenset[str]:
        """Return the keys of the files that have all columns; it looks at each file once."""
        unknown = {str(self._path(file)): file for file in files if file.key not in self._seen}
        if unknown:
            names = "SELECT file_name, bool_or(name = ?) FROM parquet_schema(?) GROUP BY file_name"
            rows = self._execute(
                list(unknown.values()), names, [TRAFFIC_COLUMNS[-1], list(unknown)]
            )
            self._seen |= {unknown[path].key: is_later for path, is_later in rows}
        return frozenset(file.key for file in files if self._seen.get(file.key))

    def _execute(self, files: Sequence[SealedFile], query: str, values: list[Any]) -> list[Row]:
        try:
            with self._database.cursor() as cursor:
                rows: list[Row] = cursor.execute(query, values).fetchall()
        except duckdb.Error as error:
            for file in files:
                if not self._path(file).exists():
                    raise NotFoundError(f"there is no {file.key} in the artifact store") from error
            # The other lines show the query.
            reason = str(error).partition("\n")[0]
            raise ArtifactError(
                f"sealed requests cannot be read: {reason}", place=str(self._artifacts.root)
            ) from error
        return rows

    def _path(self, file: SealedFile) -> Path:
        path = self._artifacts.path(file.key)
        assert path is not None, "DuckDB reads local files only"
        return path


def is_readable(artifacts: Artifacts) -> bool:
    """Return whether DuckDB can read the files: local ones, in a folder with a plain name."""
    return artifacts.path("traffic") is not None and not set(artifacts.root) & set("*?[]{}\\")


def _quoted(names: Sequence[str]) -> str:
    return ", ".join(f'"{name}"' for name in names)
