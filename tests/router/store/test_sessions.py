"""Browsers' sessions: a token finds one until it expires, or the session is deleted."""

from __future__ import annotations

from router.store.sessions import BrowserSession


def a_session(number=1, **fields) -> BrowserSession:
    return BrowserSession(
        **{
            "id": f"ses_{number}",
            "key_id": "key_1",
            "csrf_token": "c",
            "issued_at": float(number),
            "expires_at": 100.0,
            "ends_at": 100.0,
        }
        | fields
    )


async def test_a_token_finds_its_session_until_it_expires(store):
    one, other = a_session(1), a_session(2, key_id="key_2")
    await store.add_session(one, b"1", limit=9)
    await store.add_session(other, b"2", limit=9)
    assert await store.session(b"1", 99.9) == one
    assert await store.session(b"2", 0.0) == other
    assert await store.session(b"1", 100.0) is None
    assert await store.session(b"3", 0.0) is None
    await store.delete_session("ses_1")
    await store.delete_session("ses_1")
    assert await store.session(b"1", 0.0) is None
    assert await store.session(b"2", 0.0) == other


async def test_a_token_is_replaced_once_and_stays_valid_for_a_moment(store):
    session = a_session(1)
    await store.add_session(session, b"1", limit=9)
    renewed = a_session(1, issued_at=50.0)
    assert await store.replace_session_token(renewed, b"2", former=b"1", until=51.0)
    assert not await store.replace_session_token(renewed, b"3", former=b"1", until=51.0)
    assert not await store.replace_session_token(renewed, b"4", former=b"x", until=51.0)
    assert (await store.session(b"1", 50.9)).expires_at == 51.0
    assert await store.session(b"1", 51.0) is None
    assert await store.session(b"2", 99.0) == renewed
    assert await store.session(b"3", 0.0) is None
    assert await store.count_sessions_of("key_1", 99.0) == 1
    await store.delete_session("ses_1")
    assert [await store.session(token, 0.0) for token in (b"1", b"2")] == [None, None]


async def test_a_key_has_its_newest_sessions_and_expired_tokens_go(store):
    for number in range(1, 5):
        await store.add_session(a_session(number), b"%d" % number, limit=3)
    await store.add_session(a_session(5, key_id="key_2"), b"5", limit=3)
    left = [number for number in range(1, 6) if await store.session(b"%d" % number, 0.0)]
    assert left == [2, 3, 4, 5]
    await store.add_session(a_session(6, issued_at=100.0, expires_at=200.0), b"6", limit=3)
    left = [number for number in range(1, 7) if await store.session(b"%d" % number, 0.0)]
    assert left == [6]


async def test_all_sessions_of_a_key_are_counted_and_deleted(store):
    for number in (1, 2, 3):
        session = a_session(number, key_id="key_2" if number == 3 else "key_1")
        await store.add_session(session, str(number).encode(), limit=9)
    assert await store.count_sessions_of("key_1", 50.0) == 2
    assert await store.count_sessions_of("key_1", 100.0) == 0
    named = ["ses_1", "ses_2", "ses_3", "ses_4"]
    assert await store.live_sessions(named, 99.9) == {"ses_1", "ses_2", "ses_3"}
    assert await store.live_sessions(named[:1], 99.9) == {"ses_1"}
    assert await store.live_sessions(named, 100.0) == set()
    await store.delete_sessions_of("key_1")
    assert await store.live_sessions(named, 99.9) == {"ses_3"}
    assert [await store.session(token, 0.0) for token in (b"1", b"2")] == [None, None]
    assert await store.session(b"3", 0.0) is not None
    assert await store.count_sessions_of("key_1", 50.0) == 0
