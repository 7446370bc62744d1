"""One request to a model path, from its first byte to the record that it leaves."""

from __future__ import annotations

from collections import deque
from typing import Any

import msgspec

from providers import wire
from providers.base import Path
from providers.errors import EvalrouterError
from router.api.connection import Headers
from router.api.request_parsing import PATHS, conversation_of, parse, user_of
from router.api.response_headers import attempts_value, host_headers, list_value, printable_name
from router.config.routes import KeepBodies, Route
from router.gateway.cache import CachedResponse, CacheUse
from router.gateway.dialects import DIALECTS, Dialect
from router.gateway.hooks import Assignment
from router.gateway.keys import KEYLESS, Grant
from router.gateway.recorder import HEAD_BYTES
from router.gateway.translated import ESTIMATED
from router.gateway.upstream import UpstreamResponse
from router.openai.response_turns import ResponseTurn
from router.records import (
    AssignedArm,
    Attempt,
    LearnedChoice,
    Odds,
    Record,
    Target,
    Trace,
    name_of,
    new_record_id,
)

# The longest `x-request-id` of a client that is taken over.
MAX_REQUEST_ID_BYTES = 128
# Of the first chunk of a stream, which has the prompt's tokens in some dialects.
MAX_START_BYTES = 64 * 1024


class RequestContext(msgspec.Struct, eq=False):
    """One request on its way through: the request, and what has become of it so far.

    Attributes:
        headers: the client's headers, names in lower case.
        path: the endpoint, below `/v1`.
        dialect: what its requests and answers are like.
        record_id: the id of its record.
        request_id: the client's `x-request-id` if it is short and printable, else the record's id.
        at, started: when it came, as time of day and on the clock that measures.
        grant: what the client's key permits, and how its use is settled.
        body: the request's body, b"" before it was read.
        model, stream, envelope: the body's `model` and `stream`, and all its fields as bytes;
            "", False and none before it was parsed.
        user: the client's identifier of its user, as it is stored; "" without one.
        stored: whether the client lets it be stored.
        hooks: which hooks get it after its answer, as in Record.
        route: the route that `model` names; None for `provider/model`.
        cache_use, cache_key, cached: how it uses the response cache, its key there, and the answer
            that the cache had.
        trace: the trace that it is recorded in; None for none.
        traceparent: what targets get of a trace that it is not recorded in; "" for nothing.
        unit: a hash of the key that its route keeps to one target; "" without one.
        first, odds: the target that its plan tries first, and with which probability each was; None
            as in Record.
        explores: whether chance chooses its target, by the route's `explore`.
        learned: why a learned route chose its target; None for other routes.
        assigned: the arm of a rollout that it is in; None without a rollout.
        sampled: the same where it is in the rollout's sample; None for all others.
        turn: what it continues, where its dialect has turns; None otherwise.
        response: the target's answer, None before it has begun.
        attempts: the requests to targets that have ended so far.
        status, error_code: how it ended.
        tail: the last chunks of a stream, all of them where they are kept, or the whole body.
        received: bytes of a stream.
        keep: what of it may be stored in its record; None before that was decided.
    """

    headers: dict[bytes, bytes]
    path: Path
    dialect: Dialect
    record_id: str
    request_id: str
    at: float
    started: float
    grant: Grant = KEYLESS
    body: bytes = b""
    model: str = ""
    stream: bool = False
    envelope: dict[str, msgspec.Raw] = {}
    user: str = ""
    stored: bool = True
    hooks: int = 0
    route: Route | None = None
    cache_use: CacheUse | None = None
    cache_key: bytes | None = None
    cached: CachedResponse | None = None
    trace: Trace | None = None
    traceparent: str = ""
    unit: str = ""
    first: Target | None = None
    odds: Odds | None = None
    explores: bool = False
    learned: LearnedChoice | None = None
    assigned: AssignedArm | None = None
    sampled: Assignment | None = None
    turn: ResponseTurn | None = None
    response: UpstreamResponse | None = None
    attempts: list[Attempt] = []
    status: int = 0
    error_code: str = ""
    tail: deque[bytes] = msgspec.field(default_factory=deque)
    received: int = 0
    keep: KeepBodies | None = None

    # Shows neither what the client wrote nor any secret.
    __repr__ = object.__repr__

    @classmethod
    def of(cls, scope: Any, at: float, started: float) -> RequestContext:
        """Return the context of a request that has just come."""
        headers: dict[bytes, bytes] = dict(scope["headers"])
        record_id = new_record_id()
        given = headers.get(b"x-request-id")
        request_id = record_id if given is None else _request_id(given) or record_id
        path = PATHS[scope["path"]]
        return cls(headers, path, DIALECTS[path], record_id, request_id, at, started)

    def read(self, body: bytes) -> None:
        """Take over the request's body, and parse what the router needs of it.

        Raises:
            RequestError: it is not a JSON object, or a field that is read is missing or ill-typed.
        """
        self.body = body
        self.model, self.stream, self.envelope = parse(body, self.path)
        self.user = user_of(self.envelope, self.dialect)
        self.stored = wire.is_stored(self.envelope)

    def fail(self, error: EvalrouterError) -> None:
        """Note the error that the request ended with; a status that was already sent stands."""
        self.status = self.status or error.status
        self.error_code = error.code or "error"

    def answer_headers(self, content_type: str, target: str) -> Headers:
        """Return the headers that every answer has."""
        headers = [
            (b"x-request-id", self.request_id.encode()),
            (b"x-evalrouter-record", self.record_id.encode()),
            (b"x-evalrouter-route", printable_name(self.model)),
            (b"x-evalrouter-target", printable_name(target)),
            (b"content-type", content_type.encode("latin-1")),
        ]
        if self.dialect.id_header:
            headers.append((self.dialect.id_header, self.request_id.encode()))
        return headers if self.grant is KEYLESS else headers + self.grant.headers()

    def answer_headers_of(self, response: UpstreamResponse) -> Headers:
        """Return the headers of a target's answer."""
        headers = self.answer_headers(response.content_type, name_of(response.target))
        headers.append((b"x-evalrouter-attempts", attempts_value(self.attempts)))
        if response.translation.dropped:
            dropped = ", ".join(response.translation.dropped)
            headers.append((b"x-evalrouter-dropped", list_value(dropped)))
        if self.dialect.is_free and ESTIMATED in response.headers:
            headers.append((ESTIMATED.encode(), b"input_tokens"))
        if self.cache_key is not None:
            headers.append((b"x-evalrouter-cache", b"miss"))
        if passed := host_headers(response.headers, response.secrets):
            headers += passed
        return headers

    def record(self, keep: KeepBodies, ended: float) -> Record:
        """Return the record of the request, which has ended.

        Args:
            keep: what of it may be stored.
            ended: when, on the clock of `started`.
        """
        response, cached = self.response, self.cached
        whole = b"".join(self.tail)
        target = None if response is None else response.target
        if cached is not None:
            target = Target.parse(cached.target)
            whole = cached.body
        size = len(whole)
        record = Record(
            id=self.record_id,
            at=self.at,
            path=self.path,
            route=self.model,
            target=target,
            status=self.status,
            error_code=self.error_code,
            stream=self.stream,
            key_id=self.grant.key_id,
            user="" if keep == "none" else self.user,
            request_id=self.request_id,
            conversation="" if keep == "none" else conversation_of(self.headers),
            stored=self.stored,
            assigned=self.assigned,
            unit=self.unit,
            first=self.first,
            odds=self.odds,
            learned=self.learned,
            request_bytes=len(self.body),
            attempts=self.attempts,
            first_byte_s=None if response is None else response.first_byte_s,
            total_s=ended - self.started,
            translation=None if response is None else response.translation,
            keep=keep,
            tail=whole,
            received=self.received or size,
            body=self.body,
            trace=self.trace,
        )
        if cached is not None:
            record.cached, record.status = True, cached.status
        if size > self.dialect.tail_bytes:
            record.tail, record.head = whole[-self.dialect.tail_bytes :], whole[:HEAD_BYTES]
        elif self.dialect.reads_start and response is not None and self.received > size:
            record.head = response.first[:MAX_START_BYTES]
        if self.dialect.is_free:
            record.cost_usd = 0.0
        if keep == "full" or self.hooks:
            record.hooks, record.request, record.response = self.hooks, self.body, whole
        if self.sampled is not None:
            self.sampled.note(record)
        return record


def _request_id(header: bytes) -> str:
    """Return a client's id; "" for one that is not taken over."""
    text = header.decode("latin-1") if len(header) <= MAX_REQUEST_ID_BYTES else ""
    return text if text.isascii() and text.isprintable() else ""
