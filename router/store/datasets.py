"""Datasets: the registered versions; their files are in the artifact store."""

from __future__ import annotations

from typing import Any, Literal, Protocol

import msgspec

from evaluators.data.columns import Column


class DatasetRow(msgspec.Struct, frozen=True, kw_only=True):
    """One version of a registered dataset; (name, hash) is unique.

    Attributes:
        name: the name that it was registered under.
        hash: SHA-256 of the file's bytes, hex.
        path: the file's key in the artifact store.
        format: jsonl, json, csv, tsv or parquet.
        rows: how many it has.
        columns: every column of any row, mapped ones also under their known names.
        created_at: seconds since the epoch, UTC.
        size: bytes of the file.
        mapping: the file's own column names to known ones.
        delimiter: what separates the cells of CSV and TSV, where that was named; "" to find out.
        source: the path or address that it came from.
        provenance: what is known of how it was made (a hub's commit, the run that labelled it);
            JSON types only.
        statistics: what its columns hold.
    """

    name: str
    hash: str
    path: str
    format: str
    rows: int
    columns: tuple[str, ...]
    created_at: float
    size: int = 0
    mapping: dict[str, str] = {}
    delimiter: str = ""
    source: str = ""
    provenance: dict[str, Any] = {}
    statistics: tuple[Column, ...] = ()


VersionOrder = Literal["name", "created", "rows", "format"]


class DatasetPage(msgspec.Struct, frozen=True, kw_only=True):
    """Which versions a list shows.

    Attributes:
        part: what their names have in them, in upper or lower case; "" for all.
        order: what they are sorted by; then by name and time, and by the hash.
        descending: whether the last comes first.
        after: the name and hash of the version before the first of them; None for the first.
        limit: how many, at most.
    """

    part: str = ""
    order: VersionOrder = "created"
    descending: bool = True
    after: tuple[str, str] | None = None
    limit: int = 100


class DatasetStore(Protocol):
    """Stores which versions of datasets are registered."""

    async def add_dataset(self, row: DatasetRow) -> None:
        """Register a dataset version; registering the same one again changes nothing."""
        ...

    async def datasets(self, name: str | None = None) -> list[DatasetRow]:
        """List registered versions, newest first."""
        ...

    async def dataset_page(self, page: DatasetPage) -> list[DatasetRow]:
        """List registered versions, a page at a time, without their statistics.

        Raises:
            NotFoundError: the version that the page comes after is gone.
        """
        ...

    async def delete_dataset(self, name: str, hash: str) -> bool:  # noqa: A002  # the field's word
        """Forget a version; return whether its content is registered under another name.

        Raises:
            NotFoundError: no such version.
        """
        ...
