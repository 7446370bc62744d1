"""Responses that clients may continue, conversations, and the keys of ids."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from providers.errors import NotFoundError, RequestError
from router.store.responses import (
    MAX_CONVERSATION_ITEMS,
    MAX_TURNS,
    RESPONSE_FIELDS,
    ConversationItem,
    StoredConversation,
    StoredResponse,
)
from router.store.traffic import TrafficFilter


def a_response(number=1, **fields) -> StoredResponse:
    return StoredResponse(
        **{
            "id": f"resp_{number}",
            "key_id": "key_1",
            "record_id": f"req_{number}",
            "request_id": "x",
            "route": "chat",
            "target": "up/m",
            "user_id": "",
            "created_at": float(number),
            "expires_at": 100.0,
            "status": "completed",
            "previous": "",
            "conversation": "",
            "input": b'[{"text": "\\u0000"}]',
            "response": b"{}",
        }
        | fields
    )


def item(number) -> ConversationItem:
    return ConversationItem(f"msg_{number}", b'{"n": %d}' % number)


async def test_a_response_is_its_keys_until_it_expires(store):
    one = a_response()
    await store.set_response(one)
    assert await store.response("resp_1", "key_1", 99.9) == one
    for response_id, key_id, now in (
        ("resp_1", "key_2", 0.0), ("resp_1", "", 0.0), ("resp_1", "key_1", 100.0),
        ("resp_", "key_1", 0.0), ("", "", 0.0),
    ):  # fmt: skip
        with pytest.raises(NotFoundError):
            await store.response(response_id, key_id, now)
    changed = a_response(status="failed", response=b"[]")
    await store.set_response(changed)
    assert await store.response("resp_1", "key_1", 0.0) == changed
    assert not await store.delete_response("resp_1", "key_2")
    assert await store.delete_response("resp_1", "key_1")
    assert not await store.delete_response("resp_1", "key_1")


async def test_the_turns_before_a_response_come_first(store):
    await store.set_response(a_response(1))
    await store.set_response(a_response(2, previous="resp_1"))
    await store.set_response(a_response(3, previous="resp_2"))
    await store.set_response(a_response(4, previous="resp_2"))
    turns = await store.response_turns("resp_4", "key_1", 0.0)
    assert [turn.id for turn in turns] == ["resp_1", "resp_2", "resp_4"]
    await store.delete_response("resp_1", "key_1")
    # No history is better than a part of one.
    with pytest.raises(NotFoundError, match="resp_1"):
        await store.response_turns("resp_4", "key_1", 0.0)


async def test_a_chain_has_an_end(store):
    await store.set_response(a_response(1, previous="resp_2"))
    await store.set_response(a_response(2, previous="resp_1"))
    with pytest.raises(RequestError, match=f"more than {MAX_TURNS}"):
        await store.response_turns("resp_1", "key_1", 0.0)


async def test_expired_responses_are_deleted_the_oldest_first(store):
    for number in (1, 2, 3):
        await store.set_response(a_response(number, expires_at=float(number)))
    assert await store.delete_expired_responses(2.0, 1) == 1
    assert await store.delete_expired_responses(2.0, 9) == 1
    assert await store.delete_expired_responses(2.0, 9) == 0
    assert await store.response("resp_3", "key_1", 2.5) == a_response(3, expires_at=3.0)


@pytest.mark.parametrize(
    ("chosen", "left"),
    [
        ({"id": "req_1"}, ["resp_2", "resp_3"]),
        ({"response_id": "resp_2"}, ["resp_1", "resp_3"]),
        ({"request_id": "x", "key_id": "key_1"}, ["resp_3"]),
        ({"key_id": "key_2"}, ["resp_1", "resp_2"]),
        ({"user": "ann"}, ["resp_1", "resp_3"]),
        ({"route": "chat", "since": 2.0, "until": 3.0}, ["resp_1", "resp_3"]),
        ({"except_routes": ("chat",)}, ["resp_1", "resp_2"]),
        ({"target": "up/n"}, ["resp_1", "resp_2", "resp_3"]),
        ({"status": (200, 299)}, ["resp_1", "resp_2", "resp_3"]),
        ({"conversation": "c"}, ["resp_1", "resp_2", "resp_3"]),
    ],
)
async def test_requests_that_are_deleted_take_their_responses_with_them(store, chosen, left):
    await store.set_response(a_response(1))
    await store.set_response(a_response(2, user_id="ann"))
    await store.set_response(a_response(3, key_id="key_2", route="other"))
    deleted = 0
    while await store.delete_responses(TrafficFilter(**chosen), 1):
        deleted += 1
    found = []
    for number, key_id in ((1, "key_1"), (2, "key_1"), (3, "key_2")):
        try:
            found.append((await store.response(f"resp_{number}", key_id, 0.0)).id)
        except NotFoundError:
            continue
    assert found == left
    assert deleted == 3 - len(left)
    assert not deleted or set(chosen) <= RESPONSE_FIELDS


async def test_a_conversation_has_its_items_in_order(store):
    conversation = StoredConversation(
        id="conv_1", key_id="key_1", created_at=1.0, metadata={"a": "b"}
    )
    await store.add_conversation(conversation, [item(1)])
    await store.add_conversation_items("conv_1", "key_1", [item(2), item(3)])
    assert await store.conversation("conv_1", "key_1") == conversation
    read = store.conversation_items
    assert await read("conv_1", "key_1", limit=9) == [item(1), item(2), item(3)]
    assert await read("conv_1", "key_1", limit=1, after="msg_1") == [item(2)]
    newest = await read("conv_1", "key_1", limit=9, after="msg_3", newest_first=True)
    assert newest == [item(2), item(1)]
    with pytest.raises(NotFoundError, match="msg_9"):
        await read("conv_1", "key_1", limit=9, after="msg_9")
    assert await store.delete_conversation_item("conv_1", "key_1", "msg_3")
    assert not await store.delete_conversation_item("conv_1", "key_1", "msg_3")
    await store.add_conversation_items("conv_1", "key_1", [item(4)])
    assert await read("conv_1", "key_1", limit=9) == [item(1), item(2), item(4)]
    changed = await store.change_conversation("conv_1", "key_1", {})
    assert (changed.metadata, changed.created_at) == ({}, 1.0)


async def test_another_keys_conversation_does_not_exist(store):
    await store.add_conversation(
        StoredConversation(id="conv_1", key_id="key_1", created_at=1.0), []
    )
    calls = (
        store.conversation("conv_1", "key_2"),
        store.change_conversation("conv_1", "key_2", {"a": 1}),
        store.add_conversation_items("conv_1", "key_2", [item(1)]),
        store.conversation_items("conv_1", "key_2", limit=9),
        store.delete_conversation_item("conv_1", "key_2", "msg_1"),
    )
    for call in calls:
        with pytest.raises(NotFoundError, match="conv_1"):
            await call
    assert not await store.delete_conversation("conv_1", "key_2")
    assert (await store.conversation("conv_1", "key_1")).metadata == {}
    assert await store.delete_conversation("conv_1", "key_1")
    with pytest.raises(NotFoundError):
        await store.conversation("conv_1", "key_1")
    await store.add_conversation(
        StoredConversation(id="conv_1", key_id="key_2", created_at=1.0), []
    )
    assert await store.conversation_items("conv_1", "key_2", limit=9) == []


async def test_a_response_and_its_items_are_stored_both_or_neither(store):
    await store.add_conversation(
        StoredConversation(id="conv_1", key_id="key_1", created_at=1.0), []
    )
    await store.end_response(a_response(1, conversation="conv_1"), [item(1), item(2)])
    assert await store.conversation_items("conv_1", "key_1", limit=9) == [item(1), item(2)]
    with pytest.raises(NotFoundError):
        await store.end_response(a_response(2, conversation="conv_2"), [item(3)])
    with pytest.raises(NotFoundError):
        await store.response("resp_2", "key_1", 0.0)


async def test_an_item_whose_id_is_taken_gets_another_one(store):
    conversation = StoredConversation(id="conv_1", key_id="", created_at=1.0)
    one = ConversationItem("msg_1", b'{"id":"msg_1","n":1}')
    await store.add_conversation(conversation, [one, one])
    await store.add_conversation_items("conv_1", "", [one])
    items = await store.conversation_items("conv_1", "", limit=9)
    assert [item.id for item in items] == ["msg_1", "msg_1_2", "msg_1_3"]
    assert [msgspec.json.decode(item.body) for item in items] == [
        {"id": item.id, "n": 1} for item in items
    ]


async def test_a_conversation_has_a_largest_size(store):
    items = [ConversationItem(f"msg_{n}", b"{}") for n in range(MAX_CONVERSATION_ITEMS)]
    await store.add_conversation(StoredConversation(id="conv_1", key_id="", created_at=1.0), items)
    with pytest.raises(RequestError, match="at most"):
        await store.add_conversation_items("conv_1", "", [ConversationItem("more", b"{}")])


async def test_two_who_add_items_at_once_follow_one_another(make_store):
    one, two = make_store(), make_store()
    await one.open()
    await two.open()
    try:
        await one.add_conversation(StoredConversation(id="conv_1", key_id="", created_at=1.0), [])
        await asyncio.gather(
            *(
                each.add_conversation_items("conv_1", "", [item(2 * n + offset)])
                for n in range(10)
                for offset, each in enumerate((one, two))
            )
        )
        items = await one.conversation_items("conv_1", "", limit=99)
        assert {each.id for each in items} == {f"msg_{n}" for n in range(20)}
    finally:
        await one.close()
        await two.close()


async def test_all_processes_seal_with_one_key_until_it_is_old(make_store):
    one, two = make_store(), make_store()
    await one.open()
    await two.open()
    try:
        made = await asyncio.gather(
            one.sealing_keys(b"1", 10.0, rotate_s=5.0), two.sealing_keys(b"2", 10.0, rotate_s=5.0)
        )
        assert made[0] == made[1]
        (first,) = made[0]
        assert first.number == 1
        assert await two.sealing_keys(b"3", 14.9, rotate_s=5.0) == [first]
        rotated = await one.sealing_keys(b"4", 15.0, rotate_s=5.0)
        assert rotated[0] == first
        assert (rotated[1].number, rotated[1].value, rotated[1].created_at) == (2, b"4", 15.0)
        assert await two.sealing_keys(b"5", 15.0, rotate_s=5.0) == rotated
    finally:
        await one.close()
        await two.close()
