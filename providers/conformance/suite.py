"""Examines how well a host speaks OpenAI's API: some fifty checks, each with its evidence.

    report = await examine(provider, "model", kind="llamafile")
    print(report.counts)                 # {"pass": 40, "fail": 2, "unsupported": 7}

`checks.py` holds the checks, which do not depend on how clever the model is: a tiny one with random
weights passes. A check is `pass`, `fail`, or `unsupported` where the host, or the provider that
translates for it, says that it cannot do this. A request that is silently ignored is a `fail`.

Each check is a handful of short requests; with a paid host, all of them cost less than a cent,
but for `error.long_prompt`, which runs only on request.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any, Literal, NamedTuple

import msgspec

from providers import wire
from providers.base import Call, Path, Provider, Reply, Translation
from providers.errors import EvalrouterError, UpstreamStatusError
from providers.http import sse
from providers.shortening import shortened

CheckOutcome = Literal["pass", "fail", "unsupported"]

# Statuses by which a host says that it cannot do what the request needs.
_CANNOT = frozenset({400, 404, 405, 415, 422, 501})
_EVIDENCE = 300


class CheckResult(msgspec.Struct, frozen=True, kw_only=True):
    """The result of one check.

    Attributes:
        name: `group.check`.
        title: what the check requires, in words.
        outcome: see the module.
        evidence: what the host answered.
        seconds: how long the check took.
    """

    name: str
    title: str
    outcome: CheckOutcome
    evidence: str
    seconds: float


class ConformanceReport(msgspec.Struct, frozen=True, kw_only=True):
    """All results for one model of one provider.

    Attributes:
        provider: the provider's name in the config.
        kind: the provider's kind.
        model: the model that answered.
        answered_as: the model version that the host reports; "" without one.
        fingerprint: the host's `system_fingerprint`; "" without one.
        date: when the checks ran, ISO 8601 in UTC.
        results: the results in the order of the checks.
    """

    provider: str
    kind: str
    model: str
    answered_as: str
    fingerprint: str
    date: str
    results: tuple[CheckResult, ...]

    @property
    def counts(self) -> dict[str, int]:
        """Return how often each outcome occurred."""
        counts = Counter(result.outcome for result in self.results)
        return {outcome: counts[outcome] for outcome in ("pass", "fail", "unsupported")}


class Failed(Exception):  # noqa: N818  # the outcome's name; never leaves this module
    """The check failed; the text is its evidence."""


class Unsupported(Exception):  # noqa: N818  # the outcome's name; never leaves this module
    """The host says that it cannot; the text is its evidence."""


class WholeAnswer(NamedTuple):
    """A whole answer: its JSON and what became of the request's fields."""

    status: int
    body: dict[str, Any]
    translation: Translation

    @property
    def choice(self) -> dict[str, Any]:
        """Return the first choice. Raises Failed without one."""
        choices = self.body.get("choices")
        if not choices or not isinstance(choices[0], dict):
            raise Failed(f"no choices in {show(self.body)}")
        choice: dict[str, Any] = choices[0]
        return choice

    @property
    def message(self) -> dict[str, Any]:
        """Return the first choice's message. Raises Failed without one."""
        message = self.choice.get("message")
        if not isinstance(message, dict):
            raise Failed(f"no message in {show(self.choice)}")
        return message

    @property
    def text(self) -> str:
        """Return the first choice's text. Raises Failed when the content is no text."""
        content = self.message.get("content")
        if not isinstance(content, str):
            raise Failed(f"content is {show(content)}")
        return content


class StreamedAnswer(NamedTuple):
    """A streamed answer: its chunks as JSON, in how many reads they came, and whether it ended."""

    chunks: list[dict[str, Any]]
    reads: int
    done: bool
    content_type: str
    translation: Translation

    @property
    def text(self) -> str:
        """Return the first choice's text."""
        return "".join(
            (choice.get("delta") or {}).get("content") or choice.get("text") or ""
            for choice in self.choices
        )

    @property
    def choices(self) -> list[dict[str, Any]]:
        """Return all pieces of the first choice."""
        return [
            choice
            for chunk in self.chunks
            for choice in chunk.get("choices") or ()
            if not choice.get("index")
        ]


class ExaminedHost:
    """The provider under examination, with the requests that the checks make.

    Args:
        provider: the provider.
        model: the model's name at the provider.
        timeout: seconds for each request.
        wrong_key: makes the same provider with a wrong key; None where the config has no key.
        long_words: words of the prompt that is meant to be too long; 0 leaves that check out.
    """

    def __init__(
        self,
        provider: Provider,
        model: str,
        *,
        timeout: float = 60.0,
        wrong_key: Callable[[], Provider] | None = None,
        long_words: int = 0,
    ) -> None:
        self.provider = provider
        self.model = model
        self.wrong_key = wrong_key
        self.long_words = long_words
        self.first: WholeAnswer | None = None
        self._timeout = timeout

    async def ask(
        self, path: Path = "chat/completions", *, feature: str = "", **fields: Any
    ) -> WholeAnswer:
        """Send a request and return the whole answer.

        `feature` names the field that the check is about: where the host or the provider says that
        it cannot do it, that is an Unsupported. Without `feature`, an error is a Failed.
        """
        async with self._sent(path, fields, stream=False, feature=feature) as reply:
            body = await reply.read()
        return WholeAnswer(reply.status, _object(body), reply.translation)

    async def stream(
        self, path: Path = "chat/completions", *, feature: str = "", **fields: Any
    ) -> StreamedAnswer:
        """Send a request and return the streamed answer, read to its end."""
        fields = {"stream": True, **fields}
        parser, events, reads = sse.Parser(), [], 0
        async with self._sent(path, fields, stream=True, feature=feature) as reply:
            async for chunk in reply.chunks():
                parsed = parser.feed(chunk)
                reads += bool(parsed)
                events += parsed
        done = any(event.data == b"[DONE]" for event in events)
        chunks = [_object(event.data) for event in events if event.data != b"[DONE]"]
        errors = [chunk["error"] for chunk in chunks if "error" in chunk]
        if errors:
            raise Failed(f"an error in the stream: {show(errors[0])}")
        kind = reply.headers.get("content-type", "")
        return StreamedAnswer(chunks, reads, done, kind, reply.translation)

    async def refused(
        self,
        path: Path = "chat/completions",
        *,
        by: Provider | None = None,
        model: str | None = None,
        **fields: Any,
    ) -> UpstreamStatusError:
        """Return the error that a request gets. Raises Failed when the request succeeds.

        A refusal by the provider counts: a host that would only cut the prompt never gets it.
        """
        call = self._call(path, fields, stream=False, model=model)
        call.on_unsupported = "error"
        async with asyncio.timeout(self._timeout):
            reply = await (by or self.provider).send(call)
            try:
                body = await reply.read()
            finally:
                await reply.aclose()
        if reply.status < 400:
            answer = _object(body)
            raise Failed(f"answered with {reply.status}, as model {answer.get('model')!r}")
        headers = {name.lower(): value for name, value in reply.headers.items()}
        return UpstreamStatusError(reply.status, body, headers, f"status {reply.status}")

    async def begin(self, **fields: Any) -> Reply:
        """Return a streamed answer before any of it is read; the caller closes it."""
        call = self._call("chat/completions", {"stream": True, **fields}, stream=True)
        return await self.provider.send(call)

    def _call(
        self, path: Path, fields: Mapping[str, Any], *, stream: bool, model: str | None = None
    ) -> Call:
        named = {"model": model or self.model, **fields}
        return Call(
            path=path,
            model=model or self.model,
            envelope={name: msgspec.Raw(wire.encode(value)) for name, value in named.items()},
            stream=stream,
        )

    @asynccontextmanager
    async def _sent(self, path: Path, fields: Mapping[str, Any], *, stream: bool, feature: str):  # type: ignore[no-untyped-def]  # noqa: ANN202  # contextlib's own type says it
        async with asyncio.timeout(self._timeout):
            reply = await self.provider.send(self._call(path, fields, stream=stream))
            try:
                if reply.status >= 400:
                    raise _cannot(reply, await reply.read(), feature)
                dropped = reply.translation.dropped
                lost = [name for name in dropped if feature and _is_of(name, feature)]
                if lost:
                    raise Unsupported(f"not sent: {lost[0]} ({dropped[lost[0]]})")
                yield reply
            finally:
                await reply.aclose()


def _is_of(name: str, feature: str) -> bool:
    """Return whether a dropped field is the feature, or a part of it."""
    return name.split(".", maxsplit=1)[0] in (feature, {"tools": "tool_choice"}.get(feature))


def _cannot(reply: Reply, body: bytes, feature: str) -> Exception:
    error = UpstreamStatusError(reply.status, body, {}, f"status {reply.status}")
    message = f"status {reply.status}: {error.as_openai()['error']['message']}"
    return Unsupported(message) if feature and reply.status in _CANNOT else Failed(message)


def _object(body: bytes) -> dict[str, Any]:
    try:
        return msgspec.json.decode(body, type=dict[str, Any])
    except wire.UNREADABLE as error:
        raise Failed(f"not a JSON object ({error}): {body[:100]!r}") from None


def show(value: Any) -> str:
    """Return a value as evidence: JSON, cut to a readable length."""
    text = value if isinstance(value, str) else wire.encode(value).decode()
    return shortened(text, _EVIDENCE)


class Check(NamedTuple):
    """One check: its name, its title, and the function that returns its evidence."""

    name: str
    title: str
    ask: Callable[[ExaminedHost], Awaitable[str]]


async def examine(
    host: ExaminedHost,
    checks: Sequence[Check],
    *,
    kind: str,
    on_result: Callable[[CheckResult], None] = lambda _: None,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
    clock: Callable[[], float] = time.monotonic,
) -> ConformanceReport:
    """Run all checks, one after the other.

    Args:
        host: the host to examine.
        checks: the checks to run; `checks.CHECKS` has all.
        kind: the provider's kind, for the report.
        on_result: called with each result as it comes.
        now: returns the date of the report.
        clock: returns seconds, to time the checks.
    """
    results = []
    for check in checks:
        began = clock()
        outcome, evidence = await _outcome(check, host)
        results.append(
            CheckResult(
                name=check.name,
                title=check.title,
                outcome=outcome,
                evidence=show(evidence),
                seconds=round(clock() - began, 3),
            )
        )
        on_result(results[-1])
    first = host.first.body if host.first else {}
    return ConformanceReport(
        provider=host.provider.name,
        kind=kind,
        model=host.model,
        answered_as=str(first.get("model") or ""),
        fingerprint=str(first.get("system_fingerprint") or ""),
        date=now().replace(microsecond=0).isoformat(),
        results=tuple(results),
    )


async def _outcome(check: Check, host: ExaminedHost) -> tuple[CheckOutcome, str]:
    try:
        return "pass", await check.ask(host)
    except Failed as failure:
        return "fail", str(failure)
    except Unsupported as lack:
        return "unsupported", str(lack)
    except TimeoutError:
        return "fail", "no answer in time"
    except EvalrouterError as error:
        return "fail", error.message
    except (KeyError, TypeError, AttributeError, IndexError, ValueError) as error:
        # The answer has not even the shape that the check relies on.
        return "fail", f"not OpenAI's shape: {type(error).__name__} {error}"
