"""Responses that clients may continue, conversations, and the keys that ids are sealed with.

A response is stored for the hosts that keep none themselves: what the client sent and what it was
answered, so that a follow-up can be sent with its whole history to any host. Both belong to the key
that they were made with; to any other key they do not exist.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, Protocol

import msgspec

from router.store.traffic import TrafficFilter

# A follow-up leads to the responses before it; a chain longer than this is refused.
MAX_TURNS = 1000
MAX_CONVERSATION_ITEMS = 10_000
# Bytes of such a chain, and of a conversation: they are read whole for a follow-up.
MAX_HISTORY_BYTES = 64 * 2**20

ResponseStatus = Literal["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"]


class StoredResponse(msgspec.Struct, frozen=True, kw_only=True):
    """A response as it is stored.

    Attributes:
        id: `resp_` and a random part.
        key_id: the key that it was made with; "" without one.
        record_id, request_id: the request's record, and its `x-request-id`.
        route: the `model` of its request.
        target: the target that answered; "" where none has.
        user_id: the client's identifier of its user, "" for none.
        created_at, expires_at: seconds since the epoch, UTC.
        status: how far it has come.
        previous: the response that it follows; "" for none.
        conversation: the conversation that it belongs to; "" for none.
        input: the JSON array of its own input items, each with an id.
        response: the JSON object as the client got it.
    """

    id: str
    key_id: str
    record_id: str
    request_id: str
    route: str
    target: str
    user_id: str
    created_at: float
    expires_at: float
    status: ResponseStatus
    previous: str
    conversation: str
    input: bytes
    response: bytes


class StoredConversation(msgspec.Struct, frozen=True, kw_only=True):
    """A conversation: items that responses read and add to.

    Attributes:
        id: `conv_` and a random part.
        key_id: the key that it was made with; "" without one.
        created_at: seconds since the epoch, UTC.
        metadata: what the client wrote.
    """

    id: str
    key_id: str
    created_at: float
    metadata: dict[str, Any] = {}


class ConversationItem(NamedTuple):
    """An item of a conversation: its id, and itself as a JSON object."""

    id: str
    body: bytes

    def renamed(self, new: str) -> ConversationItem:
        """Return it with another id."""
        fields = msgspec.json.decode(self.body, type=dict[str, msgspec.Raw])
        fields["id"] = msgspec.Raw(msgspec.json.encode(new))
        return ConversationItem(new, msgspec.json.encode(fields))


# What a filter of requests may select stored responses by.
RESPONSE_FIELDS = frozenset(
    {
        "id", "request_id", "response_id", "route", "except_routes", "target", "key_id", "user",
        "since", "until",
    }
)  # fmt: skip


class SealingKey(NamedTuple):
    """A key that ids are sealed with: its number, its bytes, and when it was made."""

    number: int
    value: bytes
    created_at: float


class ResponseStore(Protocol):
    """Stores responses, conversations, and the keys of ids."""

    async def set_response(self, response: StoredResponse) -> None:
        """Store a response, or replace the one with its id."""
        ...

    async def end_response(
        self, response: StoredResponse, items: Sequence[ConversationItem]
    ) -> None:
        """Store a response and add items to its conversation, both or neither.

        Raises:
            NotFoundError: the conversation does not exist any more.
        """
        ...

    async def response(self, response_id: str, key_id: str, now: float) -> StoredResponse:
        """Return a response.

        Raises:
            NotFoundError: it does not exist, has expired, or belongs to another key.
        """
        ...

    async def response_turns(
        self, response_id: str, key_id: str, now: float
    ) -> list[StoredResponse]:
        """Return a response and all those before it, the first turn first.

        Raises:
            NotFoundError: one of them does not exist, has expired, or belongs to another key.
            RequestError: there are more than MAX_TURNS, or over MAX_HISTORY_BYTES in them.
        """
        ...

    async def delete_response(self, response_id: str, key_id: str) -> bool:
        """Delete a response; return whether there was one."""
        ...

    async def delete_responses(self, matching: TrafficFilter, limit: int) -> int:
        """Delete up to so many responses of the requests that match; return how many.

        A filter with a field that is not one of RESPONSE_FIELDS selects none.
        """
        ...

    async def delete_expired_responses(self, now: float, limit: int) -> int:
        """Delete up to so many responses that have expired; return how many."""
        ...

    async def add_conversation(
        self, conversation: StoredConversation, items: Sequence[ConversationItem]
    ) -> None:
        """Store a new conversation with its first items."""
        ...

    async def conversation(self, conversation_id: str, key_id: str) -> StoredConversation:
        """Return a conversation.

        Raises:
            NotFoundError: it does not exist, or belongs to another key.
        """
        ...

    async def change_conversation(
        self, conversation_id: str, key_id: str, metadata: dict[str, Any]
    ) -> StoredConversation:
        """Replace a conversation's metadata; return it as it is then.

        Raises:
            NotFoundError: it does not exist, or belongs to another key.
        """
        ...

    async def delete_conversation(self, conversation_id: str, key_id: str) -> bool:
        """Delete a conversation with its items; return whether there was one."""
        ...

    async def add_conversation_items(
        self, conversation_id: str, key_id: str, items: Sequence[ConversationItem]
    ) -> None:
        """Add items behind those that are there; one whose id is taken gets another one.

        Raises:
            NotFoundError: the conversation does not exist, or belongs to another key.
            RequestError: it would have more than MAX_CONVERSATION_ITEMS or MAX_HISTORY_BYTES.
        """
        ...

    async def conversation_items(
        self,
        conversation_id: str,
        key_id: str,
        *,
        limit: int,
        after: str = "",
        newest_first: bool = False,
    ) -> list[ConversationItem]:
        """Return items in their order.

        Args:
            conversation_id: the conversation.
            key_id: the key that asks.
            limit: how many at most.
            after: the item behind which they begin; "" for the first.
            newest_first: whether the order is the other way round.

        Raises:
            NotFoundError: the conversation or the item `after` does not exist.
        """
        ...

    async def conversation_item(
        self, conversation_id: str, key_id: str, item_id: str
    ) -> ConversationItem:
        """Return an item.

        Raises:
            NotFoundError: the conversation or the item does not exist.
        """
        ...

    async def delete_conversation_item(
        self, conversation_id: str, key_id: str, item_id: str
    ) -> bool:
        """Delete an item; return whether there was one.

        Raises:
            NotFoundError: the conversation does not exist, or belongs to another key.
        """
        ...

    async def sealing_keys(self, new: bytes, now: float, *, rotate_s: float) -> list[SealingKey]:
        """Return the keys of ids, the newest last.

        A new one is stored where the newest is older than `rotate_s`, or there is none.
        """
        ...
