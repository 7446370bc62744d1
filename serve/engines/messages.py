"""Requests to engines and their answers, in a copy of a model or in place. Without Ray."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import msgspec

from providers.base import OnUnsupported, Path, Translation


class LoadModel(msgspec.Struct, frozen=True):
    """The model that an engine in place loads: its name and its entry in `models:`."""

    name: str
    entry: dict[str, Any]


class EngineRequest(msgspec.Struct, frozen=True):
    """A provider's Call on its way to a copy of a model, or to an engine in place.

    Attributes:
        path: the path below `/v1`.
        model: the model as the client named it.
        body: the request's JSON object.
        request_id: the client's id of the request; "" for none.
        traceparent: W3C Trace Context; "" for none.
        on_unsupported: as in `providers.base.Call`.
    """

    path: Path
    model: str
    body: bytes
    request_id: str
    traceparent: str = ""
    on_unsupported: OnUnsupported = "drop"


class EngineResponse(msgspec.Struct, frozen=True):
    """An engine's whole answer."""

    status: int
    content_type: str
    body: bytes
    translation: Translation


encode = msgspec.msgpack.Encoder().encode

decode_load = msgspec.msgpack.Decoder(LoadModel).decode

decode_request = msgspec.msgpack.Decoder(EngineRequest).decode

decode_response = msgspec.msgpack.Decoder(EngineResponse).decode


class ResponseHead(NamedTuple):
    """The beginning of an answer.

    Attributes:
        status: the HTTP status.
        content_type: the type of the body.
        load: `loading` where the copy has to load the model first (another ResponseHead follows
            before the answer), `failed` where it could not.
    """

    status: int
    content_type: str
    load: Literal["", "loading", "failed"] = ""
