"""Composes OpenAI answers, whole or streamed, for the models that live in this process.

`read_question(path, envelope)` reads a request; `whole` and `events` put a `ComposedAnswer` into
bytes. The texts of the events, joined, are the text of the whole.
No IO.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

import msgspec
from msgspec import UNSET

from providers import wire
from providers.base import BytesReply
from providers.errors import EvalrouterError
from providers.http import sse

TextPath = Literal["chat/completions", "completions"]

# A token, for models without a tokenizer: a word or a punctuation mark. A run of letters without
# spaces counts as one, so texts in Chinese or Thai are counted low.
TOKEN = re.compile(r"\w+|[^\w\s]")
# Each word with the space before it, as models stream; spaces at the end are a piece of their own.
_WORD = re.compile(r"\s*\S+|\s+")


def count_tokens(text: str) -> int:
    """Return how many words and punctuation marks a text has."""
    return sum(1 for _ in TOKEN.finditer(text))


def words(text: str) -> list[str]:
    """Return a text cut before its spaces; joined again it is the same."""
    return _WORD.findall(text)


class TextRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A request to a text model.

    Attributes:
        prompts: the last user message of a chat (empty without one), or every prompt.
        prompt_tokens: tokens of all messages, or of all prompts, by `count_tokens`.
        n: choices to write for each prompt.
        max_tokens: the smaller of `max_tokens` and `max_completion_tokens`; None for no bound.
        stop: texts before which an answer ends.
        stream: whether to answer with events.
        include_usage: whether a stream ends with its usage.
    """

    prompts: tuple[str, ...]
    prompt_tokens: int
    n: int = 1
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    stream: bool = False
    include_usage: bool = False


def read_question(path: TextPath, envelope: Mapping[str, msgspec.Raw]) -> TextRequest:
    """Read a request to `path`.

    Raises:
        RequestError: a field is missing or ill-typed; `param` names it.
    """
    if path == "chat/completions":
        chat = wire.read_request(envelope, wire.ChatCompletionRequest)
        texts = [wire.message_text(message.content, between="\n") for message in chat.messages]
        user_texts = [
            text
            for message, text in zip(chat.messages, texts, strict=True)
            if message.role == "user"
        ]
        bounds = [bound for bound in (chat.max_tokens, chat.max_completion_tokens) if bound]
        return _question(chat, user_texts[-1:], texts, bounds)
    completion = wire.read_request(envelope, wire.CompletionRequest)
    prompts = [completion.prompt] if isinstance(completion.prompt, str) else completion.prompt
    return _question(completion, prompts, prompts, [completion.max_tokens or 0])


def _question(
    request: wire.ChatCompletionRequest | wire.CompletionRequest,
    prompts: Iterable[str],
    texts: Iterable[str],
    bounds: Iterable[int],
) -> TextRequest:
    stop = [request.stop] if isinstance(request.stop, str) else request.stop or []
    options = request.stream_options
    return TextRequest(
        prompts=tuple(prompts),
        prompt_tokens=sum(map(count_tokens, texts)),
        n=request.n or 1,
        max_tokens=min(filter(None, bounds), default=None),
        stop=tuple(filter(None, stop)),
        stream=bool(request.stream),
        include_usage=options is not None and bool(options.include_usage),
    )


class ComposedAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """An answer before it is put into bytes.

    Attributes:
        path: the request's path, which decides the form of the answer.
        id: `chatcmpl-…` or `cmpl-…`.
        created: Unix seconds.
        model: the model's name in the answer.
        choices: each choice's text and finish reason.
        usage: None leaves it out.
        system_fingerprint: identifies the model that answered.
    """

    path: TextPath
    id: str
    created: int
    model: str
    choices: tuple[tuple[str, str], ...]
    usage: wire.CompletionUsage | None
    system_fingerprint: str | None = None


def usage_of(question: TextRequest, texts: Iterable[str]) -> wire.CompletionUsage:
    """Return the tokens of a question and of the texts that answer it."""
    completion = sum(map(count_tokens, texts))
    return wire.CompletionUsage(
        prompt_tokens=question.prompt_tokens,
        completion_tokens=completion,
        total_tokens=question.prompt_tokens + completion,
    )


def whole(answer: ComposedAnswer) -> bytes:
    """Return the body of an answer that is not streamed."""
    usage = answer.usage or UNSET
    if answer.path == "completions":
        texts = [
            wire.TextChoice(text=text, index=index, finish_reason=finish)
            for index, (text, finish) in enumerate(answer.choices)
        ]
        return wire.encode(wire.TextCompletion(choices=texts, usage=usage, **_head(answer)))
    choices = [
        wire.Choice(message=wire.AnswerMessage(content=text), index=index, finish_reason=finish)
        for index, (text, finish) in enumerate(answer.choices)
    ]
    return wire.encode(wire.ChatCompletion(choices=choices, usage=usage, **_head(answer)))


def events(
    answer: ComposedAnswer, *, include_usage: bool, cut: Callable[[str], Sequence[str]] = words
) -> Iterator[bytes]:
    """Yield the events of a streamed answer, `[DONE]` included.

    Args:
        answer: the answer to stream.
        include_usage: whether an event with the usage comes before the end.
        cut: divides a text into the pieces that are sent one by one.
    """
    # OpenAI's way: where usage was requested, it is null in every event but the last.
    usage = None if include_usage else UNSET
    for index, (text, finish) in enumerate(answer.choices):
        if answer.path == "chat/completions":
            yield _event(answer, usage, index, role="assistant", content="")
        for piece in cut(text):
            yield _event(answer, usage, index, content=piece)
        yield _event(answer, usage, index, finish=finish)
    if include_usage and answer.usage:
        last = wire.ChatChunk(choices=[], usage=answer.usage, **_head(answer))
        if answer.path == "completions":
            last.object = "text_completion"
        yield sse.encode(wire.encode(last))
    yield sse.DONE


def _event(
    answer: ComposedAnswer,
    usage: msgspec.UnsetType | None,
    index: int,
    *,
    role: str | None = None,
    content: str | None = None,
    finish: str | None = None,
) -> bytes:
    chunk: msgspec.Struct
    if answer.path == "completions":
        text = wire.TextChoice(text=content or "", index=index, finish_reason=finish)
        chunk = wire.TextCompletion(choices=[text], usage=usage, **_head(answer))
    else:
        choice = wire.ChunkChoice(
            delta=wire.Delta(role, content), index=index, finish_reason=finish
        )
        chunk = wire.ChatChunk(choices=[choice], usage=usage, **_head(answer))
    return sse.encode(wire.encode(chunk))


def _head(answer: ComposedAnswer) -> dict[str, Any]:
    return {
        "id": answer.id,
        "created": answer.created,
        "model": answer.model,
        "system_fingerprint": answer.system_fingerprint,
    }


def error_reply(error: EvalrouterError) -> BytesReply:
    """Return an error as the Reply that a host would give."""
    return BytesReply(wire.encode(error.as_openai()), status=error.status)


def model_list(names: Iterable[str]) -> bytes:
    """Return the body of `models`."""
    return wire.encode(wire.ModelList([wire.Model(name, owned_by="evalrouter") for name in names]))
