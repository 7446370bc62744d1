"""Sends messages about alerts, until they arrive or are too old.

A receiver gets its messages one after the other, in their order, so that it never hears that an
alert is over before that it began. What cannot be reached, is too slow, or answers with 408, 425,
429 or from 500 on gets the message again, after a time that doubles. Any other answer is final:
redirects, which are never followed, because they would lead wherever the receiver likes. The status
decides: an answer's body may be long, slow or cut off.

Every attempt is written down before the next one. A process that is killed after a message has
arrived and before that is written sends it once more, under the same id.
"""

from __future__ import annotations

import asyncio
import random as random_module
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import aclosing
from urllib.parse import parse_qsl, urlsplit

import msgspec

from providers.errors import NotFoundError, UpstreamError, closest
from providers.http.transport import HttpLimits, HttpReply, Transport
from providers.masking import Masks
from router.config.alerts import AlertReceiver
from router.gateway.failures import retry_after
from router.loop.alert_messages import signature_headers
from router.store.alerts import AlertMessage, AlertStore

CONNECT_S = 5.0
# So much of an answer is read; the error that is stored has its beginning.
MAX_ANSWER_BYTES = 64 * 1024
FIRST_WAIT_S, MAX_WAIT_S = 5.0, 600.0
# What may succeed another time.
_LATER = frozenset({408, 425, 429})
# Messages to one receiver in one round.
AT_ONCE = 20
_MAX_ERROR = 300
# Shorter parts of an address are words that any text has.
SHORTEST_HIDDEN = 6


class AlertSender:
    """Sends messages to receivers.

    Args:
        receivers: by their names.
        store: has the messages.
        masks: the config's secrets, taken out of what receivers answer.
        clock: tells the seconds since the epoch.
        random: draws what is added to waits.

    Attributes:
        outcomes: how many messages came to which end, by receiver and state, for metrics; attempts
            that failed are there as `retried`.
    """

    def __init__(
        self,
        receivers: Mapping[str, AlertReceiver],
        store: AlertStore,
        masks: Masks,
        *,
        clock: Callable[[], float] = time.time,
        random: Callable[[], float] = random_module.random,
    ) -> None:
        self.outcomes: Counter[tuple[str, str]] = Counter()
        self._receivers = receivers
        self._store = store
        self._masks = masks
        self._clock = clock
        self._random = random
        # Of its own: providers' limits say nothing about receivers.
        self._transport = Transport(HttpLimits(max_header_bytes=16 * 1024))
        self._hidden = {name: _parts_of(receiver) for name, receiver in receivers.items()}
        self._headers = {
            name: {key: value.reveal() for key, value in receiver.headers.items()}
            for name, receiver in receivers.items()
        }

    async def open(self) -> None:
        """Make ready to send."""
        await self._transport.open()

    async def close(self) -> None:
        """Close every connection."""
        await self._transport.close()

    def receiver(self, name: str) -> AlertReceiver:
        """Return a receiver.

        Raises:
            NotFoundError: no such one.
        """
        if name not in self._receivers:
            raise NotFoundError(
                f"No receiver {name!r} is in the config.{closest(name, self._receivers)}"
            )
        return self._receivers[name]

    async def send_waiting(self) -> None:
        """Send what is due, to all receivers at a time.

        Raises:
            StoreError: the store cannot be read or written.
        """
        waiting = await self._store.waiting_receivers()
        for name in waiting:
            if name not in self._receivers:
                await self._store.drop_messages(
                    name, self._clock(), "the receiver is no longer in the config"
                )
        ends = await asyncio.gather(
            *(self._send_to(name) for name in waiting if name in self._receivers),
            return_exceptions=True,
        )
        for end in ends:
            if isinstance(end, BaseException):
                raise end

    async def _send_to(self, name: str) -> None:
        for message in await self._store.waiting_messages(name, AT_ONCE):
            wait = message.next_at - self._clock()
            # A time that is further away than any wait is of a clock that has been put back.
            if 0 < wait <= MAX_WAIT_S:
                return
            after = await self.attempt(message)
            await self._store.keep_message(after)
            if after.state == "waiting":
                return

    async def attempt(self, message: AlertMessage) -> AlertMessage:
        """Send a message once; return it as it is after that."""
        receiver = self._receivers[message.receiver]
        status, error, wait = await self._post(receiver, message)
        now = self._clock()
        after = msgspec.structs.replace(
            message, attempts=message.attempts + 1, status=status, error=error
        )
        if status is not None and 200 <= status < 300:
            self.outcomes[message.receiver, "delivered"] += 1
            return msgspec.structs.replace(after, state="delivered", ended_at=now)
        is_final = status is not None and status < 500 and status not in _LATER
        if is_final or now >= message.expires_at:
            self.outcomes[message.receiver, "failed"] += 1
            return msgspec.structs.replace(after, state="failed", ended_at=now)
        self.outcomes[message.receiver, "retried"] += 1
        if wait is None:
            longest = min(MAX_WAIT_S, FIRST_WAIT_S * 2 ** min(message.attempts, 20))
            wait = longest * (0.5 + 0.5 * self._random())
        return msgspec.structs.replace(after, next_at=now + min(wait, MAX_WAIT_S))

    async def _post(
        self, receiver: AlertReceiver, message: AlertMessage
    ) -> tuple[int | None, str, float | None]:
        """Send a message; return the status, what went wrong, and when it may be sent again."""
        body = message.body.encode()
        url = receiver.url.reveal()
        if receiver.kind == "alertmanager":
            url = url.rstrip("/") + "/api/v2/alerts"
        more = {"content-type": "application/json"}
        if receiver.kind == "webhook":
            more |= signature_headers(receiver, message.id, body, self._clock())
        reply: HttpReply | None = None
        answer = bytearray()
        try:
            async with asyncio.timeout(receiver.timeout_seconds):
                reply = await self._transport.request(
                    "POST",
                    url,
                    provider=message.receiver,
                    headers=self._headers[message.receiver],
                    body=body,
                    connect_timeout=min(CONNECT_S, receiver.timeout_seconds),
                    more=more,
                    any_status=True,
                )
                async with aclosing(reply.chunks()) as chunks:
                    async for chunk in chunks:
                        answer += chunk
                        if len(answer) >= MAX_ANSWER_BYTES:
                            break
        except TimeoutError:
            if reply is None:
                return None, f"no answer within {receiver.timeout_seconds:g} seconds", None
        except UpstreamError as error:
            if reply is None:
                return None, self._shown(error.message, message.receiver), None
        finally:
            if reply is not None:
                await reply.aclose()
        # It decides, whatever became of what came after it.
        status = reply.status
        if 200 <= status < 300:
            return status, "", None
        if 300 <= status < 400:
            return status, f"status {status}: redirects are not followed", None
        text = answer[:_MAX_ERROR].decode("utf-8", "replace")
        wait = retry_after(reply.headers, self._clock())
        return status, self._shown(f"status {status}: {text}", message.receiver), wait

    def _shown(self, text: str, receiver: str) -> str:
        """Return what a receiver answered, without secrets and what no terminal should get."""
        masked = self._masks.mask_text(text)
        for part in self._hidden[receiver]:
            masked = masked.replace(part, "***")
        return "".join(c if c.isprintable() else " " for c in masked)[:_MAX_ERROR].strip()


def _parts_of(receiver: AlertReceiver) -> tuple[str, ...]:
    """Return what of a receiver's address must not be shown: any part of it may be a token."""
    parts = urlsplit(receiver.url.reveal())
    values = [value for _, value in parse_qsl(parts.query)]
    pieces = {parts.path, parts.query, *parts.path.split("/"), *values}
    hidden = {piece for piece in pieces if len(piece) >= SHORTEST_HIDDEN}
    return tuple(sorted(hidden, key=len, reverse=True))
