"""A request as columns of a table, and back.

What can be selected by is in columns of its own, and the rest as JSON in `detail`.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from providers.base import AS_IT_CAME, Translation
from router.records import NO_CHOICES, Attempt, LearnedChoice, Record, name_of
from router.store.columns.values import UNREADABLE
from router.store.traffic import TotalsBy, TrafficFilter, TrafficRow

log = logging.getLogger("evalrouter")


class _CommonDetail(msgspec.Struct, omit_defaults=True):
    attempts: Sequence[Attempt] = ()
    translation: Translation | None = None
    system_fingerprint: str = ""
    total_tokens: int | None = None
    cached_tokens: int = 0
    written_tokens: int = 0
    trace: str = ""
    lost_tokens: int = 0
    estimated: bool = False
    request_bytes: int = 0
    propensity: float | None = None
    # "" where it is the column `target`.
    first_target: str = ""
    learned: LearnedChoice | None = None


class _Detail(_CommonDetail):
    # No probabilities where only one target could be the first.
    choices: Mapping[str, float] = {}


class _EncodedDetail(_CommonDetail):
    # As JSON, which is the same for many requests.
    choices: msgspec.Raw = NO_CHOICES


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(_Detail).decode

TRAFFIC_COLUMNS = (
    "number",
    "id",
    "at",
    "key_id",
    "path",
    "route",
    "target",
    "status",
    "error_code",
    "klass",
    "stream",
    "cached",
    "finish_reason",
    "prompt_tokens",
    "completion_tokens",
    "cost_usd",
    "first_byte_s",
    "total_s",
    "model",
    "bodies",
    "detail",
    "user_id",
    "request_id",
    "response_id",
    "conversation",
    "stored",
    "rollout",
    "arm",
    "unit",
)
# Requests that an earlier version sealed have only so many of them.
FIRST_COLUMNS = 22

# What filters select by, besides who sent a request and when.
KIND_COLUMNS = ("route", "target", "klass", "status")

# What each field of a TrafficFilter selects by.
FILTER_COLUMNS = {
    "id": "id",
    "request_id": "request_id",
    "response_id": "response_id",
    "conversation": "conversation",
    "rollout": "rollout",
    "arm": "arm",
    "route": "route",
    "except_routes": "route",
    "target": "target",
    "key_id": "key_id",
    "user": "user_id",
    "traffic_class": "klass",
    "status": "status",
    "since": "at",
    "until": "at",
}
# The fields that select more than one value of their column, or of another where that is empty.
_NOT_EQUAL = frozenset({"request_id", "except_routes", "status", "since", "until"})

# What a total is grouped by.
GROUP_COLUMNS: dict[TotalsBy, str] = {
    "route": "route",
    "target": "target",
    "key": "key_id",
    "user": "user_id",
    "class": "klass",
    "status": "status",
}


def equal_columns(matching: TrafficFilter) -> dict[str, str]:
    """Return the columns that must have a certain value for a request to match, with the value."""
    return {
        FILTER_COLUMNS[field]: value
        for field, value in msgspec.structs.asdict(matching).items()
        if field not in _NOT_EQUAL and value is not None
    }


def has_bodies(record: Record) -> bool:
    """Whether a request's bodies are stored."""
    return record.keep == "full" and (record.request is not None or record.response is not None)


def traffic_columns(number: int, record: Record) -> tuple[Any, ...]:
    """Return the values of TRAFFIC_COLUMNS for a request.

    `request_id` is "" where it is the record's own id, so that it takes no room.
    """
    target, first, odds = record.target_name(), record.first, record.odds
    detail = _EncodedDetail(
        record.attempts,
        None if record.translation is AS_IT_CAME else record.translation,
        record.system_fingerprint,
        record.total_tokens,
        record.cached_tokens,
        record.written_tokens,
        f"{record.trace.trace_id:032x}" if record.trace is not None else "",
        record.lost_tokens,
        record.estimated,
        record.request_bytes,
        record.propensity,
        ""
        if first is None or first == record.target or name_of(first) == target
        else name_of(first),
        record.learned,
        NO_CHOICES if odds is None else odds.choices,
    )
    return (
        number,
        record.id,
        record.at,
        record.key_id,
        record.path,
        record.route,
        target,
        record.status,
        record.error_code,
        record.traffic_class,
        1 if record.stream else 0,
        1 if record.cached else 0,
        record.finish_reason,
        record.prompt_tokens,
        record.completion_tokens,
        record.cost_usd,
        record.first_byte_s,
        record.total_s,
        record.model,
        1 if record.keep == "full" and has_bodies(record) else 0,
        _encode(detail).decode(),
        record.user,
        "" if record.request_id == record.id else record.request_id,
        record.response_id,
        record.conversation,
        1 if record.stored else 0,
        record.rollout,
        record.arm,
        record.unit,
    )


def traffic_of(row: Sequence[Any]) -> TrafficRow:
    """Read a request from TRAFFIC_COLUMNS, without its bodies.

    One whose `detail` cannot be read is returned without it, and named in the log. Columns that an
    earlier version did not have are None.
    """
    try:
        detail = _decode(row[20])
    except UNREADABLE as error:
        log.error("the details of the request %s cannot be read: %s", row[1], error)
        detail = _Detail()
    return TrafficRow(
        number=row[0],
        id=row[1],
        at=row[2],
        key_id=row[3],
        user=row[21],
        request_id=row[22] or row[1],
        response_id=row[23] or "",
        conversation=row[24] or "",
        stored=row[25] != 0,
        rollout=row[26] or "",
        arm=row[27] or "",
        unit=row[28] or "",
        path=row[4],
        route=row[5],
        target=row[6],
        status=row[7],
        error_code=row[8],
        traffic_class=row[9],
        stream=bool(row[10]),
        cached=bool(row[11]),
        finish_reason=row[12],
        prompt_tokens=row[13],
        completion_tokens=row[14],
        cost_usd=row[15],
        first_byte_s=row[16],
        total_s=row[17],
        model=row[18],
        bodies=bool(row[19]),
        attempts=tuple(detail.attempts),
        translation=detail.translation,
        system_fingerprint=detail.system_fingerprint,
        total_tokens=detail.total_tokens,
        cached_tokens=detail.cached_tokens,
        written_tokens=detail.written_tokens,
        lost_tokens=detail.lost_tokens,
        estimated=detail.estimated,
        trace_id=detail.trace,
        request_bytes=detail.request_bytes,
        propensity=detail.propensity,
        first_target="" if detail.propensity is None else detail.first_target or row[6],
        choices=detail.choices,
        learned=detail.learned,
    )


def with_bodies(row: TrafficRow, bodies: Sequence[bytes | None]) -> TrafficRow:
    """Return the row with its request's and response's bodies as text."""
    request, response = (
        None if body is None else body.decode("utf-8", "replace") for body in bodies
    )
    return msgspec.structs.replace(row, request=request, response=response)
