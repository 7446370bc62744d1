"""Rollouts, their decisions and their requests as columns of tables, and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from providers.errors import StoreError
from router.records import Arm, Record
from router.store.columns.values import column_of, fields_of
from router.store.rollouts import (
    CountedScore,
    Rollout,
    RolloutBatch,
    RolloutDecision,
    RolloutRequest,
)

ROLLOUT_FIELDS = {field.name: field.type for field in msgspec.structs.fields(Rollout)}
DECISION_FIELDS = {field.name: field.type for field in msgspec.structs.fields(RolloutDecision)}
BATCH_FIELDS = RolloutBatch.__struct_fields__
_JSON = frozenset({"settings", "base", "override", "forecast", "seen"})
# What a client did, which says nothing about the arm.
CLIENT_LEFT = frozenset({"client_closed_request", "server_stopping"})

REQUEST_COLUMNS = (
    "number",
    "rollout",
    "id",
    "at",
    "unit",
    "arm",
    "step",
    "failed",
    "target",
    "first_byte_s",
    "total_s",
    "cost_usd",
    "finish_reason",
    "completion_tokens",
)


def rollout_columns(rollout: Rollout) -> dict[str, Any]:
    """Return a rollout's columns."""
    return {name: column_of(getattr(rollout, name), name, _JSON) for name in ROLLOUT_FIELDS}


def changed_columns(changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the columns of changed fields.

    Raises:
        StoreError: no such field, or a value of the wrong type.
    """
    for name in changes:
        if name not in ROLLOUT_FIELDS:
            raise StoreError(f"a rollout has no field {name!r}")
    return {
        name: column_of(msgspec.convert(value, ROLLOUT_FIELDS[name]), name, _JSON)
        for name, value in changes.items()
    }


def decision_columns(decision: RolloutDecision) -> dict[str, Any]:
    """Return a decision's columns."""
    return {name: column_of(getattr(decision, name), name, _JSON) for name in DECISION_FIELDS}


def rollout_of(row: Sequence[Any]) -> Rollout:
    """Read a rollout from the columns of ROLLOUT_FIELDS."""
    return msgspec.convert(fields_of(ROLLOUT_FIELDS, row, _JSON), Rollout)


def decision_of(row: Sequence[Any]) -> RolloutDecision:
    """Read a decision from the columns of DECISION_FIELDS."""
    return msgspec.convert(fields_of(DECISION_FIELDS, row, _JSON), RolloutDecision)


def request_columns(number: int, record: Record) -> tuple[Any, ...]:
    """Return the values of REQUEST_COLUMNS for a request of a rollout."""
    return (
        number,
        record.rollout,
        record.id,
        record.at,
        record.unit,
        record.arm,
        record.step,
        int(has_failed(record)),
        record.target_name(),
        record.first_byte_s,
        record.total_s,
        record.cost_usd,
        record.finish_reason,
        record.completion_tokens,
    )


def has_failed(record: Record) -> bool:
    """Whether a request had no whole answer, by a fault that is not its client's leaving.

    An error that is the client's own comes as often in both arms. One that only the candidate's
    host makes of what the control's takes is a fault of the candidate.
    """
    if record.status == 499 or record.error_code in CLIENT_LEFT:
        return False
    return record.status >= 400 or bool(record.error_code)


def request_of(row: Sequence[Any]) -> RolloutRequest:
    """Read a request, with the arms that its unit was seen in before."""
    (number, record_id, at, unit, arm, step, failed, target, first_byte, total, cost, finish,
     completion, control, candidate) = row  # fmt: skip
    return RolloutRequest(
        number=number,
        id=record_id,
        at=at,
        unit=unit,
        arm=arm,
        step=step,
        failed=bool(failed),
        target=target,
        first_byte_s=first_byte,
        total_s=total,
        cost_usd=cost,
        finish_reason=finish,
        completion_tokens=completion,
        seen=_arms(control, candidate),
    )


def score_of(row: Sequence[Any]) -> CountedScore:
    """Read a score that waits to be counted."""
    number, signal, value, at, unit, arm, step, control, candidate = row
    return CountedScore(
        number=number,
        signal=signal,
        value=value,
        at=at,
        unit=unit,
        arm=arm,
        step=step,
        seen=_arms(control, candidate),
    )


def _arms(control: int | None, candidate: int | None) -> frozenset[Arm]:
    arms: dict[Arm, int | None] = {"control": control, "candidate": candidate}
    return frozenset(arm for arm, seen in arms.items() if seen)
