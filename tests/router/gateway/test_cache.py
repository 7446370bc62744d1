"""The response cache, without a server: when it is used, what it is keyed by, what it keeps."""

import itertools

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.config.routes import RouteCache
from router.gateway.cache import CachedResponse, CacheUse, ResponseCache, cache_use_of, key_of

ROUTE = RouteCache(ttl=60)


def headers(cache=None, control=None):
    values = {b"x-evalrouter-cache": cache, b"cache-control": control}
    return {name: value for name, value in values.items() if value is not None}


@pytest.mark.parametrize(
    ("route", "setting", "expected"),
    [
        (None, headers(), None),
        (ROUTE, headers(), CacheUse(True, None, True, 60.0)),
        (None, headers(b"true"), CacheUse(True, None, True, 3600.0)),
        (None, headers(b" True "), CacheUse(True, None, True, 3600.0)),
        (ROUTE, headers(b"true"), CacheUse(True, None, True, 60.0)),
        (None, headers(b"120"), CacheUse(True, None, True, 120.0)),
        (ROUTE, headers(b"120"), CacheUse(True, None, True, 120.0)),
        (ROUTE, headers(b"false"), None),
        (ROUTE, headers(b"0"), None),
        (ROUTE, headers(b"what"), None),
        (ROUTE, headers(control=b"no-store"), None),
        (ROUTE, headers(b"true", b"no-store"), None),
        (ROUTE, headers(control=b"no-cache"), CacheUse(False, None, True, 60.0)),
        (ROUTE, headers(control=b"No-Cache, max-age=9"), CacheUse(False, 9.0, True, 60.0)),
        (ROUTE, headers(control=b"max-age=30"), CacheUse(True, 30.0, True, 60.0)),
        (ROUTE, headers(control=b'max-age="30"'), CacheUse(True, 30.0, True, 60.0)),
        (ROUTE, headers(control=b"max-age=0"), CacheUse(False, 0.0, True, 60.0)),
        (ROUTE, headers(control=b"max-age=soon"), CacheUse(True, None, True, 60.0)),
        (ROUTE, headers(control=b"only-if-odd, private"), CacheUse(True, None, True, 60.0)),
        # Says nothing of its own: cache-control alone does not ask for the cache.
        (None, headers(control=b"max-age=30"), None),
    ],
)
def test_who_uses_the_cache(route, setting, expected):
    assert cache_use_of(route, setting, 3600.0) == expected


def envelope(body):
    return msgspec.json.decode(body, type=dict[str, msgspec.Raw])


def key(body=b'{"model":"r","messages":[]}', **changes):
    what = {"caller": "key_1", "path": "chat/completions", "route": "r", "stream": False}
    return key_of(envelope=envelope(body), **(what | changes))


def test_the_same_request_has_the_same_key():
    assert key() == key()
    assert len(key()) == 32


@pytest.mark.parametrize(
    "changes",
    [
        {"caller": "key_2"},
        {"caller": ""},
        {"path": "completions"},
        {"route": "other"},
        {"stream": True},
        {"body": b'{"model":"r","messages":[1]}'},
        {"body": b'{"model":"r","messages":[],"temperature":0}'},
        {"body": b'{"model":"r","messages":[],"stream_options":{"include_usage":true}}'},
    ],
)
def test_everything_that_matters_is_in_the_key(changes):
    assert key(**changes) != key()


def test_the_order_of_the_fields_and_how_stream_is_said_do_not_matter():
    assert key(b'{"messages":[], "n":1}') == key(
        b'{"n":1,"stream":false,"messages":[],"model":"z"}'
    )


@given(
    first=st.dictionaries(st.text(max_size=4), st.integers(), max_size=4),
    second=st.dictionaries(st.text(max_size=4), st.integers(), max_size=4),
)
def test_different_fields_never_share_a_key(first, second):
    for ignored in ("model", "stream"):
        first.pop(ignored, None)
        second.pop(ignored, None)
    same = key(msgspec.json.encode(first)) == key(msgspec.json.encode(second))
    assert same == (first == second)


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def entry(clock, body=b"answer", status=200):
    return CachedResponse(status, "application/json", body, "p/m", clock())


def test_an_answer_is_kept_for_its_time(clock):
    cache = ResponseCache(10_000, clock=clock)
    stored = entry(clock)
    assert cache.get(b"k") is None
    cache.put(b"k", stored, 60)
    clock.now += 59.9
    assert cache.get(b"k") is stored
    clock.now += 0.1
    assert cache.get(b"k") is None
    assert (len(cache), cache.size) == (0, 0)


def test_an_answer_that_is_too_old_for_one_is_good_for_another(clock):
    cache = ResponseCache(10_000, clock=clock)
    cache.put(b"k", entry(clock), 60)
    clock.now += 10
    assert cache.get(b"k", max_age=9) is None
    assert cache.get(b"k", max_age=10) is not None
    assert cache.get(b"k") is not None


def test_the_least_recently_used_go_first(clock):
    cache = ResponseCache(4 * (1000 + 500), clock=clock)
    for name in (b"a", b"b", b"c", b"d"):
        cache.put(name, entry(clock, b"x" * 1000), 60)
    cache.get(b"a")
    cache.put(b"e", entry(clock, b"x" * 1000), 60)
    assert [name for name in (b"a", b"b", b"c", b"d", b"e") if cache.get(name)] == [
        b"a",
        b"c",
        b"d",
        b"e",
    ]


def test_what_would_fill_the_whole_cache_is_not_kept(clock):
    cache = ResponseCache(2000, clock=clock)
    cache.put(b"small", entry(clock), 60)
    cache.put(b"large", entry(clock, b"x" * 1600), 60)
    assert cache.get(b"large") is None
    assert cache.get(b"small") is not None


def test_an_answer_that_is_put_again_replaces_the_older_one(clock):
    cache = ResponseCache(10_000, clock=clock)
    for body in (b"first" * 10, b"second"):
        cache.put(b"k", entry(clock, body), 60)
    assert cache.get(b"k").body == b"second"
    assert cache.size == len(b"second") + 500


@pytest.mark.parametrize("status", [201, 404, 429, 500])
def test_failed_answers_are_refused(clock, status):
    with pytest.raises(ValueError, match=str(status)):
        ResponseCache(10_000, clock=clock).put(b"k", entry(clock, status=status), 60)


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 3000)), max_size=80))
def test_never_larger_than_it_may_be(puts):
    clock = Clock()
    cache = ResponseCache(5000, clock=clock)
    for (name, size), _ in zip(puts, itertools.count(), strict=False):
        cache.put(bytes([name]), entry(clock, b"x" * size), 60)
        stored = [values for n in range(21) if (values := cache.get(bytes([n])))]
        assert cache.size == sum(len(one.body) + 500 for one in stored) <= 5000
