"""The response cache: the same request of the same caller, answered again without asking anybody.

    use = wanted(route.cache, headers, cache.ttl)       # None: this request has no cache
    key = key_of(caller=key_id, path=path, route=route, stream=stream, envelope=envelope)
    entry = cache.get(key, use.max_age) if use.read else None
    ...
    if use.write and the answer is whole and has status 200:
        cache.put(key, CachedResponse(...), use.ttl)

Exact: every field of the request counts, byte for byte, except the order of the outermost fields.
In memory, one per process. Opt-in: a route says `cache: {ttl: 3600}`, or a request says
`x-evalrouter-cache: true` (or `false`, or for how many seconds). `cache-control` is respected as in
HTTP: `no-store` leaves the cache alone, `no-cache` asks the target and keeps its answer,
`max-age=N` takes nothing older than N seconds. Answers say `x-evalrouter-cache: hit` or `miss`.
"""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import NamedTuple

import msgspec

from router.config.schema import RouteCache

HEADER = b"x-evalrouter-cache"

# What an entry takes besides its body: key, tuples, strings, dictionary slots (by tracemalloc).
_OVERHEAD = 500

_ON = frozenset({b"true", b"1", b"on", b"yes"})
_OFF = frozenset({b"false", b"0", b"off", b"no"})


class CachedResponse(NamedTuple):
    """A kept answer, always a whole one with status 200.

    Attributes:
        status: HTTP status.
        content_type: of the body; a stream is kept as a stream.
        body: every byte of it.
        target: `provider/model` that gave it.
        at: when, seconds since the epoch.
    """

    status: int
    content_type: str
    body: bytes
    target: str
    at: float


class CacheUse(NamedTuple):
    """How one request uses the cache.

    Attributes:
        read: whether a kept answer will do.
        max_age: how many seconds old it may be; None for as old as it is good for.
        write: whether the answer may be kept.
        ttl: how many seconds it is good for.
    """

    read: bool
    max_age: float | None
    write: bool
    ttl: float


def wanted(route: RouteCache | None, headers: Mapping[bytes, bytes], ttl: float) -> CacheUse | None:
    """Whether and how a request uses the cache; None when it does not.

    Args:
        route: the route's setting, None without one.
        headers: the request's, names in lower case.
        ttl: seconds, where only the request asks for the cache.
    """
    said = headers.get(HEADER)
    if said is None:
        if route is None:
            return None
        ttl = route.ttl
    else:
        said = said.strip().lower()
        if said in _OFF:
            return None
        if route is not None:
            ttl = route.ttl
        if said not in _ON:
            seconds = _seconds(said)
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
    """A number of seconds as HTTP writes them; None when it is none."""
    return float(value) if value.isdigit() and len(value) < 12 else None


def key_of(
    *, caller: str, path: str, route: str, stream: bool, envelope: Mapping[str, msgspec.Raw]
) -> bytes:
    """What a request is the same by: 32 bytes.

    Args:
        caller: whose key, "" without keys: nobody gets what another one asked for.
        path: OpenAI's endpoint.
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
    """Answers by key: least recently used first out, and none older than it is good for.

    Args:
        max_bytes: what all entries together may take.
        clock: seconds since the epoch.

    Attributes:
        size: bytes that the entries take now.
    """

    def __init__(self, max_bytes: int, *, clock: Callable[[], float] = time.time) -> None:
        self.size = 0
        self._max_bytes = max_bytes
        self._clock = clock
        self._kept: OrderedDict[bytes, tuple[CachedResponse, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, key: bytes, max_age: float | None = None) -> CachedResponse | None:
        """The kept answer; None when there is none, or none that is young enough."""
        found = self._kept.get(key)
        if found is not None:
            entry, until = found
            now = self._clock()
            if now >= until:
                self._drop(key)
            elif max_age is None or now - entry.at <= max_age:
                self._kept.move_to_end(key)
                return entry
        return None

    def put(self, key: bytes, entry: CachedResponse, ttl: float) -> None:
        """Keep an answer for `ttl` seconds; one that would fill the whole cache is not kept.

        Raises:
            ValueError: it is not an answer that may be kept.
        """
        if entry.status != 200:
            raise ValueError(f"an answer with status {entry.status} must not be kept")
        self._drop(key)
        size = len(entry.body) + _OVERHEAD
        if size > self._max_bytes:
            return
        self._kept[key] = (entry, entry.at + ttl)
        self.size += size
        while self.size > self._max_bytes:
            self._drop(next(iter(self._kept)))

    def _drop(self, key: bytes) -> None:
        found = self._kept.pop(key, None)
        if found is not None:
            self.size -= len(found[0].body) + _OVERHEAD
