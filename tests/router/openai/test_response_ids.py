"""Ids of responses that hosts keep."""

from __future__ import annotations

import base64

import pytest
from stores import sqlite_store

from providers.translation.dialect import new_id
from router.openai.response_ids import (
    MAX_ID_CHARS,
    READ_EVERY_S,
    ROTATE_S,
    HostResponse,
    ResponseIds,
    is_stored_id,
)

ONE = HostResponse("openai", "gpt-5", "key_1", "resp_abc")


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
async def store(tmp_path):
    async with sqlite_store(tmp_path / "e.db") as store:
        yield store


async def sealing(store, clock=None) -> ResponseIds:
    ids = ResponseIds(store, clock=clock or Clock())
    await ids.ready()
    return ids


async def test_an_id_leads_to_the_response_and_shows_nothing_of_it(store):
    ids = await sealing(store)
    sealed = ids.seal(ONE)
    assert await ids.unseal(sealed) == ONE
    assert sealed.startswith("resp_")
    assert sealed.isascii()
    assert set(sealed) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_")
    plain = base64.urlsafe_b64decode(sealed[5:] + "==")
    for part in (b"openai", b"gpt-5", b"key_1", b"resp_abc", b"abc"):
        assert part not in plain
    assert ids.seal(ONE) != sealed


async def test_any_other_text_stands_for_nothing(store):
    ids = await sealing(store)
    sealed = ids.seal(ONE)
    for place in range(5, len(sealed)):
        other = "A" if sealed[place] != "A" else "B"
        changed = sealed[:place] + other + sealed[place + 1 :]
        found = await ids.unseal(changed)
        # The last character has bits that mean nothing.
        assert found is None or (found == ONE and place == len(sealed) - 1)
    for text in (
        "", "resp_", sealed[5:], f"{sealed}=", f"{sealed}AAAA", sealed[:-4], "resp_é", "resp_a b",
        "resp_" + "A" * MAX_ID_CHARS, "resp_AAAAAAAA", new_id("resp"), "msg" + sealed[4:],
    ):  # fmt: skip
        assert await ids.unseal(text) is None


async def test_another_process_reads_it_and_so_does_a_later_one(store):
    one, two = await sealing(store), await sealing(store)
    assert await two.unseal(one.seal(ONE)) == ONE
    assert await (ResponseIds(store, clock=Clock())).unseal(two.seal(ONE)) == ONE


async def test_an_id_outlives_its_key_as_the_newest(store):
    clock = Clock()
    ids = await sealing(store, clock)
    behind = await sealing(store, Clock())
    old = ids.seal(ONE)
    clock.now += ROTATE_S + READ_EVERY_S
    await ids.ready()
    new = ids.seal(ONE)
    assert [key.number for key in await store.sealing_keys(b"", 0.0, rotate_s=ROTATE_S)] == [1, 2]
    assert new[:11] != old[:11]
    assert await ids.unseal(old) == ONE
    # One that has not looked since.
    assert await behind.unseal(new) == ONE


def test_ids_of_the_store_are_told_from_sealed_ones():
    assert is_stored_id(new_id("resp"))
    assert not is_stored_id(new_id("msg"))
    assert not is_stored_id("resp_" + "A" * 48)
    assert not is_stored_id("resp_" + "a" * 49)
