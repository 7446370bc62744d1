"""Forms that are sent twice and obeyed once: by a second click, or by a browser that repeats them.

    {{ form_id }}                      # in a hidden field of the form, new each time it is shown
    return await sent_forms.once(caller.key_id, fields, create)

Scripts keep a form from being sent again before its answer; a browser without scripts shows the
answer to what it has sent last, so that one has to be what came of the form.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any, NamedTuple

import msgspec
from litestar import Response
from litestar.di import NamedDependency

from providers.errors import ConflictError, StoreError
from router.store.leases import Lease, LeaseStore

FIELD = "form_id"
# So long a form counts as sent. A person who goes back and sends the same once more means it.
REMEMBERED_S = 60.0
# An answer may have 100 KB and a key's secret.
_MAX_REMEMBERED = 200

Answer = Response[Any]


class _Sent(NamedTuple):
    """A form that was sent.

    Attributes:
        answer: what comes of it.
        lease: tells other processes that it was sent.
        at: when, seconds of the monotonic clock.
    """

    answer: asyncio.Task[Answer]
    lease: Lease
    at: float


class SentForms:
    """What came of forms that were sent lately.

    Args:
        store: tells the processes of a server apart.
        owner: a name for this part of the process, which no other has.
        clock: tells the seconds of a monotonic clock.
    """

    def __init__(
        self, store: LeaseStore, owner: str, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._store = store
        self._owner = owner
        self._clock = clock
        self._sent: dict[str, _Sent] = {}

    async def once(
        self, key_id: str, fields: Mapping[str, Any], obey: Callable[[], Awaitable[Answer]]
    ) -> Answer:
        """Obey a form, or return what came of it where the same one was sent before.

        A form without an id is always obeyed, and so is one that was refused before.

        Args:
            key_id: of the sender.
            fields: the form's.
            obey: does what the form says.

        Raises:
            ConflictError: another process of the server has obeyed it.
            EvalrouterError: as `obey` does.
        """
        if not fields.get(FIELD):
            return await obey()
        await self._forget_old()
        text = msgspec.json.encode([key_id, fields], order="sorted")
        name = hashlib.sha256(text).hexdigest()
        sent = self._sent.get(name)
        if sent is None:
            lease = Lease(self._store, f"form {name}", self._owner, REMEMBERED_S)
            answer = asyncio.create_task(self._obeyed(name, lease, obey), name="evalrouter-form")
            # Whoever sent it may be gone before it has failed.
            answer.add_done_callback(lambda task: task.cancelled() or task.exception())
            sent = self._sent[name] = _Sent(answer, lease, self._clock())
        return await asyncio.shield(sent.answer)

    async def _obeyed(
        self, name: str, lease: Lease, obey: Callable[[], Awaitable[Answer]]
    ) -> Answer:
        is_done = False
        try:
            if not await lease.claim():
                raise ConflictError(
                    "This form was sent twice, and obeyed once: look at the list before you send "
                    "it again.",
                    code="sent_twice",
                )
            answer = await obey()
            is_done = (answer.status_code or 200) < 400
        finally:
            if not is_done:
                self._sent.pop(name, None)
                await _release(lease)
        return answer

    async def _forget_old(self) -> None:
        old = [name for name, sent in self._sent.items() if self._clock() - sent.at > REMEMBERED_S]
        old += list(self._sent)[: max(0, len(self._sent) - len(old) - _MAX_REMEMBERED)]
        for name in old:
            sent = self._sent.pop(name, None)
            if sent is not None:
                await _release(sent.lease)


InjectedSentForms = NamedDependency[SentForms]


def new_form_id() -> str:
    """Return an id for a form that is about to be shown."""
    return secrets.token_urlsafe(16)


async def _release(lease: Lease) -> None:
    # Where the database does not work, it ends by itself.
    with suppress(StoreError):
        await lease.release()
