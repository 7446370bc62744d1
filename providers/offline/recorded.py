"""Answers from a file: a recording of another provider, or columns of a dataset.

    replay:   {kind: recorded, file: ./bug-4711.jsonl}           # what `record:` wrote
    elsewhere: {kind: recorded, dataset: ./answers.csv, input: article}

A recording answers the requests that are in it, and no others: everything but `model`, `stream`,
`stream_options` and `user` has to be the same. Where a request was recorded several times, its
answers take turns. A streamed answer serves a request that is not streamed, and the other way
round.

Of a dataset (JSON Lines or CSV), each column is a model: `elsewhere/summary_a` answers with that
column of the row whose `input` is the last user message, or stands in it.
"""

from __future__ import annotations

import asyncio
import csv
import hashlib
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from io import TextIOWrapper
from pathlib import Path
from typing import Any

import msgspec

from providers import wire
from providers.base import USUAL_PATHS, BytesReply, Call, ProviderConfig, Reply
from providers.errors import ConfigError, ModelNotFoundError, NotFoundError, RequestError, closest
from providers.http import sse
from providers.offline.recording import RecordedExchange, values_of
from providers.plain_files import open_plain_file
from providers.translation.compose import (
    ComposedAnswer,
    TextPath,
    error_reply,
    events,
    model_list,
    read_question,
    usage_of,
    whole,
)
from providers.translation.fold import fold, unfold

_IGNORED = frozenset({"model", "stream", "stream_options", "user"})

_read_pair = msgspec.json.Decoder(RecordedExchange).decode
_read_row = msgspec.json.Decoder(dict[str, Any]).decode
_encode_sorted = msgspec.json.Encoder(order="sorted").encode


class RecordedConfig(ProviderConfig, frozen=True, kw_only=True):
    """Where the answers are: `file`, or `dataset` and `input`.

    Attributes:
        file: a recording.
        dataset: a JSON Lines or CSV file.
        input: the dataset's column that holds the prompts.
    """

    file: str = ""
    dataset: str = ""
    input: str = ""


class Recorded:
    """A provider that answers from a file; read when it is opened."""

    def __init__(
        self,
        name: str,
        config: RecordedConfig,
        *,
        clock: Callable[[], float] = time.time,
        new_id: Callable[[], str] = lambda: uuid.uuid4().hex,
    ) -> None:
        if bool(config.file) == bool(config.dataset) or bool(config.dataset) != bool(config.input):
            raise ConfigError(
                f"providers.{name}: needs either file, or dataset and input",
                param=f"providers.{name}",
            )
        self.name = name
        self._config = config
        self._clock = clock
        self._new_id = new_id
        self.speaks = USUAL_PATHS
        self._pairs: dict[str, dict[str, list[RecordedExchange]]] = {}
        self._columns: dict[str, dict[str, str]] = {}
        self._turns: Counter[tuple[str, str]] = Counter()

    async def open(self) -> None:
        """Read the file.

        Raises:
            ConfigError: it cannot be read; names file and line.
        """
        if self._config.file:
            self._pairs = await asyncio.to_thread(_read_recording, Path(self._config.file))
            recorded: Any = {
                pair.path for model in self._pairs.values() for [pair, *_] in model.values()
            }
            self.speaks = USUAL_PATHS | recorded
        else:
            self._columns = await asyncio.to_thread(
                _read_columns, Path(self._config.dataset), self._config.input
            )

    async def close(self) -> None:
        """Do nothing: the file was read at once."""

    async def send(self, call: Call) -> Reply:
        """Answer from the file; a request that is not in it gets OpenAI's error object."""
        models = self._pairs or self._columns
        if call.path == "models":
            return BytesReply(model_list(self._config.models or models))
        try:
            if call.model not in models:
                raise ModelNotFoundError(
                    f"{self.name} has no answers of {call.model!r}.{closest(call.model, models)}",
                    param="model",
                )
            if self._pairs:
                return self._replay(call)
            return self._from_columns(call)
        except RequestError as error:
            return error_reply(error)

    def _replay(self, call: Call) -> Reply:
        key = fingerprint(call.path, values_of(call.envelope))
        pairs = self._pairs[call.model].get(key)
        if not pairs:
            raise NotFoundError(
                f"{self._config.file} has no answer of {call.model} to this request; all but "
                f"{', '.join(sorted(_IGNORED))} has to be as it was recorded",
                code="not_recorded",
            )
        turn = self._turns[call.model, key]
        self._turns[call.model, key] += 1
        return _reply_of(pairs[turn % len(pairs)], call)

    def _from_columns(self, call: Call) -> Reply:
        if call.path == "embeddings":
            raise RequestError(
                f"{self.name}/{call.model} is a column of answers; it has no embeddings",
                param="model",
                code="unsupported_model",
            )
        path: TextPath = call.path if call.path == "completions" else "chat/completions"
        question = read_question(path, call.envelope)
        answers = self._columns[call.model]
        texts = [self._row(answers, prompt) for prompt in question.prompts]
        if not texts:
            raise RequestError("messages: there is no user message", param="messages")
        answer = ComposedAnswer(
            path=path,
            id=f"recorded-{self._new_id()}",
            created=int(self._clock()),
            model=call.model,
            choices=tuple((text, "stop") for text in texts for _ in range(question.n)),
            usage=usage_of(question, texts),
        )
        if call.stream:
            return BytesReply(_as_stream(events(answer, include_usage=question.include_usage)))
        return BytesReply(whole(answer))

    def _row(self, answers: Mapping[str, str], prompt: str) -> str:
        """Return the answer of the row whose input is the prompt, or the longest that is in it."""
        question = prompt.strip()
        if question in answers:
            return answers[question]
        contained = max((row for row in answers if row and row in question), key=len, default=None)
        if contained is None:
            raise NotFoundError(
                f"{self._config.dataset} has no row whose {self._config.input} stands in the last "
                "user message",
                code="not_recorded",
            )
        return answers[contained]


def fingerprint(path: str, request: Mapping[str, Any]) -> str:
    """Return what identifies a request, whatever the order of its fields."""
    fields = {name: value for name, value in request.items() if name not in _IGNORED}
    return hashlib.sha256(path.encode() + b"\n" + _encode_sorted(fields)).hexdigest()


def _reply_of(pair: RecordedExchange, call: Call) -> Reply:
    """Return a recorded answer, streamed or whole as the call requests it."""
    headers = {"content-type": pair.content_type}
    streamed = pair.content_type.startswith("text/event-stream")
    if streamed != call.stream and pair.status < 400 and pair.path not in USUAL_PATHS:
        form = "a stream" if streamed else "a whole answer"
        raise NotFoundError(f"this request was recorded with {form}", code="not_recorded")
    if pair.status >= 400 or pair.path == "embeddings" or streamed == call.stream:
        body = wire.encode(pair.body) if pair.text is None else pair.text.encode()
        if streamed:
            return BytesReply(_as_stream(iter(_pieces(body))), headers=headers)
        return BytesReply(body, status=pair.status, headers=headers)
    if streamed:
        read_events = sse.Parser().feed((pair.text or "").encode() + b"\n\n")
        chunks = [_read_row(event.data) for event in read_events if event.data != b"[DONE]"]
        return BytesReply(wire.encode(fold(chunks)))
    include = wire.wants_usage(call.envelope)
    return BytesReply(_as_stream(unfold(pair.body, include_usage=include)))


def _pieces(body: bytes) -> list[bytes]:
    """Return a stream's bytes, one item for each event."""
    return [event + b"\n\n" for event in body.split(b"\n\n") if event]


async def _as_stream(chunks: Iterator[bytes]) -> Any:
    for chunk in chunks:
        yield chunk
        await asyncio.sleep(0)


def _read_recording(path: Path) -> dict[str, dict[str, list[RecordedExchange]]]:
    """Return the pairs by model and fingerprint, in the order of the file."""
    pairs: dict[str, dict[str, list[RecordedExchange]]] = {}
    for number, line in enumerate(_lines(path), start=1):
        if not line.strip():
            continue
        try:
            pair = _read_pair(line)
        except wire.UNREADABLE as error:
            raise ConfigError(f"{path}, line {number}: not a recorded pair: {error}") from error
        key = fingerprint(pair.path, pair.request)
        pairs.setdefault(pair.model, {}).setdefault(key, []).append(pair)
    return pairs


def _read_columns(path: Path, key: str) -> dict[str, dict[str, str]]:
    """Return the answers by column and input. Raises ConfigError as `Recorded.open` does."""
    columns: dict[str, dict[str, str]] = {}
    for number, row in _rows(path):
        if not isinstance(row.get(key), str):
            raise ConfigError(
                f"{path}, line {number}: no text in column {key!r}.{closest(key, row)}"
            )
        question = row[key].strip()
        for name, value in row.items():
            if name == key or not isinstance(value, str):
                continue
            answers = columns.setdefault(name, {})
            if answers.setdefault(question, value) != value:
                raise ConfigError(f"{path}, line {number}: a second answer to the same {key}")
    return columns


def _rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    if path.suffix.lower() == ".csv":
        reader = csv.DictReader(_lines(path))
        for csv_row in reader:
            yield reader.line_num, dict(csv_row)
        return
    for number, line in enumerate(_lines(path), start=1):
        if not line.strip():
            continue
        try:
            yield number, _read_row(line)
        except wire.UNREADABLE as error:
            raise ConfigError(f"{path}, line {number}: not a JSON object: {error}") from error


def _lines(path: Path) -> Iterator[str]:
    try:
        with TextIOWrapper(open_plain_file(path), encoding="utf-8-sig", newline="") as file:
            yield from file
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 at byte {error.start}") from error
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
