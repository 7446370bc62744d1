"""What hosts claim to be and what live answers are like, counted from records."""

from __future__ import annotations

import json

import pytest

from providers.errors import StoreError
from router.gateway.answer_counts import AnswerCounts
from router.records import Record, Target
from router.store.sqlite import SqliteStore

TARGET = Target("up", "a")
GERMAN = "Das Wetter ist heute schön, und morgen wird es wieder regnen."
FRENCH = "Le temps est beau aujourd'hui, mais il pleuvra encore demain."


def a_record(at: float = 10.0, **fields) -> Record:
    return Record(**{"id": "r", "at": at, "target": TARGET, "status": 200, "model": "a-1"} | fields)


@pytest.fixture
async def store(tmp_path):
    store = SqliteStore(tmp_path / "store.db")
    await store.open()
    yield store
    await store.close()


async def test_live_answers_are_counted_by_the_hour_and_all_answers_by_version(store):
    counts = AnswerCounts(store, clock=lambda: 20.0)
    counts.add(a_record(5.0, completion_tokens=3, cost_usd=0.5))
    counts.add(a_record(3600.0, finish_reason="content_filter"))
    counts.add(a_record(7.0, completion_tokens=4))
    counts.add(a_record(4.0, traffic_class="eval", model="a-2"))
    # No answer of a model, or none at all.
    counts.add(a_record(cached=True))
    counts.add(a_record(target=None))
    counts.add(a_record(status=500, error_code="server_error"))
    counts.add(a_record(path="embeddings"))
    await counts.flush()
    versions = {row.model: row for row in await store.model_versions("up/a")}
    assert (versions["a-1"].requests, versions["a-2"].requests) == (5, 1)
    assert (versions["a-1"].first_at, versions["a-1"].last_at) == (5.0, 3600.0)
    first, second = await store.live_hours("up/a", 0.0, 7200.0)
    assert (first.requests, first.tokens, first.counted, first.cost_usd, first.priced) == (
        2,
        7,
        2,
        0.5,
        1,
    )
    assert (second.requests, second.refusals) == (1, 1)


async def test_counts_wait_for_a_database_that_does_not_work(tmp_path):
    closed = SqliteStore(tmp_path / "store.db")
    counts = AnswerCounts(closed, languages=lambda: {"up/a"}, clock=lambda: 20.0)
    counts.sample(a_record(tail=whole(GERMAN)))
    for at in (10.0, 20.0):
        counts.add(a_record(at, completion_tokens=1))
        with pytest.raises(StoreError):
            await counts.flush()
    await closed.open()
    await counts.flush()
    await counts.flush()
    [version] = await closed.model_versions()
    assert (version.requests, version.first_at, version.last_at) == (2, 10.0, 20.0)
    [hour] = await closed.live_hours("up/a", 0.0, 3600.0)
    assert (hour.requests, hour.tokens) == (2, 2)
    assert await closed.live_languages("up/a", 0.0, 3600.0) == {"de": 1}
    await closed.close()


def whole(text: str) -> bytes:
    choice = {"message": {"role": "assistant", "content": text}}
    return json.dumps({"id": "r", "choices": [choice]}).encode()


def streamed(text: str) -> bytes:
    events = [
        b"data: " + json.dumps({"choices": [{"delta": {"content": word + " "}}]}).encode()
        for word in text.split()
    ]
    return b"\n\n".join([b'nt": "cut off"}]}', *events, b"data: [DONE]", b""])


async def test_few_answers_have_their_language_looked_at(store):
    wanted: set[str] = set()
    counts = AnswerCounts(store, languages=lambda: wanted, clock=lambda: 20.0)
    counts.sample(a_record(tail=whole(FRENCH)))
    wanted.add("up/a")
    counts.sample(a_record(tail=whole(GERMAN)))
    counts.sample(a_record(tail=streamed(FRENCH)))
    for tail in (b"", whole("Ja."), b"{broken", b"data: broken\n\n"):
        counts.sample(a_record(tail=tail))
    counts.sample(a_record(tail=whole(GERMAN), traffic_class="eval"))
    for _ in range(50):
        counts.sample(a_record(tail=whole(GERMAN)))
    await counts.flush()
    found = await store.live_languages("up/a", 0.0, 3600.0)
    assert found["fr"] == 1
    assert 1 <= found["de"] <= 10
