"""What a scripted server received, for tests: each request, and how its answer ended."""

from __future__ import annotations

import hashlib
from collections import Counter, deque
from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from providers import wire

# Requests stored with their bodies; all are counted.
MAX_REQUESTS = 10_000
_SECRET_HEADERS = frozenset({"authorization", "proxy-authorization", "api-key", "x-api-key"})

ResponseEnding = Literal["complete", "broken", "client_gone", "server_closed"]


class Received(msgspec.Struct, kw_only=True):
    """One request as the server got it.

    Attributes:
        number: from 1, in the order of arrival.
        path: the path below `/v1/`.
        model: the model that the body names; "" for none.
        headers: headers with names in lower case; a secret is replaced by its hash.
        body: the JSON as it came, or the text when it is not JSON.
        outcome: `open` while it is answered; `broken` when the script broke it off;
            `client_gone` when the client left before the end.
    """

    number: int
    path: str
    model: str
    headers: dict[str, str]
    body: msgspec.Raw | str
    outcome: ResponseEnding | Literal["open"] = "open"


class Log:
    """What a server received: counts of everything, bodies of the last `MAX_REQUESTS`."""

    def __init__(self) -> None:
        self.requests: deque[Received] = deque(maxlen=MAX_REQUESTS)
        self.total = 0
        self._closed: Counter[str] = Counter()
        self._paths: Counter[str] = Counter()
        self._models: Counter[str] = Counter()

    def open(
        self, path: str, model: str, headers: Mapping[str, str], body: msgspec.Raw | str
    ) -> Received:
        """Note a request's arrival. `model` is "" for one that the script lacks."""
        self.total += 1
        self._paths[path] += 1
        self._models[model] += 1
        shown = {
            name.lower(): _fingerprint(value) if name.lower() in _SECRET_HEADERS else value
            for name, value in headers.items()
        }
        received = Received(number=self.total, path=path, model=model, headers=shown, body=body)
        self.requests.append(received)
        return received

    def close(
        self,
        received: Received,
        outcome: ResponseEnding,
    ) -> None:
        """Note how a request ended."""
        received.outcome = outcome
        self._closed[outcome] += 1

    @property
    def counts(self) -> dict[str, Any]:
        """`total`, and the same divided by `outcomes`, `paths` and `models`."""
        outcomes = {"open": self.total - self._closed.total(), **self._closed}
        paths, models = dict(self._paths), dict(self._models)
        return {"total": self.total, "outcomes": outcomes, "paths": paths, "models": models}

    def as_json(self, last: int = MAX_REQUESTS) -> bytes:
        """Return the counts and the `last` stored requests, in the order of arrival."""
        requests = list(self.requests)[-last:] if last > 0 else []
        return wire.encode({"counts": self.counts, "requests": requests})


def _fingerprint(secret: str) -> str:
    return f"present, sha256 {hashlib.sha256(secret.encode()).hexdigest()[:16]}"
