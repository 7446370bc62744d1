"""`/v1/responses/{id}`: responses that clients may continue.

`POST /v1/responses` is a model path: see `completions.py`.
"""

from __future__ import annotations

from typing import Annotated

from litestar import Response, delete, get, post
from litestar.params import FromPath, FromQuery, QueryParameter

from providers.errors import RequestError
from router.api.access import InjectedCaller
from router.api.injection import Injected
from router.openai.resources import JsonAnswer, Order

ItemsPage = Annotated[int, QueryParameter(ge=1, le=100)]


def json_response(shown: JsonAnswer) -> Response[bytes]:
    """Return JSON that is complete already."""
    return Response(shown.body, status_code=shown.status, media_type="application/json")


@get("/v1/responses/{response_id:str}", tags=["responses"], summary="Show a response")
async def show_response(
    services: Injected,
    caller: InjectedCaller,
    response_id: FromPath[str],
    *,
    stream: FromQuery[bool] = False,
) -> Response[bytes]:
    """Show a response of this key, as its client got it or as its host has it now."""
    if stream:
        raise RequestError(
            "A response is shown whole; `stream` is for requests to /v1/responses.", param="stream"
        )
    return json_response(await services.responses.show(response_id, caller.key_id))


@delete(
    "/v1/responses/{response_id:str}",
    tags=["responses"],
    summary="Delete a response",
    status_code=200,
)
async def delete_response(
    services: Injected, caller: InjectedCaller, response_id: FromPath[str]
) -> Response[bytes]:
    """Delete a response of this key; nothing can follow it any more."""
    return json_response(await services.responses.delete(response_id, caller.key_id))


@post(
    "/v1/responses/{response_id:str}/cancel",
    tags=["responses"],
    summary="Cancel a response",
    status_code=200,
)
async def cancel_response(
    services: Injected, caller: InjectedCaller, response_id: FromPath[str]
) -> Response[bytes]:
    """Cancel a response that its host makes in the background."""
    return json_response(await services.responses.cancel(response_id, caller.key_id))


@get(
    "/v1/responses/{response_id:str}/input_items",
    tags=["responses"],
    summary="List a response's input",
)
async def list_input_items(
    services: Injected,
    caller: InjectedCaller,
    response_id: FromPath[str],
    *,
    limit: ItemsPage = 20,
    order: FromQuery[Order] = "desc",
    after: FromQuery[str | None] = None,
) -> Response[bytes]:
    """List the items that a response was an answer to, those of earlier turns included."""
    shown = await services.responses.input_items(
        response_id, caller.key_id, limit=limit, order=order, after=after or ""
    )
    return json_response(shown)
