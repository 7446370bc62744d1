"""Responses that follow one another, over real HTTP: in the store, and at hosts that keep them."""

from __future__ import annotations

import json
from contextlib import contextmanager

import httpx
import openai
import pytest
from openai import OpenAI
from servers import client_of, gateway, scripted
from stores import add_keys

CONFIG = """
storage: {{database: "sqlite:///{folder}/e.db", artifacts: "{folder}/artifacts"}}
providers:
  plain: {{kind: compatible, base_url: "{url}", speaks: [responses]}}
  chats: {{kind: compatible, base_url: "{url}"}}
  keeper: {{kind: compatible, base_url: "{url}", speaks: [responses], keeps_responses: true}}
routes:
  plain: {{targets: [{{model: plain/m}}]}}
  kept: {{targets: [{{model: keeper/m}}]}}
  chats: {{targets: [{{model: chats/m}}]}}
  both: {{targets: [{{model: plain/m}}, {{model: keeper/n}}]}}
record: metadata
"""
SAID = {
    "id": "msg_host",
    "type": "message",
    "status": "completed",
    "role": "assistant",
    "content": [{"type": "output_text", "text": "Well said.", "annotations": []}],
}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """The folder of the database, the upstream and the keys of two clients."""
    folder = tmp_path_factory.mktemp("turns")
    keys = add_keys(folder / "e.db", ann="client", bob="client", root="admin")
    models = {"m": [{"answer": "Well said."}], "n": [{"answer": "Well said."}]}
    with scripted(models) as upstream:
        yield folder, upstream, keys


@contextmanager
def server(world):
    folder, upstream, _ = world
    with gateway(CONFIG.format(folder=folder, url=upstream.url)) as url:
        yield url


@pytest.fixture(scope="module")
def url(world):
    with server(world) as url:
        yield url


def of(world, url, name) -> OpenAI:
    return OpenAI(base_url=f"{url}/v1", api_key=world[2][name], max_retries=0)


@pytest.fixture
def ann(world, url):
    with of(world, url, "ann") as client:
        yield client


@pytest.fixture
def bob(world, url):
    with of(world, url, "bob") as client:
        yield client


def received(world) -> dict:
    return json.loads(bytes(world[1].log.requests[-1].body))


def test_a_follow_up_is_answered_with_the_history_behind_any_server(world, url, ann):
    first = ann.responses.create(model="plain", input="Hello?")
    with server(world) as other, of(world, other, "ann") as client:
        second = client.responses.create(model="plain", input="And?", previous_response_id=first.id)
    assert second.previous_response_id == first.id
    sent = received(world)
    assert "previous_response_id" not in sent
    assert [item["role"] for item in sent["input"]] == ["user", "assistant", "user"]
    assert sent["input"][1]["content"][0]["text"] == "Well said."
    # That server is gone; what it stored is not.
    third = ann.responses.create(model="plain", input="So?", previous_response_id=second.id)
    assert len(received(world)["input"]) == 5
    assert third.output_text == "Well said."


def test_streams_are_stored_before_their_end(world, ann):
    with ann.responses.stream(model="plain", input="Hello?") as events:
        kinds = [event.type for event in events]
        final = events.get_final_response()
    assert kinds[0] == "response.created"
    follow_up = ann.responses.create(model="plain", input="And?", previous_response_id=final.id)
    assert [item["role"] for item in received(world)["input"]] == ["user", "assistant", "user"]
    assert ann.responses.retrieve(final.id).output_text == "Well said."
    assert follow_up.id != final.id


def test_a_host_that_keeps_responses_is_sent_its_own_ids(world, ann):
    first = ann.responses.create(model="kept", input="Hello?")
    ann.responses.create(model="kept", input="And?", previous_response_id=first.id)
    sent = received(world)
    assert sent["previous_response_id"].startswith("resp_")
    assert sent["previous_response_id"] != first.id
    assert sent["input"] == "And?"
    # The route has another target first, but that one has nothing to follow.
    for _ in range(6):
        reply = ann.responses.with_raw_response.create(model="both", input="Hi")
        follows = reply.parse()
        target = reply.headers["x-evalrouter-target"]
        again = ann.responses.with_raw_response.create(
            model="both", input="And?", previous_response_id=follows.id
        )
        if target == "keeper/n":
            assert again.headers["x-evalrouter-target"] == "keeper/n"


def test_a_response_whose_host_is_no_target_any_more_is_not_lost_silently(world, ann):
    first = ann.responses.create(model="kept", input="Hello?")
    with pytest.raises(openai.ConflictError) as caught:
        ann.responses.create(model="plain", input="And?", previous_response_id=first.id)
    assert caught.value.code == "response_owner_gone"


@pytest.mark.parametrize("model", ["plain", "kept"])
def test_another_keys_response_does_not_exist(ann, bob, model):
    first = ann.responses.create(model=model, input="Hello?")
    with pytest.raises(openai.NotFoundError) as caught:
        bob.responses.create(model=model, input="And?", previous_response_id=first.id)
    assert caught.value.code == "previous_response_not_found"
    for call in (bob.responses.retrieve, bob.responses.delete, bob.responses.cancel,
                 bob.responses.input_items.list):  # fmt: skip
        with pytest.raises(openai.NotFoundError):
            call(first.id)


def test_a_response_is_shown_listed_and_deleted(ann):
    first = ann.responses.create(model="plain", input="Hello?")
    second = ann.responses.create(
        model="plain",
        input=[{"role": "user", "content": "And?"}],
        previous_response_id=first.id,
    )
    assert ann.responses.retrieve(second.id).to_dict() == second.to_dict()
    page = ann.responses.input_items.list(second.id, order="asc")
    assert [item.role for item in page.data] == ["user", "assistant", "user"]
    [newest] = ann.responses.input_items.list(second.id, limit=1).data
    assert newest.id == page.data[-1].id
    after = ann.responses.input_items.list(second.id, order="asc", after=page.data[0].id)
    assert [item.id for item in after.data] == [item.id for item in page.data[1:]]
    with pytest.raises(openai.BadRequestError, match="background"):
        ann.responses.cancel(first.id)
    ann.responses.delete(first.id)
    for call in (ann.responses.retrieve, ann.responses.delete):
        with pytest.raises(openai.NotFoundError):
            call(first.id)
    with pytest.raises(openai.NotFoundError):
        ann.responses.create(model="plain", input="So?", previous_response_id=second.id)


def test_conversations_hold_what_was_said_with_any_target(world, ann):
    conversation = ann.conversations.create(
        items=[{"type": "message", "role": "user", "content": "Before."}], metadata={"a": "b"}
    )
    for model in ("plain", "kept"):
        ann.responses.create(model=model, input="Well?", conversation=conversation.id)
    sent = received(world)
    assert "conversation" not in sent
    assert [item["role"] for item in sent["input"]] == ["user", "user", "assistant", "user"]
    items = ann.conversations.items.list(conversation.id, order="asc")
    roles = [item.role for item in items.data]
    assert roles == ["user", "user", "assistant", "user", "assistant"]
    [added] = ann.conversations.items.create(
        conversation.id, items=[{"type": "message", "role": "user", "content": "After."}]
    ).data
    assert ann.conversations.items.retrieve(added.id, conversation_id=conversation.id) == added
    ann.conversations.items.delete(added.id, conversation_id=conversation.id)
    with pytest.raises(openai.NotFoundError):
        ann.conversations.items.retrieve(added.id, conversation_id=conversation.id)
    assert ann.conversations.retrieve(conversation.id).metadata == {"a": "b"}
    changed = ann.conversations.update(conversation.id, metadata={"c": "d"})
    assert changed.metadata == {"c": "d"}
    assert ann.conversations.delete(conversation.id).deleted
    with pytest.raises(openai.NotFoundError):
        ann.responses.create(model="plain", input="Well?", conversation=conversation.id)


def test_another_keys_conversation_does_not_exist(ann, bob):
    conversation = ann.conversations.create()
    calls = (
        lambda: bob.conversations.retrieve(conversation.id),
        lambda: bob.conversations.delete(conversation.id),
        lambda: bob.conversations.update(conversation.id, metadata={}),
        lambda: bob.conversations.items.list(conversation.id),
        lambda: bob.conversations.items.create(conversation.id, items=[]),
        lambda: bob.conversations.items.delete("x", conversation_id=conversation.id),
        lambda: bob.responses.create(model="plain", input="a", conversation=conversation.id),
    )
    for call in calls:
        with pytest.raises(openai.NotFoundError):
            call()


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/conversations", {"items": {"role": "user"}}),
        ("/v1/conversations", {"items": [{"role": "user", "content": "a"}] * 21}),
        ("/v1/conversations", {"metadata": {"a": 1}}),
        ("/v1/conversations", {"metadata": {"a": "x" * 513}}),
        ("/v1/conversations", []),
        ("/v1/responses", {"model": "plain", "input": "a", "previous_response_id": 5}),
        ("/v1/responses", {"model": "plain", "input": "a", "conversation": []}),
        ("/v1/responses", {"model": "plain", "input": "a", "store": 1}),
    ],
)
def test_wrong_bodies_are_refused_in_openais_shape(world, url, path, body):
    reply = httpx.post(
        url + path, json=body, headers={"authorization": f"Bearer {world[2]['ann']}"}
    )
    assert reply.status_code == 400
    assert reply.json()["error"]["type"] == "invalid_request_error"


def test_requests_that_are_deleted_take_their_responses_with_them(world, url, ann):
    raw = ann.responses.with_raw_response.create(model="plain", input="Hello?", user="eve")
    first = raw.parse()
    with client_of(url, world[2]["root"]) as root:
        gone = root.delete("/traffic", params={"user": "eve"})
        assert gone.status_code == 200, gone.text
    with pytest.raises(openai.NotFoundError):
        ann.responses.retrieve(first.id)


def test_hosts_of_chat_completions_are_followed_as_well(world, ann):
    first = ann.responses.create(model="chats", input="Hello?")
    with ann.responses.stream(model="chats", input="And?", previous_response_id=first.id) as events:
        second = [*events][-1].response
    assert second.previous_response_id == first.id
    messages = received(world)["messages"]
    assert [message["role"] for message in messages] == ["user", "assistant", "user"]
    assert ann.responses.retrieve(second.id).output_text == "Well said."
    listed = ann.responses.input_items.list(second.id, order="asc").data
    assert [item.role for item in listed] == ["user", "assistant", "user"]
