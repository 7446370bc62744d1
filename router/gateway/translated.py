"""Serves paths that a target's host does not have, by way of chat completions.

The request becomes a chat request before it is sent, and what comes back passes the usual checks of
chat completions; only then does it become an answer of the path that the client called.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing
from functools import partial
from typing import NamedTuple

import msgspec

from providers.base import (
    AS_IT_CAME,
    BytesReply,
    Call,
    OnUnsupported,
    Path,
    Provider,
    Reply,
    Translation,
)
from providers.errors import RequestError, UpstreamStatusError
from providers.http import sse
from providers.off_loop import off_loop
from providers.translation import messages_requests, responses_requests
from providers.translation.dialect import Answers, ChatRequest
from providers.translation.messages_answers import token_count
from router.gateway import answer_checks, tokens
from router.gateway.dialects import CHAT, DIALECTS, Dialect
from router.records import Target

# The header of an answer that is an estimate, where clients expect a count.
ESTIMATED = "x-evalrouter-estimated"

_encode = msgspec.json.Encoder().encode
_decode_envelope = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode

_TO_CHAT: Mapping[Path, Callable[..., ChatRequest]] = {
    "responses": responses_requests.to_chat,
    "messages": messages_requests.to_chat,
}


class TranslatedCall(NamedTuple):
    """A request to a path that its target's host does not have.

    Attributes:
        path: the path.
        call: the request as chat completions have it.
        answers: turns the answer of this attempt into one of the path.
        translation: what became of the client's fields.
    """

    path: Path
    call: Call
    answers: Answers
    translation: Translation


class TranslatedReply:
    """A Reply to a chat request, which passes the usual checks, as one of the client's path.

    Args:
        reply: the provider's.
        sent: what was sent.
        begin: reads a stream until it has begun; returns its first bytes, and the others.
        target: the target that answers.
    """

    def __init__(
        self,
        reply: Reply,
        sent: TranslatedCall,
        begin: Callable[[], Awaitable[tuple[bytes, AsyncIterator[bytes]]]],
        target: Target,
    ) -> None:
        self.status = reply.status
        self.headers = reply.headers
        self.translation = _both(sent.translation, reply.translation)
        self._reply = reply
        self._sent = sent
        self._begin = begin
        self._target = target

    async def read(self) -> bytes:
        """Return the whole body."""
        body = await self._reply.read()
        translated_body: bytes = await off_loop(len(body), self._whole, body)
        return translated_body

    def _whole(self, body: bytes) -> bytes:
        return self._sent.answers.whole(CHAT.whole(body, CHAT.path, self._target))

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield the stream as the client's path has it."""
        first, rest = await self._begin()
        events = _events(first, rest, self._sent.answers, DIALECTS[self._sent.path], self._target)
        async with aclosing(events):
            async for chunk in events:
                yield chunk

    async def aclose(self) -> None:
        """Give the connection back, or cut it."""
        await self._reply.aclose()


async def translated(call: Call, provider: Provider, target: Target) -> TranslatedCall:
    """Return a call by way of chat completions, for a host that does not have its path.

    What cannot be translated is refused as a host would refuse it, so that retries and fallback
    treat it alike.

    Raises:
        UpstreamStatusError: the policy is to refuse and something cannot be expressed; or the
            request does not have the form of its path.
    """
    configured: OnUnsupported | None = getattr(provider, "on_unsupported", None)
    to_chat = partial(
        _TO_CHAT[call.path],
        call.envelope,
        policy=configured or call.on_unsupported,
        host=provider.name,
        takes_reasoning=getattr(provider, "takes_reasoning", False),
    )
    try:
        chat = await off_loop(call.size, to_chat)
    except RequestError as error:
        raise _refusal(error, target) from error
    # Headers of the other API mean nothing to the host.
    foreign = DIALECTS[call.path].headers - CHAT.headers
    headers = {name: value for name, value in call.headers.items() if name.encode() not in foreign}
    sent = msgspec.structs.replace(call, path=CHAT.path, envelope=chat.fields, headers=headers)
    return TranslatedCall(call.path, sent, chat.answers(), chat.translation)


def chat_fields(path: Path, request: bytes) -> dict[str, msgspec.Raw]:
    """Return a request to a path as the fields of a chat request, for what reads recorded ones.

    Raises:
        RequestError: it does not have the form of its path.
        msgspec.MsgspecError, UnicodeError, RecursionError: it is no JSON object.
    """
    envelope = _decode_envelope(request)
    to_chat = _TO_CHAT.get(path)
    return envelope if to_chat is None else to_chat(envelope, policy="drop", host="").fields


async def estimated_count(call: Call, target: Target) -> BytesReply:
    """Return an estimate of a prompt's tokens, for a host that does not count them.

    Raises:
        UpstreamStatusError: the request does not have the form of its path.
    """
    try:
        counted = await off_loop(call.size, _count, call)
    except RequestError as error:
        raise _refusal(error, target) from error
    headers = {"content-type": "application/json", ESTIMATED: "input_tokens"}
    return BytesReply(token_count(counted), headers=headers)


def _count(call: Call) -> int:
    # For its checks: what a request for an answer would be refused for must not be counted.
    messages_requests.to_chat(call.envelope, policy="pass", host="", counting=True)
    return tokens.of_request(_encode(call.envelope))


def _refusal(error: RequestError, target: Target) -> UpstreamStatusError:
    message = f"{target}: {error.message}"
    return UpstreamStatusError(400, _encode(error.as_openai()), {}, message)


def _both(outer: Translation, inner: Translation) -> Translation:
    """Return what became of a request's fields in two steps.

    Args:
        outer: of the client's fields, on their way to a chat request.
        inner: of the chat request's, on their way to the host.
    """
    if inner is AS_IT_CAME:
        return outer
    return msgspec.structs.replace(
        outer,
        renamed={**inner.renamed, **outer.renamed},
        converted={**inner.converted, **outer.converted},
        dropped={**inner.dropped, **outer.dropped},
    )


async def _events(
    first: bytes, rest: AsyncIterator[bytes], answers: Answers, dialect: Dialect, target: Target
) -> AsyncGenerator[bytes, None]:
    """Yield a chat stream, which has begun, as a stream of the client's path.

    An error in the middle of it becomes one of that path.

    Raises:
        UpstreamProtocolError: it broke off, or cannot be read.
    """
    tail: deque[bytes] = deque(maxlen=answer_checks.LAST_CHUNKS)
    done = False
    async with aclosing(_complete_events(first, rest)) as chunks:
        async for chunk in chunks:
            before, fault = chunk, None
            if b"[DONE]" in chunk or b"error" in chunk:
                before, fault, done = sse.split_end(chunk)
            tail.append(before)
            if out := answers.feed(before):
                yield out
            if fault is not None:
                yield dialect.error_event(answer_checks.error_in_200(fault, target), ())
                return
            if done:
                break
        if not answer_checks.is_whole(tail):
            raise answer_checks.cut_off(target)
        if out := answers.finish():
            yield out
        # To the end of the response, so that its connection can be reused.
        async for _ in chunks:
            pass


async def _complete_events(first: bytes, rest: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    """Yield a stream in chunks of complete events."""
    chunk, held = first, b""
    try:
        while chunk:
            chunk, held = sse.split_complete(held + chunk)
            if chunk:
                yield chunk
            chunk = await anext(rest, b"")
        # Some hosts leave out the blank line after their last event.
        last, fault = answer_checks.last_event(held) if held else (b"", None)
        if fault is not None:
            last = sse.encode(fault, "error")
        if last:
            yield last
    finally:
        close = getattr(rest, "aclose", None)
        if close is not None:
            await close()
