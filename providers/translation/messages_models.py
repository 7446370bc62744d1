"""Lists of models in the form of Anthropic's API. No IO.

model_page([ModelEntry("fast"), ModelEntry("lab/tiny")], limit=1000)
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

import msgspec

from providers.errors import RequestError
from providers.wire import moment_of

DEFAULT_LIMIT = 20
MAX_LIMIT = 1000

_encode = msgspec.json.Encoder().encode


class ModelEntry(NamedTuple):
    """A name that `model` may have in a request.

    Attributes:
        id: the name.
        created: seconds since the epoch; 0 where that is not known.
        shutdown_date: the day on which its host will shut it down, as YYYY-MM-DD; None for none.
    """

    id: str
    created: int = 0
    shutdown_date: str | None = None


def model_page(
    models: Sequence[ModelEntry],
    *,
    limit: int = DEFAULT_LIMIT,
    after_id: str = "",
    before_id: str = "",
) -> bytes:
    """Return a page of Anthropic's list of models.

    Args:
        models: all of them, in their order.
        limit: models of the page, from 1 to 1,000.
        after_id: the model after which the page begins; "" for the list's beginning.
        before_id: the model before which the page ends, where it ends at one.

    Raises:
        RequestError: the limit is out of range, or there is no such model.
    """
    if not 1 <= limit <= MAX_LIMIT:
        raise _invalid("limit", f"Input should be from 1 to {MAX_LIMIT:,}")
    if after_id and before_id:
        raise _invalid("before_id", "Input should not be there beside after_id")
    names = [model.id for model in models]
    if before_id:
        end = _place(before_id, names, "before_id")
        begin = max(0, end - limit)
        has_more = begin > 0
    else:
        begin = _place(after_id, names, "after_id") + 1 if after_id else 0
        end = begin + limit
        has_more = end < len(models)
    page = models[begin:end]
    return _encode(
        {
            "data": [model_info(model) for model in page],
            "has_more": has_more,
            "first_id": page[0].id if page else None,
            "last_id": page[-1].id if page else None,
        }
    )


def model_info(model: ModelEntry) -> dict[str, Any]:
    """Return a model as Anthropic's API shows it."""
    info: dict[str, Any] = {
        "type": "model",
        "id": model.id,
        "display_name": model.id,
        "created_at": _written(model.created),
        "lifecycle": "active",
    }
    retires_at = moment_of(model.shutdown_date)
    if retires_at is not None:
        info["lifecycle"] = "deprecated"
        info["retires_at"] = _written(retires_at)
    return info


def _written(moment: float) -> str:
    return f"{datetime.fromtimestamp(moment, UTC):%Y-%m-%dT%H:%M:%SZ}"


def _place(name: str, names: list[str], param: str) -> int:
    try:
        return names.index(name)
    except ValueError:
        raise _invalid(param, "there is no such model") from None


def _invalid(param: str, message: str) -> RequestError:
    return RequestError(f"{param}: {message}", param=param, code="invalid_value")
