"""The response cache: answers the same request of the same caller again, without any target.

    use = cache_use_of(route.cache, headers, cache.ttl)   # None: the request has no cache
    key = key_of(caller=key_id, path=path, route=route, stream=stream, envelope=envelope)
    entry = cache.get(key, use.max_age) if use.read else None
    ...
    if use.write and the answer is whole and has status 200:
        cache.put(key, CachedResponse(...), use.ttl)

Exact: every field of the request counts, byte for byte, except the order of the outermost fields.
In memory, one per process. Opt-in: a route says `cache: {ttl: 3600}`, or a request says
`x-evalrouter-cache: true` (or `false`, or for how many seconds). `cache-control` is respected as in
HTTP: `no-store` leaves the cache alone, `no-cache` asks the target and stores its answer,
`max-age=N` takes nothing older than N seconds. Answers say `x-evalrouter-cache: hit` or `miss`.
"""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import NamedTuple

import msgspec

from router.config.routes import RouteCache

HEADER = b"x-evalrouter-cache"

# What an entry takes besides its body: key, tuples, strings, dictionary slots (by tracemalloc).
_OVERHEAD = 500

_ON = frozenset({b"true", b"1", b"on", b"yes"})
_OFF = frozenset({b"false", b"0", b"off", b"no"})


class CachedResponse(NamedTuple):
    """A stored answer, always a whole one with status 200.

    Attributes:
        status: the HTTP status.
        content_type: the body's; a stream is stored as a stream.
        body: every byte of the answer's body.
        target: the `provider/model` that answered.
        at: when it answered, seconds since the epoch.
    """

    status: int
    content_type: str
    body: bytes
    target: str
    at: float


class CacheUse(NamedTuple):
    """How one request uses the cache.

    Attributes:
        read: whether a stored answer will do.
        max_age: how many seconds old that may be; None for as old as its `ttl` allows.
        write: whether the target's answer may be stored.
        ttl: how many seconds it may then be used.
    """

    read: bool
    max_age: float | None
    write: bool
    ttl: float


def cache_use_of(
    route: RouteCache | None, headers: Mapping[bytes, bytes], ttl: float
) -> CacheUse | None:
    """Return how a request uses the cache; None when it does not.

    Args:
        route: the route's setting, None without one.
        headers: the request's, names in lower case.
        ttl: seconds, where only the request asks for the cache.
    """
    setting = headers.get(HEADER)
    if setting is None:
        if route is None:
            return None
        ttl = route.ttl
    else:
        setting = setting.strip().lower()
        if setting in _OFF:
            return None
        if route is not None:
            ttl = route.ttl
        if setting not in _ON:
            seconds = _seconds(setting)
            if not seconds:
                return None
            ttl = seconds
    control = headers.get(b"cache-control")
    if control is None:
        return CacheUse(True, None, True, ttl)
    return _controlled(control, ttl)


def _controlled(control: bytes, ttl: float) -> CacheUse | None:
    read, max_age = True, None
    for directive in control.lower().split(b","):
        name, _, value = directive.partition(b"=")
        match name.strip():
            case b"no-store":
                return None
            case b"no-cache":
                read = False
            case b"max-age":
                max_age = _seconds(value.strip(b' "'))
    if max_age == 0:
        read = False
    return CacheUse(read, max_age, True, ttl)


def _seconds(value: bytes) -> float | None:
    """Return a number of seconds as HTTP writes them; None for anything else."""
    return float(value) if value.isdigit() and len(value) < 12 else None


def key_of(
    *, caller: str, path: str, route: str, stream: bool, envelope: Mapping[str, msgspec.Raw]
) -> bytes:
    """Return 32 bytes that are the same for requests with the same fields.

    Args:
        caller: the id of the client's key, "" without keys: no client gets another one's answer.
        path: the endpoint of OpenAI's API.
        route: the request's `model`.
        stream: whether the answer is a stream.
        envelope: the request's fields; `model` and `stream` are taken from the arguments instead.
    """
    digest = hashlib.blake2b(digest_size=32)
    update = digest.update
    update(f"{caller}\0{path}\0{stream}\0{len(route)}\0{route}".encode())
    for name in sorted(envelope):
        if name not in ("model", "stream"):
            # Lengths, so that no value can pass for the beginning of the next field.
            raw = memoryview(envelope[name])
            update(f"\0{name}\0{len(raw)}\0".encode())
            update(raw)
    return digest.digest()


class ResponseCache:
    """Stores answers by key; the least recently used one goes first when the room is used up.

    Args:
        max_bytes: the bytes that all entries together may take.
        clock: tells the seconds since the epoch.

    Attributes:
        size: the bytes that the entries take now.
    """

    def __init__(self, max_bytes: int, *, clock: Callable[[], float] = time.time) -> None:
        self.size = 0
        self._max_bytes = max_bytes
        self._clock = clock
        self._entries: OrderedDict[bytes, tuple[CachedResponse, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: bytes, max_age: float | None = None) -> CachedResponse | None:
        """Return the stored answer; None where the cache has no answer that is young enough."""
        stored = self._entries.get(key)
        if stored is not None:
            entry, until = stored
            now = self._clock()
            if now >= until:
                self._drop(key)
            elif max_age is None or now - entry.at <= max_age:
                self._entries.move_to_end(key)
                return entry
        return None

    def put(self, key: bytes, entry: CachedResponse, ttl: float) -> None:
        """Store an answer for `ttl` seconds; one that would fill the whole cache is left out.

        Raises:
            ValueError: its status is not 200.
        """
        if entry.status != 200:
            raise ValueError(f"an answer with status {entry.status} must not be stored")
        self._drop(key)
        size = len(entry.body) + _OVERHEAD
        if size > self._max_bytes:
            return
        self._entries[key] = (entry, entry.at + ttl)
        self.size += size
        while self.size > self._max_bytes:
            self._drop(next(iter(self._entries)))

    def clear(self) -> None:
        """Forget all answers."""
        self._entries.clear()
        self.size = 0

    def _drop(self, key: bytes) -> None:
        dropped = self._entries.pop(key, None)
        if dropped is not None:
            entry, _ = dropped
            self.size -= len(entry.body) + _OVERHEAD
