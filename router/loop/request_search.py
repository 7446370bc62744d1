"""Finds recorded requests by what they and their answers say, and by what is said about them.

    query = request_query(where="has feedback.thumb", text="refund", metadata="team=billing")
    page = await search.page(matching, query, only=None, limit=50)
    page.rows, page.next, page.stopped

No index has these, so requests are looked through, newest first: a page of the list ends where it
has enough of them, after so many requests, or after some seconds. It says where it stopped, and the
next page goes on from there.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from providers.errors import RateLimitError, RequestError
from providers.wire import UNREADABLE
from router.gateway.dialects import dialect_of
from router.loop.checks.languages import require_language_detector
from router.loop.conditions import Condition, Subject, parse_condition
from router.loop.recorded_conversations import completion_of, request_text, text_of
from router.loop.request_feedback import RequestFeedback, latest_values
from router.sealing.traffic import RecordedTraffic
from router.store.feedback import FeedbackStore
from router.store.traffic import TrafficFilter, TrafficRow

# Requests that one page looks through at most, and those of which it reads the bodies.
MAX_REQUESTS = 20_000
MAX_BODIES = 2_000
MAX_SECONDS = 3.0
MAX_TEXT = 500
MAX_METADATA = 600
_PAGE = 500
# Bodies have up to 1 MiB each.
_PAGE_WITH_BODIES = 50
# Pages that a process makes at a time, and those that wait for that.
_AT_ONCE = 2
MAX_WAITING = 16
# A prompt that is longer as JSON is not read for a row of a list.
MAX_EXCERPT_BYTES = 65_536

_STATUS = re.compile(r"[1-5](?:[0-9]{2}|xx)")
_decode = msgspec.json.Decoder(dict[str, Any]).decode


class RequestQuery(NamedTuple):
    """What is looked for besides a filter; the parts that are given must all be met.

    Attributes:
        condition: on the record, its feedback and its texts.
        text: a part of a message or of the answer, whatever its case; "" for none.
        metadata: a name in the request's `metadata`, and its value, None for any; None for none.
    """

    condition: Condition | None = None
    text: str = ""
    metadata: tuple[str, str | None] | None = None

    @property
    def is_empty(self) -> bool:
        """Whether every request meets it."""
        return self == RequestQuery()

    @property
    def reads_bodies(self) -> bool:
        """Whether requests have to be read with their bodies."""
        of_condition = self.condition is not None and self.condition.reads_text
        return bool(self.text) or self.metadata is not None or of_condition


class RequestPage(NamedTuple):
    """The newest requests that were found.

    Attributes:
        rows: the requests.
        next: the number that the next page goes on before; None where all were looked through.
        looked: how many requests were looked through.
        stopped: whether looking was stopped before the page was full.
        back_to: when the last of them came, seconds since the epoch; None without any.
    """

    rows: list[TrafficRow]
    next: int | None
    looked: int
    stopped: bool
    back_to: float | None


class BodyTexts(NamedTuple):
    """What the bodies of a request say, as far as they can be read.

    Attributes:
        messages: of the request, or its prompt or input as messages of the user.
        answer: the text of the answer; the body as it is where it has another form.
        metadata: the request's `metadata`.
    """

    messages: list[dict[str, Any]]
    answer: str
    metadata: Mapping[str, Any]


def request_query(*, where: str = "", text: str = "", metadata: str = "") -> RequestQuery:
    """Return what is looked for.

    Args:
        where: a condition, as of a dataset of requests; "" for none.
        text: a part of a message or an answer; "" for none.
        metadata: `NAME=VALUE`, or `NAME` for any value; "" for none.

    Raises:
        RequestError: one of them is too long, or the condition cannot be read.
        MissingExtraError: the condition needs languages, and their detector is not installed.
    """
    for name, value, limit in (("text", text, MAX_TEXT), ("metadata", metadata, MAX_METADATA)):
        if len(value) > limit:
            raise RequestError(f"{name} has at most {limit} characters.", param=name)
    condition = parse_condition(where) if where.strip() else None
    if condition is not None and "language" in condition.fields:
        require_language_detector("The language of requests")
    pair = None
    if metadata:
        name, equals, value = metadata.partition("=")
        if not name:
            raise RequestError("metadata is NAME=VALUE, or NAME for any value.", param="metadata")
        pair = (name, value if equals else None)
    return RequestQuery(condition, text.casefold(), pair)


def statuses_of(text: str) -> tuple[int, int]:
    """Return the lowest and the highest status that a text names: `429`, `4xx`, `error`.

    Raises:
        RequestError: it names none.
    """
    if text == "error":
        return 400, 599
    if not _STATUS.fullmatch(text):
        raise RequestError(
            f"status is a number, a class as 4xx, or error; not {text!r}.", param="status"
        )
    if text.endswith("xx"):
        low = int(text[0]) * 100
        return low, low + 99
    return int(text), int(text)


class RequestSearch:
    """Finds recorded requests.

    Args:
        recorded: reads the requests.
        store: has what is said about them.
        max_requests: requests that one page looks through at most.
        max_bodies: the same where it reads their bodies.
        max_seconds: no more are begun after so long.
    """

    def __init__(
        self,
        recorded: RecordedTraffic,
        store: FeedbackStore,
        *,
        max_requests: int = MAX_REQUESTS,
        max_bodies: int = MAX_BODIES,
        max_seconds: float = MAX_SECONDS,
    ) -> None:
        self._recorded = recorded
        self._store = store
        self._max_requests = max_requests
        self._max_bodies = max_bodies
        self._max_seconds = max_seconds
        self._room = asyncio.Semaphore(_AT_ONCE)
        self._under_way = 0

    async def page(
        self,
        matching: TrafficFilter,
        query: RequestQuery,
        *,
        only: str | None,
        limit: int,
        before: int | None = None,
    ) -> RequestPage:
        """Return the newest requests that a filter selects and that meet a query.

        Args:
            matching: the filter.
            query: what else is looked for.
            only: the id of the key whose feedback alone counts; None for all.
            limit: the largest number of them.
            before: as in `RecordedTraffic.page`.

        Raises:
            RateLimitError: as many others wait as may.
        """
        if self._under_way >= _AT_ONCE + MAX_WAITING:
            raise RateLimitError(
                "Too many searches of requests are under way; wait a moment.",
                retry_after=self._max_seconds,
            )
        self._under_way += 1
        try:
            async with self._room:
                return await self._page(matching, query, only, limit, before)
        finally:
            self._under_way -= 1

    async def _page(
        self,
        matching: TrafficFilter,
        query: RequestQuery,
        only: str | None,
        limit: int,
        before: int | None,
    ) -> RequestPage:
        feedback = RequestFeedback(self._store, only)
        max_looked = self._max_bodies if query.reads_bodies else self._max_requests
        at_once = min(max_looked, _PAGE_WITH_BODIES if query.reads_bodies else _PAGE)
        until = time.monotonic() + self._max_seconds
        rows: list[TrafficRow] = []
        looked, back_to = 0, None
        while True:
            some = await self._recorded.page(matching, limit=at_once, before=before)
            met = await self._met(some, query, feedback)
            for row in some:
                looked += 1
                back_to = row.at
                if row.number in met:
                    rows.append(row)
                    if len(rows) == limit:
                        return RequestPage(rows, row.number, looked, stopped=False, back_to=row.at)
            if len(some) < at_once:
                return RequestPage(rows, None, looked, stopped=False, back_to=back_to)
            before = some[-1].number
            if looked >= max_looked or time.monotonic() >= until:
                return RequestPage(rows, before, looked, stopped=True, back_to=back_to)

    async def _met(
        self, rows: Sequence[TrafficRow], query: RequestQuery, feedback: RequestFeedback
    ) -> set[int]:
        """Return the numbers of the requests that meet a query."""
        condition = query.condition
        given = {}
        if condition is not None and condition.feedback:
            given = await feedback.about(rows)
        subjects = {row.number: Subject(row, latest_values(given.get(row.id, ()))) for row in rows}
        if not query.reads_bodies:
            return {
                number
                for number, subject in subjects.items()
                if condition is None or condition.holds(subject)
            }
        met: set[int] = set()
        with_bodies = [row.number for row in rows if row.bodies]
        async for some in self._recorded.with_bodies(with_bodies):
            met |= await asyncio.to_thread(_meeting, some, subjects, query)
        if condition is not None and not query.text and query.metadata is None:
            # Their texts are missing, of which a condition may say nothing.
            for number in subjects.keys() - set(with_bodies):
                if condition.holds(subjects[number]):
                    met.add(number)
        return met


def _meeting(
    rows: Sequence[TrafficRow], subjects: Mapping[int, Subject], query: RequestQuery
) -> set[int]:
    """Return the numbers of the requests, read with their bodies, that meet a query."""
    return {row.number for row in rows if _meets(row, subjects[row.number], query)}


def _meets(row: TrafficRow, subject: Subject, query: RequestQuery) -> bool:
    texts = body_texts(row)
    if query.metadata is not None:
        name, value = query.metadata
        if name not in texts.metadata or value not in (None, texts.metadata[name]):
            return False
    if query.text and not any(
        query.text in text.casefold()
        for text in (texts.answer, *(text_of(message) for message in texts.messages))
    ):
        return False
    condition = query.condition
    if condition is None:
        return True
    if condition.reads_text:
        language = "language" in condition.fields
        text = request_text(texts.messages, answer=texts.answer, language=language)
        subject = subject._replace(text=text)
    return condition.holds(subject)


def body_texts(row: TrafficRow) -> BodyTexts:
    """Return what the bodies of a request say, which is read with them."""
    body: dict[str, Any] = {}
    if row.request is not None:
        try:
            body = _decode(row.request)
        except UNREADABLE:
            return BodyTexts(_as_messages(row.request), _answer(row), {})
    metadata = body.get("metadata")
    return BodyTexts(
        _as_messages(next((body[name] for name in _PROMPTS if name in body), None)),
        _answer(row),
        metadata if isinstance(metadata, dict) else {},
    )


_PROMPTS = ("messages", "prompt", "input")


def _as_messages(prompt: Any) -> list[dict[str, Any]]:
    parts = prompt if isinstance(prompt, list) else [prompt]
    return [
        {"role": "user", "content": part} if isinstance(part, str) else part
        for part in parts
        if isinstance(part, str | dict)
    ]


def _answer(row: TrafficRow) -> str:
    if row.response is None or not dialect_of(row.path).generates:
        return ""
    try:
        completion = completion_of(row.response.encode("utf-8", "replace"), row.path)
    except (*UNREADABLE, ValueError):
        return row.response
    # A stream that broke off is no completion.
    return row.response if completion is None else completion.text or completion.refusal


def prompts_of(rows: Sequence[TrafficRow], max_characters: int) -> dict[int, str]:
    """Return the beginning of each request's last message, on one line, by the requests' numbers.

    Args:
        rows: requests, read with their bodies.
        max_characters: of a beginning.
    """
    beginnings = {}
    for row in rows:
        messages = body_texts(msgspec.structs.replace(row, response=None)).messages
        texts = [text_of(message) for message in messages if message.get("role") == "user"]
        text = " ".join((texts[-1] if texts else "")[: 4 * max_characters].split())
        beginnings[row.number] = (
            text if len(text) <= max_characters else f"{text[: max_characters - 1]}\u2026"
        )
    return beginnings
