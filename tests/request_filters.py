"""What a filter of requests selects, as plainly as may be, to compare stores and files with."""

from __future__ import annotations

from router.records import Record
from router.store.traffic import TrafficFilter


def selects(matching: TrafficFilter, record: Record) -> bool:
    low, high = matching.status or (0, 999)
    return (
        matching.id in (None, record.id)
        and matching.request_id in (None, record.request_id or record.id)
        and matching.response_id in (None, record.response_id)
        and matching.conversation in (None, record.conversation)
        and matching.rollout in (None, record.rollout)
        and matching.arm in (None, record.arm)
        and matching.route in (None, record.route)
        and record.route not in matching.except_routes
        and matching.target in (None, record.target_name())
        and matching.key_id in (None, record.key_id)
        and matching.user in (None, record.user)
        and matching.traffic_class in (None, record.traffic_class)
        and low <= record.status <= high
        and (matching.since is None or record.at >= matching.since)
        and (matching.until is None or record.at < matching.until)
    )
