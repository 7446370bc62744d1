"""Makes a pair of a live request and its answer, or says why the two cannot be judged. No IO.

    pair = pair_of(record, keep_texts=True, salt=run_id)

Reading is that of evaluations: the client's messages and parameters as they came, without what only
names the client's user, and the answer as a run's own would be read. Secrets are taken out of both,
as out of everything that is stored.
"""

from __future__ import annotations

from collections.abc import Collection
from hashlib import sha256
from typing import Any

from evaluators.base import Answer, Sample, Usage
from evaluators.text.answers import REFUSED, TRUNCATED, shortfall_of
from evaluators.text.words import is_blank
from providers.completion import Completion
from providers.errors import RequestError
from providers.names import MAX_NAME_BYTES
from providers.wire import UNREADABLE
from router.evals.run_spans import TRACE_FIELD
from router.gateway.dialects import dialect_of
from router.gateway.recorder import MAX_BODY_BYTES
from router.gateway.redact import redact
from router.loop.recorded_conversations import NO_PARAMETERS, chat_request, completion_of
from router.records import Record
from router.store.shadows import ShadowPair


class IncomparableError(Exception):
    """A request cannot be compared; the message is the reason, in one word."""


def pair_of(
    record: Record, *, candidates: Collection[str], keep_texts: bool, salt: str
) -> ShadowPair:
    """Return the pair of a request that has ended and has been settled.

    Args:
        record: has the whole bodies of the request and of its answer.
        candidates: the targets that the request is to be sent to.
        keep_texts: whether the route keeps bodies of the request.
        salt: what the names of users are hashed with.

    Raises:
        IncomparableError: the request or its answer cannot be compared.
    """
    if not dialect_of(record.path).is_conversation:
        raise IncomparableError("path")
    if record.status != 200 or record.error_code or record.target is None:
        raise IncomparableError("failed")
    if str(record.target) in candidates:
        raise IncomparableError("same_target")
    if not record.request or not record.response or _is_long(record):
        raise IncomparableError("too_long")
    request = _request(record.path, redact(record.request))
    answer = _answer(record, _completion(record.path, redact(record.response)))
    cluster = _cluster(record, salt)
    fields = {"cluster": cluster} if cluster else {}
    if record.trace is not None:
        fields[TRACE_FIELD] = f"{record.trace.trace_id:032x}"
    sample = Sample(
        id=record.id,
        messages=tuple(request["messages"]),
        fields=fields,
        answer=answer.text,
        parameters={name: value for name, value in request.items() if name not in NO_PARAMETERS},
    )
    return ShadowPair(
        id=record.id,
        at=record.at,
        key_id=record.key_id,
        user=record.user,
        target=record.target_name(),
        status=record.status,
        request_id=record.request_id or record.id,
        response_id=record.response_id,
        conversation=record.conversation,
        rollout=record.rollout,
        arm=record.arm,
        keep_texts=keep_texts,
        sample=sample,
        answer=answer,
    )


def _is_long(record: Record) -> bool:
    """Return whether a body is longer than those that are stored, which may be cut short."""
    return max(len(record.request or b""), len(record.response or b"")) > MAX_BODY_BYTES


def _request(path: str, body: bytes) -> dict[str, Any]:
    try:
        request = chat_request(path, body)
    except (*UNREADABLE, RequestError):
        raise IncomparableError("unreadable") from None
    messages = request.get("messages")
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise IncomparableError("unreadable")
    if request.get("n", 1) not in {None, 1}:
        raise IncomparableError("several_answers")
    return request


def _completion(path: str, body: bytes) -> Completion:
    try:
        completion = completion_of(body, path)
    except ValueError:
        completion = None
    if completion is None:
        raise IncomparableError("unreadable")
    return completion


def _answer(record: Record, completion: Completion) -> Answer:
    if completion.calls_tools:
        raise IncomparableError("tool_calls")
    refused = REFUSED if completion.refusal and not completion.text else ""
    text = completion.refusal if refused else completion.text or ""
    answer = Answer(
        text=text,
        thinking=completion.thinking,
        shortfall=refused,
        target=str(record.target),
        model=record.model,
        system_fingerprint=record.system_fingerprint,
        finish_reason=completion.finish_reason[:MAX_NAME_BYTES],
        usage=Usage(
            prompt_tokens=record.prompt_tokens,
            completion_tokens=record.completion_tokens,
            total_tokens=record.billed_tokens(),
        ),
        cost_usd=record.cost_usd,
        estimated=record.estimated,
        first_byte_s=record.first_byte_s,
        total_s=record.total_s,
        attempts=len(record.attempts),
    )
    if shortfall_of(answer) == TRUNCATED:
        raise IncomparableError("truncated")
    if is_blank(text):
        raise IncomparableError("empty")
    return answer


def _cluster(record: Record, salt: str) -> str:
    """Return what requests of one user have in common; "" where the user is not known."""
    name = record.user or record.conversation
    if not name:
        return ""
    named = f"{salt}\0{record.key_id}\0{name}".encode(errors="replace")
    return sha256(named).hexdigest()[:16]
