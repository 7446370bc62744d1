"""Sessions of browsers: when they end, and how often a sign-in may fail."""

from __future__ import annotations

import msgspec
import pytest

from providers.errors import RateLimitError
from router.gateway.keys import Keys, digest_of
from router.gateway.sessions import FailedSignIns, Sessions, is_csrf_token
from router.store.keys import KeyRow, KeyTable
from router.store.sqlite import SqliteStore

KEY = KeyRow(id="key_1", name="a", role="admin", created_at=0.0, expires_at=50_000.0)


class World:
    def __init__(self, store):
        self.now = 1000.0
        self.store = store
        self.keys = Keys(clock=lambda: self.now)
        self.replace_key()
        self.sessions = Sessions(store, self.keys, clock=lambda: self.now)

    def replace_key(self, **changes):
        row = msgspec.structs.replace(KEY, **changes)
        self.keys.replace_rows(KeyTable(version=1, by_hash={b"x": row}))


@pytest.fixture
async def world(tmp_path):
    store = SqliteStore(tmp_path / "e.db")
    await store.open()
    yield World(store)
    await store.close()


async def test_a_session_is_found_by_its_token_which_is_not_stored(world):
    begun = await world.sessions.begin(KEY)
    found = await world.sessions.find(begun.token)
    assert found == begun
    assert found.key.name == "a"
    assert await world.store.session(begun.token.encode(), 0.0) is None
    assert await world.store.session(digest_of(begun.token.encode()), 0.0) == begun.session
    for wrong in ("", begun.token[:-1], begun.token + "x", "x" * 1_000_000, "é"):
        assert await world.sessions.find(wrong) is None


async def test_a_session_ends_after_its_time_with_its_key_and_when_its_user_signs_out(world):
    begun = await world.sessions.begin(KEY)
    world.now += 12 * 3600 - 1
    assert await world.sessions.find(begun.token)
    world.now += 1
    assert await world.sessions.find(begun.token) is None
    begun = await world.sessions.begin(KEY)
    world.replace_key(revoked_at=1.0)
    assert await world.sessions.find(begun.token) is None


async def test_a_session_ends_when_its_key_expires_or_is_gone(world):
    world.now = 49_990.0
    begun = await world.sessions.begin(KEY)
    assert await world.sessions.find(begun.token)
    world.now = 50_000.0
    assert await world.sessions.find(begun.token) is None
    world.now = 49_999.0
    world.keys.replace_rows(KeyTable(version=2, by_hash={}))
    assert await world.sessions.find(begun.token) is None


async def test_another_process_sees_at_once_that_a_session_has_ended(world):
    begun = await world.sessions.begin(KEY)
    other = Sessions(world.store, world.keys, clock=lambda: world.now)
    assert await other.find(begun.token)
    await world.sessions.end(begun.session)
    assert await other.find(begun.token) is None


async def test_an_old_token_is_exchanged_once_and_its_forms_stay_valid(world):
    begun = await world.sessions.begin(KEY)
    assert await world.sessions.renewed(begun) is None
    world.now += 3600
    found = await world.sessions.find(begun.token)
    renewed = await world.sessions.renewed(found)
    assert renewed.token != begun.token
    assert renewed.session.csrf_token == begun.session.csrf_token
    assert renewed.session.ends_at == begun.session.ends_at
    # Another tab's request, read before the exchange and after it.
    assert await world.sessions.renewed(found) is None
    assert await world.sessions.renewed(await world.sessions.find(begun.token)) is None
    world.now += 59
    assert await world.sessions.find(begun.token)
    world.now += 1
    assert await world.sessions.find(begun.token) is None
    assert await world.sessions.find(renewed.token)


async def test_only_the_sessions_own_token_is_its_token(world):
    one, other = await world.sessions.begin(KEY), await world.sessions.begin(KEY)
    token = one.session.csrf_token
    assert is_csrf_token(one.session, token)
    for wrong in (other.session.csrf_token, token[:-1], "", None, b"x", "\ud800", token.upper()):
        assert not is_csrf_token(one.session, wrong)


def test_an_address_may_fail_ten_times_a_minute():
    now = 0.0
    failures = FailedSignIns(clock=lambda: now)
    for _ in range(10):
        failures.check("a")
        failures.add("a")
    with pytest.raises(RateLimitError) as refused:
        failures.check("a")
    assert refused.value.headers["retry-after"] == "6"
    failures.check("b")
    now = 6.0
    failures.check("a")


def test_addresses_are_remembered_up_to_a_number():
    failures = FailedSignIns(clock=lambda: 0.0)
    for _ in range(10):
        failures.add("a")
    for number in range(999):
        failures.add(str(number))
    with pytest.raises(RateLimitError):
        failures.check("a")
    failures.add("999")
    failures.check("a")
