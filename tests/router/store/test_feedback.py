"""Feedback is stored once, superseded by what its author says later, and deleted with requests."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from providers.errors import ConflictError, NotFoundError, StoreError
from router.store.feedback import (
    MAX_HISTORY,
    FeedbackFilter,
    FeedbackRow,
    NewFeedback,
    conversation_subject,
    request_subject,
)
from router.store.sql.connection import Connection
from router.store.traffic import FeedbackSummary, TrafficFilter

NUL = "a\0b\x10@"


def a_row(n: int, **changes: Any) -> FeedbackRow:
    given = {
        "id": f"fb_{n}",
        "at": float(n),
        "key_id": "key_1",
        "user": "",
        "name": "thumb",
        "kind": "bool",
        "value": True,
        "score": 1.0,
        "subject": request_subject("req_1"),
        "record_id": "req_1",
        "request_key": "key_1",
        "request_user": "ann",
        "route": "chat",
        "request_at": 100.0,
    }
    return FeedbackRow(**(given | changes))


def about(record_id: str) -> dict[str, str]:
    return {"subject": request_subject(record_id), "record_id": record_id}


async def add(store, *rows: FeedbackRow) -> list[FeedbackRow]:
    return [result.row for result in await store.add_feedback([NewFeedback(row) for row in rows])]


async def ids(store, **matching: Any) -> list[str]:
    return [row.id for row in await store.feedback(FeedbackFilter(**matching))]


async def test_what_is_stored_is_read_as_it_was(store):
    values = [
        ("bool", False, 0.0),
        ("number", -0.5, -0.5),
        ("text", NUL, None),
        ("correction", {"role": "assistant", "content": None, "tool_calls": [{}]}, None),
    ]
    rows = [
        a_row(
            n,
            name=f"n{n}",
            kind=kind,
            value=value,
            score=score,
            weight=0.25,
            comment=NUL,
            user="bob",
            metadata={"a": [1, None, {"b": NUL}]},
            source="portkey",
            conversation="c",
            x_request_id="mine",
            response_id="chatcmpl-1",
            target="p/m",
            traffic_class="eval",
            status=200,
            rollout="ro_1",
            arm="candidate",
            sent_along=True,
            messages=[{"role": "user", "content": NUL}],
            answer=NUL,
        )
        for n, (kind, value, score) in enumerate(values)
    ]
    added = await add(store, *rows)
    assert [row.number for row in added] == sorted(row.number for row in added)
    listed = await store.feedback(FeedbackFilter())
    without = {"messages": None, "answer": None}
    for row, stored, shown in zip(rows, added, reversed(listed), strict=True):
        expected = msgspec.structs.replace(row, number=stored.number)
        assert stored == shown == msgspec.structs.replace(expected, **without)
        assert await store.one_feedback(row.id) == expected
        assert await store.one_feedback(row.id, key_id="key_1") == expected
        with pytest.raises(NotFoundError):
            await store.one_feedback(row.id, key_id="key_2")
    with pytest.raises(NotFoundError):
        await store.one_feedback("unknown")


async def test_the_last_word_of_an_author_counts(store):
    await add(store, a_row(1), a_row(2, value=False, score=0.0))
    await add(store, a_row(3, user="ann"), a_row(4, name="other"), a_row(5, **about("req_2")))
    # Another key speaks for itself, but a user stays the same one.
    await add(store, a_row(6, key_id="key_2"), a_row(7, key_id="key_2", user="ann", score=0.5))
    assert await ids(store) == ["fb_7", "fb_6", "fb_5", "fb_4", "fb_2"]
    history = await store.feedback(FeedbackFilter(history=True))
    assert {row.id for row in history if row.superseded} == {"fb_1", "fb_3"}
    assert [row.id for row in await store.feedback_about(["req_1"])] == [
        "fb_2", "fb_4", "fb_6", "fb_7",
    ]  # fmt: skip
    assert [row.id for row in await store.feedback_about(["req_1"], key_id="key_1")] == [
        "fb_2", "fb_4",
    ]  # fmt: skip
    assert await store.feedback_summaries(["req_1", "req_2", "unknown", ""]) == {
        "req_1": (
            FeedbackSummary(name="other", count=1, mean=1.0),
            FeedbackSummary(name="thumb", count=3, mean=0.5),
        ),
        "req_2": (FeedbackSummary(name="thumb", count=1, mean=1.0),),
    }
    assert await store.feedback_summaries(["req_1"], key_id="key_2") == {
        "req_1": (FeedbackSummary(name="thumb", count=2, mean=0.75),)
    }


async def test_means_are_weighted_and_missing_without_numbers(store):
    await add(
        store,
        a_row(1, user="a", score=1.0, weight=0.25),
        a_row(2, user="b", score=-10.0, weight=0.75),
        a_row(3, user="c", kind="text", value="x", score=None),
        a_row(4, user="a", name="text", kind="text", value="x", score=None),
        a_row(5, user="a", name="none", weight=0.0),
    )
    [summaries] = (await store.feedback_summaries(["req_1"])).values()
    assert summaries == (
        FeedbackSummary(name="none", count=1, mean=None),
        FeedbackSummary(name="text", count=1, mean=None),
        FeedbackSummary(name="thumb", count=3, mean=-7.25),
    )


async def test_conversations_have_feedback_of_their_own(store):
    subject = conversation_subject("key_1", "c")
    await add(store, a_row(1, subject=subject, record_id="", conversation="c"))
    assert await store.feedback_about(["req_1"]) == []
    assert await store.feedback_summaries([""]) == {}
    [row] = await store.feedback_about([], conversations=[subject])
    assert row.id == "fb_1"
    assert await ids(store, conversation="c") == ["fb_1"]


async def test_pages_and_filters(store):
    rows = [
        a_row(
            n,
            name=f"n{n % 3}",
            key_id=f"key_{n % 2}",
            user=f"u{n}",
            route=f"r{n % 5}",
            rollout="ro" if n % 4 else "",
            arm="ab"[n % 2],
            kind="bool" if n % 2 else "number",
            **about(f"req_{n % 7}"),
        )
        for n in range(40)
    ]
    numbers = {row.id: row.number for row in await add(store, *rows)}
    for matching, selects in (
        ({}, lambda n: True),
        ({"name": "n1"}, lambda n: n % 3 == 1),
        ({"key_id": "key_1", "route": "r2"}, lambda n: n % 2 == 1 and n % 5 == 2),
        ({"user": "u9"}, lambda n: n == 9),
        ({"kind": "number"}, lambda n: n % 2 == 0),
        ({"record_id": "req_3"}, lambda n: n % 7 == 3),
        ({"rollout": "ro", "arm": "b"}, lambda n: n % 4 and n % 2 == 1),
        ({"since": 10.0, "until": 20.0}, lambda n: 10 <= n < 20),
        ({"name": "unknown"}, lambda n: False),
    ):
        expected = [f"fb_{n}" for n in reversed(range(40)) if selects(n)]
        assert await ids(store, **matching) == expected
        if len(expected) > 3:
            page = await store.feedback(
                FeedbackFilter(**matching), limit=2, before=numbers[expected[1]]
            )
            assert [row.id for row in page] == expected[2:4]


async def test_a_repeated_request_stores_nothing_new(store, make_store):
    first = NewFeedback(a_row(1), "key", "digest")
    [stored] = await store.add_feedback([first])
    assert stored.is_new
    again = NewFeedback(a_row(2), "key", "digest")
    other = make_store()
    await other.open()
    for place in (store, other):
        [repeated] = await place.add_feedback([again])
        assert not repeated.is_new
        assert repeated.row == stored.row
    # Other feedback by the same name is refused, with all that was sent with it.
    with pytest.raises(ConflictError, match="'key' was used for other feedback \\(fb_1\\)"):
        await store.add_feedback([NewFeedback(a_row(3, name="x")), again._replace(digest="other")])
    assert await ids(store) == ["fb_1"]
    # Another key has its own names.
    [theirs] = await store.add_feedback([NewFeedback(a_row(4, key_id="key_2"), "key", "other")])
    assert theirs.is_new
    # Or it takes the name over.
    taken = NewFeedback(a_row(5), "key", "other", replaces=True)
    [new] = await store.add_feedback([taken])
    assert new.is_new
    [repeated] = await store.add_feedback([taken._replace(row=a_row(6))])
    assert repeated.row.id == "fb_5"
    assert await ids(store) == ["fb_5", "fb_4"]
    await other.close()


async def test_processes_that_send_the_same_at_once_store_it_once(store, make_store):
    others = [make_store() for _ in range(3)]
    for other in others:
        await other.open()
    results = await asyncio.gather(
        *(
            place.add_feedback([NewFeedback(a_row(10 * n + m), f"key {m}", "digest")])
            for n, place in enumerate([store, *others])
            for m in range(8)
        )
    )
    assert sum(result.is_new for [result] in results) == 8
    assert len({result.row.id for [result] in results}) == 8
    for other in others:
        await other.close()


async def test_the_history_of_one_author_is_bounded(store):
    await add(store, *(a_row(n, sent_along=True, messages=[]) for n in range(MAX_HISTORY + 3)))
    await add(store, a_row(1000, user="ann"))
    rows = await store.feedback(FeedbackFilter(history=True), limit=1000)
    assert [row.id for row in rows] == [
        "fb_1000", *(f"fb_{n}" for n in reversed(range(3, MAX_HISTORY + 3))),
    ]  # fmt: skip


async def test_who_deletes_feedback_has_said_nothing(store):
    await add(store, a_row(1), a_row(2), a_row(3), a_row(4, user="ann"))
    assert await store.delete_feedback("fb_2", key_id="key_2") == 0
    assert await store.delete_feedback("fb_2", key_id="key_1") == 2
    assert await ids(store, history=True) == ["fb_4", "fb_3"]
    assert await store.delete_feedback("fb_3") == 1
    assert await store.delete_feedback("fb_3") == 0
    assert await ids(store, history=True) == ["fb_4"]


REQUEST = {
    "x_request_id": "mine",
    "request_key": "key_9",
    "response_id": "chatcmpl-1",
    "conversation": "c",
    "route": "r",
    "target": "p/m",
    "traffic_class": "eval",
    "status": 404,
    "rollout": "ro",
    "arm": "a",
    "request_at": 50.0,
    "request_user": "eve",
}
# Of each field of a filter, one that selects REQUEST and nothing else.
SELECTED = {
    "id": {"id": "req_9"},
    "request_id": {"request_id": "mine", "key_id": "key_9"},
    "response_id": {"response_id": "chatcmpl-1"},
    "conversation": {"conversation": "c"},
    "rollout": {"rollout": "ro"},
    "arm": {"rollout": "ro", "arm": "a"},
    "route": {"route": "r"},
    "except_routes": {"except_routes": ("chat", "other")},
    "target": {"target": "p/m"},
    "key_id": {"key_id": "key_9"},
    "user": {"user": "eve"},
    "traffic_class": {"traffic_class": "eval"},
    "status": {"status": (400, 499)},
    "since": {"since": 40.0, "until": 60.0},
    "until": {"until": 60.0},
}


def test_every_field_of_a_filter_of_requests_is_tried():
    assert set(SELECTED) == set(TrafficFilter.__struct_fields__)


@pytest.mark.parametrize("field", SELECTED)
async def test_feedback_goes_with_the_requests_that_it_is_about(store, field):
    await add(store, a_row(1), a_row(2, sent_along=True, messages=[], **about("req_9"), **REQUEST))
    matching = TrafficFilter(**SELECTED[field])
    assert await store.forget_feedback(matching, 0) == 0
    assert await store.forget_feedback(matching, 10) == 1
    assert await store.forget_feedback(matching, 10) == 0
    assert await ids(store) == ["fb_1"]


async def test_a_user_is_forgotten_as_a_giver_of_feedback_too(store):
    await add(store, a_row(1, user="eve"), a_row(2, request_user="eve"), a_row(3, user="bob"))
    assert await store.forget_feedback(TrafficFilter(user="eve"), 1) == 1
    assert await store.forget_feedback(TrafficFilter(user="eve"), 10) == 1
    assert await ids(store) == ["fb_3"]


async def test_texts_go_with_their_feedback(store):
    sent = {"sent_along": True, "messages": [{"role": "user"}], "answer": "a"}
    await add(store, a_row(1, **sent), a_row(2, **sent, **about("req_2")))
    await store.delete_feedback("fb_1")
    await store.forget_feedback(TrafficFilter(id="req_2"), 10)

    def count(db: Connection) -> int:
        return db.execute("SELECT count(*) FROM feedback_bodies").fetchone()[0]

    assert await store._database.read("count", count) == 0


async def test_numbers_that_are_not_finite_are_refused(store):
    with pytest.raises(StoreError):
        await add(store, a_row(1, kind="number", value=float("nan")))
