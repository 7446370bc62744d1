"""`telemetry:` of the config: where traces go, which requests they have, and what they show."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Annotated
from urllib.parse import urlsplit

import msgspec

from providers.base import Positive, Secret
from router.config.documents import Document, Problem
from router.config.section import Section

_Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
_HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
# OpenTelemetry has no limit; longer ones are mistakes.
_MAX_RESOURCE_CHARS = 256


class Telemetry(Section, frozen=True, kw_only=True):
    """Where traces go, which requests they have, and what they show. Metrics are always there.

    Attributes:
        otlp_endpoint: an OpenTelemetry collector's address for OTLP over HTTP, as
            `http://127.0.0.1:4318`; "" for no traces. Needs the extra `otel`.
        otlp_headers: sent with every export; their values are secrets to every log.
        otlp_timeout: seconds that an export may take, with what the collector says to wait.
        service_name: what the traces call this gateway.
        resource: more about this gateway, as `deployment.environment.name`.
        sample: the share of traces that are recorded, of those that begin here; a client that
            sends a `traceparent` decides about its own.
        sample_evaluations: the share of an evaluation's samples that are recorded.
        content: whether spans show messages and answers, of requests whose bodies are recorded
            (`record: full`) and of evaluations.
        propagate: whether targets get a `traceparent`.
        phoenix: the address of an Arize Phoenix that gets scores and feedback as annotations,
            because it does not read them in spans; "" for none.
        phoenix_headers: sent with these; their values are secrets to every log.
    """

    otlp_endpoint: str = ""
    otlp_headers: dict[str, Secret] = msgspec.field(default_factory=dict)
    otlp_timeout: Positive = 10.0
    service_name: str = "evalrouter"
    resource: dict[str, str] = msgspec.field(default_factory=dict)
    sample: _Share = 1.0
    sample_evaluations: _Share = 1.0
    content: bool = False
    propagate: bool = True
    phoenix: str = ""
    phoenix_headers: dict[str, Secret] = msgspec.field(default_factory=dict)


def telemetry_problems(document: Document, telemetry: Telemetry) -> Iterator[Problem]:
    """Yield why nothing can be sent, and what cannot be."""
    for key in ("otlp_endpoint", "phoenix"):
        address: str = getattr(telemetry, key)
        if address and (fault := _address_fault(address)):
            yield document.problem(("telemetry", key), fault)
    headers: Mapping[str, Mapping[str, Secret]] = {
        "otlp_headers": telemetry.otlp_headers,
        "phoenix_headers": telemetry.phoenix_headers,
    }
    for key, values in headers.items():
        for name, value in values.items():
            text = value.reveal()
            if not _HEADER.fullmatch(name):
                yield document.problem(("telemetry", key, name), "is no name of a header")
            elif not text.isascii() or not text.isprintable():
                fault = "has characters that a header cannot have"
                yield document.problem(("telemetry", key, name), fault)
    if telemetry.phoenix and not telemetry.otlp_endpoint:
        yield document.problem(
            ("telemetry", "phoenix"),
            "gets annotations of spans only: give its address as telemetry.otlp_endpoint, too, or "
            "that of a collector that sends it the spans",
        )
    for name, label in telemetry.resource.items():
        if not 0 < len(name) <= _MAX_RESOURCE_CHARS or len(label) > _MAX_RESOURCE_CHARS:
            fault = f"a name and its value have at most {_MAX_RESOURCE_CHARS} characters"
            yield document.problem(("telemetry", "resource", name), fault)


def _address_fault(address: str) -> str:
    """Return why nothing can be sent to an address; "" where nothing is wrong with it."""
    try:
        parts = urlsplit(address)
        port = parts.port
    except ValueError:
        return "is no address: its host or port cannot be read"
    if not address.isprintable() or " " in address:
        return "has characters that an address cannot have"
    if parts.query or parts.fragment:
        return "must have neither ? nor #"
    if parts.scheme in ("http", "https") and parts.hostname and port != 0:
        return ""
    return "must be http://HOST or https://HOST"
