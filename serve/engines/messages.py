"""What engines are sent and answer, in a copy of a model or in place. Nothing imports Ray."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import msgspec

from providers.base import OnUnsupported, Path, Translation


class LoadModel(msgspec.Struct, frozen=True):
    """Which model an engine in place loads: its name and its entry of the section `models:`."""

    name: str
    entry: dict[str, Any]


class EngineRequest(msgspec.Struct, frozen=True):
    """A provider's Call on its way to a copy of a model, or to an engine in place.

    Attributes:
        path: below `/v1`.
        model: as the client named it.
        body: its JSON object.
        request_id: the client's, "" for none.
        traceparent: W3C Trace Context, "" for none.
        on_unsupported: as of `providers.base.Call`.
    """

    path: Path
    model: str
    body: bytes
    request_id: str
    traceparent: str = ""
    on_unsupported: OnUnsupported = "drop"


class EngineResponse(msgspec.Struct, frozen=True):
    """The engine's whole answer."""

    status: int
    content_type: str
    body: bytes
    translation: Translation


encode = msgspec.msgpack.Encoder().encode

decode_load = msgspec.msgpack.Decoder(LoadModel).decode

decode_asked = msgspec.msgpack.Decoder(EngineRequest).decode

decode_answered = msgspec.msgpack.Decoder(EngineResponse).decode


class ResponseHead(NamedTuple):
    """How an answer begins.

    Attributes:
        status: of HTTP.
        content_type: of the body.
        load: `loading` where the copy has to load the model first (nothing of the answer yet,
            another ResponseHead follows), `failed` where it could not.
    """

    status: int
    content_type: str
    load: Literal["", "loading", "failed"] = ""
