"""`/v1/conversations`: items that responses read and add to."""

from __future__ import annotations

from typing import Any

from litestar import Request, Response, delete, get, post
from litestar.params import FromPath, FromQuery

from router.api.access import InjectedCaller
from router.api.bodies import body_as
from router.api.injection import Injected
from router.api.responses import ItemsPage, json_response
from router.openai.conversations import NewConversation, NewItems, NewMetadata
from router.openai.resources import JsonAnswer, Order

AnyRequest = Request[Any, Any, Any]


def _answer(body: bytes) -> Response[bytes]:
    return json_response(JsonAnswer(200, body))


@post("/v1/conversations", tags=["responses"], summary="Begin a conversation", status_code=200)
async def create_conversation(
    services: Injected, caller: InjectedCaller, request: AnyRequest
) -> Response[bytes]:
    """Begin a conversation, with up to 20 items and metadata."""
    new = await body_as(request, NewConversation, default=b"{}")
    return _answer(await services.conversations.create(new, caller.key_id))


@get("/v1/conversations/{conversation_id:str}", tags=["responses"], summary="Show a conversation")
async def show_conversation(
    services: Injected, caller: InjectedCaller, conversation_id: FromPath[str]
) -> Response[bytes]:
    """Show a conversation of this key, without its items."""
    return _answer(await services.conversations.show(conversation_id, caller.key_id))


@post(
    "/v1/conversations/{conversation_id:str}",
    tags=["responses"],
    summary="Change a conversation",
    status_code=200,
)
async def change_conversation(
    services: Injected,
    caller: InjectedCaller,
    request: AnyRequest,
    conversation_id: FromPath[str],
) -> Response[bytes]:
    """Replace a conversation's metadata."""
    new = await body_as(request, NewMetadata)
    changed = await services.conversations.change(conversation_id, caller.key_id, new.metadata)
    return _answer(changed)


@delete(
    "/v1/conversations/{conversation_id:str}",
    tags=["responses"],
    summary="Delete a conversation",
    status_code=200,
)
async def delete_conversation(
    services: Injected, caller: InjectedCaller, conversation_id: FromPath[str]
) -> Response[bytes]:
    """Delete a conversation with its items; responses that were made with it stay."""
    return _answer(await services.conversations.delete(conversation_id, caller.key_id))


@get(
    "/v1/conversations/{conversation_id:str}/items",
    tags=["responses"],
    summary="List a conversation's items",
)
async def list_conversation_items(
    services: Injected,
    caller: InjectedCaller,
    conversation_id: FromPath[str],
    *,
    limit: ItemsPage = 20,
    order: FromQuery[Order] = "desc",
    after: FromQuery[str | None] = None,
) -> Response[bytes]:
    """List a conversation's items, the newest first unless `order` is `asc`."""
    listed = await services.conversations.items(
        conversation_id, caller.key_id, limit=limit, order=order, after=after or ""
    )
    return _answer(listed)


@post(
    "/v1/conversations/{conversation_id:str}/items",
    tags=["responses"],
    summary="Add to a conversation",
    status_code=200,
)
async def add_conversation_items(
    services: Injected,
    caller: InjectedCaller,
    request: AnyRequest,
    conversation_id: FromPath[str],
) -> Response[bytes]:
    """Add up to 20 items to a conversation."""
    new = await body_as(request, NewItems)
    return _answer(await services.conversations.add(conversation_id, caller.key_id, new.items))


@get(
    "/v1/conversations/{conversation_id:str}/items/{item_id:str}",
    tags=["responses"],
    summary="Show a conversation's item",
)
async def show_conversation_item(
    services: Injected,
    caller: InjectedCaller,
    conversation_id: FromPath[str],
    item_id: FromPath[str],
) -> Response[bytes]:
    """Show an item of a conversation."""
    item = await services.conversations.item(conversation_id, caller.key_id, item_id)
    return _answer(item)


@delete(
    "/v1/conversations/{conversation_id:str}/items/{item_id:str}",
    tags=["responses"],
    summary="Delete a conversation's item",
    status_code=200,
)
async def delete_conversation_item(
    services: Injected,
    caller: InjectedCaller,
    conversation_id: FromPath[str],
    item_id: FromPath[str],
) -> Response[bytes]:
    """Delete an item of a conversation, and show the conversation."""
    left = await services.conversations.delete_item(conversation_id, caller.key_id, item_id)
    return _answer(left)
