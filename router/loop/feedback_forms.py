"""The forms in which feedback is given: ours, TensorZero's, Portkey's and Langfuse's.

Each is a Struct that reads a body, and a function that returns the same as a FeedbackDraft. The
names of fields are theirs. What they have that evalrouter has not (a score config, a dataset run)
is refused, never dropped.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from providers.errors import RequestError
from router.config.documents import Document, convert
from router.loop.feedback import About, FeedbackDraft, SentConversation
from router.store.feedback import FeedbackKind

# TensorZero's names for feedback that is no metric.
COMMENT, DEMONSTRATION = "comment", "demonstration"
# Portkey's feedback has no name.
PORTKEY_NAME = "feedback"
MAX_PORTKEY = 10


class Correction(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The answer that should have been given.

    Attributes:
        correction: its text, or an assistant's message, for example with tool calls.
    """

    correction: str | dict[str, Any]


class GivenFeedback(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Feedback about a request, a conversation, or a text that is sent along.

    Attributes:
        name: what it says something about, as `thumb` or `helpful`.
        value: a truth value, a number, a text, or a correction.
        request_id: the request's `x-evalrouter-record`, `x-request-id`, or its response's id.
        conversation: the conversation, as the requests' `x-evalrouter-conversation` names it.
        comment: why.
        user: who gives it: later feedback of the same user supersedes it.
        metadata: anything else.
        idempotency_key: what the request is repeated by; or a header `idempotency-key`.
        messages, answer: the conversation itself, where no body of it is stored.
        model: the route that answered, where there is neither request_id nor conversation.
        consent: whether whoever the conversation belongs to wants it to be stored.
    """

    name: str
    value: bool | float | str | Correction
    request_id: str | None = None
    conversation: str | None = None
    comment: str = ""
    user: str = ""
    metadata: dict[str, Any] = {}
    idempotency_key: str = ""
    messages: list[dict[str, Any]] | None = None
    answer: str | None = None
    model: str = ""
    consent: bool = False

    def draft(self) -> FeedbackDraft:
        """Return what is to be stored.

        Raises:
            RequestError: fields contradict each other, or one is missing.
        """
        sent = self._sent()
        if self.request_id is not None and self.conversation is not None:
            raise RequestError(
                "Feedback is about a request or about a conversation: send request_id or "
                "conversation, not both.",
                param="conversation",
                code="invalid_value",
            )
        about: tuple[About, ...] = ()
        if self.request_id is not None:
            about = (About("request", self.request_id),)
        elif self.conversation is not None:
            about = (About("conversation", self.conversation),)
        elif sent is None:
            raise RequestError(
                "Say what the feedback is about: request_id, conversation, or the conversation "
                "itself (messages, answer, model, and consent: true).",
                param="request_id",
                code="missing_required_parameter",
            )
        elif not self.model:
            raise RequestError(
                "Say which route answered (model), because no request_id does.",
                param="model",
                code="missing_required_parameter",
            )
        if about and self.model:
            raise RequestError(
                "model is that of the request; leave it out beside request_id and conversation.",
                param="model",
                code="invalid_value",
            )
        value, kind = value_of(self.value)
        return FeedbackDraft(
            name=self.name,
            value=value,
            kind=kind,
            about=about,
            comment=self.comment,
            user=self.user,
            metadata=self.metadata,
            idempotency_key=self.idempotency_key,
            sent=sent,
            param="request_id" if self.conversation is None else "conversation",
        )

    def _sent(self) -> SentConversation | None:
        if self.messages is None and self.answer is None:
            if self.consent:
                raise RequestError(
                    "consent is for a conversation that is sent along: messages and answer.",
                    param="consent",
                    code="invalid_value",
                )
            return None
        if self.messages is None or self.answer is None:
            missing = "answer" if self.answer is None else "messages"
            raise RequestError(
                f"A conversation that is sent along has messages and answer; {missing} is missing.",
                param=missing,
                code="missing_required_parameter",
            )
        if not self.consent:
            raise RequestError(
                "A conversation is stored with the consent of whoever it belongs to only: send "
                "consent: true with it, or leave messages and answer out.",
                param="consent",
                code="missing_required_parameter",
            )
        return SentConversation(self.messages, self.answer, self.model)


def value_of(value: bool | float | str | Correction) -> tuple[Any, FeedbackKind]:
    """Return a value as it is stored, and its kind."""
    match value:
        case bool():
            return value, "bool"
        case float() | int():
            return float(value), "number"
        case str():
            return value, "text"
    return value.correction, "correction"


class TensorZeroFeedback(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Feedback in TensorZero's form, at the same path as ours.

    Attributes:
        metric_name: the metric; or `comment` for a text, or `demonstration` for the answer that
            should have been given.
        value: a truth value or a number for a metric, else a text, or the output of a function.
        inference_id: a request, named as in ours.
        episode_id: a conversation.
        tags: become metadata.
        dryrun: whether it is only checked.
        internal: is ignored.
    """

    metric_name: str
    value: Any
    inference_id: str | None = None
    episode_id: str | None = None
    tags: dict[str, str] = {}
    dryrun: bool | None = None
    internal: bool = False

    def draft(self) -> FeedbackDraft:
        """Return what is to be stored.

        Raises:
            RequestError: it is about both or nothing, or the value is not one of the metric's.
        """
        if (self.inference_id is None) == (self.episode_id is None):
            raise RequestError(
                "Send inference_id or episode_id: one of them, not both.",
                param="inference_id",
                code="invalid_value",
            )
        value, kind = self._value()
        if self.inference_id is not None:
            about = About("request", self.inference_id)
        else:
            assert self.episode_id is not None
            about = About("conversation", self.episode_id)
        if kind == "correction" and about.kind == "conversation":
            raise RequestError(
                "A demonstration is of one inference: send inference_id.",
                param="inference_id",
                code="missing_required_parameter",
            )
        return FeedbackDraft(
            name=self.metric_name,
            value=value,
            kind=kind,
            about=(about,),
            metadata=dict(self.tags),
            source="tensorzero",
            param="inference_id" if about.kind == "request" else "episode_id",
        )

    def _value(self) -> tuple[Any, FeedbackKind]:
        if self.metric_name == COMMENT:
            if not isinstance(self.value, str):
                raise _not_a("a comment is a text")
            return self.value, "text"
        if self.metric_name == DEMONSTRATION:
            return demonstrated(self.value), "correction"
        if isinstance(self.value, bool):
            return self.value, "bool"
        if isinstance(self.value, int | float):
            return _as_number(self.value), "number"
        raise _not_a(
            f"{self.metric_name} is true, false or a number; texts are for the metric_name "
            f"{COMMENT!r}, and answers for {DEMONSTRATION!r}"
        )


def demonstrated(value: Any) -> str | dict[str, Any]:
    """Return the output of a TensorZero function as a correction.

    A text stays as it is; blocks of content become an assistant's message, or its text where there
    are only texts; an object, the output of a JSON function, becomes its JSON text.

    Raises:
        RequestError: it is none of them.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, dict):
        return msgspec.json.encode(value).decode()
    if not isinstance(value, list) or not value:
        raise _not_a("a demonstration is a text, an object, or blocks of content")
    texts: list[str] = []
    calls: list[dict[str, Any]] = []
    for block in value:
        match block:
            case {"type": "text", "text": str(text)}:
                texts.append(text)
            case {"type": "tool_call", "name": str(name), "arguments": arguments}:
                text = arguments if isinstance(arguments, str) else _json(arguments)
                function = {"name": name, "arguments": text}
                call_id = str(block.get("id") or f"call_{len(calls)}")
                calls.append({"id": call_id, "type": "function", "function": function})
            case _:
                raise _not_a("a block of content is of the type text or tool_call")
    content = "".join(texts)
    if not calls:
        return content
    return {"role": "assistant", "content": content or None, "tool_calls": calls}


class PortkeyFeedback(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Feedback in Portkey's form; a body may have a list of them.

    Attributes:
        trace_id: a conversation, as its requests' `x-portkey-trace-id` names it; else a request.
        value: an integer from -10 to 10.
        weight: how much it counts, from 0 to 1; None for 1.
        metadata: anything else; its `_user` is who gives the feedback.
    """

    trace_id: str
    value: int
    weight: float | None = None
    metadata: dict[str, Any] | None = None

    def draft(self) -> FeedbackDraft:
        """Return what is to be stored.

        Raises:
            RequestError: the value is out of range.
        """
        metadata = self.metadata or {}
        user = metadata.get("_user")
        return FeedbackDraft(
            name=PORTKEY_NAME,
            value=portkey_value(self.value),
            kind="number",
            about=(About("conversation", self.trace_id), About("request", self.trace_id)),
            user=user if isinstance(user, str) else "",
            metadata=metadata,
            weight=1.0 if self.weight is None else self.weight,
            source="portkey",
            param="trace_id",
        )


class PortkeyChange(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is to supersede feedback, in Portkey's form. What is left out stays as it was.

    Attributes:
        value: an integer from -10 to 10.
        weight: how much it counts, from 0 to 1.
        metadata: anything else.
    """

    value: int | None = None
    weight: float | None = None
    metadata: dict[str, Any] | None = None


def portkey_value(value: int) -> float:
    """Return Portkey's value as a number.

    Raises:
        RequestError: it is out of range.
    """
    if not -MAX_PORTKEY <= value <= MAX_PORTKEY:
        raise _not_a(f"an integer from -{MAX_PORTKEY} to {MAX_PORTKEY}")
    return float(value)


LangfuseType = Literal["NUMERIC", "BOOLEAN", "CATEGORICAL", "TEXT", "CORRECTION"]


class LangfuseScore(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A score in Langfuse's form.

    Attributes:
        id: what the score is repeated and changed by.
        traceId, observationId, sessionId: an observation is a request; a trace is a request, else
            a conversation; a session is a conversation.
        name, comment, metadata: as in ours.
        value: a number; or a text, which is categorical.
        dataType: what the value is; None for what it looks like.
        environment: becomes metadata.
        configId, datasetRunId, queueId: evalrouter has none, so they are refused.
    """

    name: str
    value: float | str
    id: str | None = None
    traceId: str | None = None  # noqa: N815 - the name of the field
    observationId: str | None = None  # noqa: N815 - the name of the field
    sessionId: str | None = None  # noqa: N815 - the name of the field
    comment: str | None = None
    metadata: dict[str, Any] | None = None
    dataType: LangfuseType | None = None  # noqa: N815 - the name of the field
    environment: str | None = None
    configId: str | None = None  # noqa: N815 - the name of the field
    datasetRunId: str | None = None  # noqa: N815 - the name of the field
    queueId: str | None = None  # noqa: N815 - the name of the field

    def draft(self) -> FeedbackDraft:
        """Return what is to be stored.

        Raises:
            RequestError: it is about nothing, or the value is not of its type.
        """
        for name in ("configId", "datasetRunId", "queueId"):
            if getattr(self, name) is not None:
                raise RequestError(
                    f"evalrouter has no {name}; leave it out, and send dataType where the value "
                    "does not say what it is.",
                    param=name,
                    code="unsupported_parameter",
                )
        param, about = self._about()
        value, kind = self._value()
        environment = {} if self.environment is None else {"environment": self.environment}
        return FeedbackDraft(
            name=self.name,
            value=value,
            kind=kind,
            about=about,
            comment=self.comment or "",
            metadata={**(self.metadata or {}), **environment},
            source="langfuse",
            idempotency_key="" if not self.id else f"langfuse:{self.id}",
            replaces=True,
            param=param,
        )

    def _about(self) -> tuple[str, tuple[About, ...]]:
        if self.observationId is not None:
            return "observationId", (About("request", self.observationId),)
        if self.traceId is not None:
            return "traceId", (
                About("request", self.traceId),
                About("conversation", self.traceId),
            )
        if self.sessionId is not None:
            return "sessionId", (About("conversation", self.sessionId),)
        raise RequestError(
            "Say what the score is about: traceId, observationId or sessionId.",
            param="traceId",
            code="missing_required_parameter",
        )

    def _value(self) -> tuple[Any, FeedbackKind]:
        value = self.value
        data_type = self.dataType or ("CATEGORICAL" if isinstance(value, str) else "NUMERIC")
        if data_type == "BOOLEAN":
            if value not in (0, 1):
                raise _not_a("a BOOLEAN is 0 or 1")
            return bool(value), "bool"
        if data_type == "NUMERIC":
            if isinstance(value, str):
                raise _not_a("a NUMERIC is a number")
            return _as_number(value), "number"
        if not isinstance(value, str):
            raise _not_a(f"a {data_type} is a text")
        return value, "correction" if data_type == "CORRECTION" else "text"


class LangfuseBatch(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Events as Langfuse's SDKs send them.

    Attributes:
        batch: the events, each with an id, a type and a body; those of the type `score-create` have
            a score. One that cannot be taken keeps no other from being taken.
        metadata: is ignored.
    """

    batch: list[dict[str, Any]]
    metadata: Any = None


def score_of(event: Mapping[str, Any]) -> FeedbackDraft:
    """Return the score of an event, which is repeated by the event's id where it has none itself.

    Raises:
        RequestError: it has none, or one that cannot be stored.
    """
    if event.get("type") != "score-create":
        raise RequestError(
            "evalrouter takes events of the type score-create only.", param="type",
            code="unsupported_parameter",
        )  # fmt: skip
    document = Document.of(event.get("body"))
    draft = convert(document, LangfuseScore, error=RequestError).draft()
    event_id = event.get("id")
    if draft.idempotency_key or not isinstance(event_id, str) or not event_id:
        return draft
    return msgspec.structs.replace(draft, idempotency_key=f"langfuse-event:{event_id}")


def _as_number(value: float) -> float:
    try:
        return float(value)
    except OverflowError:
        raise _not_a("the number is too large") from None


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def _not_a(message: str) -> RequestError:
    return RequestError(f"value: {message}.", param="value", code="invalid_value")
