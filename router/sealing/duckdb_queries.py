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
from router.store.columns.traffic import GROUP_COLUMNS, TRAFFIC_COLUMNS
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


class DuckDbQueries(Queries):
    """Has DuckDB read files."""

    def __init__(self, artifacts: Artifacts) -> None:
        self._artifacts = artifacts
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
        whole = [str(self._path(file)) for file in files if file.is_visible]
        parts = ["SELECT * FROM read_parquet(?)"] if whole else []
        values: list[Any] = [whole] if whole else []
        for file in files:
            if not file.is_visible:
                parts.append("SELECT * FROM read_parquet(?) WHERE number <= ?")
                values += [str(self._path(file)), file.visible_to]
        low, high = matching.status or (0, 0)
        conditions = {
            "id = ?": [matching.id],
            "route = ?": [matching.route],
            "target = ?": [matching.target],
            "key_id = ?": [matching.key_id],
            "user_id = ?": [matching.user],
            "klass = ?": [matching.traffic_class],
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
