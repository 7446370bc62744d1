"""The tables of responses, of conversations, and of the keys of their ids."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from providers.errors import NotFoundError, RequestError
from router.store.columns.values import json_text
from router.store.responses import (
    MAX_CONVERSATION_ITEMS,
    MAX_HISTORY_BYTES,
    MAX_TURNS,
    RESPONSE_FIELDS,
    ConversationItem,
    ResponseStore,
    SealingKey,
    StoredConversation,
    StoredResponse,
)
from router.store.sql.connection import Connection, insert, upsert
from router.store.sql.database import SqlPart
from router.store.sql.filters import conditions_of
from router.store.traffic import TrafficFilter

_FIELDS = StoredResponse.__struct_fields__
_COLUMNS = ", ".join(_FIELDS)
_SET = upsert("responses", _FIELDS, key=("id",))
# What a filter of requests selects responses by; the others select none.
_FILTER_COLUMNS = {
    "id": "record_id",
    "response_id": "id",
    "except_routes": "route",
    "since": "created_at",
    "until": "created_at",
    "user": "user_id",
} | {name: name for name in ("request_id", "route", "target", "key_id")}
_NO_COLUMN = {
    name: "FALSE" for name in TrafficFilter.__struct_fields__ if name not in RESPONSE_FIELDS
}


class SqlResponses(SqlPart, ResponseStore):
    """Responses and conversations."""

    async def set_response(self, response: StoredResponse) -> None:
        await self._database.write("store a response", _set, response)

    async def end_response(
        self, response: StoredResponse, items: Sequence[ConversationItem]
    ) -> None:
        await self._database.write("store a response", _end, response, items)

    async def response(self, response_id: str, key_id: str, now: float) -> StoredResponse:
        return await self._database.read("read a response", _find, response_id, key_id, now)

    async def response_turns(
        self, response_id: str, key_id: str, now: float
    ) -> list[StoredResponse]:
        return await self._database.read("read a response", _turns, response_id, key_id, now)

    async def delete_response(self, response_id: str, key_id: str) -> bool:
        return await self._database.write("delete a response", _delete, response_id, key_id)

    async def delete_responses(self, matching: TrafficFilter, limit: int) -> int:
        return await self._database.write("delete responses", _delete_matching, matching, limit)

    async def delete_expired_responses(self, now: float, limit: int) -> int:
        return await self._database.write("delete responses", _delete_expired, now, limit)

    async def add_conversation(
        self, conversation: StoredConversation, items: Sequence[ConversationItem]
    ) -> None:
        await self._database.write("store a conversation", _add_conversation, conversation, items)

    async def conversation(self, conversation_id: str, key_id: str) -> StoredConversation:
        return await self._database.read(
            "read a conversation", _conversation, conversation_id, key_id
        )

    async def change_conversation(
        self, conversation_id: str, key_id: str, metadata: dict[str, Any]
    ) -> StoredConversation:
        return await self._database.write(
            "change a conversation", _change_conversation, conversation_id, key_id, metadata
        )

    async def delete_conversation(self, conversation_id: str, key_id: str) -> bool:
        return await self._database.write(
            "delete a conversation", _delete_conversation, conversation_id, key_id
        )

    async def add_conversation_items(
        self, conversation_id: str, key_id: str, items: Sequence[ConversationItem]
    ) -> None:
        await self._database.write(
            "add to a conversation", _add_items, conversation_id, key_id, items
        )

    async def conversation_items(
        self,
        conversation_id: str,
        key_id: str,
        *,
        limit: int,
        after: str = "",
        newest_first: bool = False,
    ) -> list[ConversationItem]:
        return await self._database.read(
            "read a conversation", _items, conversation_id, key_id, limit, after, newest_first
        )

    async def conversation_item(
        self, conversation_id: str, key_id: str, item_id: str
    ) -> ConversationItem:
        return await self._database.read(
            "read a conversation", _item, conversation_id, key_id, item_id
        )

    async def delete_conversation_item(
        self, conversation_id: str, key_id: str, item_id: str
    ) -> bool:
        return await self._database.write(
            "delete from a conversation", _delete_item, conversation_id, key_id, item_id
        )

    async def sealing_keys(self, new: bytes, now: float, *, rotate_s: float) -> list[SealingKey]:
        keys = await self._database.read("read the keys of ids", _sealing_keys)
        if not keys or keys[-1].created_at <= now - rotate_s:
            return await self._database.write("add a key of ids", _rotate, new, now, rotate_s)
        return keys


def _set(db: Connection, response: StoredResponse) -> None:
    db.execute(_SET, msgspec.structs.astuple(response))


def _end(db: Connection, response: StoredResponse, items: Sequence[ConversationItem]) -> None:
    if response.conversation:
        _add_items(db, response.conversation, response.key_id, items)
    _set(db, response)


def _find(db: Connection, response_id: str, key_id: str, now: float) -> StoredResponse:
    row = db.execute(
        f"SELECT {_COLUMNS} FROM responses WHERE id = ? AND key_id = ? AND expires_at > ?",
        (response_id, key_id, now),
    ).fetchone()
    if row is None:
        raise NotFoundError(f"there is no response {response_id!r}")
    return StoredResponse(**dict(zip(_FIELDS, row, strict=True)))


def _turns(db: Connection, response_id: str, key_id: str, now: float) -> list[StoredResponse]:
    turns: list[StoredResponse] = []
    size, next_id = 0, response_id
    while next_id:
        if len(turns) == MAX_TURNS:
            raise RequestError(
                f"The response {response_id!r} follows more than {MAX_TURNS} others.",
                param="previous_response_id",
            )
        turn = _find(db, next_id, key_id, now)
        size += len(turn.input) + len(turn.response)
        if size > MAX_HISTORY_BYTES:
            raise _too_long(response_id, "previous_response_id")
        turns.append(turn)
        next_id = turn.previous
    return turns[::-1]


def _too_long(name: str, param: str) -> RequestError:
    return RequestError(
        f"What was said with {name!r} has over {MAX_HISTORY_BYTES} bytes; begin anew.", param=param
    )


def _delete(db: Connection, response_id: str, key_id: str) -> bool:
    done = db.execute("DELETE FROM responses WHERE id = ? AND key_id = ?", (response_id, key_id))
    return done.rowcount > 0


def _delete_matching(db: Connection, matching: TrafficFilter, limit: int) -> int:
    conditions = conditions_of(db, matching, columns=_FILTER_COLUMNS, others=_NO_COLUMN)
    return db.execute(
        "DELETE FROM responses WHERE id IN"
        f" (SELECT id FROM responses WHERE {conditions.where} LIMIT :limit)",
        conditions.values | {"limit": limit},
    ).rowcount


def _delete_expired(db: Connection, now: float, limit: int) -> int:
    return db.execute(
        "DELETE FROM responses WHERE id IN"
        " (SELECT id FROM responses WHERE expires_at <= ? ORDER BY expires_at LIMIT ?)",
        (now, limit),
    ).rowcount


def _add_conversation(
    db: Connection, conversation: StoredConversation, items: Sequence[ConversationItem]
) -> None:
    db.execute(
        insert("conversations", ("id", "key_id", "created_at", "metadata")),
        (
            conversation.id,
            conversation.key_id,
            conversation.created_at,
            json_text(conversation.metadata),
        ),
    )
    _insert_items(db, conversation.id, items, after=0)


def _conversation(db: Connection, conversation_id: str, key_id: str) -> StoredConversation:
    row = db.execute(
        "SELECT created_at, metadata FROM conversations WHERE id = ? AND key_id = ?",
        (conversation_id, key_id),
    ).fetchone()
    if row is None:
        raise NotFoundError(f"there is no conversation {conversation_id!r}")
    return StoredConversation(
        id=conversation_id,
        key_id=key_id,
        created_at=row[0],
        metadata=msgspec.json.decode(row[1]),
    )


def _change_conversation(
    db: Connection, conversation_id: str, key_id: str, metadata: dict[str, Any]
) -> StoredConversation:
    db.execute(
        "UPDATE conversations SET metadata = ? WHERE id = ? AND key_id = ?",
        (json_text(metadata), conversation_id, key_id),
    )
    return _conversation(db, conversation_id, key_id)


def _delete_conversation(db: Connection, conversation_id: str, key_id: str) -> bool:
    done = db.execute(
        "DELETE FROM conversations WHERE id = ? AND key_id = ?", (conversation_id, key_id)
    )
    if not done.rowcount:
        return False
    db.execute("DELETE FROM conversation_items WHERE conversation = ?", (conversation_id,))
    return True


def _add_items(
    db: Connection, conversation_id: str, key_id: str, items: Sequence[ConversationItem]
) -> None:
    # A write, so that two who add at once follow one another.
    owned = db.execute(
        "UPDATE conversations SET created_at = created_at WHERE id = ? AND key_id = ?",
        (conversation_id, key_id),
    )
    if not owned.rowcount:
        raise NotFoundError(f"there is no conversation {conversation_id!r}")
    last, count, size = db.execute(
        "SELECT coalesce(max(position), 0), count(*), coalesce(sum(length(body)), 0)"
        " FROM conversation_items WHERE conversation = ?",
        (conversation_id,),
    ).fetchone()
    if size + sum(len(item.body) for item in items) > MAX_HISTORY_BYTES:
        raise _too_long(conversation_id, "conversation")
    if count + len(items) > MAX_CONVERSATION_ITEMS:
        raise RequestError(
            f"A conversation has at most {MAX_CONVERSATION_ITEMS} items.", param="items"
        )
    _insert_items(db, conversation_id, items, after=last)


def _insert_items(
    db: Connection, conversation_id: str, items: Sequence[ConversationItem], *, after: int
) -> None:
    taken = {
        row[0]
        for row in db.execute(
            f"SELECT id FROM conversation_items WHERE conversation = ? AND {db.any_of('id')}",
            (conversation_id, db.array([item.id for item in items])),
        )
    }
    rows = []
    for position, item in enumerate(items, after + 1):
        # Hosts may give the same id again, and clients send again what they got.
        added = item.renamed(f"{item.id[:100]}_{position}") if item.id in taken else item
        taken.add(added.id)
        rows.append((conversation_id, position, added.id, added.body))
    db.insert_rows("conversation_items", ("conversation", "position", "id", "body"), rows)


def _items(  # noqa: PLR0917 - as the method has them
    db: Connection,
    conversation_id: str,
    key_id: str,
    limit: int,
    after: str,
    newest_first: bool,
) -> list[ConversationItem]:
    _conversation(db, conversation_id, key_id)
    behind, order = ("<", "DESC") if newest_first else (">", "ASC")
    where, values = "conversation = ?", [conversation_id]
    if after:
        row = db.execute(
            "SELECT position FROM conversation_items WHERE conversation = ? AND id = ?",
            (conversation_id, after),
        ).fetchone()
        if row is None:
            raise NotFoundError(f"the conversation has no item {after!r}")
        where, values = f"{where} AND position {behind} ?", [*values, row[0]]
    rows = db.execute(
        f"SELECT id, body FROM conversation_items WHERE {where} ORDER BY position {order} LIMIT ?",
        (*values, limit),
    )
    return [ConversationItem(item_id, body) for item_id, body in rows]


def _item(db: Connection, conversation_id: str, key_id: str, item_id: str) -> ConversationItem:
    _conversation(db, conversation_id, key_id)
    row = db.execute(
        "SELECT id, body FROM conversation_items WHERE conversation = ? AND id = ?",
        (conversation_id, item_id),
    ).fetchone()
    if row is None:
        raise NotFoundError(f"there is no item {item_id!r}")
    return ConversationItem(*row)


def _delete_item(db: Connection, conversation_id: str, key_id: str, item_id: str) -> bool:
    _conversation(db, conversation_id, key_id)
    done = db.execute(
        "DELETE FROM conversation_items WHERE conversation = ? AND id = ?",
        (conversation_id, item_id),
    )
    return done.rowcount > 0


def _sealing_keys(db: Connection) -> list[SealingKey]:
    rows = db.execute("SELECT number, value, created_at FROM response_keys ORDER BY number")
    return [SealingKey(*row) for row in rows]


def _rotate(db: Connection, new: bytes, now: float, rotate_s: float) -> list[SealingKey]:
    keys = _sealing_keys(db)
    if not keys or keys[-1].created_at <= now - rotate_s:
        # Where another process was quicker, its key is the one.
        db.execute(
            "INSERT INTO response_keys (number, value, created_at) VALUES (?, ?, ?)"
            " ON CONFLICT (number) DO NOTHING",
            (keys[-1].number + 1 if keys else 1, new, now),
        )
        keys = _sealing_keys(db)
    return keys
