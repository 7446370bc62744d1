"""Keys: who is let in, every limit, budgets over processes and kills; what stores promise."""

from __future__ import annotations

import asyncio
import math
import signal
import sqlite3
import subprocess
import sys
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest

from providers.errors import (
    AuthenticationError,
    ConflictError,
    InputError,
    NotFoundError,
    PermissionDeniedError,
    RateLimitError,
    StoreError,
    StoreUnavailableError,
)
from router.gateway.key_administration import change, create, expiry, listed
from router.gateway.key_sync import KeySync
from router.gateway.keys import KEYLESS, ExpectedUsage, Keys, bearer, digest_of
from router.store.keys import KeyRow, KeySpend
from router.store.sqlite import SqliteStore

# A Wednesday, half past ten in the morning.
WEDNESDAY = datetime(2026, 11, 18, 10, 30, tzinfo=UTC).timestamp()


def recognise(keys, authorization):
    """The holder of the key in an Authorization header; None for none."""
    return keys.recognise({} if authorization is None else {b"authorization": authorization})


class Clock:
    def __init__(self, now: float = WEDNESDAY) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "keys.db"


@pytest.fixture
async def store(path):
    store = SqliteStore(path)
    await store.open()
    yield store
    await store.close()


@asynccontextmanager
async def synced(store, clock, *, every=1e6, **options):
    """Keys, and what reads the store: at every `refresh`, after `every` seconds, at the end."""
    keys = Keys(clock=clock, **options)
    sync = KeySync(keys, store, every=every)
    await sync.load()
    try:
        yield keys, sync
    finally:
        await sync.close()


@asynccontextmanager
async def loaded(store, clock, **options):
    """Keys that were read from the store once."""
    async with synced(store, clock, **options) as (keys, _):
        yield keys


async def make(store, clock, name="app", **fields) -> bytes:
    """A key as an Authorization header."""
    key, _ = await create(store, name, now=clock.now, **fields)
    return f"Bearer {key}".encode()


def refused(keys, authorization, route="r") -> RateLimitError:
    with pytest.raises(RateLimitError) as caught:
        keys.admit(recognise(keys, authorization), route)
    return caught.value


# who is let in


async def test_nobody_needs_a_key_while_there_is_none(store, clock):
    async with loaded(store, clock) as keys:
        assert not keys.required
        assert keys.admit(recognise(keys, None), "r") is KEYLESS
        # Clients that cannot do without a key send any.
        grant = keys.admit(recognise(keys, b"Bearer sk-any"), "r")
        assert grant.headers() == []
        assert grant.key_id == ""
        grant.settle(10, 1.0)
        grant.settle(10, 1.0)  # many requests share the grant of nobody


async def test_a_config_may_require_keys_before_there_is_one(store, clock):
    async with synced(store, clock, required=True) as (keys, sync):
        with pytest.raises(AuthenticationError):
            keys.admit(recognise(keys, None), "r")
        await sync.refresh()
        assert keys.required


@pytest.mark.parametrize(
    "presented",
    [None, b"", b"Bearer ", b"Bearer", b"Bearer er-wrong", b"Basic x", b"\xff\xfe", b"Bearer \xff"],
)
async def test_without_the_right_key_the_answer_is_401(store, clock, presented):
    await make(store, clock)
    async with loaded(store, clock) as keys:
        with pytest.raises(AuthenticationError) as caught:
            keys.admit(recognise(keys, presented), "r")
    assert caught.value.status == 401
    assert caught.value.code == "invalid_api_key"
    assert "wrong" not in caught.value.message


async def test_the_key_lets_in_and_names_its_owner(store, clock):
    key, row = await create(store, "app", now=clock.now)
    authorization = f"Bearer {key}".encode()
    async with loaded(store, clock) as keys:
        grant = keys.admit(recognise(keys, authorization), "any/model")
        assert grant.key_id == row.id
        assert grant.headers() == []
        keys.admit(recognise(keys, b"bearer  " + authorization[7:] + b" "), "r")
        # The hash, which is in the database, is no key.
        with pytest.raises(AuthenticationError):
            keys.admit(
                recognise(keys, b"Bearer " + digest_of(authorization[7:]).hex().encode()), "r"
            )


async def test_only_the_routes_it_was_made_for(store, clock):
    authorization = await make(store, clock, routes=("good", "p/m"))
    async with loaded(store, clock) as keys:
        keys.admit(recognise(keys, authorization), "good")
        keys.admit(recognise(keys, authorization), "p/m")
        for route in ("goo", "good2", "p/m2", ""):
            with pytest.raises(PermissionDeniedError) as caught:
                keys.admit(recognise(keys, authorization), route)
            assert (caught.value.status, caught.value.param) == (403, "model")


async def test_a_key_ends_when_it_expires(store, clock):
    authorization = await make(store, clock, expires_at=clock.now + 10)
    async with loaded(store, clock) as keys:
        clock.now += 9.999
        grant = keys.admit(recognise(keys, authorization), "r")
        clock.now += 0.001
        with pytest.raises(AuthenticationError, match="expired"):
            keys.admit(recognise(keys, authorization), "r")
        grant.settle(1, 0.5)
        assert keys.required


async def test_a_revoked_key_ends_and_does_not_open_the_door(store, clock):
    authorization = await make(store, clock)
    async with synced(store, clock) as (keys, sync):
        grant = keys.admit(recognise(keys, authorization), "r")
        await store.revoke_key("app", clock.now)
        await sync.refresh()
        with pytest.raises(AuthenticationError, match="revoked"):
            keys.admit(recognise(keys, authorization), "r")
        with pytest.raises(AuthenticationError):
            keys.admit(recognise(keys, None), "r")
        grant.settle(5, 0.5)
    assert (await store.key_state()).spent[grant.key_id].usd == 0.5


async def test_keys_made_and_revoked_elsewhere_are_noticed(store, path, clock):
    keys = Keys(clock=clock)
    sync = KeySync(keys, store, every=0.01)
    await sync.load()
    other = SqliteStore(path)
    await other.open()
    assert not keys.required
    authorization = await make(other, clock)
    while not keys.required:
        await asyncio.sleep(0.005)
    keys.admit(recognise(keys, authorization), "r")
    await other.revoke_key("app", clock.now)
    with suppress(AuthenticationError):
        while True:
            keys.identify(authorization[7:])
            await asyncio.sleep(0.005)
    await other.close()
    await sync.close()


async def test_limits_go_on_when_other_keys_change(store, clock):
    authorization = await make(store, clock, rpm=2, parallel=1)
    async with synced(store, clock) as (keys, sync):
        grant = keys.admit(recognise(keys, authorization), "r")
        await make(store, clock, "another")
        await sync.refresh()
        assert "at a time" in refused(keys, authorization).message
        grant.settle(0, 0.0)
        keys.admit(recognise(keys, authorization), "r").settle(0, 0.0)
        assert "requests per minute" in refused(keys, authorization).message


# limits


async def test_requests_per_minute(store, clock):
    authorization = await make(store, clock, rpm=3)
    async with loaded(store, clock) as keys:
        for _ in range(3):
            keys.admit(recognise(keys, authorization), "r").settle(1, 0.0)
        error = refused(keys, authorization)
        assert error.status == 429
        assert error.code == "rate_limit_exceeded"
        assert error.retry_after == pytest.approx(20)
        assert error.headers == {
            "x-ratelimit-limit-requests": "3",
            "x-ratelimit-remaining-requests": "0",
            "x-ratelimit-reset-requests": "1m0s",
            "retry-after": "20",
            "retry-after-ms": "20000",
        }
        clock.now += 19.9
        refused(keys, authorization)
        clock.now += 0.2
        keys.admit(recognise(keys, authorization), "r")
        refused(keys, authorization)


async def test_tokens_per_minute_are_taken_when_they_are_known(store, clock):
    authorization = await make(store, clock, tpm=600)
    async with loaded(store, clock) as keys:
        grant = keys.admit(recognise(keys, authorization), "r")
        keys.admit(recognise(keys, authorization), "r").settle(None, None)
        assert dict(grant.headers())[b"x-ratelimit-remaining-tokens"] == b"600"
        grant.settle(900, 0.0)
        error = refused(keys, authorization)
        assert error.headers["x-ratelimit-remaining-tokens"] == "0"
        # 300 tokens of debt and one to go on with, at ten a second.
        assert error.retry_after == pytest.approx(30.1)
        clock.now += 30.2
        keys.admit(recognise(keys, authorization), "r")


async def test_headers_tell_what_is_left(store, clock):
    authorization = await make(store, clock, rpm=60, tpm=600)
    async with loaded(store, clock) as keys:
        keys.admit(recognise(keys, authorization), "r").settle(15, 0.0)
        assert keys.admit(recognise(keys, authorization), "r").headers() == [
            (b"x-ratelimit-limit-requests", b"60"),
            (b"x-ratelimit-remaining-requests", b"58"),
            (b"x-ratelimit-reset-requests", b"2s"),
            (b"x-ratelimit-limit-tokens", b"600"),
            (b"x-ratelimit-remaining-tokens", b"585"),
            (b"x-ratelimit-reset-tokens", b"1.5s"),
        ]


async def test_so_many_at_a_time(store, clock):
    authorization = await make(store, clock, parallel=2)
    async with loaded(store, clock) as keys:
        first, second = (keys.admit(recognise(keys, authorization), "r") for _ in range(2))
        for _ in range(3):  # being refused takes no place
            error = refused(keys, authorization)
        assert error.retry_after == 1
        first.settle(None, None)
        keys.admit(recognise(keys, authorization), "r")
        refused(keys, authorization)
        second.settle(None, None)
        with pytest.raises(AssertionError):
            second.settle(None, None)
        keys.admit(recognise(keys, authorization), "r")
        refused(keys, authorization)


async def test_what_is_refused_uses_nothing_up(store, clock):
    authorization = await make(store, clock, rpm=1, parallel=1, routes=("r",))
    async with loaded(store, clock) as keys:
        for _ in range(5):
            with pytest.raises(PermissionDeniedError):
                keys.admit(recognise(keys, authorization), "other")
        keys.admit(recognise(keys, authorization), "r").settle(0, 0.0)
        refused(keys, authorization)
        clock.now += 60
        keys.admit(recognise(keys, authorization), "r").settle(0, 0.0)
    assert [one.requests for one in (await store.key_state()).spent.values()] == [2]


# budgets


async def test_a_budget_ends_and_begins_anew(store, clock):
    authorization = await make(store, clock, budget_usd=1.0, budget_period="day")
    async with synced(store, clock) as (keys, sync):
        keys.admit(recognise(keys, authorization), "r").settle(1, 0.75)
        # The last request may go over: what it costs is known afterwards.
        keys.admit(recognise(keys, authorization), "r").settle(1, 0.75)
        error = refused(keys, authorization)
        assert error.code == "insufficient_quota"
        assert error.retry_after == pytest.approx(13.5 * 3600)
        assert "$1 per day" in error.message
        clock.now += 13.5 * 3600
        await sync.refresh()
        keys.admit(recognise(keys, authorization), "r").settle(1, 0.5)
        keys.admit(recognise(keys, authorization), "r")
    spent = (await listed(store, clock.now))[0].spent
    assert (spent.usd, spent.requests) == (0.5, 1)
    assert (await listed(store, clock.now + 86400))[0].spent.usd == 0


async def test_waiting_does_not_help_a_total_budget(store, clock):
    authorization = await make(store, clock, budget_usd=1.0)
    async with loaded(store, clock) as keys:
        keys.admit(recognise(keys, authorization), "r").settle(1, 1.0)
        clock.now += 1e9
        error = refused(keys, authorization)
        assert error.retry_after is None
        assert error.headers == {"x-should-retry": "false"}


async def test_a_request_without_a_price_is_counted_apart(store, clock):
    authorization = await make(store, clock, budget_usd=1.0)
    async with synced(store, clock) as (keys, sync):
        keys.admit(recognise(keys, authorization), "r").settle(7, None)
        keys.admit(recognise(keys, authorization), "r").settle(None, 0.25)
        await sync.refresh()
    spent = (await listed(store, clock.now))[0].spent
    assert (spent.usd, spent.tokens, spent.requests, spent.unpriced) == (0.25, 7, 2, 1)


async def test_a_budget_survives_a_restart(store, clock):
    authorization = await make(store, clock, budget_usd=1.0, budget_period="month")
    async with loaded(store, clock) as keys:
        keys.admit(recognise(keys, authorization), "r").settle(1, 1.0)
    async with loaded(store, clock) as keys:
        assert refused(keys, authorization).code == "insufficient_quota"
        clock.now = datetime(2026, 12, 1, tzinfo=UTC).timestamp()
        keys.admit(recognise(keys, authorization), "r")


async def test_processes_share_a_budget(store, path, clock):
    authorization = await make(store, clock, budget_usd=10.0)
    other = SqliteStore(path)
    await other.open()
    async with synced(store, clock) as (one, sync), synced(other, clock) as (two, other_sync):
        for _ in range(20):
            one.admit(recognise(one, authorization), "r").settle(1, 0.25)
            two.admit(recognise(two, authorization), "r").settle(1, 0.25)
        await asyncio.gather(sync.refresh(), other_sync.refresh())
        await asyncio.gather(sync.refresh(), other_sync.refresh())
        for keys in (one, two):
            assert refused(keys, authorization).code == "insufficient_quota"
    await other.close()
    assert [one.usd for one in (await store.key_state()).spent.values()] == [10.0]


async def test_a_request_counts_in_the_period_in_which_it_ends(store, clock):
    authorization = await make(store, clock, budget_usd=1.0, budget_period="day")
    async with loaded(store, clock) as keys:
        grant = keys.admit(recognise(keys, authorization), "r")
        clock.now += 86400
        grant.settle(1, 1.0)
        assert refused(keys, authorization).code == "insufficient_quota"
    assert (await listed(store, clock.now))[0].spent.usd == 1.0


class Busy:
    """A store during whose reads something else goes on."""

    def __init__(self, store) -> None:
        self._store = store
        self.meanwhile = lambda: None

    def __getattr__(self, name):
        return getattr(self._store, name)

    async def key_state(self, after=None):
        state = await self._store.key_state(after)
        self.meanwhile()
        return state


async def test_what_is_spent_while_the_store_is_read_is_not_forgotten(store, clock):
    authorization = await make(store, clock, budget_usd=1.0)
    busy = Busy(store)
    async with synced(busy, clock) as (keys, sync):
        keys.admit(recognise(keys, authorization), "r").settle(1, 0.5)
        busy.meanwhile = lambda: keys.admit(recognise(keys, authorization), "r").settle(1, 0.5)
        await sync.refresh()
        busy.meanwhile = lambda: None
        assert refused(keys, authorization).code == "insufficient_quota"
    assert (await listed(store, clock.now))[0].spent.usd == 1.0


class Refusing:
    """A store whose disk is full, at times."""

    def __init__(self, store) -> None:
        self._store = store
        self.full = False

    def __getattr__(self, name):
        return getattr(self._store, name)

    async def add_key_spend(self, spent):
        if self.full:
            raise StoreError("the disk is full")
        await self._store.add_key_spend(spent)

    async def add_key_uses(self, used):
        if self.full:
            raise StoreError("the disk is full")
        await self._store.add_key_uses(used)


async def test_what_the_store_refuses_is_kept_and_told_later(store, clock, caplog):
    authorization = await make(store, clock, budget_usd=1.0)
    refusing = Refusing(store)
    async with synced(refusing, clock) as (keys, sync):
        refusing.full = True
        keys.admit(recognise(keys, authorization), "r").settle(1, 0.5)
        with pytest.raises(StoreError):
            await sync.refresh()
        keys.admit(recognise(keys, authorization), "r").settle(1, 0.5)
        assert refused(keys, authorization).code == "insufficient_quota"
        refusing.full = False
        await sync.refresh()
        assert refused(keys, authorization).code == "insufficient_quota"
        assert [one.usd for one in (await store.key_state()).spent.values()] == [1.0]
        refusing.full = True
        with pytest.raises(RateLimitError):
            keys.admit(recognise(keys, authorization), "r").settle(1, 0.5)
    assert "not written down" not in caplog.text  # nothing was left to tell


async def test_a_watch_outlives_a_store_that_refuses(store, clock, caplog):
    authorization = await make(store, clock)
    refusing = Refusing(store)
    keys = Keys(clock=clock)
    sync = KeySync(keys, refusing, every=0.005)
    await sync.load()
    refusing.full = True
    keys.admit(recognise(keys, authorization), "r").settle(1, 0.5)
    while "the disk is full" not in caplog.text:
        await asyncio.sleep(0.005)
    refusing.full = False
    while not (await store.key_state()).spent:
        await asyncio.sleep(0.005)
    await sync.close()
    assert caplog.text.count("not written down") == 1
    assert "Traceback" not in caplog.text


async def test_a_kill_loses_no_more_than_was_not_written_yet(store, path, clock):
    key, row = await create(store, "app", now=clock.now, budget_usd=11.0)
    process = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("keys_process.py")), str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[3],
        env={"PYTHONPATH": "."},
        text=True,
    )
    try:
        process.stdin.write(key + "\n")
        process.stdin.flush()
        assert process.stdout.readline() == "written\n"
        assert process.stdout.readline() == "spent\n"
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    spent = (await store.key_state()).spent[row.id]
    assert (spent.usd, spent.tokens, spent.requests) == (10.0, 400, 40)
    async with loaded(store, clock) as keys:
        authorization = f"Bearer {key}".encode()
        keys.admit(recognise(keys, authorization), "r").settle(1, 1.0)
        assert refused(keys, authorization).code == "insufficient_quota"


# making keys


async def test_a_key_is_long_random_and_kept_nowhere(store, path, clock):
    key, row = await create(store, "app", now=clock.now)
    another, _ = await create(store, "b", now=clock.now)
    assert key != another
    assert key.startswith("er-")
    assert len(key) == 3 + 43
    await store.close()
    kept = path.read_bytes()
    assert key.encode() not in kept
    assert key.encode()[3:] not in kept
    assert digest_of(key.encode()) in kept
    assert "hash" not in KeyRow.__struct_fields__
    assert row.created_at == clock.now


@pytest.mark.parametrize(
    "fields",
    [
        {"name": ""},
        {"name": "er-looks-like-a-key"},
        {"name": "key_looks_like_an_id"},
        {"name": "two words"},
        {"name": "x" * 65},
        {"rpm": 0},
        {"tpm": -1},
        {"parallel": 0},
        {"budget_usd": 0.0},
        {"budget_usd": math.nan},
        {"budget_usd": math.inf},
        {"expires_at": WEDNESDAY},
        {"role": "admin", "routes": ("r",)},
    ],
)
async def test_keys_that_make_no_sense_are_refused(store, clock, fields):
    with pytest.raises(InputError):
        await create(store, **({"name": "app", "now": clock.now} | fields))
    assert (await store.keys()).by_hash == {}


@pytest.mark.parametrize(
    ("text", "after"),
    [
        ("12h", 12 * 3600),
        ("30d", 30 * 86400),
        ("2w", 14 * 86400),
        ("2026-11-19", 13.5 * 3600),
        ("2026-11-18T12:30", 7200),
        ("2026-11-18T12:30+01:00", 3600),
    ],
)
def test_expiry_in_words_and_dates(text, after):
    assert expiry(text, WEDNESDAY) == WEDNESDAY + after


@pytest.mark.parametrize("text", ["", "soon", "30", "d", "2026-13-01", "-3d", "30 d", "9999999d"])
def test_expiry_that_is_no_time(text):
    with pytest.raises(InputError, match="not a time"):
        expiry(text, WEDNESDAY)


def test_the_scheme_is_bearer_in_any_case():
    assert bearer(b"Bearer abc") == b"abc"
    assert bearer(b"BEARER  abc ") == b"abc"
    assert bearer(b"Basic abc") is None
    assert bearer(b"Bearerabc") is None
    assert bearer(None) is None


# changes


async def changed(store, clock, **fields) -> None:
    await change(store, "app", actor="ann", now=clock.now, **fields)


async def test_another_limit_of_a_key_leaves_what_is_used_of_it(store, clock):
    authorization = await make(store, clock, rpm=3, tpm=100)
    async with synced(store, clock) as (keys, sync):
        for _ in range(3):
            keys.admit(recognise(keys, authorization), "r").settle(10, 0.0)
        assert refused(keys, authorization).code == "rate_limit_exceeded"
        await changed(store, clock, rpm=4, tpm=None, parallel=2)
        await sync.refresh()
        keys.admit(recognise(keys, authorization), "r")
        assert "4 requests per minute" in str(refused(keys, authorization))
        await changed(store, clock, rpm=None)
        await sync.refresh()
        keys.admit(recognise(keys, authorization), "r")
        assert "2 requests under way" in str(refused(keys, authorization))
        await changed(store, clock, parallel=None, tpm=50, routes=("s",))
        await sync.refresh()
        grant = keys.admit(recognise(keys, authorization), "s")
        assert dict(grant.headers())[b"x-ratelimit-remaining-tokens"] == b"50"
        with pytest.raises(PermissionDeniedError):
            keys.admit(recognise(keys, authorization), "r")


async def test_another_budget_period_counts_in_a_running_server(store, clock):
    authorization = await make(store, clock, budget_usd=1.0, budget_period="day")
    async with synced(store, clock) as (keys, sync):
        keys.admit(recognise(keys, authorization), "r").settle(1, 0.75)
        await sync.refresh()
        clock.now += 86400
        keys.admit(recognise(keys, authorization), "r").settle(1, 0.5)
        await changed(store, clock, budget_period="month")
        # First what was spent before the change was read, then what the new period has.
        await sync.refresh()
        await sync.refresh()
        assert refused(keys, authorization).code == "insufficient_quota"
        [one] = await listed(store, clock.now)
        assert (one.spent.usd, one.key.budget_period) == (1.25, "month")
        await changed(store, clock, budget_period="day")
        await sync.refresh()
        keys.admit(recognise(keys, authorization), "r")


async def test_a_changed_key_makes_sense_or_is_refused(store, clock):
    await make(store, clock, routes=("r",), expires_at=clock.now + 60)
    for fields in ({"role": "admin"}, {"rpm": 0}, {"name": "key_x"}, {"expires_at": clock.now}):
        with pytest.raises(InputError):
            await changed(store, clock, **fields)
    with pytest.raises(InputError, match="id or name"):
        await change(store, "er-secret", actor="ann", now=clock.now, rpm=1)
    clock.now += 120
    # One that has expired can be changed, and be let in again.
    await changed(store, clock, rpm=9)
    await changed(store, clock, expires_at=clock.now + 60)
    [one] = await listed(store, clock.now)
    assert one.state == "active"
    await changed(store, clock, rpm=9)
    assert len(await store.key_versions(one.key.id)) == 2
    await store.revoke_key("app", clock.now)
    with pytest.raises(NotFoundError, match="was revoked"):
        await change(store, one.key.id, actor="ann", now=clock.now, rpm=1)


# the last use


async def test_a_use_is_written_down_once_a_minute(store, clock):
    authorization = await make(store, clock)
    unused = await make(store, clock, name="unused")
    assert unused
    began = clock.now
    async with synced(store, clock) as (keys, sync):
        [key] = [one.key for one in await listed(store, clock.now) if one.key.name == "app"]
        for after, stored in ((0, 0), (59, 0), (60, 60), (90, 60), (125, 125)):
            clock.now = began + after
            recognise(keys, authorization)
            await sync.refresh()
            assert await store.key_uses() == {key.id: began + stored}
        clock.now += 60
        # A browser that is signed in.
        assert keys.in_use(key.id) is not None
        await sync.refresh()
        assert (await store.key_uses())[key.id] == clock.now
        used = {one.key.name: one.used_at for one in await listed(store, clock.now)}
        assert used == {"app": clock.now, "unused": None}
        clock.now += 60
        with pytest.raises(AuthenticationError):
            recognise(keys, b"Bearer er-unknown")
        await sync.refresh()
        assert (await store.key_uses())[key.id] == clock.now - 60


async def test_a_use_that_the_store_refuses_is_told_later(store, clock):
    authorization = await make(store, clock)
    refusing = Refusing(store)
    async with synced(refusing, clock) as (keys, sync):
        refusing.full = True
        recognise(keys, authorization)
        with pytest.raises(StoreError):
            await sync.refresh()
        refusing.full = False
        await sync.refresh()
        assert list((await store.key_uses()).values()) == [clock.now]


# what any Store promises


def a_row(**fields) -> KeyRow:
    return KeyRow(**({"id": "key_1", "name": "app", "created_at": 12.5} | fields))


async def test_a_key_comes_back_as_it_was(store):
    full = a_row(
        routes=("a", "p/m"),
        role="admin",
        rpm=1,
        tpm=2,
        parallel=3,
        budget_usd=0.5,
        budget_period="week",
        expires_at=99.5,
    )
    plain = a_row(id="key_2", name="other", created_at=11.0, routes=())
    await store.add_key(full, b"1" * 32)
    await store.add_key(plain, b"2" * 32)
    table = await store.keys()
    assert table.by_hash == {b"2" * 32: plain, b"1" * 32: full}
    assert list(table.by_hash.values()) == [plain, full]


async def test_names_are_unique_among_keys_in_use(store):
    await store.add_key(a_row(), b"1" * 32)
    with pytest.raises(ConflictError, match="'app'"):
        await store.add_key(a_row(id="key_2"), b"2" * 32)
    assert (await store.revoke_key("app", 20.0)).revoked_at == 20.0
    await store.add_key(a_row(id="key_3"), b"3" * 32)
    assert (await store.revoke_key("key_3", 21.0)).id == "key_3"
    assert [row.revoked_at for row in (await store.keys()).by_hash.values()] == [20.0, 21.0]


async def test_the_same_key_twice_is_refused(store):
    await store.add_key(a_row(), b"1" * 32)
    with pytest.raises(StoreError, match="cannot add a key"):
        await store.add_key(a_row(id="key_2", name="b"), b"1" * 32)


async def test_what_is_not_in_use_cannot_be_revoked(store):
    await store.add_key(a_row(), b"1" * 32)
    with pytest.raises(NotFoundError, match="Did you mean 'app'"):
        await store.revoke_key("appp", 20.0)
    await store.revoke_key("app", 20.0)
    with pytest.raises(NotFoundError):
        await store.revoke_key("app", 21.0)


async def test_the_version_moves_with_keys_and_not_with_spend(store):
    versions = [(await store.key_state()).version]
    await store.add_key(a_row(), b"1" * 32)
    versions.append((await store.key_state()).version)
    await store.revoke_key("app", 20.0)
    versions.append((await store.key_state()).version)
    assert versions == sorted(set(versions))
    await store.add_key_spend([KeySpend(key_id="key_1", since=0.0, usd=1.0, requests=1)])
    assert (await store.key_state()).version == versions[-1]
    assert (await store.keys()).version == versions[-1]


async def test_spend_adds_up_per_period_and_the_latest_is_shown(store):
    await store.add_key(a_row(), b"1" * 32)
    assert (await store.key_state()).spent == {}
    for since, usd in ((10.0, 1.0), (20.0, 0.5), (20.0, 0.25), (10.0, 1.0)):
        await store.add_key_spend(
            [KeySpend(key_id="key_1", since=since, usd=usd, tokens=3, requests=1, unpriced=1)]
        )
    assert (await store.key_state()).spent == {
        "key_1": KeySpend(key_id="key_1", since=20.0, usd=0.75, tokens=6, requests=2, unpriced=2)
    }


async def test_only_keys_that_spent_since_then_are_read_again(store, path):
    for n in (1, 2, 3):
        await store.add_key(a_row(id=f"key_{n}", name=f"app-{n}"), bytes([n]) * 32)
        await store.add_key_spend([KeySpend(key_id=f"key_{n}", since=10.0, usd=1.0)])
    first = await store.key_state()
    assert set(first.spent) == {"key_1", "key_2", "key_3"}
    assert (await store.key_state(first.changes)).spent == {}
    # One more period of the one, an earlier period of the other.
    await store.add_key_spend(
        [
            KeySpend(key_id="key_1", since=20.0, usd=2.0),
            KeySpend(key_id="key_2", since=5.0, usd=2.0),
        ]
    )
    second = await store.key_state(first.changes)
    assert second.spent == {"key_1": KeySpend(key_id="key_1", since=20.0, usd=2.0)}
    assert (await store.key_state(second.changes)).spent == {}
    with sqlite3.connect(path) as other:
        # An older program, or a person.
        other.execute("UPDATE key_spend SET usd = 7.0 WHERE key = 'key_3'")
    other.close()
    third = await store.key_state(second.changes)
    assert {key: spend.usd for key, spend in third.spent.items()} == {"key_3": 7.0}
    assert (third.version, set((await store.key_state()).spent)) == (
        first.version,
        {"key_1", "key_2", "key_3"},
    )


class Watched:
    """A store that notes which states of the keys it is asked for."""

    def __init__(self, store) -> None:
        self._store = store
        self.after = []

    def __getattr__(self, name):
        return getattr(self._store, name)

    async def key_state(self, after=None):
        self.after.append(after)
        return await self._store.key_state(after)


async def test_what_other_processes_spend_is_read_once(store, path, clock):
    authorization = await make(store, clock, budget_usd=1.0)
    watched = Watched(store)
    async with synced(watched, clock) as (keys, sync):
        [row] = (await store.keys()).by_hash.values()
        await sync.refresh()
        await sync.refresh()
        await store.add_key_spend([KeySpend(key_id=row.id, since=0.0, usd=0.5)])
        await sync.refresh()
        keys.admit(recognise(keys, authorization), "r").settle(1, 0.25)
        await store.add_key_spend([KeySpend(key_id=row.id, since=0.0, usd=0.25)])
        await sync.refresh()
        assert refused(keys, authorization).code == "insufficient_quota"
        assert watched.after[0] is None
        assert None not in watched.after[1:]
        assert watched.after[1] == watched.after[2] < watched.after[-1]
        # A sum that is taken away is taken away here.
        with sqlite3.connect(path) as other:
            other.execute("DELETE FROM key_spend")
        other.close()
        await sync.refresh()
        await sync.refresh()
        keys.admit(recognise(keys, authorization), "r").settle(1, 0.25)


async def test_spend_is_written_whole_or_not_at_all(store):
    await store.add_key(a_row(), b"1" * 32)
    good = KeySpend(key_id="key_1", since=0.0, usd=1.0)
    for bad in (
        KeySpend(key_id="key_1", since=1.0, usd=math.nan),
        KeySpend(key_id="nobody", since=0.0, usd=1.0),
    ):
        with pytest.raises(StoreError):
            await store.add_key_spend([good, bad])
    assert (await store.key_state()).spent == {}


async def test_keys_are_in_the_database_once_awaited(store, path):
    await store.add_key(a_row(), b"1" * 32)
    with sqlite3.connect(path) as other:
        assert other.execute("SELECT name FROM keys").fetchall() == [("app",)]
    other.close()


# numbers and stores that go wrong


@pytest.mark.parametrize("tokens", [2**53, 2**63 - 1, 2**64, 10**30])
@pytest.mark.parametrize("usd", [1e300, float("inf"), float("nan"), -1.0, None])
async def test_no_number_stops_revocation(store, clock, tokens, usd):
    authorization = await make(store, clock, name="app")
    other = await make(store, clock, name="other")
    async with synced(store, clock) as (keys, sync):
        keys.admit(recognise(keys, authorization), "r").settle(tokens, usd)
        keys.admit(recognise(keys, other), "r").settle(5, 0.25)
        await store.revoke_key("app", clock.now)
        await sync.refresh()
        with pytest.raises(AuthenticationError, match="revoked"):
            recognise(keys, authorization)
    spent = {one.key.name: one.spent for one in await listed(store, clock.now)}
    assert (spent["other"].usd, spent["other"].tokens) == (0.25, 5)
    assert (spent["app"].requests, spent["app"].usd, spent["app"].unpriced) == (1, 0, 1)


async def test_sums_beyond_64_bits_stay_whole_numbers(store, clock):
    await make(store, clock)
    [key] = await listed(store, clock.now)
    most = KeySpend(key_id=key.key.id, since=0.0, tokens=2**63 - 1)
    await store.add_key_spend([most])
    await store.add_key_spend([most])
    [key] = await listed(store, clock.now)
    assert key.spent.tokens == 2**63 - 1


async def test_a_row_that_the_store_refuses_blocks_no_other(store, path, clock):
    poisoned = await make(store, clock, name="poisoned")
    other = await make(store, clock, name="other")
    with sqlite3.connect(path) as db:
        db.execute(
            "CREATE TRIGGER poison BEFORE INSERT ON key_spend WHEN NEW.key ="
            " (SELECT id FROM keys WHERE name = 'poisoned') BEGIN SELECT RAISE(ABORT, 'no'); END"
        )
    async with synced(store, clock) as (keys, sync):
        for authorization in (poisoned, other):
            keys.admit(recognise(keys, authorization), "r").settle(5, 0.25)
        await store.revoke_key("poisoned", clock.now)
        with pytest.raises(StoreError, match="no"):
            await sync.refresh()
        spent = {one.key.name: one.spent for one in await listed(store, clock.now)}
        assert (spent["other"].usd, spent["poisoned"].usd) == (0.25, 0.0)
        with pytest.raises(AuthenticationError, match="revoked"):
            recognise(keys, poisoned)
        # What was refused stays, and nothing is written twice.
        with sqlite3.connect(path) as db:
            db.execute("DROP TRIGGER poison")
        await sync.refresh()
        spent = {one.key.name: one.spent for one in await listed(store, clock.now)}
        assert (spent["other"].usd, spent["poisoned"].usd) == (0.25, 0.25)


@pytest.mark.parametrize(
    "poison",
    [
        "routes = 'not JSON'",
        "routes = '[1]'",
        "rpm = 'many'",
        "created_at = x'00'",
        "id = CAST(x'ff' AS TEXT), rpm = 'many'",
    ],
)
async def test_a_key_that_cannot_be_read_lets_nobody_in_and_blocks_no_other(
    store, path, clock, poison, caplog
):
    poisoned = await make(store, clock, name="poisoned", routes=("r",))
    other = await make(store, clock, name="other")
    with sqlite3.connect(path) as db:
        db.execute(f"UPDATE keys SET {poison} WHERE name = 'poisoned'")
    async with synced(store, clock) as (keys, sync):
        with pytest.raises(AuthenticationError):
            recognise(keys, poisoned)
        keys.admit(recognise(keys, other), "r").settle(5, 0.25)
        with sqlite3.connect(path) as db:
            db.execute("UPDATE keys SET revoked_at = 1.0 WHERE name = 'other'")
        await sync.refresh()
        with pytest.raises(AuthenticationError, match="revoked"):
            recognise(keys, other)
        assert keys.required
    assert "cannot be read and is refused" in caplog.text


@pytest.mark.parametrize("poison", ["usd = 'much'", "usd = 9e999", "tokens = 'many'"])
async def test_spend_that_cannot_be_read_is_more_than_any_budget(store, path, clock, poison):
    poisoned = await make(store, clock, name="poisoned", budget_usd=1.0)
    other = await make(store, clock, name="other", budget_usd=1.0)
    async with loaded(store, clock) as keys:
        for authorization in (poisoned, other):
            keys.admit(recognise(keys, authorization), "r").settle(5, 0.25)
    with sqlite3.connect(path) as db:
        db.execute(
            f"UPDATE key_spend SET {poison} WHERE key = (SELECT id FROM keys ORDER BY name DESC)"
        )
    async with loaded(store, clock) as keys:
        assert refused(keys, poisoned).code == "insufficient_quota"
        keys.admit(recognise(keys, other), "r").settle(5, 0.80)
        assert refused(keys, other).code == "insufficient_quota"


async def test_revocation_is_seen_while_another_process_keeps_the_database_locked(
    store, path, clock
):
    authorization = await make(store, clock)
    keys = Keys(clock=clock)
    sync = KeySync(keys, store, every=0.005)
    await sync.load()
    other = sqlite3.connect(path, isolation_level=None)
    try:
        grant = keys.admit(recognise(keys, authorization), "r")
        other.execute("BEGIN IMMEDIATE")
        grant.settle(5, 0.25)
        while not sync.is_writing:
            await asyncio.sleep(0.001)
        # A write waits for the lock by now; whoever holds it revokes the key.
        other.execute("UPDATE keys SET revoked_at = 1.0")
        other.execute("COMMIT")
        other.execute("BEGIN IMMEDIATE")
        with suppress(AuthenticationError):
            while True:
                keys.identify(authorization[7:])
                await asyncio.sleep(0.005)
        with pytest.raises(AuthenticationError, match="revoked"):
            recognise(keys, authorization)
    finally:
        other.close()
    await sync.close()
    [key] = await listed(store, clock.now)
    assert key.spent.usd == 0.25


@asynccontextmanager
async def database(path):
    store = SqliteStore(path)
    await store.open()
    yield store
    await store.close()


async def test_a_database_in_place_of_the_keys_opens_no_door(store, path, clock, tmp_path):
    app = await make(store, clock)
    with sqlite3.connect(path) as source, sqlite3.connect(tmp_path / "backup.db") as target:
        source.backup(target)
    async with database(tmp_path / "other.db") as another:
        other = await make(another, clock, name="other")
    async with database(tmp_path / "empty.db"):
        pass
    newcomer = await make(store, clock, name="newcomer")
    await store.revoke_key("app", clock.now)
    async with synced(store, clock) as (keys, sync):
        recognise(keys, newcomer)
        (tmp_path / "backup.db").replace(path)
        await sync.refresh()
        with pytest.raises(AuthenticationError, match="revoked"):
            recognise(keys, app)
        with pytest.raises(AuthenticationError, match="not known"):
            recognise(keys, newcomer)
        # Its number of changes is that of the backup.
        (tmp_path / "other.db").replace(path)
        await sync.refresh()
        recognise(keys, other)
        with pytest.raises(AuthenticationError, match="not known"):
            recognise(keys, app)
        path.unlink()
        with pytest.raises(StoreUnavailableError, match="deleted"):
            await sync.refresh()
        recognise(keys, other)
        (tmp_path / "empty.db").replace(path)
        await sync.refresh()
        with pytest.raises(AuthenticationError, match="not known"):
            recognise(keys, other)
        with pytest.raises(AuthenticationError, match="must provide"):
            keys.recognise({})


class HoldingStore(SqliteStore):
    """A store one of whose answers about keys is late: what it says was true before."""

    def __init__(self, path):
        super().__init__(path)
        self.holding = False
        self.held = asyncio.Event()
        self.go_on = asyncio.Event()

    async def key_state(self, after=None):
        state = await super().key_state(after)
        if self.holding:
            self.holding = False
            self.held.set()
            await self.go_on.wait()
        return state


async def test_what_was_spent_is_not_forgotten_while_it_is_written(path, clock):
    store = HoldingStore(path)
    await store.open()
    try:
        authorization = await make(store, clock, budget_usd=1.0)
        keys = Keys(clock=clock)
        sync = KeySync(keys, store, every=0.001)
        await sync.load()
        keys.admit(recognise(keys, authorization), "r").settle(5, 1.5)
        store.holding = True
        await store.held.wait()
        # The spend may be on its way, or be written, while an older sum is still being read.
        await sync.refresh()
        store.go_on.set()
        for _ in range(20):
            with pytest.raises(RateLimitError, match="budget"):
                keys.admit(recognise(keys, authorization), "r")
            await asyncio.sleep(0)
        await sync.close()
    finally:
        await store.close()


# many requests at a time


async def test_requests_at_a_time_cannot_pass_a_budget_together(store, clock):
    authorization = await make(store, clock, budget_usd=1.0)
    async with loaded(store, clock) as keys:
        holder = recognise(keys, authorization)
        assert holder.is_metered
        expected = ExpectedUsage(prompt=10, completion=90, usd=0.4)
        grants = [keys.admit(holder, "r", expected) for _ in range(3)]
        with pytest.raises(RateLimitError, match="under way") as caught:
            keys.admit(holder, "r", expected)
        assert (caught.value.code, caught.value.retry_after) == ("rate_limit_exceeded", 1.0)
        for grant in grants:
            grant.settle(20, 0.1)
        # What was reserved and not needed is there again.
        keys.admit(holder, "r", expected).settle(20, 0.1)
        assert holder.reserved_usd == holder.reserved_tokens == 0


async def test_requests_at_a_time_cannot_pass_a_limit_of_tokens_together(store, clock):
    authorization = await make(store, clock, tpm=150)
    async with loaded(store, clock) as keys:
        holder = recognise(keys, authorization)
        expected = ExpectedUsage(prompt=10, completion=90)
        grants = [keys.admit(holder, "r", expected) for _ in range(2)]
        assert (b"x-ratelimit-remaining-tokens", b"0") in grants[-1].headers()
        with pytest.raises(RateLimitError, match="150 tokens per minute"):
            keys.admit(holder, "r", expected)
        for grant in grants:
            grant.settle(20, None)
        assert (b"x-ratelimit-remaining-tokens", b"110") in grants[-1].headers()
        keys.admit(holder, "r", expected).settle(0, 0.0)


async def test_answers_without_a_limit_are_expected_to_be_as_long_as_the_last(store, clock):
    authorization = await make(store, clock, tpm=100_000)
    async with loaded(store, clock) as keys:
        holder = recognise(keys, authorization)
        expected = ExpectedUsage(prompt=10, completion=1000)
        keys.admit(holder, "r", expected).settle(5010, 0.0)
        assert holder.usual_completion == 5000
        for _ in range(200):
            keys.admit(holder, "r", expected).settle(60, 0.0)
            clock.now += 60
        assert holder.usual_completion == 50


async def test_what_was_estimated_is_counted(store, clock):
    authorization = await make(store, clock)
    async with synced(store, clock) as (keys, sync):
        keys.admit(recognise(keys, authorization), "r").settle(5, 0.25, estimated=True)
        keys.admit(recognise(keys, authorization), "r").settle(5, 0.25)
        await sync.refresh()
        [key] = await listed(store, clock.now)
        assert (key.spent.requests, key.spent.estimated) == (2, 1)
