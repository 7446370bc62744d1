"""`/v1/chat/completions`, `/v1/completions` and `/v1/embeddings`: the hot path.

Plain ASGI, outside Litestar's routing, because that costs as much as the whole relay does. The
client's JSON is read into fields of raw bytes, `model` is replaced, and everything else goes on
and comes back byte for byte.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import random
import re
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

import msgspec
from litestar.openapi.spec import (
    OpenAPI,
    OpenAPIMediaType,
    OpenAPIResponse,
    OpenAPIType,
    Operation,
    PathItem,
    Reference,
    RequestBody,
    Schema,
)
from litestar.types import Receive, Scope, Send

from providers.base import Path
from providers.errors import (
    ClientGoneError,
    EvalrouterError,
    MethodNotAllowedError,
    RequestError,
    UnavailableError,
    UpstreamAuthError,
    UpstreamError,
    UpstreamStatusError,
)
from providers.http import sse
from providers.masking import hide
from providers.names import MAX_NAME_BYTES, check_name
from providers.usage import lacks_usage
from providers.wire import UNREADABLE, Message
from router.api.connection import ClientWatch, Headers, answer, read_body
from router.api.content_codings import decoded
from router.api.errors import body_of, from_exception
from router.api.origins import Hosts, Origins
from router.config.schema import KeepBodies, Price, Route
from router.gateway import answer_checks, tokens
from router.gateway.cache import CachedResponse, CacheUse, key_of, wanted
from router.gateway.dispatch import UpstreamRequest, UpstreamResponse, is_spent, retry_after
from router.gateway.key_holder import Holder
from router.gateway.keys import KEYLESS, NOTHING, Expected
from router.gateway.prices import at_most
from router.gateway.recorder import TAIL_BYTES, settle
from router.gateway.routing import Needs, Plan, Table, share
from router.records import Attempt, Record, Target, Trace
from router.services import Services

log = logging.getLogger("evalrouter")

PATHS: Mapping[str, Path] = {
    "/v1/chat/completions": "chat/completions",
    "/v1/completions": "completions",
    "/v1/embeddings": "embeddings",
}
# What each path cannot do without; the target checks the rest.
REQUIRED: Mapping[Path, str] = {
    "chat/completions": "messages",
    "completions": "prompt",
    "embeddings": "input",
}

# An event larger than this is passed on in pieces rather than kept in memory.
MAX_HELD_BYTES = 1024 * 1024
# Headers of clients that are sent on to providers, with those that the config adds.
PASSED_HEADERS = frozenset({b"openai-beta", b"openai-organization", b"openai-project"})
MAX_PASSED_BYTES = 1024
NO_HEADERS: Mapping[str, str] = {}
# A larger body is not read again for halves of characters: it would hold up other requests.
MAX_SURROGATES_BYTES = 256 * 1024
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F][0-9a-fA-F]{2}")
_SPACE = re.compile(r"[ \t\r\n]*")
# Clients write the field although they have no tools.
_NO_TOOLS = re.compile(rb"null|\[[ \t\r\n]*\]")


def _refuse_constant(name: str) -> Any:
    raise ValueError(name)


# Python's reader takes halves of characters; NaN and the like are no JSON.
_scan = json.JSONDecoder(parse_constant=_refuse_constant).raw_decode
# What hosts call the id that they have for a request.
_REQUEST_IDS = ("x-request-id", "request-id", "apim-request-id", "x-amzn-requestid")
_RATE_LIMIT = re.compile(r"(?:x-|anthropic-)?ratelimit-([a-z0-9-]{1,64})")
# Of a host's headers about rate limits, those that are passed on, and how much of each.
MAX_HOST_HEADERS = 16
MAX_HOST_HEADER_BYTES = 256
# Of our own headers, those that list names; many clients take no more than 8 KB of all headers.
MAX_LIST_BYTES = 2048
_BRACKET = ord("[")
# No client is sent away for longer than this.
MAX_RETRY_AFTER_S = 86_400.0
_TRACEPARENT = re.compile(rb"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
# A stream longer than this is neither cached nor recorded whole.
MAX_KEPT_BYTES = 1024 * 1024
# Digits of a number that may limit an answer; longer ones are for the target to refuse.
MAX_DIGITS = 12
# Bytes of a body up to which its tokens are not worth a closer look before it is let through.
MAX_COUNTED_BYTES = 64 * 1024
# Models whose prices are remembered; clients make names up.
MAX_PRICED = 1000
# A stream's usage is in one of its last events.
TAIL_CHUNKS = 8

_decode_envelope = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_text = msgspec.json.Decoder(str).decode
_decode_messages = msgspec.json.Decoder(list[msgspec.Raw]).decode
_decode_role = msgspec.json.Decoder(Message).decode
_decode_flag = msgspec.json.Decoder(bool | None).decode
_encode = msgspec.json.Encoder().encode


class Completions:
    """The ASGI app of the three paths."""

    def __init__(
        self,
        services: Services,
        hosts: Hosts,
        origins: Origins,
        *,
        random: Callable[[], float] = random.random,
        now: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._routes = services.routes
        self._dispatcher = services.dispatcher
        self._keys = services.keys
        self._traffic = services.traffic
        self._prices = services.prices
        self._priced: dict[str, tuple[Price, ...]] = {}
        self._priced_table: Table | None = None
        self._telemetry = services.telemetry
        self._cache = services.cache
        self._cache_ttl = services.config.cache.ttl
        self._max_body_bytes = services.config.server.max_body_bytes
        self._hosts = hosts
        self._origins = origins
        self._passed = PASSED_HEADERS.union(
            name.lower().encode() for name in services.config.server.pass_headers
        )
        self._random = random
        self._now = now
        self._clock = clock
        self._turns: Counter[str] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; every failure becomes OpenAI's error object."""
        visit = RequestContext(scope, self._now(), self._clock())
        try:
            await self._answer(scope, receive, send, visit)
        except ClientGoneError as error:
            visit.fail(error)
            log.debug("client left, request %s", visit.request_id)
        except asyncio.CancelledError:
            # The server has told the client, and closed the connection.
            visit.fail(UnavailableError("The server is being stopped.", code="server_stopping"))
            raise
        except Exception as error:  # noqa: BLE001  # the border: whatever it is, the client is told
            ours = from_exception(error, "POST", scope["path"])
            visit.fail(ours)
            await _send_error(ours, scope, send, visit, self._now())
        finally:
            record = self._record(visit)
            if visit.grant is not KEYLESS:
                # At once, not with the records' batch: a budget must not lag behind.
                settle(record, self._prices)
                visit.grant.settle(
                    record.billed_tokens(), record.cost_usd, estimated=record.estimated
                )
            self._traffic.add(record)

    async def _answer(
        self, scope: Scope, receive: Receive, send: Send, visit: RequestContext
    ) -> None:
        """The main path: who asks, what for, then cache or plan, dispatch and relay."""
        _check_method(scope)
        # Before the body is read, so that strangers cannot fill our memory.
        headers = visit.headers
        holder = self._keys.recognise(headers)
        if holder is None:
            self._hosts.check(headers.get(b"host"))
            self._origins.check(headers)
        if b"content-encoding" in headers:
            receive = decoded(headers, receive, self._max_body_bytes)
        visit.body = await read_body(receive, self._max_body_bytes, headers.get(b"content-length"))
        asked = visit.asked = parse(visit.body, PATHS[scope["path"]])
        table = self._routes.table
        expected = NOTHING
        if holder is not None and holder.is_metered:
            expected = self._expected(asked, visit.body, table, holder)
        visit.grant = self._keys.admit(holder, asked.model, expected)
        visit.rules = table.routes.get(asked.model)
        cached = None if visit.rules is None else visit.rules.cache
        visit.use = wanted(cached, visit.headers, self._cache_ttl)
        if visit.use is not None and await self._from_cache(asked, visit.use, scope, send, visit):
            return
        visit.trace = self._telemetry.child_traceparent(visit.headers.get(b"traceparent"))
        work = UpstreamRequest(
            asked.path,
            asked.envelope,
            asked.stream,
            visit.request_id,
            want_usage=asked.stream and asked.path != "embeddings" and lacks_usage(asked.envelope),
            traceparent=visit.traceparent(),
            headers=NO_HEADERS if self._passed.isdisjoint(headers) else self._pass(headers),
            attempts=visit.attempts,
        )
        with ClientWatch(receive, self._dispatcher.loop):
            opened = await self._dispatcher.open(self._plan(table, asked, visit), work)
            visit.opened = opened
            try:
                if opened.body is None:
                    await self._relay_stream(opened, send, visit)
                else:
                    await self._relay_body(opened, opened.body, scope, send, visit)
            finally:
                await opened.aclose()

    def _pass(self, headers: Mapping[bytes, bytes]) -> dict[str, str]:
        """Return the client's headers that go on to the provider."""
        return {
            name.decode("latin-1"): value.decode("latin-1")
            for name, value in headers.items()
            if name in self._passed and len(value) <= MAX_PASSED_BYTES
        }

    def _expected(
        self, asked: ParsedRequest, body: bytes, table: Table, holder: Holder
    ) -> Expected:
        """What the request may take, at the dearest of its route's targets."""
        # Only a large body may have pictures in it that a count of bytes would take for words.
        large = len(body) > MAX_COUNTED_BYTES
        prompt = tokens.of_request(body) if large else len(body) // tokens.BYTES_PER_TOKEN
        completion = 0
        if asked.path != "embeddings":
            limit = answer_limit(asked.envelope)
            choices = whole_number(asked.envelope, "n") or 1
            completion = choices * (limit or round(holder.usual_completion))
        if holder.row.budget_usd is None:
            return Expected(prompt, completion)
        prices = self._prices_of(asked.model, table)
        return Expected(prompt, completion, at_most(prices, prompt, completion))

    def _prices_of(self, model: str, table: Table) -> tuple[Price, ...]:
        """Return the prices of all targets that may answer; remembered, as few models are."""
        if table is not self._priced_table or len(self._priced) >= MAX_PRICED:
            self._priced_table, self._priced = table, {}
        prices = self._priced.get(model)
        if prices is None:
            rules = table.routes.get(model)
            models = [model] if rules is None else [arm.model for arm in rules.targets]
            models += () if rules is None else rules.fallback
            targets = [Target.parse(one) for one in models if "/" in one]
            prices = self._priced[model] = self._prices.known(targets)
        return prices

    async def _from_cache(
        self, asked: ParsedRequest, use: CacheUse, scope: Scope, send: Send, visit: RequestContext
    ) -> bool:
        """Answer from the response cache; False when it has nothing that will do."""
        visit.cache_key = key_of(
            caller=visit.grant.key_id,
            path=asked.path,
            route=asked.model,
            stream=asked.stream,
            envelope=asked.envelope,
        )
        entry = self._cache.get(visit.cache_key, use.max_age) if use.read else None
        if entry is None:
            return False
        visit.hit = entry
        headers = visit.answer_headers(entry.content_type, entry.target)
        headers.append((b"x-evalrouter-cache", b"hit"))
        await answer(scope, send, entry.status, headers, entry.body)
        return True

    def _plan(self, table: Table, asked: ParsedRequest, visit: RequestContext) -> Plan:
        """The plan for what is asked: by turn, by sticky key, or by chance."""
        needs = needs_of(asked.envelope) if table.watches_needs(asked.model) else None
        if turns := table.takes_turns(asked.model):
            # The middle of the share: its edge, times `turns`, may round down to the turn before.
            draw = (self._turns[asked.model] % turns + 0.5) / turns
            self._turns[asked.model] += 1
        else:
            sticky = table.sticky(asked.model)
            key = sticky_key(sticky, asked, visit.headers) if sticky else None
            draw = self._random() if key is None else share(key, asked.model)
        return table.plan(asked.model, draw, load_of=self._dispatcher.load_of, needs=needs)

    async def _relay_body(
        self, opened: UpstreamResponse, body: bytes, scope: Scope, send: Send, visit: RequestContext
    ) -> None:
        """Pass a whole answer on."""
        headers = visit.answer_headers_of(opened)
        visit.status = opened.status
        visit.tail.append(body)
        await answer(scope, send, opened.status, headers, body)
        self._keep_in_cache(opened, body, visit)

    async def _relay_stream(
        self, opened: UpstreamResponse, send: Send, visit: RequestContext
    ) -> None:
        """Pass a stream on as it comes, and see that it comes to its end."""
        headers = visit.answer_headers_of(opened)
        headers.append((b"cache-control", b"no-cache"))
        visit.status = opened.status
        self._telemetry.open_streams += 1
        try:
            with opened.reading():
                await send(
                    {"type": "http.response.start", "status": opened.status, "headers": headers}
                )
                keep, held, wrong = await self._relay_chunks(opened, send, visit)
            tail = visit.tail
            if held and wrong is None:
                # Some hosts leave out the blank line after their last event.
                held, wrong = answer_checks.last_event(hide(held, opened.secrets))
                tail.append(held)
            if wrong is not None:
                raise self._dispatcher.error_event(opened, wrong)
            if not answer_checks.is_whole(tail):
                raise answer_checks.cut_off(opened.target)
        except UpstreamError as error:
            # What goes wrong after the end is of no use to anybody.
            if not answer_checks.is_done(visit.tail):
                await self._end_with_error(error, opened, send, visit)
                return
            keep, held = False, b""
        finally:
            self._telemetry.open_streams -= 1
        opened.completed()
        # The client may not read any more, and what it holds is the target's place.
        await opened.aclose()
        if held and opened.hide_usage:
            held = sse.without_usage(held)
        await send({"type": "http.response.body", "body": held, "more_body": False})
        self._keep_in_cache(opened, b"".join(tail) if keep else b"", visit)

    async def _relay_chunks(
        self, opened: UpstreamResponse, send: Send, visit: RequestContext
    ) -> tuple[bool, bytes, bytes | None]:
        """Pass events on up to the end, or to the first error.

        Returns whether all of them are in `visit.tail`, what came of an event that has no end, and
        the data of an error.
        """
        keep = visit.cache_key is not None or self._keeps_body(visit)
        tail = visit.tail = deque(maxlen=None if keep else TAIL_CHUNKS)
        secrets = opened.secrets
        held = b""
        done = False
        wrong: bytes | None = None
        async for chunk in opened.chunks():
            if held:
                chunk, held = held + chunk, b""  # noqa: PLW2901  # the chunk, made whole
            if not chunk.endswith(b"\n\n"):
                # Half an event is of no use to a client, and if the rest never comes it would
                # swallow the error that has to follow it.
                chunk, held = sse.split_complete(chunk)  # noqa: PLW2901
                if len(held) > MAX_HELD_BYTES:
                    chunk, held = chunk + held, b""  # noqa: PLW2901
                if not chunk:
                    continue
            if secrets:
                chunk = hide(chunk, secrets)  # noqa: PLW2901
            if b"[DONE]" in chunk or b"error" in chunk:
                chunk, wrong, done = sse.split_end(chunk)  # noqa: PLW2901
            tail.append(chunk)
            visit.received += len(chunk)
            if keep and visit.received > MAX_KEPT_BYTES:
                # Too long for the record and the cache: only its end is of use.
                keep = False
                tail = visit.tail = deque(tail, maxlen=TAIL_CHUNKS)
                visit.cache_key = None
            if opened.hide_usage:
                chunk = sse.without_usage(chunk)  # noqa: PLW2901
            if chunk:
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
            if done or wrong is not None:
                held = b""
                break
        if done:
            await opened.drain()
        return keep, held, wrong

    async def _end_with_error(
        self, error: UpstreamError, opened: UpstreamResponse, send: Send, visit: RequestContext
    ) -> None:
        """End a stream that broke off: with an event, as the status is long gone."""
        visit.error_code = error.code or "error"
        opened.broke_off()
        # The client may not read any more, and what it holds is the target's place.
        await opened.aclose()
        event = sse.encode(body_of(error))
        await send({"type": "http.response.body", "body": event, "more_body": False})

    def _keeps_body(self, visit: RequestContext) -> bool:
        visit.keep = self._traffic.keep_for(visit.rules)
        return visit.keep == "full"

    def _keep_in_cache(self, opened: UpstreamResponse, body: bytes, visit: RequestContext) -> None:
        """Keep a good answer; a stream only when it came to its proper end."""
        use = visit.use
        if visit.cache_key is None or use is None or not use.write or opened.status != 200:
            return
        if opened.body is None:
            end = sse.read_end(body[-TAIL_BYTES:])
            if not end.done or end.error:
                return
            if opened.hide_usage:
                body = sse.without_usage(body)
        entry = CachedResponse(
            opened.status, opened.content_type, body, str(opened.target), self._now()
        )
        self._cache.put(visit.cache_key, entry, use.ttl)

    def _record(self, visit: RequestContext) -> Record:
        """What is to be known of the request when it has ended."""
        opened, asked, hit = visit.opened, visit.asked, visit.hit
        keep = visit.keep or self._traffic.keep_for(visit.rules)
        whole = b"".join(visit.tail)
        target = None if opened is None else opened.target
        if hit is not None:
            target = Target.parse(hit.target)
            whole = hit.body
        full = keep == "full"
        return Record(
            id=visit.request_id,
            at=visit.at,
            path=visit.path,
            route="" if asked is None else asked.model,
            target=target,
            status=visit.status if hit is None else hit.status,
            error_code=visit.error_code,
            stream=asked is not None and asked.stream,
            cached=hit is not None,
            key_id=visit.grant.key_id,
            attempts=visit.attempts,
            first_byte_s=None if opened is None else opened.first_byte_s,
            total_s=self._clock() - visit.started,
            translation=None if opened is None else opened.translation,
            keep=keep,
            request=visit.body if full else None,
            response=whole if full else None,
            tail=whole[-TAIL_BYTES:] if len(whole) > TAIL_BYTES else whole,
            received=visit.received or len(whole),
            body=visit.body,
            trace=visit.trace,
        )


class RequestContext:
    """One request on its way through: what was asked, and what has come of it so far.

    Attributes:
        headers: the client's, names in lower case.
        path: which of OpenAI's endpoints.
        request_id: the client's `x-request-id` if it is short and printable, else a new one.
        at, started: when it came, as time of day and on the clock that measures.
        grant: the leave of the client's key.
        body, asked: the request, once it was read.
        rules: the route it asks for; None for `provider/model`.
        use, cache_key, hit: the response cache's part in it.
        trace: where it stands in a distributed trace.
        opened: the answer, None as long as there is none.
        attempts: all of them, as far as they have ended.
        status, error_code: how it ended.
        tail: the last chunks of a stream, all of them where they are kept, or the whole body.
        received: bytes of a stream.
        keep: what of it may be kept on record; None as long as that was not decided.
    """

    __slots__ = (
        "asked",
        "at",
        "attempts",
        "body",
        "cache_key",
        "error_code",
        "grant",
        "headers",
        "hit",
        "keep",
        "opened",
        "path",
        "received",
        "request_id",
        "rules",
        "started",
        "status",
        "tail",
        "trace",
        "use",
    )

    def __init__(self, scope: Any, at: float, started: float) -> None:
        self.headers: dict[bytes, bytes] = dict(scope["headers"])
        self.path: Path = PATHS[scope["path"]]
        self.request_id = _request_id(self.headers.get(b"x-request-id"))
        self.at = at
        self.started = started
        self.grant = KEYLESS
        self.body = b""
        self.asked: ParsedRequest | None = None
        self.rules: Route | None = None
        self.use: CacheUse | None = None
        self.cache_key: bytes | None = None
        self.hit: CachedResponse | None = None
        self.trace: Trace | None = None
        self.opened: UpstreamResponse | None = None
        self.attempts: list[Attempt] = []
        self.status = 0
        self.error_code = ""
        self.tail: deque[bytes] = deque()
        self.received = 0
        self.keep: KeepBodies | None = None

    @property
    def route(self) -> str:
        """The `model` it asked for, "" before that is known."""
        return "" if self.asked is None else self.asked.model

    def fail(self, error: EvalrouterError) -> None:
        """The request ended with an error; the status stands if the client already has it."""
        self.status = self.status or error.status
        self.error_code = error.code or "error"

    def traceparent(self) -> str:
        """What to send upstream: our own span, or without traces the client's header as it came."""
        if self.trace is not None:
            return self.trace.header
        came = self.headers.get(b"traceparent", b"")
        return came.decode("latin-1") if _TRACEPARENT.fullmatch(came) else ""

    def answer_headers(self, kind: str, target: str) -> Headers:
        """The headers of every answer."""
        headers = [
            (b"x-request-id", self.request_id.encode()),
            (b"x-evalrouter-route", _name(self.route)),
            (b"x-evalrouter-target", _name(target)),
            (b"content-type", kind.encode("latin-1")),
        ]
        return headers if self.grant is KEYLESS else headers + self.grant.headers()

    def answer_headers_of(self, opened: UpstreamResponse) -> Headers:
        """The headers of a target's answer."""
        headers = self.answer_headers(opened.content_type, str(opened.target))
        headers.append((b"x-evalrouter-attempts", _in_words(opened.attempts)))
        if opened.translation.dropped:
            dropped = ", ".join(opened.translation.dropped)
            headers.append((b"x-evalrouter-dropped", _list(dropped)))
        if self.cache_key is not None:
            headers.append((b"x-evalrouter-cache", b"miss"))
        if passed := host_headers(opened.headers, opened.secrets):
            headers += passed
        return headers


def sticky_key(sticky: str, asked: ParsedRequest, headers: Mapping[bytes, bytes]) -> str | None:
    """What keeps a client on one target; None when the request does not have it."""
    if sticky == "user":
        raw = asked.envelope.get("user")
        return None if raw is None else bytes(raw).decode("utf-8", "replace")
    if sticky == "conversation":
        return _opening(asked.envelope.get("messages"))
    value = headers.get(sticky.removeprefix("header:").lower().encode())
    return None if value is None else value.decode("latin-1")


def _opening(messages: msgspec.Raw | None) -> str | None:
    """The first message that is not a system message: the same in every turn of a conversation."""
    if messages is None:
        return None
    try:
        for raw in _decode_messages(messages):
            if _decode_role(raw).role not in ("system", "developer"):
                return bytes(raw).decode("utf-8", "replace")
    except UNREADABLE:
        return None
    return None


def needs_of(envelope: Mapping[str, msgspec.Raw]) -> Needs:
    """What the request asks of a target, from a look at its bytes rather than a full reading."""
    messages = bytes(envelope.get("messages") or envelope.get("prompt") or b"")
    return Needs(
        vision=b'"image_url"' in messages,
        tools=_NO_TOOLS.fullmatch(envelope.get("tools", b"null")) is None,
        json_schema=b'"json_schema"' in bytes(envelope.get("response_format") or b""),
        tokens=len(messages) // 4 + answer_limit(envelope),
    )


def answer_limit(envelope: Mapping[str, msgspec.Raw]) -> int:
    """Return the most tokens that the request allows for an answer; 0 without a limit."""
    for name in ("max_completion_tokens", "max_tokens"):
        if limit := whole_number(envelope, name):
            return limit
    return 0


def whole_number(envelope: Mapping[str, msgspec.Raw], name: str) -> int:
    """Return a field's value; 0 where it is no whole number of a usual size."""
    field = envelope.get(name)
    if field is None:
        return 0
    raw = bytes(field)
    return int(raw) if len(raw) <= MAX_DIGITS and raw.isdigit() else 0


def _check_method(scope: Any) -> None:
    if scope["method"] != "POST":
        raise MethodNotAllowedError(
            f"{scope['method']} is not allowed here; use POST.", allowed=("POST", "OPTIONS")
        )


class ParsedRequest(NamedTuple):
    """A request body, as far as the router reads it."""

    path: Path
    model: str
    stream: bool
    envelope: dict[str, msgspec.Raw]


def parse(body: bytes, path: Path) -> ParsedRequest:
    """Read the fields the router needs; leave the others as bytes.

    Raises:
        RequestError: not a JSON object, or a required field is missing or ill-typed.
    """
    try:
        envelope = _decode_envelope(body)
    except UNREADABLE as error:
        lenient = _with_lone_surrogates(body)
        if lenient is None:
            raise RequestError(
                f"The request body is not a JSON object: {error}", code="bad_json"
            ) from None
        envelope = lenient
    model = _field(envelope, "model", _decode_text, "a string")
    if not model:
        raise _missing("model")
    if not (model.isascii() and len(model) <= MAX_NAME_BYTES and model.isprintable()):
        check_name(model, "model")
    needed = REQUIRED[path]
    if needed not in envelope:
        raise _missing(needed)
    if needed == "messages" and memoryview(envelope[needed])[0] != _BRACKET:
        # Hosts answer this in many ways, some by a status that speaks against the host.
        raise RequestError("messages must be an array.", param=needed, code="invalid_type")
    stream = _field(envelope, "stream", _decode_flag, "true or false")
    return ParsedRequest(path, model, bool(stream), envelope)


def _with_lone_surrogates(body: bytes) -> dict[str, msgspec.Raw] | None:
    """Return the fields of an object that has halves of surrogate pairs; None for any other.

    JavaScript cuts emoji in two and sends such halves, escaped. They are JSON, although msgspec
    refuses them because they are no text, and they pass as the bytes they are.
    """
    if len(body) > MAX_SURROGATES_BYTES or _SURROGATE.search(body) is None:
        return None
    try:
        text = body.decode()
        fields: dict[str, msgspec.Raw] = {}
        at = _skip(text, 0, "{")
        while text[at] != "}":
            name, at = _scan(text, at)
            # A value may be anything; names are read, stored and shown.
            name.encode()
            start = _skip(text, at, ":")
            _, at = _scan(text, start)
            fields[str(name)] = msgspec.Raw(text[start:at].encode())
            at = _skip(text, at, "" if text[_skip(text, at, "")] == "}" else ",")
        return None if text[at + 1 :].strip() else fields
    except (AttributeError, IndexError, RecursionError, StopIteration, ValueError):
        return None


def _skip(text: str, at: int, mark: str) -> int:
    """Return where the first character is that follows white space, a mark, and white space."""
    at = _SPACE.match(text, at).end()  # type: ignore[union-attr]  # it matches nothing as well
    if not text.startswith(mark, at):
        raise ValueError(f"no {mark!r}")
    return _SPACE.match(text, at + len(mark)).end()  # type: ignore[union-attr]


def _missing(name: str) -> RequestError:
    return RequestError(
        f"Missing required parameter: '{name}'.", param=name, code="missing_required_parameter"
    )


def _field(
    envelope: Mapping[str, msgspec.Raw], name: str, decode: Callable[[Any], Any], what: str
) -> Any:
    raw = envelope.get(name)
    if raw is None:
        return None
    try:
        return decode(raw)
    except UNREADABLE:
        raise RequestError(f"{name} must be {what}.", param=name, code="invalid_type") from None


async def _send_error(
    error: EvalrouterError, scope: Scope, send: Send, visit: RequestContext, now: float
) -> None:
    body = body_of(error)
    headers: Headers = [
        (b"content-type", b"application/json"),
        (b"x-request-id", visit.request_id.encode()),
    ]
    if isinstance(error, UpstreamError):
        headers.append((b"x-evalrouter-route", _printable(visit.route)))
        headers.append((b"x-evalrouter-attempts", _in_words(error.attempts)))
    told: Mapping[str, str] = getattr(error, "headers", {})
    if isinstance(error, UpstreamStatusError | UpstreamAuthError):
        headers += host_headers(told)
        if isinstance(error, UpstreamStatusError):
            headers += _when_to_return(error, now)
        else:
            # The next try meets the same key.
            headers.append((b"x-should-retry", b"false"))
    else:
        headers += [(name.encode(), _printable(value)) for name, value in told.items()]
    await answer(scope, send, error.status, headers, body)


def _when_to_return(error: UpstreamStatusError, now: float) -> Headers:
    """Return what a host says of another try, in the form that OpenAI's clients read."""
    headers: Headers = []
    wait = retry_after(error.headers, now)
    if wait is not None:
        wait = min(wait, MAX_RETRY_AFTER_S)
        headers.append((b"retry-after", b"%d" % math.ceil(wait)))
        headers.append((b"retry-after-ms", b"%d" % math.ceil(wait * 1000)))
    retry = "false" if is_spent(error) else error.headers.get("x-should-retry", "").lower()
    if retry in ("true", "false"):
        headers.append((b"x-should-retry", retry.encode()))
    return headers


def host_headers(told: Mapping[str, str], secrets: tuple[bytes, ...] = ()) -> Headers:
    """Return the headers of a host's answer that clients get, under names of our own.

    Its request id, for a question to its support, and what it says of its rate limits.
    """
    headers: Headers = []
    for name in _REQUEST_IDS:
        if name in told:
            request_id = _bounded(told[name], secrets)
            headers.append((b"x-evalrouter-upstream-request-id", request_id))
            break
    if "ratelimit-" in "\n".join(told):
        found = [(match, told[name]) for name in told if (match := _RATE_LIMIT.fullmatch(name))]
        for match, value in found[:MAX_HOST_HEADERS]:
            name = f"x-evalrouter-upstream-ratelimit-{match[1]}"
            headers.append((name.encode(), _bounded(value, secrets)))
    return headers


def _bounded(value: str, secrets: tuple[bytes, ...]) -> bytes:
    return hide(_printable(value), secrets)[:MAX_HOST_HEADER_BYTES]


def _in_words(attempts: list[Attempt] | tuple[Attempt, ...]) -> bytes:
    """`openai/gpt-4o-mini 503 0.120s, mistral/small ok 0.310s`."""
    return _list(", ".join(f"{one.target} {one.result} {one.seconds:.3f}s" for one in attempts))


def _list(text: str) -> bytes:
    """Return a list of names as a header's value, without its end where it is too long."""
    value = _printable(text)
    if len(value) <= MAX_LIST_BYTES:
        return value
    end = MAX_LIST_BYTES - len(", ...")
    return value[: max(value.rfind(b", ", 0, end), 0) or end] + b", ..."


def _printable(text: str) -> bytes:
    """The text as a header value: a newline in a model's name must not begin another header."""
    return text.encode("ascii", "backslashreplace").translate(_WITHOUT_CONTROLS)


_WITHOUT_CONTROLS = bytes(code if 32 <= code < 127 else 32 for code in range(256))
# Of names there are few, and each is told with every answer.
_name = lru_cache(maxsize=4096)(_printable)


def _request_id(value: bytes | None) -> str:
    if value is not None and 0 < len(value) <= 128:
        text = value.decode("latin-1")
        if text.isascii() and text.isprintable():
            return text
    # Ids that sort by time are written into the store's index at its end, the cheapest place.
    return f"req_{time.time_ns():016x}{random.getrandbits(64):016x}"


def describe(schema: OpenAPI) -> None:
    """Add the three paths to the OpenAPI document; they are not Litestar's, so it cannot know."""
    assert schema.paths is not None
    for path, name in PATHS.items():
        properties: dict[str, Schema | Reference] = {
            "model": Schema(
                type=OpenAPIType.STRING, description="A route's name, or provider/model."
            ),
            REQUIRED[name]: Schema(description="As in OpenAI's API."),
        }
        if name != "embeddings":
            properties["stream"] = Schema(type=OpenAPIType.BOOLEAN)
        body = Schema(
            type=OpenAPIType.OBJECT,
            required=["model", REQUIRED[name]],
            properties=properties,
            description="OpenAI's request. Fields not listed here pass to the target untouched.",
        )
        answer = OpenAPIMediaType(schema=Schema(type=OpenAPIType.OBJECT))
        schema.paths[path] = PathItem(
            post=Operation(
                operation_id=name.replace("/", "_"),
                tags=["models"],
                summary=f"OpenAI's {name}, by any route",
                request_body=RequestBody(
                    content={"application/json": OpenAPIMediaType(schema=body)}, required=True
                ),
                responses={
                    "200": OpenAPIResponse(
                        description="The target's answer, byte for byte.",
                        content={"application/json": answer, "text/event-stream": answer},
                    ),
                    "default": OpenAPIResponse(
                        description="OpenAI's error object.",
                        content={"application/json": answer},
                    ),
                },
            )
        )
