"""Searches of recorded requests: what is found, how far one looks, and where it goes on."""

from __future__ import annotations

import asyncio
import json
import time

import pytest
from stores import sqlite_store

from providers.errors import RateLimitError, RequestError
from router.config.loading import parse
from router.loop.request_search import (
    MAX_TEXT,
    RequestSearch,
    prompts_of,
    request_query,
    statuses_of,
)
from router.records import Record, Target
from router.services import Services
from router.store.feedback import FeedbackRow, NewFeedback, request_subject
from router.store.traffic import TrafficFilter

NOW = time.time()
CHUNK = {"object": "chat.completion.chunk"}


def chat(text, **fields):
    system = {"role": "system", "content": "Be brief."}
    messages = [system, {"role": "user", "content": [{"type": "text", "text": text}]}]
    return json.dumps({"messages": messages, **fields}).encode()


def answer(text):
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    return json.dumps({"object": "chat.completion", "choices": [choice]}).encode()


def streamed(*pieces):
    choices = [{"index": 0, "delta": {"content": piece}} for piece in pieces]
    lines = [f"data: {json.dumps(CHUNK | {'choices': [choice]})}\n\n" for choice in choices]
    end = CHUNK | {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
    return "".join([*lines, f"data: {json.dumps(end)}\n\ndata: [DONE]\n\n"]).encode()


def record(n, **fields):
    usual = {
        "id": f"req_{n}",
        "at": NOW - 1000 + n,
        "route": "chat",
        "target": Target("p", "m"),
        "status": 200,
        "total_s": float(n),
        "keep": "full",
        "request": chat(f"question {n}"),
        "response": answer(f"reply {n}"),
    }
    return Record(**usual | fields)


def about(n, name, value, kind="number", key_id=""):
    return NewFeedback(
        FeedbackRow(
            id=f"f_{n}_{name}_{key_id}", at=NOW, key_id=key_id, user="", name=name, kind=kind,
            value=value, score=None, subject=request_subject(f"req_{n}"), record_id=f"req_{n}",
            request_key="", request_user="", route="chat", request_at=NOW,
        )
    )  # fmt: skip


RECORDS = [
    record(0, request=chat("Where is my REFUND?", metadata={"team": "billing", "n": "1"})),
    record(1, request=chat("hello"), response=streamed("the re", "fund is on", " its way")),
    record(2, request=chat("Straße", metadata={"team": "search"}), status=500),
    record(3, keep="metadata", request=None, response=None),
    record(4, path="completions", request=b'{"prompt": ["a refund", "b"]}', response=b"no JSON"),
    record(5, request=b"{refund", response=None),
    record(6, path="responses", request=b'{"input": [{"role": "user", "content": "more"}]}',
           response=b'{"output": "plain refund"}'),
]  # fmt: skip
FEEDBACK = [
    about(0, "thumb", 0.0),
    about(1, "thumb", 1.0, key_id="key_1"),
    about(3, "words", "well", kind="text"),
]


@pytest.fixture
async def services(tmp_path):
    async with sqlite_store(tmp_path / "e.db") as store:
        await store.keep_traffic(RECORDS)
        await store.add_feedback(FEEDBACK)
    config = f"storage: {{database: 'sqlite:///{tmp_path}/e.db', artifacts: '{tmp_path}'}}"
    async with Services(parse(config, "test.yaml", {})) as services:
        yield services


async def found(services, *, only=None, matching=None, **query):
    page = await services.request_search.page(
        matching or TrafficFilter(), request_query(**query), only=only, limit=50
    )
    assert not page.stopped
    assert page.next is None
    return [int(row.id.removeprefix("req_")) for row in page.rows]


@pytest.mark.parametrize(
    ("query", "numbers"),
    [
        # Prompts and answers, of every form, whatever the case; also bodies that cannot be read.
        ({"text": "refund"}, [6, 5, 4, 1, 0]),
        ({"text": "STRASSE"}, [2]),
        ({"text": "be brief"}, [2, 1, 0]),
        ({"text": "reply 0"}, [0]),
        ({"text": "content"}, []),
        ({"metadata": "team"}, [2, 0]),
        ({"metadata": "team=billing"}, [0]),
        ({"metadata": "team="}, []),
        ({"metadata": "team=billing", "text": "refund", "where": "status == 200"}, [0]),
        ({"where": "has feedback.thumb"}, [1, 0]),
        ({"where": "feedback.thumb < 0.5"}, [0]),
        ({"where": "has feedback.words"}, [3]),
        ({"where": "not has feedback.thumb and total_s > 4"}, [6, 5]),
        ({"where": "prompt contains 'refund' or total_s == 3"}, [5, 3, 0]),
        ({"where": "answer == 'the refund is on its way'"}, [1]),
        ({"where": "has feedback.thumb", "text": "hello"}, [1]),
        ({}, [6, 5, 4, 3, 2, 1, 0]),
    ],
)
async def test_requests_are_found_by_what_they_say_and_what_is_said_of_them(
    services, query, numbers
):
    assert await found(services, **query) == numbers


async def test_the_filter_holds_as_well_and_only_a_keys_own_feedback_counts(services):
    assert await found(services, text="straße", matching=TrafficFilter(status=(200, 200))) == []
    assert await found(services, where="has feedback.thumb", only="key_1") == [1]


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ({"where": "colour == 1"}, "colour"),
        ({"where": "prompt >"}, "where"),
        ({"text": "x" * (MAX_TEXT + 1)}, "at most"),
        ({"metadata": "=billing"}, "NAME=VALUE"),
    ],
)
def test_what_cannot_be_looked_for_is_refused(query, message):
    with pytest.raises(RequestError, match=message) as caught:
        request_query(**query)
    assert caught.value.param in query


async def test_a_search_stops_says_where_and_goes_on_from_there(services):
    search = RequestSearch(services.recorded, services.store, max_requests=3, max_bodies=2)
    everything = TrafficFilter()

    async def pages(query, limit=50):
        before = None
        while True:
            page = await search.page(everything, query, only=None, limit=limit, before=before)
            rows = [row.id[4:] for row in page.rows]
            back_to = None if page.back_to is None else round(page.back_to - NOW + 1000)
            yield rows, page.looked, page.stopped, back_to
            if page.next is None:
                return
            before = page.next

    slow = [page async for page in pages(request_query(text="refund"))]
    assert slow == [
        (["6", "5"], 2, True, 5),
        (["4"], 2, True, 3),
        (["1"], 2, True, 1),
        (["0"], 1, False, 0),
    ]
    quick = [page async for page in pages(request_query(where="has feedback.thumb"))]
    assert quick == [([], 3, True, 4), (["1"], 3, True, 1), (["0"], 1, False, 0)]
    full = [page async for page in pages(request_query(where="total_s > 2"), limit=1)]
    assert full[:2] == [(["6"], 1, False, 6), (["5"], 1, False, 5)]
    assert [rows for rows, *_ in full if rows] == [["6"], ["5"], ["4"], ["3"]]
    no_time = RequestSearch(services.recorded, services.store, max_requests=2, max_seconds=0.0)
    page = await no_time.page(everything, request_query(where="path == ''"), only=None, limit=9)
    assert (page.looked, page.stopped, page.rows) == (2, True, [])


async def test_only_so_many_searches_wait(services):
    query = request_query(text="refund")
    searches = [found(services, text="refund") for _ in range(18)]
    waiting = asyncio.gather(*searches)
    await asyncio.sleep(0)
    with pytest.raises(RateLimitError, match="Too many searches"):
        await services.request_search.page(TrafficFilter(), query, only=None, limit=1)
    assert await waiting == [[6, 5, 4, 1, 0]] * 18
    assert await found(services, text="refund") == [6, 5, 4, 1, 0]


async def test_prompts_are_on_one_line_and_short(services):
    rows = [row async for some in services.recorded.with_bodies(range(9)) for row in some]
    prompts = {rows_id(rows, number): text for number, text in prompts_of(rows, 9).items()}
    assert prompts["req_1"] == "hello"
    assert prompts["req_0"] == "Where is\u2026"
    assert prompts["req_4"] == "b"
    assert prompts["req_6"] == "more"
    assert prompts["req_5"] == "{refund"


def rows_id(rows, number):
    return next(row.id for row in rows if row.number == number)


def test_a_status_is_a_number_a_class_or_every_error():
    assert [statuses_of(text) for text in ("429", "4xx", "error")] == [
        (429, 429),
        (400, 499),
        (400, 599),
    ]
    for text in ("9", "600", "4x", ""):
        with pytest.raises(RequestError, match="status is a number"):
            statuses_of(text)
