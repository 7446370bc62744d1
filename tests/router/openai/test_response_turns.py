"""Turns of `/v1/responses`: what a request continues, and what is stored of it."""

from __future__ import annotations

import json

import msgspec
import pytest
from stores import sqlite_store

from providers.errors import NotFoundError, RequestError
from router.openai.response_ids import ResponseIds, is_stored_id
from router.openai.response_turns import DAY_S, RequestFacts, Turns
from router.records import Target
from router.store.responses import (
    MAX_CONVERSATION_ITEMS,
    MAX_HISTORY_BYTES,
    ConversationItem,
    StoredConversation,
)

FACTS = RequestFacts(key_id="key_1", record_id="req_1", request_id="x", route="chat", user="ann")
UP = Target("up", "m")


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
async def store(tmp_path):
    async with sqlite_store(tmp_path / "e.db") as store:
        yield store


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def turns(store, clock) -> Turns:
    return Turns(store, ResponseIds(store, clock=clock), days=30.0, clock=clock)


def envelope(**fields) -> dict[str, msgspec.Raw]:
    fields = {"model": "chat"} | fields
    return {name: msgspec.Raw(json.dumps(value).encode()) for name, value in fields.items()}


def shown(turn) -> dict:
    return {name: json.loads(bytes(value)) for name, value in turn.envelope.items()}


def answer(text="Yes.", response_id="resp_host", **fields) -> bytes:
    response = {
        "id": response_id,
        "object": "response",
        "status": "completed",
        "previous_response_id": None,
        "conversation": None,
        "output": [
            {
                "type": "message",
                "id": "msg_host",
                "role": "assistant",
                "status": "completed",
                "content": [{"type": "output_text", "text": text, "annotations": []}],
            }
        ],
    } | fields
    return json.dumps(response, separators=(",", ":")).encode()


def user(text) -> dict:
    return {
        "type": "message",
        "role": "user",
        "content": [{"type": "input_text", "text": text}],
    }


async def answered(turns, facts=FACTS, *, keeps=False, body=None, **fields) -> dict:
    turn = await turns.begin(envelope(**fields), facts)
    turn.sent_to(UP, keeps=keeps)
    data = turn.rewrite(body or answer())
    await turn.end(data)
    return json.loads(data)


async def test_a_follow_up_is_sent_with_the_whole_history(turns):
    first = await answered(turns, input="Hello?")
    assert is_stored_id(first["id"])
    second = await answered(
        turns, body=answer("No."), input=[{"role": "user", "content": "Again?"}],
        previous_response_id=first["id"],
    )  # fmt: skip
    assert second["previous_response_id"] == first["id"]
    third = await turns.begin(
        envelope(input="Why?", previous_response_id=second["id"], temperature=0), FACTS
    )
    sent = shown(third)
    assert "previous_response_id" not in sent
    assert sent["temperature"] == 0
    said = json.loads(answer())["output"][0]
    del said["id"]
    no = json.loads(answer("No."))["output"][0]
    del no["id"]
    assert sent["input"] == [
        user("Hello?"),
        said,
        {"type": "message", "role": "user", "content": "Again?"},
        no,
        user("Why?"),
    ]


async def test_a_request_that_continues_nothing_is_sent_as_it_came(turns):
    fields = envelope(input=[{"type": "new_kind", "x": 1e400 if False else 1}], store=True)
    turn = await turns.begin(fields, FACTS)
    assert turn.envelope is fields
    assert turn.is_stored


async def test_what_is_not_to_be_stored_has_the_hosts_id_and_no_follow_up(turns):
    data = await answered(turns, input="Hello?", store=False)
    assert data == json.loads(answer())
    with pytest.raises(NotFoundError, match="resp_host"):
        await turns.begin(envelope(input="a", previous_response_id="resp_host"), FACTS)


async def test_a_host_that_keeps_responses_gets_its_own_id_back(turns, store):
    first = await answered(turns, keeps=True, input="Hello?")
    assert first["id"] not in ("resp_host", "")
    assert not is_stored_id(first["id"])
    turn = await turns.begin(envelope(input="Why?", previous_response_id=first["id"]), FACTS)
    assert shown(turn)["previous_response_id"] == "resp_host"
    assert shown(turn)["input"] == "Why?"
    assert (turn.owner.provider, turn.owner.model) == ("up", "m")
    turn.sent_to(UP, keeps=True)
    body = answer(response_id="resp_two", previous_response_id="resp_host")
    second = json.loads(turn.rewrite(body))
    assert second["previous_response_id"] == first["id"]
    assert second["id"] not in ("resp_two", first["id"])
    assert await store.delete_expired_responses(1e12, 9) == 0


@pytest.mark.parametrize("keeps", [False, True])
async def test_another_keys_response_does_not_exist(turns, keeps):
    first = await answered(turns, keeps=keeps, input="Hello?")
    for key_id in ("key_2", ""):
        other = msgspec.structs.replace(FACTS, key_id=key_id)
        with pytest.raises(NotFoundError) as caught:
            await turns.begin(envelope(input="a", previous_response_id=first["id"]), other)
        assert caught.value.code == "previous_response_not_found"
        assert caught.value.param == "previous_response_id"


async def test_a_response_expires(turns, clock):
    first = await answered(turns, input="Hello?")
    clock.now += 30 * DAY_S
    with pytest.raises(NotFoundError):
        await turns.begin(envelope(input="a", previous_response_id=first["id"]), FACTS)


async def test_without_days_nothing_is_stored(store):
    turns = Turns(store, ResponseIds(store), days=0.0)
    data = await answered(turns, input="Hello?")
    assert data["id"] == "resp_host"


async def test_ids_are_replaced_in_events_and_not_in_texts(turns):
    turn = await turns.begin(envelope(input="a", stream=True), FACTS)
    turn.sent_to(UP, keeps=False)
    created = json.dumps(
        {"type": "response.created", "response": {"id": "resp_h", "status": "in_progress"}}
    )
    text = '"id": "resp_h" "resp_h"'
    delta = json.dumps({"type": "response.output_text.delta", "delta": text, "item_id": "resp_h"})
    done = json.dumps(
        {"type": "response.completed", "response": json.loads(answer(text, "resp_h"))},
        separators=(",", ":"),
    )
    events = [f"data: {data}\n\n".encode() for data in (created, delta, done)]
    sent = [turn.rewrite(event) for event in events]
    first = json.loads(sent[0].removeprefix(b"data: "))["response"]["id"]
    assert is_stored_id(first)
    assert sent[1] == events[1]
    last = json.loads(sent[2].removeprefix(b"data: "))["response"]
    assert last["id"] == first
    assert last["output"][0]["content"][0]["text"] == text
    await turn.end(sent[2])
    follow_up = await turns.begin(envelope(input="b", previous_response_id=first), FACTS)
    assert [item["role"] for item in shown(follow_up)["input"]] == ["user", "assistant", "user"]


async def test_a_failed_answer_can_be_read_and_adds_nothing(turns, store):
    await store.add_conversation(
        StoredConversation(id="conv_1", key_id="key_1", created_at=0.0), []
    )
    data = await answered(turns, body=answer(status="failed"), input="a", conversation="conv_1")
    stored = await store.response(data["id"], "key_1", 0.0)
    assert stored.status == "failed"
    assert await store.conversation_items("conv_1", "key_1", limit=9) == []


@pytest.mark.parametrize("store_it", [True, False])
@pytest.mark.parametrize("keeps", [True, False])
async def test_a_conversation_grows_by_what_was_said(turns, store, keeps, store_it):
    first = ConversationItem("msg_1", b'{"id":"msg_1","role":"user","content":"Hi"}')
    await store.add_conversation(
        StoredConversation(id="conv_1", key_id="key_1", created_at=0.0), [first]
    )
    for conversation in ("conv_1", {"id": "conv_1"}):
        data = await answered(
            turns, keeps=keeps, input="Well?", conversation=conversation, store=store_it
        )
        assert data["conversation"] == {"id": "conv_1"}
    items = await store.conversation_items("conv_1", "key_1", limit=9)
    roles = [json.loads(item.body)["role"] for item in items]
    assert roles == ["user", "user", "assistant", "user", "assistant"]
    turn = await turns.begin(envelope(input="So?", conversation="conv_1"), FACTS)
    assert len(shown(turn)["input"]) == 6
    assert "conversation" not in shown(turn)
    other = msgspec.structs.replace(FACTS, key_id="key_2")
    with pytest.raises(NotFoundError, match="conv_1"):
        await turns.begin(envelope(input="So?", conversation="conv_1"), other)


async def test_items_may_be_named_that_were_said_before(turns, store):
    first = await answered(turns, input="Hello?")
    stored = await store.response(first["id"], "key_1", 0.0)
    [item] = json.loads(stored.input)
    reference = {"type": "item_reference", "id": item["id"]}
    unknown = {"type": "item_reference", "id": "msg_of_the_host"}
    turn = await turns.begin(
        envelope(input=[reference, unknown], previous_response_id=first["id"]), FACTS
    )
    assert shown(turn)["input"][2:] == [user("Hello?"), unknown]


async def test_a_conversation_that_is_full_is_no_place_to_lose_an_answer(turns, store):
    full = [ConversationItem(f"msg_{n}", b"{}") for n in range(MAX_CONVERSATION_ITEMS - 1)]
    await store.add_conversation(
        StoredConversation(id="conv_1", key_id="key_1", created_at=0.0), full
    )
    with pytest.raises(RequestError, match="at most"):
        await answered(turns, input="a", conversation="conv_1")
    with pytest.raises(RequestError, match="items"):
        await answered(turns, body=answer(output="x"), input="a", conversation="conv_1")


async def test_a_history_has_a_largest_size(turns):
    text = "x" * (MAX_HISTORY_BYTES // 3)
    first = await answered(turns, input=text)
    second = await answered(turns, input=text, previous_response_id=first["id"])
    third = await answered(turns, input=text, previous_response_id=second["id"])
    with pytest.raises(RequestError, match="begin anew"):
        await turns.begin(envelope(input="a", previous_response_id=third["id"]), FACTS)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"previous_response_id": 1}, "previous_response_id"),
        ({"previous_response_id": ""}, "previous_response_id"),
        ({"previous_response_id": ["resp_1"]}, "previous_response_id"),
        ({"conversation": {"name": "x"}}, "conversation"),
        ({"conversation": True}, "conversation"),
        ({"previous_response_id": "a", "conversation": "b"}, "previous_response_id"),
        ({"store": "yes"}, "store"),
        ({"input": 1}, "input"),
        ({"input": ["a"]}, "input"),
        ({"input": {"role": "user"}}, "input"),
        ({"input": [{"id": "x" * 300}]}, "input[0].id"),
        ({"input": [{}] * 1001}, "input"),
    ],
)
async def test_wrong_fields_are_named(turns, fields, param):
    with pytest.raises(RequestError) as caught:
        await turns.begin(envelope(**({"input": "a"} | fields)), FACTS)
    assert caught.value.param == param


async def test_an_answer_that_cannot_be_read_costs_the_follow_up_only(turns, caplog):
    turn = await turns.begin(envelope(input="a"), FACTS)
    turn.sent_to(UP, keeps=False)
    data = turn.rewrite(answer(output="nothing"))
    await turn.end(data)
    assert "cannot be continued" in caplog.text
    with pytest.raises(NotFoundError):
        await turns.begin(envelope(input="b", previous_response_id=json.loads(data)["id"]), FACTS)
