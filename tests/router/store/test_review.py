"""The review queue: pages, changes of which one wins, publishing, expiry and deletion."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from providers.errors import ConflictError, NotFoundError
from router.store.review import (
    NewReviewRow,
    ReviewContent,
    ReviewFilter,
    ReviewRow,
    ReviewSource,
    ToxicityProgress,
)
from router.store.traffic import TrafficFilter

NUL = "a\0b\x10@"


def a_row(n: int, **changes: Any) -> ReviewRow:
    given = {
        "id": f"rv_{n}",
        "at": float(n),
        "expires_at": 100.0 + n,
        "dataset": "reviewed",
        "origin": "traffic",
        "source": ReviewSource(id=f"req_{n}", at=50.0 + n, user="ann", route="chat", status=200),
        "content": ReviewContent(messages=[{"role": "user", "content": f"question {n}"}]),
    }
    return ReviewRow(**(given | changes))


async def add(store, *rows: ReviewRow, bands=(), max_waiting=100):
    new = [NewReviewRow(row, f"d {row.id}", f"s {row.id}", bands) for row in rows]
    await store.add_review_rows(new, max_waiting=max_waiting)


async def ids(store, **matching: Any) -> list[str]:
    return [row.id for row in await store.review_rows(ReviewFilter(**matching), limit=50)]


def accepted(row: ReviewRow, **changes: Any) -> ReviewRow:
    given = {"state": "accepted", "version": row.version + 1, "decided_at": 9.0}
    return msgspec.structs.replace(row, **(given | {"decided_by": "eve"} | changes))


async def test_what_is_stored_is_read_as_it_was(store):
    row = a_row(
        1,
        source=ReviewSource(
            id="req", at=1.5, key_id="key_1", user=NUL, route="r", target="p/m", feedback=("f", "g")
        ),
        content=ReviewContent(
            messages=[{"role": "user", "content": [{"type": "text", "text": NUL}]}],
            answer=NUL,
            reference="",
            metadata={"a": [1, None]},
        ),
        findings=({"kind": "email", "action": "mask", "place": NUL},),
        decided_by=NUL,
        reason=NUL,
    )
    await add(store, row)
    stored = await store.review_row("rv_1")
    assert stored == msgspec.structs.replace(row, number=stored.number)
    with pytest.raises(NotFoundError):
        await store.review_row("rv_2")


async def test_pages_are_in_the_order_of_arrival(store):
    await add(store, a_row(1), a_row(2, dataset="other"), a_row(3), a_row(4, origin="import"))
    assert await ids(store) == ["rv_1", "rv_2", "rv_3", "rv_4"]
    assert await ids(store, dataset="reviewed", origin="traffic") == ["rv_1", "rv_3"]
    assert await ids(store, route="chat", state="rejected") == []
    page = await store.review_rows(ReviewFilter(), limit=2)
    rest = await store.review_rows(ReviewFilter(), limit=9, after=page[-1].number)
    every = [*page, *rest]
    for place, row in enumerate(every):
        before = await store.review_rows(ReviewFilter(), limit=2, before=row.number)
        assert before == every[max(0, place - 2) : place]
    assert [row.id for row in (*page, *rest)] == await ids(store)
    assert await store.count_review_rows(ReviewFilter(dataset="reviewed")) == 3


async def test_the_queue_is_bounded(store):
    await add(store, a_row(1), a_row(2), max_waiting=2)
    with pytest.raises(ConflictError, match="2 rows wait"):
        await add(store, a_row(3), max_waiting=2)
    assert await ids(store) == ["rv_1", "rv_2"]


async def test_of_two_who_decide_at_once_one_wins(store):
    await add(store, a_row(1))
    row = await store.review_row("rv_1")
    changes = [accepted(row, decided_by=who) for who in ("eve", "bob", "ann")]
    won = await asyncio.gather(*map(store.change_review_row, changes))
    assert sorted(won) == [False, False, True]
    assert (await store.review_row("rv_1")).decided_by == changes[won.index(True)].decided_by


async def test_what_is_published_stays_as_it_is(store):
    await add(store, a_row(1), a_row(2), a_row(3, dataset="other"))
    for name in ("rv_1", "rv_3"):
        assert await store.change_review_row(accepted(await store.review_row(name)))
    rows = await store.begin_publishing("reviewed")
    assert [row.id for row in rows] == ["rv_1"]
    undone = msgspec.structs.replace(rows[0], state="waiting", version=rows[0].version + 1)
    assert not await store.change_review_row(undone)
    # After a crash it begins anew.
    assert [row.id for row in await store.begin_publishing("reviewed")] == ["rv_1"]
    assert await store.end_publishing(["rv_1", "gone"], "f00") == ["rv_1"]
    assert await store.begin_publishing("reviewed") == []
    assert await ids(store, published=True) == ["rv_1"]
    assert not await store.change_review_row(undone)
    # What could not be published can be changed again.
    [row] = await store.begin_publishing("other")
    await store.end_publishing([row.id], "")
    row = await store.review_row("rv_3")
    changed = msgspec.structs.replace(row, state="waiting", version=row.version + 1)
    assert await store.change_review_row(changed)


async def test_rows_expire_unless_they_are_accepted(store):
    await add(store, a_row(1), a_row(2), a_row(3), a_row(9), bands=["x"])
    assert await store.change_review_row(accepted(await store.review_row("rv_2")))
    assert await store.expire_review_rows(103.0, 1) == 1
    assert await store.expire_review_rows(103.0, 10) == 1
    assert await ids(store) == ["rv_2", "rv_9"]


async def test_similar_rows_share_a_band(store):
    await add(store, a_row(1), bands=["a", "b", "b"])
    await add(store, a_row(2), bands=["b", "c"])
    await add(store, a_row(3, dataset="other"), bands=["b"])
    similar = await store.similar_review_rows("reviewed", ["b", "z"])
    assert similar == [("rv_1", "d rv_1", "s rv_1"), ("rv_2", "d rv_2", "s rv_2")]
    assert [row.id for row in await store.similar_review_rows("reviewed", ["c"])] == ["rv_2"]


@pytest.mark.parametrize(
    ("matching", "left"),
    [
        ({"id": "req_1"}, [2, 3]),
        ({"user": "bob"}, [1, 3]),
        ({"key_id": "key_2"}, [1, 3]),
        ({"request_id": "mine", "key_id": "key_2"}, [1, 3]),
        ({"response_id": "answer 1"}, [2, 3]),
        ({"user": "critic"}, [1, 3]),
        ({"conversation": "talk"}, [1, 2]),
        ({"rollout": "any"}, [1, 2, 3]),
        ({"route": "chat"}, [3]),
        ({"except_routes": ("chat",)}, [1, 2]),
        ({"target": "p/m"}, [1, 2]),
        ({"traffic_class": "eval"}, [1, 2]),
        ({"status": (400, 599)}, [1, 3]),
        ({"since": 52.0}, [1]),
        ({"until": 52.0}, [2, 3]),
        ({}, []),
    ],
)
async def test_rows_are_deleted_with_their_requests(store, matching, left):
    sources = [
        ReviewSource(id="req_1", at=51.0, user="ann", route="chat", status=200,
                     response_id="answer 1"),
        ReviewSource(id="req_2", at=52.0, user="bob", route="chat", status=500, key_id="key_2",
                     request_id="mine", authors=frozenset(["critic"])),
        ReviewSource(id="req_3", at=53.0, route="x", target="p/m", traffic_class="eval",
                     conversation="talk"),
    ]  # fmt: skip
    await add(store, *(a_row(n, source=source) for n, source in enumerate(sources, 1)), bands="ab")
    matching = TrafficFilter(**matching)
    assert await store.forget_review_rows(matching, 10) == 3 - len(left)
    assert await ids(store) == [f"rv_{n}" for n in left]
    assert await store.forget_review_rows(matching, 10) == 0


async def test_the_position_in_the_feedback_is_stored(store):
    assert await store.review_position() == 0
    for number in (7, 9):
        await store.keep_review_position(number)
        assert await store.review_position() == number


async def test_how_far_the_queue_was_judged_is_stored(store):
    assert await store.toxicity_progress() == ToxicityProgress()
    for number in (7, 9):
        progress = ToxicityProgress(number=number, day="2026-01-01", usd=0.25)
        await store.keep_toxicity_progress(progress)
        assert await store.toxicity_progress() == progress


async def test_the_key_of_placeholders_is_made_once(store, make_store):
    first = await store.review_key(b"a" * 32)
    other = make_store()
    await other.open()
    try:
        assert await other.review_key(b"b" * 32) == first == b"a" * 32
    finally:
        await other.close()
