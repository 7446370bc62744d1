"""The rules of a scripted model, which of them applies, and the bytes it leads to. No IO.

    models:
      tiny:
        - {times: 2, status: 429, headers: {Retry-After: 1}}   # the first two calls
        - {match: "(?i)weather", answer: "Sunny, call {n}."}   # then, where the pattern matches
        - {answers: ["yes", "no"], delay_s: 0.05}              # then in turns, for good

`scripted.py` performs a script, in this process or as an HTTP server.
"""

from __future__ import annotations

import base64
import hashlib
import math
import re
import struct
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, TypeVar, get_args

import msgspec
from msgspec import UNSET

from providers import wire, yaml_documents
from providers.base import NotNegative
from providers.errors import ConfigError, ModelNotFoundError, RequestError, closest
from providers.http import sse
from providers.offline import scripted_messages, scripted_responses
from providers.translation import compose
from providers.translation.compose import TextRequest

Text = TypeVar("Text", str, bytes)
ScriptPath = Literal[
    "chat/completions",
    "completions",
    "embeddings",
    "responses",
    "messages",
    "messages/count_tokens",
]
SCRIPT_PATHS: tuple[ScriptPath, ...] = get_args(ScriptPath)

# In place of an answer, before its headers.
SilentFault = Literal["reset", "refuse_after_accept", "hang"]
# After a part of the body.
CutFault = Literal["reset_midway", "truncate", "hang_midway"]
# A complete body that is wrong.
ContentFault = Literal["invalid_json", "half_utf8", "error_event", "error_in_200", "no_usage"]
_CONTENT_FAULTS = ("invalid_json", "half_utf8", "error_event", "error_in_200", "no_usage")

Seconds = NotNegative
_Many = Annotated[int, msgspec.Meta(ge=1, le=10**9)]

_PLACEHOLDER = re.compile(r"\{(input|n)\}")
# Stands at the end of the text whose last character is to be cut in half.
_WHOLE, _HALF = b"\xe2\x82\xac", b"\xe2\x82"
_DIMENSIONS = 16
_MESSAGES: frozenset[ScriptPath] = frozenset({"messages", "messages/count_tokens"})
# What the ids of answers begin with.
_IDS: Mapping[ScriptPath, str] = {
    "chat/completions": "chatcmpl-",
    "completions": "cmpl-",
    "responses": "resp_",
    "messages": "msg_",
}


class Rule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When a rule applies, and what it answers.

    Attributes:
        match: regular expression to search for in the last user message, prompt or input.
        times: how often the rule applies before it is skipped; None for no bound.
        answer: the text. `{input}` becomes the last user message, `{n}` the number of the call to
            this model, from 1. Without answer and answers, the input comes back. Embeddings
            ignore it: their vectors depend on the input only.
        answers: texts given in turns, instead of `answer`.
        finish_reason: the finish reason to report.
        usage: tokens to report; None counts words and punctuation marks.
        status: HTTP status. From 400 on, the body is OpenAI's error object unless `body` is set.
        body: the whole body: a text unchanged, anything else as JSON.
        headers: headers to add to the answer's, `Retry-After` for example.
        delay_s: seconds before the headers.
        first_byte_delay_s: seconds between the headers and the body.
        chunk_delay_s: seconds between two pieces of the body.
        chunks: into how many pieces the text of a stream, or a body, is cut. By default a stream
            goes word by word and a body in one piece.
        fault: `reset` and `refuse_after_accept` break the connection before the headers, by TCP
            reset and by an orderly close; `hang` never answers. `reset_midway`, `truncate` (an
            orderly close) and `hang_midway` do so after `fault_after` bytes of the body.
            `invalid_json` cuts the JSON of the body or of an event, `half_utf8` the text's last
            character; `error_event` ends a stream with an error halfway, `error_in_200` sends an
            error (both an error body where nothing is streamed); `no_usage` leaves usage out.
        fault_after: bytes of the body that are sent; None for half of them.
    """

    match: str | None = None
    times: _Many | None = None
    answer: str | None = None
    answers: tuple[str, ...] = ()
    finish_reason: str = "stop"
    usage: wire.CompletionUsage | None = None
    status: Annotated[int, msgspec.Meta(ge=200, le=599)] = 200
    body: Any = None
    headers: dict[str, str | int | float] = {}
    delay_s: Seconds = 0
    first_byte_delay_s: Seconds = 0
    chunk_delay_s: Seconds = 0
    chunks: _Many | None = None
    fault: SilentFault | CutFault | ContentFault | None = None
    fault_after: Annotated[int, msgspec.Meta(ge=0, le=10**12)] | None = None

    def __post_init__(self) -> None:
        """Refuse settings that contradict one another; msgspec adds the path to the message."""
        if self.match is not None:
            try:
                re.compile(self.match)
            except re.error as error:
                raise ValueError(
                    f"match {self.match!r} is no regular expression: {error}"
                ) from None
        canned = not _answers(self)
        if (self.answer is not None) + bool(self.answers) + canned > 1:
            raise ValueError("answer, answers and body (or an error status) exclude each other")
        if canned and self.fault in _CONTENT_FAULTS:
            raise ValueError(f"{self.fault} needs an answer: write the broken body into body")


class Script(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The models and, for each, its rules in the order in which they are tried."""

    models: dict[str, tuple[Rule, ...]]


def load_script(path: Path) -> Script:
    """Read a script from a YAML or JSON file.

    Raises:
        ConfigError: the file cannot be read or is no script.
    """
    try:
        return yaml_documents.decode_file(path, Script)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    except wire.UNREADABLE as error:
        raise ConfigError(f"{path}: {error}") from error


class Turn(NamedTuple):
    """The rule that applies to a call, the call's number at its model, and the rule's own count."""

    rule: Rule
    number: int
    used: int


class Counts:
    """How often each model was called and each rule applied: all the state a script has."""

    def __init__(self, models: Mapping[str, Sequence[Rule]]) -> None:
        self._models = models
        self._calls: Counter[str] = Counter()
        self._used: Counter[tuple[str, int]] = Counter()

    def turn(self, model: str, text: str) -> Turn:
        """Count a call and choose its rule.

        Raises:
            ModelNotFoundError: the script has no such model.
            RequestError: no rule applies (any more); code `script_exhausted`.
        """
        if model not in self._models:
            raise ModelNotFoundError(
                f"the script has no model {model!r}.{closest(model, self._models)}", param="model"
            )
        self._calls[model] += 1
        for position, rule in enumerate(self._models[model]):
            used = self._used[model, position]
            if rule.times is not None and used >= rule.times:
                continue
            if rule.match is not None and not re.search(rule.match, text):
                continue
            self._used[model, position] += 1
            return Turn(rule, self._calls[model], used)
        raise RequestError(
            f"no rule of {model} applies to its call {self._calls[model]}", code="script_exhausted"
        )


class ScriptedRequest(NamedTuple):
    """A request, read. `text` is what rules match, and what `{input}` becomes."""

    path: ScriptPath
    model: str
    text: str
    what: TextRequest | wire.EmbeddingRequest


def read_scripted(
    path: ScriptPath, model: str, envelope: Mapping[str, msgspec.Raw]
) -> ScriptedRequest:
    """Read a request.

    Raises:
        RequestError: a field is missing or ill-typed.
    """
    if path == "embeddings":
        request = wire.read_request(envelope, wire.EmbeddingRequest)
        return ScriptedRequest(path, model, _inputs(request)[-1], request)
    if path == "responses":
        question = scripted_responses.read_input(envelope)
    elif path in _MESSAGES:
        question = scripted_messages.read_turns(envelope)
    else:
        text_path: compose.TextPath = "completions" if path == "completions" else "chat/completions"
        question = compose.read_question(text_path, envelope)
    return ScriptedRequest(path, model, question.prompts[-1] if question.prompts else "", question)


class Performance(NamedTuple):
    """How to answer a call: wait, send the head, send the pieces, then end.

    Attributes:
        rule: the rule, whose delays apply.
        status: HTTP status; 0 when `end` comes at once, without a head.
        headers: names in lower case, without the framing.
        pieces: the pieces of the body, to send one by one.
        size: bytes a body that is not streamed promises; None for a stream.
        end: how the answer ends; all but `complete` are faults.
    """

    rule: Rule
    status: int
    headers: dict[str, str]
    pieces: list[bytes]
    size: int | None
    end: Literal["complete", "reset", "close", "hang"]


_SILENT: Mapping[str | None, Literal["reset", "close", "hang"]] = {
    "reset": "reset",
    "refuse_after_accept": "close",
    "hang": "hang",
}
_CUT: Mapping[str | None, Literal["reset", "close", "hang"]] = {
    "reset_midway": "reset",
    "truncate": "close",
    "hang_midway": "hang",
}


def perform(turn: Turn, request: ScriptedRequest, *, created: int) -> Performance:
    """Return the bytes that a rule answers with, and how they end; `created` is in Unix seconds."""
    rule = turn.rule
    if silent := _SILENT.get(rule.fault):
        return Performance(rule, 0, {}, [], None, silent)
    streamed = (
        _answers(rule)
        and isinstance(request.what, TextRequest)
        and request.what.stream
        and request.path != "messages/count_tokens"
    )
    if streamed:
        pieces = _stream(turn, request, created)
    else:
        pieces = _parts(_body(turn, request, created), rule.chunks or 1)
    size = sum(map(len, pieces))
    cut = _CUT.get(rule.fault)
    if cut:
        pieces = _first(pieces, size // 2 if rule.fault_after is None else rule.fault_after)
    content_type = "text/event-stream; charset=utf-8" if streamed else "application/json"
    headers = {"content-type": content_type}
    headers |= {name.lower(): str(value) for name, value in rule.headers.items()}
    end = cut or "complete"
    return Performance(rule, rule.status, headers, pieces, None if streamed else size, end)


def _answers(rule: Rule) -> bool:
    return rule.status < 400 and rule.body is None


def _stream(turn: Turn, request: ScriptedRequest, created: int) -> list[bytes]:
    rule, question = turn.rule, request.what
    assert isinstance(question, TextRequest)
    if rule.fault == "error_in_200":
        return [_error_event(rule, request.path, None)]
    answer = _answer(turn, request, question, created)

    def cut(text: str) -> Sequence[str]:
        return _parts(text, rule.chunks) if rule.chunks else compose.words(text)

    if request.path == "responses":
        pieces = list(scripted_responses.events(answer, cut))
    elif request.path == "messages":
        pieces = list(scripted_messages.events(answer, cut))
    else:
        include_usage = question.include_usage
        pieces = list(compose.events(answer, include_usage=include_usage, cut=cut))
    middle = len(pieces) // 2
    if rule.fault == "error_event":
        return [*pieces[:middle], _error_event(rule, request.path, "error")]
    if rule.fault == "invalid_json":
        pieces[middle] = pieces[middle][: len(pieces[middle]) // 2] + b"\n\n"
    elif rule.fault == "half_utf8":
        pieces = [piece.replace(_WHOLE, _HALF) for piece in pieces]
    return pieces


_WHOLE_ANSWERS: Mapping[ScriptPath, Callable[[compose.ComposedAnswer], bytes]] = {
    "responses": scripted_responses.whole,
    "messages": scripted_messages.whole,
}


def _body(turn: Turn, request: ScriptedRequest, created: int) -> bytes:
    rule = turn.rule
    if rule.body is not None:
        return rule.body.encode() if isinstance(rule.body, str) else wire.encode(rule.body)
    if rule.status >= 400 or rule.fault in ("error_event", "error_in_200"):
        return _error_body(rule, request.path)
    if isinstance(request.what, TextRequest) and request.path == "messages/count_tokens":
        body = scripted_messages.count(request.what)
    elif isinstance(request.what, TextRequest):
        answer = _answer(turn, request, request.what, created)
        body = _WHOLE_ANSWERS.get(request.path, compose.whole)(answer)
    else:
        body = _embeddings(request.model, request.what, rule)
    if rule.fault == "invalid_json":
        return body[: len(body) // 2]
    return body.replace(_WHOLE, _HALF) if rule.fault == "half_utf8" else body


def _answer(
    turn: Turn, request: ScriptedRequest, question: TextRequest, created: int
) -> compose.ComposedAnswer:
    rule = turn.rule
    template = rule.answers[turn.used % len(rule.answers)] if rule.answers else rule.answer
    filled = {"input": request.text, "n": str(turn.number)}
    text = _PLACEHOLDER.sub(
        lambda name: filled[name[1]], "{input}" if template is None else template
    )
    if rule.fault == "half_utf8":
        text += _WHOLE.decode()
    texts = [text] * (max(1, len(question.prompts)) * question.n)
    usage = rule.usage or compose.usage_of(question, texts)
    return compose.ComposedAnswer(
        path="completions" if request.path == "completions" else "chat/completions",
        id=f"{_IDS[request.path]}scripted-{turn.number}",
        created=created,
        model=request.model,
        choices=tuple((text, rule.finish_reason) for text in texts),
        usage=None if rule.fault == "no_usage" else usage,
        system_fingerprint="scripted",
    )


def _embeddings(model: str, request: wire.EmbeddingRequest, rule: Rule) -> bytes:
    inputs = _inputs(request)
    tokens = sum(map(compose.count_tokens, inputs))
    usage = rule.usage or wire.CompletionUsage(prompt_tokens=tokens, total_tokens=tokens)
    vectors = [vector(text, request.dimensions or _DIMENSIONS) for text in inputs]
    as_base64 = request.encoding_format == "base64"
    data = [
        wire.Embedding(_base64(numbers) if as_base64 else numbers, index)
        for index, numbers in enumerate(vectors)
    ]
    return wire.encode(
        wire.EmbeddingList(data, model, UNSET if rule.fault == "no_usage" else usage)
    )


def vector(text: str, dimensions: int) -> list[float]:
    """Return a vector of length 1 that depends on the text alone, without meaning anything."""
    blocks = (
        hashlib.sha256(f"{block}:{text}".encode()).digest() for block in range(-(-dimensions // 8))
    )
    whole = [number for block in blocks for number in struct.unpack("<8i", block)]
    norm = math.hypot(*whole[:dimensions])
    return [number / norm for number in whole[:dimensions]]


def _base64(numbers: list[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(numbers)}f", *numbers)).decode()


def _inputs(request: wire.EmbeddingRequest) -> list[str]:
    return [request.input] if isinstance(request.input, str) else request.input


def _error(rule: Rule) -> dict[str, Any]:
    status = rule.status if rule.status >= 400 else 500
    kinds = {429: "rate_limit_error", 401: "authentication_error", 403: "permission_error"}
    kind = kinds.get(status, "server_error" if status >= 500 else "invalid_request_error")
    message = f"scripted error {status}"
    return {"message": message, "type": kind, "param": None, "code": "scripted"}


def _error_event(rule: Rule, path: ScriptPath, event: str | None) -> bytes:
    if path == "responses":
        return scripted_responses.error_event(_error(rule))
    return sse.encode(_error_body(rule, path), "error" if path in _MESSAGES else event)


def _error_body(rule: Rule, path: ScriptPath) -> bytes:
    error = _error(rule)
    return (
        scripted_messages.error_body(error) if path in _MESSAGES else wire.encode({"error": error})
    )


def _parts(whole: Text, count: int) -> list[Text]:
    """Return `whole` in `count` parts of nearly one size; fewer if it is shorter than that."""
    count = min(count, len(whole))
    edges = [len(whole) * i // count for i in range(count + 1)] if count else []
    return [whole[a:b] for a, b in pairwise(edges)]


def _first(pieces: list[bytes], size: int) -> list[bytes]:
    """Return the first `size` bytes of the pieces, cut as they were."""
    cut = []
    for piece in pieces:
        if size <= 0:
            break
        cut.append(piece[:size])
        size -= len(piece)
    return cut
