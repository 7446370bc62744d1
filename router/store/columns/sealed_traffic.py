"""A sealed file as columns of a table, and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from router.store.columns.values import UNREADABLE
from router.store.sealed_traffic import FileFacts, Kind, SealedFile

FACT_COLUMNS = (
    "requests", "size", "sha256", "first_number", "last_number", "earliest", "latest", "kinds",
)  # fmt: skip
FILE_COLUMNS = ("number", "file", "visible_to", *FACT_COLUMNS)

_encode = msgspec.json.Encoder().encode
_read_kinds = msgspec.json.Decoder(tuple[Kind, ...] | None).decode


def fact_columns(facts: FileFacts) -> tuple[Any, ...]:
    """Return the values of FACT_COLUMNS."""
    return (
        facts.requests,
        facts.size,
        facts.sha256,
        facts.first,
        facts.last,
        facts.earliest,
        facts.latest,
        _encode(facts.kinds).decode(),
    )


def sealed_file_of(row: Sequence[Any]) -> SealedFile:
    """Read a file from FILE_COLUMNS; kinds that cannot be read are not known."""
    try:
        kinds = _read_kinds(row[10])
    except UNREADABLE:
        kinds = None
    return SealedFile(
        number=row[0],
        key=row[1],
        visible_to=row[2],
        requests=row[3],
        size=row[4],
        sha256=row[5],
        first=row[6],
        last=row[7],
        earliest=row[8],
        latest=row[9],
        kinds=kinds,
    )
