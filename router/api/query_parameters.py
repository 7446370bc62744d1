"""Refuses what no handler reads: `QueryCheck` is Litestar's guard of every handler.

    GET /traffic?limits=5  ->  400 unknown_parameter, limits, "Did you mean 'limit'?"

A misspelt filter that is ignored would look like an answer. The paths of OpenAI's API, of probes
and of Prometheus are left alone: the programs that call them may have parameters of their own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args, get_origin

from litestar.connection import ASGIConnection
from litestar.handlers.base import BaseRouteHandler
from litestar.params import QueryParameter

from providers.errors import RequestError, closest

OPEN_PATHS = ("/v1/", "/health/", "/metrics")


class QueryCheck:
    """Lets a request through whose query has parameters of its handler only, each of them once."""

    def __init__(self) -> None:
        # By the handler's function, because Litestar makes a handler anew for every request.
        self._parameters: dict[object, Mapping[str, bool]] = {}

    async def __call__(
        self, connection: ASGIConnection[Any, Any, Any, Any], handler: BaseRouteHandler
    ) -> None:
        """Check one request.

        Raises:
            RequestError: 400, with the parameter's name.
        """
        query = connection.scope["query_string"]
        if not query or connection.scope["path"].startswith(OPEN_PATHS):
            return
        # A browser asks whether it may send the request that it means.
        if connection.scope.get("method") == "OPTIONS":
            return
        known = self._parameters.get(handler.fn)
        if known is None:
            known = self._parameters[handler.fn] = _parameters(handler)
        for name in connection.query_params:
            shown = name[:100]
            if name not in known:
                near = closest(name, known) if known else " It has none."
                raise RequestError(
                    f"This path has no query parameter {shown!r}.{near}",
                    code="unknown_parameter",
                    param=shown,
                )
            if not known[name] and len(connection.query_params.getall(name)) > 1:
                raise RequestError(
                    f"The query parameter {shown!r} is given more than once.",
                    code="repeated_parameter",
                    param=shown,
                )


def _parameters(handler: BaseRouteHandler) -> Mapping[str, bool]:
    """Return the names of a handler's query parameters, and whether each takes several values."""
    return {
        field.kwarg_definition.name or name: field.is_non_string_sequence
        for name, field in handler.parsed_fn_signature.parameters.items()
        if isinstance(field.kwarg_definition, QueryParameter)
    }


def named_in_queries(handler: BaseRouteHandler, argument: str) -> tuple[str, tuple[str, ...]]:
    """Return the name that queries have for an argument, and its values if they are few."""
    field = handler.parsed_fn_signature.parameters.get(argument)
    if field is None or not isinstance(field.kwarg_definition, QueryParameter):
        return argument, ()
    literals = [
        kind
        for kind in (field.annotation, *get_args(field.annotation))
        if get_origin(kind) is Literal
    ]
    return field.kwarg_definition.name or argument, tuple(
        value for kind in literals for value in get_args(kind)
    )
