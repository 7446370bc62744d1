"""Describes the model paths in the OpenAPI document: they are not Litestar's, so it cannot."""

from __future__ import annotations

from litestar.openapi.spec import (
    OpenAPI,
    OpenAPIMediaType,
    OpenAPIResponse,
    OpenAPIType,
    Operation,
    PathItem,
    Reference,
    RequestBody,
    Schema,
)

from providers.base import Path
from router.api.request_parsing import PATHS, REQUIRED


def describe(document: OpenAPI) -> None:
    """Add the model paths to the OpenAPI document."""
    assert document.paths is not None
    for path, name in PATHS.items():
        document.paths[path] = PathItem(post=_operation(name))


def _operation(name: Path) -> Operation:
    answer = OpenAPIMediaType(schema=Schema(type=OpenAPIType.OBJECT))
    return Operation(
        operation_id=name.replace("/", "_"),
        tags=["models"],
        summary=f"OpenAI's {name}, by any route",
        request_body=RequestBody(
            content={"application/json": OpenAPIMediaType(schema=_body(name))}, required=True
        ),
        responses={
            "200": OpenAPIResponse(
                description="The target's answer, byte for byte.",
                content={"application/json": answer, "text/event-stream": answer},
            ),
            "default": OpenAPIResponse(
                description="OpenAI's error object.",
                content={"application/json": answer},
            ),
        },
    )


def _body(name: Path) -> Schema:
    properties: dict[str, Schema | Reference] = {
        "model": Schema(type=OpenAPIType.STRING, description="A route's name, or provider/model."),
        REQUIRED[name]: Schema(description="As in OpenAI's API."),
    }
    if name != "embeddings":
        properties["stream"] = Schema(type=OpenAPIType.BOOLEAN)
    return Schema(
        type=OpenAPIType.OBJECT,
        required=["model", REQUIRED[name]],
        properties=properties,
        description="OpenAI's request. Fields not listed here pass to the target untouched.",
    )
