"""Corrections, and conversations that clients sent along, wait for a review; once each."""

from __future__ import annotations

import json

import pytest

from router.config.loading import parse
from router.records import Record, Target
from router.services import Services
from router.store.feedback import FeedbackRow, NewFeedback, request_subject, text_subject
from router.store.review import ReviewFilter
from router.store.traffic import TrafficFilter

MESSAGES = [{"role": "user", "content": "How old is it?"}]


@pytest.fixture
async def services(tmp_path):
    config = (
        f"storage: {{database: 'sqlite:///{tmp_path}/f.db', "
        f"artifacts: '{tmp_path}/a', traffic_days: 0}}"
    )
    async with Services(parse(config, "f.yaml", {})) as services:
        yield services


def a_row(n, **changes):
    given = {
        "id": f"fb_{n}", "at": float(n), "key_id": "key_1", "user": "", "name": f"n{n}",
        "kind": "correction", "value": "Four.", "score": None, "subject": request_subject("req_1"),
        "record_id": "req_1", "request_key": "key_1", "request_user": "ann", "route": "chat",
        "target": "p/m", "status": 200, "request_at": 100.0,
    }  # fmt: skip
    return NewFeedback(FeedbackRow(**(given | changes)))


async def keep(services, name, answer="Three.", **changes):
    body = {"choices": [{"message": {"role": "assistant", "content": answer},
                         "finish_reason": "stop"}]}  # fmt: skip
    fields = {"request": json.dumps({"model": "chat", "messages": MESSAGES}).encode(),
              "response": json.dumps(body).encode(), "keep": "full", "status": 200}  # fmt: skip
    record = Record(id=name, at=100.0, route="chat", target=Target("p", "m"), user="ann",
                    **(fields | changes))  # fmt: skip
    await services.store.keep_traffic([record])


async def waiting(services):
    return await services.store.review_rows(ReviewFilter(), limit=50)


async def test_a_correction_waits_with_the_conversation_of_its_request(services):
    await keep(services, "req_1")
    await services.store.add_feedback([a_row(1), a_row(2, kind="bool", value=True)])
    assert await services.feedback_review.run_once() == 1
    assert await services.feedback_review.run_once() == 0
    [row] = await waiting(services)
    assert (row.origin, row.content.messages) == ("feedback", MESSAGES)
    assert (row.content.answer, row.content.reference) == ("Three.", "Four.")
    assert (row.source.id, row.source.user, row.source.feedback) == ("req_1", "ann", ("fb_1",))
    # It goes with the request.
    await services.deletion.delete(TrafficFilter(user="ann"))
    assert await waiting(services) == []


async def test_what_was_sent_along_waits_although_no_body_is_stored(services):
    sent = [{"role": "user", "content": "Who is it?"}]
    await services.store.add_feedback(
        [
            a_row(1, kind="text", value="bad", sent_along=True, messages=sent, answer="Bob.",
                  subject=text_subject("fb_1"), record_id=""),
            a_row(2, value={"role": "assistant", "content": "Eve."}, sent_along=True,
                  messages=[*sent, *MESSAGES], answer="Bob."),
        ]
    )  # fmt: skip
    assert await services.feedback_review.run_once() == 2
    first, second = await waiting(services)
    assert (first.content.messages, first.content.reference) == (sent, None)
    assert second.content.reference == "Eve."


@pytest.mark.parametrize(
    "changes",
    [{"keep": "metadata", "request": None, "response": None}, {"path": "embeddings"},
     {"status": 500}, {"response": b"{"}],
)  # fmt: skip
async def test_a_correction_without_a_conversation_is_passed_by(services, changes):
    await keep(services, "req_1", **changes)
    await keep(services, "req_2", "Five.")
    await services.store.add_feedback(
        [a_row(1), a_row(2, record_id="req_2", subject=request_subject("req_2"))]
    )
    assert await services.feedback_review.run_once() == 1
    assert [row.source.id for row in await waiting(services)] == ["req_2"]


@pytest.mark.parametrize(
    "matching",
    [{"conversation": "talk"}, {"request_id": "mine", "key_id": "key_1"},
     {"response_id": "chatcmpl-1"}, {"user": "ann"}, {"user": "bob"}],
)  # fmt: skip
async def test_what_waits_or_is_published_goes_with_the_request_and_with_its_author(
    services, matching
):
    await keep(services, "req_1")
    names = {"conversation": "talk", "x_request_id": "mine", "response_id": "chatcmpl-1"}
    await services.store.add_feedback([a_row(1, user="bob", **names)])
    await services.feedback_review.run_once()
    [row] = await waiting(services)
    await services.review.accept(row.id, "eve")
    await services.review.publish("reviewed", "eve")
    await services.store.add_feedback([a_row(2, user="bob", value="Eleven years.", **names)])
    await services.feedback_review.run_once()
    assert len(await waiting(services)) == 2
    await services.deletion.delete(TrafficFilter(**matching))
    assert await waiting(services) == []
    assert await services.store.datasets() == []


async def test_what_waits_goes_with_the_feedback_that_it_was_made_of(services):
    await keep(services, "req_1")
    for n, value in enumerate(["Four.", "Eleven or twelve years."], 1):
        await services.store.add_feedback([a_row(n, name="answer", value=value)])
        await services.feedback_review.run_once()
    await services.store.add_feedback([a_row(11, name="other", value="Nobody knows that.")])
    await services.feedback_review.run_once()
    assert len(await waiting(services)) == 3
    assert await services.store.delete_feedback("fb_2") == 2
    assert [row.content.reference for row in await waiting(services)] == ["Nobody knows that."]


async def test_feedback_waits_in_its_place_while_the_queue_is_full(tmp_path):
    config = (
        f"storage: {{database: 'sqlite:///{tmp_path}/f.db', "
        f"artifacts: '{tmp_path}/a', traffic_days: 0}}\n"
        "review: {max_rows: 1}"
    )
    async with Services(parse(config, "f.yaml", {})) as services:
        for n in (1, 2):
            sent = [{"role": "user", "content": f"Question {n}, please?"}]
            await services.store.add_feedback(
                [a_row(n, sent_along=True, messages=sent, answer="x")]
            )
        assert await services.feedback_review.run_once() == 1
        assert await services.feedback_review.run_once() == 0
        [row] = await waiting(services)
        await services.review.reject(row.id, "eve")
        assert await services.feedback_review.run_once() == 1
        assert len(await waiting(services)) == 2
