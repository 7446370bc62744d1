"""Conversations: items that responses read and add to, in the store for every host alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from providers.errors import NotFoundError, RequestError
from providers.translation.dialect import new_id
from router.openai.items import Item, read_items, stored_items, with_ids
from router.openai.resources import Order, list_of
from router.store.responses import ResponseStore, StoredConversation

# As OpenAI bounds them.
MAX_NEW_ITEMS = 20
MAX_METADATA = 16
MAX_METADATA_KEY = 64
MAX_METADATA_VALUE = 512

_encode = msgspec.json.Encoder().encode
_decode_item = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


class NewConversation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a conversation begins with.

    Attributes:
        items: its first items, at most 20.
        metadata: at most 16 pairs of texts.
    """

    items: list[dict[str, Any]] | None = None
    metadata: dict[str, str] | None = None


class NewItems(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Items to add.

    Attributes:
        items: at most 20.
    """

    items: list[dict[str, Any]]


class NewMetadata(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What replaces a conversation's metadata.

    Attributes:
        metadata: at most 16 pairs of texts.
    """

    metadata: dict[str, str]


class Conversations:
    """The conversations of the keys.

    Args:
        store: has them.
        clock: returns seconds since the epoch.
    """

    def __init__(self, store: ResponseStore, *, clock: Callable[[], float] = time.time) -> None:
        self._store = store
        self._now = clock

    async def create(self, new: NewConversation, key_id: str) -> bytes:
        """Begin a conversation.

        Raises:
            RequestError: items or metadata are not as OpenAI has them.
        """
        items = [] if new.items is None else _read_new(new.items)
        metadata = new.metadata or {}
        check_metadata(metadata)
        conversation = StoredConversation(
            id=new_id("conv"), key_id=key_id, created_at=self._now(), metadata=metadata
        )
        await self._store.add_conversation(conversation, stored_items(items))
        return _shown(conversation)

    async def show(self, conversation_id: str, key_id: str) -> bytes:
        """Return a conversation. Raises NotFoundError where this key has none of that id."""
        try:
            return _shown(await self._store.conversation(conversation_id, key_id))
        except NotFoundError:
            raise no_conversation(conversation_id) from None

    async def change(self, conversation_id: str, key_id: str, metadata: dict[str, str]) -> bytes:
        """Replace a conversation's metadata. Raises as `create` and `show`."""
        check_metadata(metadata)
        try:
            changed = await self._store.change_conversation(conversation_id, key_id, metadata)
        except NotFoundError:
            raise no_conversation(conversation_id) from None
        return _shown(changed)

    async def delete(self, conversation_id: str, key_id: str) -> bytes:
        """Delete a conversation with its items. Raises as `show`."""
        if not await self._store.delete_conversation(conversation_id, key_id):
            raise no_conversation(conversation_id)
        return _encode({"id": conversation_id, "object": "conversation.deleted", "deleted": True})

    async def add(self, conversation_id: str, key_id: str, items: list[dict[str, Any]]) -> bytes:
        """Add items; return them as a list. Raises as `create` and `show`."""
        new = _read_new(items)
        try:
            await self._store.add_conversation_items(conversation_id, key_id, stored_items(new))
        except NotFoundError:
            raise no_conversation(conversation_id) from None
        return list_of(new, has_more=False)

    async def items(
        self, conversation_id: str, key_id: str, *, limit: int, order: Order, after: str
    ) -> bytes:
        """List items. Raises as `show`, and where there is no item `after`."""
        await self.show(conversation_id, key_id)
        stored = await self._store.conversation_items(
            conversation_id, key_id, limit=limit + 1, after=after, newest_first=order == "desc"
        )
        shown: list[Item] = [_decode_item(item.body) for item in stored[:limit]]
        return list_of(shown, has_more=len(stored) > limit)

    async def item(self, conversation_id: str, key_id: str, item_id: str) -> bytes:
        """Return an item. Raises as `show`, and where there is none of that id."""
        await self.show(conversation_id, key_id)
        stored = await self._store.conversation_item(conversation_id, key_id, item_id)
        return stored.body

    async def delete_item(self, conversation_id: str, key_id: str, item_id: str) -> bytes:
        """Delete an item; return the conversation. Raises as `item`."""
        shown = await self.show(conversation_id, key_id)
        if not await self._store.delete_conversation_item(conversation_id, key_id, item_id):
            raise NotFoundError(f"There is no item with id '{item_id}'.")
        return shown


def _read_new(items: list[dict[str, Any]]) -> list[Item]:
    return with_ids(read_items(msgspec.Raw(_encode(items)), "items", limit=MAX_NEW_ITEMS))


def check_metadata(metadata: Mapping[str, Any]) -> None:
    """Raise where metadata is larger than OpenAI's may be. Raises RequestError."""
    if len(metadata) > MAX_METADATA:
        raise RequestError(f"`metadata` has over {MAX_METADATA} pairs.", param="metadata")
    for name, value in metadata.items():
        if len(name) > MAX_METADATA_KEY or len(value) > MAX_METADATA_VALUE:
            raise RequestError(
                f"In `metadata`, a key has at most {MAX_METADATA_KEY} characters and a value "
                f"{MAX_METADATA_VALUE}.",
                param="metadata",
            )


def _shown(conversation: StoredConversation) -> bytes:
    return _encode(
        {
            "id": conversation.id,
            "object": "conversation",
            "created_at": int(conversation.created_at),
            "metadata": conversation.metadata,
        }
    )


def no_conversation(conversation_id: str) -> NotFoundError:
    """Return the error of a conversation that a key does not have."""
    return NotFoundError(
        f"Conversation with id '{conversation_id}' not found.", code="conversation_not_found"
    )
