"""A study as columns of a table, and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from router.store.columns.values import fields_of
from router.store.studies import Study

STUDY_COLUMNS = Study.__struct_fields__
_JSON = frozenset({"judges", "document", "report", "detail"})


def study_columns(study: Study) -> tuple[Any, ...]:
    """Return the values of STUDY_COLUMNS."""
    return tuple(
        msgspec.json.encode(value).decode() if name in _JSON else value
        for name, value in msgspec.structs.asdict(study).items()
    )


def study_of(row: Sequence[Any]) -> Study:
    """Read a study from STUDY_COLUMNS, the last of which, `detail`, may be left out."""
    return msgspec.convert(fields_of(STUDY_COLUMNS[: len(row)], row, _JSON), Study)
