"""Counts what targets claim to be, and what their live answers are like, from records.

    counts = AnswerCounts(store)
    await counts.open()
    counts.add(record)          # completed; well under a microsecond more than a dict's look-up
    await counts.close()

Every few seconds the counts are added to those in the store. Of languages a small sample is taken,
where a watch asks for them. A host may write anything where a version belongs: names are cut, and a
target has a bounded number of them.
"""

from __future__ import annotations

import math
import time
from collections import Counter, deque
from collections.abc import Callable, Collection
from contextlib import suppress
from importlib.util import find_spec
from typing import Any

import msgspec

from providers.completion import read_completion
from providers.errors import EvalrouterError, StoreError
from providers.wire import UNREADABLE
from router.gateway.dialects import DIALECTS
from router.records import Record, Target
from router.rounds import Rounds
from router.store.watches import HOUR_S, OTHERS, LanguageCount, LiveHour, ModelVersion, WatchStore

EVERY_S = 5.0
MAX_NAME = 120
# New versions of a target, and targets, that are counted apart between two writes.
_NEW_VERSIONS = 64
_TARGETS = 4096
# Answers of a target whose language is looked at between two writes, which takes 0.3 ms each.
_SAMPLED = 10
_FEWEST_LETTERS = 12
_FORGET_EVERY_S = 3600.0
_STORED_S = 40 * 86400.0
# As hosts write it for an answer that was refused, by the model or by a filter.
_REFUSED = frozenset({"content_filter", "refusal", "safety"})


# The target, the model and the fingerprint that its host named.
_VersionKey = tuple[Target, str, str]


class _Delta(msgspec.Struct):
    content: str | None = None


class _ChunkChoice(msgspec.Struct):
    delta: _Delta = msgspec.field(default_factory=_Delta)


class _Chunk(msgspec.Struct):
    choices: list[_ChunkChoice] = []


_decode_chunk = msgspec.json.Decoder(_Chunk).decode


class _Seen:
    """How often a version was seen, and when; with the hour that its last live answer was in."""

    __slots__ = ("first_at", "hour", "hour_begin", "hour_end", "last_at", "requests")

    def __init__(self, at: float) -> None:
        self.first_at = self.last_at = at
        self.requests = 0
        self.hour = _Hour()
        # Nothing is in it, so that the first answer looks its hour up.
        self.hour_begin, self.hour_end = math.inf, -math.inf


class _Hour:
    """What live answers of a target were like in an hour."""

    __slots__ = ("cost_usd", "counted", "priced", "refusals", "requests", "tokens")

    def __init__(self) -> None:
        self.requests = self.refusals = self.tokens = self.counted = self.priced = 0
        self.cost_usd = 0.0


class AnswerCounts:
    """Counts completed records.

    Args:
        store: takes the counts.
        languages: returns the targets of which a watch wants the languages of answers.
        clock: seconds since the epoch.
    """

    def __init__(
        self,
        store: WatchStore,
        *,
        languages: Callable[[], Collection[str]] = tuple,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._languages_of = languages
        self._clock = clock
        self._versions: dict[_VersionKey, _Seen] = {}
        self._new: Counter[Target] = Counter()
        self._hours: dict[tuple[Target, float], _Hour] = {}
        # The thread of records appends to it while others are written.
        self._languages: deque[tuple[str, float, str]] = deque()
        self._sampled: Counter[str] = Counter()
        self._identify: Callable[[bytes], tuple[str, float]] | None = None
        self._can_identify = find_spec("py3langid") is not None
        self._forgotten_at = float("-inf")
        self._rounds = Rounds(
            self.flush,
            every=EVERY_S,
            name="evalrouter-answer-counts",
            failing="counts of answers wait",
            finishes=True,
        )
        self._is_open = False

    async def open(self) -> None:
        """Begin to write counts; the store must be open."""
        self._rounds.open()
        self._is_open = True

    async def close(self) -> None:
        """Write what was counted, and stop."""
        await self._rounds.close()
        if self._is_open:
            self._is_open = False
            with suppress(EvalrouterError):
                await self.flush()

    def add(self, record: Record) -> None:
        """Count a completed record, on the event loop."""
        target = record.target
        if target is None or record.cached:
            return
        at = record.at
        key = (target, record.model, record.system_fingerprint)
        seen = self._versions.get(key)
        if seen is None:
            seen = self._add_version(key, at)
        seen.requests += 1
        if at > seen.last_at:
            seen.last_at = at
        elif at < seen.first_at:
            seen.first_at = at
        if (
            record.traffic_class != "live"
            or record.error_code
            or record.status >= 400
            or not DIALECTS[record.path].generates
        ):
            return
        if at >= seen.hour_end or at < seen.hour_begin:
            seen.hour_begin = at // HOUR_S * HOUR_S
            seen.hour_end = seen.hour_begin + HOUR_S
            seen.hour = self._hours.setdefault((target, seen.hour_begin), _Hour())
        hour, tokens, cost_usd = seen.hour, record.completion_tokens, record.cost_usd
        hour.requests += 1
        if record.finish_reason in _REFUSED:
            hour.refusals += 1
        if tokens is not None:
            hour.tokens += tokens
            hour.counted += 1
        if cost_usd is not None:
            hour.cost_usd += cost_usd
            hour.priced += 1

    def _add_version(self, key: _VersionKey, at: float) -> _Seen:
        target, model, fingerprint = key
        bounded = (target, model[:MAX_NAME], fingerprint[:MAX_NAME])
        if bounded not in self._versions:
            self._new[target] += 1
            if self._new[target] > _NEW_VERSIONS or len(self._new) > _TARGETS:
                bounded = (target, OTHERS, "")
        return self._versions.setdefault(bounded, _Seen(at))

    def sample(self, record: Record) -> None:
        """Look at the language of an answer, for few of them; on a thread, before it is settled.

        Of an answer that was settled before, to charge for it, the text is gone.
        """
        if not record.tail or record.target is None or record.traffic_class != "live":
            return
        target = str(record.target)
        if not self._can_identify or target not in self._languages_of():
            return
        if self._sampled[target] >= _SAMPLED:
            return
        self._sampled[target] += 1
        content_of = DIALECTS[record.path].content_of
        text = _text_of(record.tail) if content_of is None else content_of(record.tail).text
        language = self._language(text)
        if language:
            self._languages.append((target, record.at // HOUR_S * HOUR_S, language))

    def _language(self, text: str) -> str:
        """Return the code of a text's language; "" for one that is too short."""
        if sum(map(str.isalpha, text[:200])) < _FEWEST_LETTERS:
            return ""
        if self._identify is None:
            import py3langid  # noqa: PLC0415  # an extra, which takes a while to load

            self._identify = py3langid.classify
        return str(self._identify(text[:2000].encode(errors="replace"))[0])

    async def flush(self) -> None:
        """Add what was counted to the store.

        Raises:
            StoreError: the database does not work; the counts wait.
        """
        versions, self._versions = self._versions, {}
        hours, self._hours = self._hours, {}
        languages = Counter(self._languages.popleft() for _ in range(len(self._languages)))
        self._new.clear()
        self._sampled.clear()
        try:
            await self._store.count_answers(
                [_version(key, seen) for key, seen in versions.items()],
                [_hour(key, hour) for key, hour in hours.items()],
                [LanguageCount(*key, answers) for key, answers in languages.items()],
            )
        except StoreError:
            self._put_back(versions, hours, languages)
            raise
        now = self._clock()
        if now - self._forgotten_at >= _FORGET_EVERY_S:
            self._forgotten_at = now
            await self._store.forget_hours(now - _STORED_S)

    def _put_back(
        self,
        versions: dict[_VersionKey, _Seen],
        hours: dict[tuple[Target, float], _Hour],
        languages: Counter[tuple[str, float, str]],
    ) -> None:
        for key, seen in versions.items():
            present = self._add_version(key, seen.first_at)
            present.first_at = min(present.first_at, seen.first_at)
            present.last_at = max(present.last_at, seen.last_at)
            present.requests += seen.requests
        for place, hour in hours.items():
            now = self._hours.setdefault(place, _Hour())
            for name in _Hour.__slots__:
                setattr(now, name, getattr(now, name) + getattr(hour, name))
        self._languages.extend(languages.elements())


def _version(key: _VersionKey, seen: _Seen) -> ModelVersion:
    target, model, fingerprint = key
    return ModelVersion(
        target=str(target),
        model=model,
        system_fingerprint=fingerprint,
        first_at=seen.first_at,
        last_at=seen.last_at,
        requests=seen.requests,
    )


def _hour(key: tuple[Target, float], hour: _Hour) -> LiveHour:
    target, begin = key
    values: dict[str, Any] = {name: getattr(hour, name) for name in _Hour.__slots__}
    return LiveHour(target=str(target), hour=begin, **values)


def _text_of(tail: bytes) -> str:
    """Return the text of an answer, or of its end; "" where it cannot be read."""
    if tail.startswith(b"{"):
        try:
            return read_completion(tail, chat=True).text or ""
        except EvalrouterError:
            return ""
    texts = []
    for line in tail.split(b"\n"):
        if line.startswith(b"data: {"):
            try:
                chunk = _decode_chunk(line[6:])
            except UNREADABLE:
                continue
            texts += [choice.delta.content or "" for choice in chunk.choices[:1]]
    return "".join(texts)
