"""Responses and conversations as resources: shown, listed and deleted, whoever keeps them.

A response that a host keeps is requested there, and shown with our id in the place of the host's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Literal, NamedTuple
from urllib.parse import quote, urlencode

import msgspec

from providers.base import Provider, Reply, keeper_of_responses
from providers.errors import (
    ConflictError,
    NotFoundError,
    RequestError,
    UpstreamStatusError,
    UpstreamTimeoutError,
)
from router.openai.items import Item, text_of
from router.openai.response_ids import HostResponse, is_stored_id
from router.openai.response_turns import Turns, items_of_turns, outputs_of
from router.store.responses import StoredResponse

Order = Literal["asc", "desc"]

# Seconds that a host may take to show or delete a response.
HOST_S = 60.0
MAX_HOST_BYTES = 64 * 2**20

_encode = msgspec.json.Encoder().encode


class JsonAnswer(NamedTuple):
    """An answer in OpenAI's form: its status and its JSON."""

    status: int
    body: bytes


class Responses:
    """Responses that clients may continue.

    Args:
        turns: has the store, and the ids of hosts' responses.
        providers: name to provider.
    """

    def __init__(self, turns: Turns, providers: Mapping[str, Provider]) -> None:
        self._turns = turns
        self._store = turns.store
        self._providers = providers

    async def show(self, response_id: str, key_id: str) -> JsonAnswer:
        """Return a response as its client got it, or as its host has it now.

        Raises:
            NotFoundError: this key has no such response.
            ConflictError: its host is no provider any more.
            UpstreamError: its host does not answer.
        """
        if is_stored_id(response_id):
            return JsonAnswer(200, (await self._stored(response_id, key_id)).response)
        return await self._at_host("GET", response_id, key_id)

    async def delete(self, response_id: str, key_id: str) -> JsonAnswer:
        """Delete a response. Raises as `show`."""
        if not is_stored_id(response_id):
            return await self._at_host("DELETE", response_id, key_id)
        if not await self._store.delete_response(response_id, key_id):
            raise no_such_response(response_id)
        return JsonAnswer(200, _encode({"id": response_id, "object": "response", "deleted": True}))

    async def cancel(self, response_id: str, key_id: str) -> JsonAnswer:
        """Cancel a response that its host makes in the background. Raises as `show`."""
        if not is_stored_id(response_id):
            return await self._at_host("POST", response_id, key_id, "/cancel")
        await self._stored(response_id, key_id)
        raise RequestError(
            "Only responses that were requested with `background: true` can be cancelled.",
            code="cannot_cancel",
        )

    async def input_items(
        self, response_id: str, key_id: str, *, limit: int, order: Order, after: str
    ) -> JsonAnswer:
        """List what a response was an answer to, earlier turns included. Raises as `show`."""
        if not is_stored_id(response_id):
            query = urlencode(
                {"limit": limit, "order": order} | ({"after": after} if after else {})
            )
            return await self._at_host("GET", response_id, key_id, f"/input_items?{query}")
        try:
            turns = await self._store.response_turns(response_id, key_id, self._turns.now())
        except NotFoundError:
            raise no_such_response(response_id) from None
        items = items_of_turns(turns)
        # Its own answer comes last.
        del items[len(items) - len(outputs_of(turns[-1])) :]
        if order == "desc":
            items.reverse()
        return JsonAnswer(200, page_of(items, limit=limit, after=after))

    async def _stored(self, response_id: str, key_id: str) -> StoredResponse:
        try:
            return await self._store.response(response_id, key_id, self._turns.now())
        except NotFoundError:
            raise no_such_response(response_id) from None

    async def _at_host(
        self, method: str, response_id: str, key_id: str, below: str = ""
    ) -> JsonAnswer:
        owner = await self._turns.ids.unseal(response_id)
        if owner is None or owner.key_id != key_id:
            raise no_such_response(response_id)
        keeper = keeper_of_responses(self._providers.get(owner.provider))
        if keeper is None:
            raise _keeper_gone(response_id, owner)
        path = f"{quote(owner.id, safe='')}{below}"
        try:
            async with asyncio.timeout(HOST_S):
                reply = await keeper.response(method, path)
                status, body = reply.status, await _read(reply)
        except TimeoutError:
            raise UpstreamTimeoutError(
                f"{owner.provider} has not answered within {HOST_S:g} s", phase="total"
            ) from None
        ours, theirs = _encode(response_id), _encode(owner.id)
        for colon in (b":", b": "):
            body = body.replace(b'"id"' + colon + theirs, b'"id"' + colon + ours)
        if status == 404:
            raise no_such_response(response_id)
        if not 200 <= status < 300:
            raise UpstreamStatusError(
                status, body, {}, f"{owner.provider} answered with status {status}"
            )
        return JsonAnswer(status, body)


async def _read(reply: Reply) -> bytes:
    body = bytearray()
    try:
        async for chunk in reply.chunks():
            body += chunk
            if len(body) > MAX_HOST_BYTES:
                raise RequestError(f"The response has over {MAX_HOST_BYTES} bytes.")
    finally:
        await reply.aclose()
    return bytes(body)


def page_of(items: list[Item], *, limit: int, after: str) -> bytes:
    """Return a page of items as OpenAI's list object.

    Raises:
        NotFoundError: there is no item `after`.
    """
    ids = [text_of(item, "id") for item in items]
    if after and after not in ids:
        raise NotFoundError(f"There is no item with id '{after}'.", param="after")
    start = ids.index(after) + 1 if after else 0
    shown = items[start : start + limit]
    return list_of(shown, has_more=len(items) > start + limit)


def list_of(items: list[Item], *, has_more: bool) -> bytes:
    """Return items as OpenAI's list object."""
    ids = [text_of(item, "id") for item in items]
    return _encode(
        {
            "object": "list",
            "data": items,
            "first_id": ids[0] if ids else None,
            "last_id": ids[-1] if ids else None,
            "has_more": has_more,
        }
    )


def no_such_response(response_id: str) -> NotFoundError:
    """Return the error of a response that a key does not have."""
    return NotFoundError(f"Response with id '{response_id}' not found.", code="response_not_found")


def _keeper_gone(response_id: str, owner: HostResponse) -> ConflictError:
    """Return the error of a response whose host cannot be reached under its name any more."""
    return ConflictError(
        f"The response '{response_id}' is kept by a host that this server no longer has as it was "
        f"(provider {owner.provider}). Send the conversation's items as `input` instead.",
        code="response_owner_gone",
    )
