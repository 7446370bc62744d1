"""Query parameters of several paths that say which page of a list to send."""

from __future__ import annotations

from typing import Annotated

from litestar.params import QueryParameter

# The largest number of a row: SQLite's integers go further, and what is added to it stays below.
MAX_OFFSET = 10**15

PageSize = Annotated[int, QueryParameter(ge=1, le=1000)]
Offset = Annotated[int, QueryParameter(ge=0, le=MAX_OFFSET)]
