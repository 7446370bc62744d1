"""The OpenAPI document: of Litestar's handlers, and of the model paths, which are not its own."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

import msgspec
import yaml
from litestar import Litestar, get
from litestar.di import NamedDependency, Provide
from litestar.openapi import OpenAPIConfig
from litestar.openapi.spec import (
    OpenAPIMediaType,
    OpenAPIResponse,
    OpenAPIType,
    Operation,
    PathItem,
    Reference,
    RequestBody,
    Schema,
)
from litestar.types import ControllerRouterHandler

from providers.base import Path
from router.api.request_bodies import add_bodies
from router.api.request_parsing import PATHS
from router.gateway.dialects import DIALECTS


class SchemaDocument:
    """The OpenAPI document, made in a thread once a client requests it: that takes a while.

    Attributes:
        route_handlers: what the document describes, besides the model paths.
        dependencies: what the handlers are given that is no part of a request.
    """

    def __init__(
        self, route_handlers: Sequence[ControllerRouterHandler], dependencies: Mapping[str, Provide]
    ) -> None:
        self.route_handlers = route_handlers
        self.dependencies = dependencies
        self._lock = asyncio.Lock()
        self._document: dict[str, Any] = {}
        self._texts: dict[str, bytes] = {}

    async def text(self, form: str) -> bytes:
        """Return the document as `json` or `yaml`."""
        async with self._lock:
            if form not in self._texts:
                self._texts[form] = await asyncio.to_thread(self._make, form)
        return self._texts[form]

    def _make(self, form: str) -> bytes:
        self._document = self._document or self._described()
        if form == "json":
            return msgspec.json.encode(self._document)
        return yaml.safe_dump(self._document, sort_keys=False).encode()

    def _described(self) -> dict[str, Any]:
        # Never served: it only describes what another one serves.
        app = Litestar(
            route_handlers=self.route_handlers,
            dependencies=self.dependencies,
            openapi_config=OpenAPIConfig(
                title="evalrouter",
                version=version("evalrouter"),
                # Generated clients name their functions so.
                operation_id_creator=lambda handler, _method, _parts: handler.fn.__name__,
            ),
            logging_config=None,
        )
        document = app.openapi_schema
        assert document.paths is not None
        for path, name in PATHS.items():
            document.paths[path] = PathItem(post=_operation(name))
        # Defaults are objects of their own kinds.
        described: dict[str, Any] = msgspec.to_builtins(document.to_schema())
        add_bodies(described)
        _drop_object_defaults(described["components"]["schemas"])
        _describe_errors(described)
        _describe_streams(described)
        return described


def _drop_object_defaults(schema: Any) -> None:
    """Leave out defaults that are objects where null is a value too: generators refuse them."""
    if isinstance(schema, dict):
        if "oneOf" in schema and isinstance(schema.get("default"), dict):
            del schema["default"]
        for inner in schema.values():
            _drop_object_defaults(inner)
    elif isinstance(schema, list):
        for inner in schema:
            _drop_object_defaults(inner)


_ERROR = {
    "type": "object",
    "title": "Error",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "title": "ErrorDetail",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "integer", "null"]},
            },
        }
    },
}


def _describe_errors(document: dict[str, Any]) -> None:
    """Say of every operation that its errors are OpenAI's object."""
    document["components"]["schemas"]["Error"] = _ERROR
    reference = {"schema": {"$ref": "#/components/schemas/Error"}}
    for path, operations in document["paths"].items():
        if PATHS.get(path) in _ANTHROPICS:
            continue
        for operation in operations.values():
            responses = operation["responses"]
            responses.pop("400", None)
            responses["default"] = {
                "description": "OpenAI's error object.",
                "content": {"application/json": reference},
            }


# What a handler that answers with a stream, or with bytes, does not say in its annotations.
_STREAMS = {
    "GET /eval/{run_id}/rows.csv": "text/csv",
    "GET /eval/{run_id}/rows.jsonl": "application/octet-stream",
    "GET /eval/{run_id}/rows.parquet": "application/octet-stream",
    "GET /eval/{run_id}/export/{name}": "application/octet-stream",
    "GET /datasets/{name}/content": "application/octet-stream",
    "GET /evidence/{bundle_id}": "application/octet-stream",
    "GET /metrics": "text/plain",
    "GET /eval/{run_id}/events": "text/event-stream",
    "POST /datasets/from-traffic": "text/event-stream",
}


def _describe_streams(document: dict[str, Any]) -> None:
    for operation, media_type in _STREAMS.items():
        method, _, path = operation.partition(" ")
        is_text = media_type.startswith("text/")
        schema = {"type": "string"} if is_text else {"type": "string", "format": "binary"}
        success = document["paths"][path][method.lower()]["responses"]["200"]
        success["content"] = {media_type: {"schema": schema}}
    created = document["paths"]["/eval"]["post"]["responses"]
    for status, name in (("202", "Run"), ("200", "Estimate")):
        content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{name}"}}}
        created[status] = {**created["202"], "content": content}
    followed = document["paths"]["/eval/{run_id}/logs"]["get"]["responses"]["200"]
    followed["content"]["text/event-stream"] = {"schema": {"type": "string"}}


Injected = NamedDependency[SchemaDocument]


@get(
    ["/schema", "/schema/openapi.json"],
    include_in_schema=False,
    media_type="application/vnd.oai.openapi+json",
)
async def schema_as_json(schema: Injected) -> bytes:
    """Show the OpenAPI document."""
    return await schema.text("json")


@get(
    ["/schema/openapi.yaml", "/schema/openapi.yml"],
    include_in_schema=False,
    media_type="application/vnd.oai.openapi",
)
async def schema_as_yaml(schema: Injected) -> bytes:
    """Show the OpenAPI document as YAML."""
    return await schema.text("yaml")


_ANTHROPICS: frozenset[Path] = frozenset({"messages", "messages/count_tokens"})


def _operation(name: Path) -> Operation:
    answer = OpenAPIMediaType(schema=Schema(type=OpenAPIType.OBJECT))
    return Operation(
        operation_id=name.replace("/", "_"),
        tags=["models"],
        summary=f"{'Anthropic' if name in _ANTHROPICS else 'OpenAI'}'s {name}, by any route",
        request_body=RequestBody(
            content={"application/json": OpenAPIMediaType(schema=_body(name))}, required=True
        ),
        responses={
            "200": OpenAPIResponse(
                description="The target's answer, byte for byte.",
                content={"application/json": answer, "text/event-stream": answer},
            ),
            "default": OpenAPIResponse(
                description="The API's error object.",
                content={"application/json": answer},
            ),
        },
    )


def _body(name: Path) -> Schema:
    properties: dict[str, Schema | Reference] = {
        "model": Schema(type=OpenAPIType.STRING, description="A route's name, or provider/model."),
    }
    dialect = DIALECTS[name]
    required = [dialect.required] if dialect.required else []
    properties[dialect.required or dialect.turns] = Schema(description="As in its API.")
    if dialect.streams:
        properties["stream"] = Schema(type=OpenAPIType.BOOLEAN)
    return Schema(
        type=OpenAPIType.OBJECT,
        required=["model", *required],
        properties=properties,
        description="The API's own request. Fields not listed here pass to the target untouched, "
        "where its host has the path.",
    )
