"""What a request to `/v1/responses` continues, and what is stored of it for the next one.

    turn = await turns.begin(envelope, key_id)
    turn.envelope                   # what a target is sent: with the history, without our ids
    turn.sent_to(target, keeps=...) # once a target answers
    turn.rewrite(events)            # its bytes, with our ids for its own
    await turn.end(final)           # stores the response, before the client has its end

Hosts that keep responses (OpenAI, Azure) go on doing so: a follow-up goes to the host that has the
response it follows, under a sealed id. For all others the store has the responses, and a follow-up
is sent with its whole history. Conversations are always in the store.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from providers import wire
from providers.errors import ConflictError, NotFoundError, RequestError, StoreError
from providers.http import sse
from providers.off_loop import off_loop
from providers.translation.dialect import new_id
from router.openai.items import (
    Item,
    array_of,
    input_items,
    read_items,
    resolved,
    stored_items,
    to_send,
    with_ids,
)
from router.openai.response_ids import HostResponse, ResponseIds, is_stored_id
from router.records import Target
from router.store.responses import (
    ConversationItem,
    ResponseStatus,
    ResponseStore,
    StoredResponse,
)

log = logging.getLogger("evalrouter")

DAY_S = 86400.0
# Items of a whole history, those of the request included.
MAX_HISTORY_ITEMS = 20_000
# Bytes of a response and its input that the store takes.
MAX_STORED_BYTES = 32 * 2**20

_STATE = frozenset({"previous_response_id", "conversation"})
_NOTHING = frozenset({b"", b"null"})
_encode = msgspec.json.Encoder().encode


class _Identified(msgspec.Struct):
    id: str


class _Event(msgspec.Struct):
    type: str = ""
    response: msgspec.Raw = msgspec.Raw(b"")


class _Response(msgspec.Struct):
    id: str = ""
    status: Any = None
    output: msgspec.Raw = msgspec.Raw(b"[]")


_decode_reference = msgspec.json.Decoder(str | _Identified).decode
_decode_event = msgspec.json.Decoder(_Event).decode
_decode_response = msgspec.json.Decoder(_Response).decode


class RequestFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What a stored response has of its request.

    Attributes:
        key_id: the key, "" without one.
        record_id, request_id: of its record.
        route: its `model`.
        user: the client's identifier of its user, as it is stored.
    """

    key_id: str
    record_id: str
    request_id: str
    route: str
    user: str


class ResponseTurn:
    """One request: what it continues, and what becomes of its answer.

    Attributes:
        envelope: the fields that a target is sent.
        owner: the response of a host that it follows; None for none.
        is_stored: whether the answer can be continued.
    """

    def __init__(
        self,
        turns: Turns,
        facts: RequestFacts,
        envelope: dict[str, msgspec.Raw],
        *,
        items: Sequence[Item],
        is_stored: bool,
        owner: HostResponse | None = None,
        previous: str = "",
        conversation: str = "",
    ) -> None:
        self.envelope = envelope
        self.owner = owner
        self.is_stored = is_stored
        self._turns = turns
        self._facts = facts
        self._items = items
        self._previous = previous
        self._conversation = conversation
        self._target: Target | None = None
        self._keeps = False
        self._id = ""
        self._host_id = b""
        self._replaced: list[tuple[bytes, bytes]] = []

    @property
    def leaves_something(self) -> bool:
        """Whether the answer is stored anywhere, or added to a conversation."""
        return self.is_stored or self._conversation != ""

    def sent_to(self, target: Target, *, keeps: bool) -> None:
        """Note which target answers.

        Args:
            target: the target.
            keeps: whether its host keeps responses itself.
        """
        self._target, self._keeps = target, keeps
        self._replaced = []
        if self.owner is not None:
            self._replace("previous_response_id", self.owner.id, self._previous)
        elif self._previous:
            # The target was sent the history in its place.
            self._replace("previous_response_id", None, self._previous)
        if self._conversation:
            self._replace("conversation", None, {"id": self._conversation})

    def _replace(self, field: str, theirs: object, ours: object) -> None:
        """Have a field of the answer show our value where it has theirs."""
        name = _encode(field)
        for colon in (b":", b": "):
            self._replaced.append((name + colon + _encode(theirs), name + b":" + _encode(ours)))

    def rewrite(self, data: bytes) -> bytes:
        """Return bytes of the answer with our ids in the place of the host's.

        Args:
            data: complete events, or a whole answer.
        """
        if self.is_stored and not self._id:
            self._name(_first_id(data))
        for theirs, ours in self._replaced:
            if theirs in data:
                data = data.replace(theirs, ours)
        if self._previous and self._id and b'"previous_response_id"' not in data:
            # Some hosts leave out what they do not have.
            name = b'"id":' + _encode(self._id)
            data = data.replace(name, name + b',"previous_response_id":' + _encode(self._previous))
        return data

    def _name(self, host_id: str) -> None:
        """Give the response its id, once the host's is known."""
        assert self._target is not None, "a target answers"
        if not host_id:
            return
        if self._keeps:
            target = self._target
            sealed = HostResponse(target.provider, target.model, self._facts.key_id, host_id)
            self._id = self._turns.ids.seal(sealed)
        else:
            self._id = new_id("resp")
        # Within a text, the quotes would have backslashes.
        self._replace("id", host_id, self._id)

    async def whole(self, body: bytes) -> bytes:
        """Return a whole answer with our ids, once the response is stored."""
        rewritten = await off_loop(len(body), self.rewrite, body)
        await self.end(rewritten)
        return rewritten

    async def end(self, data: bytes) -> None:
        """Store the response, if that is wanted and its host does not.

        A response that cannot be stored is logged; what follows it is refused then. A conversation
        would lack it silently, so that is an error.

        Args:
            data: the answer's last events or the whole answer, rewritten.

        Raises:
            RequestError: it does not fit into its conversation, or cannot be read.
            StoreError: it cannot be added to its conversation.
        """
        if not (self._conversation or (self.is_stored and not self._keeps)):
            return
        response = _final(data)
        if response is None:
            return
        try:
            await self._store(response)
        except (RequestError, StoreError) as error:
            if self._conversation:
                raise
            log.warning("the response %s cannot be continued: %s", self._id, error)
        except msgspec.MsgspecError as error:
            if self._conversation:
                raise RequestError(f"The response cannot be read: {error}") from error
            log.warning("the response %s cannot be continued: %s", self._id, error)

    def _added(self, response: bytes) -> tuple[ResponseStatus, list[ConversationItem]]:
        """Return how a response ended, and what the conversation, if any, gets of it.

        Raises:
            RequestError: its output is no list of items.
        """
        parsed = _decode_response(response)
        status = _status(parsed.status)
        outputs = [] if status == "failed" else with_ids(read_items(parsed.output, "output"))
        if not self._conversation or not outputs:
            return status, []
        return status, stored_items([*self._items, *outputs])

    async def _store(self, response: bytes) -> None:
        status, added = await off_loop(len(response), self._added, response)
        store, facts = self._turns.store, self._facts
        if not self.is_stored or self._keeps:
            await store.add_conversation_items(self._conversation, facts.key_id, added)
            return
        sent, now = array_of(self._items), self._turns.now()
        if len(sent) + len(response) > MAX_STORED_BYTES:
            raise StoreError(f"it has over {MAX_STORED_BYTES} bytes")
        row = StoredResponse(
            id=self._id,
            key_id=facts.key_id,
            record_id=facts.record_id,
            request_id=facts.request_id,
            route=facts.route,
            target="" if self._target is None else str(self._target),
            user_id=facts.user,
            created_at=now,
            expires_at=now + self._turns.days * DAY_S,
            status=status,
            previous=self._previous,
            conversation=self._conversation,
            input=sent,
            response=response,
        )
        await store.end_response(row, added)


def _status(value: object) -> ResponseStatus:
    if value == "incomplete":
        return "incomplete"
    return "failed" if value == "failed" else "completed"


def _first_id(data: bytes) -> str:
    """Return the id of the response that an answer, or its first event, is about; "" for none."""
    for candidate in _responses(data):
        try:
            return _decode_response(candidate).id
        except msgspec.MsgspecError:
            continue
    return ""


def _final(data: bytes) -> bytes | None:
    """Return the response that a whole answer is, or that the last event has."""
    responses = _responses(data)
    return responses[-1] if responses else None


def _responses(data: bytes) -> list[bytes]:
    if data.startswith(b"{"):
        return [data]
    responses = []
    for event in sse.Parser(limit=len(data) + 2).feed(data):
        try:
            response = bytes(_decode_event(event.data).response)
        except msgspec.MsgspecError:
            continue
        if response.startswith(b"{"):
            responses.append(response)
    return responses


class Turns:
    """Begins turns: finds what they continue.

    Args:
        store: has responses and conversations.
        ids: seals and unseals ids of hosts' responses.
        days: how long a response can be continued; 0 stores none.
        clock: returns seconds since the epoch.
    """

    def __init__(
        self,
        store: ResponseStore,
        ids: ResponseIds,
        *,
        days: float,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.store = store
        self.ids = ids
        self.days = days
        self.now = clock

    async def begin(self, envelope: dict[str, msgspec.Raw], facts: RequestFacts) -> ResponseTurn:
        """Return the turn of a request, with what it continues.

        Raises:
            RequestError: a field of the state has the wrong type, or two contradict each other.
            NotFoundError: what it continues does not exist, or belongs to another key.
            StoreError: it cannot be read.
        """
        previous = _reference(envelope, "previous_response_id")
        conversation = _reference(envelope, "conversation")
        if previous and conversation:
            raise RequestError(
                "`previous_response_id` and `conversation` cannot be used together.",
                param="previous_response_id",
                code="mutually_exclusive_parameters",
            )
        if not _is_flag(envelope, "store"):
            raise RequestError("`store` must be true or false.", param="store")
        stored = wire.is_stored(envelope)
        if previous and not is_stored_id(previous):
            return await self._at_host(envelope, facts, previous, is_stored=stored)
        stored = stored and await self._can_store()
        before: list[bytes] = []
        if previous:
            before = await self._turns_before(previous, facts)
        elif conversation:
            before = await self._items_of(conversation, facts)
        size = len(envelope.get("input", b"")) + sum(map(len, before))
        items, sent = await off_loop(size, _composed, envelope, before)
        return ResponseTurn(
            self,
            facts,
            sent,
            items=items,
            is_stored=stored and self.days > 0,
            previous=previous,
            conversation=conversation,
        )

    async def _can_store(self) -> bool:
        """Return whether the response can get an id of ours; the log says why not."""
        try:
            await self.ids.ready()
        except StoreError as error:
            # Models are answered without the database, too.
            log.warning("responses cannot be followed at present: %s", error)
            return False
        return True

    async def _at_host(
        self,
        envelope: dict[str, msgspec.Raw],
        facts: RequestFacts,
        previous: str,
        *,
        is_stored: bool,
    ) -> ResponseTurn:
        owner = await self.ids.unseal(previous)
        if owner is None or owner.key_id != facts.key_id:
            raise no_response(previous)
        sent = dict(envelope) | {"previous_response_id": msgspec.Raw(_encode(owner.id))}
        return ResponseTurn(
            self, facts, sent, items=[], is_stored=is_stored, owner=owner, previous=previous
        )

    async def _turns_before(self, previous: str, facts: RequestFacts) -> list[bytes]:
        """Return arrays of items: what was sent and answered in each response, in turn."""
        try:
            turns = await self.store.response_turns(previous, facts.key_id, self.now())
        except NotFoundError:
            raise no_response(previous) from None
        for turn in turns:
            if turn.status in ("queued", "in_progress"):
                raise ConflictError(
                    f"The response {turn.id!r} is not complete yet.", param="previous_response_id"
                )
        return [items for turn in turns for items in (turn.input, _output_of(turn))]

    async def _items_of(self, conversation: str, facts: RequestFacts) -> list[bytes]:
        """Return arrays of items: one for each of the conversation's."""
        try:
            items = await self.store.conversation_items(
                conversation, facts.key_id, limit=MAX_HISTORY_ITEMS
            )
        except NotFoundError:
            raise NotFoundError(
                f"Conversation with id '{conversation}' not found.", param="conversation"
            ) from None
        return [b"[%b]" % item.body for item in items]


def _composed(
    envelope: dict[str, msgspec.Raw], before: Sequence[bytes]
) -> tuple[list[Item], dict[str, msgspec.Raw]]:
    """Return a request's own items, and what a target is sent: with what was said before.

    Raises:
        RequestError: `input` is no list of items, or there are too many.
    """
    new = input_items(envelope.get("input"))
    history: list[Item] = []
    for items in before:
        history += read_items(msgspec.Raw(items), "input", limit=MAX_HISTORY_ITEMS)
    if len(history) + len(new) > MAX_HISTORY_ITEMS:
        raise RequestError(
            f"The history has {len(history)} items; with these, over {MAX_HISTORY_ITEMS}.",
            param="input",
        )
    own_items = with_ids(resolved(new, history))
    if _STATE.isdisjoint(envelope):
        return own_items, envelope
    sent = {name: value for name, value in envelope.items() if name not in _STATE}
    if before:
        sent["input"] = to_send([*history, *own_items])
    return own_items, sent


def items_of_turns(turns: Sequence[StoredResponse]) -> list[Item]:
    """Return what was said in responses, in its order, each item with an id."""
    items: list[Item] = []
    for turn in turns:
        items += read_items(msgspec.Raw(turn.input), "input", limit=MAX_HISTORY_ITEMS)
        items += outputs_of(turn)
    return items


def outputs_of(turn: StoredResponse) -> list[Item]:
    """Return a response's output, each item with an id; nothing of one that failed."""
    output = msgspec.Raw(_output_of(turn))
    return with_ids(read_items(output, "output", limit=MAX_HISTORY_ITEMS))


def _output_of(turn: StoredResponse) -> bytes:
    return b"[]" if turn.status == "failed" else bytes(_decode_response(turn.response).output)


def no_response(response_id: str) -> NotFoundError:
    """Return the error of a response that a key does not have."""
    return NotFoundError(
        f"Previous response with id '{response_id}' not found.",
        param="previous_response_id",
        code="previous_response_not_found",
    )


def owner_gone(owner: HostResponse, route: str) -> ConflictError:
    """Return the error of a response whose host is not where it was."""
    return ConflictError(
        "The response that this one follows is kept by the host of "
        f"{owner.provider}/{owner.model}, which is no target of {route!r} that keeps responses. "
        "Send the conversation's items as `input` instead.",
        param="previous_response_id",
        code="response_owner_gone",
    )


def _reference(envelope: dict[str, msgspec.Raw], field: str) -> str:
    """Return the id that a field has, as a text or an object with an `id`; "" for none."""
    value = bytes(envelope.get(field, b""))
    if value in _NOTHING:
        return ""
    try:
        reference = _decode_reference(value)
    except (msgspec.MsgspecError, RecursionError):
        reference = ""
    name = reference if isinstance(reference, str) else reference.id
    if not name:
        raise RequestError(f"`{field}` must be an id.", param=field)
    return name


def _is_flag(envelope: dict[str, msgspec.Raw], field: str) -> bool:
    return bytes(envelope.get(field, b"null")) in (b"true", b"false", b"null")
